//! Header, section table and the fixed head of the `model` section.

use super::{
    MAGIC, SECTION_ALIGN, VERSION,
    crc::{crc32, crc32_of},
    u16_at, u32_at,
};
use crate::Error;

/// Bytes of the header.
pub const HEADER_LEN: usize = 64;
/// Bytes of one entry of the section table.
pub const ENTRY_LEN: usize = 16;

/// Offsets of the header's fields; what is not named is zero.
pub mod field {
    /// Magic number, 8 bytes.
    pub const MAGIC: usize = 0;
    /// Format version, u16.
    pub const VERSION: usize = 8;
    /// Number of sections, u16.
    pub const SECTIONS: usize = 10;
    /// Length of the whole artifact, u32.
    pub const LENGTH: usize = 12;
    /// CRC-32 of header (without this field) and section table, u32.
    pub const CRC: usize = 16;
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Global facts, see [`model`].
    Model = 1,
    /// Training counts and names of the classes.
    Classes = 2,
    /// Names of the operations.
    Names = 3,
    /// The stem's operations and constants.
    Stem = 4,
    /// One expert's operations and constants.
    Expert = 5,
    /// One router's constants.
    Router = 6,
    /// Self-test vectors.
    Golden = 7,
}

impl Kind {
    /// All kinds in the order in which their sections appear.
    pub const ALL: [Kind; 7] =
        [Kind::Model, Kind::Classes, Kind::Names, Kind::Stem, Kind::Expert, Kind::Router, Kind::Golden];

    /// Name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Model => "model",
            Kind::Classes => "classes",
            Kind::Names => "names",
            Kind::Stem => "stem",
            Kind::Expert => "expert",
            Kind::Router => "router",
            Kind::Golden => "golden",
        }
    }
}

/// Offsets of the `model` section's fields.
pub mod model {
    /// Bytes of the section.
    pub const LEN: usize = 192;
    /// Input height, u16.
    pub const HEIGHT: usize = 0;
    /// Input width, u16.
    pub const WIDTH: usize = 2;
    /// Input channels, u16.
    pub const CHANNELS: usize = 4;
    /// Number of experts, u8.
    pub const EXPERTS: usize = 6;
    /// 1 if there are routers, u8.
    pub const ROUTED: usize = 7;
    /// Number of classes, u32.
    pub const CLASSES: usize = 8;
    /// Bytes of the arena, u32.
    pub const ARENA: usize = 12;
    /// Offset of the kernels' scratch memory, u32.
    pub const SCRATCH: usize = 16;
    /// Bytes of the scratch memory, u32.
    pub const SCRATCH_LEN: usize = 20;
    /// Offset of the logits (f32 a class), u32.
    pub const LOGITS: usize = 24;
    /// Offset of the sum of logits (f32 a class), u32.
    pub const SUM: usize = 28;
    /// Offset of the pooled feature, u32.
    pub const FEATURE: usize = 32;
    /// Length of the pooled feature, u16.
    pub const FEATURES: usize = 36;
    /// Bits of the residual stream (8 or 16), u8.
    pub const RESIDUAL_BITS: usize = 38;
    /// Layout of the weights, u8.
    pub const LAYOUT: usize = 39;
    /// Lower bound of the arena by liveness of the activations alone, u32.
    pub const LIVENESS: usize = 40;
    /// Shorter side that an image is resized to before the centre crop, 0 for none, u16.
    pub const RESIZE: usize = 44;
    /// Mean of each channel (4 × f32) in units of 0..=1.
    pub const MEAN: usize = 48;
    /// Standard deviation of each channel (4 × f32).
    pub const STD: usize = 64;
    /// Name of the target, 32 bytes, zero-padded UTF-8.
    pub const TARGET: usize = 80;
    /// Name of the architecture, 32 bytes, zero-padded UTF-8.
    pub const ARCH: usize = 112;
    /// Fingerprint of the float model, 32 bytes, zero-padded ASCII.
    pub const FINGERPRINT: usize = 144;
}

