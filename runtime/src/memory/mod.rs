//! Memory for artifacts and arenas on machines with an operating system.
//!
//! Weights of large networks come from afar, each once an inference. With pages of 4 KB the processor then spends a
//! good part of the time on finding out where pages are, more so in a virtual machine; so large blocks ask for large
//! pages, which systems grant where they can. Results do not depend on it.

#[cfg(target_os = "linux")]
#[path = "linux.rs"]
mod pages;
#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod pages;

use crate::format::ARENA_ALIGN;
use pages::ask_for_large_pages;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::fs::File;
use std::io::{self, Read};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::ptr::NonNull;
use std::{fmt, slice};

/// Bytes of a large page on x86-64, and on aarch64 with small ones of 4 KB.
const LARGE_PAGE: usize = 2 << 20;
/// Bytes from which on a block is made of large pages, the last of which may be half empty.
const LARGE: usize = LARGE_PAGE / 2;

/// Bytes on the heap at the alignment of artifacts and arenas, [`ARENA_ALIGN`].
pub struct AlignedBytes {
    start: NonNull<u8>,
    len: usize,
    layout: Layout,
}

// SAFETY: the bytes belong to this value alone, as those of a `Vec<u8>` do.
unsafe impl Send for AlignedBytes {}
// SAFETY: likewise; shared references only read.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `len` zero bytes.
    ///
    /// # Panics
    /// If no block can have so many bytes, as [`Vec::with_capacity`].
    pub fn zeroed(len: usize) -> Self {
        let layout = layout(len);
        let large = layout.align() == LARGE_PAGE;
        // SAFETY: the layout has at least one byte.
        let start = unsafe { if large { alloc(layout) } else { alloc_zeroed(layout) } };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        if large {
            ask_for_large_pages(start, layout.size());
            // First touched here, after the advice, which is when the system chooses pages.
            // SAFETY: the block has so many bytes.
            unsafe { start.write_bytes(0, layout.size()) };
        }
        AlignedBytes { start, len, layout }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        copy.copy_from_slice(bytes);
        copy
    }

    /// The bytes of a file.
    ///
    /// # Errors
    /// If it cannot be read, or has become shorter meanwhile.
    pub fn read(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let len = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = Self::zeroed(len);
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// At least one byte, so that there is something to allocate; whole large pages from [`LARGE`] bytes on.
fn layout(len: usize) -> Layout {
    let align = if len >= LARGE { LARGE_PAGE } else { ARENA_ALIGN };
    let size = len.max(1).checked_next_multiple_of(align);
    size.and_then(|size| Layout::from_size_align(size, align).ok()).expect("a block of memory can have so many bytes")
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody else has the block.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the block has at least `len` bytes, all of them written at the beginning.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has the block.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBytes").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_all_sizes_are_aligned_and_zero() {
        for len in [0, 1, 63, 64, 65, LARGE - 1, LARGE, LARGE_PAGE, LARGE_PAGE + 1, 3 * LARGE_PAGE - 1] {
            let mut bytes = AlignedBytes::zeroed(len);
            assert_eq!(bytes.len(), len);
            assert!(bytes.as_ptr().addr().is_multiple_of(ARENA_ALIGN), "{len}");
            assert!(bytes.iter().all(|&b| b == 0), "{len}");
            bytes.fill(7);
            assert_eq!(&*AlignedBytes::copy_of(&bytes), &*bytes);
        }
    }

    #[test]
    fn files_are_read_whole() {
        let path = std::env::temp_dir().join(format!("ride-memory-{}", std::process::id()));
        let bytes: Vec<u8> = (0..3_000_017u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let read = AlignedBytes::read(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&*read.unwrap(), &*bytes);
        assert_eq!(AlignedBytes::read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
