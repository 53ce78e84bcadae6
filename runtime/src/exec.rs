//! Runs parts on an arena: takes an operation's slices apart and hands them to a kernel.

use crate::Error;
use crate::arith::join;
use crate::confidence;
use crate::format::f32_at;
use crate::kernels::{Backend, ConvCall, DenseCall, MaxPoolCall, PoolCall, ShortcutCall};
use crate::model::{Model, Part, PartId, router_scratch};
use crate::op::{Assignment, Op, Router, Rule, Source, Step};
use crate::team::{self, Team};
use core::ops::Range;

/// Watches execution. All methods do nothing by default and cost nothing when unused: the executor is compiled for
/// each probe type.
pub trait Probe {
    /// Operation `step` (number `index` of `part`) is about to run.
    fn before(&mut self, part: PartId, index: usize, step: &Step) {
        let _ = (part, index, step);
    }

    /// It has run; `output` is what it wrote.
    fn after(&mut self, part: PartId, index: usize, step: &Step, output: Output<'_>) {
        let _ = (part, index, step, output);
    }

    /// The router behind expert `router` is about to run.
    fn before_router(&mut self, router: usize) {
        let _ = router;
    }

    /// The router behind expert `router` gave `score`; the next expert runs iff `proceed`.
    fn routed(&mut self, router: usize, score: f32, proceed: bool) {
        let _ = (router, score, proceed);
    }
}

/// No probe.
impl Probe for () {}

/// What an operation wrote.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// int8 values, high bytes of a wide activation, or the bytes of features and logits.
    pub hi: &'a [u8],
    /// Low bytes of a wide activation.
    pub lo: Option<&'a [u8]>,
    /// What the bytes of `hi` are XORed with: [`crate::op::Layout::plane_flip`] for activations, 0 for others.
    pub flip: u8,
}

impl Output<'_> {
    /// The int8 or 16-bit values of an activation (not of a feature or of logits).
    pub fn values(&self) -> impl Iterator<Item = i16> {
        let hi = self.hi.iter().map(|&b| b ^ self.flip);
        hi.enumerate().map(|(i, hi)| match self.lo {
            Some(lo) => join(hi, lo.get(i).copied().unwrap_or(0)),
            None => i16::from(hi as i8),
        })
    }
}

/// What executing a part needs besides the arena.
#[derive(Clone, Copy)]
pub(crate) struct Context<'m, 'i> {
    pub(crate) model: Model<'m>,
    pub(crate) backend: &'static Backend,
    pub(crate) image: &'i [u8],
    /// Threads that share operations.
    pub(crate) team: Option<&'i Team>,
}

/// Runs all operations of `part`.
pub(crate) fn run_part<P: Probe>(
    cx: Context<'_, '_>,
    part: &Part<'_>,
    arena: &mut [u8],
    probe: &mut P,
) -> Result<(), Error> {
    for (index, step) in part.steps().enumerate() {
        probe.before(part.id, index, &step);
        run_step(cx, part, &step, arena).ok_or(broken(index))?;
        let [hi, lo] = step.op.writes().map(|w| w.and_then(|(at, len)| arena.get(at..at + len)));
        let flip = if step.op.is_activation() { cx.backend.layout.plane_flip() } else { 0 };
        probe.after(part.id, index, &step, Output { hi: hi.unwrap_or_default(), lo, flip });
    }
    Ok(())
}

/// Cannot happen for a model that was parsed: every range has been checked.
fn broken(index: usize) -> Error {
    Error::Invalid { section: "part", reason: "operation does not fit the arena", at: index }
}

fn range(r: Option<(usize, usize)>) -> Range<usize> {
    r.map_or(0..0, |(at, len)| at..at + len)
}

/// Input and output planes and the scratch memory of one operation, disjoint.
struct Slices<'a> {
    in_hi: &'a [u8],
    in_lo: &'a [u8],
    out_hi: &'a mut [u8],
    out_lo: &'a mut [u8],
    scratch: &'a mut [u8],
}

