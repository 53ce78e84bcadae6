//! Reading constants as the numbers that an operation on channels or classes needs.

use anyhow::{Result, ensure};

use crate::onnx::tensor::Tensor;

/// A constant that is added to or multiplied with a value of `shape`, as one number for each of the `count` places
/// along `axis`.
///
/// # Errors
/// If it varies along another axis or has another length.
pub(super) fn along(tensor: &Tensor, shape: &[usize], axis: usize) -> Result<Vec<f64>> {
    let count = shape[axis];
    if let Some(value) = tensor.scalar() {
        ensure!(tensor.shape.len() <= shape.len(), "a constant of shape {:?} adds axes", tensor.shape);
        return Ok(vec![value; count]);
    }
    // Shapes are aligned at their ends.
    let at = (axis + tensor.shape.len()).checked_sub(shape.len());
    let fits = at.is_some_and(|at| tensor.shape.get(at) == Some(&count)) && tensor.len() == count;
    ensure!(
        fits && tensor.shape.len() <= shape.len(),
        "its constant of shape {:?} is not one number, or one for each of {count} channels or classes",
        tensor.shape
    );
    Ok(tensor.to_f64())
}
