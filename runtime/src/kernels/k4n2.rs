//! The weight layout `k4n2`: 4 taps by 2 output channels.
//!
//! Taps are the bytes of a window in OHWI order (row, column, channel), cut into *steps* of four. A pair of channels takes
//! eight bytes a step, four taps of the one and four of the other, so that one doubleword load brings both. Cores with the
//! DSP extension spread a word to halfwords with `sxtb16` (bytes 0 and 2) and `sxtb16 …, ror #8` (bytes 1 and 3); as
//! activations are spread in the same way, products meet their partners and no word needs to be put in order.
//!
//! Windows are padded with zero weights to a multiple of [`TAPS`], because inner loops take two steps at a time, and an
//! odd last channel gets a partner of zeros. Biases are folded for signed activations.

use super::packing;
use crate::op::{ConvShape, Layout};

/// Taps of a step.
pub const STEP: usize = 4;
/// Windows are padded to a multiple of this.
pub const TAPS: usize = 8;
/// Pixels that kernels compute at a time.
pub const PIXELS: usize = 3;

/// Taps of a window, padding included.
pub fn padded_taps(shape: &ConvShape) -> usize {
    shape.taps().next_multiple_of(TAPS)
}

/// Output channels, padding included.
pub fn padded_channels(out_c: u16) -> usize {
    usize::from(out_c).next_multiple_of(2)
}

/// Bytes of a layer's packed weights.
pub fn weights_len(shape: &ConvShape) -> usize {
    padded_channels(shape.out_c) * padded_taps(shape)
}

/// Scratch bytes of a layer: the windows of [`PIXELS`] pixels as halfwords, one window as bytes, and what aligning them
/// to words takes.
pub fn scratch_len(shape: &ConvShape) -> usize {
    (2 * PIXELS + 1) * padded_taps(shape) + 3
}

/// Offset of the weight of output channel `c` for byte `tap` of the window.
pub fn weight_at(shape: &ConvShape, c: usize, tap: usize) -> usize {
    c / 2 * 2 * padded_taps(shape) + tap / STEP * (2 * STEP) + c % 2 * STEP + tap % STEP
}

/// Calls `visit` for every weight with its number in OHWI order and its offset.
pub fn places(shape: &ConvShape, mut visit: impl FnMut(usize, usize)) {
    let taps = shape.taps();
    for c in 0..usize::from(shape.out_c) {
        (0..taps).for_each(|tap| visit(c * taps + tap, weight_at(shape, c, tap)));
    }
}

/// Packs OHWI weights into `out` (of [`weights_len`] bytes); padding becomes zero.
pub fn pack(shape: &ConvShape, ohwi: &[i8], out: &mut [u8]) {
    packing::pack(shape, Layout::K4N2, ohwi, out);
}
