//! The 64-byte record of one operation: field offsets, [`decode`] and [`encode`] side by side.

use super::{f32_at, u16_at, u32_at};
use crate::op::{
    Assignment, Conv, ConvShape, Criterion, Dense, Head, Layout, Limits, Load, MaxPool, NONE, Op, Planes, Pool, Router,
    Rule, Shortcut, Source, Span, Step,
};

/// Bytes of a record.
pub const RECORD_LEN: usize = 64;
/// Bytes before the first record of a part's section: the number of operations (u32), then zeros.
pub const PART_HEAD: usize = 16;
/// Bytes of the fixed head of a router's section.
pub const ROUTER_HEAD: usize = 64;

/// Field offsets; fields that a kind of operation does not use are zero.
mod field {
    /// Fields of every kind.
    pub(super) const KIND: usize = 0;
    pub(super) const KERNEL: usize = 1;
    pub(super) const STRIDE: usize = 2;
    pub(super) const PADDING: usize = 3;
    pub(super) const IN_H: usize = 4;
    pub(super) const IN_W: usize = 6;
    pub(super) const IN_C: usize = 8;
    pub(super) const OUT_C: usize = 10;
    pub(super) const LAYOUT: usize = 12;
    pub(super) const FLAGS: usize = 13;
    /// `acc_bits` of a convolution, right shift of a shortcut, shift of a pooling.
    pub(super) const SHIFT: usize = 14;
    pub(super) const SOURCE: usize = 16;
    pub(super) const SOURCE_LO: usize = 20;
    pub(super) const OUT: usize = 24;
    pub(super) const OUT_LO: usize = 28;
    pub(super) const WEIGHTS: usize = 32;
    pub(super) const WEIGHTS_LEN: usize = 36;
    pub(super) const PARAMS: usize = 40;
    /// Border bytes of a convolution, multiplier of a shortcut, pixels of a pooling, divisor of a classifier, length of a
    /// loaded image.
    pub(super) const EXTRA: usize = 44;
    pub(super) const ZERO: usize = 48;
    pub(super) const MIN: usize = 50;
    pub(super) const MAX: usize = 52;
    /// Zero point of the input; groups of a convolution.
    pub(super) const IN_ZERO: usize = 54;
    pub(super) const GROUPS: usize = IN_ZERO;
    pub(super) const SCALE: usize = 56;
    pub(super) const NAME: usize = 60;

    /// A router's head: [`KIND`] is 0 for an expert assignment, with the hidden layer's fields as above and these, or else
    /// the [`crate::op::Criterion`], which only has a threshold.
    pub(super) const TOP_K: usize = 16;
    pub(super) const THRESHOLD: usize = 20;
    pub(super) const FC: usize = 24;
}

const CONV: u8 = 1;
const SHORTCUT: u8 = 2;
const POOL: u8 = 3;
const HEAD: u8 = 4;
const MAX_POOL: u8 = 5;
const LOAD: u8 = 16;

const IMAGE: u8 = 1;
const ACCUMULATE: u8 = 2;
const NORMALIZE: u8 = 4;
const RAW: u8 = 8;
const LOW: u8 = 16;
const FINE: u8 = 32;

/// Length of a layer's parameter arrays.
pub fn dense_params_len(outputs: u16) -> u32 {
    8 * u32::from(outputs)
}

fn planes(r: &[u8], hi: usize, lo: usize) -> Planes {
    let low = u32_at(r, lo);
    Planes { hi: u32_at(r, hi), lo: (low != NONE).then_some(low) }
}

fn limits(r: &[u8]) -> Limits {
    let at = |f| u16_at(r, f) as i16;
    Limits { zero: at(field::ZERO), min: at(field::MIN), max: at(field::MAX) }
}

