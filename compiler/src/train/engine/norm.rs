//! Batch normalisation of a whole batch: from the images' sums to rows of coefficients.

use anyhow::Result;
use candle_core::Var;

use crate::train::ops::plain::{EPSILON, MOMENTUM};
use crate::train::ops::plane::Plane;

/// Coefficients of one layer, rows of `[width][channels]`.
#[derive(Debug, Default)]
pub(super) struct Norm {
    /// Normalised value: `scale * y + shift`.
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
    /// Mean that deviations are taken from.
    pub(super) mean: Vec<f32>,
    /// Gradient of `y`: `scale * grad + slope * y + level`.
    pub(super) slope: Vec<f32>,
    pub(super) level: Vec<f32>,
    /// One for each channel.
    inverse_std: Vec<f64>,
    /// Whether the coefficients do not depend on the batch.
    fixed: bool,
}

/// Gradients of a normalisation's parameters.
pub(super) struct NormGrad {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// Mean and biased variance of each channel.
pub(super) struct Statistics {
    pub(super) mean: Vec<f64>,
    pub(super) variance: Vec<f64>,
}

impl Statistics {
    /// Combines images' means and sums of squared deviations, `[images][2][channels]` (Chan, Golub and LeVeque's
    /// formula), in the order of the images.
    pub(super) fn combine(moments: &[f32], plane: Plane) -> Self {
        let channels = plane.channels;
        let (mut mean, mut squares) = (vec![0.0; channels], vec![0.0; channels]);
        for (before, image) in moments.chunks_exact(2 * channels).enumerate() {
            let share = 1.0 / (before + 1) as f64;
            let weight = (before * plane.pixels()) as f64 * share;
            for channel in 0..channels {
                let delta = f64::from(image[channel]) - mean[channel];
                mean[channel] += delta * share;
                squares[channel] += f64::from(image[channels + channel]) + delta * delta * weight;
            }
        }
        let count = (moments.len() / (2 * channels) * plane.pixels()) as f64;
        squares.iter_mut().for_each(|square| *square /= count);
        Self { mean, variance: squares }
    }

    /// Moves running statistics towards these, of `count` values each: PyTorch's rule, with the unbiased variance.
    pub(super) fn track(&self, mean: &Var, variance: &Var, count: usize) -> Result<()> {
        let unbiased = count as f64 / (count.max(2) - 1) as f64;
        let moved = |var: &Var, batch: &[f64], factor: f64| -> Result<()> {
            let old = var.to_vec1::<f32>()?;
            let new = old
                .iter()
                .zip(batch)
                .map(|(&old, &new)| (f64::from(old) * (1.0 - MOMENTUM) + new * factor * MOMENTUM) as f32);
            crate::train::params::set(var, &new.collect::<Vec<f32>>())
        };
        moved(mean, &self.mean, 1.0)?;
        moved(variance, &self.variance, unbiased)
    }

    pub(super) fn running(mean: &Var, variance: &Var) -> Result<Self> {
        let wide = |var: &Var| Ok::<_, candle_core::Error>(var.to_vec1::<f32>()?.into_iter().map(f64::from).collect());
        Ok(Self { mean: wide(mean)?, variance: wide(variance)? })
    }
}

impl Norm {
    /// Coefficients of the forward direction.
    pub(super) fn set(&mut self, statistics: &Statistics, weight: &[f32], bias: &[f32], width: usize) {
        self.inverse_std = statistics.variance.iter().map(|variance| 1.0 / (variance + EPSILON).sqrt()).collect();
        let scale: Vec<f64> = weight.iter().zip(&self.inverse_std).map(|(&w, std)| f64::from(w) * std).collect();
        let shift = bias.iter().zip(statistics.mean.iter().zip(&scale)).map(|(&b, (m, s))| f64::from(b) - m * s);
        self.shift = row(shift, width);
        self.scale = row(scale.iter().copied(), width);
        self.mean = row(statistics.mean.iter().copied(), width);
    }

    /// Passes gradients as they are.
    pub(super) fn set_identity(&mut self, channels: usize, width: usize) {
        let row = |value: f32| vec![value; channels * width];
        let (scale, shift, mean) = (row(1.0), row(0.0), row(0.0));
        *self = Self { scale, shift, mean, inverse_std: vec![1.0; channels], fixed: true, ..Self::default() };
    }

    /// Coefficients of the backward direction from the images' sums, `[images][channels]`, of gradients and of gradients
    /// times deviations. `count` are the values of one channel.
    pub(super) fn backward(&mut self, sums: &[f32], deviations: &[f32], count: usize, width: usize) -> NormGrad {
        let channels = self.inverse_std.len();
        let total = |values: &[f32]| {
            let mut total = vec![0.0; channels];
            for image in values.chunks_exact(channels) {
                total.iter_mut().zip(image).for_each(|(total, &value): (&mut f64, _)| *total += f64::from(value));
            }
            total
        };
        let (sums, deviations) = (total(sums), total(deviations));
        let (mut slope, mut level) = (Vec::new(), Vec::new());
        for channel in 0..channels {
            let (scale, std) = (f64::from(self.scale[channel]), self.inverse_std[channel]);
            if self.fixed {
                slope.push(0.0);
                level.push(0.0);
                continue;
            }
            let along = -scale * std * std * deviations[channel] / count as f64;
            slope.push(along);
            level.push(-scale * sums[channel] / count as f64 - along * f64::from(self.mean[channel]));
        }
        self.slope = row(slope.into_iter(), width);
        self.level = row(level.into_iter(), width);
        let weight = deviations.iter().zip(&self.inverse_std).map(|(sum, std)| (sum * std) as f32).collect();
        NormGrad { weight, bias: sums.iter().map(|&sum| sum as f32).collect() }
    }
}

/// One value for each channel, repeated for each pixel of a row.
fn row(channels: impl Iterator<Item = f64>, width: usize) -> Vec<f32> {
    channels.map(|value| value as f32).collect::<Vec<f32>>().repeat(width)
}
