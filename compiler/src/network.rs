//! The float network that every importer produces and every later stage reads.
//!
//! A [`Network`] is a *routed program*: a stem shared by all experts, experts that run one after the other, and a
//! routing rule that decides per sample whether the next expert runs. Batch normalisation is already folded into the
//! convolutions. All tensors are `f32`; activations are NHWC and convolution weights OHWI.

use ride_runtime::op;

/// A value inside a [`Part`]: `0` is the part's input, `i + 1` is what node `i` computes.
pub type ValueId = usize;

/// Height, width and channels of one activation (batch 1, NHWC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl Shape {
    /// Number of elements.
    pub fn len(self) -> usize {
        self.height * self.width * self.channels
    }

    /// Whether the shape holds no element.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// What the network expects of an image: `x = (pixel / 255 - mean) / std` for each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Shape of one image.
    pub shape: Shape,
    /// Mean of each channel, in units of the pixel range 0..=1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, in units of the pixel range 0..=1.
    pub std: Vec<f32>,
}

/// A trained RIDE model, ready for float execution or quantization.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Architecture name as the checkpoint gives it, for instance `ResNet32EAModel`.
    pub arch: String,
    /// Input shape and normalisation.
    pub input: Input,
    /// Number of classes.
    pub classes: usize,
    /// The prefix shared by all experts; may have no nodes.
    pub stem: Part,
    /// Experts in the order in which they run; at least one.
    pub experts: Vec<Expert>,
    /// How the next expert is chosen.
    pub routing: Routing,
}

/// A single-input, single-output piece of the network in topological order; the last node's value is its output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// `stem`, `expert0`, `expert1`, ...
    pub name: String,
    /// Nodes in execution order.
    pub nodes: Vec<Node>,
}

/// One operation of a [`Part`].
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name unique within the network, for instance `stem.layer1.0.conv1` or `expert2.layer3.4.add`.
    pub name: String,
    /// What is computed.
    pub op: Op,
    /// Operands; every id is at most this node's own index.
    pub inputs: Vec<ValueId>,
}

/// Operations of a [`Node`].
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Convolution with bias (one input).
    Conv(Conv),
    /// `max(x, 0)` (one input).
    Relu,
    /// `min(max(x, 0), max)` (one input); ReLU6 has `max` 6.
    Clamp {
        /// Upper limit, positive.
        max: f32,
    },
    /// Element-wise sum (two inputs of equal shape).
    Add,
    /// Parameter-free "option A" shortcut (one input): keeps every `stride`-th pixel and pads channels with zeros.
    Shortcut {
        /// Spatial stride.
        stride: usize,
        /// Zero channels before the input's channels.
        before: usize,
        /// Zero channels after them.
        after: usize,
    },
    /// Max pooling (one input); padding never wins.
    MaxPool {
        /// Window height and width.
        kernel: usize,
        /// Spatial stride.
        stride: usize,
        /// Padding on each side.
        padding: usize,
    },
}

/// A convolution whose batch normalisation has been folded in.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// OHWI: `[out_channels][kernel][kernel][in_channels / groups]`.
    pub weight: Vec<f32>,
    /// One for each output channel.
    pub bias: Vec<f32>,
    /// Output channels.
    pub out_channels: usize,
    /// Input channels over all groups.
    pub in_channels: usize,
    /// Window height and width.
    pub kernel: usize,
    /// Spatial stride.
    pub stride: usize,
    /// Zero padding on each side.
    pub padding: usize,
    /// Groups; 1 is an ordinary convolution.
    pub groups: usize,
}

/// One expert: its own later stages and its classifier on the globally average-pooled output of the trunk.
#[derive(Clone, Debug, PartialEq)]
pub struct Expert {
    /// The expert's convolutional stages; its input is the stem's output.
    pub trunk: Part,
    /// The classifier.
    pub head: Head,
}

/// `logits = weight . f + bias`, where `f` is the pooled feature, divided by its L2 norm if `normalize`.
///
/// The answer of the first `n` experts is the sum of their logits divided by the `divisor` of the last of them. Experts
/// that count more than others have that factor in their weight and bias.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// `[classes][features]`; for a normed classifier the rows are already unit vectors times the scale `s`.
    pub weight: Vec<f32>,
    /// One for each class.
    pub bias: Vec<f32>,
    /// Length of the pooled feature.
    pub features: usize,
    /// Whether the feature is divided by its L2 norm first (a zero feature then gives zero, as `F.normalize` does).
    pub normalize: bool,
    /// What the sum of logits is divided by when this expert is the last one that ran: for a plain mean its number, from
    /// 1 on.
    pub divisor: f32,
}

/// How it is decided whether the next expert runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Routing {
    /// Always run every expert.
    None,
    /// RIDE's expert assignment: see [`Router`]. One router for each expert but the last.
    Assignment(Vec<Router>),
    /// How sure the mean logits are; one rule for each expert but the last.
    Confidence(Vec<Confidence>),
}

