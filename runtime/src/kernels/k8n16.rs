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
//! Convolutions with groups have a form of their own where it fits ([`Grouped`]): a block of 16 channels takes 64 bytes for
//! each window place and four inputs of the channels' own groups. So do depthwise 3x3 ones ([`Depthwise`]): 64 bytes for each
//! window column. Any other groups are cut into *parts* ([`Parts`]): as few neighbouring groups as fill whole steps, which become one
//! ordinary convolution with zeros where a weight would join different groups. Parts follow one after the other, in the
//! weights and in the parameters. A group of 8 or more channels (in multiples of 8) wastes nothing.
//!
//! Biases are folded for activations moved to unsigned bytes (`q + 128`), which is what `vpdpbusd` multiplies.

mod depthwise;
// Elsewhere they only say how large x86's artifacts are; firmware does not even ask.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) mod ring;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) mod scratch;
pub mod winograd;

pub use depthwise::Depthwise;

use super::packing;
use crate::op::{ConvShape, Layout};

/// Bytes of a step of activations.
pub const STEP: usize = 8;
/// Channels of a block.
pub const BLOCK: usize = 16;
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

/// The form of 3x3 convolutions whose groups are some fours of channels, too few to fill blocks.
///
/// Blocks of 16 output channels follow each other. Each goes through the window rows, for each of them through the fours of
/// a group's inputs, and for each of those through the window columns: 16 channels × 4 inputs, 64 bytes. Which four inputs a
/// channel means depends on its group; kernels pick them from the pixel lane by lane, and no weight is zero but those of
/// channels that do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouped {
    /// Fours of inputs of a group.
    pub quads: usize,
    /// Blocks of 16 output channels.
    pub blocks: usize,
    group_out: usize,
}

impl Grouped {
    /// Bytes of weights of 16 channels for one place and four inputs.
    pub const STEP: usize = 64;
    /// Window height and width.
    pub const KERNEL: usize = 3;
    /// Most bytes of a pixel that eight neighbouring channels may need, counted from their first group's on: what eight
    /// lanes can pick from.
    const REACH: usize = 32;

    /// The form of `shape`, if it is one for it.
    #[inline]
    pub fn of(shape: &ConvShape) -> Option<Self> {
        if shape.groups <= 1 { None } else { Self::of_groups(shape) }
    }

    fn of_groups(shape: &ConvShape) -> Option<Self> {
        let (inputs, group_out) = (shape.group_in(), shape.group_out());
        let fits = usize::from(shape.kernel) == Self::KERNEL
            && (1..=2).contains(&shape.stride)
            && shape.in_c.is_multiple_of(STEP as u16)
            && (1..=Self::REACH / 4).contains(&(inputs / 4))
            && inputs.is_multiple_of(4)
            && group_out > 0;
        let form = Grouped { quads: inputs / 4, blocks: usize::from(shape.out_c).div_ceil(16), group_out };
        // Groups that fill blocks take none of the form's advantages.
        let full = group_out.is_multiple_of(16) && inputs.is_multiple_of(STEP);
        (fits && !full && form.reach(8) <= Self::REACH && form.reach(16) <= 2 * Self::REACH).then_some(form)
    }

    /// Most bytes from the first group's inputs on that `lanes` channels from a multiple of `lanes` on need.
    fn reach(&self, lanes: usize) -> usize {
        let channels = self.blocks * 16;
        let groups = |first: usize| (first + lanes - 1) / self.group_out - first / self.group_out + 1;
        (0..channels).step_by(lanes).map(groups).max().unwrap_or(0) * 4 * self.quads
    }

    /// The fours of a group's inputs before channel `c`'s group, of all groups.
    pub fn quad(&self, c: usize) -> usize {
        c / self.group_out * self.quads
    }

    /// Bytes of a block's weights for one window row.
    pub fn row_len(&self) -> usize {
        self.quads * Self::KERNEL * Self::STEP
    }

    /// Bytes of the packed weights.
    pub fn weights_len(&self) -> usize {
        self.blocks * Self::KERNEL * self.row_len()
    }

    /// Offset of the weight of output channel `c` at a window place for input `i` of its group.
    pub fn weight_at(&self, c: usize, (row, column): (usize, usize), i: usize) -> usize {
        let block = (c / 16 * Self::KERNEL + row) * self.row_len();
        block + (i / 4 * Self::KERNEL + column) * Self::STEP + c % 16 * 4 + i % 4
    }

