//! A part of the network prepared for execution: every value has a place, and values that are dead give theirs up.

use super::Observe;
use super::conv::{self, PreparedConv};
use super::precision::Precision;
use crate::network::{Node, Op, Part, Shape, ValueId};
use anyhow::{Context, Result, ensure};

/// Memory that parts compute in; it grows to what the largest part needs and no further.
#[derive(Debug, Default)]
pub(super) struct Memory {
    slots: Vec<Vec<f32>>,
    padded: Vec<f32>,
}

/// A [`Part`] at a fixed input shape.
pub(super) struct PreparedPart {
    steps: Vec<Step>,
    slots: usize,
    output: Source,
    precision: Precision,
    /// Shape of the part's output.
    pub(super) output_shape: Shape,
}

struct Step {
    name: String,
    operation: Operation,
    inputs: Vec<Source>,
    slot: usize,
    shape: Shape,
}

/// Where an operand lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// It is the part's input.
    Input,
    /// It is in one of the slots.
    Slot(usize),
}

enum Operation {
    Conv(PreparedConv),
    Relu,
    Clamp { max: f32 },
    Add,
    Shortcut { stride: usize, before: usize, input: Shape },
    MaxPool { kernel: usize, stride: usize, padding: usize, input: Shape },
}

impl PreparedPart {
    /// Checks the part and packs its weights; values are kept in `precision`.
    pub(super) fn new(part: &Part, input: Shape, precision: Precision) -> Result<Self> {
        for (index, node) in part.nodes.iter().enumerate() {
            check(index, node)?;
        }
        let shapes = part.shapes(input).with_context(|| {
            format!("{}: the shapes of its nodes do not fit together for an input of {input:?}", part.name)
        })?;
        let empty = shapes.iter().position(|shape| shape.is_empty());
        ensure!(
            empty.is_none(),
            "{}: value {} has no elements for an input of {input:?}",
            part.name,
            empty.unwrap_or(0)
        );
        let mut places = Places::new(part);
        let steps = part.nodes.iter().enumerate().map(|(index, node)| {
            let (inputs, slot) = places.place(index, node);
            let shape = shapes[index + 1];
            let operation = operation(node, shapes[node.inputs[0]], shape);
            Step { name: node.name.clone(), operation, inputs, slot, shape }
        });
        Ok(Self {
            steps: steps.collect(),
            slots: places.count,
            output: places.of_value[part.output()],
            precision,
            output_shape: shapes[part.output()],
        })
    }

    /// Computes the part's output, NHWC, into `output`.
    pub(super) fn run(
        &self,
        input: &[f32],
        memory: &mut Memory,
        mut observe: Option<&mut dyn Observe>,
        output: &mut Vec<f32>,
    ) {
        if memory.slots.len() < self.slots {
            memory.slots.resize_with(self.slots, Vec::new);
        }
        for step in &self.steps {
            let mut result = std::mem::take(&mut memory.slots[step.slot]);
            step.run(input, memory, &mut result);
            self.precision.keep(&mut result);
            if let Some(observe) = observe.as_deref_mut() {
                observe.value(&step.name, step.shape, &result);
            }
            memory.slots[step.slot] = result;
        }
        match self.output {
            Source::Input => copy(input, output),
            Source::Slot(slot) => std::mem::swap(output, &mut memory.slots[slot]),
        }
    }
}

impl Step {
    fn run(&self, input: &[f32], memory: &mut Memory, result: &mut Vec<f32>) {
        let Memory { slots, padded } = memory;
        let operand = |index: usize| match self.inputs[index] {
            Source::Input => input,
            Source::Slot(slot) => slots[slot].as_slice(),
        };
        let in_place = self.inputs[0] == Source::Slot(self.slot);
        match &self.operation {
            Operation::Conv(conv) => conv.run(operand(0), padded, result),
            Operation::Relu => {
                if !in_place {
                    copy(operand(0), result);
                }
                // A comparison and not `max`, which would turn NaN into zero and hide it.
                result.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x });
            }
            Operation::Clamp { max } => {
                if !in_place {
                    copy(operand(0), result);
                }
                // Comparisons let NaN through, as above.
                let clamp = |x: f32| {
                    if x < 0.0 {
                        0.0
                    } else if x > *max {
                        *max
                    } else {
                        x
                    }
                };
                result.iter_mut().for_each(|x| *x = clamp(*x));
            }
            Operation::Add => {
                if !in_place {
                    copy(operand(0), result);
                }
                result.iter_mut().zip(operand(1)).for_each(|(sum, x)| *sum += x);
            }
            Operation::Shortcut { stride, before, input } => {
                shortcut(operand(0), *input, *stride, *before, self.shape, result);
            }
            Operation::MaxPool { kernel, stride, padding, input } => {
                let window = Window { kernel: *kernel, stride: *stride, padding: *padding };
                max_pool(operand(0), *input, window, self.shape, result);
            }
        }
    }
}

/// Gives every value a slot; a value that an element-wise node reads last is overwritten by the node's result.
struct Places {
    of_value: Vec<Source>,
    last_use: Vec<usize>,
    free: Vec<usize>,
    count: usize,
}

