//! The artifact format: defined once, for the device that reads it and the compiler that writes it.
//!
//! ```text
//! header (64 bytes)   magic, version, length, number of sections, checksum of header and table
//! section table       16 bytes a section: kind, index, offset, length, CRC-32
//! sections            each at a multiple of 64 bytes; the gaps are zero
//! ```
//!
//! Sections: one `model`, one `classes`, one `names`, one `stem`, one `expert` and (all but the last) one `router` for
//! each expert, one `golden`. A part's section holds its operations (64-byte records) and their constants and nothing
//! else, so it can be executed in place from flash or paged in alone. All numbers are little-endian.

pub mod crc;
pub mod header;
pub mod record;
pub mod writer;

/// First bytes of every artifact.
pub const MAGIC: [u8; 8] = *b"RIDE\r\n\x1a\n";
/// Version of the format that this crate reads and writes.
pub const VERSION: u16 = 2;
/// Alignment of the arena and of every section.
pub const ARENA_ALIGN: usize = 64;
/// Alignment of sections within the artifact.
pub const SECTION_ALIGN: usize = 64;
/// Most bytes of packed weights of a convolution.
pub const MAX_WEIGHTS: usize = 1 << 28;
/// Most experts that an artifact can hold.
pub const MAX_EXPERTS: usize = 64;

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

pub(crate) fn f32_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_bits(u32_at(bytes, at))
}
