//! What a training is started with.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use ride_calibrate::table::CalibrationTable;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::augment::Recipe;
use super::loss::{self, Distillation};
use super::optimizer;
use super::sampler::Sampling;
use super::schedule::{Decay, Schedule};

/// Everything that decides what a training comes to, and where its data are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// `config.json` of the network that is trained.
    pub config: Value,
    /// Training images and teacher.
    pub inputs: Inputs,
    /// Learning rates.
    pub schedule: Schedule,
    /// Training ends after so many minutes instead of [`Schedule::epochs`], through which it walks in that time.
    pub minutes: Option<f64>,
    /// The optimizer's constants.
    pub optimizer: optimizer::Settings,
    /// RIDE's loss.
    pub loss: loss::Settings,
    /// What the teacher adds; `None` without one.
    pub distillation: Option<Distillation>,
    /// Ranges that the network is quantized by while it is trained; `None` trains in float.
    #[serde(default)]
    pub quantization: Option<CalibrationTable>,
    /// Examples in a batch.
    pub batch: usize,
    /// How examples are chosen.
    pub sampling: Sampling,
    /// How they are varied.
    pub augment: Recipe,
    /// What all randomness starts from.
    pub seed: u64,
}

/// Where the training's inputs are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// The training images.
    pub data: PathBuf,
    /// Their format, if it was forced.
    pub data_format: Option<String>,
    /// What the paths of a list are relative to, if it is not its own folder.
    pub data_root: Option<PathBuf>,
    /// Number of training images.
    pub images: usize,
    /// Checksum of their labels.
    pub labels: u32,
    /// Training images of each class.
    pub class_counts: Vec<u32>,
    /// Names of the classes; empty if unknown.
    pub class_names: Vec<String>,
    /// Images that the finished network is judged by.
    pub validation: Option<PathBuf>,
    /// The teacher.
    pub teacher: Option<PathBuf>,
}

impl Settings {
    /// Checks numbers that would make training meaningless.
    ///
    /// # Errors
    /// Names the one that is out of range.
    pub fn validate(&self) -> Result<()> {
        self.schedule.validate()?;
        ensure!(self.batch > 1, "a batch of {} is not possible: batch normalisation needs two images", self.batch);
        if let Some(minutes) = self.minutes {
            ensure!(minutes.is_finite() && minutes > 0.0, "{minutes} minutes of training are not possible");
        }
        if let Some(Distillation { temperature, mean_factor, expert_factor, .. }) = self.distillation {
            ensure!(temperature.is_finite() && temperature > 0.0, "the temperature {temperature} is not positive");
            ensure!(
                mean_factor.is_finite() && expert_factor.is_finite(),
                "the factors of the distillation, {mean_factor} and {expert_factor}, must be finite"
            );
        }
        let optimizer::Settings { momentum, weight_decay, .. } = self.optimizer;
        ensure!((0.0..1.0).contains(&momentum), "the momentum {momentum} must lie between 0 and 1");
        ensure!(weight_decay.is_finite() && weight_decay >= 0.0, "the weight decay {weight_decay} is negative");
        Ok(())
    }

    /// Epochs of the schedule that are done at this point; a time limit decides instead of the batches if there is one.
    pub fn epochs_done(&self, epochs: f64, seconds: f64) -> f64 {
        match self.minutes {
            Some(minutes) => self.schedule.epochs * (seconds / (60.0 * minutes)),
            None => epochs,
        }
    }
}

/// After which share of all epochs classes are re-weighted: with the first step, or as the authors have it.
pub fn reweight_share(decay: Decay) -> f64 {
    match decay {
        Decay::Step { first, .. } => first,
        Decay::Cosine { .. } => 0.8,
    }
}
