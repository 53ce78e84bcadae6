//! Operators on constants: what exporters leave to the runtime although it depends on no input.
//!
//! Arithmetic is carried out in `f64` and rounded once to `f32`; integers are exact.

use anyhow::{Context, Result, bail, ensure};

use super::graph::{Attribute, Node};
use super::tensor::{Data, Tensor, axis, broadcast_shape, count, reshape, strides};

/// The result of `node` for constant operands (`None` for an omitted one); `Ok(None)` if the operator is not one
/// that is computed on constants.
pub(super) fn evaluate(node: &Node, operands: &[Option<&Tensor>], opset: i64) -> Result<Option<Tensor>> {
    let first = || operands.first().copied().flatten().context("its first operand is missing");
    let second = || operands.get(1).copied().flatten().context("its second operand is missing");
    let result = match node.op.as_str() {
        "Constant" => constant(node)?,
        "ConstantOfShape" => constant_of_shape(node, first()?)?,
        "Identity" | "Dropout" => first()?.clone(),
        "Cast" => cast(first()?, node.int("to", 1)?)?,
        "Shape" => shape_of(node, &first()?.shape)?,
        "Size" => Tensor::ints(vec![], vec![first()?.len() as i64]),
        "Transpose" => transpose(node, first()?)?,
        "Reshape" => {
            let tensor = first()?;
            let zero_allowed = node.int("allowzero", 0)? != 0;
            tensor.reshaped(reshape(&tensor.shape, &second()?.to_ints()?, zero_allowed)?)?
        }
        "Flatten" => {
            let (tensor, at) = (first()?, node.int("axis", 1)?);
            tensor.reshaped(flatten(&tensor.shape, at)?)?
        }
        "Squeeze" | "Unsqueeze" => {
            let tensor = first()?;
            tensor.reshaped(squeeze(node, &tensor.shape, operands.get(1).copied().flatten())?)?
        }
        "Expand" => {
            let (tensor, wanted) = (first()?, sides(second()?)?);
            tensor.broadcast(&broadcast_shape(&tensor.shape, &wanted)?)?
        }
        "Concat" => concat(node, operands)?,
        "Gather" => gather(node, first()?, second()?)?,
        "Slice" => slice(node, operands)?,
        "Range" => range(operands)?,
        "Where" => select(operands)?,
        "Equal" | "Greater" | "Less" | "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Mod" => {
            binary(&node.op, operands)?
        }
        "Sqrt" | "Neg" | "Abs" | "Reciprocal" | "Exp" | "Log" | "Floor" | "Ceil" | "Not" => unary(&node.op, first()?)?,
        "Clip" => {
            let (low, high) = clip_bounds(node, operands, opset)?;
            map(first()?, |x| x.max(low).min(high))
        }
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceSumSquare" => reduce(node, first()?, operands.get(1).copied().flatten())?,
        "LpNormalization" => normalise(node, first()?)?,
        "MatMul" => matmul(first()?, second()?)?,
        _ => return Ok(None),
    };
    Ok(Some(result))
}

fn constant(node: &Node) -> Result<Tensor> {
    for (name, value) in &node.attributes {
        return Ok(match (name.as_str(), value) {
            ("value", Attribute::Tensor(tensor)) => tensor.clone(),
            ("value_int", Attribute::Int(value)) => Tensor::ints(vec![], vec![*value]),
            ("value_ints", Attribute::Ints(values)) => Tensor::vector(values.clone()),
            ("value_float", Attribute::Float(value)) => Tensor::floats(vec![], vec![*value]),
            ("value_floats", Attribute::Floats(values)) => Tensor::floats(vec![values.len()], values.clone()),
            _ => continue,
        });
    }
    bail!("it holds no numbers")
}

/// An integer tensor as the sides of a shape.
fn sides(tensor: &Tensor) -> Result<Vec<usize>> {
    let side = |n: i64| usize::try_from(n).ok().with_context(|| format!("a side has the length {n}"));
    tensor.to_ints()?.into_iter().map(side).collect()
}

