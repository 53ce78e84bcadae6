//! Evaluates an artifact operation by operation on plain tensors: no arena, no planes, no fused loops.
//!
//! Tensors are kept by the place that the artifact gives their first plane. Every expert starts from what the stem left
//! there, so that nothing that one expert does can change another one's input: where a plan lets buffers of different
//! lifetimes meet, results differ from the runtime's.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use ride_runtime::arith::{self, add_narrow, add_wide, requantize};
use ride_runtime::format::header::Kind;
use ride_runtime::op::{Conv, Dense, Head, Layout, MaxPool, Op, Planes, Pool, Router, Rule, Shortcut, Source, Span};
use ride_runtime::{Model, PartId, confidence, oracle};

/// An activation: one number an element, whatever planes it has in the arena.
#[derive(Clone, Debug)]
struct Tensor {
    values: Vec<i16>,
    /// Where the low bytes of a wide one lie.
    low: Option<u32>,
}

/// What one operation computes, as the bytes that the runtime writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The part that the operation belongs to.
    pub part: PartId,
    /// Its index there.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// High or only plane, or the bytes of features and logits.
    pub hi: Vec<u8>,
    /// Low plane.
    pub lo: Option<Vec<u8>>,
}

/// Everything that an artifact computes for one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// What every operation writes, in execution order, with all experts.
    pub written: Vec<Written>,
    /// Mean logits of the first 1, 2, ... experts.
    pub means: Vec<Vec<f32>>,
    /// Score of the router behind each expert but the last; empty without routers.
    pub scores: Vec<f32>,
    /// Experts that routing uses.
    pub routed: usize,
}

/// Evaluates a model with plain weights ([`Layout::Ohwi`]).
///
/// # Errors
/// If the weights are packed or the artifact does not hold together.
pub fn evaluate(model: Model<'_>, image: &[u8]) -> Result<Evaluation> {
    ensure!(model.layout() == Layout::Ohwi, "only plain weights can be evaluated");
    let mut written = Vec::new();
    let mut stem = Machine {
        model,
        image,
        part: PartId::Stem,
        tensors: HashMap::new(),
        feature: None,
        logits: None,
        divisor: 0.0,
    };
    stem.run(&mut written)?;
    let (mut sums, mut means, mut scores) = (vec![0.0f32; model.classes()], Vec::new(), Vec::new());
    for i in 0..model.experts() {
        let part = PartId::Expert(i as u16);
        let mut expert = Machine { part, tensors: stem.tensors.clone(), feature: None, logits: None, ..stem };
        expert.run(&mut written)?;
        let logits = expert.logits.take().context("an expert without a classifier")?;
        for (sum, logit) in sums.iter_mut().zip(&logits) {
            *sum = if i == 0 { *logit } else { *sum + *logit };
        }
        let mean: Vec<f32> = sums.iter().map(|s| s / expert.divisor).collect();
        if let Some(router) = model.router(i).filter(|_| model.routed()) {
            let feature = expert.feature.as_ref().context("an expert without a feature")?;
            scores.push(score(model, i, &router, feature, &mean)?);
        }
        means.push(mean);
    }
    // A score that is not a number does not proceed.
    let proceeds = |i: &usize| model.router(*i).is_some_and(|r| r.proceeds(scores[*i], r.threshold));
    let decisions = (0..scores.len()).take_while(proceeds).count();
    let routed = if decisions == scores.len() { model.experts() } else { decisions + 1 };
    Ok(Evaluation { written, means, scores, routed })
}

/// A pooled feature and its inverse norm.
#[derive(Clone, Debug)]
struct Feature {
    values: Vec<i16>,
    inverse_norm: f32,
}

#[derive(Clone)]
struct Machine<'m, 'i> {
    model: Model<'m>,
    image: &'i [u8],
    part: PartId,
    tensors: HashMap<u32, Tensor>,
    feature: Option<Feature>,
    logits: Option<Vec<f32>>,
    /// Of the classifier that ran last.
    divisor: f32,
}

impl Machine<'_, '_> {
    fn run(&mut self, written: &mut Vec<Written>) -> Result<()> {
        let part = self.model.part(self.part).context("a part is missing")?;
        for (index, step) in part.steps().enumerate() {
            let (hi, lo) = match &step.op {
                Op::Load(l) => {
                    let values = self.image.iter().map(|&b| i16::from(b) - 128).collect();
                    self.keep(Planes { hi: l.out, lo: None }, values)
                }
                Op::Conv(c) => self.conv(c)?,
                Op::Shortcut(s) => self.shortcut(s)?,
                Op::MaxPool(m) => self.max_pool(m)?,
                Op::Pool(p) => (self.pool(p)?, None),
                Op::Head(h) => (self.head(h)?, None),
            };
            let name = self.model.name(&step).to_owned();
            written.push(Written { part: self.part, index, name, hi, lo });
        }
        Ok(())
    }

