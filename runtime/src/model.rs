//! A validated artifact: [`Model::parse`] checks everything once, so that execution cannot fail on bad bytes.

mod check;

use crate::Error;
use crate::format::header::{self, Entry, Kind, model as field};
use crate::format::record::{PART_HEAD, RECORD_LEN, decode, decode_router};
use crate::format::{f32_at, u16_at, u32_at};
use crate::op::{Assignment, Layout, Router, Span, Step, feature_norm_at};

/// One of the pieces that run one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartId {
    /// The shared stem.
    Stem,
    /// Expert number `0..experts`.
    Expert(u16),
    /// The router behind that expert.
    Router(u16),
}

impl PartId {
    fn section(self) -> (Kind, u16) {
        match self {
            PartId::Stem => (Kind::Stem, 0),
            PartId::Expert(i) => (Kind::Expert, i),
            PartId::Router(i) => (Kind::Router, i),
        }
    }
}

/// An artifact whose structure, sizes and checksums have been checked. Copies are cheap: it borrows the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Model<'m> {
    bytes: &'m [u8],
    /// The model section; its length is a type, so that its fields are read without a check.
    head: &'m [u8; field::LEN],
}

impl<'m> Model<'m> {
    /// Checks `bytes` (which may be followed by others, as in a flash partition) and returns the model.
    ///
    /// # Errors
    /// Names the first thing that is wrong. Every byte of the artifact is covered by a checksum; beyond that, all
    /// operations, ranges, lifetimes and sizes are checked, so that a crafted artifact is as harmless as a damaged one.
    pub fn parse(bytes: &'m [u8]) -> Result<Self, Error> {
        let bytes = header::check(bytes)?;
        let head = find(bytes, Kind::Model, 0).ok_or(missing(Kind::Model))?;
        let wrong = Error::Invalid { section: "model", reason: "wrong length", at: head.len() };
        let head = head.try_into().map_err(|_| wrong)?;
        let model = Model { bytes, head };
        model.check()?;
        Ok(model)
    }

    /// The artifact's bytes.
    pub fn bytes(&self) -> &'m [u8] {
        self.bytes
    }

    /// Checksum of header and section table. The table holds the checksums of all sections, so this one tells artifacts
    /// apart.
    pub fn checksum(&self) -> u32 {
        u32_at(self.bytes, header::field::CRC)
    }

    /// Height, width and channels of an image, in pixels and bytes.
    pub fn input(&self) -> (usize, usize, usize) {
        let at = |f| usize::from(u16_at(self.head, f));
        (at(field::HEIGHT), at(field::WIDTH), at(field::CHANNELS))
    }

    /// Bytes of an image: raw unsigned pixels, height × width × channels.
    pub fn input_len(&self) -> usize {
        let (h, w, c) = self.input();
        h * w * c
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        u32_at(self.head, field::CLASSES) as usize
    }

    /// Number of experts.
    pub fn experts(&self) -> usize {
        usize::from(self.head[field::EXPERTS])
    }

    /// Whether there is a router behind each expert but the last.
    pub fn routed(&self) -> bool {
        self.head[field::ROUTED] == 1
    }

    /// Bytes of the arena that a session needs.
    pub fn arena_len(&self) -> usize {
        u32_at(self.head, field::ARENA) as usize
    }

    /// Largest sum of activations that are alive at the same time: no plan can need less.
    pub fn liveness_bound(&self) -> usize {
        u32_at(self.head, field::LIVENESS) as usize
    }

    /// Bits of the residual stream: 8, or 16 where it is wide.
    pub fn residual_bits(&self) -> u8 {
        self.head[field::RESIDUAL_BITS]
    }

    /// Layout of the packed weights.
    pub fn layout(&self) -> Layout {
        Layout::decode(self.head[field::LAYOUT]).unwrap_or(Layout::Ohwi)
    }

    /// Mean of input channel `c` in units of the pixel range 0..=1.
    pub fn mean(&self, c: usize) -> f32 {
        f32_at(self.head, field::MEAN + 4 * c.min(3))
    }

    /// Standard deviation of input channel `c` in units of the pixel range 0..=1.
    pub fn std(&self, c: usize) -> f32 {
        f32_at(self.head, field::STD + 4 * c.min(3))
    }

    /// Shorter side that images are resized to before the centre crop, if they are.
    pub fn resize(&self) -> Option<usize> {
        Some(usize::from(u16_at(self.head, field::RESIZE))).filter(|&n| n > 0)
    }

    /// Name of the target that the artifact was built for.
    pub fn target(&self) -> &'m str {
        text(&self.head[field::TARGET..][..32])
    }

    /// Name of the architecture.
    pub fn arch(&self) -> &'m str {
        text(&self.head[field::ARCH..][..32])
    }

    /// Fingerprint of the float model.
    pub fn fingerprint(&self) -> &'m str {
        text(&self.head[field::FINGERPRINT..][..32])
    }

    /// Training images of class `class`, 0 where unknown.
    pub fn train_count(&self, class: usize) -> u32 {
        find(self.bytes, Kind::Classes, 0).map_or(0, |s| if class < self.classes() { u32_at(s, 4 * class) } else { 0 })
    }

    /// Name of class `class`; empty where unknown.
    pub fn class_name(&self, class: usize) -> &'m str {
        let Some(section) = find(self.bytes, Kind::Classes, 0) else { return "" };
        let mut names = section.get(4 * self.classes()..).unwrap_or_default();
        for _ in 0..class {
            let Some((_, rest)) = split_name(names) else { return "" };
            names = rest;
        }
        split_name(names).map_or("", |(name, _)| name)
    }

    /// Name of an operation.
    pub fn name(&self, step: &Step) -> &'m str {
        find(self.bytes, Kind::Names, 0)
            .and_then(|s| s.get(step.name as usize..))
            .and_then(split_short_name)
            .unwrap_or("")
    }

    /// Section table, for reports.
    pub fn sections(&self) -> impl Iterator<Item = Entry> + use<'m> {
        let bytes = self.bytes;
        (0..).map_while(move |n| Entry::read(bytes, n))
    }

    /// A part's section.
    pub fn part(&self, id: PartId) -> Option<Part<'m>> {
        let (kind, index) = id.section();
        Some(Part { id, bytes: find(self.bytes, kind, index)? })
    }

    /// Stem and experts in the order in which they run.
    pub fn parts(&self) -> impl Iterator<Item = Part<'m>> + use<'m> {
        let model = *self;
        let experts = (0..self.experts() as u16).map(PartId::Expert);
        core::iter::once(PartId::Stem).chain(experts).filter_map(move |id| model.part(id))
    }

    /// The router behind expert `i`.
    pub fn router(&self, i: usize) -> Option<Router> {
        let part = self.part(PartId::Router(u16::try_from(i).ok()?))?;
        decode_router(part.bytes.first_chunk()?)
    }

    /// Where the scratch memory of kernels and routers lies in the arena.
    pub fn scratch(&self) -> core::ops::Range<usize> {
        match u32_at(self.head, field::SCRATCH_LEN) as usize {
            0 => 0..0,
            len => self.region(field::SCRATCH, len),
        }
    }

    /// Where the mean logits lie in the arena (binary32).
    pub fn logits(&self) -> core::ops::Range<usize> {
        self.region(field::LOGITS, 4 * self.classes())
    }

    /// Where the sum of the logits of the experts that have run lies in the arena (binary32).
    pub fn sum(&self) -> core::ops::Range<usize> {
        self.region(field::SUM, 4 * self.classes())
    }

    /// Where the pooled feature lies in the arena, its inverse norm included.
    pub fn feature(&self) -> core::ops::Range<usize> {
        self.region(field::FEATURE, feature_norm_at(usize::from(u16_at(self.head, field::FEATURES))) + 4)
    }

    /// Arena bytes from the offset in field `at`; the end saturates where 32 bits are not enough for it.
    fn region(&self, at: usize, len: usize) -> core::ops::Range<usize> {
        let at = u32_at(self.head, at) as usize;
        at..at.saturating_add(len)
    }

    pub(crate) fn golden(&self) -> &'m [u8] {
        find(self.bytes, Kind::Golden, 0).unwrap_or_default()
    }
}

