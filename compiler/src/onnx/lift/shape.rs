//! Operators that only rearrange.

use anyhow::{Result, ensure};

use super::{Call, Lifter};
use crate::onnx::fold;
use crate::onnx::tensor::{axis, broadcast_shape, reshape};
use crate::onnx::value::Value;

/// The new shape that an operator gives to a value of `shape` without changing its elements; `None` for other operators.
///
/// Reshapes that name the exporter's batch size are read as naming a batch of one.
pub(super) fn rearranged(lifter: &Lifter<'_>, call: &Call<'_>, shape: &[usize]) -> Result<Option<Vec<usize>>> {
    Ok(Some(match call.op() {
        "Identity" | "Dropout" => shape.to_vec(),
        "Cast" => {
            ensure!(matches!(call.node.int("to", 1)?, 1 | 10 | 11 | 16), "it turns activations into integers");
            shape.to_vec()
        }
        "Flatten" => fold::flatten(shape, call.node.int("axis", 1)?)?,
        "Squeeze" | "Unsqueeze" => fold::squeeze(call.node, shape, call.tensor(1))?,
        "Reshape" => {
            let mut wanted = call.weight(1)?.to_ints()?;
            if let (Some(first), true) = (wanted.first_mut(), lifter.batch > 1) {
                *first = if *first == lifter.batch as i64 { 1 } else { *first };
            }
            reshape(shape, &wanted, call.node.int("allowzero", 0)? != 0)?
        }
        "Expand" => {
            let wanted: Vec<usize> =
                call.weight(1)?.to_ints()?.into_iter().map(usize::try_from).collect::<Result<_, _>>()?;
            broadcast_shape(shape, &wanted)?
        }
        "Transpose" => fold::order(call.node, shape.len())?.into_iter().map(|axis| shape[axis]).collect(),
        _ => return Ok(None),
    }))
}

/// Whether a shape still has one long side of this length.
pub(super) fn check_vector(shape: &[usize], len: usize) -> Result<()> {
    ensure!(
        shape.iter().filter(|&&side| side != 1).count() <= 1 && shape.iter().product::<usize>() == len,
        "a vector of {len} values for one image cannot take the shape {shape:?}"
    );
    Ok(())
}

/// Operators on an image with its channels last.
pub(super) fn image(_: &Lifter<'_>, call: &Call<'_>) -> Result<Option<Value>> {
    Ok(match call.op() {
        "Transpose" => {
            let order = fold::order(call.node, 4)?;
            ensure!(order == [0, 3, 1, 2], "the order of axes {order:?} is not batch, channels, rows, columns");
            Some(Value::Plane(0))
        }
        "Identity" => Some(Value::ImageLast),
        _ => None,
    })
}

/// The axis attribute of a node.
pub(super) fn axis_of(call: &Call<'_>, default: i64, rank: usize) -> Result<usize> {
    axis(call.node.int("axis", default)?, rank)
}
