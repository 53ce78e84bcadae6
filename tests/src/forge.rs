//! Takes artifacts apart, changes them and gives them valid checksums again.

use ride_runtime::format::crc::{crc32, crc32_of};
use ride_runtime::format::header::{ENTRY_LEN, HEADER_LEN, Kind, field};
use ride_runtime::format::record::{PART_HEAD, RECORD_LEN, decode, encode};
use ride_runtime::format::writer::{Section, write};
use ride_runtime::op::Step;
use ride_runtime::{Error, Model};

use crate::synthetic::Random;

/// The global facts, as kind and index of a section.
pub const MODEL: (Kind, u16) = (Kind::Model, 0);
/// The stem, as kind and index of a section.
pub const STEM: (Kind, u16) = (Kind::Stem, 0);
/// The first expert, as kind and index of a section.
pub const EXPERT0: (Kind, u16) = (Kind::Expert, 0);
/// The second expert, as kind and index of a section.
pub const EXPERT1: (Kind, u16) = (Kind::Expert, 1);
/// The first router, as kind and index of a section.
pub const ROUTER0: (Kind, u16) = (Kind::Router, 0);

/// An artifact in pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forge {
    /// Kind, index and content of each section.
    pub sections: Vec<(Kind, u16, Vec<u8>)>,
}

impl Forge {
    /// Takes a valid artifact apart.
    ///
    /// # Panics
    /// If it is not valid.
    pub fn of(bytes: &[u8]) -> Self {
        let model = Model::parse(bytes).expect("a valid artifact");
        let content = |e: &ride_runtime::format::header::Entry| e.slice(bytes).expect("a checked section").to_vec();
        Forge { sections: model.sections().map(|e| (e.kind, e.index, content(&e))).collect() }
    }

    /// The artifact, with valid checksums.
    ///
    /// # Panics
    /// If there are more sections than the writer takes.
    pub fn bytes(&self) -> Vec<u8> {
        let sections: Vec<Section<'_>> = self
            .sections
            .iter()
            .map(|(kind, index, content)| Section { kind: *kind, index: *index, content })
            .collect();
        let mut out = Vec::new();
        write(&sections, &mut out).expect("sections that fit");
        out
    }

    /// Place of a section in [`Forge::sections`].
    ///
    /// # Panics
    /// If there is none.
    pub fn place(&self, kind: Kind, index: u16) -> usize {
        self.sections.iter().position(|s| (s.0, s.1) == (kind, index)).expect("a section of this kind")
    }

    /// A section's content.
    ///
    /// # Panics
    /// If there is none.
    pub fn content(&mut self, kind: Kind, index: u16) -> &mut Vec<u8> {
        let place = self.place(kind, index);
        &mut self.sections[place].2
    }

