//! Lifetimes: what an operation reads is whole, and was computed for this sample.
//!
//! An activation comes from an earlier operation of the same part, or from the stem; nothing that runs in between, other
//! experts included, may touch it. Results of a model that passes do not depend on what the arena held before.

use core::ops::Range;

use crate::Error;
use crate::model::{Model, Part, PartId};
use crate::op::{Op, Source};

/// Most operations of an artifact; it bounds the time that the check takes.
pub(crate) const MAX_STEPS: usize = 8192;

const UNWRITTEN: &str = "reads an activation that nothing has written";
const OVERWRITTEN: &str = "reads an activation that has been overwritten";

/// Checks stem and experts, whose operations have been checked one by one.
pub(crate) fn check(model: &Model<'_>) -> Result<(), Error> {
    let mut steps = 0usize;
    for part in model.parts() {
        steps = steps.saturating_add(part.len());
        if steps > MAX_STEPS {
            return Err(part.invalid("too many operations", steps));
        }
    }
    for part in model.parts() {
        for (i, step) in part.steps().enumerate() {
            let bad = |reason| part.invalid(reason, i);
            check_place(&part, i, &step.op).map_err(bad)?;
            check_reads(model, &part, i, &step.op).map_err(bad)?;
            if matches!(part.id, PartId::Expert(1..)) && writes_into(&step.op, &model.sum()) {
                return Err(bad("overwrites the sum of the experts before"));
            }
        }
        if part.id != PartId::Stem && part.len() < 2 {
            return Err(part.invalid("an expert must end with pooling and classifier", part.len()));
        }
    }
    Ok(())
}

/// An expert ends with pooling and classifier, which occur nowhere else; only the stem sees the image.
fn check_place(part: &Part<'_>, i: usize, op: &Op) -> Result<(), &'static str> {
    let left = part.len() - i;
    let expert = part.id != PartId::Stem;
    let fits = match op {
        Op::Pool(_) => expert && left == 2,
        Op::Head(_) => expert && left == 1,
        Op::Load(_) => !expert,
        Op::Conv(_) | Op::Shortcut(_) | Op::MaxPool(_) => !expert || left > 2,
    };
    if !fits {
        return Err("an expert must end with pooling and classifier, which belong nowhere else");
    }
    match op {
        Op::Conv(c) if expert && c.source == Source::Image => {
            Err("an expert reads the image instead of the stem's output")
        }
        _ => Ok(()),
    }
}

fn check_reads(model: &Model<'_>, part: &Part<'_>, i: usize, op: &Op) -> Result<(), &'static str> {
    let in_place = matches!(op, Op::Conv(c) if c.accumulate);
    let residual = if in_place { op.writes() } else { [None, None] };
    for (at, len) in op.reads().into_iter().chain(residual).flatten() {
        let range = at..at + len;
        if !last_writer(part, i, &range)? {
            check_stem(model, part, &range)?;
        }
    }
    Ok(())
}

/// Whether one of the first `count` operations of `part` has written `range`.
fn last_writer(part: &Part<'_>, count: usize, range: &Range<usize>) -> Result<bool, &'static str> {
    for op in (0..count).rev().filter_map(|i| part.step(i)).map(|step| step.op) {
        if op.writes().into_iter().flatten().any(|(at, len)| (at..at + len) == *range) {
            return Ok(true);
        }
        if writes_into(&op, range) {
            return Err(OVERWRITTEN);
        }
    }
    Ok(false)
}

/// That `range` is the stem's and survives all that runs before expert `part`.
fn check_stem(model: &Model<'_>, part: &Part<'_>, range: &Range<usize>) -> Result<(), &'static str> {
    let PartId::Expert(expert) = part.id else { return Err(UNWRITTEN) };
    let stem = model.part(PartId::Stem).ok_or(UNWRITTEN)?;
    if !last_writer(&stem, stem.len(), range)? {
        return Err(UNWRITTEN);
    }
    let earlier = (0..expert).filter_map(|e| model.part(PartId::Expert(e)));
    let by_experts = earlier.flat_map(|e| e.steps()).any(|step| writes_into(&step.op, range));
    let by_combiner = expert > 0 && (meet(&model.sum(), range) || meet(&model.logits(), range));
    if by_experts || by_combiner { Err(OVERWRITTEN) } else { Ok(()) }
}

fn writes_into(op: &Op, range: &Range<usize>) -> bool {
    op.writes().into_iter().flatten().any(|(at, len)| meet(&(at..at + len), range))
}

fn meet(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}
