//! Linux grants large pages to programs that ask for them, in its default setting `madvise`.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

/// `MADV_HUGEPAGE` of every architecture.
const HUGE_PAGES: c_int = 14;

unsafe extern "C" {
    /// Of the C library that `std` itself is linked with.
    fn madvise(address: *mut c_void, len: usize, advice: c_int) -> c_int;
}

/// Asks that `len` bytes, which begin and end where large pages do, be made of large pages. A refusal changes nothing
/// but the time that memory takes.
pub(super) fn ask_for_large_pages(start: NonNull<u8>, len: usize) {
    // SAFETY: this advice changes no byte, and the system checks the range.
    unsafe { madvise(start.as_ptr().cast(), len, HUGE_PAGES) };
}
