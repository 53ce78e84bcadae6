//! The weight layout `k8n16`: 8 inputs by 16 output channels.
//!
//! The taps of one output pixel are cut into *steps* of eight activation bytes that lie together in memory: eight
//! channels of one window column, or, for images with fewer than eight channels, eight consecutive bytes of a window
//! row. Weights follow step by step:
//!
//! * a block of 16 channels takes 128 bytes a step: 16 channels × inputs 0..4, then 16 channels × inputs 4..8, so that
//!   one 4-byte broadcast feeds one 16-lane dot product;
//! * a last block of up to 8 channels takes 64 bytes a step, 8 channels × 8 inputs: one 8-byte broadcast feeds it, and
//!   even and odd lanes are added at the end. Layers of 24 channels waste nothing that way.
//!
//! Groups of channels are cut into *parts* ([`Parts`]): as few neighbouring groups as fill whole steps, which become one
//! ordinary convolution with zeros where a weight would join different groups. Parts follow one after the other, in the
//! weights and in the parameters. A group of 8 or more channels (in multiples of 8) wastes nothing.
//!
//! Biases are folded for activations moved to unsigned bytes (`q + 128`), which is what `vpdpbusd` multiplies.

use crate::op::ConvShape;

/// Bytes of a step of activations.
pub const STEP: usize = 8;
/// Bytes of a step of weights of a block of 16 channels.
pub const BLOCK_STEP: usize = 128;
/// Bytes of a step of weights of a block of 8 channels.
pub const TAIL_STEP: usize = 64;

/// How output channels are cut into blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Blocks of 16 channels (the last one may be padded).
    pub full: usize,
    /// Whether a block of 8 channels follows.
    pub tail: bool,
}

impl Blocks {
    /// Blocks of `out_c` channels.
    pub fn of(out_c: u16) -> Self {
        let (full, rest) = (usize::from(out_c) / 16, usize::from(out_c) % 16);
        Blocks { full: full + usize::from(rest > 8), tail: (1..=8).contains(&rest) }
    }

    /// Channels, padding included.
    pub fn channels(self) -> usize {
        16 * self.full + if self.tail { 8 } else { 0 }
    }
}

/// How a convolution is cut along its channels; an ordinary one is a single part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Number of parts.
    pub count: usize,
    /// One of them: a convolution without groups. Part `p` reads input channels from `p * in_c` on and writes output
    /// channels from `p * out_c` on.
    pub shape: ConvShape,
}

impl Parts {
    /// Parts of `shape`, whose groups divide its channels.
    #[inline]
    pub fn of(shape: &ConvShape) -> Self {
        if shape.groups <= 1 { Parts { count: 1, shape: *shape } } else { Self::of_groups(shape, shape.groups) }
    }

    fn of_groups(shape: &ConvShape, groups: u16) -> Self {
        let fills = |merged: &u16| {
            groups.is_multiple_of(*merged) && (shape.group_in() * usize::from(*merged)).is_multiple_of(STEP)
        };
        // Where nothing fills whole steps, all groups are one part.
        let merged = (1..=groups.min(8)).find(fills).unwrap_or(groups);
        // At least one of both, as it stands; saying so keeps the panic of a division by zero out of firmware.
        let count = (groups / merged.max(1)).max(1);
        let part = ConvShape { in_c: shape.in_c / count, out_c: shape.out_c / count, groups: 1, ..*shape };
        Parts { count: usize::from(count), shape: part }
    }
}

/// Channels of the parameter arrays, padding included.
pub fn padded_channels(shape: &ConvShape) -> usize {
    let parts = Parts::of(shape);
    parts.count * Blocks::of(parts.shape.out_c).channels()
}

/// Where the parameters of output channel `c` are.
pub fn param_at(shape: &ConvShape, c: usize) -> usize {
    let part = Parts::of(shape).shape;
    let channels = usize::from(part.out_c.max(1));
    c / channels * Blocks::of(part.out_c).channels() + c % channels
}

/// Whether steps are cut from whole window rows because the pixels are too small. Here and below, `shape` has no groups.
pub fn window_rows(shape: &ConvShape) -> bool {
    usize::from(shape.in_c) < STEP
}

/// Steps of one window row.
pub fn row_steps(shape: &ConvShape) -> usize {
    let (kernel, channels) = (usize::from(shape.kernel), usize::from(shape.in_c));
    if window_rows(shape) { (kernel * channels).div_ceil(STEP) } else { kernel * channels.div_ceil(STEP) }
}

/// Steps of a window row of whose eight inputs at most the first four exist: the last one of a row of small pixels, or
/// none.
pub fn half_steps(shape: &ConvShape) -> usize {
    let beyond = usize::from(shape.kernel) * usize::from(shape.in_c) % STEP;
    usize::from(window_rows(shape) && (1..=STEP / 2).contains(&beyond))
}

/// Steps of one output pixel.
pub fn steps(shape: &ConvShape) -> usize {
    usize::from(shape.kernel) * row_steps(shape)
}

/// Bytes of a layer's packed weights, with groups or without.
pub fn weights_len(shape: &ConvShape) -> usize {
    let parts = Parts::of(shape);
    parts.count * part_weights_len(&parts.shape)
}

