//! Writes an artifact from finished sections into anything that takes bytes.

use super::{
    MAGIC, SECTION_ALIGN, VERSION,
    crc::crc32,
    header::{ENTRY_LEN, HEADER_LEN, Kind, field, header_crc},
};

/// A finished section.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// What it holds.
    pub kind: Kind,
    /// Number of the expert or router; 0 otherwise.
    pub index: u16,
    /// Its bytes.
    pub content: &'a [u8],
}

/// Most sections that an artifact can have.
pub const MAX_SECTIONS: usize = 4 + 2 * super::MAX_EXPERTS;

/// Appends the artifact made of `sections` to `out`. Returns its length, or `None` if there are too many sections or
/// the artifact would not fit in 32-bit offsets.
pub fn write(sections: &[Section<'_>], out: &mut impl Extend<u8>) -> Option<usize> {
    if sections.len() > MAX_SECTIONS {
        return None;
    }
    let table_end = HEADER_LEN + sections.len() * ENTRY_LEN;
    let mut head = [0u8; HEADER_LEN + MAX_SECTIONS * ENTRY_LEN];
    let mut end = table_end;
    for (n, s) in sections.iter().enumerate() {
        let at = end.next_multiple_of(SECTION_ALIGN);
        end = at.checked_add(s.content.len())?;
        let e = &mut head[HEADER_LEN + n * ENTRY_LEN..][..ENTRY_LEN];
        e[0..2].copy_from_slice(&(s.kind as u16).to_le_bytes());
        e[2..4].copy_from_slice(&s.index.to_le_bytes());
        e[4..8].copy_from_slice(&u32::try_from(at).ok()?.to_le_bytes());
        e[8..12].copy_from_slice(&u32::try_from(s.content.len()).ok()?.to_le_bytes());
        e[12..16].copy_from_slice(&crc32(s.content).to_le_bytes());
    }
    let head = &mut head[..table_end];
    head[field::MAGIC..][..8].copy_from_slice(&MAGIC);
    head[field::VERSION..][..2].copy_from_slice(&VERSION.to_le_bytes());
    head[field::SECTIONS..][..2].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    head[field::LENGTH..][..4].copy_from_slice(&u32::try_from(end).ok()?.to_le_bytes());
    let crc = header_crc(head);
    head[field::CRC..][..4].copy_from_slice(&crc.to_le_bytes());
    out.extend(head.iter().copied());
    let mut end = table_end;
    for s in sections {
        let at = end.next_multiple_of(SECTION_ALIGN);
        out.extend(core::iter::repeat_n(0, at - end));
        out.extend(s.content.iter().copied());
        end = at + s.content.len();
    }
    Some(end)
}