/// Scratch bytes of a router: the largest logits, then the hidden units.
pub fn router_scratch(a: &Assignment) -> usize {
    4 * (usize::from(a.top_k) + usize::from(a.hidden.outputs))
}

/// A part's section: operations and their constants.
#[derive(Clone, Copy, Debug)]
pub struct Part<'m> {
    /// Which part.
    pub id: PartId,
    pub(crate) bytes: &'m [u8],
}

impl<'m> Part<'m> {
    /// Number of operations.
    pub fn len(&self) -> usize {
        u32_at(self.bytes, 0) as usize
    }

    /// Whether the part does nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the section.
    pub fn section_len(&self) -> usize {
        self.bytes.len()
    }

    /// Operation `i`.
    pub fn step(&self, i: usize) -> Option<Step> {
        if i >= self.len() {
            return None;
        }
        decode(self.bytes.get(PART_HEAD + i * RECORD_LEN..)?.first_chunk()?)
    }

    /// All operations.
    pub fn steps(&self) -> impl Iterator<Item = Step> + use<'m> {
        let part = *self;
        (0..).map_while(move |i| part.step(i))
    }

    /// Constants of one of the part's operations.
    pub fn constants(&self, s: Span) -> &'m [u8] {
        span(self.bytes, s).unwrap_or_default()
    }

    pub(crate) fn invalid(&self, reason: &'static str, at: usize) -> Error {
        Error::Invalid { section: self.id.section().0.name(), reason, at }
    }
}

fn span(section: &[u8], s: Span) -> Result<&[u8], &'static str> {
    let at = s.at as usize;
    let end = at.checked_add(s.len as usize).ok_or("constants reach beyond the section")?;
    if !at.is_multiple_of(4) {
        return Err("constants are misaligned");
    }
    section.get(at..end).ok_or("constants reach beyond the section")
}

fn missing(kind: Kind) -> Error {
    Error::Invalid { section: kind.name(), reason: "missing", at: 0 }
}

fn find(bytes: &[u8], kind: Kind, index: u16) -> Option<&[u8]> {
    (0..).map_while(|n| Entry::read(bytes, n)).find(|e| e.kind == kind && e.index == index)?.slice(bytes)
}

fn text(bytes: &[u8]) -> &str {
    let name = bytes.split(|&b| b == 0).next().unwrap_or_default();
    core::str::from_utf8(name).unwrap_or("")
}

/// A class name: length (u16), then UTF-8.
fn split_name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))?;
    Some((core::str::from_utf8(name).ok()?, rest))
}

/// An operation's name: length (u8), then UTF-8.
fn split_short_name(bytes: &[u8]) -> Option<&str> {
    let len = usize::from(*bytes.first()?);
    core::str::from_utf8(bytes.get(1..1 + len)?).ok()
}
