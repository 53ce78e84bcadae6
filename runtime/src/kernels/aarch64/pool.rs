//! Global average pooling: the portable code, compiled again for vectors.

use crate::kernels::{PoolCall, scalar};

/// Runs a pooling.
///
/// # Safety
/// NEON is available.
#[inline(always)]
pub(super) unsafe fn run(call: &mut PoolCall<'_>) {
    scalar::pool::body(call);
}
