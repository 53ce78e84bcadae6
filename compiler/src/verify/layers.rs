//! Every layer of the artifact beside the float model's value of the same name.

use std::collections::BTreeMap;

use ride_calibrate::metrics::Sqnr;
use ride_runtime::exec::{Output, Probe};
use ride_runtime::op::{Op, Step};
use ride_runtime::{Model, PartId};

use crate::network::Shape;
use crate::reference::{Forward, Observe};
use crate::refine::RESCALED;

/// Names of all operations in execution order.
pub(super) fn layer_names(model: Model<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for part in model.parts() {
        names.extend(part.steps().map(|step| model.name(&step).to_owned()));
    }
    names
}

/// The float side's values that an operation of the artifact computes, by name.
pub(super) struct Values {
    by_name: BTreeMap<String, Vec<f32>>,
    /// Name of each operation by part and index.
    names: BTreeMap<(u16, usize), String>,
}

/// Orders parts: stem first.
fn part_key(part: PartId) -> u16 {
    match part {
        PartId::Stem => 0,
        PartId::Expert(n) | PartId::Router(n) => n + 1,
    }
}

impl Values {
    pub(super) fn new(model: Model<'_>) -> Self {
        let mut names = BTreeMap::new();
        for part in model.parts() {
            for (index, step) in part.steps().enumerate() {
                // A copy at another scale is compared with what it copies.
                let name = model.name(&step);
                let name = name.strip_suffix(RESCALED).unwrap_or(name);
                names.insert((part_key(part.id), index), name.to_owned());
            }
        }
        let by_name = names.values().map(|name| (name.clone(), Vec::new())).collect();
        Values { by_name, names }
    }

    /// Features and logits, which have names of their own in an artifact.
    pub(super) fn add_experts(&mut self, float: &Forward) {
        for (n, expert) in float.experts.iter().enumerate() {
            self.set(&format!("expert{n}.pool"), &expert.feature);
            self.set(&format!("expert{n}.head"), &expert.logits);
        }
    }

    fn set(&mut self, name: &str, data: &[f32]) {
        if let Some(value) = self.by_name.get_mut(name) {
            value.clear();
            value.extend_from_slice(data);
        }
    }
}

impl Observe for Values {
    fn value(&mut self, name: &str, _: Shape, data: &[f32]) {
        self.set(name, data);
    }
}

/// Compares what each operation writes with the float side's value of the same name.
pub(super) struct Compare<'v> {
    pub(super) values: &'v Values,
    pub(super) layers: Vec<Sqnr>,
    pub(super) buffer: Vec<f32>,
}

impl Probe for Compare<'_> {
    fn after(&mut self, part: PartId, index: usize, step: &Step, output: Output<'_>) {
        dequantize(step, output, &mut self.buffer);
        let name = self.values.names.get(&(part_key(part), index));
        let value = name.and_then(|name| self.values.by_name.get(name));
        let mut sqnr = Sqnr::default();
        // A value that the float side does not have stays without a ratio (null).
        if let Some(value) = value.filter(|value| value.len() == self.buffer.len()) {
            sqnr.add(value, &self.buffer);
        }
        self.layers.push(sqnr);
    }
}

/// The real values of what an operation wrote.
fn dequantize(step: &Step, output: Output<'_>, into: &mut Vec<f32>) {
    into.clear();
    let real = |value: i16, zero: i16| (i32::from(value) - i32::from(zero)) as f32 * step.scale;
    let zero = match &step.op {
        // A pixel of 0 is the smallest int8 value.
        Op::Load(_) => -128,
        Op::Conv(conv) => conv.limits.zero,
        Op::Shortcut(shortcut) => shortcut.limits.zero,
        Op::MaxPool(pool) => pool.zero,
        Op::Pool(pool) => {
            let feature = output.hi.as_chunks::<2>().0.iter().take(usize::from(pool.channels));
            return into.extend(feature.map(|bytes| real(i16::from_le_bytes(*bytes), 0)));
        }
        Op::Head(_) => return into.extend(output.hi.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))),
    };
    into.extend(output.values().map(|q| real(q, zero)));
}
