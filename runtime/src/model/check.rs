//! What [`Model::parse`] checks: sections, every operation by itself, and how they follow each other.

use super::{Model, Part, PartId, find, missing, router_scratch, span, split_name, split_short_name};
use crate::Error;
use crate::arith::{MAX_RIGHT_SHIFT, MIN_RIGHT_SHIFT};
use crate::format::header::{Kind, model as field};
use crate::format::record::{PART_HEAD, RECORD_LEN, ROUTER_HEAD};
use crate::format::{MAX_EXPERTS, MAX_WEIGHTS, u16_at};
use crate::kernels::{self, dense};
use crate::lifetimes;
use crate::op::{Conv, Dense, Layout, Limits, MaxPool, Op, Planes, Shortcut, Source, Step};

impl Model<'_> {
    /// Everything, once the model section has been found.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.check_head()?;
        self.check_sections()?;
        self.check_parts()
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
                () if h.classes() != self.classes() || h.fine && !h.dense.outputs.is_multiple_of(2) => {
                    Err("classifier has the wrong number of classes")
                }
                () if h.scratch_len() > self.scratch().len() => Err("scratch memory is too small"),
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

impl Part<'_> {
    fn check_len(&self) -> Result<(), Error> {
        let needed = self.len().checked_mul(RECORD_LEN).and_then(|n| n.checked_add(PART_HEAD));
        match needed {
            Some(n) if n <= self.bytes.len() && self.bytes.len() >= PART_HEAD => Ok(()),
            _ => Err(self.invalid("operations reach beyond the section", self.bytes.len())),
        }
    }
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

fn overlap(ranges: &[core::ops::Range<usize>]) -> bool {
    ranges.iter().enumerate().any(|(i, a)| {
        let mut later = ranges.iter().skip(i + 1);
        later.any(|b| !a.is_empty() && !b.is_empty() && a.start < b.end && b.start < a.end)
    })
}
