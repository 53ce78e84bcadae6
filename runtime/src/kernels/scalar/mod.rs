//! Portable kernels: the reference that every artifact can be replayed with on any machine.

pub mod conv;
pub mod dense;
pub mod max_pool;
pub mod pool;
pub mod shortcut;

use super::{Backend, ConvKernel, Isa};
use crate::op::Layout;

/// Plain rows of weights: small cores without vector units.
pub const OHWI: Backend = Backend {
    isa: Isa::Scalar,
    layout: Layout::Ohwi,
    conv: ConvKernel { name: "qs8_conv_1x1_scalar", tile: (1, 1), scratch_len: |_| 0, run: conv::ohwi },
    shortcut: shortcut::run,
    max_pool: max_pool::run,
    pool: pool::run,
    dense: dense::rows,
};

/// The vector layout, one pixel by one block at a time.
pub const K8N16: Backend = Backend {
    isa: Isa::Scalar,
    layout: Layout::K8N16,
    conv: ConvKernel { name: "qs8_conv_1x16_k8n16_scalar", tile: (1, 16), scratch_len: |_| 0, run: conv::k8n16 },
    shortcut: shortcut::run,
    max_pool: max_pool::run,
    pool: pool::run,
    dense: dense::packed,
};