fn constant_of_shape(node: &Node, shape: &Tensor) -> Result<Tensor> {
    let shape = sides(shape)?;
    let value = match node.attributes.get("value") {
        Some(Attribute::Tensor(tensor)) => tensor.reshaped(vec![])?,
        _ => Tensor::floats(vec![], vec![0.0]),
    };
    value.broadcast(&shape)
}

/// Numbers of ONNX's element types: 1, 10, 11 and 16 are floats, 2..=7, 9, 12, 13 integers or truth values.
fn cast(tensor: &Tensor, to: i64) -> Result<Tensor> {
    let data = match (to, &tensor.data) {
        (1 | 10 | 11 | 16, _) => Data::Float(tensor.to_f32()),
        (9, _) => Data::Int(tensor.to_f64().iter().map(|&x| i64::from(x != 0.0)).collect()),
        (2..=7 | 12 | 13, Data::Float(data)) => Data::Int(data.iter().map(|&x| x as i64).collect()),
        (2..=7 | 12 | 13, Data::Int(data)) => Data::Int(data.clone()),
        _ => bail!("its element type {to} is not supported"),
    };
    Ok(Tensor { shape: tensor.shape.clone(), data })
}

/// The `Shape` operator; opset 15 added a start and an end.
pub(super) fn shape_of(node: &Node, shape: &[usize]) -> Result<Tensor> {
    let rank = shape.len() as i64;
    let end = |value: i64| if value < 0 { value + rank } else { value }.clamp(0, rank) as usize;
    let (start, stop) = (end(node.int("start", 0)?), end(node.int("end", rank)?));
    Ok(Tensor::vector(shape[start.min(stop)..stop].iter().map(|&side| side as i64).collect()))
}

/// The order of axes of a `Transpose`.
pub(super) fn order(node: &Node, rank: usize) -> Result<Vec<usize>> {
    let Some(order) = node.ints("perm")? else { return Ok((0..rank).rev().collect()) };
    let order = order.into_iter().map(|a| axis(a, rank)).collect::<Result<Vec<_>>>()?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    ensure!(sorted.into_iter().eq(0..rank), "{order:?} is no order of {rank} axes");
    Ok(order)
}

fn transpose(node: &Node, tensor: &Tensor) -> Result<Tensor> {
    tensor.transposed(&order(node, tensor.shape.len())?)
}

/// The shape that `Flatten` gives.
pub(super) fn flatten(shape: &[usize], at: i64) -> Result<Vec<usize>> {
    let at = if at == shape.len() as i64 { shape.len() } else { axis(at, shape.len())? };
    let (outer, inner) = shape.split_at(at);
    Ok(vec![outer.iter().product(), inner.iter().product()])
}

/// Axes from an operand (opset 13 on) or an attribute.
pub(super) fn axes(node: &Node, operand: Option<&Tensor>) -> Result<Option<Vec<i64>>> {
    match operand {
        Some(tensor) => tensor.to_ints().map(Some),
        None => node.ints("axes"),
    }
}

/// The shape that `Squeeze` or `Unsqueeze` gives.
pub(super) fn squeeze(node: &Node, shape: &[usize], operand: Option<&Tensor>) -> Result<Vec<usize>> {
    let listed = axes(node, operand)?;
    if node.op == "Squeeze" {
        let Some(listed) = listed else { return Ok(shape.iter().copied().filter(|&side| side != 1).collect()) };
        let dropped = listed.into_iter().map(|a| axis(a, shape.len())).collect::<Result<Vec<_>>>()?;
        ensure!(dropped.iter().all(|&a| shape[a] == 1), "sides {dropped:?} of {shape:?} are not all 1");
        return Ok((0..shape.len()).filter(|a| !dropped.contains(a)).map(|a| shape[a]).collect());
    }
    let listed = listed.context("it names no axes")?;
    let rank = shape.len() + listed.len();
    let new = listed.into_iter().map(|a| axis(a, rank)).collect::<Result<Vec<_>>>()?;
    let mut rest = shape.iter();
    let sides = (0..rank).map(|a| if new.contains(&a) { Some(1) } else { rest.next().copied() });
    sides.collect::<Option<_>>().context("it names an axis twice")
}

