//! An artifact as a GPU runs it: a table of operations and their constants.

mod record;
mod weights;

use std::collections::HashMap;

use ride_runtime::model::{Model, Part, PartId};
use ride_runtime::op::{Conv, ConvShape, Dense, MaxPool, Op, Planes, Rule, Shortcut, Source};

use crate::{Error, Path};
use record::{Kind, Record, flag, rule};
use weights::Order;

/// Operations, constants, and how they are cut into parts.
#[derive(Debug)]
pub(crate) struct Program {
    /// Entries of the operation table.
    pub(crate) ops: Vec<u8>,
    pub(crate) constants: Vec<u8>,
    /// First operation of the stem, of each expert, and the end. An expert ends with an operation of its own behind those
    /// of the artifact, which combines logits and asks the router.
    pub(crate) parts: Vec<u32>,
    /// Words of control memory.
    pub(crate) control_words: usize,
    /// Words of the result: experts, a score and a decision for each, logits.
    pub(crate) result_words: usize,
}

/// Words of the result before the logits.
pub(crate) fn logits_at(experts: usize) -> usize {
    1 + 2 * experts
}

/// What the choice of tiles depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) path: Path,
    pub(crate) multiprocessors: u32,
}

struct Builder<'m> {
    model: Model<'m>,
    shape: Shape,
    constants: Vec<u8>,
    /// Tables of places by path-independent geometry: layers of one shape share theirs.
    taps: HashMap<(ConvShape, usize), u32>,
}

impl Program {
    pub(crate) fn new(model: Model<'_>, shape: Shape) -> Result<Self, Error> {
        let mut builder = Builder { model, shape, constants: Vec::new(), taps: HashMap::new() };
        let (mut ops, mut parts, mut count) = (Vec::new(), vec![0], 0);
        for part in model.parts() {
            for step in part.steps() {
                builder.record(&part, &step.op)?.write(&mut ops);
                count += 1;
            }
            if let PartId::Expert(i) = part.id {
                builder.join(&part, i)?.write(&mut ops);
                count += 1;
            }
            parts.push(count);
        }
        let routers = (0..model.experts()).filter_map(|i| model.router(i));
        let units =
            routers.filter_map(|r| r.assignment().map(|a| usize::from(a.top_k) + usize::from(a.hidden.outputs)));
        // Routers' keys and floats, as in `device/router.h`.
        let scratch = 2 * model.classes() + units.max().unwrap_or(0);
        Ok(Program {
            ops,
            constants: builder.constants,
            parts,
            control_words: 8 + scratch,
            result_words: logits_at(model.experts()) + model.classes(),
        })
    }
}

