//! Stands in for the team of threads where there are none: without the feature `std`.

use crate::kernels::{Backend, ConvCall, MaxPoolCall};

/// There is no team.
#[derive(Debug)]
pub(crate) enum Team {}

/// Runs a convolution.
///
/// # Safety
/// The backend's instruction set is available.
pub(crate) unsafe fn convolve(_: Option<&Team>, backend: &'static Backend, mut call: ConvCall<'_>) {
    // SAFETY: promised by the caller.
    unsafe { (backend.conv.run)(&mut call) }
}

/// Runs a max pooling.
///
/// # Safety
/// The backend's instruction set is available.
pub(crate) unsafe fn max_pool(_: Option<&Team>, backend: &'static Backend, mut call: MaxPoolCall<'_>) {
    // SAFETY: promised by the caller.
    unsafe { (backend.max_pool)(&mut call) }
}
