//! Fuses the float graph into the steps that an artifact executes.
//!
//! A convolution takes the ReLU behind it along. Where a convolution's result is only added to something else, it is
//! moved to the place of the addition and accumulates in place, into the *residual stream*: the values of such a chain
//! share one buffer and one scale.

use std::borrow::Cow;

use anyhow::{Result, bail, ensure};

use super::FineReads;
use crate::network::{Conv, Network, Op, Part, Shape};

/// Index into [`Program::values`].
pub(crate) type ValueIx = usize;

/// An activation of the fused program.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// Name of the float node that it stands for.
    pub(crate) name: String,
    /// Its shape.
    pub(crate) shape: Shape,
    /// Values with the same stream share a scale, and a buffer where they accumulate; `None` for a value of its own.
    pub(crate) stream: Option<usize>,
    /// Whether it is a projection that only its stream's next value reads: a summand, not an activation.
    pub(crate) summand: bool,
    /// Whether it is only what the low bytes of an input add to the value of that name.
    pub(crate) remainder: bool,
    /// Upper limit of a fused ReLU6 or its like.
    pub(crate) ceiling: Option<f32>,
}

impl Value {
    /// Name of the operation that computes it.
    pub(crate) fn record_name(&self) -> Cow<'_, str> {
        if self.remainder { Cow::Owned(format!("{}{REMAINDER}", self.name)) } else { Cow::Borrowed(&self.name) }
    }
}

/// What the name of an operation on low bytes ends with, after the name of the value that it is a part of.
const REMAINDER: &str = ".low";

/// Which bytes of a value a convolution reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plane {
    /// The only ones of a narrow value, the upper ones of a wide value: what the value is, rounded to 8 bits.
    High,
    /// The lower ones of a wide value: what that leaves.
    Low,
}

/// What a step reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// The raw image.
    Image,
    /// A value.
    Value(ValueIx),
}

/// What a step computes.
#[derive(Clone, Debug)]
pub(crate) enum Kind<'n> {
    /// Convolution with fused ReLU; accumulates onto the residual that its output's buffer holds.
    Conv { conv: &'n Conv, relu: bool, accumulate: Option<ValueIx>, plane: Plane },
    /// Option-A shortcut; with stride 1 and no padding a copy.
    Shortcut { stride: usize, before: usize },
    /// Maximum over windows.
    MaxPool { kernel: usize, stride: usize, padding: usize },
}

/// One step of a part.
#[derive(Clone, Debug)]
pub(crate) struct Step<'n> {
    /// Name of the float node that does the main work.
    pub(crate) name: String,
    /// The operation.
    pub(crate) kind: Kind<'n>,
    /// Its input.
    pub(crate) input: Input,
    /// Its output.
    pub(crate) output: ValueIx,
}

/// Stem or expert trunk.
#[derive(Clone, Debug)]
pub(crate) struct PartProgram<'n> {
    /// Steps in execution order.
    pub(crate) steps: Vec<Step<'n>>,
    /// The value that the next part or the pooling reads.
    pub(crate) output: Input,
}

/// The whole network, fused.
#[derive(Clone, Debug)]
pub(crate) struct Program<'n> {
    /// All values.
    pub(crate) values: Vec<Value>,
    /// The stem.
    pub(crate) stem: PartProgram<'n>,
    /// One trunk for each expert.
    pub(crate) experts: Vec<PartProgram<'n>>,
    /// Whether each stream is a residual stream; others only tie values to one scale.
    pub(crate) streams: Vec<bool>,
}

impl<'n> Program<'n> {
    /// Fuses `network`, of which the convolutions `fine` read all 16 bits of their input.
    pub(crate) fn new(network: &'n Network, fine: &FineReads) -> Result<Self> {
        let mut fuser = Fuser { values: Vec::new(), streams: Vec::new(), fine };
        let stem = fuser.part(&network.stem, Input::Image, network.input.shape)?;
        let shape = match stem.output {
            Input::Image => network.input.shape,
            Input::Value(v) => fuser.values[v].shape,
        };
        let experts =
            network.experts.iter().map(|e| fuser.part(&e.trunk, stem.output, shape)).collect::<Result<Vec<_>>>()?;
        Ok(Program { values: fuser.values, stem, experts, streams: fuser.streams })
    }
}

struct Fuser<'f> {
    values: Vec<Value>,
    streams: Vec<bool>,
    fine: &'f FineReads,
}

/// State of one part while it is fused; indexed by float value id.
struct PartState<'p> {
    part: &'p Part,
    shapes: Vec<Shape>,
    /// Fused value of each float value, once it has been computed.
    done: Vec<Option<Input>>,
    /// Nodes that read each float value.
    readers: Vec<Vec<usize>>,
}