    /// Overwrites bytes of a section.
    ///
    /// # Panics
    /// If they lie outside.
    pub fn put(mut self, (kind, index): (Kind, u16), at: usize, bytes: &[u8]) -> Self {
        self.content(kind, index)[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Changes operation `n` of a part.
    ///
    /// # Panics
    /// If there is no such operation.
    pub fn edit(mut self, (kind, index): (Kind, u16), n: usize, change: impl FnOnce(&mut Step)) -> Self {
        let content = self.content(kind, index);
        let record = &mut content[PART_HEAD + n * RECORD_LEN..][..RECORD_LEN];
        let mut step = decode(record.first_chunk().expect("a whole record")).expect("a known operation");
        change(&mut step);
        record.copy_from_slice(&encode(&step));
        self
    }

    /// Operations of a part.
    ///
    /// # Panics
    /// If there is no such part.
    pub fn steps(&mut self, (kind, index): (Kind, u16)) -> Vec<Step> {
        let content = self.content(kind, index);
        let count = u32::from_le_bytes(*content.first_chunk().expect("a part's head")) as usize;
        let records = content[PART_HEAD..].chunks_exact(RECORD_LEN).take(count);
        records.map(|r| decode(r.first_chunk().expect("a whole record")).expect("a known operation")).collect()
    }
}

/// Makes the checksums of an artifact fit its bytes as far as the table can be followed. Whatever else is wrong stays so.
pub fn fix_checksums(bytes: &mut [u8]) {
    let sections = u16_at(bytes, field::SECTIONS);
    for n in 0..sections {
        let Some(entry) = RawEntry::read(bytes, n) else { break };
        let Some(crc) = bytes.get(entry.at..entry.at.saturating_add(entry.len)).map(crc32) else { continue };
        let place = HEADER_LEN + n * ENTRY_LEN + 12;
        bytes[place..place + 4].copy_from_slice(&crc.to_le_bytes());
    }
    let table_end = HEADER_LEN + sections * ENTRY_LEN;
    if let Some(head) = bytes.get_mut(..table_end) {
        let crc = crc32_of(&[&head[..field::CRC], &head[field::CRC + 4..]]);
        head[field::CRC..field::CRC + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 2).map_or(0, |v| usize::from(u16::from_le_bytes([v[0], v[1]])))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at.saturating_add(4)).map_or(0, |v| u32::from_le_bytes([v[0], v[1], v[2], v[3]]) as usize)
}

/// An entry of the section table as it stands there, right or wrong.
struct RawEntry {
    kind: usize,
    at: usize,
    len: usize,
}

impl RawEntry {
    /// Entry `n`, if the bytes reach so far.
    fn read(bytes: &[u8], n: usize) -> Option<Self> {
        let entry = bytes.get(HEADER_LEN + n * ENTRY_LEN..)?.get(..ENTRY_LEN)?;
        Some(RawEntry { kind: u16_at(entry, 0), at: u32_at(entry, 4), len: u32_at(entry, 8) })
    }
}

/// Values that break careless arithmetic.
const AWKWARD: [u32; 18] = [
    0,
    1,
    2,
    3,
    4,
    63,
    64,
    127,
    128,
    255,
    256,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x1_0000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
];

/// Changes one to four places of an artifact, mostly its structure and now and then its constants, and fixes all
/// checksums. Lengths and offsets of sections stay as they are.
pub fn mutate(bytes: &mut [u8], random: &mut Random) {
    let structures = structures(bytes);
    for _ in 0..1 + random.below(4) {
        let (from, len) = match random.below(8) {
            0 => (0, bytes.len()),
            _ => structures[random.below(structures.len())],
        };
        if len > 0 {
            let at = from + random.below(len);
            change(bytes, at, random);
        }
    }
    fix_checksums(bytes);
}

/// Where an artifact keeps its structure: header and table, model section, records, router heads, golden vectors.
fn structures(bytes: &[u8]) -> Vec<(usize, usize)> {
    let entries: Vec<RawEntry> = (0..u16_at(bytes, field::SECTIONS)).map_while(|n| RawEntry::read(bytes, n)).collect();
    let table = (0, (HEADER_LEN + entries.len() * ENTRY_LEN).min(bytes.len()));
    let sections = entries.iter().flat_map(|e| {
        let kind = Kind::ALL.into_iter().find(|k| *k as usize == e.kind);
        let records = u32_at(bytes, e.at).saturating_mul(RECORD_LEN).saturating_add(PART_HEAD);
        // Records are the largest target: they count several times.
        let (len, weight) = match kind {
            Some(Kind::Stem | Kind::Expert) => (records, 4),
            Some(Kind::Router) => (RECORD_LEN, 4),
            _ => (e.len, 1),
        };
        let room = bytes.len().saturating_sub(e.at);
        std::iter::repeat_n((e.at, len.min(e.len).min(room)), weight)
    });
    std::iter::once(table).chain(sections).collect()
}

/// One change at `at`: a bit, a byte, or a number of 2 or 4 bytes that is awkward or near the old one.
fn change(bytes: &mut [u8], at: usize, random: &mut Random) {
    let width = [1, 2, 4][random.below(3)];
    let at = at / width * width;
    let Some(place) = bytes.get_mut(at..at + width) else { return };
    let mut old = [0; 4];
    old[..width].copy_from_slice(place);
    let old = u32::from_le_bytes(old);
    let new = match random.below(5) {
        0 => old ^ 1 << random.below(8 * width),
        1 => AWKWARD[random.below(AWKWARD.len())],
        2 => old.wrapping_add(random.below(9) as u32).wrapping_sub(4),
        3 => old.wrapping_add(64 * (random.below(17) as u32)).wrapping_sub(64 * 8),
        _ => random.bits(),
    };
    place.copy_from_slice(&new.to_le_bytes()[..width]);
}

/// Asserts that `bytes` are refused as [`Error::Invalid`] in this section, with a reason that contains `reason`.
///
/// # Panics
/// If they are accepted or refused for another reason.
pub fn assert_invalid(what: &str, bytes: &[u8], section: &str, reason: &str) {
    match Model::parse(bytes) {
        Err(Error::Invalid { section: s, reason: r, .. }) => {
            assert!(s == section && r.contains(reason), "{what}: {s}: {r}, expected {section}: {reason}");
        }
        other => panic!("{what}: {:?}, expected {section}: {reason}", other.map(|_| "accepted")),
    }
}
