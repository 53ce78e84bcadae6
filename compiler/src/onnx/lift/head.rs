//! Operators on pooled features and on logits.

use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};

use super::{Call, Lifter, constant, norm, plane, router, shape};
use crate::onnx::fold;
use crate::onnx::tensor::Tensor;
use crate::onnx::value::{Feature, Layer, Logits, Stack, Term, Top, Value, long_axis};

/// Understands a node on a feature.
pub(super) fn feature(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Option<Value>> {
    let Some(Value::Feature(feature)) = call.value(0) else {
        return match (call.op(), call.value(1)) {
            ("Mul", Some(Value::Feature(feature))) => scaled(feature, call.weight(0)?).map(Some),
            _ => bail!("the pooled feature must be its first operand"),
        };
    };
    if let Some(shape) = shape::rearranged(lifter, call, &feature.shape)? {
        shape::check_vector(&shape, feature.shape.iter().product())?;
        return Ok(Some(Value::Feature(Feature { shape, ..feature.clone() })));
    }
    Ok(Some(match call.op() {
        "Gemm" => Value::Logits(gemm(call, feature)?),
        "MatMul" => Value::Logits(matmul(call, feature)?),
        "Conv" => Value::Logits(plane::pointwise(call, feature)?),
        // Pooling what has been pooled changes nothing.
        "GlobalAveragePool" | "ReduceMean" if feature.shape.len() == 4 => {
            let keep = call.op() == "GlobalAveragePool" || {
                let (axes, keep) = fold::reduced(call.node, 4, call.tensor(1))?;
                ensure!(!axes.contains(&feature.axis()), "it averages over the channels");
                keep
            };
            let shape = if keep { feature.shape.clone() } else { feature.shape[..2].to_vec() };
            Value::Feature(Feature { shape, ..feature.clone() })
        }
        "Mul" | "Div" if call.tensor(1).is_some() => scaled_by(feature, call)?,
        _ => return norm::start(call, feature),
    }))
}

fn scaled(feature: &Feature, factor: &Tensor) -> Result<Value> {
    let factor = factor.scalar().context("channels of a pooled feature cannot have factors of their own")?;
    ensure!(factor > 0.0, "the factor {factor} of a pooled feature is not positive");
    Ok(Value::Feature(Feature { scale: feature.scale * factor, ..feature.clone() }))
}

fn scaled_by(feature: &Feature, call: &Call<'_>) -> Result<Value> {
    let factor = call.weight(1)?;
    if call.op() == "Mul" {
        return scaled(feature, factor);
    }
    let inverse = factor.scalar().map(|value| 1.0 / value).context("channels cannot have divisors of their own")?;
    scaled(feature, &Tensor::floats(vec![], vec![inverse as f32]))
}

/// A linear layer; `weight` is `[outputs][inputs]`.
pub(super) fn linear(
    call: &Call<'_>,
    feature: &Feature,
    weight: Vec<f64>,
    (outputs, inputs): (usize, usize),
    bias: Option<Vec<f64>>,
    shape: Vec<usize>,
) -> Result<Logits> {
    let features: usize = feature.shape.iter().product();
    ensure!(
        inputs == features && outputs > 0,
        "its weight takes {inputs} values, but the pooled feature has {features}"
    );
    let bias = bias.unwrap_or_else(|| vec![0.0; outputs]);
    let bias = if bias.len() == 1 { vec![bias[0]; outputs] } else { bias };
    ensure!(bias.len() == outputs, "it has {} biases for {outputs} outputs", bias.len());
    let weight = weight.into_iter().map(|w| w * feature.scale).collect();
    let Feature { trunk, unit, .. } = *feature;
    let layer = Rc::new(Layer { name: call.node.name.clone(), trunk, unit, weight, features });
    Ok(Logits { terms: vec![Term { layer, bias, scale: 1.0 }], offset: vec![0.0; outputs], shape })
}

/// `rows x columns` transposed.
pub(super) fn transposed(values: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

/// Weight `[outputs][inputs]`, its sides, and bias of a `Gemm` whose first operand is a vector.
pub(super) struct Affine {
    pub(super) weight: Vec<f64>,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) bias: Option<Vec<f64>>,
}

pub(super) fn gemm_parts(call: &Call<'_>) -> Result<Affine> {
    let node = call.node;
    ensure!(node.int("transA", 0)? == 0, "its first operand is transposed");
    let weight = call.weight(1)?;
    let [rows, columns] = weight.shape[..] else { bail!("its weight has the shape {:?}", weight.shape) };
    let (alpha, beta) = (f64::from(node.float("alpha", 1.0)?), f64::from(node.float("beta", 1.0)?));
    let values: Vec<f64> = weight.to_f64().into_iter().map(|w| w * alpha).collect();
    let (weight, outputs, inputs) = match node.int("transB", 0)? {
        0 => (transposed(&values, rows, columns), columns, rows),
        _ => (values, rows, columns),
    };
    let bias = call.value(2).map(|_| call.weight(2)).transpose()?;
    let bias = bias.map(|bias| bias.to_f64().into_iter().map(|b| b * beta).collect());
    Ok(Affine { weight, outputs, inputs, bias })
}

fn gemm(call: &Call<'_>, feature: &Feature) -> Result<Logits> {
    ensure!(feature.shape.len() == 2, "the pooled feature has the shape {:?} here", feature.shape);
    let Affine { weight, outputs, inputs, bias } = gemm_parts(call)?;
    linear(call, feature, weight, (outputs, inputs), bias, vec![1, outputs])
}

fn matmul(call: &Call<'_>, feature: &Feature) -> Result<Logits> {
    let weight = call.weight(1)?;
    let [rows, columns] = weight.shape[..] else { bail!("its weight has the shape {:?}", weight.shape) };
    let mut shape = feature.shape.clone();
    ensure!(feature.axis() + 1 == shape.len(), "the pooled feature has the shape {shape:?} here");
    *shape.last_mut().context("no axes")? = columns;
    linear(call, feature, transposed(&weight.to_f64(), rows, columns), (columns, rows), None, shape)
}

/// Understands a node on logits.
pub(super) fn logits(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Option<Value>> {
    let place = call.values.iter().position(|value| matches!(value, Some(Value::Logits(_))));
    let Some(Value::Logits(logits)) = place.and_then(|place| call.value(place)) else {
        bail!("no logits among its operands")
    };
    if let Some(shape) = shape::rearranged(lifter, call, &logits.shape)? {
        shape::check_vector(&shape, logits.outputs())?;
        return Ok(Some(Value::Logits(Logits { shape, ..logits.clone() })));
    }
    Ok(Some(match call.op() {
        "Add" | "Sum" | "Sub" | "Mul" | "Div" | "Mean" => Value::Logits(combined(call, logits)?),
        "Concat" => return joined(call, logits),
        "Relu" => Value::Hidden(Rc::new(logits.clone())),
        "TopK" => Value::Top(top(call, logits)?),
        "ReduceMean" | "ReduceSum" => {
            // Over an axis that was put there for one expert.
            let (axes, keep) = fold::reduced(call.node, logits.shape.len(), call.tensor(1))?;
            ensure!(axes.iter().all(|&axis| logits.shape[axis] == 1), "it adds up classes");
            let kept = |axis: &usize| keep || !axes.contains(axis);
            let shape = (0..logits.shape.len()).filter(kept).map(|axis| logits.shape[axis]).collect();
            Value::Logits(Logits { shape, ..logits.clone() })
        }
        "Sigmoid" if logits.outputs() == 1 => {
            bail!("a score without the largest logits is not a router of RIDE's kind")
        }
        _ => return router::last_layer(call),
    }))
}

/// Sums, factors and offsets of logits.
fn combined(call: &Call<'_>, logits: &Logits) -> Result<Logits> {
    let op = call.op();
    if let (Some((tensor, first)), 2) = (call.pair(), call.values.len()) {
        let values = constant::along(tensor, &logits.shape, logits.axis())?;
        let all_equal = values.iter().all(|&value| value == values[0]);
        let factor = || {
            ensure!(all_equal, "classes cannot have factors of their own");
            Ok(values[0])
        };
        return Ok(match (op, first) {
            ("Add" | "Sum", _) => logits.clone().plus(&values),
            ("Sub", false) => logits.clone().plus(&values.iter().map(|x| -x).collect::<Vec<_>>()),
            ("Sub", true) => logits.clone().scaled(-1.0).plus(&values),
            ("Mul", _) => logits.clone().scaled(factor()?),
            ("Div", false) => logits.clone().scaled(1.0 / factor()?),
            _ => bail!("a constant divided by logits is not supported"),
        });
    }
    let mut sum: Option<Logits> = None;
    for (index, value) in call.values.iter().enumerate() {
        let other = match value {
            Some(Value::Logits(other)) if op == "Sub" && index == 1 => other.clone().scaled(-1.0),
            Some(Value::Logits(other)) => other.clone(),
            Some(other) => bail!("it combines logits with {}", other.describe()),
            None => bail!("an operand is missing"),
        };
        sum = Some(match sum {
            None => other,
            Some(sum) => {
                ensure!(
                    matches!(op, "Add" | "Sum" | "Sub" | "Mean"),
                    "logits are multiplied or divided with each other"
                );
                sum.sum(&other)?
            }
        });
    }
    let sum = sum.context("it has no operands")?;
    Ok(if op == "Mean" { sum.scaled(1.0 / call.values.len() as f64) } else { sum })
}

/// Logits side by side: of several experts along a new axis. Zeros in front of sums come from loops and vanish.
fn joined(call: &Call<'_>, first: &Logits) -> Result<Option<Value>> {
    let axis = shape::axis_of(call, 0, first.shape.len())?;
    let mut items = Vec::new();
    for value in call.values {
        match value {
            Some(Value::Logits(logits)) => items.push(logits.clone()),
            Some(Value::Stack(stack)) if stack.axis == axis => items.extend(stack.items.iter().cloned()),
            Some(other) => bail!("it joins logits with {}", other.describe()),
            None => bail!("an operand is missing"),
        }
    }
    ensure!(
        axis != first.axis() || first.outputs() == 1,
        "it joins the classes of several classifiers into one vector; export each expert's logits as an output, or stack \
         them along a new axis"
    );
    let mut shape = first.shape.clone();
    let fits = items.iter().all(|item| item.shape.len() == shape.len() && item.outputs() == first.outputs());
    ensure!(fits, "its operands have different shapes");
    shape[axis] = items.len();
    Ok(Some(Value::Stack(Stack { items, axis, shape })))
}

fn top(call: &Call<'_>, logits: &Logits) -> Result<Top> {
    let k = match call.value(1) {
        Some(_) => call.weight(1)?.scalar().map(|k| k as i64).context("its k is no number")?,
        None => call.node.int("k", 0)?,
    };
    let k = usize::try_from(k).ok().filter(|k| (1..=logits.outputs()).contains(k));
    let k = k.with_context(|| format!("its k is not between 1 and the number of classes, {}", logits.outputs()))?;
    let rank = logits.shape.len();
    ensure!(
        call.node.int("largest", 1)? == 1
            && call.node.int("sorted", 1)? == 1
            && shape::axis_of(call, -1, rank)? == logits.axis(),
        "only the largest logits in descending order are supported"
    );
    let mut shape = logits.shape.clone();
    shape[logits.axis()] = k;
    Ok(Top { logits: Rc::new(logits.clone()), k, shape })
}

/// Understands a node on a stack of logits.
pub(super) fn stack(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Option<Value>> {
    let place = call.values.iter().position(|value| matches!(value, Some(Value::Stack(_))));
    let Some(Value::Stack(stack)) = place.and_then(|place| call.value(place)) else {
        bail!("no stack among its operands")
    };
    match call.op() {
        "ReduceMean" | "ReduceSum" => {
            let (axes, keep) = fold::reduced(call.node, stack.shape.len(), call.tensor(1))?;
            ensure!(axes == [stack.axis], "it reduces the axes {axes:?}; only those of the experts can be averaged");
            let mut items = stack.items.iter();
            let mut sum = items.next().context("the stack is empty")?.clone();
            for item in items {
                sum = sum.sum(item)?;
            }
            let factor = if call.op() == "ReduceMean" { 1.0 / stack.items.len() as f64 } else { 1.0 };
            let shape = (0..stack.shape.len()).filter(|&axis| keep || axis != stack.axis);
            let shape = shape.map(|axis| if axis == stack.axis { 1 } else { stack.shape[axis] }).collect();
            Ok(Some(Value::Logits(Logits { shape, ..sum.scaled(factor) })))
        }
        "Mul" | "Div" | "Add" | "Sub" if call.pair().is_some() => arithmetic(call, stack).map(Some),
        "Transpose" => {
            let order = fold::order(call.node, stack.shape.len())?;
            let axis = order.iter().position(|&axis| axis == stack.axis).context("an axis is missing")?;
            let shape = order.iter().map(|&axis| stack.shape[axis]).collect();
            Ok(Some(Value::Stack(Stack { axis, shape, ..stack.clone() })))
        }
        "Concat" => match &stack.items[0] {
            first if shape::axis_of(call, 0, first.shape.len())? == stack.axis => joined(call, first),
            _ => Ok(None),
        },
        "Identity" | "Cast" | "Dropout" => Ok(Some(Value::Stack(stack.clone()))),
        "Squeeze" | "Unsqueeze" | "Reshape" => {
            let shape = shape::rearranged(lifter, call, &stack.shape)?.context("not a reshape")?;
            let long = |shape: &[usize]| shape.iter().copied().filter(|&side| side > 1).collect::<Vec<_>>();
            ensure!(
                long(&shape) == long(&stack.shape) && stack.items.len() > 1,
                "it mixes experts and classes: {:?} becomes {shape:?}",
                stack.shape
            );
            let first_long = long_axis(&stack.shape) == stack.axis;
            let mut long_axes = (0..shape.len()).filter(|&axis| shape[axis] > 1);
            let axis = if first_long { long_axes.next() } else { long_axes.nth(1) };
            Ok(Some(Value::Stack(Stack {
                axis: axis.context("an axis is missing")?,
                shape,
                items: stack.items.clone(),
            })))
        }
        _ => Ok(None),
    }
}

/// A factor of all experts, or one for each; an offset of all.
fn arithmetic(call: &Call<'_>, stack: &Stack) -> Result<Value> {
    let (tensor, constant_first) = call.pair().context("its second operand is not constant")?;
    ensure!(!constant_first || matches!(call.op(), "Mul" | "Add"), "a stack of logits must be its first operand");
    let values = constant::along(tensor, &stack.shape, stack.axis)?;
    let outputs = stack.items[0].outputs();
    let item = |(item, &value): (&Logits, &f64)| match call.op() {
        "Mul" => item.clone().scaled(value),
        "Div" => item.clone().scaled(1.0 / value),
        "Add" => item.clone().plus(&vec![value; outputs]),
        _ => item.clone().plus(&vec![-value; outputs]),
    };
    Ok(Value::Stack(Stack { items: stack.items.iter().zip(&values).map(item).collect(), ..stack.clone() }))
}
