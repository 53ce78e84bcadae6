//! A feature divided by its L2 norm, in the pieces that exporters make of it.

use anyhow::{Context, Result, bail, ensure};

use super::{Call, Lifter, shape};
use crate::onnx::fold;
use crate::onnx::tensor::axis;
use crate::onnx::value::{Feature, Norm, NormStage, Value};

/// Largest lower bound of a norm: it must not matter for any feature that occurs.
const MAX_FLOOR: f64 = 1e-6;

/// Operators that begin a norm, or divide by a finished one.
pub(super) fn start(call: &Call<'_>, feature: &Feature) -> Result<Option<Value>> {
    let same = |value: Option<&Value>| matches!(value, Some(Value::Feature(other)) if other.trunk == feature.trunk && other.unit == feature.unit);
    let norm = |stage, shape: Vec<usize>| {
        ensure!(!feature.unit, "the norm of a normalised feature is 1");
        Ok(Some(Value::Norm(Norm { trunk: feature.trunk, scale: feature.scale, stage, shape })))
    };
    match call.op() {
        "ReduceL2" => norm(NormStage::Root, reduced(call, feature)?),
        "ReduceSumSquare" => norm(NormStage::Sum, reduced(call, feature)?),
        "Mul" if same(call.value(1)) => norm(NormStage::Squares, feature.shape.clone()),
        "Pow" if call.tensor(1).and_then(|t| t.scalar()) == Some(2.0) => {
            norm(NormStage::Squares, feature.shape.clone())
        }
        "LpNormalization" => {
            ensure!(call.node.int("p", 2)? == 2, "only the norm with p = 2 is supported");
            ensure!(
                axis(call.node.int("axis", -1)?, feature.shape.len())? == feature.axis(),
                "it normalises along the batch"
            );
            Ok(Some(unit(feature)))
        }
        "Div" => match call.value(1) {
            Some(Value::Norm(norm))
                if norm.stage == NormStage::Root && norm.trunk == feature.trunk && !feature.unit =>
            {
                ensure!(
                    (norm.scale - feature.scale).abs() <= 1e-6 * norm.scale,
                    "the feature is divided by the norm of a scaled copy"
                );
                Ok(Some(unit(feature)))
            }
            _ => bail!("a pooled feature can only be divided by its own norm or by a number"),
        },
        _ => Ok(None),
    }
}

fn unit(feature: &Feature) -> Value {
    Value::Feature(Feature { unit: true, scale: 1.0, ..feature.clone() })
}

/// The shape of a norm that is computed along the feature.
fn reduced(call: &Call<'_>, feature: &Feature) -> Result<Vec<usize>> {
    let (axes, keep) = fold::reduced(call.node, feature.shape.len(), call.tensor(1))?;
    ensure!(axes.contains(&feature.axis()), "it does not run along the feature");
    let all = 0..feature.shape.len();
    Ok(match keep {
        true => all.map(|a| if axes.contains(&a) { 1 } else { feature.shape[a] }).collect(),
        false => all.filter(|a| !axes.contains(a)).map(|a| feature.shape[a]).collect(),
    })
}

/// Operators on a norm that is not finished, and its lower bound.
pub(super) fn apply(lifter: &mut Lifter<'_>, call: &Call<'_>) -> Result<Option<Value>> {
    let Some(Value::Norm(norm)) = call.value(0) else { bail!("a norm must be its first operand") };
    let with = |stage, shape: Vec<usize>| Ok(Some(Value::Norm(Norm { stage, shape, ..norm.clone() })));
    if norm.stage != NormStage::Squares
        && let Some(shape) = shape::rearranged(lifter, call, &norm.shape)?
    {
        return with(norm.stage, shape);
    }
    let floor = |value: f64| {
        ensure!(
            (0.0..=MAX_FLOOR).contains(&value),
            "the norm is limited to at least {value}, which would change features; up to {MAX_FLOOR} is taken for zero"
        );
        with(norm.stage, norm.shape.clone())
    };
    match (call.op(), norm.stage) {
        ("ReduceSum", NormStage::Squares) => {
            let as_feature = Feature { trunk: norm.trunk, unit: false, scale: 1.0, shape: norm.shape.clone() };
            with(NormStage::Sum, reduced(call, &as_feature)?)
        }
        ("Sqrt", NormStage::Sum) => with(NormStage::Root, norm.shape.clone()),
        ("Pow", NormStage::Sum) if call.tensor(1).and_then(|t| t.scalar()) == Some(0.5) => {
            with(NormStage::Root, norm.shape.clone())
        }
        ("Clip", NormStage::Root) => {
            let (low, high) = fold::clip_bounds(call.node, &call.tensors(), lifter.opset)?;
            ensure!(high >= 1e6, "the norm is limited to at most {high}");
            floor(low.max(0.0))
        }
        ("Max" | "Add", NormStage::Root) => floor(call.weight(1)?.scalar().context("its limit is no number")?),
        _ => Ok(None),
    }
}