impl Places {
    fn new(part: &Part) -> Self {
        let mut last_use = vec![0; part.nodes.len() + 1];
        for (index, node) in part.nodes.iter().enumerate() {
            for &value in &node.inputs {
                last_use[value] = index;
            }
        }
        last_use[part.output()] = usize::MAX;
        Self { of_value: vec![Source::Input], last_use, free: Vec::new(), count: 0 }
    }

    /// Operands and slot of node `index`; an operand that is overwritten comes first.
    fn place(&mut self, index: usize, node: &Node) -> (Vec<Source>, usize) {
        let mut operands = node.inputs.clone();
        let dying = |value: &ValueId| self.last_use[*value] == index;
        let reusable = match node.op {
            Op::Relu | Op::Clamp { .. } => operands.iter().position(dying),
            Op::Add if operands[0] != operands[1] => operands.iter().position(dying),
            _ => None,
        };
        let reusable = reusable.filter(|&operand| self.of_value[operands[operand]] != Source::Input);
        if let Some(operand) = reusable {
            operands.swap(0, operand);
        }
        let inputs: Vec<Source> = operands.iter().map(|&value| self.of_value[value]).collect();
        let slot = match (reusable, inputs[0]) {
            (Some(_), Source::Slot(slot)) => slot,
            _ => self.free.pop().unwrap_or_else(|| {
                self.count += 1;
                self.count - 1
            }),
        };
        for (&value, &source) in operands.iter().zip(&inputs) {
            if let Source::Slot(dead) = source
                && self.last_use[value] == index
                && dead != slot
                && !self.free.contains(&dead)
            {
                self.free.push(dead);
            }
        }
        self.of_value.push(Source::Slot(slot));
        (inputs, slot)
    }
}

fn check(index: usize, node: &Node) -> Result<()> {
    let operands = if matches!(node.op, Op::Add) { 2 } else { 1 };
    let name = &node.name;
    ensure!(node.inputs.len() == operands, "{name}: {} operands, expected {operands}", node.inputs.len());
    ensure!(node.inputs.iter().all(|&value| value <= index), "{name}: an operand is computed after it is used");
    match &node.op {
        Op::Conv(conv) => conv::check(name, conv),
        Op::Relu | Op::Add => Ok(()),
        Op::Clamp { max } => {
            ensure!(*max > 0.0 && max.is_finite(), "{name}: the upper limit {max} must be positive");
            Ok(())
        }
        Op::Shortcut { stride, .. } => {
            ensure!(*stride > 0, "{name}: stride 0");
            Ok(())
        }
        Op::MaxPool { kernel, stride, padding } => {
            ensure!(*stride > 0 && *kernel > 0, "{name}: kernel {kernel} and stride {stride} must be positive");
            ensure!(*padding <= *kernel / 2, "{name}: padding {padding} is more than half of the kernel {kernel}");
            Ok(())
        }
    }
}

fn operation(node: &Node, input: Shape, output: Shape) -> Operation {
    match &node.op {
        Op::Conv(conv) => Operation::Conv(PreparedConv::new(conv, input, output)),
        Op::Relu => Operation::Relu,
        Op::Clamp { max } => Operation::Clamp { max: *max },
        Op::Add => Operation::Add,
        Op::Shortcut { stride, before, .. } => Operation::Shortcut { stride: *stride, before: *before, input },
        Op::MaxPool { kernel, stride, padding } => {
            Operation::MaxPool { kernel: *kernel, stride: *stride, padding: *padding, input }
        }
    }
}

fn copy(from: &[f32], to: &mut Vec<f32>) {
    to.clear();
    to.extend_from_slice(from);
}

fn shortcut(x: &[f32], input: Shape, stride: usize, before: usize, output: Shape, result: &mut Vec<f32>) {
    result.clear();
    result.resize(output.len(), 0.0);
    for row in 0..output.height {
        for column in 0..output.width {
            let from = (row * stride * input.width + column * stride) * input.channels;
            let to = (row * output.width + column) * output.channels + before;
            result[to..to + input.channels].copy_from_slice(&x[from..from + input.channels]);
        }
    }
}

#[derive(Clone, Copy)]
struct Window {
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Window {
    /// The part of the window at `position` that lies within `0..len`.
    fn inside(self, position: usize, len: usize) -> std::ops::Range<usize> {
        let start = position * self.stride;
        start.saturating_sub(self.padding)..(start + self.kernel - self.padding).min(len)
    }
}

fn max_pool(x: &[f32], input: Shape, window: Window, output: Shape, result: &mut Vec<f32>) {
    result.clear();
    result.resize(output.len(), f32::NEG_INFINITY);
    for row in 0..output.height {
        for column in 0..output.width {
            let to = (row * output.width + column) * output.channels;
            let best = &mut result[to..to + output.channels];
            for y in window.inside(row, input.height) {
                for x_at in window.inside(column, input.width) {
                    let from = (y * input.width + x_at) * input.channels;
                    let pixel = &x[from..from + input.channels];
                    // NaN wins, so that it is seen.
                    best.iter_mut()
                        .zip(pixel)
                        .for_each(|(best, &x)| *best = if x > *best || x.is_nan() { x } else { *best });
                }
            }
        }
    }
}