fn dense(r: &[u8]) -> Option<Dense> {
    let outputs = u16_at(r, field::OUT_C);
    if r[field::FLAGS] & !(NORMALIZE | FINE) != 0 {
        return None;
    }
    Some(Dense {
        features: u16_at(r, field::IN_C),
        outputs,
        weights: Span { at: u32_at(r, field::WEIGHTS), len: u32_at(r, field::WEIGHTS_LEN) },
        params: Span { at: u32_at(r, field::PARAMS), len: dense_params_len(outputs) },
        layout: Layout::decode(r[field::LAYOUT])?,
        normalize: r[field::FLAGS] & NORMALIZE != 0,
    })
}

fn conv(r: &[u8]) -> Option<Conv> {
    let shape = ConvShape {
        in_h: u16_at(r, field::IN_H),
        in_w: u16_at(r, field::IN_W),
        in_c: u16_at(r, field::IN_C),
        out_c: u16_at(r, field::OUT_C),
        kernel: r[field::KERNEL],
        stride: r[field::STRIDE],
        padding: r[field::PADDING],
        groups: u16_at(r, field::GROUPS),
    };
    let layout = Layout::decode(r[field::LAYOUT])?;
    let flags = r[field::FLAGS];
    if flags & !(IMAGE | ACCUMULATE | RAW | LOW) != 0 {
        // Of a newer compiler: what it means would be left out.
        return None;
    }
    Some(Conv {
        shape,
        source: match (flags & IMAGE != 0, flags & LOW != 0) {
            (false, false) => Source::Arena(u32_at(r, field::SOURCE)),
            (false, true) => Source::Low(u32_at(r, field::SOURCE)),
            (true, false) => Source::Image,
            (true, true) => return None,
        },
        out: planes(r, field::OUT, field::OUT_LO),
        accumulate: flags & ACCUMULATE != 0,
        raw: flags & RAW != 0,
        limits: limits(r),
        border: u32_at(r, field::EXTRA).to_le_bytes(),
        weights: Span { at: u32_at(r, field::WEIGHTS), len: u32_at(r, field::WEIGHTS_LEN) },
        params: Span { at: u32_at(r, field::PARAMS), len: crate::kernels::params_len(&shape, layout) as u32 },
        layout,
        acc_bits: r[field::SHIFT],
    })
}

fn shortcut(r: &[u8]) -> Shortcut {
    Shortcut {
        in_h: u16_at(r, field::IN_H),
        in_w: u16_at(r, field::IN_W),
        in_c: u16_at(r, field::IN_C),
        out_c: u16_at(r, field::OUT_C),
        stride: r[field::STRIDE],
        before: u16_at(r, field::WEIGHTS),
        source: planes(r, field::SOURCE, field::SOURCE_LO),
        out: planes(r, field::OUT, field::OUT_LO),
        in_zero: u16_at(r, field::IN_ZERO) as i16,
        limits: limits(r),
        multiplier: u32_at(r, field::EXTRA) as i32,
        right_shift: r[field::SHIFT],
    }
}

fn max_pool(r: &[u8]) -> MaxPool {
    MaxPool {
        in_h: u16_at(r, field::IN_H),
        in_w: u16_at(r, field::IN_W),
        channels: u16_at(r, field::IN_C),
        kernel: r[field::KERNEL],
        stride: r[field::STRIDE],
        padding: r[field::PADDING],
        source: planes(r, field::SOURCE, field::SOURCE_LO),
        out: planes(r, field::OUT, field::OUT_LO),
        zero: u16_at(r, field::ZERO) as i16,
    }
}