    fn tensor(&self, at: u32) -> Result<&Tensor> {
        self.tensors.get(&at).with_context(|| format!("nothing was written at {at}"))
    }

    fn keep(&mut self, out: Planes, values: Vec<i16>) -> (Vec<u8>, Option<Vec<u8>>) {
        let tensor = Tensor { values, low: out.lo };
        let planes = planes(&tensor);
        // Nothing is read from what lay there before.
        self.tensors.retain(|_, other| out.lo.is_none() || other.low != out.lo);
        self.tensors.insert(out.hi, tensor);
        planes
    }

    fn conv(&mut self, c: &Conv) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
        let input: Vec<i8> = match c.source {
            Source::Image => self.image.iter().map(|&b| (i16::from(b) - 128) as i8).collect(),
            Source::Arena(at) => {
                let tensor = self.tensor(at)?;
                tensor.values.iter().map(|&v| if tensor.low.is_some() { v >> 8 } else { v } as i8).collect()
            }
            Source::Low(at) => {
                let tensor = self.tensors.values().find(|tensor| tensor.low == Some(at));
                let tensor = tensor.with_context(|| format!("no wide activation has its low bytes at {at}"))?;
                tensor.values.iter().map(|&v| ((v & 255) - 128) as i8).collect()
            }
        };
        ensure!(input.len() == c.shape.input_len(), "the input has {} elements", input.len());
        let weights: Vec<i8> = constants(self.model, self.part, c.weights)?.iter().map(|&b| b as i8).collect();
        let params = constants(self.model, self.part, c.params)?;
        let channels = usize::from(c.shape.out_c);
        let words = |from: usize| -> Vec<i32> {
            params[from..]
                .chunks_exact(4)
                .take(channels)
                .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect()
        };
        let conv = oracle::Conv {
            shape: c.shape,
            input: &input,
            border: c.border.map(|b| b as i8),
            weights: &weights,
            bias: &words(0),
            multiplier: &words(4 * channels),
            right_shift: &params[8 * channels..9 * channels],
            limits: c.limits,
            wide: c.out.lo.is_some(),
            raw: c.raw,
        };
        let residual = if c.accumulate { Some(self.tensor(c.out.hi)?) } else { None };
        let mut out = Vec::with_capacity(c.shape.output_len());
        for y in 0..c.shape.out_h() {
            for x in 0..c.shape.out_w() {
                for channel in 0..channels {
                    let residual = residual.map(|r| r.values[out.len()]);
                    out.push(conv.output(y, x, channel, residual));
                }
            }
        }
        Ok(self.keep(c.out, out))
    }

    fn shortcut(&mut self, s: &Shortcut) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
        let input = self.tensor(s.source.hi)?;
        let (in_c, before, stride) = (usize::from(s.in_c), usize::from(s.before), usize::from(s.stride));
        let mut out = Vec::new();
        for y in (0..usize::from(s.in_h)).step_by(stride) {
            for x in (0..usize::from(s.in_w)).step_by(stride) {
                for c in 0..usize::from(s.out_c) {
                    let from = c.checked_sub(before).filter(|&c| c < in_c);
                    let value = from.map_or(0, |c| {
                        let v = input.values[(y * usize::from(s.in_w) + x) * in_c + c];
                        requantize(i32::from(v) - i32::from(s.in_zero), s.multiplier, s.right_shift)
                    });
                    let add = if s.out.lo.is_some() { add_wide } else { add_narrow };
                    out.push(add(s.limits.zero, value).clamp(s.limits.min, s.limits.max));
                }
            }
        }
        Ok(self.keep(s.out, out))
    }

    fn max_pool(&mut self, m: &MaxPool) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
        let input = self.tensor(m.source.hi)?;
        let (h, w, channels) = (i32::from(m.in_h), i32::from(m.in_w), usize::from(m.channels));
        let (kernel, stride, padding) = (i32::from(m.kernel), i32::from(m.stride), i32::from(m.padding));
        let mut out = Vec::with_capacity(m.output_len());
        for pixel in 0..m.out_h() * m.out_w() {
            let (top, left) = ((pixel / m.out_w()) as i32 * stride, (pixel % m.out_w()) as i32 * stride);
            for c in 0..channels {
                let window = (0..kernel * kernel).map(|t| (top + t / kernel - padding, left + t % kernel - padding));
                let inside = window.filter(|&(y, x)| (0..h).contains(&y) && (0..w).contains(&x));
                let values = inside.map(|(y, x)| input.values[(y * w + x) as usize * channels + c]);
                out.push(values.max().context("a window without pixels")?);
            }
        }
        Ok(self.keep(m.out, out))
    }

    fn pool(&mut self, p: &Pool) -> Result<Vec<u8>> {
        let input = self.tensor(p.source.hi)?;
        let channels = usize::from(p.channels);
        let sum = |c: usize| -> i64 {
            input.values.iter().skip(c).step_by(channels).map(|&v| i64::from(v) - i64::from(p.zero)).sum()
        };
        // Round half up at `shift` bits, then 16 bits.
        let rounded = |sum: i64| ((2 * sum + (1 << p.shift)) >> (p.shift + 1)).clamp(-32768, 32767) as i16;
        let values: Vec<i16> = (0..channels).map(|c| rounded(sum(c))).collect();
        let squares = values.iter().map(|&v| i64::from(v).pow(2) as u64).sum();
        let inverse_norm = arith::inverse_norm(squares);
        let mut bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes.resize(p.norm_at(), 0);
        bytes.extend(inverse_norm.to_le_bytes());
        self.feature = Some(Feature { values, inverse_norm });
        Ok(bytes)
    }

    fn head(&mut self, h: &Head) -> Result<Vec<u8>> {
        let feature = self.feature.as_ref().context("a classifier before the pooling")?;
        let mut logits = dense(self.model, self.part, &h.dense, feature)?;
        if h.fine {
            let rest = logits.split_off(logits.len() / 2);
            logits.iter_mut().zip(rest).for_each(|(logit, rest)| *logit += rest);
        }
        let bytes = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.logits = Some(logits);
        self.divisor = h.divisor;
        Ok(bytes)
    }
}

