//! Operators on activations.

use anyhow::{Context, Result, bail, ensure};

use super::{Call, Lifter, constant, shape};
use crate::network::{Conv, Op, Shape};
use crate::onnx::fold;
use crate::onnx::tensor::Tensor;
use crate::onnx::value::{Feature, Logits, PlaneId, Value};

use super::head;

/// Largest window, stride or padding: far beyond what classifiers have.
const MAX_WINDOW: i64 = 255;

/// Understands one node; `None` for an operator that has no place here.
pub(super) fn apply(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Option<Value>> {
    Ok(Some(match call.op() {
        "Identity" | "Dropout" => call.value(0).context("its operand is missing")?.clone(),
        "Cast" => {
            ensure!(matches!(call.node.int("to", 1)?, 1 | 10 | 11 | 16), "it turns activations into integers");
            call.value(0).context("its operand is missing")?.clone()
        }
        "Conv" => convolution(lifter, call)?,
        "BatchNormalization" => batch_norm(lifter, call)?,
        "Relu" => unary(lifter, call, Op::Relu)?,
        "Clip" => clip(lifter, call)?,
        "Add" | "Sum" | "Sub" | "Mul" | "Div" => return arithmetic(lifter, call),
        "MaxPool" => max_pool(lifter, call)?,
        "Pad" => pad(lifter, call)?,
        "Slice" => slice(lifter, call)?,
        "Concat" => return concat(lifter, call),
        "GlobalAveragePool" | "AveragePool" | "ReduceMean" => average(lifter, call)?,
        "Flatten" | "Reshape" | "Squeeze" => flattened(lifter, call)?,
        _ => return Ok(None),
    }))
}

/// The activation that an operand stands for; a sampled one becomes a step.
fn plane(lifter: &mut Lifter<'_>, call: &Call<'_>, index: usize) -> Result<PlaneId> {
    match call.value(index) {
        Some(Value::Plane(plane)) => Ok(*plane),
        Some(Value::Sampled(plane, [rows, columns])) => {
            ensure!(rows == columns, "it samples rows and columns differently ({rows} and {columns})");
            let name = format!("{}.sampled", call.node.name);
            lifter.lifted.push(&name, Op::Shortcut { stride: *rows, before: 0, after: 0 }, vec![*plane])
        }
        Some(Value::Padded(..)) => bail!("padding is only supported in front of a convolution"),
        Some(other) => bail!("its operand {} is {}, not an activation", index + 1, other.describe()),
        None => bail!("its operand {} is missing", index + 1),
    }
}

fn unary(lifter: &mut Lifter<'_>, call: &Call<'_>, op: Op) -> Result<Value> {
    let input = plane(lifter, call, 0)?;
    lifter.lifted.push(&call.node.name, op, vec![input]).map(Value::Plane)
}

/// A square window from attributes: kernel, stride and padding.
struct Window {
    kernel: usize,
    stride: usize,
    /// Top, left, bottom, right.
    pads: [usize; 4],
}

impl Window {
    /// Reads `kernel_shape`, `strides`, `pads`, `auto_pad` and `dilations`.
    fn read(call: &Call<'_>, weight: Option<&[usize]>, input: [usize; 4]) -> Result<Self> {
        let node = call.node;
        let from_weight = weight.map(|shape| shape[2..].iter().map(|&side| side as i64).collect::<Vec<_>>());
        let kernel = match (node.ints("kernel_shape")?, from_weight) {
            (Some(kernel), Some(weight)) => {
                ensure!(kernel == weight, "its window {kernel:?} is not that of its weight, {weight:?}");
                kernel
            }
            (Some(kernel), None) | (None, Some(kernel)) => kernel,
            (None, None) => bail!("it names no window"),
        };
        let strides = node.ints("strides")?.unwrap_or_else(|| vec![1; 2]);
        let dilations = node.ints("dilations")?.unwrap_or_else(|| vec![1; 2]);
        ensure!(dilations.iter().all(|&d| d == 1), "dilated windows ({dilations:?}) are not supported");
        let square = |what: &str, sides: &[i64]| match sides {
            [a, b] if a == b && (1..=MAX_WINDOW).contains(a) => Ok(*a as usize),
            _ => bail!("its {what} {sides:?} is not a square of 1 to {MAX_WINDOW}: only square windows are supported"),
        };
        let (kernel, stride) = (square("window", &kernel)?, square("stride", &strides)?);
        let pads = match node.text("auto_pad").unwrap_or("NOTSET") {
            "NOTSET" => {
                let pads = node.ints("pads")?.unwrap_or_else(|| vec![0; 4]);
                ensure!(
                    pads.len() == 4 && pads.iter().all(|p| (0..=MAX_WINDOW).contains(p)),
                    "its padding is {pads:?}"
                );
                [pads[0] as usize, pads[1] as usize, pads[2] as usize, pads[3] as usize]
            }
            "VALID" => [0; 4],
            same @ ("SAME_UPPER" | "SAME_LOWER") => same_pads(same == "SAME_UPPER", kernel, stride, input),
            other => bail!("its auto_pad is {other:?}"),
        };
        Ok(Self { kernel, stride, pads })
    }

    /// The padding, which must be the same on all sides.
    fn padding(&self) -> Result<usize> {
        let [top, left, bottom, right] = self.pads;
        ensure!(
            top == left && top == bottom && top == right,
            "its padding {:?} (top, left, bottom, right) is not the same on all sides, as the int8 kernels need it; \
             TensorFlow's SAME pads like this for stride 2: train with symmetric padding, as PyTorch does",
            self.pads
        );
        Ok(top)
    }
}

/// What `auto_pad` gives: just enough for `ceil(side / stride)` results.
fn same_pads(upper: bool, kernel: usize, stride: usize, [_, _, height, width]: [usize; 4]) -> [usize; 4] {
    let total = |side: usize| ((side.div_ceil(stride) - 1) * stride + kernel).saturating_sub(side);
    let halves = |total: usize| if upper { (total / 2, total.div_ceil(2)) } else { (total.div_ceil(2), total / 2) };
    let ((top, bottom), (left, right)) = (halves(total(height)), halves(total(width)));
    [top, left, bottom, right]
}

fn convolution(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Value> {
    let (input, extra) = match call.value(0) {
        Some(Value::Padded(plane, pads)) => (*plane, *pads),
        _ => (plane(lifter, call, 0)?, [0; 4]),
    };
    let weight = call.weight(1)?;
    let [outputs, depth, _, _] = weight.shape[..] else {
        bail!("its weight has the shape {:?}; only two-dimensional convolutions are supported", weight.shape)
    };
    let mut window = Window::read(call, Some(&weight.shape), lifter.lifted.sides(input))?;
    window.pads.iter_mut().zip(extra).for_each(|(pad, more)| *pad += more);
    let groups =
        usize::try_from(call.node.int("group", 1)?).ok().filter(|&g| g > 0).context("its group is not positive")?;
    let channels = lifter.lifted.shapes[input].channels;
    ensure!(
        outputs > 0 && outputs.is_multiple_of(groups) && depth.checked_mul(groups) == Some(channels),
        "its weight of shape {:?} in {groups} groups does not fit {channels} channels",
        weight.shape
    );
    let bias = match call.value(2) {
        Some(_) => call.weight(2)?.to_f32(),
        None => vec![0.0; outputs],
    };
    ensure!(bias.len() == outputs, "it has {} biases for {outputs} channels", bias.len());
    let pixels = window.kernel * window.kernel;
    let oihw = weight.to_f32();
    let mut ohwi = Vec::with_capacity(oihw.len());
    for filter in oihw.chunks_exact(depth * pixels) {
        (0..pixels).for_each(|pixel| ohwi.extend((0..depth).map(|i| filter[i * pixels + pixel])));
    }
    let conv = Conv {
        weight: ohwi,
        bias,
        out_channels: outputs,
        in_channels: channels,
        kernel: window.kernel,
        stride: window.stride,
        padding: window.padding()?,
        groups,
    };
    lifter.lifted.push(&call.node.name, Op::Conv(conv), vec![input]).map(Value::Plane)
}

fn batch_norm(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Value> {
    let input = plane(lifter, call, 0)?;
    ensure!(
        call.node.int("training_mode", 0)? == 0,
        "batch normalisation is in training mode: export the model in evaluation mode (model.eval())"
    );
    let channels = lifter.lifted.shapes[input].channels;
    let parameter = |index: usize| {
        let values = call.weight(index)?.to_f64();
        ensure!(values.len() == channels, "it has {} parameters for {channels} channels", values.len());
        Ok(values)
    };
    let (gamma, beta, mean, variance) = (parameter(1)?, parameter(2)?, parameter(3)?, parameter(4)?);
    ensure!(variance.iter().all(|&v| v >= 0.0), "a variance is negative");
    let epsilon = f64::from(call.node.float("epsilon", 1e-5)?);
    let factor: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
    let offset: Vec<f64> = beta.iter().zip(&mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
    affine(lifter, call, input, &factor, &offset)
}

/// `x * factor + offset` for each channel: folded into the convolution in front where nothing else reads that, a
/// 1 x 1 depthwise convolution otherwise.
fn affine(lifter: &mut Lifter<'_>, call: &Call<'_>, input: PlaneId, factor: &[f64], offset: &[f64]) -> Result<Value> {
    ensure!(factor.iter().chain(offset).all(|x| x.is_finite()), "its factors are not all finite");
    let operand = call.node.inputs.iter().zip(call.values).find(|(_, value)| matches!(value, Some(Value::Plane(_))));
    let only_here = operand.is_some_and(|(name, _)| lifter.read_once(name));
    let last = input == lifter.lifted.steps.len();
    let step = input.checked_sub(1).map(|index| &mut lifter.lifted.steps[index]);
    if let (Some(Op::Conv(conv)), true) = (step.map(|step| &mut step.op), only_here && last) {
        let filter = conv.weight.len() / conv.out_channels;
        for (channel, weights) in conv.weight.chunks_exact_mut(filter).enumerate() {
            weights.iter_mut().for_each(|w| *w = (f64::from(*w) * factor[channel]) as f32);
            conv.bias[channel] = (f64::from(conv.bias[channel]) * factor[channel] + offset[channel]) as f32;
        }
        ensure!(conv.weight.iter().chain(&conv.bias).all(|x| x.is_finite()), "folding it in leaves the range of f32");
        return Ok(Value::Plane(input));
    }
    let channels = factor.len();
    let conv = Conv {
        weight: factor.iter().map(|&x| x as f32).collect(),
        bias: offset.iter().map(|&x| x as f32).collect(),
        out_channels: channels,
        in_channels: channels,
        kernel: 1,
        stride: 1,
        padding: 0,
        groups: channels,
    };
    lifter.lifted.push(&call.node.name, Op::Conv(conv), vec![input]).map(Value::Plane)
}

fn clip(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Value> {
    let (low, high) = fold::clip_bounds(call.node, &call.tensors(), lifter.opset)?;
    ensure!(
        low == 0.0 && high > 0.0,
        "it limits to {low}..{high}; of activation functions, the int8 arithmetic has ReLU and ReLU6 (0..6 or 0..another limit)"
    );
    unary(lifter, call, if high == f64::INFINITY { Op::Relu } else { Op::Clamp { max: high as f32 } })
}

/// Sums of activations, and factors and offsets of channels.
fn arithmetic(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Option<Value>> {
    let op = call.op();
    let Some((tensor, constant_first)) = call.pair() else {
        ensure!(
            matches!(op, "Add" | "Sum") && call.values.len() == 2,
            "of activations, only the sum of two is supported{}",
            if op == "Mul" { " (squeeze-and-excitation and gates have no int8 kernel)" } else { "" }
        );
        let inputs = vec![plane(lifter, call, 0)?, plane(lifter, call, 1)?];
        return lifter.lifted.push(&call.node.name, Op::Add, inputs).map(|plane| Some(Value::Plane(plane)));
    };
    let input = plane(lifter, call, usize::from(constant_first))?;
    let sides = lifter.lifted.sides(input);
    let values = constant::along(tensor, &sides, 1)?;
    let (zeros, ones) = (vec![0.0; values.len()], vec![1.0; values.len()]);
    let (factor, offset) = match (op, constant_first) {
        ("Add" | "Sum", _) => (ones, values),
        ("Sub", false) => (ones, values.iter().map(|x| -x).collect()),
        ("Sub", true) => (vec![-1.0; values.len()], values),
        ("Mul", _) => (values, zeros),
        ("Div", false) => (values.iter().map(|x| 1.0 / x).collect(), zeros),
        _ => bail!("a constant divided by an activation is not supported"),
    };
    affine(lifter, call, input, &factor, &offset).map(Some)
}

fn max_pool(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Value> {
    let input = plane(lifter, call, 0)?;
    ensure!(call.node.int("ceil_mode", 0)? == 0, "ceil_mode is not supported");
    let window = Window::read(call, None, lifter.lifted.sides(input))?;
    let padding = window.padding()?;
    if window.kernel == 1 && padding == 0 {
        return Ok(Value::Sampled(input, [window.stride; 2]));
    }
    let op = Op::MaxPool { kernel: window.kernel, stride: window.stride, padding };
    ensure!(padding <= window.kernel / 2, "its padding is more than half of its window");
    lifter.lifted.push(&call.node.name, op, vec![input]).map(Value::Plane)
}

/// Padding with zeros: of rows and columns in front of a convolution, of channels as in the option-A shortcut.
fn pad(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Value> {
    ensure!(call.node.text("mode").unwrap_or("constant") == "constant", "only padding with a constant is supported");
    ensure!(
        call.tensor(2).is_none_or(Tensor::is_zero) && call.node.float("value", 0.0)? == 0.0,
        "it pads with another value than 0"
    );
    let listed = match call.value(1) {
        Some(_) => call.weight(1)?.to_ints()?,
        None => call.node.ints("pads")?.context("it names no padding")?,
    };
    let mut pads = [0i64; 8];
    let axes = call.tensor(3).map(Tensor::to_ints).transpose()?.unwrap_or_else(|| vec![0, 1, 2, 3]);
    ensure!(listed.len() == 2 * axes.len(), "its padding {listed:?} does not fit its axes");
    for (place, &axis) in axes.iter().enumerate() {
        let axis = crate::onnx::tensor::axis(axis, 4)?;
        (pads[axis], pads[axis + 4]) = (listed[place], listed[place + axes.len()]);
    }
    ensure!(pads.iter().all(|p| (0..=1 << 14).contains(p)), "its padding {listed:?} is negative or too large");
    let [batch, before, top, left, batch_end, after, bottom, right] = pads.map(|p| p as usize);
    ensure!(batch == 0 && batch_end == 0, "it pads the batch");
    let spatial = [top, left, bottom, right];
    if (before, after) == (0, 0) {
        return Ok(match call.value(0) {
            Some(Value::Padded(plane, old)) => Value::Padded(*plane, std::array::from_fn(|i| old[i] + spatial[i])),
            _ if spatial == [0; 4] => Value::Plane(plane(lifter, call, 0)?),
            _ => Value::Padded(plane(lifter, call, 0)?, spatial),
        });
    }
    ensure!(spatial == [0; 4], "it pads channels and rows at the same time");
    channels_padded(lifter, call, 0, (before, after))
}

/// An activation, sampled or not, with zero channels around it.
fn channels_padded(
    lifter: &mut Lifter<'_>,
    call: &Call<'_>,
    index: usize,
    (before, after): (usize, usize),
) -> Result<Value> {
    let (input, stride) = match call.value(index) {
        Some(Value::Sampled(plane, [rows, columns])) if rows == columns => (*plane, *rows),
        _ => (plane(lifter, call, index)?, 1),
    };
    let op = Op::Shortcut { stride, before, after };
    lifter.lifted.push(&call.node.name, op, vec![input]).map(Value::Plane)
}

/// Every n-th row or column from the first to the last.
fn slice(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Value> {
    let (input, mut steps) = match call.value(0) {
        Some(Value::Sampled(plane, steps)) => (*plane, *steps),
        _ => (plane(lifter, call, 0)?, [1, 1]),
    };
    let [n, c, height, width] = lifter.lifted.sides(input);
    let sides = [n, c, height.div_ceil(steps[0]), width.div_ceil(steps[1])];
    for cut in fold::cuts(call.node, &sides, &call.tensors())? {
        let step = usize::try_from(cut.step).unwrap_or(0);
        let whole = step > 0 && cut.start == 0 && cut.len == sides[cut.axis].div_ceil(step);
        ensure!(
            whole && step <= MAX_WINDOW as usize && (cut.axis >= 2 || step == 1),
            "it cuts a piece out of axis {} (from {}, {} elements, step {}); only every n-th row and column is supported",
            cut.axis,
            cut.start,
            cut.len,
            cut.step
        );
        if cut.axis >= 2 {
            steps[cut.axis - 2] *= step;
        }
    }
    Ok(if steps == [1, 1] { Value::Plane(input) } else { Value::Sampled(input, steps) })
}

/// Zero channels in front of and behind one activation: the option-A shortcut, joined instead of padded.
fn concat(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Option<Value>> {
    if shape::axis_of(call, 1, 4)? != 1 {
        return Ok(None);
    }
    let mut at = None;
    let mut zeros = [0, 0];
    for (index, value) in call.values.iter().enumerate() {
        match value {
            Some(Value::Constant(tensor)) if tensor.is_zero() && tensor.shape.len() == 4 => {
                zeros[usize::from(at.is_some())] += tensor.shape[1];
            }
            Some(_) if at.is_none() => at = Some(index),
            _ => return Ok(None),
        }
    }
    let Some(index) = at else { return Ok(None) };
    channels_padded(lifter, call, index, (zeros[0], zeros[1])).map(Some)
}

/// Global average pooling in any of its forms.
fn average(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Value> {
    let input = plane(lifter, call, 0)?;
    let Shape { height, width, channels } = lifter.lifted.shapes[input];
    let mut keep = true;
    match call.op() {
        "AveragePool" => {
            let kernel = call.node.ints("kernel_shape")?.context("it names no window")?;
            let pads = call.node.ints("pads")?.unwrap_or_default();
            let global = kernel == [height as i64, width as i64] && pads.iter().all(|&p| p == 0);
            let same = call.node.text("auto_pad").is_none_or(|pad| matches!(pad, "NOTSET" | "VALID"));
            ensure!(
                global && same,
                "its window {kernel:?} does not cover the whole activation of {height} x {width}; only global average \
                 pooling is supported (is the input size right?)"
            );
        }
        "ReduceMean" => {
            let (mut axes, kept) = fold::reduced(call.node, 4, call.tensor(1))?;
            axes.sort_unstable();
            ensure!(
                axes == [2, 3],
                "it averages over the axes {axes:?}; only the mean of all rows and columns is supported"
            );
            keep = kept;
        }
        _ => {}
    }
    let shape = if keep { vec![1, channels, 1, 1] } else { vec![1, channels] };
    Ok(Value::Feature(Feature { trunk: input, unit: false, scale: 1.0, shape }))
}

/// An activation of a single pixel is its own average.
fn flattened(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Value> {
    let input = plane(lifter, call, 0)?;
    let Shape { height, width, channels } = lifter.lifted.shapes[input];
    ensure!(
        height * width == 1,
        "it flattens an activation of {height} x {width} pixels; classifiers must read the global average (or the image \
         must be as small as the network was made for: {height} x {width} would then be 1 x 1)"
    );
    let sides = lifter.lifted.sides(input);
    let shape = shape::rearranged(lifter, call, &sides)?.context("not a reshape")?;
    shape::check_vector(&shape, channels)?;
    Ok(Value::Feature(Feature { trunk: input, unit: false, scale: 1.0, shape }))
}

/// A 1 x 1 convolution on a pooled feature is a linear layer.
pub(super) fn pointwise(call: &Call<'_>, feature: &Feature) -> Result<Logits> {
    let weight = call.weight(1)?;
    let [outputs, depth, 1, 1] = weight.shape[..] else { bail!("its window is larger than the pooled feature") };
    ensure!(call.node.int("group", 1)? == 1, "groups are not supported on a pooled feature");
    let bias = call.value(2).map(|_| call.weight(2)).transpose()?.map(Tensor::to_f64);
    head::linear(call, feature, weight.to_f64(), (outputs, depth), bias, vec![1, outputs, 1, 1])
}