impl PartState<'_> {
    /// The only node that reads float value `v`, if it is not the part's output as well.
    fn only_reader(&self, v: usize) -> Option<usize> {
        match self.readers[v][..] {
            [n] if v != self.part.output() => Some(n),
            _ => None,
        }
    }

    /// The ReLU that can be fused behind float value `v`.
    fn relu_behind(&self, v: usize) -> Option<usize> {
        self.only_reader(v).filter(|&n| matches!(self.part.nodes[n].op, Op::Relu | Op::Clamp { .. }))
    }

    /// The addition that a convolution computing `v` should accumulate into.
    fn add_behind(&self, v: usize) -> Option<usize> {
        let add = self.only_reader(v).filter(|&n| self.part.nodes[n].op == Op::Add)?;
        // Of two convolutions, the first operand (the main branch) accumulates onto the second (the projection).
        let [a, b] = self.part.nodes[add].inputs[..] else { return None };
        (a != b && (a == v || !self.can_accumulate(a))).then_some(add)
    }

    fn can_accumulate(&self, v: usize) -> bool {
        v > 0 && matches!(self.part.nodes[v - 1].op, Op::Conv(_)) && self.only_reader(v).is_some()
    }

    fn computed(&self, v: usize) -> Result<Input> {
        match self.done[v] {
            Some(input) => Ok(input),
            None => bail!("{}: an operand is used before it is computed", self.part.nodes[v - 1].name),
        }
    }
}

