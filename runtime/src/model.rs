//! A validated artifact: [`Model::parse`] checks everything once, so that execution cannot fail on bad bytes.

use crate::Error;
use crate::arith::{MAX_RIGHT_SHIFT, MIN_RIGHT_SHIFT};
use crate::format::header::{self, Entry, Kind, model as field};
use crate::format::record::{PART_HEAD, RECORD_LEN, ROUTER_HEAD, decode, decode_router};
use crate::format::{MAX_EXPERTS, MAX_WEIGHTS, f32_at, u16_at, u32_at};
use crate::kernels::{self, dense};
use crate::lifetimes;
use crate::op::{
    Assignment, Conv, Dense, Layout, Limits, MaxPool, Op, Planes, Router, Shortcut, Source, Span, Step, feature_norm_at,
};

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
        model.check_head()?;
        model.check_sections()?;
        model.check_parts()?;
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

    fn check_head(&self) -> Result<(), Error> {
        let bad = |reason, at| Err(Error::Invalid { section: "model", reason, at });
        let (h, w, c) = self.input();
        if h == 0 || w == 0 || c == 0 || c > 4 || h > 8192 || w > 8192 {
            return bad("input must have 1..=4 channels and 1..=8192 rows and columns", field::HEIGHT);
        }
        if !(1..=MAX_EXPERTS).contains(&self.experts()) {
            return bad("number of experts is out of range", field::EXPERTS);
        }
        if !(1..=65535).contains(&self.classes()) {
            return bad("number of classes is out of range", field::CLASSES);
        }
        if self.head[field::ROUTED] > 1 || self.routed() && self.experts() < 2 {
            return bad("routing flag is wrong", field::ROUTED);
        }
        match Layout::decode(self.head[field::LAYOUT]) {
            None => return bad("unknown weight layout", field::LAYOUT),
            Some(layout) if layout != layout.known() => return Err(Error::NoKernel { layout: layout.name() }),
            Some(_) => {}
        }
        if !matches!(self.residual_bits(), 8 | 16) {
            return bad("residual stream must have 8 or 16 bits", field::RESIDUAL_BITS);
        }
        if !(1..=32768).contains(&u16_at(self.head, field::FEATURES)) {
            return bad("length of the feature is out of range", field::FEATURES);
        }
        let regions = [self.scratch(), self.logits(), self.sum(), self.feature()];
        if let Some(range) = regions.iter().find(|r| r.end > self.arena_len() || !r.start.is_multiple_of(4)) {
            return bad("a fixed region does not lie in the arena or is misaligned", range.start);
        }
        if overlap(&regions) {
            return bad("fixed regions overlap", field::SCRATCH);
        }
        // Constant ranges: their checks disappear.
        let names = [
            (field::TARGET, &self.head[field::TARGET..][..32]),
            (field::ARCH, &self.head[field::ARCH..][..32]),
            (field::FINGERPRINT, &self.head[field::FINGERPRINT..][..32]),
        ];
        if let Some((at, _)) = names.iter().find(|(_, name)| core::str::from_utf8(name).is_err()) {
            return bad("a name is not UTF-8", *at);
        }
        Ok(())
    }

    /// Exactly the sections that the head announces, in their order.
    fn check_sections(&self) -> Result<(), Error> {
        let experts = self.experts() as u16;
        let routers = if self.routed() { experts - 1 } else { 0 };
        let once = |k| (k, 0);
        let want = [Kind::Model, Kind::Classes, Kind::Names, Kind::Stem]
            .into_iter()
            .map(once)
            .chain((0..experts).map(|i| (Kind::Expert, i)))
            .chain((0..routers).map(|i| (Kind::Router, i)))
            .chain(core::iter::once(once(Kind::Golden)));
        let mut found = self.sections();
        for (n, (kind, index)) in want.enumerate() {
            if !found.next().is_some_and(|e| e.kind == kind && e.index == index) {
                return Err(Error::Invalid { section: kind.name(), reason: "missing or not in its place", at: n });
            }
        }
        if found.next().is_some() {
            return Err(Error::Invalid { section: "section table", reason: "more sections than announced", at: 0 });
        }
        self.check_classes()?;
        crate::golden::check(self)
    }

    fn check_classes(&self) -> Result<(), Error> {
        let bad = |reason, at| Err(Error::Invalid { section: "classes", reason, at });
        let section = find(self.bytes, Kind::Classes, 0).ok_or(missing(Kind::Classes))?;
        let Some(mut names) = section.get(4 * self.classes()..) else { return bad("too short", section.len()) };
        for class in 0..self.classes() {
            match split_name(names) {
                Some((_, rest)) => names = rest,
                None => return bad("a class name is cut off or is not UTF-8", class),
            }
        }
        if names.is_empty() { Ok(()) } else { bad("bytes after the last class name", names.len()) }
    }

    fn check_parts(&self) -> Result<(), Error> {
        for part in self.parts() {
            part.check_len()?;
            for i in 0..part.len() {
                let step = part.step(i).ok_or(part.invalid("unknown operation", i))?;
                self.check_step(&part, i, &step)?;
            }
        }
        for i in 0..if self.routed() { self.experts() - 1 } else { 0 } {
            self.check_router(i)?;
        }
        lifetimes::check(self)
    }

    fn check_step(&self, part: &Part<'_>, i: usize, step: &Step) -> Result<(), Error> {
        let bad = |reason| Err(part.invalid(reason, i));
        match &step.op {
            Op::Load(l) if l.len as usize != self.input_len() => Err("the loaded image has another size"),
            Op::Load(_) => Ok(()),
            Op::Conv(c) => self.check_conv(part, c),
            Op::Shortcut(s) => check_shortcut(s),
            Op::MaxPool(m) => check_max_pool(m),
            Op::Pool(p) => match () {
                () if p.pixels == 0 || p.pixels > 32768 => Err("pooled area is out of range"),
                () if p.shift > 31 => Err("shift is out of range"),
                () if u32::from(p.channels) != u32::from(u16_at(self.head, field::FEATURES)) => {
                    Err("length of the feature differs from the model's")
                }
                () if p.out as usize != self.feature().start => Err("feature is not where the model keeps it"),
                () => Ok(()),
            },
            Op::Head(h) => match () {
                () if h.source as usize != self.feature().start || h.out as usize != self.logits().start => {
                    Err("classifier does not connect feature and logits")
                }
                () if usize::from(h.dense.outputs) != self.classes() => {
                    Err("classifier has the wrong number of classes")
                }
                () if !h.divisor.is_normal() || h.divisor < 0.0 => {
                    Err("the divisor of the logits is no positive number")
                }
                () => self.check_dense(part.bytes, &h.dense),
            },
        }
        .or_else(bad)?;
        if !step.scale.is_finite() {
            return bad("scale is not a number");
        }
        if self.name_is_bad(step) {
            return bad("name is missing or not UTF-8");
        }
        self.check_ranges(part, i, &step.op)
    }

    fn name_is_bad(&self, step: &Step) -> bool {
        find(self.bytes, Kind::Names, 0).and_then(|s| s.get(step.name as usize..)).and_then(split_short_name).is_none()
    }

    /// Everything that an operation touches lies in the arena and does not overlap, except that a convolution adds in
    /// place to its own output.
    fn check_ranges(&self, part: &Part<'_>, i: usize, op: &Op) -> Result<(), Error> {
        let [r0, r1] = op.reads();
        let [w0, w1] = op.writes();
        let mut ranges = [0..0, 0..0, 0..0, 0..0, self.scratch()];
        for (slot, range) in ranges.iter_mut().zip([r0, r1, w0, w1]) {
            if let Some((at, len)) = range {
                *slot = at..at.saturating_add(len);
            }
        }
        if ranges.iter().any(|r| r.end > self.arena_len()) {
            return Err(part.invalid("an activation does not lie in the arena", i));
        }
        if overlap(&ranges) {
            return Err(part.invalid("activations of an operation overlap", i));
        }
        Ok(())
    }

    fn check_conv(&self, part: &Part<'_>, c: &Conv) -> Result<(), &'static str> {
        let s = c.shape;
        if s.in_h == 0 || s.in_w == 0 || s.in_c == 0 || s.out_c == 0 || s.out_h() == 0 || s.out_w() == 0 {
            return Err("convolution is empty");
        }
        if !(1..=15).contains(&s.kernel) || !(1..=8).contains(&s.stride) || s.padding >= s.kernel {
            return Err("window, stride or padding is out of range");
        }
        if s.groups == 0 || !s.in_c.is_multiple_of(s.groups) || !s.out_c.is_multiple_of(s.groups) {
            return Err("groups do not divide the channels");
        }
        let weights = s.taps() as u64 * u64::from(s.out_c);
        if too_large([s.in_h, s.in_w, s.in_c], [s.out_h(), s.out_w()], s.out_c)
            || s.taps() > 1 << 16
            || kernels::weights_len(&s, c.layout) > MAX_WEIGHTS
            || weights > MAX_WEIGHTS as u64
        {
            return Err("convolution is too large");
        }
        if c.source == Source::Image && s.input_len() != self.input_len() {
            return Err("convolution does not fit the image");
        }
        if c.layout != self.layout() {
            return Err("weight layout differs from the model's");
        }
        check_limits(c.limits, c.out)?;
        check_raw(c)?;
        if s.in_c > 4 && c.border != [c.border[0]; 4] {
            return Err("border differs between channels");
        }
        if c.acc_bits > 31 {
            return Err("accumulator has too many bits");
        }
        if c.weights.len as usize != kernels::weights_len(&s, c.layout) {
            return Err("weights have the wrong length");
        }
        span(part.bytes, c.weights)?;
        let params = kernels::Params::new(span(part.bytes, c.params)?, kernels::padded_channels(&s, c.layout));
        if params.right_shift.iter().any(|r| !(MIN_RIGHT_SHIFT..=MAX_RIGHT_SHIFT).contains(r)) {
            return Err("a right shift is out of range");
        }
        if !(0..params.right_shift.len()).all(|i| is_normalised(params.multiplier(i))) {
            return Err("a multiplier is not normalised");
        }
        Ok(())
    }

    fn check_dense(&self, section: &[u8], d: &Dense) -> Result<(), &'static str> {
        if d.features != u16_at(self.head, field::FEATURES) || d.outputs == 0 {
            return Err("layer does not fit the feature");
        }
        if d.layout != self.layout() {
            return Err("weight layout differs from the model's");
        }
        if d.weights.len as usize != dense::weights_len(d.features, d.outputs, d.layout) {
            return Err("weights have the wrong length");
        }
        span(section, d.weights)?;
        span(section, d.params).map(|_| ())
    }

    fn check_router(&self, i: usize) -> Result<(), Error> {
        let bad = |reason| Error::Invalid { section: "router", reason, at: i };
        let part = self.part(PartId::Router(i as u16)).ok_or(missing(Kind::Router))?;
        if part.bytes.len() < ROUTER_HEAD {
            return Err(bad("too short"));
        }
        let router = self.router(i).ok_or(bad("unknown rule or layout"))?;
        let Some(a) = router.assignment() else { return Ok(()) };
        self.check_dense(part.bytes, &a.hidden).map_err(bad)?;
        span(part.bytes, a.fc).map_err(bad)?;
        if a.top_k == 0 || usize::from(a.top_k) > self.classes() {
            return Err(bad("number of largest logits is out of range"));
        }
        if router_scratch(a) > self.scratch().len() {
            return Err(bad("scratch memory is too small"));
        }
        Ok(())
    }
}