/// Bytes of the packed weights of a convolution without groups.
pub fn part_weights_len(shape: &ConvShape) -> usize {
    let blocks = Blocks::of(shape.out_c);
    steps(shape) * (blocks.full * BLOCK_STEP + if blocks.tail { TAIL_STEP } else { 0 })
}

/// Window column and channel of byte `k` of step `s` of a window row; `None` for padding.
pub fn tap(shape: &ConvShape, s: usize, k: usize) -> Option<(usize, usize)> {
    let (kernel, channels) = (usize::from(shape.kernel), usize::from(shape.in_c));
    let (column, channel) = if window_rows(shape) {
        let at = s * STEP + k;
        (at / channels, at % channels)
    } else {
        let groups = channels.div_ceil(STEP);
        (s / groups, s % groups * STEP + k)
    };
    (column < kernel && channel < channels).then_some((column, channel))
}

/// Offset of the weight of output channel `c`, step `s` of the whole window, byte `k`.
pub fn weight_at(shape: &ConvShape, c: usize, s: usize, k: usize) -> usize {
    let steps = steps(shape);
    let blocks = Blocks::of(shape.out_c);
    let block = c / 16;
    if block < blocks.full {
        (block * steps + s) * BLOCK_STEP + k / 4 * 64 + c % 16 * 4 + k % 4
    } else {
        blocks.full * steps * BLOCK_STEP + s * TAIL_STEP + (c - 16 * blocks.full) * 8 + k
    }
}

/// Packs OHWI weights, with groups or without, into `out` (of [`weights_len`] bytes); padding becomes zero.
pub fn pack(shape: &ConvShape, ohwi: &[i8], out: &mut [u8]) {
    out.fill(0);
    let part = Parts::of(shape).shape;
    let (part_len, part_out) = (part_weights_len(&part), usize::from(part.out_c.max(1)));
    for (c, taps) in ohwi.chunks_exact(shape.taps().max(1)).take(usize::from(shape.out_c)).enumerate() {
        // The group's first input channel within its part.
        let first = c / shape.group_out() * shape.group_in() % usize::from(part.in_c);
        pack_channel(&part, c % part_out, (taps, first), &mut out[c / part_out * part_len..][..part_len]);
    }
}

/// Packs the weights of output channel `c` of a part, which begin at input channel `first`.
fn pack_channel(part: &ConvShape, c: usize, (taps, first): (&[i8], usize), out: &mut [u8]) {
    let (kernel, row_steps) = (usize::from(part.kernel), row_steps(part));
    let inputs = taps.len() / (kernel * kernel);
    for row in 0..kernel {
        for s in 0..row_steps {
            for k in 0..STEP {
                let Some((column, channel)) = tap(part, s, k) else { continue };
                if let Some(i) = channel.checked_sub(first).filter(|&i| i < inputs) {
                    let w = taps[(row * kernel + column) * inputs + i];
                    out[weight_at(part, c, row * row_steps + s, k)] = w as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fill_whole_steps() {
        let parts = |in_c, out_c, groups| {
            let shape = ConvShape { in_h: 1, in_w: 1, in_c, out_c, kernel: 3, stride: 1, padding: 1, groups };
            let Parts { count, shape } = Parts::of(&shape);
            (count, shape.in_c, shape.out_c)
        };
        assert_eq!(parts(64, 100, 1), (1, 64, 100));
        assert_eq!(parts(3, 6, 1), (1, 3, 6));
        assert_eq!(parts(128, 128, 32), (16, 8, 8));
        assert_eq!(parts(256, 256, 32), (32, 8, 8));
        assert_eq!(parts(384, 384, 32), (16, 24, 24));
        assert_eq!(parts(768, 384, 32), (32, 24, 12));
        assert_eq!(parts(40, 40, 40), (5, 8, 8));
        assert_eq!(parts(9, 18, 3), (1, 9, 18));
        assert_eq!(parts(12, 6, 3), (1, 12, 6));
    }

    /// Every weight has a place of its own, and it is where kernels look for it.
    #[test]
    fn groups_are_block_diagonal() {
        let shape = ConvShape { in_h: 1, in_w: 1, in_c: 16, out_c: 32, kernel: 3, stride: 1, padding: 1, groups: 4 };
        let part = Parts::of(&shape).shape;
        let weights: Vec<i8> = (0..32 * shape.taps()).map(|i| (i % 127 + 1) as i8).collect();
        let mut packed = vec![0; weights_len(&shape)];
        pack(&shape, &weights, &mut packed);
        for c in 0..32 {
            let section = &packed[c / 16 * part_weights_len(&part)..];
            for (tap_at, i) in (0..9).flat_map(|t| (0..8).map(move |i| (t, i))) {
                let at = weight_at(&part, c % 16, tap_at, i);
                let own = (c / 8 % 2 * 4..).take(4).position(|own| own == i);
                let want = own.map_or(0, |i| weights[c * shape.taps() + tap_at * 4 + i]);
                assert_eq!(section[at] as i8, want, "{c} {tap_at} {i}");
            }
        }
    }
}