fn split<'a>(model: Model<'_>, op: &Op, arena: &'a mut [u8]) -> Option<Slices<'a>> {
    let ([r0, r1], [w0, w1]) = (op.reads(), op.writes());
    let ranges = [range(r0), range(r1), range(w0), range(w1), model.scratch()];
    let [in_hi, in_lo, out_hi, out_lo, scratch] = arena.get_disjoint_mut(ranges).ok()?;
    Some(Slices { in_hi, in_lo, out_hi, out_lo, scratch })
}

fn run_step(cx: Context<'_, '_>, part: &Part<'_>, step: &Step, arena: &mut [u8]) -> Option<()> {
    let s = split(cx.model, &step.op, arena)?;
    let backend = cx.backend;
    let flip = backend.layout.plane_flip();
    match &step.op {
        Op::Load(_) => {
            for (to, from) in s.out_hi.iter_mut().zip(cx.image) {
                *to = from ^ 0x80 ^ flip;
            }
        }
        Op::Conv(conv) => {
            let call = ConvCall {
                conv,
                rows: 0..conv.shape.out_h(),
                channels: 0..usize::from(conv.shape.out_c),
                input: if conv.source == Source::Image { cx.image } else { s.in_hi },
                weights: part.constants(conv.weights),
                params: part.constants(conv.params),
                out_hi: s.out_hi.into(),
                out_lo: s.out_lo.into(),
                scratch: s.scratch,
            };
            // SAFETY: a session holds a backend only if `Isa::available` said yes.
            unsafe { team::convolve(cx.team, backend, call) }
        }
        Op::Shortcut(shortcut) => {
            let mut call =
                ShortcutCall { shortcut, in_hi: s.in_hi, in_lo: s.in_lo, out_hi: s.out_hi, out_lo: s.out_lo, flip };
            // SAFETY: a session holds a backend only if `Isa::available` said yes.
            unsafe { (backend.shortcut)(&mut call) }
        }
        Op::MaxPool(pool) => {
            let call = MaxPoolCall {
                pool,
                rows: 0..pool.out_h(),
                in_hi: s.in_hi,
                in_lo: s.in_lo,
                out_hi: s.out_hi,
                out_lo: s.out_lo,
                flip,
            };
            // SAFETY: a session holds a backend only if `Isa::available` said yes.
            unsafe { team::max_pool(cx.team, backend, call) }
        }
        Op::Pool(pool) => {
            let mut call = PoolCall { pool, in_hi: s.in_hi, in_lo: s.in_lo, out: s.out_hi, flip };
            // SAFETY: a session holds a backend only if `Isa::available` said yes.
            unsafe { (backend.pool)(&mut call) }
        }
        Op::Head(head) => {
            let results = s.scratch.get_mut(..head.scratch_len())?;
            let mut call = DenseCall {
                dense: &head.dense,
                feature: s.in_hi,
                weights: part.constants(head.dense.weights),
                params: part.constants(head.dense.params),
                out: if head.fine { &mut *results } else { &mut *s.out_hi },
            };
            // SAFETY: a session holds a backend only if `Isa::available` said yes.
            unsafe { (backend.dense)(&mut call) }
            if head.fine {
                add_halves(results, s.out_hi)?;
            }
        }
    }
    Some(())
}

/// The results of a fine head's first rows plus those of its second.
fn add_halves(results: &[u8], out: &mut [u8]) -> Option<()> {
    let (first, second) = results.split_at_checked(out.len())?;
    let both = first.as_chunks().0.iter().zip(second.as_chunks().0);
    for (out, (a, b)) in out.as_chunks_mut().0.iter_mut().zip(both) {
        *out = (f32::from_le_bytes(*a) + f32::from_le_bytes(*b)).to_le_bytes();
    }
    Some(())
}

/// Adds the logits of an expert, the `experts`-th to run, to the sum (or starts it) and replaces them by the mean.
pub(crate) fn combine(model: Model<'_>, part: &Part<'_>, arena: &mut [u8], experts: usize) -> Option<()> {
    let [logits, sum] = arena.get_disjoint_mut([model.logits(), model.sum()]).ok()?;
    let Op::Head(head) = part.step(part.len() - 1)?.op else { return None };
    for (l, s) in logits.as_chunks_mut::<4>().0.iter_mut().zip(sum.as_chunks_mut::<4>().0) {
        let logit = f32::from_le_bytes(*l);
        let total = if experts == 1 { logit } else { f32::from_le_bytes(*s) + logit };
        *s = total.to_le_bytes();
        *l = (total / head.divisor).to_le_bytes();
    }
    Some(())
}