/// Scratch bytes of a router: the largest logits, then the hidden units.
pub fn router_scratch(a: &Assignment) -> usize {
    4 * (usize::from(a.top_k) + usize::from(a.hidden.outputs))
}

fn check_limits(l: Limits, out: Planes) -> Result<(), &'static str> {
    let narrow = i16::from(i8::MIN)..=i16::from(i8::MAX);
    let fits = |v| out.lo.is_some() || narrow.contains(&v);
    if l.min > l.max || ![l.zero, l.min, l.max].into_iter().all(fits) {
        return Err("zero point or limits are out of range");
    }
    Ok(())
}

/// Raw values have 16 bits, no zero point and no limits.
fn check_raw(c: &Conv) -> Result<(), &'static str> {
    if c.raw && c.out.lo.is_none() {
        return Err("raw values must be wide");
    }
    if c.raw && !c.accumulate && c.limits != (Limits { zero: 0, min: i16::MIN, max: i16::MAX }) {
        return Err("raw values have no zero point and no limits");
    }
    Ok(())
}

fn check_max_pool(m: &MaxPool) -> Result<(), &'static str> {
    if m.in_h == 0 || m.in_w == 0 || m.channels == 0 || m.out_h() == 0 || m.out_w() == 0 {
        return Err("max pooling is empty");
    }
    if !(1..=15).contains(&m.kernel) || !(1..=8).contains(&m.stride) || m.padding >= m.kernel {
        return Err("window, stride or padding is out of range");
    }
    if m.source.lo.is_some() != m.out.lo.is_some() {
        return Err("max pooling joins a narrow and a wide activation");
    }
    if too_large([m.in_h, m.in_w, m.channels], [m.out_h(), m.out_w()], m.channels) {
        return Err("max pooling is too large");
    }
    Ok(())
}