    fn places(&self, shape: &ConvShape, mut visit: impl FnMut(usize, usize)) {
        let (inputs, taps) = (shape.group_in(), shape.taps());
        for n in 0..usize::from(shape.out_c) * taps {
            let (place, i) = (n % taps / inputs, n % inputs);
            visit(n, self.weight_at(n / taps, (place / Self::KERNEL, place % Self::KERNEL), i));
        }
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
    if let Some(form) = Grouped::of(shape) {
        return 16 * form.blocks;
    }
    if let Some(form) = Depthwise::of(shape) {
        return 16 * form.blocks;
    }
    let parts = Parts::of(shape);
    parts.count * Blocks::of(parts.shape.out_c).channels()
}

/// Where the parameters of output channel `c` are.
pub fn param_at(shape: &ConvShape, c: usize) -> usize {
    if Grouped::of(shape).is_some() || Depthwise::of(shape).is_some() {
        return c;
    }
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
    if let Some(form) = Grouped::of(shape) {
        return form.weights_len();
    }
    if let Some(form) = Depthwise::of(shape) {
        return form.weights_len();
    }
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

/// Step of a window row, and byte in it, of the weight at a window column for input `channel`: what [`tap`] undoes.
pub fn step_of(shape: &ConvShape, column: usize, channel: usize) -> (usize, usize) {
    let channels = usize::from(shape.in_c);
    if window_rows(shape) {
        let at = column * channels + channel;
        (at / STEP, at % STEP)
    } else {
        (column * channels.div_ceil(STEP) + channel / STEP, channel % STEP)
    }
}

/// Calls `visit` for every weight of a layer, with groups or without, with its number in OHWI order and its offset.
pub fn places(shape: &ConvShape, mut visit: impl FnMut(usize, usize)) {
    if let Some(form) = Grouped::of(shape) {
        return form.places(shape, visit);
    }
    if let Some(form) = Depthwise::of(shape) {
        return form.places(shape, visit);
    }
    let part = Parts::of(shape).shape;
    let (part_len, part_out, row_steps) = (part_weights_len(&part), usize::from(part.out_c.max(1)), row_steps(&part));
    let (kernel, inputs) = (usize::from(shape.kernel), shape.group_in());
    for c in 0..usize::from(shape.out_c) {
        // The group's first input channel within its part.
        let first = c / shape.group_out() * inputs % usize::from(part.in_c);
        for (place, i) in (0..kernel * kernel).flat_map(|place| (0..inputs).map(move |i| (place, i))) {
            let (s, k) = step_of(&part, place % kernel, first + i);
            let at = weight_at(&part, c % part_out, place / kernel * row_steps + s, k);
            visit(c * shape.taps() + place * inputs + i, c / part_out * part_len + at);
        }
    }
}

/// Packs OHWI weights, with groups or without, into `out` (of [`weights_len`] bytes); padding becomes zero.
pub fn pack(shape: &ConvShape, ohwi: &[i8], out: &mut [u8]) {
    packing::pack(shape, Layout::K8N16, ohwi, out);
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
        let shape = ConvShape { in_h: 1, in_w: 1, in_c: 16, out_c: 32, kernel: 3, stride: 3, padding: 1, groups: 4 };
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

    #[test]
    fn groups_of_fours_have_a_form_of_their_own() {
        let form = |channels, groups| {
            let (in_c, out_c) = (channels, channels);
            Grouped::of(&ConvShape { in_h: 1, in_w: 1, in_c, out_c, kernel: 3, stride: 1, padding: 1, groups })
                .map(|form| (form.quads, form.blocks))
        };
        assert_eq!(form(128, 32), Some((1, 8)));
        assert_eq!(form(256, 32), Some((2, 16)));
        assert_eq!(form(384, 32), Some((3, 24)));
        assert_eq!(form(768, 32), Some((6, 48)));
        assert_eq!(form(512, 32), None, "groups that fill blocks");
        assert_eq!(form(640, 32), None, "eight channels would need 40 bytes");
        assert_eq!(form(128, 128), None, "depthwise");
        assert_eq!(form(128, 1), None);
    }

    /// Every weight has a place of its own.
    #[test]
    fn the_form_of_groups_keeps_every_weight() {
        let shape = ConvShape { in_h: 1, in_w: 1, in_c: 48, out_c: 24, kernel: 3, stride: 1, padding: 1, groups: 4 };
        let form = Grouped::of(&shape).unwrap();
        let mut seen = vec![false; weights_len(&shape)];
        for (c, place, i) in (0..24).flat_map(|c| (0..9).flat_map(move |p| (0..12).map(move |i| (c, p, i)))) {
            let at = form.weight_at(c, (place / 3, place % 3), i);
            assert!(!core::mem::replace(&mut seen[at], true), "{c} {place} {i}");
        }
    }
}
