//! Cortex-M4, M7 and M33: pairs of 16-bit products (`smlad`) over the layout `k4n2`.
//!
//! Three output pixels' windows are spread to halfwords in scratch memory; weights stay bytes in flash and are spread in
//! registers, two channels at a time. Residuals with 16 bits are multiplied by the same loop and finished by plain code.

mod asm;
mod conv;
mod dense;
mod pool;
mod shortcut;

use crate::kernels::{Backend, ConvKernel, Isa, k4n2, scalar};
use crate::op::Layout;

/// The DSP extension.
pub const BACKEND: Backend = Backend {
    isa: Isa::Dsp,
    layout: Layout::K4N2,
    conv: ConvKernel {
        name: "qs8_conv_3x2_k4n2_dsp",
        tile: (k4n2::PIXELS, 2),
        scratch_len: k4n2::scratch_len,
        splits: false,
        channel_step: 0,
        run: conv::run,
    },
    pays: || true,
    shortcut: shortcut::run,
    max_pool: scalar::max_pool::run,
    pool: pool::run,
    dense: dense::run,
};

/// A requantization whose right shift is at least 33, so that the high half of the product is enough.
#[derive(Clone, Copy)]
struct Factor {
    multiplier: i32,
    rounding: i32,
    shift: u32,
}

impl Factor {
    /// `right_shift` is in `33..=62`.
    #[inline(always)]
    fn new(multiplier: i32, right_shift: u8) -> Self {
        let shift = u32::from(right_shift).wrapping_sub(32) & 31;
        Factor { multiplier, rounding: (1i32 << shift) >> 1, shift }
    }

    /// [`crate::arith::requantize`] without its saturation: within 2^30 in magnitude, so that a byte can be added.
    #[inline(always)]
    fn apply(self, acc: i32) -> i32 {
        asm::smmla(acc, self.multiplier, self.rounding) >> self.shift
    }
}
