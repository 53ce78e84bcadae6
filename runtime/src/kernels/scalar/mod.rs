//! Portable kernels: the reference that every artifact can be replayed with on any machine.

pub mod conv;
pub mod dense;
pub mod max_pool;
pub mod pool;
pub mod shortcut;

use super::{Backend, ConvKernel, Isa};
use crate::kernels::k8n16::BLOCK;
use crate::op::Layout;

/// Plain rows of weights: small cores without vector units.
pub const OHWI: Backend = Backend {
    isa: Isa::Scalar,
    layout: Layout::Ohwi,
    conv: ConvKernel {
        name: "qs8_conv_1x1_scalar",
        tile: (1, 1),
        scratch_len: super::ohwi_scratch_len,
        splits: true,
        channel_step: 0,
        run: conv::ohwi,
    },
    pays: || true,
    shortcut: shortcut::run,
    max_pool: max_pool::run,
    pool: pool::run,
    dense: dense::rows,
};

/// Pairs of channels by 4 taps, as cores with the DSP extension want them.
pub const K4N2: Backend = Backend {
    isa: Isa::Scalar,
    layout: Layout::K4N2,
    conv: ConvKernel {
        name: "qs8_conv_1x1_k4n2_scalar",
        tile: (1, 1),
        scratch_len: crate::kernels::k4n2::scratch_len,
        splits: true,
        channel_step: 0,
        run: conv::k4n2,
    },
    pays: || true,
    shortcut: shortcut::run,
    max_pool: max_pool::run,
    pool: pool::run,
    dense: dense::packed,
};

/// The layout of x86 vector units, one pixel by one block at a time. Needs no scratch memory, but asks for what the vector
/// kernels need: compilers on other machines learn it from here.
pub const K8N16: Backend = Backend {
    isa: Isa::Scalar,
    layout: Layout::K8N16,
    conv: ConvKernel {
        name: "qs8_conv_1x16_k8n16_scalar",
        tile: (1, 16),
        scratch_len: crate::kernels::k8n16::scratch::scratch_len,
        splits: true,
        channel_step: BLOCK,
        run: conv::k8n16,
    },
    pays: || true,
    shortcut: shortcut::run,
    max_pool: max_pool::run,
    pool: pool::run,
    dense: dense::packed,
};

/// The layout of 64-bit Arm, one pixel by one group of channels at a time. Needs no scratch memory, but asks for what the
/// vector kernels need: compilers on other machines learn it from here.
pub const K8N4: Backend = Backend {
    isa: Isa::Scalar,
    layout: Layout::K8N4,
    conv: ConvKernel {
        name: "qs8_conv_1x4_k8n4_scalar",
        tile: (1, 4),
        scratch_len: super::k8n4::scratch_len,
        splits: true,
        channel_step: 0,
        run: conv::k8n4,
    },
    pays: || true,
    shortcut: shortcut::run,
    max_pool: max_pool::run,
    pool: pool::run,
    dense: dense::packed,
};
