//! Cortex-M55 and M85: sixteen products an instruction (`vmladava`) over plain rows of weights.
//!
//! Convolutions gather three windows in scratch memory. Pooling is the portable code, which the compiler vectorises for the
//! core; 16-bit residuals and ragged channels are multiplied by vectors and finished by plain code.

mod asm;
mod conv;
mod dense;
mod shortcut;

use crate::kernels::{Backend, ConvKernel, Isa, scalar};
use crate::op::Layout;

/// Helium.
pub const BACKEND: Backend = Backend {
    isa: Isa::Mve,
    layout: Layout::Ohwi,
    conv: ConvKernel {
        name: "qs8_conv_3x2_mve",
        tile: (3, 2),
        scratch_len: crate::kernels::ohwi_scratch_len,
        splits: false,
        channel_step: 0,
        run: conv::run,
    },
    pays: || true,
    shortcut: shortcut::run,
    max_pool: scalar::max_pool::run,
    pool: scalar::pool::run,
    dense: dense::run,
};
