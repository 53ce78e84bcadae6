//! Bytes at the alignment that artifacts and arenas want.

pub use ride_runtime::memory::AlignedBytes;
