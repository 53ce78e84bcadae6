//! The losses of RIDE (Wang et al., ICLR 2021, sections 3.1 and 3.3), equal to the authors' code in value and gradient.
//!
//! * Every expert learns by itself: cross-entropy with LDAM's margins (Cao et al., "Learning Imbalanced Datasets with
//!   Label-Distribution-Aware Margin Loss", NeurIPS 2019), re-weighted by class after `reweight_epoch`.
//! * Distribution-aware diversity: each expert is rewarded for being far, in Kullback-Leibler divergence, from the mean
//!   of all, at a temperature that is lower for rare classes once re-weighting has begun.
//! * Distillation from a teacher at a temperature (Hinton et al., arXiv:1503.02531).

use anyhow::{Context, Result, ensure};
use candle_core::{D, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::net::Outputs;

mod distill;

pub use distill::{Distillation, Teacher, with_teacher};

/// Base of the effective number of samples (Cui et al., CVPR 2019), as LDAM's authors chose it.
const BETA: f64 = 0.9999;

/// What can be chosen about RIDE's loss; names and defaults are those of the authors' `RIDELoss`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Factor of the experts' own losses.
    pub base_loss_factor: f64,
    /// The rarest class's margin.
    pub max_m: f64,
    /// Factor of margins: the scale of the logits.
    pub s: f64,
    /// Last epoch, counted from 1, without weights of classes; `None` never has them.
    pub reweight_epoch: Option<usize>,
    /// How much the temperature of a class follows its frequency.
    pub reweight_factor: f64,
    /// Factor of the divergence from the mean: negative rewards it. With 0 the experts learn together, from their mean.
    pub additional_diversity_factor: f64,
    /// Temperature of that divergence.
    pub base_diversity_temperature: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            base_loss_factor: 1.0,
            max_m: 0.5,
            s: 30.0,
            reweight_epoch: None,
            reweight_factor: 0.05,
            additional_diversity_factor: -0.2,
            base_diversity_temperature: 1.0,
        }
    }
}

/// RIDE's loss for one set of training data.
#[derive(Debug)]
pub struct RideLoss {
    settings: Settings,
    /// What is taken off the logit of the right class, for each class; empty without LDAM.
    margins: Vec<f64>,
    /// Weight of each class after `reweight_epoch`.
    weights: Vec<f64>,
    /// Temperature of each class after `reweight_epoch`, `[1, classes]`.
    temperatures: Option<Tensor>,
    temperature_mean: f64,
}

impl RideLoss {
    /// `counts` are the training images of each class; without any there are neither margins nor weights.
    ///
    /// # Errors
    /// If a class has no image, or the settings make a temperature that is not positive.
    pub fn new(settings: Settings, counts: &[u32], device: &Device) -> Result<Self> {
        let mut loss =
            Self { settings, margins: Vec::new(), weights: Vec::new(), temperatures: None, temperature_mean: 1.0 };
        if counts.is_empty() {
            return Ok(loss);
        }
        if let Some(class) = counts.iter().position(|&count| count == 0) {
            anyhow::bail!("class {class} has no training image; margins and weights need at least one of each class");
        }
        let counts: Vec<f64> = counts.iter().map(|&count| f64::from(count)).collect();
        let least = counts.iter().copied().fold(f64::INFINITY, f64::min);
        loss.margins = counts.iter().map(|n| settings.s * settings.max_m * (least / n).powf(0.25)).collect();
        if settings.reweight_epoch.is_some() {
            loss.weights = mean_one(counts.iter().map(|n| (1.0 - BETA) / (1.0 - BETA.powf(*n))).collect());
            loss.reweight_temperatures(&counts, device)?;
        }
        Ok(loss)
    }

    fn reweight_temperatures(&mut self, counts: &[f64], device: &Device) -> Result<()> {
        let Settings { reweight_factor, base_diversity_temperature, .. } = self.settings;
        let raised = |share: f64| share * reweight_factor + 1.0 - reweight_factor;
        let raised: Vec<f64> = mean_one(counts.to_vec()).into_iter().map(raised).collect();
        let largest = raised.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let temperatures: Vec<f32> = raised.iter().map(|t| (base_diversity_temperature * t / largest) as f32).collect();
        ensure!(
            temperatures.iter().all(|&t| t.is_finite() && t > 0.0),
            "reweight_factor {reweight_factor} and base_diversity_temperature {base_diversity_temperature} give a \
             temperature that is not positive"
        );
        self.temperature_mean = temperatures.iter().map(|&t| f64::from(t)).sum::<f64>() / temperatures.len() as f64;
        self.temperatures = Some(Tensor::from_vec(temperatures, (1, counts.len()), device)?);
        Ok(())
    }