/// The next expert runs iff the mean logits are not sure enough: [`op::Router::proceeds`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Confidence {
    /// The measure.
    pub criterion: op::Criterion,
    /// In units of the measure.
    pub threshold: f32,
}

/// Router after one expert: `h = relu(hidden . f / |f| + hidden_bias)`,
/// `z = fc . [top_k largest mean logits so far, descending; h] + fc_bias`; the next expert runs iff `z > threshold`
/// (a zero feature gives NaN in the official code, which means stop).
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// `[hidden][features]`.
    pub hidden_weight: Vec<f32>,
    /// One for each hidden unit.
    pub hidden_bias: Vec<f32>,
    /// Number of sorted mean logits that the router sees.
    pub top_k: usize,
    /// `[top_k + hidden]`.
    pub fc_weight: Vec<f32>,
    /// Bias of the score.
    pub fc_bias: f32,
    /// 0 in the official code.
    pub threshold: f32,
}

impl Routing {
    /// Number of routers.
    pub fn routers(&self) -> usize {
        match self {
            Routing::None => 0,
            Routing::Assignment(routers) => routers.len(),
            Routing::Confidence(rules) => rules.len(),
        }
    }

    /// Gives each router, in order, one of these thresholds; routers for which there are none keep theirs.
    pub fn set_thresholds(&mut self, thresholds: &[f32]) {
        match self {
            Routing::None => {}
            Routing::Assignment(routers) => routers.iter_mut().zip(thresholds).for_each(|(r, &t)| r.threshold = t),
            Routing::Confidence(rules) => rules.iter_mut().zip(thresholds).for_each(|(r, &t)| r.threshold = t),
        }
    }

    /// Threshold of each router.
    pub fn thresholds(&self) -> Vec<f32> {
        match self {
            Routing::None => Vec::new(),
            Routing::Assignment(routers) => routers.iter().map(|router| router.threshold).collect(),
            Routing::Confidence(rules) => rules.iter().map(|rule| rule.threshold).collect(),
        }
    }
}

impl Network {
    /// Multiply-accumulates of one image through all experts: convolutions and classifiers.
    pub fn macs(&self) -> u64 {
        let between = self.stem.shapes(self.input.shape).and_then(|shapes| shapes.last().copied());
        let expert = |expert: &Expert| {
            let trunk = between.map_or(0, |shape| expert.trunk.macs(shape));
            trunk + (expert.head.features * self.classes) as u64
        };
        self.stem.macs(self.input.shape) + self.experts.iter().map(expert).sum::<u64>()
    }
}

impl Op {
    /// Multiply-accumulates of a convolution with a result of shape `output`; of anything else 0.
    pub fn macs(&self, output: Shape) -> u64 {
        match self {
            Op::Conv(conv) => (output.len() * conv.kernel * conv.kernel * conv.in_channels / conv.groups) as u64,
            _ => 0,
        }
    }

    /// Shape of the result for operands of the given shape; `None` where the operation cannot take it.
    pub fn output_shape(&self, input: Shape) -> Option<Shape> {
        let pooled = |kernel: usize, stride: usize, padding: usize| {
            let side = |n: usize| Some((n + 2 * padding).checked_sub(kernel)? / stride + 1);
            Some((side(input.height)?, side(input.width)?))
        };
        match self {
            Op::Conv(c) => {
                let (height, width) = pooled(c.kernel, c.stride, c.padding)?;
                (c.in_channels == input.channels).then_some(Shape { height, width, channels: c.out_channels })
            }
            Op::Relu | Op::Clamp { .. } | Op::Add => Some(input),
            Op::Shortcut { stride, before, after } => Some(Shape {
                height: input.height.div_ceil(*stride),
                width: input.width.div_ceil(*stride),
                channels: before + input.channels + after,
            }),
            Op::MaxPool { kernel, stride, padding } => {
                let (height, width) = pooled(*kernel, *stride, *padding)?;
                Some(Shape { height, width, ..input })
            }
        }
    }
}

impl Part {
    /// Shapes of all values of this part, index = [`ValueId`]; `None` if an operand does not fit its operation.
    pub fn shapes(&self, input: Shape) -> Option<Vec<Shape>> {
        let mut shapes = vec![input];
        for node in &self.nodes {
            let first = *shapes.get(*node.inputs.first()?)?;
            if node.inputs.iter().any(|&i| shapes.get(i) != Some(&first)) {
                return None;
            }
            shapes.push(node.op.output_shape(first)?);
        }
        Some(shapes)
    }

    /// Multiply-accumulates for an input of this shape; 0 if it does not fit.
    pub fn macs(&self, input: Shape) -> u64 {
        let shapes = self.shapes(input).unwrap_or_default();
        self.nodes.iter().zip(shapes.iter().skip(1)).map(|(node, &shape)| node.op.macs(shape)).sum()
    }

    /// The part's output: the last node's value, or the input if there are no nodes.
    pub fn output(&self) -> ValueId {
        self.nodes.len()
    }
}