/// Whether a plane has more than 2^28 bytes; in 64 bits, because sizes in `usize` may wrap on small machines.
fn too_large(input: [u16; 3], [out_h, out_w]: [usize; 2], out_c: u16) -> bool {
    let input = input.into_iter().map(u64::from).product::<u64>();
    let output = out_h as u64 * out_w as u64 * u64::from(out_c);
    input.max(output) > 1 << 28
}

/// Whether a multiplier is one that the law allows: in `[2^30, 2^31)`, or 0 for what is not used.
fn is_normalised(multiplier: i32) -> bool {
    multiplier == 0 || multiplier >= 1 << 30
}

fn check_shortcut(s: &Shortcut) -> Result<(), &'static str> {
    if s.in_h == 0 || s.in_w == 0 || s.in_c == 0 || !(1..=8).contains(&s.stride) {
        return Err("shortcut is empty or its stride is out of range");
    }
    if usize::from(s.before) + usize::from(s.in_c) > usize::from(s.out_c) {
        return Err("shortcut has fewer output than input channels");
    }
    if s.source.lo.is_some() != s.out.lo.is_some() {
        return Err("shortcut joins a narrow and a wide activation");
    }
    if !(MIN_RIGHT_SHIFT..=MAX_RIGHT_SHIFT).contains(&s.right_shift) {
        return Err("a right shift is out of range");
    }
    if !is_normalised(s.multiplier) {
        return Err("a multiplier is not normalised");
    }
    if too_large([s.in_h, s.in_w, s.in_c], [s.out_h(), s.out_w()], s.out_c) {
        return Err("shortcut is too large");
    }
    check_limits(s.limits, s.out)
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

    fn check_len(&self) -> Result<(), Error> {
        let needed = self.len().checked_mul(RECORD_LEN).and_then(|n| n.checked_add(PART_HEAD));
        match needed {
            Some(n) if n <= self.bytes.len() && self.bytes.len() >= PART_HEAD => Ok(()),
            _ => Err(self.invalid("operations reach beyond the section", self.bytes.len())),
        }
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

fn overlap(ranges: &[core::ops::Range<usize>]) -> bool {
    ranges.iter().enumerate().any(|(i, a)| {
        let mut later = ranges.iter().skip(i + 1);
        later.any(|b| !a.is_empty() && !b.is_empty() && a.start < b.end && b.start < a.end)
    })
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
