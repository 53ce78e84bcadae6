//! Keeps the program on one core.

use std::io;

/// Bits of a mask as `sched_setaffinity(2)` takes it.
const CORES: usize = 1024;
const WORD: usize = usize::BITS as usize;

unsafe extern "C" {
    /// From the C library that the standard library links: zero is this thread.
    fn sched_setaffinity(thread: i32, bytes: usize, mask: *const usize) -> i32;
}

/// Runs this thread on `core` only.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    let mut mask = [0usize; CORES / WORD];
    let Some(word) = mask.get_mut(core / WORD) else { return Err(io::Error::from(io::ErrorKind::InvalidInput)) };
    *word = 1 << (core % WORD);
    // SAFETY: the mask has the number of bytes that is said, and the call only reads it.
    match unsafe { sched_setaffinity(0, size_of_val(&mask), mask.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_core_that_is_not_there_is_an_error() {
        assert!(super::pin(super::CORES).is_err());
        assert!(super::pin(super::CORES - 1).is_err());
    }
}