/// Reads a record; `None` if it is no operation of this format. Ranges are checked by the caller.
pub fn decode(r: &[u8; RECORD_LEN]) -> Option<Step> {
    let op = match r[field::KIND] {
        CONV => Op::Conv(conv(r)?),
        SHORTCUT => Op::Shortcut(shortcut(r)),
        MAX_POOL => Op::MaxPool(max_pool(r)),
        POOL => Op::Pool(Pool {
            pixels: u32_at(r, field::EXTRA),
            channels: u16_at(r, field::IN_C),
            source: planes(r, field::SOURCE, field::SOURCE_LO),
            zero: u16_at(r, field::IN_ZERO) as i16,
            shift: r[field::SHIFT],
            out: u32_at(r, field::OUT),
        }),
        HEAD => Op::Head(Head {
            dense: dense(r)?,
            fine: r[field::FLAGS] & FINE != 0,
            source: u32_at(r, field::SOURCE),
            out: u32_at(r, field::OUT),
            divisor: f32_at(r, field::EXTRA),
        }),
        LOAD => Op::Load(Load { out: u32_at(r, field::OUT), len: u32_at(r, field::EXTRA) }),
        _ => return None,
    };
    Some(Step { op, name: u32_at(r, field::NAME), scale: f32_at(r, field::SCALE) })
}

/// Builds a record field by field.
struct Fields([u8; RECORD_LEN]);

impl Fields {
    fn u8(&mut self, at: usize, v: u8) {
        self.0[at] = v;
    }

    fn u16(&mut self, at: usize, v: u16) {
        self.0[at..at + 2].copy_from_slice(&v.to_le_bytes());
    }

    fn u32(&mut self, at: usize, v: u32) {
        self.0[at..at + 4].copy_from_slice(&v.to_le_bytes());
    }

    fn planes(&mut self, hi: usize, lo: usize, p: Planes) {
        self.u32(hi, p.hi);
        self.u32(lo, p.lo.unwrap_or(NONE));
    }

    fn limits(&mut self, l: Limits) {
        self.u16(field::ZERO, l.zero as u16);
        self.u16(field::MIN, l.min as u16);
        self.u16(field::MAX, l.max as u16);
    }

    fn dense(&mut self, d: &Dense) {
        self.u16(field::IN_C, d.features);
        self.u16(field::OUT_C, d.outputs);
        self.u32(field::WEIGHTS, d.weights.at);
        self.u32(field::WEIGHTS_LEN, d.weights.len);
        self.u32(field::PARAMS, d.params.at);
        self.u8(field::LAYOUT, d.layout as u8);
        self.u8(field::FLAGS, if d.normalize { NORMALIZE } else { 0 });
    }

    fn conv(&mut self, c: &Conv) {
        let s = c.shape;
        self.u8(field::KIND, CONV);
        for (at, v) in [(field::KERNEL, s.kernel), (field::STRIDE, s.stride), (field::PADDING, s.padding)] {
            self.u8(at, v);
        }
        for (at, v) in [(field::IN_H, s.in_h), (field::IN_W, s.in_w), (field::IN_C, s.in_c), (field::OUT_C, s.out_c)] {
            self.u16(at, v);
        }
        let (source, at) = match c.source {
            Source::Image => (IMAGE, 0),
            Source::Arena(at) => (0, at),
            Source::Low(at) => (LOW, at),
        };
        self.planes(field::SOURCE, field::SOURCE_LO, Planes { hi: at, lo: None });
        self.planes(field::OUT, field::OUT_LO, c.out);
        let flags = [(c.accumulate, ACCUMULATE), (c.raw, RAW)].map(|(set, bit)| if set { bit } else { 0 });
        self.u8(field::FLAGS, source | flags[0] | flags[1]);
        self.u16(field::GROUPS, s.groups);
        self.limits(c.limits);
        self.u32(field::EXTRA, u32::from_le_bytes(c.border));
        self.u32(field::WEIGHTS, c.weights.at);
        self.u32(field::WEIGHTS_LEN, c.weights.len);
        self.u32(field::PARAMS, c.params.at);
        self.u8(field::LAYOUT, c.layout as u8);
        self.u8(field::SHIFT, c.acc_bits);
    }