/// One entry of the section table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it holds.
    pub kind: Kind,
    /// Number of the expert or router; 0 otherwise.
    pub index: u16,
    /// First byte in the artifact.
    pub at: usize,
    /// Length in bytes.
    pub len: usize,
    /// CRC-32 of the content.
    pub crc: u32,
}

impl Entry {
    /// Reads entry `n` of the table of a validated artifact; `None` if there is no such entry.
    pub fn read(bytes: &[u8], n: usize) -> Option<Self> {
        if n >= usize::from(u16_at(bytes, field::SECTIONS)) {
            return None;
        }
        let e = bytes.get(HEADER_LEN + n * ENTRY_LEN..)?.get(..ENTRY_LEN)?;
        let code = u16_at(e, 0);
        let kind = Kind::ALL.into_iter().find(|k| *k as u16 == code)?;
        Some(Entry {
            kind,
            index: u16_at(e, 2),
            at: u32_at(e, 4) as usize,
            len: u32_at(e, 8) as usize,
            crc: u32_at(e, 12),
        })
    }

    /// The section's bytes, if they lie inside of `bytes`.
    pub fn slice<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        bytes.get(self.at..self.at.checked_add(self.len)?)
    }
}

/// Checks header, table, order, gaps and checksums of an artifact; returns its own bytes without what may follow.
pub fn check(bytes: &[u8]) -> Result<&[u8], Error> {
    let truncated = |what, needed| Error::Truncated { what, needed, found: bytes.len() };
    if bytes.len() < MAGIC.len() && MAGIC.starts_with(bytes) {
        return Err(truncated("header", HEADER_LEN));
    }
    if !bytes.starts_with(&MAGIC) {
        return Err(Error::NotAnArtifact);
    }
    if bytes.len() < HEADER_LEN {
        return Err(truncated("header", HEADER_LEN));
    }
    let version = u16_at(bytes, field::VERSION);
    if version != VERSION {
        return Err(Error::Version { found: version, supported: VERSION });
    }
    let length = u32_at(bytes, field::LENGTH) as usize;
    let own = bytes.get(..length).ok_or(truncated("file", length))?;
    let sections = usize::from(u16_at(own, field::SECTIONS));
    let table_end = HEADER_LEN + sections * ENTRY_LEN;
    let head = own.get(..table_end).ok_or(truncated("section table", table_end))?;
    if header_crc(head) != u32_at(own, field::CRC) {
        return Err(Error::Checksum { section: "header", index: 0 });
    }
    check_sections(own, sections, table_end)?;
    Ok(own)
}

fn check_sections(own: &[u8], sections: usize, table_end: usize) -> Result<(), Error> {
    let invalid = |reason, at| Error::Invalid { section: "section table", reason, at };
    let mut end = table_end;
    for n in 0..sections {
        let entry = Entry::read(own, n).ok_or(invalid("unknown kind of section", n))?;
        let gap = own.get(end..entry.at).ok_or(invalid("sections overlap or are out of order", n))?;
        if entry.at % SECTION_ALIGN != 0 || entry.at - end >= SECTION_ALIGN {
            return Err(invalid("section is not at the next aligned offset", n));
        }
        if gap.iter().any(|&b| b != 0) {
            return Err(invalid("bytes between sections are not zero", n));
        }
        let content = entry.slice(own).ok_or(invalid("section reaches beyond the end of the artifact", n))?;
        if crc32(content) != entry.crc {
            return Err(Error::Checksum { section: entry.kind.name(), index: entry.index });
        }
        end = entry.at + entry.len;
    }
    if end != own.len() {
        return Err(invalid("bytes after the last section", end));
    }
    Ok(())
}

/// CRC-32 of header and section table without the field that holds it. A header that ends before that field, of which there
/// is none, counts as empty: firmware links no path to a panic.
pub(crate) fn header_crc(head: &[u8]) -> u32 {
    crc32_of(&[head.get(..field::CRC).unwrap_or_default(), head.get(field::CRC + 4..).unwrap_or_default()])
}