/// The bytes of a tensor's planes.
fn planes(tensor: &Tensor) -> (Vec<u8>, Option<Vec<u8>>) {
    if tensor.low.is_some() {
        let (hi, lo) = tensor.values.iter().map(|v| ((v >> 8) as u8, (v & 255) as u8)).unzip();
        (hi, Some(lo))
    } else {
        (tensor.values.iter().map(|&v| v as u8).collect(), None)
    }
}

/// Constants of a part, found through the section table.
fn constants<'m>(model: Model<'m>, part: PartId, span: Span) -> Result<&'m [u8]> {
    let (kind, index) = match part {
        PartId::Stem => (Kind::Stem, 0),
        PartId::Expert(i) => (Kind::Expert, i),
        PartId::Router(i) => (Kind::Router, i),
    };
    let entry = model.sections().find(|e| (e.kind, e.index) == (kind, index)).context("a section is missing")?;
    let section = entry.slice(model.bytes()).context("a section is cut off")?;
    section.get(span.at as usize..(span.at + span.len) as usize).context("constants are cut off")
}

fn dense(model: Model<'_>, part: PartId, d: &Dense, feature: &Feature) -> Result<Vec<f32>> {
    let weights = constants(model, part, d.weights)?;
    let params = constants(model, part, d.params)?;
    let param = |n: usize| f32::from_le_bytes([params[4 * n], params[4 * n + 1], params[4 * n + 2], params[4 * n + 3]]);
    let rows = weights.chunks_exact(usize::from(d.features)).enumerate();
    let outputs = rows.map(|(j, row)| {
        let dot: i32 = row.iter().zip(&feature.values).map(|(&w, &f)| i32::from(w as i8) * i32::from(f)).sum();
        let norm = if d.normalize { feature.inverse_norm } else { 1.0 };
        ((dot as f32) * param(j)) * norm + param(usize::from(d.outputs) + j)
    });
    Ok(outputs.collect())
}

/// Score of the router behind expert `i`.
fn score(model: Model<'_>, i: usize, router: &Router, feature: &Feature, mean: &[f32]) -> Result<f32> {
    let part = PartId::Router(i as u16);
    let router = match &router.rule {
        Rule::Assignment(assignment) => assignment,
        Rule::Confidence(criterion) => {
            let logits: Vec<[u8; 4]> = mean.iter().map(|l| l.to_le_bytes()).collect();
            return Ok(confidence::score(*criterion, &logits));
        }
    };
    if router.hidden.normalize && feature.values.iter().all(|&v| v == 0) {
        return Ok(f32::NAN);
    }
    let mut top = mean.to_vec();
    top.sort_by(|a, b| b.total_cmp(a));
    let hidden = dense(model, part, &router.hidden, feature)?;
    let inputs = top.into_iter().take(usize::from(router.top_k)).chain(hidden.into_iter().map(|h| h.max(0.0)));
    let fc: Vec<f32> = constants(model, part, router.fc)?
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let (bias, weights) = fc.split_last().context("a router without a bias")?;
    let mut z = *bias;
    for (weight, input) in weights.iter().zip(inputs) {
        z += weight * input;
    }
    Ok(z)
}
