//! Operations composed of candle's own, NCHW: what runs on GPUs, and what the faster ones are compared with.

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::tape::{self, per_channel};
use crate::train::net::Mode;
use crate::train::params::Params;
use crate::train::plan::{ConvNorm, Part, Shortcut};

/// What PyTorch's batch normalisation adds to variances.
pub(in crate::train) const EPSILON: f64 = 1e-5;
/// How much of a batch enters the running statistics.
pub(in crate::train) const MOMENTUM: f64 = 0.1;
/// Smallest norm that a vector is divided by.
const MIN_NORM: f64 = 1e-12;

/// Runs a part on `[N, C, H, W]`.
pub(in crate::train) fn part(part: &Part, params: &Params, input: &Tensor, mode: Mode) -> Result<Tensor> {
    let mut value = input.clone();
    if let Some(first) = &part.first {
        value = conv_norm(first, params, &value, mode)?.relu()?;
    }
    if part.max_pool {
        value = max_pool(&value)?;
    }
    for block in &part.blocks {
        let mut sum = value.clone();
        for (index, layer) in block.convs.iter().enumerate() {
            if index > 0 {
                sum = sum.relu()?;
            }
            sum = conv_norm(layer, params, &sum, mode)?;
        }
        let added = match &block.shortcut {
            Shortcut::Identity => value,
            Shortcut::OptionA { stride, pad } => option_a(&value, *stride, *pad)?,
            Shortcut::Projection(layer) => conv_norm(layer, params, &value, mode)?,
        };
        value = (sum + added)?.relu()?;
    }
    Ok(value)
}

/// Maxima of 3 x 3 windows, every second one, with a border of one. (candle's own has no gradient where windows
/// overlap.) The input must not be negative: zeros at the border never win then.
pub(in crate::train) fn max_pool(input: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = input.dims4()?;
    let padded = input.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
    let from = |tensor: &Tensor, dim: usize, start: usize, side: usize| -> candle_core::Result<Tensor> {
        let picked: Vec<u32> = (0..side.div_ceil(2)).map(|i| (start + 2 * i) as u32).collect();
        tensor.index_select(&Tensor::new(picked, tensor.device())?, dim)
    };
    let mut best: Option<Tensor> = None;
    for row in 0..3 {
        let rows = from(&padded, 2, row, height)?;
        for column in 0..3 {
            let next = from(&rows, 3, column, width)?;
            best = Some(match best {
                Some(best) => best.maximum(&next)?,
                None => next,
            });
        }
    }
    best.context("a window has pixels")
}

/// Every `stride`-th pixel, with `pad` zero channels on either side.
pub(in crate::train) fn option_a(input: &Tensor, stride: usize, pad: usize) -> Result<Tensor> {
    let every = |length: usize| -> candle_core::Result<Tensor> {
        let picked: Vec<u32> = (0..length as u32).step_by(stride).collect();
        Tensor::new(picked, input.device())
    };
    let (_, _, height, width) = input.dims4()?;
    let picked = match stride {
        1 => input.clone(),
        _ => input.index_select(&every(height)?, 2)?.index_select(&every(width)?, 3)?,
    };
    Ok(picked.pad_with_zeros(1, pad, pad)?)
}

fn conv_norm(layer: &ConvNorm, params: &Params, input: &Tensor, mode: Mode) -> Result<Tensor> {
    let weight = params.get(&format!("{}.weight", layer.conv))?;
    let output = tape::convolve(layer.shape, input, weight)?;
    batch_norm(&layer.norm, params, &output, mode)
}

/// Batch normalisation as PyTorch does it: biased variance within, unbiased variance in the running statistics.
fn batch_norm(module: &str, params: &Params, input: &Tensor, mode: Mode) -> Result<Tensor> {
    let get = |field: &str| params.get(&format!("{module}.{field}"));
    let (weight, bias) = (get("weight")?, get("bias")?);
    let (running_mean, running_var) = (get("running_mean")?, get("running_var")?);
    if mode == Mode::Eval {
        let factor = (weight.as_tensor() / (running_var.as_tensor() + EPSILON)?.sqrt()?)?;
        let shift = (bias.as_tensor() - (running_mean.as_tensor() * &factor)?)?;
        return Ok(input.broadcast_mul(&per_channel(&factor)?)?.broadcast_add(&per_channel(&shift)?)?);
    }
    let [output, mean, variance] = tape::normalize(input, weight, bias, EPSILON)?;
    let count = (input.elem_count() / input.dim(1)?) as f64;
    let unbiased = (variance * (count / (count - 1.0).max(1.0)))?;
    for (running, batch) in [(running_mean, mean), (running_var, unbiased)] {
        running.set(&((running.as_tensor() * (1.0 - MOMENTUM))? + (batch.flatten_all()? * MOMENTUM)?)?)?;
    }
    Ok(output)
}

/// Vectors along `dim` divided by their L2 norm, of which 1e-12 is the least.
pub(in crate::train) fn unit(vectors: &Tensor, dim: usize) -> Result<Tensor> {
    let norm = vectors.sqr()?.sum_keepdim(dim)?.sqrt()?;
    Ok(vectors.broadcast_div(&norm.maximum(MIN_NORM)?)?)
}
