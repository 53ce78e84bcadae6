//! 64-bit Arm kernels over the layout `k8n4`.
//!
//! One generic convolution (`conv`, `tile`, `store`; `grouped` for groups, with plain NEON) is compiled for each vector unit; what a unit has to offer is the
//! trait `unit::Unit`.
//!
//! | backend | instruction | processors |
//! |---|---|---|
//! | i8mm | `smmla` | Cortex-A510, A710, X2, Neoverse N2, V1 and later |
//! | dotprod | `sdot` | Cortex-A55, A76, Neoverse N1 and later |
//! | NEON | `smlal` | all, such as Cortex-A53, A72 |
//!
//! By llvm-mca's models (`tests/arm/mca.py`) the widest inner loops keep a Cortex-A72's multiplier busy all the time, a
//! Cortex-A76's and a Neoverse N1's to 90 %, a Neoverse V1's and N2's to 80 %; the in-order Cortex-A53 multiplies in
//! 64 of 76 cycles of the Winograd product and in 192 of 275 of the direct one.

mod conv;
mod dense;
mod grouped;
mod pool;
mod shortcut;
mod store;
mod tile;
mod unit;
mod winograd;

use super::{Backend, ConvCall, ConvKernel, DenseCall, Isa, MaxPoolCall, PoolCall, ShortcutCall, k8n4, scalar};
use crate::op::Layout;

const fn kernel(name: &'static str, splits: bool, run: unsafe fn(&mut ConvCall<'_>)) -> ConvKernel {
    ConvKernel { name, tile: (8, 8), scratch_len: k8n4::scratch_len, splits, channel_step: 0, run }
}

const fn backend(isa: Isa, conv: ConvKernel) -> Backend {
    Backend {
        isa,
        layout: Layout::K8N4,
        conv,
        pays: || true,
        shortcut: run_shortcut,
        max_pool: run_max_pool,
        pool: run_pool,
        dense: run_dense,
    }
}

/// Plain NEON. Does not split, because Winograd convolutions transform all of a layer's inputs.
pub const NEON: Backend = backend(Isa::Neon, kernel("qs8_conv_8x8_k8n4_neon", false, run_neon));
/// NEON with `sdot`.
pub const DOTPROD: Backend = backend(Isa::Dotprod, kernel("qs8_conv_8x8_k8n4_dotprod", true, run_dotprod));
/// NEON with `smmla`.
pub const I8MM: Backend = backend(Isa::I8mm, kernel("qs8_conv_8x8_k8n4_i8mm", true, run_i8mm));

/// # Safety
/// NEON is available.
#[target_feature(enable = "neon")]
unsafe fn run_neon(call: &mut ConvCall<'_>) {
    // SAFETY: promised by the caller.
    unsafe {
        if !conv::run_winograd(call) {
            conv::run::<unit::Neon>(call)
        }
    }
}

/// # Safety
/// NEON and dot products are available.
#[target_feature(enable = "neon,dotprod")]
unsafe fn run_dotprod(call: &mut ConvCall<'_>) {
    // SAFETY: promised by the caller.
    unsafe { conv::run::<unit::Dotprod>(call) }
}

/// # Safety
/// NEON and int8 matrix products are available.
#[target_feature(enable = "neon,i8mm")]
unsafe fn run_i8mm(call: &mut ConvCall<'_>) {
    // SAFETY: promised by the caller.
    unsafe { conv::run::<unit::I8mm>(call) }
}

/// # Safety
/// NEON is available.
#[target_feature(enable = "neon")]
unsafe fn run_shortcut(call: &mut ShortcutCall<'_>) {
    // SAFETY: promised by the caller.
    unsafe { shortcut::run(call) }
}

/// # Safety
/// NEON is available.
#[target_feature(enable = "neon")]
unsafe fn run_max_pool(call: &mut MaxPoolCall<'_>) {
    scalar::max_pool::body(call);
}

/// # Safety
/// NEON is available.
#[target_feature(enable = "neon")]
unsafe fn run_pool(call: &mut PoolCall<'_>) {
    // SAFETY: promised by the caller.
    unsafe { pool::run(call) }
}

/// # Safety
/// NEON is available.
#[target_feature(enable = "neon")]
unsafe fn run_dense(call: &mut DenseCall<'_>) {
    // SAFETY: promised by the caller.
    unsafe { dense::run(call) }
}

/// Whether the processor has `isa`.
#[cfg(feature = "std")]
pub fn available(isa: Isa) -> bool {
    use std::arch::is_aarch64_feature_detected as has;
    match isa {
        Isa::Scalar => true,
        Isa::Neon => has!("neon"),
        Isa::Dotprod => has!("neon") && has!("dotprod"),
        Isa::I8mm => has!("neon") && has!("i8mm"),
        _ => false,
    }
}

/// Whether the compiler was told that the processor has `isa`.
#[cfg(not(feature = "std"))]
pub fn available(isa: Isa) -> bool {
    match isa {
        Isa::Scalar => true,
        Isa::Neon => cfg!(target_feature = "neon"),
        Isa::Dotprod => cfg!(all(target_feature = "neon", target_feature = "dotprod")),
        Isa::I8mm => cfg!(all(target_feature = "neon", target_feature = "i8mm")),
        _ => false,
    }
}
