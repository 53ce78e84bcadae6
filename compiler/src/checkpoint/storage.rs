//! Element types, and tensors as strided views of storages.

use anyhow::{Result, ensure};
use half::{bf16, f16};

use super::Tensor;

/// Most dimensions of a tensor; a convolution's weight has four.
const MAX_DIMENSIONS: usize = 16;

/// Type of the elements of a storage, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Scalar {
    /// The type of one of PyTorch's typed storage classes, such as `FloatStorage`.
    pub(super) fn of_storage_class(name: &str) -> Option<Self> {
        Some(match name {
            "DoubleStorage" => Scalar::F64,
            "FloatStorage" => Scalar::F32,
            "HalfStorage" => Scalar::F16,
            "BFloat16Storage" => Scalar::Bf16,
            "LongStorage" => Scalar::I64,
            "IntStorage" => Scalar::I32,
            "ShortStorage" => Scalar::I16,
            "CharStorage" => Scalar::I8,
            "ByteStorage" => Scalar::U8,
            "BoolStorage" => Scalar::Bool,
            _ => return None,
        })
    }

    /// Bytes of one element.
    pub(super) fn size(self) -> usize {
        match self {
            Scalar::F64 | Scalar::I64 => 8,
            Scalar::F32 | Scalar::I32 => 4,
            Scalar::F16 | Scalar::Bf16 | Scalar::I16 => 2,
            Scalar::I8 | Scalar::U8 | Scalar::Bool => 1,
        }
    }

    /// The element in the first bytes of `bytes`, which has at least [`Scalar::size`] of them.
    fn decode(self, bytes: &[u8]) -> f32 {
        fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
            let mut array = [0; N];
            array.copy_from_slice(&bytes[..N]);
            array
        }
        match self {
            Scalar::F64 => f64::from_le_bytes(first(bytes)) as f32,
            Scalar::F32 => f32::from_le_bytes(first(bytes)),
            Scalar::F16 => f16::from_le_bytes(first(bytes)).to_f32(),
            Scalar::Bf16 => bf16::from_le_bytes(first(bytes)).to_f32(),
            Scalar::I64 => i64::from_le_bytes(first(bytes)) as f32,
            Scalar::I32 => i32::from_le_bytes(first(bytes)) as f32,
            Scalar::I16 => i16::from_le_bytes(first(bytes)).into(),
            Scalar::I8 => i8::from_le_bytes(first(bytes)).into(),
            Scalar::U8 | Scalar::Bool => bytes[0].into(),
        }
    }
}

/// A tensor as a view of a storage, in elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    pub(super) scalar: Scalar,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) stride: Vec<usize>,
}

impl View {
    /// A whole storage in row-major order.
    pub(super) fn contiguous(scalar: Scalar, shape: Vec<usize>) -> Result<Self> {
        let mut stride = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            stride[i - 1] = usize::saturating_mul(stride[i], shape[i]);
        }
        let view = Self { scalar, offset: 0, shape, stride };
        view.len()?;
        Ok(view)
    }

    /// Number of elements.
    pub(super) fn len(&self) -> Result<usize> {
        let Self { shape, stride, .. } = self;
        ensure!(shape.len() <= MAX_DIMENSIONS, "{} dimensions are too many", shape.len());
        ensure!(shape.len() == stride.len(), "the shape {shape:?} and the strides {stride:?} do not go together");
        if shape.contains(&0) {
            return Ok(0);
        }
        let count = shape.iter().try_fold(1usize, |count, &n| count.checked_mul(n));
        let count = count.filter(|&count| count <= isize::MAX as usize / 8);
        count.ok_or_else(|| anyhow::anyhow!("the shape {shape:?} is too large"))
    }

    /// Number of elements that the storage must have.
    pub(super) fn extent(&self) -> Result<usize> {
        if self.len()? == 0 {
            return Ok(0);
        }
        let mut steps = self.shape.iter().zip(&self.stride);
        let last = steps.try_fold(self.offset, |sum, (n, stride)| sum.checked_add((n - 1).checked_mul(*stride)?));
        let extent = last.and_then(|last| last.checked_add(1));
        extent.ok_or_else(|| anyhow::anyhow!("the strides {:?} are too large", self.stride))
    }

    /// Copies the tensor out of its storage.
    ///
    /// # Errors
    /// If the view reaches beyond the storage, or an element is NaN or infinite as `f32`.
    pub(super) fn gather(&self, storage: &[u8]) -> Result<Tensor> {
        let (count, extent, size) = (self.len()?, self.extent()?, self.scalar.size());
        ensure!(
            extent <= storage.len() / size,
            "the shape {:?} with strides {:?} and offset {} needs {extent} elements but the storage has {}",
            self.shape,
            self.stride,
            self.offset,
            storage.len() / size
        );
        let mut data = Vec::with_capacity(count);
        if count > 0 {
            self.rows(|start, length, stride| {
                data.extend((0..length).map(|i| self.scalar.decode(&storage[(start + i * stride) * size..])));
            });
        }
        if let Some(at) = data.iter().position(|value| !value.is_finite()) {
            let what = if data[at].is_nan() { "NaN" } else { "infinite" };
            anyhow::bail!("element {at} is {what}; the training diverged or the file is damaged");
        }
        Ok(Tensor { shape: self.shape.clone(), data })
    }

    /// Calls `row` with start, length and stride of every innermost row. No dimension is empty.
    fn rows(&self, mut row: impl FnMut(usize, usize, usize)) {
        let Some((&length, outer)) = self.shape.split_last() else { return row(self.offset, 1, 1) };
        let stride = self.stride[outer.len()];
        let mut index = vec![0; outer.len()];
        loop {
            let start = index.iter().zip(&self.stride).map(|(i, stride)| i * stride).sum::<usize>();
            row(self.offset + start, length, stride);
            // Counts up like an odometer.
            let Some(wheel) = (0..outer.len()).rev().find(|&d| index[d] + 1 < outer[d]) else { return };
            index[wheel] += 1;
            index[wheel + 1..].fill(0);
        }
    }
}
