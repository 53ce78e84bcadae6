//! Operations composed of candle's own, with gradients of their own: one step of the tape each.
//!
//! candle differentiates every operation for itself, and begins and adds up the gradient of everything between them: for a
//! convolution with batch normalisation and ReLU some forty passes over the activations. With the formulas written down it
//! takes half of that. The input's gradient of a convolution is a convolution again; candle's own for it, `conv_transpose2d`,
//! multiplies no matrices on GPUs.

use anyhow::Result;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, CustomOp3, Layout, Shape, Storage, Tensor};

use crate::train::plan::Convolution;

/// Convolves `[N, C, H, W]`.
pub(super) fn convolve(shape: Convolution, input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let Convolution { stride, padding, groups, .. } = shape;
    if groups > 1 {
        return Ok(input.conv2d(weight, padding, stride, 1, groups)?);
    }
    let value = input.detach().conv2d(&weight.detach(), padding, stride, 1, 1)?;
    Ok(input.apply_op2(weight, Convolved { shape, value })?)
}

/// Normalises `[N, C, H, W]` by mean and variance of its channels, which come back as well, `[1, C, 1, 1]` and detached;
/// with `epsilon` added to the biased variance, then `weight` and `bias`.
pub(super) fn normalize(input: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<[Tensor; 3]> {
    let dense = input.detach();
    let mean = average(&dense)?;
    let centred = dense.broadcast_sub(&mean)?;
    let variance = average(&centred.sqr()?)?;
    let inverse = (&variance + epsilon)?.sqrt()?.recip()?;
    let factor = (per_channel(&weight.detach())? * &inverse)?;
    let value = centred.broadcast_mul(&factor)?.broadcast_add(&per_channel(&bias.detach())?)?;
    let output = input.apply_op3(weight, bias, Normalized { value, centred, inverse, factor })?;
    Ok([output, mean, variance])
}

/// One number for each channel, to be broadcast.
pub(super) fn per_channel(values: &Tensor) -> candle_core::Result<Tensor> {
    values.reshape((1, (), 1, 1))
}

/// Mean of each channel: first of each plane, whose elements lie side by side.
fn average(values: &Tensor) -> candle_core::Result<Tensor> {
    per_channel(&values.flatten_from(2)?.mean(2)?.mean(0)?)
}

/// A value that has been computed already, as a result of `storage`'s kind.
macro_rules! known {
    ($kind:ident, $value:expr) => {{
        let value = $value.contiguous()?;
        let (storage, layout) = value.storage_and_layout();
        match &*storage {
            Storage::$kind(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => candle_core::bail!("the value lies on another device"),
        }
    }};
}

struct Convolved {
    shape: Convolution,
    value: Tensor,
}

impl Convolved {
    /// Gradient of the input: with a stride of 1 that of the output, convolved with the window turned around.
    fn input(&self, input: &Tensor, weight: &Tensor, grad: &Tensor) -> candle_core::Result<Tensor> {
        let Convolution { kernel, stride, padding, .. } = self.shape;
        if stride > 1 {
            let reached = (grad.dim(2)? - 1) * stride + kernel - 2 * padding;
            return grad.conv_transpose2d(weight, padding, input.dim(2)? - reached, stride, 1);
        }
        let (outputs, inputs, height, width) = weight.dims4()?;
        let window = (height * width) as u32;
        let from_last = Tensor::from_iter((0..window).rev(), weight.device())?;
        let turned = weight.transpose(0, 1)?.reshape((inputs, outputs, height * width))?.index_select(&from_last, 2)?;
        grad.conv2d(&turned.reshape((inputs, outputs, height, width))?, kernel - 1 - padding, 1, 1, 1)
    }

    /// Gradient of the weights: the input convolved with the gradient of the output, over the images.
    fn weight(&self, input: &Tensor, grad: &Tensor) -> candle_core::Result<Tensor> {
        let Convolution { kernel, stride, padding, .. } = self.shape;
        let windows = input.transpose(0, 1)?.conv2d(&grad.transpose(0, 1)?, padding, 1, stride, 1)?;
        // Where the stride leaves rows over, there are more.
        windows.transpose(0, 1)?.narrow(2, 0, kernel)?.narrow(3, 0, kernel)
    }
}

impl CustomOp2 for Convolved {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        known!(Cpu, self.value)
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        known!(Cuda, self.value)
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (wanted, input, weight) = (input.track_op(), input.detach(), weight.detach());
        // Images need none.
        let of_input = wanted.then(|| self.input(&input, &weight, grad)).transpose()?;
        Ok((of_input, Some(self.weight(&input, grad)?)))
    }
}

struct Normalized {
    value: Tensor,
    /// The input without its mean.
    centred: Tensor,
    /// What that is multiplied by to have a variance of 1.
    inverse: Tensor,
    /// And the weight on top of it.
    factor: Tensor,
}

impl CustomOp3 for Normalized {
    fn name(&self) -> &'static str {
        "batch normalisation"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        known!(Cpu, self.value)
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        known!(Cuda, self.value)
    }

    /// With `c` the centred input, `s` its inverse deviation and means over a channel: of the bias `Σ g`, of the weight
    /// `s Σ g c`, of the input `weight s (g - mean(g) - c s² mean(g c))` (Ioffe and Szegedy, "Batch Normalization", ICML 2015,
    /// section 3).
    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let count = (grad.elem_count() / grad.dim(1)?) as f64;
        let (mean, along) = (average(grad)?, average(&(grad * &self.centred)?)?);
        let slope = (&self.factor * (self.inverse.sqr()? * &along)?)?;
        let shift = (&self.factor * &mean)?;
        let moved = self.centred.broadcast_mul(&slope)?.broadcast_add(&shift)?;
        let of_input = (grad.broadcast_mul(&self.factor)? - moved)?;
        let of_weight = ((&self.inverse * along)? * count)?.flatten_all()?;
        Ok((Some(of_input), Some(of_weight), Some((mean * count)?.flatten_all()?)))
    }
}