impl Builder<'_> {
    /// Appends constants; gives their offset.
    fn put(&mut self, bytes: &[u8]) -> Result<u32, Error> {
        // Loads are of at most 16 bytes, matrices aligned to 32.
        let at = self.constants.len().next_multiple_of(32);
        u32::try_from(at + bytes.len()).map_err(|_| Error::TooLarge)?;
        self.constants.resize(at, 0);
        self.constants.extend_from_slice(bytes);
        Ok(at as u32)
    }

    fn record(&mut self, part: &Part<'_>, op: &Op) -> Result<Record, Error> {
        Ok(match op {
            Op::Load(load) => {
                let (h, w, c) = self.model.input();
                let out_hi = load.out;
                Record {
                    kind: Kind::Load as u32,
                    in_h: h as u32,
                    in_w: w as u32,
                    in_c: c as u32,
                    out_hi,
                    ..Record::default()
                }
            }
            Op::Conv(conv) => self.conv(part, conv)?,
            Op::Shortcut(s) => shortcut(s),
            Op::MaxPool(m) => max_pool(m),
            Op::Pool(p) => Record {
                kind: Kind::Pool as u32,
                in_h: p.pixels,
                in_c: u32::from(p.channels),
                zero: i32::from(p.zero),
                right_shift: u32::from(p.shift),
                out_hi: p.out,
                ..source(p.source)
            },
            Op::Head(h) => {
                let dense = self.dense(part, &h.dense)?;
                let flags = dense.flags | set(flag::FINE, h.fine);
                Record { kind: Kind::Head as u32, flags, source_hi: h.source, out_hi: h.out, ..dense }
            }
        })
    }

    fn conv(&mut self, part: &Part<'_>, conv: &Conv) -> Result<Record, Error> {
        let s = conv.shape;
        let order = Order::new(self.shape.path, s);
        let plain = weights::unpack(part, conv);
        let weights = self.put(&order.weights(&plain))?;
        let params = self.put(&order.params(&plain))?;
        let taps = match self.taps.get(&(s, order.words)) {
            Some(&at) => at,
            None => {
                let mut table = Vec::new();
                order.taps(&mut table);
                let at = self.put(&table)?;
                self.taps.insert((s, order.words), at);
                at
            }
        };
        let at = match conv.source {
            Source::Image => 0,
            Source::Arena(at) | Source::Low(at) => at,
        };
        // As the source has it, twice, so that groups may start at any byte.
        let flip = if matches!(conv.source, Source::Arena(_)) { 0 } else { 0x80 };
        let [a, b, c, d] = conv.border.map(|byte| byte ^ flip);
        let border = self.put(&[a, b, c, d, a, b, c, d])?;
        let words = s.in_c.is_multiple_of(4) && s.group_in().is_multiple_of(4) && at.is_multiple_of(4);
        let flags = set(flag::ACCUMULATE, conv.accumulate)
            | set(flag::RAW, conv.raw)
            | set(flag::IMAGE, conv.source == Source::Image)
            | set(flag::UNSIGNED, flip != 0)
            | set(flag::WORDS, words);
        let out = output(conv.out);
        Ok(Record {
            kind: Kind::Conv as u32,
            flags: flags | out.flags,
            tile: u32::from(self.large_tiles(&s, order.columns)),
            in_h: u32::from(s.in_h),
            in_w: u32::from(s.in_w),
            in_c: u32::from(s.in_c),
            out_h: s.out_h() as u32,
            out_w: s.out_w() as u32,
            out_c: u32::from(s.out_c),
            kernel: u32::from(s.kernel),
            stride: u32::from(s.stride),
            padding: u32::from(s.padding),
            groups: u32::from(s.groups),
            group_in: s.group_in() as u32,
            group_out: s.group_out() as u32,
            words: order.words as u32,
            columns: order.columns as u32,
            source_hi: at,
            zero: i32::from(conv.limits.zero),
            min: i32::from(conv.limits.min),
            max: i32::from(conv.limits.max),
            border,
            taps,
            weights,
            params,
            ..out
        })
    }

    /// Whether tiles that reuse more of what they load still keep every warp busy: about eight warps a multiprocessor.
    fn large_tiles(&self, s: &ConvShape, columns: usize) -> bool {
        let pixels = s.out_h() * s.out_w();
        let warps = 8 * self.shape.multiprocessors as usize;
        match self.shape.path {
            Path::F32 | Path::Dp4a => {
                s.groups == 1 && pixels.div_ceil(4) * usize::from(s.out_c).div_ceil(4) >= 16 * warps
            }
            Path::Wmma => pixels.div_ceil(16) * columns.div_ceil(32) * usize::from(s.groups) >= warps,
            Path::Mma => pixels.div_ceil(32) * columns.div_ceil(32) * usize::from(s.groups) >= warps,
        }
    }

    fn dense(&mut self, part: &Part<'_>, layer: &Dense) -> Result<Record, Error> {
        let weights = self.put(&weights::dense_rows(part, layer))?;
        let params = self.put(part.constants(layer.params))?;
        Ok(Record {
            flags: set(flag::NORMALIZE, layer.normalize),
            features: u32::from(layer.features),
            outputs: u32::from(layer.outputs),
            weights,
            params,
            ..Record::default()
        })
    }

    /// What follows expert `i`: combiner and router.
    fn join(&mut self, part: &Part<'_>, i: u16) -> Result<Record, Error> {
        let head = part.steps().last().map(|step| step.op);
        let divisor = if let Some(Op::Head(head)) = head { head.divisor } else { 1.0 };
        let mut record = Record { rule: rule::NONE, ..Record::default() };
        if let Some(router) = self.model.router(usize::from(i))
            && let Some(constants) = self.model.part(PartId::Router(i))
        {
            match router.rule {
                Rule::Confidence(criterion) => record.rule = rule::CONFIDENCE + criterion as u32,
                Rule::Assignment(a) => {
                    record = self.dense(&constants, &a.hidden)?;
                    record.rule = rule::ASSIGNMENT;
                    record.top_k = u32::from(a.top_k);
                    record.fc = self.put(constants.constants(a.fc))?;
                }
            }
            record.threshold = router.threshold;
        }
        let experts = self.model.experts();
        Ok(Record {
            kind: Kind::Join as u32,
            flags: record.flags | set(flag::FIRST, i == 0),
            source_hi: self.model.logits().start as u32,
            source_lo: self.model.sum().start as u32,
            feature: self.model.feature().start as u32,
            out_c: self.model.classes() as u32,
            logits: logits_at(experts) as u32,
            before: u32::from(i),
            divisor,
            ..record
        })
    }
}

fn set(flag: u32, condition: bool) -> u32 {
    if condition { flag } else { 0 }
}

fn source(planes: Planes) -> Record {
    let flags = set(flag::WIDE, planes.lo.is_some());
    Record { source_hi: planes.hi, source_lo: planes.lo.unwrap_or(0), flags, ..Record::default() }
}

fn output(planes: Planes) -> Record {
    let flags = set(flag::WIDE, planes.lo.is_some());
    Record { out_hi: planes.hi, out_lo: planes.lo.unwrap_or(0), flags, ..Record::default() }
}

fn shortcut(s: &Shortcut) -> Record {
    Record {
        kind: Kind::Shortcut as u32,
        in_h: u32::from(s.in_h),
        in_w: u32::from(s.in_w),
        in_c: u32::from(s.in_c),
        out_h: s.out_h() as u32,
        out_w: s.out_w() as u32,
        out_c: u32::from(s.out_c),
        stride: u32::from(s.stride),
        before: u32::from(s.before),
        source_hi: s.source.hi,
        source_lo: s.source.lo.unwrap_or(0),
        in_zero: i32::from(s.in_zero),
        zero: i32::from(s.limits.zero),
        min: i32::from(s.limits.min),
        max: i32::from(s.limits.max),
        multiplier: s.multiplier,
        right_shift: u32::from(s.right_shift),
        ..output(s.out)
    }
}

fn max_pool(m: &MaxPool) -> Record {
    Record {
        kind: Kind::MaxPool as u32,
        in_h: u32::from(m.in_h),
        in_w: u32::from(m.in_w),
        in_c: u32::from(m.channels),
        out_h: m.out_h() as u32,
        out_w: m.out_w() as u32,
        out_c: u32::from(m.channels),
        kernel: u32::from(m.kernel),
        stride: u32::from(m.stride),
        padding: u32::from(m.padding),
        source_hi: m.source.hi,
        source_lo: m.source.lo.unwrap_or(0),
        ..output(m.out)
    }
}
