//! Batch normalisation folded into a convolution whose weights are rounded, and its gradients.

use anyhow::Result;

use super::norm::NormGrad;
use super::part::LayerGrad;
use crate::lower;
use crate::train::ops::plain::EPSILON;
use crate::train::params::Params;
use crate::train::plan::ConvNorm;

/// `w' = w g / s` and `b' = b - m g / s` with the normalisation's parameters `g` and `b`, its running mean `m` and
/// deviation `s`.
#[derive(Debug, Default)]
pub(super) struct Folded {
    /// `w'`, rounded as in the artifact.
    pub(super) weight: Vec<f32>,
    /// `b'`.
    pub(super) bias: Vec<f64>,
    original: Vec<f32>,
    /// `g / s`.
    factor: Vec<f64>,
    /// `1 / s`.
    inverse_std: Vec<f64>,
    mean: Vec<f64>,
}

impl Folded {
    /// `pixel_steps` are those of images, if the convolution reads them.
    pub(super) fn new(layer: &ConvNorm, params: &Params, pixel_steps: Option<&[f64]>) -> Result<Self> {
        let get = |name: String| -> Result<Vec<f32>> { Ok(params.get(&name)?.flatten_all()?.to_vec1()?) };
        let of_norm = |field: &str| -> Result<Vec<f64>> {
            Ok(get(format!("{}.{field}", layer.norm))?.into_iter().map(f64::from).collect())
        };
        let original = get(format!("{}.weight", layer.conv))?;
        let (weight, bias) = (of_norm("weight")?, of_norm("bias")?);
        let (mean, variance) = (of_norm("running_mean")?, of_norm("running_var")?);
        let inverse_std: Vec<f64> = variance.iter().map(|variance| 1.0 / (variance + EPSILON).sqrt()).collect();
        let factor: Vec<f64> = weight.iter().zip(&inverse_std).map(|(weight, std)| weight * std).collect();
        let bias: Vec<f64> = bias.iter().zip(mean.iter().zip(&factor)).map(|(b, (m, f))| b - m * f).collect();
        let window = layer.shape.kernel * layer.shape.kernel;
        let row = layer.shape.weights() / layer.shape.output;
        let mut rounded = Vec::with_capacity(original.len());
        for (channel, weights) in original.chunks_exact(row).enumerate() {
            let mut weights: Vec<f64> =
                weights.iter().map(|&weight| f64::from((f64::from(weight) * factor[channel]) as f32)).collect();
            // The scale of activations does not matter here: all of them have the same.
            let step = |k: usize| pixel_steps.map_or(1.0, |steps| steps[k / window]);
            lower::fake_channel(&mut weights, step, 0.0);
            rounded.extend(weights.into_iter().map(|weight| weight as f32));
        }
        Ok(Self { weight: rounded, bias, original, factor, inverse_std, mean })
    }

    /// Gradients of the parameters, of those of `w'` and `b'`.
    pub(super) fn unfold(&self, folded: LayerGrad) -> LayerGrad {
        let LayerGrad { weight: mut grad, norm: NormGrad { bias, .. } } = folded;
        let row = grad.len() / bias.len();
        let mut weight = Vec::with_capacity(bias.len());
        for (channel, grads) in grad.chunks_exact_mut(row).enumerate() {
            let original = &self.original[channel * row..][..row];
            let along: f64 = grads.iter().zip(original).map(|(&g, &w)| f64::from(g) * f64::from(w)).sum();
            let shift = self.mean[channel] * f64::from(bias[channel]);
            weight.push(((along - shift) * self.inverse_std[channel]) as f32);
            grads.iter_mut().for_each(|grad| *grad = (f64::from(*grad) * self.factor[channel]) as f32);
        }
        LayerGrad { weight: grad, norm: NormGrad { weight, bias } }
    }
}