fn concat(node: &Node, operands: &[Option<&Tensor>]) -> Result<Tensor> {
    let parts = operands.iter().copied().collect::<Option<Vec<_>>>().context("an operand is missing")?;
    let first = parts.first().context("it has no operands")?;
    let at = axis(node.int("axis", 0)?, first.shape.len())?;
    let mut shape = first.shape.clone();
    shape[at] = parts.iter().map(|part| part.shape.get(at).copied().unwrap_or(0)).sum();
    for part in &parts {
        let same = part.shape.len() == shape.len() && (0..shape.len()).all(|a| a == at || part.shape[a] == shape[a]);
        ensure!(same && part.is_float() == first.is_float(), "its operands do not fit together");
    }
    let (outer, total) = (shape[..at].iter().product::<usize>(), count(&shape)?);
    let runs: Vec<usize> = parts.iter().map(|part| part.shape[at..].iter().product()).collect();
    let data = if first.is_float() {
        let mut data = Vec::with_capacity(total);
        let parts: Vec<Vec<f32>> = parts.iter().map(|part| part.to_f32()).collect();
        for row in 0..outer {
            parts.iter().zip(&runs).for_each(|(part, &run)| data.extend_from_slice(&part[row * run..][..run]));
        }
        Data::Float(data)
    } else {
        let mut data = Vec::with_capacity(total);
        let parts: Vec<Vec<i64>> = parts.iter().map(|part| part.to_ints()).collect::<Result<_>>()?;
        for row in 0..outer {
            parts.iter().zip(&runs).for_each(|(part, &run)| data.extend_from_slice(&part[row * run..][..run]));
        }
        Data::Int(data)
    };
    Ok(Tensor { shape, data })
}

fn gather(node: &Node, tensor: &Tensor, indices: &Tensor) -> Result<Tensor> {
    let at = axis(node.int("axis", 0)?, tensor.shape.len())?;
    let side = tensor.shape[at];
    let chosen = indices.to_ints()?.into_iter().map(|i| axis(i, side)).collect::<Result<Vec<_>>>()?;
    let inner = indices.shape.len();
    let shape = [&tensor.shape[..at], &indices.shape, &tensor.shape[at + 1..]].concat();
    let (own, other) = (strides(&tensor.shape), strides(&indices.shape));
    tensor.gathered(shape, |position| {
        let index: usize = position[at..at + inner].iter().zip(&other).map(|(p, s)| p * s).sum();
        let before: usize = position[..at].iter().zip(&own).map(|(p, s)| p * s).sum();
        let after: usize = position[at + inner..].iter().zip(&own[at + 1..]).map(|(p, s)| p * s).sum();
        before + chosen[index] * own[at] + after
    })
}

/// One axis of a `Slice`: first index, number of elements, step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) axis: usize,
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) step: i64,
}

