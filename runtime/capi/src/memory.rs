//! The caller's pointers, checked as far as a pointer can be.

use core::ops::Range;

use crate::Status;

/// Text in UTF-8, not ended by a zero: `printf("%.*s", (int)text.bytes, text.at)`. It lies in the artifact or in the
/// library. Where there is none, `bytes` is 0 and `at` is not null.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// First byte.
    pub at: *const core::ffi::c_char,
    /// Number of bytes.
    pub bytes: usize,
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text { at: text.as_ptr().cast(), bytes: text.len() }
    }
}

/// Whether `pointer` could be a `T`: not null, aligned.
pub(crate) fn check<T>(pointer: *const T) -> Result<(), Status> {
    match () {
        () if pointer.is_null() => Err(Status::NullPointer),
        () if !pointer.is_aligned() => Err(Status::Misaligned),
        () => Ok(()),
    }
}

/// A structure of the caller's that a function reads.
///
/// # Safety
/// If `pointer` is not null and aligned, there is a `T` that stays unchanged for `'a`.
pub(crate) unsafe fn read<'a, T>(pointer: *const T) -> Result<&'a T, Status> {
    check(pointer)?;
    // SAFETY: not null and aligned; the rest is the caller's promise.
    Ok(unsafe { &*pointer })
}

/// Where a function puts a result.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Checks `pointer`.
    ///
    /// # Safety
    /// If it is not null and aligned, there is memory for a `T`, and nothing else uses it during the call.
    pub(crate) unsafe fn new(pointer: *mut T) -> Result<Self, Status> {
        check(pointer)?;
        Ok(Out(pointer))
    }

    /// Stores the result.
    pub(crate) fn put(self, value: T) {
        // SAFETY: the promise of `new`; whatever was there needs no destructor, C has none.
        unsafe { self.0.write(value) }
    }
}

/// The addresses of `bytes` bytes, if there can be such an object.
pub(crate) fn extent<T>(start: *const T, bytes: usize) -> Result<Range<usize>, Status> {
    if start.is_null() {
        return Err(Status::NullPointer);
    }
    let end = start.addr().checked_add(bytes).filter(|_| isize::try_from(bytes).is_ok());
    Ok(start.addr()..end.ok_or(Status::InvalidLength)?)
}

/// Whether two extents share a byte.
pub(crate) fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Bytes of the caller's that a function reads.
///
/// # Safety
/// If `start` is not null, there are `bytes` bytes that stay unchanged for `'a`.
pub(crate) unsafe fn bytes<'a>(start: *const u8, bytes: usize) -> Result<&'a [u8], Status> {
    extent(start, bytes)?;
    // SAFETY: not null, no wrap-around, no more than `isize::MAX` bytes; the rest is the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts(start, bytes) })
}

/// Bytes of the caller's that a function, or the session that it makes, writes.
///
/// # Safety
/// If `start` is not null, there are `bytes` bytes that nothing else uses for `'a`. They may be uninitialised for the
/// language that they come from: here they only have to be memory.
pub(crate) unsafe fn bytes_mut<'a>(start: *mut u8, bytes: usize) -> Result<&'a mut [u8], Status> {
    extent(start, bytes)?;
    // SAFETY: as in `bytes`.
    Ok(unsafe { core::slice::from_raw_parts_mut(start, bytes) })
}
