//! Stem, stages and residual blocks, with batch normalisation folded into the convolutions.

use anyhow::{Result, bail, ensure};

use super::arch::Block;
use super::head;
use super::spec::{Classifier, Spec};
use super::tensors::Tensors;
use crate::network::{Conv, Expert, Node, Op, Part, Shape, ValueId};

/// PyTorch's default epsilon of batch normalisation.
const EPSILON: f64 = 1e-5;
/// Images have three channels.
pub(super) const IMAGE_CHANNELS: usize = 3;

/// A convolution without its parameters.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    pub(super) input: usize,
    pub(super) output: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) groups: usize,
}

/// Grows a [`Part`].
struct Builder<'t, 'a> {
    part: Part,
    tensors: &'t mut Tensors<'a>,
}

/// Where a tensor's module and the nodes made of it have their names.
struct Place {
    /// Name of the module in the checkpoint, such as `layer2s.0.4`.
    module: String,
    /// Name of the nodes within the part, such as `layer2.4`.
    node: String,
}

/// The stages that all experts share; nothing if they are separate.
pub(super) fn stem(spec: &Spec, tensors: &mut Tensors<'_>) -> Result<Part> {
    let mut builder = Builder::new("stem", tensors);
    if spec.separate {
        return Ok(builder.part);
    }
    let mut value = builder.first(spec, ("conv1", "bn1"))?;
    for stage in 0..spec.shared {
        value = builder.stage(spec, stage, &format!("layer{}", stage + 1), value)?;
    }
    Ok(builder.part)
}

/// The stages and the classifier of one expert, whose input has the shape `input`.
pub(super) fn expert(spec: &Spec, index: usize, input: Shape, tensors: &mut Tensors<'_>) -> Result<Expert> {
    let mut builder = Builder::new(&format!("expert{index}"), tensors);
    let mut value = 0;
    if spec.separate {
        value = builder.first(spec, (&spec.of_expert("conv1", index), &spec.of_expert("bn1", index)))?;
    }
    for stage in spec.shared..spec.widths.len() {
        value = builder.stage(spec, stage, &spec.of_expert(&format!("layer{}", stage + 1), index), value)?;
    }
    if matches!(spec.classifier, Classifier::Reslt { .. }) {
        builder.pieces(&spec.of_expert("ResLTBlock", index), input, value)?;
    }
    let trunk = builder.part;
    Ok(Expert { trunk, head: head::classifier(spec, index, tensors)? })
}

impl<'t, 'a> Builder<'t, 'a> {
    fn new(name: &str, tensors: &'t mut Tensors<'a>) -> Self {
        Self { part: Part { name: name.to_string(), nodes: Vec::new() }, tensors }
    }

    fn push(&mut self, name: &str, op: Op, inputs: Vec<ValueId>) -> ValueId {
        let name = format!("{}.{name}", self.part.name);
        self.part.nodes.push(Node { name, op, inputs });
        self.part.nodes.len()
    }

    fn conv(&mut self, name: &str, modules: (&str, &str), geometry: Geometry, input: ValueId) -> Result<ValueId> {
        let conv = convolution(self.tensors, modules, geometry)?;
        Ok(self.push(name, Op::Conv(conv), vec![input]))
    }

    /// The first convolution, of the given modules, and what belongs to it.
    fn first(&mut self, spec: &Spec, modules: (&str, &str)) -> Result<ValueId> {
        let (kernel, stride, output) = spec.arch.family.first;
        let geometry = Geometry { input: IMAGE_CHANNELS, output, kernel, stride, groups: 1 };
        let mut value = self.conv("conv1", modules, geometry, 0)?;
        value = self.push("relu1", Op::Relu, vec![value]);
        if spec.arch.family.max_pool {
            value = self.push("maxpool", Op::MaxPool { kernel: 3, stride: 2, padding: 1 }, vec![value]);
        }
        Ok(value)
    }

    /// What `ResLT` puts between pooling and classifier: a 1 x 1 convolution to three times the channels. The mean over
    /// all pixels comes first, as a convolution of each channel by itself.
    fn pieces(&mut self, module: &str, input: Shape, value: ValueId) -> Result<ValueId> {
        let shape = self.part.shapes(input).and_then(|shapes| shapes.get(value).copied());
        let Some(Shape { height: side, width, channels }) = shape.filter(|shape| !shape.is_empty()) else {
            bail!("{} cannot run on this size of image; see --input-size", self.part.name)
        };
        ensure!(side == width, "ResLT's classifier needs square images; its last layer has {side} x {width} pixels");
        let mean = Conv {
            weight: vec![1.0 / (side * side) as f32; channels * side * side],
            bias: vec![0.0; channels],
            out_channels: channels,
            in_channels: channels,
            kernel: side,
            stride: 1,
            padding: 0,
            groups: channels,
        };
        let value = if side > 1 { self.push("mean", Op::Conv(mean), vec![value]) } else { value };
        let output = head::PIECES * channels;
        let geometry = Geometry { input: channels, output, kernel: 1, stride: 1, groups: 1 };
        let modules = (format!("{module}.0"), format!("{module}.1"));
        let value = self.conv("pieces", (&modules.0, &modules.1), geometry, value)?;
        Ok(self.push("relu_pieces", Op::Relu, vec![value]))
    }