/// The axes that a `Slice` with these operands cuts (opset 10 on).
pub(super) fn cuts(node: &Node, shape: &[usize], operands: &[Option<&Tensor>]) -> Result<Vec<Cut>> {
    let list = |index: usize| operands.get(index).copied().flatten().map(Tensor::to_ints).transpose();
    let starts = match list(1)? {
        Some(starts) => starts,
        None => node.ints("starts")?.context("it has no starts")?,
    };
    let ends = match list(2)? {
        Some(ends) => ends,
        None => node.ints("ends")?.context("it has no ends")?,
    };
    let axes = match list(3)? {
        Some(axes) => Some(axes),
        None => node.ints("axes")?,
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    let count = starts.len();
    ensure!([ends.len(), axes.len(), steps.len()] == [count; 3], "its operands have different lengths");
    let cut = |i: usize| {
        let (at, step) = (axis(axes[i], shape.len())?, steps[i]);
        let side = i64::try_from(shape[at])?;
        ensure!(step != 0, "it has the step 0");
        let from_end = |value: i64| if value < 0 { value.saturating_add(side) } else { value };
        let (start, len) = if step > 0 {
            let (start, end) = (from_end(starts[i]).clamp(0, side), from_end(ends[i]).clamp(0, side));
            (start, (end - start).max(0).div_ceil_by(step))
        } else {
            let (start, end) = (from_end(starts[i]).clamp(-1, side - 1), from_end(ends[i]).clamp(-1, side - 1));
            (start, (start - end).max(0).div_ceil_by(step.checked_neg().context("its step is out of range")?))
        };
        Ok(Cut { axis: at, start: usize::try_from(start).unwrap_or(0), len: usize::try_from(len)?, step })
    };
    (0..count).map(cut).collect()
}

trait DivCeilBy {
    fn div_ceil_by(self, step: i64) -> i64;
}

impl DivCeilBy for i64 {
    /// For a length of at least 0 and a positive step.
    fn div_ceil_by(self, step: i64) -> i64 {
        self / step + i64::from(self % step != 0)
    }
}

fn slice(node: &Node, operands: &[Option<&Tensor>]) -> Result<Tensor> {
    let tensor = operands.first().copied().flatten().context("its first operand is missing")?;
    let cuts = cuts(node, &tensor.shape, operands)?;
    let own = strides(&tensor.shape);
    let mut shape = tensor.shape.clone();
    let mut from: Vec<(usize, i64)> = vec![(0, 1); shape.len()];
    for cut in cuts {
        shape[cut.axis] = cut.len;
        from[cut.axis] = (cut.start, cut.step);
    }
    tensor.gathered(shape, |position| {
        let index = |(p, (start, step)): (&usize, &(usize, i64))| (*start as i64 + *p as i64 * step) as usize;
        position.iter().zip(&from).map(index).zip(&own).map(|(i, s)| i * s).sum()
    })
}

fn range(operands: &[Option<&Tensor>]) -> Result<Tensor> {
    let number = |i: usize| operands.get(i).copied().flatten().and_then(Tensor::scalar).context("it has no limits");
    let (start, limit, delta) = (number(0)?, number(1)?, number(2)?);
    let length = ((limit - start) / delta).ceil().max(0.0);
    ensure!(length.is_finite() && length < 1e6, "its {length} elements are too many");
    let value = |i: usize| start + i as f64 * delta;
    let values = 0..length as usize;
    let float = operands[0].is_some_and(Tensor::is_float);
    Ok(match float {
        true => Tensor::floats(vec![values.len()], values.map(|i| value(i) as f32).collect()),
        false => Tensor::vector(values.map(|i| value(i) as i64).collect()),
    })
}

fn select(operands: &[Option<&Tensor>]) -> Result<Tensor> {
    let [Some(condition), Some(yes), Some(no)] = operands else { bail!("an operand is missing") };
    let shape = broadcast_shape(&condition.shape, &broadcast_shape(&yes.shape, &no.shape)?)?;
    let (condition, yes, no) = (condition.broadcast(&shape)?, yes.broadcast(&shape)?, no.broadcast(&shape)?);
    let pick = |i: usize| if condition.at(i) != 0.0 { &yes } else { &no };
    let all = 0..condition.len();
    let data = match yes.is_float() {
        true => Data::Float(all.map(|i| pick(i).at(i) as f32).collect()),
        false => Data::Int(all.map(|i| pick(i).at(i) as i64).collect()),
    };
    Ok(Tensor { shape, data })
}

fn binary(op: &str, operands: &[Option<&Tensor>]) -> Result<Tensor> {
    let all = operands.iter().copied().collect::<Option<Vec<_>>>().context("an operand is missing")?;
    let (first, rest) = all.split_first().context("it has no operands")?;
    ensure!(rest.len() == 1 || matches!(op, "Max" | "Min"), "it has {} operands", all.len());
    let mut result = (*first).clone();
    for other in rest {
        let shape = broadcast_shape(&result.shape, &other.shape)?;
        let (a, b) = (result.broadcast(&shape)?, other.broadcast(&shape)?);
        let data = match (&a.data, &b.data) {
            (Data::Int(a), Data::Int(b)) => {
                Data::Int(a.iter().zip(b).map(|(&a, &b)| integers(op, a, b)).collect::<Result<_>>()?)
            }
            _ => {
                let values = (0..a.len()).map(|i| floats(op, a.at(i), b.at(i)));
                match op {
                    "Equal" | "Greater" | "Less" => Data::Int(values.map(|x| x as i64).collect()),
                    _ => Data::Float(values.map(|x| x as f32).collect()),
                }
            }
        };
        result = Tensor { shape, data };
    }
    Ok(result)
}

fn integers(op: &str, a: i64, b: i64) -> Result<i64> {
    let result = match op {
        "Add" => a.checked_add(b),
        "Sub" => a.checked_sub(b),
        "Mul" => a.checked_mul(b),
        "Div" => a.checked_div(b),
        "Mod" => a.checked_rem_euclid(b),
        "Pow" => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        "Max" => Some(a.max(b)),
        "Min" => Some(a.min(b)),
        "Equal" => Some(i64::from(a == b)),
        "Greater" => Some(i64::from(a > b)),
        _ => Some(i64::from(a < b)),
    };
    result.with_context(|| format!("{a} and {b} have no result"))
}

fn floats(op: &str, a: f64, b: f64) -> f64 {
    match op {
        "Add" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        "Div" => a / b,
        "Mod" => a % b,
        "Pow" => a.powf(b),
        "Max" => a.max(b),
        "Min" => a.min(b),
        "Equal" => f64::from(u8::from(a == b)),
        "Greater" => f64::from(u8::from(a > b)),
        _ => f64::from(u8::from(a < b)),
    }
}

fn map(tensor: &Tensor, f: impl Fn(f64) -> f64) -> Tensor {
    let data = match &tensor.data {
        Data::Float(data) => Data::Float(data.iter().map(|&x| f(f64::from(x)) as f32).collect()),
        Data::Int(data) => Data::Int(data.iter().map(|&x| f(x as f64) as i64).collect()),
    };
    Tensor { shape: tensor.shape.clone(), data }
}

fn unary(op: &str, tensor: &Tensor) -> Result<Tensor> {
    let f: fn(f64) -> f64 = match op {
        "Sqrt" => f64::sqrt,
        "Neg" => |x| -x,
        "Abs" => f64::abs,
        "Reciprocal" => |x| 1.0 / x,
        "Exp" => f64::exp,
        "Log" => f64::ln,
        "Floor" => f64::floor,
        "Ceil" => f64::ceil,
        _ => |x| f64::from(u8::from(x == 0.0)),
    };
    Ok(map(tensor, f))
}

/// Limits of a `Clip`, from operands (opset 11 on) or attributes; infinite where there are none.
pub(super) fn clip_bounds(node: &Node, operands: &[Option<&Tensor>], opset: i64) -> Result<(f64, f64)> {
    if opset < 11 {
        let bound = |name, default| Ok::<_, anyhow::Error>(f64::from(node.float(name, default)?));
        return Ok((bound("min", f32::NEG_INFINITY)?, bound("max", f32::INFINITY)?));
    }
    let bound = |index: usize, default: f64| match operands.get(index).copied().flatten() {
        Some(tensor) => tensor.scalar().context("a limit is no single number"),
        None => Ok(default),
    };
    Ok((bound(1, f64::NEG_INFINITY)?, bound(2, f64::INFINITY)?))
}

/// The axes that a reduction of a value with `rank` axes removes, and whether it keeps them with length 1.
pub(super) fn reduced(node: &Node, rank: usize, operand: Option<&Tensor>) -> Result<(Vec<usize>, bool)> {
    let keep = node.int("keepdims", 1)? != 0;
    let listed = axes(node, operand)?.filter(|listed| !listed.is_empty());
    let axes = match listed {
        Some(listed) => listed.into_iter().map(|a| axis(a, rank)).collect::<Result<Vec<_>>>()?,
        None if node.int("noop_with_empty_axes", 0)? != 0 => Vec::new(),
        None => (0..rank).collect(),
    };
    Ok((axes, keep))
}

fn reduce(node: &Node, tensor: &Tensor, operand: Option<&Tensor>) -> Result<Tensor> {
    let rank = tensor.shape.len();
    let (axes, keep) = reduced(node, rank, operand)?;
    let side = |a: usize| if axes.contains(&a) { 1 } else { tensor.shape[a] };
    let full: Vec<usize> = (0..rank).map(side).collect();
    let (own, other) = (strides(&tensor.shape), strides(&full));
    let start = match node.op.as_str() {
        "ReduceProd" => 1.0,
        "ReduceMax" => f64::NEG_INFINITY,
        "ReduceMin" => f64::INFINITY,
        _ => 0.0,
    };
    let mut sums = vec![start; count(&full)?];
    for index in 0..tensor.len() {
        let at =
            (0..rank).filter(|a| !axes.contains(a)).map(|a| index / own[a] % tensor.shape[a] * other[a]).sum::<usize>();
        let (x, sum) = (tensor.at(index), &mut sums[at]);
        match node.op.as_str() {
            "ReduceProd" => *sum *= x,
            "ReduceMax" => *sum = sum.max(x),
            "ReduceMin" => *sum = sum.min(x),
            "ReduceL1" => *sum += x.abs(),
            "ReduceL2" | "ReduceSumSquare" => *sum += x * x,
            _ => *sum += x,
        }
    }
    let group = tensor.len() as f64 / sums.len().max(1) as f64;
    match node.op.as_str() {
        "ReduceMean" => sums.iter_mut().for_each(|sum| *sum /= group),
        "ReduceL2" => sums.iter_mut().for_each(|sum| *sum = sum.sqrt()),
        _ => {}
    }
    let shape = if keep { full } else { (0..rank).filter(|a| !axes.contains(a)).map(|a| tensor.shape[a]).collect() };
    let data = match tensor.is_float() {
        true => Data::Float(sums.iter().map(|&x| x as f32).collect()),
        false => Data::Int(sums.iter().map(|&x| x as i64).collect()),
    };
    Ok(Tensor { shape, data })
}

fn normalise(node: &Node, tensor: &Tensor) -> Result<Tensor> {
    ensure!(node.int("p", 2)? == 2, "only the norm with p = 2 is supported");
    let at = axis(node.int("axis", -1)?, tensor.shape.len())?;
    let (side, stride) = (tensor.shape[at], strides(&tensor.shape)[at]);
    let values = tensor.to_f64();
    let norm = |index: usize| {
        let first = index - index / stride % side * stride;
        (0..side).map(|i| values[first + i * stride].powi(2)).sum::<f64>().sqrt()
    };
    let data = (0..values.len()).map(|i| (values[i] / norm(i)) as f32).collect();
    Ok(Tensor::floats(tensor.shape.clone(), data))
}

fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ([rows, inner], [other, columns]) = (&a.shape[..], &b.shape[..]) else {
        bail!("only the product of two matrices is computed")
    };
    ensure!(inner == other, "shapes {:?} and {:?} do not fit together", a.shape, b.shape);
    ensure!(count(&[*rows, *inner])?.saturating_mul(*columns) <= 1 << 30, "the product is too large");
    let entry = |r: usize, c: usize| (0..*inner).map(|i| a.at(r * inner + i) * b.at(i * columns + c)).sum::<f64>();
    let data = (0..rows * columns).map(|i| entry(i / columns, i % columns) as f32).collect();
    Ok(Tensor::floats(vec![*rows, *columns], data))
}
