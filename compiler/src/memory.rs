//! Bytes at the alignment that artifacts and arenas want.

use std::ops::{Deref, DerefMut};

use ride_runtime::format::ARENA_ALIGN;

/// Heap bytes that start at a multiple of [`ARENA_ALIGN`].
#[derive(Debug)]
pub struct AlignedBytes {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBytes {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let storage = vec![0; len + ARENA_ALIGN];
        let start = storage.as_ptr().addr().next_multiple_of(ARENA_ALIGN) - storage.as_ptr().addr();
        AlignedBytes { storage, start, len }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::zeroed(bytes.len());
        copy.copy_from_slice(bytes);
        copy
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}