impl Fuser<'_> {
    fn part<'n>(&mut self, part: &'n Part, input: Input, shape: Shape) -> Result<PartProgram<'n>> {
        let Some(shapes) = part.shapes(shape) else {
            bail!("{}: operand shapes do not fit together for an input of {shape:?}", part.name);
        };
        let mut readers = vec![Vec::new(); shapes.len()];
        for (n, node) in part.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&v| readers[v].push(n));
        }
        let mut state = PartState { part, done: vec![None; shapes.len()], shapes, readers };
        state.done[0] = Some(input);
        let mut steps = Vec::new();
        for (n, node) in part.nodes.iter().enumerate() {
            let v = n + 1;
            match &node.op {
                Op::Conv(_) if state.add_behind(v).is_some() => {} // runs where its sum is formed
                Op::Conv(conv) => {
                    let relu = state.relu_behind(v);
                    let nodes = (n, relu.unwrap_or(n));
                    let accumulate = self.remainder(&mut state, &mut steps, nodes, None)?;
                    let stream = accumulate.and_then(|v| self.values[v].stream);
                    let kind = Kind::Conv { conv, relu: relu.is_some(), accumulate, plane: Plane::High };
                    self.emit(&mut state, &mut steps, nodes, kind, stream)?;
                }
                Op::Relu | Op::Clamp { .. } if state.done[v].is_some() => {} // fused
                Op::Add => self.add(&mut state, &mut steps, n)?,
                Op::Shortcut { stride, before, .. } => {
                    // Both sides belong to residual streams, so that wide goes to wide.
                    if let Input::Value(source) = state.computed(node.inputs[0])? {
                        self.stream_of(source);
                    }
                    let stream = self.new_stream(true);
                    let kind = Kind::Shortcut { stride: *stride, before: *before };
                    self.emit(&mut state, &mut steps, (n, n), kind, Some(stream))?;
                }
                Op::MaxPool { kernel, stride, padding } => {
                    let Input::Value(source) = state.computed(node.inputs[0])? else {
                        bail!("{}: the image itself cannot be pooled", node.name)
                    };
                    // Nothing is rescaled: both sides have one scale.
                    let stream = self.scale_of(source);
                    let kind = Kind::MaxPool { kernel: *kernel, stride: *stride, padding: *padding };
                    self.emit(&mut state, &mut steps, (n, n), kind, Some(stream))?;
                }
                Op::Relu | Op::Clamp { .. } => {
                    bail!("{}: {} cannot be compiled to int8 in this place yet", node.name, name_of(&node.op))
                }
            }
        }
        Ok(PartProgram { steps, output: state.computed(part.output())? })
    }

    fn new_stream(&mut self, residual: bool) -> usize {
        self.streams.push(residual);
        self.streams.len() - 1
    }

    /// The stream of a value, which ties it to other values' scale.
    fn scale_of(&mut self, value: ValueIx) -> usize {
        if self.values[value].stream.is_none() {
            self.values[value].stream = Some(self.new_stream(false));
        }
        self.values[value].stream.unwrap_or_default()
    }

    /// The residual stream of a value, which becomes one if it is none yet.
    fn stream_of(&mut self, value: ValueIx) -> usize {
        let stream = self.scale_of(value);
        self.streams[stream] = true;
        stream
    }

    /// Emits a step that does node `n`'s work and computes the value of node `last` (the ReLU behind it, say).
    fn emit<'n>(
        &mut self,
        state: &mut PartState<'n>,
        steps: &mut Vec<Step<'n>>,
        (n, last): (usize, usize),
        kind: Kind<'n>,
        stream: Option<usize>,
    ) -> Result<()> {
        let part = state.part;
        let input = state.computed(part.nodes[n].inputs[0])?;
        let ceiling = match part.nodes[last].op {
            Op::Clamp { max } => Some(max),
            _ => None,
        };
        let value = Value {
            name: part.nodes[last].name.clone(),
            shape: state.shapes[last + 1],
            stream,
            summand: false,
            remainder: false,
            ceiling,
        };
        self.values.push(value);
        let output = self.values.len() - 1;
        for v in [n + 1, last + 1] {
            state.done[v] = Some(Input::Value(output));
        }
        steps.push(Step { name: part.nodes[n].name.clone(), kind, input, output });
        Ok(())
    }

    /// For a convolution that reads all 16 bits of its input: emits its run over the low bytes, whose result the run over
    /// the high bytes then accumulates onto. Low bytes go first, because what they add is small: it fits wherever the
    /// residual fits, or else it is a raw summand.
    fn remainder<'n>(
        &mut self,
        state: &mut PartState<'n>,
        steps: &mut Vec<Step<'n>>,
        (n, last): (usize, usize),
        residual: Option<ValueIx>,
    ) -> Result<Option<ValueIx>> {
        let node = &state.part.nodes[n];
        let Op::Conv(conv) = &node.op else { return Ok(None) };
        if !self.fine.contains(&node.name) {
            return Ok(None);
        }
        let Input::Value(source) = state.computed(node.inputs[0])? else {
            bail!("{}: pixels have no 16 bits to read", node.name)
        };
        if residual.is_some_and(|v| self.values[v].summand) {
            bail!("{}: what is added to a projection cannot be read with 16 bits", node.name)
        }
        self.stream_of(source);
        let stream = match residual {
            Some(v) => self.stream_of(v),
            None => self.new_stream(true),
        };
        let kind = Kind::Conv { conv, relu: false, accumulate: residual, plane: Plane::Low };
        self.emit(state, steps, (n, last), kind, Some(stream))?;
        let output = self.values.len() - 1;
        let value = &mut self.values[output];
        (value.remainder, value.summand, value.ceiling) = (true, residual.is_none(), None);
        Ok(Some(output))
    }

    /// An addition: the convolution among its operands accumulates onto the other one.
    fn add<'n>(&mut self, state: &mut PartState<'n>, steps: &mut Vec<Step<'n>>, n: usize) -> Result<()> {
        let part = state.part;
        let node = &part.nodes[n];
        let conv = node.inputs.iter().copied().find(|&v| v > 0 && state.add_behind(v) == Some(n));
        let Some(conv_value) = conv else {
            bail!("{}: an addition must have a convolution, used nowhere else, as one operand", node.name);
        };
        let residual_value = *node.inputs.iter().find(|&&v| v != conv_value).unwrap_or(&conv_value);
        let residual = match state.computed(residual_value)? {
            Input::Value(v) => v,
            Input::Image => bail!("{}: the image cannot be a residual", node.name),
        };
        // The residual is overwritten: it must belong to this part and be read by nobody later.
        let read_later = state.readers[residual_value].iter().any(|&r| r > n);
        ensure!(
            residual_value != 0 && !read_later && residual_value != part.output(),
            "{}: the residual is still needed after the addition",
            node.name
        );
        let stream = self.stream_of(residual);
        let projected = matches!(&part.nodes[residual_value - 1].op, Op::Conv(_));
        self.values[residual].summand = projected && state.only_reader(residual_value) == Some(n);
        let Op::Conv(conv) = &part.nodes[conv_value - 1].op else { unreachable!("add_behind finds convolutions") };
        let relu = state.relu_behind(n + 1);
        let last = relu.unwrap_or(n);
        let remainder = self.remainder(state, steps, (conv_value - 1, last), Some(residual))?;
        let accumulate = Some(remainder.unwrap_or(residual));
        let kind = Kind::Conv { conv, relu: relu.is_some(), accumulate, plane: Plane::High };
        self.emit(state, steps, (conv_value - 1, last), kind, Some(stream))?;
        state.done[n + 1] = state.done[last + 1];
        Ok(())
    }
}

fn name_of(op: &Op) -> &'static str {
    match op {
        Op::Conv(_) => "a convolution",
        Op::Relu => "a ReLU of its own",
        Op::Clamp { .. } => "a ReLU with an upper limit",
        Op::Add => "an addition",
        Op::Shortcut { .. } => "a shortcut",
        Op::MaxPool { .. } => "max pooling",
    }
}
