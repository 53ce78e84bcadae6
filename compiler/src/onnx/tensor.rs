//! Constants of a graph: weights, shapes, axes.

use anyhow::{Context, Result, ensure};

/// Most elements of a constant that is computed rather than read (`Expand`, `ConstantOfShape`).
const MAX_COMPUTED: usize = 1 << 26;

/// A constant, row-major. Every floating type is kept as `f32`, every integer type and truth values as `i64`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) shape: Vec<usize>,
    pub(super) data: Data,
}

/// Elements of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Float(Vec<f32>),
    Int(Vec<i64>),
}

/// Number of elements of a shape; an error if there is no room for them.
pub(super) fn count(shape: &[usize]) -> Result<usize> {
    let product = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
    product.filter(|&n| n <= MAX_COMPUTED).with_context(|| format!("a constant of shape {shape:?} is too large"))
}

/// Distance of neighbours along each axis.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

impl Tensor {
    pub(super) fn floats(shape: Vec<usize>, data: Vec<f32>) -> Self {
        Self { shape, data: Data::Float(data) }
    }

    pub(super) fn ints(shape: Vec<usize>, data: Vec<i64>) -> Self {
        Self { shape, data: Data::Int(data) }
    }

    /// A vector of integers, such as a shape.
    pub(super) fn vector(data: Vec<i64>) -> Self {
        Self::ints(vec![data.len()], data)
    }

    pub(super) fn len(&self) -> usize {
        match &self.data {
            Data::Float(data) => data.len(),
            Data::Int(data) => data.len(),
        }
    }

    pub(super) fn is_float(&self) -> bool {
        matches!(self.data, Data::Float(_))
    }

    pub(super) fn at(&self, index: usize) -> f64 {
        match &self.data {
            Data::Float(data) => f64::from(data[index]),
            Data::Int(data) => data[index] as f64,
        }
    }

    pub(super) fn to_f64(&self) -> Vec<f64> {
        (0..self.len()).map(|index| self.at(index)).collect()
    }

    /// Elements as floats; integers are converted.
    pub(super) fn to_f32(&self) -> Vec<f32> {
        match &self.data {
            Data::Float(data) => data.clone(),
            Data::Int(data) => data.iter().map(|&value| value as f32).collect(),
        }
    }

    /// Elements of an integer tensor.
    pub(super) fn to_ints(&self) -> Result<Vec<i64>> {
        match &self.data {
            Data::Int(data) => Ok(data.clone()),
            Data::Float(_) => anyhow::bail!("expected integers, found floating-point numbers"),
        }
    }

    /// The value, if there is exactly one element.
    pub(super) fn scalar(&self) -> Option<f64> {
        (self.len() == 1).then(|| self.at(0))
    }

    pub(super) fn is_zero(&self) -> bool {
        (0..self.len()).all(|index| self.at(index) == 0.0)
    }

    pub(super) fn reshaped(&self, shape: Vec<usize>) -> Result<Self> {
        ensure!(count(&shape)? == self.len(), "a constant of shape {:?} cannot have the shape {shape:?}", self.shape);
        Ok(Self { shape, data: self.data.clone() })
    }

    /// A tensor of `shape` whose element at each position is this one's element at index `from(position)`.
    pub(super) fn gathered(&self, shape: Vec<usize>, from: impl FnMut(&[usize]) -> usize) -> Result<Self> {
        let total = count(&shape)?;
        let data = match &self.data {
            Data::Float(data) => Data::Float(gather(data, &shape, total, from)),
            Data::Int(data) => Data::Int(gather(data, &shape, total, from)),
        };
        Ok(Self { shape, data })
    }

    pub(super) fn transposed(&self, order: &[usize]) -> Result<Self> {
        let strides = strides(&self.shape);
        let shape = order.iter().map(|&axis| self.shape[axis]).collect();
        self.gathered(shape, |position| order.iter().zip(position).map(|(&axis, &p)| strides[axis] * p).sum())
    }