    /// A stage of residual blocks, counted from 0; returns its output.
    fn stage(&mut self, spec: &Spec, stage: usize, module: &str, value: ValueId) -> Result<ValueId> {
        let mut value = value;
        let mut input = if stage == 0 { spec.arch.family.first.2 } else { spec.channels(stage - 1) };
        for block in 0..spec.depths[stage] {
            let stride = if block == 0 { spec.arch.family.stages[stage].stride } else { 1 };
            let place = Place { module: format!("{module}.{block}"), node: format!("layer{}.{block}", stage + 1) };
            let shape = BlockShape { kind: spec.arch.block, input, planes: spec.widths[stage], stride };
            value = self.block(&place, &shape, value)?;
            input = shape.output();
        }
        Ok(value)
    }

    /// Convolutions with ReLU in between, the shortcut, their sum and a last ReLU.
    fn block(&mut self, place: &Place, shape: &BlockShape, input: ValueId) -> Result<ValueId> {
        let Place { module, node } = place;
        let convolutions = shape.convolutions();
        let mut value = input;
        for (index, geometry) in convolutions.iter().enumerate() {
            let number = index + 1;
            let modules = (format!("{module}.conv{number}"), format!("{module}.bn{number}"));
            value = self.conv(&format!("{node}.conv{number}"), (&modules.0, &modules.1), *geometry, value)?;
            if number < convolutions.len() {
                value = self.push(&format!("{node}.relu{number}"), Op::Relu, vec![value]);
            }
        }
        let shortcut = self.shortcut(place, shape, input)?;
        let sum = self.push(&format!("{node}.add"), Op::Add, vec![value, shortcut]);
        Ok(self.push(&format!("{node}.relu{}", convolutions.len()), Op::Relu, vec![sum]))
    }

    fn shortcut(&mut self, place: &Place, shape: &BlockShape, input: ValueId) -> Result<ValueId> {
        let Place { module, node } = place;
        let output = shape.output();
        if shape.stride == 1 && shape.input == output {
            return Ok(input);
        }
        if shape.kind == Block::OptionA {
            // The specification made sure that this is even.
            let pad = (output - shape.input) / 2;
            let op = Op::Shortcut { stride: shape.stride, before: pad, after: pad };
            return Ok(self.push(&format!("{node}.shortcut"), op, vec![input]));
        }
        let geometry = Geometry { input: shape.input, output, kernel: 1, stride: shape.stride, groups: 1 };
        let modules = (format!("{module}.downsample.0"), format!("{module}.downsample.1"));
        self.conv(&format!("{node}.downsample"), (&modules.0, &modules.1), geometry, input)
    }
}

/// Widths and stride of a residual block.
pub(super) struct BlockShape {
    pub(super) kind: Block,
    pub(super) input: usize,
    pub(super) planes: usize,
    pub(super) stride: usize,
}

impl BlockShape {
    pub(super) fn output(&self) -> usize {
        self.planes * self.kind.expansion()
    }

    pub(super) fn convolutions(&self) -> Vec<Geometry> {
        let Self { kind, input, planes, stride } = *self;
        let (inner, output) = (kind.inner(planes), self.output());
        let conv = |input, output, kernel, stride, groups| Geometry { input, output, kernel, stride, groups };
        match kind {
            Block::OptionA | Block::Basic => vec![conv(input, planes, 3, stride, 1), conv(planes, planes, 3, 1, 1)],
            Block::Bottleneck | Block::Next => vec![
                conv(input, inner, 1, 1, 1),
                conv(inner, inner, 3, stride, kind.groups()),
                conv(inner, output, 1, 1, 1),
            ],
        }
    }
}

/// A convolution with the batch normalisation behind it folded in, both in double precision:
/// `w' = w * g / sqrt(v + eps)` and `b' = b - m * g / sqrt(v + eps)`.
fn convolution(tensors: &mut Tensors<'_>, modules: (&str, &str), geometry: Geometry) -> Result<Conv> {
    let Geometry { input, output, kernel, stride, groups } = geometry;
    let (conv, norm) = modules;
    let depth = input / groups;
    let name = format!("{conv}.weight");
    // OIHW, as PyTorch has it.
    let weight = tensors.take(&name, &[output, depth, kernel, kernel])?;
    let mut parameter = |field: &str| tensors.take(&format!("{norm}.{field}"), &[output]);
    let (gamma, beta) = (parameter("weight")?, parameter("bias")?);
    let (mean, variance) = (parameter("running_mean")?, parameter("running_var")?);
    let window = kernel * kernel;
    let mut folded = Vec::with_capacity(weight.len());
    let mut bias = Vec::with_capacity(output);
    for channel in 0..output {
        let spread = f64::from(variance[channel]) + EPSILON;
        ensure!(
            variance[channel] >= 0.0,
            "{norm}.running_var[{channel}] is {}; a variance is never negative",
            variance[channel]
        );
        let factor = f64::from(gamma[channel]) / spread.sqrt();
        bias.push((f64::from(beta[channel]) - f64::from(mean[channel]) * factor) as f32);
        let filter = &weight[channel * depth * window..][..depth * window];
        for pixel in 0..window {
            folded.extend((0..depth).map(|i| (f64::from(filter[i * window + pixel]) * factor) as f32));
        }
    }
    ensure!(
        folded.iter().chain(&bias).all(|value| value.is_finite()),
        "folding {norm} into {name} gives values beyond the range of f32"
    );
    Ok(Conv {
        weight: folded,
        bias,
        out_channels: output,
        in_channels: input,
        kernel,
        stride,
        padding: kernel / 2,
        groups,
    })
}