    fn shortcut(&mut self, s: &Shortcut) {
        self.u8(field::KIND, SHORTCUT);
        for (at, v) in [(field::IN_H, s.in_h), (field::IN_W, s.in_w), (field::IN_C, s.in_c), (field::OUT_C, s.out_c)] {
            self.u16(at, v);
        }
        self.u8(field::STRIDE, s.stride);
        self.u16(field::WEIGHTS, s.before);
        self.planes(field::SOURCE, field::SOURCE_LO, s.source);
        self.planes(field::OUT, field::OUT_LO, s.out);
        self.u16(field::IN_ZERO, s.in_zero as u16);
        self.limits(s.limits);
        self.u32(field::EXTRA, s.multiplier as u32);
        self.u8(field::SHIFT, s.right_shift);
    }

    fn max_pool(&mut self, m: &MaxPool) {
        self.u8(field::KIND, MAX_POOL);
        for (at, v) in [(field::KERNEL, m.kernel), (field::STRIDE, m.stride), (field::PADDING, m.padding)] {
            self.u8(at, v);
        }
        for (at, v) in [(field::IN_H, m.in_h), (field::IN_W, m.in_w), (field::IN_C, m.channels)] {
            self.u16(at, v);
        }
        self.planes(field::SOURCE, field::SOURCE_LO, m.source);
        self.planes(field::OUT, field::OUT_LO, m.out);
        self.u16(field::ZERO, m.zero as u16);
    }

    fn pool(&mut self, p: &Pool) {
        self.u8(field::KIND, POOL);
        self.u32(field::EXTRA, p.pixels);
        self.u16(field::IN_C, p.channels);
        self.planes(field::SOURCE, field::SOURCE_LO, p.source);
        self.u16(field::IN_ZERO, p.zero as u16);
        self.u8(field::SHIFT, p.shift);
        self.u32(field::OUT, p.out);
    }
}

/// Writes a record.
pub fn encode(step: &Step) -> [u8; RECORD_LEN] {
    let mut f = Fields([0; RECORD_LEN]);
    match &step.op {
        Op::Conv(c) => f.conv(c),
        Op::Shortcut(s) => f.shortcut(s),
        Op::MaxPool(m) => f.max_pool(m),
        Op::Pool(p) => f.pool(p),
        Op::Head(h) => {
            f.u8(field::KIND, HEAD);
            f.dense(&h.dense);
            f.0[field::FLAGS] |= if h.fine { FINE } else { 0 };
            f.u32(field::SOURCE, h.source);
            f.u32(field::OUT, h.out);
            f.u32(field::EXTRA, h.divisor.to_bits());
        }
        Op::Load(l) => {
            f.u8(field::KIND, LOAD);
            f.u32(field::OUT, l.out);
            f.u32(field::EXTRA, l.len);
        }
    }
    f.u32(field::SCALE, step.scale.to_bits());
    f.u32(field::NAME, step.name);
    f.0
}

/// Reads the head of a router's section.
pub fn decode_router(r: &[u8; ROUTER_HEAD]) -> Option<Router> {
    let rule = match r[field::KIND] {
        0 if r[field::FLAGS] & FINE != 0 => return None,
        0 => {
            let hidden = dense(r)?;
            let top_k = u16_at(r, field::TOP_K);
            let len = 4 * (u32::from(top_k) + u32::from(hidden.outputs) + 1);
            Rule::Assignment(Assignment { hidden, top_k, fc: Span { at: u32_at(r, field::FC), len } })
        }
        criterion => Rule::Confidence(Criterion::decode(criterion)?),
    };
    Some(Router { rule, threshold: f32_at(r, field::THRESHOLD) })
}

