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

/// Whether steps are cut from whole window rows because the pixels are too small.
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

/// Bytes of a layer's packed weights.
pub fn weights_len(shape: &ConvShape) -> usize {
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

/// Packs OHWI weights into `out` (of [`weights_len`] bytes); padding becomes zero.
pub fn pack(shape: &ConvShape, ohwi: &[i8], out: &mut [u8]) {
    out.fill(0);
    let (kernel, channels) = (usize::from(shape.kernel), usize::from(shape.in_c));
    let row_steps = row_steps(shape);
    for (c, taps) in ohwi.chunks_exact(shape.taps().max(1)).take(usize::from(shape.out_c)).enumerate() {
        for row in 0..kernel {
            for s in 0..row_steps {
                for k in 0..STEP {
                    if let Some((column, channel)) = tap(shape, s, k) {
                        let w = taps[(row * kernel + column) * channels + channel];
                        out[weight_at(shape, c, row * row_steps + s, k)] = w as u8;
                    }
                }
            }
        }
    }
}
