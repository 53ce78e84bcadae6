//! A convolution as the artifact has it, and its gradients.

use anyhow::{Context, Result};

use super::norm::NormGrad;
use super::part::LayerGrad;
use crate::lower::integer::{self, Quant, Source};
use crate::train::ops::plain::EPSILON;
use crate::train::ops::quant::Requantize;
use crate::train::params::Params;
use crate::train::plan::{ConvNorm, Convolution};

/// `w' = w g / s` and `b' = b - m g / s` with the normalisation's parameters `g` and `b`, its running mean `m` and
/// deviation `s`; both rounded to integers.
#[derive(Debug, Default)]
pub(super) struct Folded {
    /// Integer weights, `[output][input / groups][kernel][kernel]`.
    pub(super) codes: Vec<f32>,
    /// Their real values.
    pub(super) weight: Vec<f32>,
    /// From accumulators to outputs.
    pub(super) requantize: Requantize,
    shape: Option<Convolution>,
    original: Vec<f32>,
    /// `g / s`.
    factor: Vec<f64>,
    /// `1 / s`.
    inverse_std: Vec<f64>,
    mean: Vec<f64>,
    /// For each input channel of a group, the real value of one integer, and the integer that stands for zero.
    inputs: Vec<(f64, f64)>,
}

impl Folded {
    pub(super) fn new(layer: &ConvNorm, params: &Params, source: Source<'_>, output: &Quant) -> Result<Self> {
        let get = |name: String| -> Result<Vec<f32>> { Ok(params.get(&name)?.flatten_all()?.to_vec1()?) };
        let of_norm = |field: &str| -> Result<Vec<f64>> {
            Ok(get(format!("{}.{field}", layer.norm))?.into_iter().map(f64::from).collect())
        };
        let (weight, bias) = (of_norm("weight")?, of_norm("bias")?);
        let (mean, variance) = (of_norm("running_mean")?, of_norm("running_var")?);
        let deviation: Vec<f64> = variance.iter().map(|variance| (variance + EPSILON).sqrt()).collect();
        let mut folded = Self {
            shape: Some(layer.shape),
            original: get(format!("{}.weight", layer.conv))?,
            factor: weight.iter().zip(&deviation).map(|(weight, deviation)| weight / deviation).collect(),
            inverse_std: deviation.iter().map(|deviation| 1.0 / deviation).collect(),
            mean,
            ..Self::default()
        };
        let depth = layer.shape.input / layer.shape.groups;
        folded.inputs = match source {
            Source::Image(input) => (0..depth).map(|colour| integer::pixel(input, colour)).collect(),
            Source::Activation(quant) => vec![(quant.scale, 0.0); depth],
        };
        for (channel, bias) in bias.iter().enumerate() {
            let bias = (bias - folded.mean[channel] * folded.factor[channel]) as f32;
            folded.push(channel, bias, source, output).with_context(|| format!("{}, channel {channel}", layer.conv))?;
        }
        Ok(folded)
    }

    /// Rounds one output channel.
    fn push(&mut self, channel: usize, bias: f32, source: Source<'_>, output: &Quant) -> Result<()> {
        let shape = self.shape.context("a layer has a shape")?;
        let (depth, window) = (shape.input / shape.groups, shape.kernel * shape.kernel);
        let original = &self.original[channel * depth * window..][..depth * window];
        // As the artifact has them: pixel by pixel.
        let at = |k: usize| k % depth * window + k / depth;
        let row: Vec<f32> =
            (0..original.len()).map(|k| (f64::from(original[at(k)]) * self.factor[channel]) as f32).collect();
        let first = channel / (shape.output / shape.groups) * depth;
        let rounded = integer::channel(&row, bias, (source, first, depth), output)?;
        let start = self.codes.len();
        self.codes.resize(start + row.len(), 0.0);
        self.weight.resize(start + row.len(), 0.0);
        for (k, &q) in rounded.q.iter().enumerate() {
            self.codes[start + at(k)] = f32::from(q);
            self.weight[start + at(k)] = (rounded.scale * f64::from(q) / self.inputs[k % depth].0) as f32;
        }
        // Activations come without their zero point.
        let zero = match source {
            Source::Image(_) => 0,
            Source::Activation(quant) => rounded.q.iter().map(|&q| i32::from(q)).sum::<i32>() * i32::from(quant.zero),
        };
        self.requantize.push(rounded.bias + zero, rounded.multiplier, rounded.right_shift);
        Ok(())
    }

    /// Gradients of the parameters, of those of `b'` and of `w'` in units of integer inputs.
    pub(super) fn unfold(&self, folded: LayerGrad) -> LayerGrad {
        let LayerGrad { weight: mut grad, norm: NormGrad { bias, .. } } = folded;
        let row = grad.len() / bias.len();
        let window = row / self.inputs.len();
        let mut weight = Vec::with_capacity(bias.len());
        for (channel, grads) in grad.chunks_exact_mut(row).enumerate() {
            let original = &self.original[channel * row..][..row];
            let of_bias = f64::from(bias[channel]);
            let mut along = -self.mean[channel] * of_bias;
            for (k, (grad, &original)) in grads.iter_mut().zip(original).enumerate() {
                let (step, zero) = self.inputs[k / window];
                let real = step * (f64::from(*grad) - zero * of_bias);
                along += real * f64::from(original);
                *grad = (real * self.factor[channel]) as f32;
            }
            weight.push((along * self.inverse_std[channel]) as f32);
        }
        LayerGrad { weight: grad, norm: NormGrad { weight, bias } }
    }
}