/// Writes the head of a router's section.
pub fn encode_router(router: &Router) -> [u8; ROUTER_HEAD] {
    let mut f = Fields([0; RECORD_LEN]);
    match &router.rule {
        Rule::Assignment(assignment) => {
            f.dense(&assignment.hidden);
            f.u16(field::TOP_K, assignment.top_k);
            f.u32(field::FC, assignment.fc.at);
        }
        Rule::Confidence(criterion) => f.u8(field::KIND, *criterion as u8),
    }
    f.u32(field::THRESHOLD, router.threshold.to_bits());
    f.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(op: Op) {
        let step = Step { op, name: 77, scale: 0.25 };
        assert_eq!(decode(&encode(&step)), Some(step));
    }

    #[test]
    fn every_operation_survives() {
        let shape = ConvShape { in_h: 32, in_w: 31, in_c: 16, out_c: 24, kernel: 3, stride: 2, padding: 1, groups: 1 };
        let limits = Limits { zero: -32640, min: -32640, max: 32767 };
        let conv = Conv {
            shape,
            source: Source::Arena(4096),
            out: Planes { hi: 64, lo: Some(128) },
            accumulate: true,
            raw: true,
            limits,
            border: [1, 2, 3, 255],
            weights: Span { at: 640, len: 3456 },
            params: Span { at: 5000, len: crate::kernels::params_len(&shape, Layout::K8N16) as u32 },
            layout: Layout::K8N16,
            acc_bits: 23,
        };
        round_trip(Op::Conv(conv));
        round_trip(Op::Conv(Conv {
            source: Source::Image,
            accumulate: false,
            raw: false,
            out: Planes { hi: 0, lo: None },
            ..conv
        }));
        round_trip(Op::Conv(Conv { source: Source::Low(16384), ..conv }));
        let mut both = encode(&Step { op: Op::Conv(Conv { source: Source::Image, ..conv }), name: 0, scale: 1.0 });
        both[field::FLAGS] |= LOW;
        assert_eq!(decode(&both), None);
        both[field::FLAGS] = 128;
        assert_eq!(decode(&both), None);
        let grouped = ConvShape { groups: 8, ..shape };
        let params = Span { len: crate::kernels::params_len(&grouped, Layout::K8N16) as u32, ..conv.params };
        round_trip(Op::Conv(Conv { shape: grouped, params, ..conv }));
        round_trip(Op::MaxPool(MaxPool {
            in_h: 112,
            in_w: 111,
            channels: 64,
            kernel: 3,
            stride: 2,
            padding: 1,
            source: Planes { hi: 64, lo: Some(900_000) },
            out: Planes { hi: 2_000_000, lo: Some(3_000_000) },
            zero: -32640,
        }));
        round_trip(Op::Shortcut(Shortcut {
            in_h: 32,
            in_w: 32,
            in_c: 16,
            out_c: 24,
            stride: 2,
            before: 4,
            source: Planes { hi: 0, lo: Some(16384) },
            out: Planes { hi: 40960, lo: Some(50000) },
            in_zero: -32640,
            limits,
            multiplier: 1 << 30,
            right_shift: 32,
        }));
        round_trip(Op::Pool(Pool {
            pixels: 64,
            channels: 48,
            source: Planes { hi: 1, lo: None },
            zero: -128,
            shift: 7,
            out: 64,
        }));
        let dense = Dense {
            features: 48,
            outputs: 100,
            weights: Span { at: 64, len: 4800 },
            params: Span { at: 4864, len: 800 },
            layout: Layout::Ohwi,
            normalize: true,
        };
        for fine in [false, true] {
            round_trip(Op::Head(Head { dense, fine, source: 64, out: 512, divisor: 3.0 }));
        }
        round_trip(Op::Load(Load { out: 64, len: 3072 }));
        let assignment = Assignment { hidden: dense, top_k: 30, fc: Span { at: 9, len: 4 * 131 } };
        for rule in Criterion::ALL.map(Rule::Confidence).into_iter().chain([Rule::Assignment(assignment)]) {
            let router = Router { rule, threshold: 0.5 };
            assert_eq!(decode_router(&encode_router(&router)), Some(router));
        }
        assert_eq!(decode(&[0; RECORD_LEN]), None);
    }
}