    /// The loss of a batch with the right classes `targets`, in the given epoch, counted from 1.
    ///
    /// # Errors
    /// If a target is not a class or there is not one for each image.
    pub fn of(&self, outputs: &Outputs, targets: &[u32], epoch: usize) -> Result<Tensor> {
        self.of_mean(outputs, &outputs.mean()?, targets, epoch)
    }

    /// The loss where the mean of all experts is given.
    pub(super) fn of_mean(&self, outputs: &Outputs, mean: &Tensor, targets: &[u32], epoch: usize) -> Result<Tensor> {
        let reweighted = self.settings.reweight_epoch.is_some_and(|last| epoch > last);
        let targets = Targets::new(self, mean, targets, reweighted)?;
        let together = self.settings.additional_diversity_factor == 0.0;
        let mut total = Tensor::zeros((), mean.dtype(), mean.device())?;
        for logits in &outputs.logits {
            let base = targets.cross_entropy(if together { mean } else { logits })?;
            total = (total + (base * self.settings.base_loss_factor)?)?;
            if !together {
                total = (total + self.diversity(logits, mean, reweighted)?)?;
            }
        }
        Ok(total)
    }

    fn diversity(&self, logits: &Tensor, mean: &Tensor, reweighted: bool) -> Result<Tensor> {
        let base = self.settings.base_diversity_temperature;
        let (at, temperature) = match self.temperatures.as_ref().filter(|_| reweighted) {
            Some(temperatures) => {
                let at = |x: &Tensor| x.broadcast_div(temperatures);
                (Box::new(at) as Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor>>, self.temperature_mean)
            }
            None => (Box::new(move |x: &Tensor| x / base) as Box<_>, base),
        };
        let divergence = divergence(&at(&mean.detach())?, &at(logits)?)?;
        Ok((divergence * (self.settings.additional_diversity_factor * temperature * temperature))?)
    }
}

/// `values` divided by their mean.
fn mean_one(values: Vec<f64>) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.into_iter().map(|value| value / mean).collect()
}

/// The right classes of a batch as matrices.
struct Targets {
    /// What is taken off the logits.
    margins: Option<Tensor>,
    /// Each image's weight, at its class: all of them sum up to one.
    weights: Tensor,
}

impl Targets {
    fn new(loss: &RideLoss, logits: &Tensor, targets: &[u32], reweighted: bool) -> Result<Self> {
        let (images, classes) = logits.dims2()?;
        ensure!(targets.len() == images, "{} targets for {images} images", targets.len());
        let known = loss.margins.is_empty() || loss.margins.len() == classes;
        ensure!(known, "the loss was made for {} classes, not for {classes}", loss.margins.len());
        let weight = |class: usize| if reweighted && !loss.weights.is_empty() { loss.weights[class] } else { 1.0 };
        let mut margins = vec![0.0f32; images * classes];
        let mut weights = vec![0.0f32; images * classes];
        let mut total = 0.0;
        for (image, &target) in targets.iter().enumerate() {
            let class = target as usize;
            ensure!(class < classes, "the label {target} is not one of {classes} classes");
            margins[image * classes + class] = loss.margins.get(class).map_or(0.0, |&margin| margin as f32);
            weights[image * classes + class] = weight(class) as f32;
            total += weight(class);
        }
        weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) / total) as f32);
        let matrix = |data: Vec<f32>| Tensor::from_vec(data, (images, classes), logits.device());
        let margins = if loss.margins.is_empty() { None } else { Some(matrix(margins)?) };
        Ok(Self { margins, weights: matrix(weights)? })
    }

    fn cross_entropy(&self, logits: &Tensor) -> Result<Tensor> {
        let logits = match &self.margins {
            Some(margins) => logits.sub(margins)?,
            None => logits.clone(),
        };
        Ok(log_softmax(&logits)?.mul(&self.weights)?.sum_all()?.neg()?)
    }
}

/// Logarithms of the softmax of each row.
fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    // The largest cancels out: it has no gradient.
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
    Ok(shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?)
}

/// Kullback-Leibler divergence of the softmax of `logits` from that of `expected`, which has no gradient: mean over the
/// rows.
fn divergence(expected: &Tensor, logits: &Tensor) -> Result<Tensor> {
    let rows = logits.dims2().context("logits must have two dimensions")?.0;
    let expected = log_softmax(&expected.detach())?;
    let surplus = expected.sub(&log_softmax(logits)?)?;
    Ok((expected.exp()?.mul(&surplus)?.sum_all()? / rows as f64)?)
}