    /// Repeats sides of length 1 as numpy does.
    pub(super) fn broadcast(&self, shape: &[usize]) -> Result<Self> {
        if self.shape == shape {
            return Ok(self.clone());
        }
        let own = strides(&self.shape);
        let skip = shape.len().checked_sub(self.shape.len());
        let skip = skip.with_context(|| format!("shape {:?} cannot become {shape:?}", self.shape))?;
        for (axis, &side) in self.shape.iter().enumerate() {
            ensure!(side == 1 || side == shape[skip + axis], "shape {:?} cannot become {shape:?}", self.shape);
        }
        self.gathered(shape.to_vec(), |position| {
            let pairs = self.shape.iter().zip(&own).zip(&position[skip..]);
            pairs.map(|((&side, &stride), &p)| if side == 1 { 0 } else { stride * p }).sum()
        })
    }
}

/// The elements at `from(position)` for each of the `total` positions of `shape`, in row-major order.
fn gather<T: Copy>(data: &[T], shape: &[usize], total: usize, mut from: impl FnMut(&[usize]) -> usize) -> Vec<T> {
    let mut position = vec![0usize; shape.len()];
    let mut next = || {
        let element = data[from(&position)];
        for axis in (0..shape.len()).rev() {
            position[axis] += 1;
            if position[axis] < shape[axis] {
                break;
            }
            position[axis] = 0;
        }
        element
    };
    (0..total).map(|_| next()).collect()
}

/// The shape that two shapes broadcast to.
pub(super) fn broadcast_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let side = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |at| shape[at]);
    let pair = |axis| match (side(a, axis), side(b, axis)) {
        (x, y) if x == y || y == 1 => Ok(x),
        (1, y) => Ok(y),
        _ => anyhow::bail!("shapes {a:?} and {b:?} do not fit together"),
    };
    (0..rank).map(pair).collect()
}

/// An axis counted from either end.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let from_start = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    let found = from_start.and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < rank);
    found.with_context(|| format!("axis {axis} does not exist: there are {rank}"))
}

/// The shape that `Reshape` gives: 0 keeps a side (unless `zero_allowed`), -1 is what is left.
pub(super) fn reshape(from: &[usize], wanted: &[i64], zero_allowed: bool) -> Result<Vec<usize>> {
    let total: usize = from.iter().product();
    let failed = || format!("a value of shape {from:?} cannot take the shape {wanted:?}");
    let mut shape = Vec::with_capacity(wanted.len());
    for (index, &side) in wanted.iter().enumerate() {
        shape.push(match side {
            0 if !zero_allowed => *from.get(index).with_context(failed)?,
            -1 => 1,
            side => usize::try_from(side).ok().with_context(failed)?,
        });
    }
    let known = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side)).with_context(failed)?;
    if let Some(open) = wanted.iter().position(|&side| side == -1) {
        ensure!(known > 0 && total.is_multiple_of(known), failed());
        shape[open] = total / known;
    } else {
        ensure!(known == total, failed());
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes_and_broadcasts() {
        let t = Tensor::floats(vec![2, 3], vec![0., 1., 2., 3., 4., 5.]);
        assert_eq!(t.transposed(&[1, 0]).unwrap(), Tensor::floats(vec![3, 2], vec![0., 3., 1., 4., 2., 5.]));
        let row = Tensor::ints(vec![1, 2], vec![7, 8]);
        assert_eq!(row.broadcast(&[2, 2]).unwrap(), Tensor::ints(vec![2, 2], vec![7, 8, 7, 8]));
        assert!(row.broadcast(&[2, 3]).is_err() && row.broadcast(&[1 << 40, 2]).is_err());
    }

    #[test]
    fn reshape_fills_in() {
        assert_eq!(reshape(&[1, 4, 6], &[0, -1], false).unwrap(), [1, 24]);
        assert_eq!(reshape(&[2, 3], &[3, 2], false).unwrap(), [3, 2]);
        for bad in [&[5, -1][..], &[7], &[0, 0, 0], &[-2, 3]] {
            assert!(reshape(&[2, 3], bad, false).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn axes_count_from_both_ends() {
        assert_eq!((axis(-1, 4).unwrap(), axis(1, 4).unwrap()), (3, 1));
        assert!(axis(4, 4).is_err() && axis(i64::MIN, 4).is_err());
    }
}