/// Score of the router behind expert `i`; NaN (which never proceeds) for a zero feature.
pub(crate) fn score(cx: Context<'_, '_>, i: usize, router: &Router, arena: &mut [u8]) -> Option<f32> {
    match &router.rule {
        Rule::Assignment(assignment) => assign(cx, i, assignment, arena),
        Rule::Confidence(criterion) => Some(confidence::score(*criterion, arena.get(cx.model.logits())?.as_chunks().0)),
    }
}

fn assign(cx: Context<'_, '_>, i: usize, a: &Assignment, arena: &mut [u8]) -> Option<f32> {
    let part = cx.model.part(PartId::Router(i as u16))?;
    let ranges = [cx.model.feature(), cx.model.logits(), cx.model.scratch()];
    let [feature, logits, scratch] = arena.get_disjoint_mut(ranges).ok()?;
    if a.hidden.normalize && f32_at(feature, feature.len() - 4) == 0.0 {
        return Some(f32::NAN);
    }
    let (top, rest) = scratch.get_mut(..router_scratch(a))?.split_at_mut_checked(4 * usize::from(a.top_k))?;
    largest(logits.as_chunks().0, top.as_chunks_mut().0);
    let mut call = DenseCall {
        dense: &a.hidden,
        feature,
        weights: part.constants(a.hidden.weights),
        params: part.constants(a.hidden.params),
        out: rest,
    };
    // SAFETY: a session holds a backend only if `Isa::available` said yes.
    unsafe { (cx.backend.dense)(&mut call) };
    let (weights, [bias]) = part.constants(a.fc).as_chunks::<4>().0.split_last_chunk::<1>()?;
    let mut z = f32::from_le_bytes(*bias);
    let (for_top, for_hidden) = weights.split_at_checked(usize::from(a.top_k))?;
    for (w, x) in for_top.iter().zip(top.as_chunks().0) {
        z += f32::from_le_bytes(*w) * f32::from_le_bytes(*x);
    }
    for (w, x) in for_hidden.iter().zip(rest.as_chunks().0) {
        z += f32::from_le_bytes(*w) * f32::from_le_bytes(*x).max(0.0);
    }
    Some(z)
}

/// The `top.len()` largest of `values`, descending; most values are small and stay out.
fn largest(values: &[[u8; 4]], top: &mut [[u8; 4]]) {
    for (n, v) in values.iter().enumerate() {
        let smaller = |t: &[u8; 4]| f32::from_le_bytes(*t) < f32::from_le_bytes(*v);
        if n >= top.len() && !top.last().is_some_and(smaller) {
            continue;
        }
        let (mut moving, mut found) = (*v, false);
        for place in top.iter_mut().take(n) {
            found |= smaller(place);
            if found {
                core::mem::swap(&mut moving, place);
            }
        }
        if let Some(place) = top.get_mut(n) {
            *place = moving;
        }
    }
}

/// Class with the largest mean logit (binary32, little-endian); the first one of equals.
pub fn best_class(logits: &[u8]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (class, v) in logits.as_chunks().0.iter().enumerate() {
        let v = f32::from_le_bytes(*v);
        if v > best.1 {
            best = (class, v);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_sorts_descending() {
        let values: Vec<[u8; 4]> =
            [3.0f32, -1.0, 7.5, 7.5, 0.0, 2.0, 9.0, -4.0].iter().map(|v| v.to_le_bytes()).collect();
        for k in 0..=8 {
            let mut top = vec![[0; 4]; k];
            largest(&values, &mut top);
            let got: Vec<f32> = top.iter().map(|t| f32::from_le_bytes(*t)).collect();
            let want = [9.0, 7.5, 7.5, 3.0, 2.0, 0.0, -1.0, -4.0];
            assert_eq!(got, want[..k]);
        }
    }
}
