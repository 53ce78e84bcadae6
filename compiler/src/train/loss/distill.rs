//! Learning from a teacher.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{RideLoss, divergence};
use crate::train::net::{Outputs, mean};

/// How much a student listens to its teacher.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distillation {
    /// Temperature of both softmaxes. The divergence is multiplied by its square, which keeps gradients as large.
    pub temperature: f64,
    /// Factor of the divergence of the student's mean logits from the teacher's.
    pub mean_factor: f64,
    /// Factor of the divergence of each expert from the teacher's expert of the same number, or from the teacher's mean
    /// where it has no such expert; mean over the student's experts.
    pub expert_factor: f64,
    /// The authors' `RIDELossWithDistill` sums RIDE's loss and the divergence of the mean once for each expert, which
    /// multiplies both by the number of experts: in effect a higher learning rate. This does the same.
    pub official: bool,
}

impl Default for Distillation {
    fn default() -> Self {
        Self { temperature: 1.5, mean_factor: 1.0, expert_factor: 0.0, official: false }
    }
}

/// What a teacher says about a batch.
#[derive(Clone, Debug)]
pub struct Teacher {
    /// `[N, classes]` of each of its experts.
    pub experts: Vec<Tensor>,
}

/// RIDE's loss and what the teacher adds.
///
/// # Errors
/// See [`RideLoss::of`]; if the teacher has other classes than the student.
pub fn with_teacher(
    ride: &RideLoss,
    distillation: &Distillation,
    outputs: &Outputs,
    teacher: &Teacher,
    (targets, epoch): (&[u32], usize),
) -> Result<Tensor> {
    let Distillation { temperature, mean_factor, expert_factor, official } = *distillation;
    ensure!(temperature.is_finite() && temperature > 0.0, "the temperature is {temperature}; expected more than 0");
    let together = mean(&teacher.experts)?;
    let student = outputs.mean()?;
    ensure!(
        together.dims() == student.dims(),
        "the teacher's logits are {:?}, the student's {:?}: both need the same classes",
        together.dims(),
        student.dims()
    );
    let from = |expected: &Tensor, logits: &Tensor| -> Result<Tensor> {
        Ok((divergence(&(expected / temperature)?, &(logits / temperature)?)? * (temperature * temperature))?)
    };
    let mut loss = (ride.of(outputs, targets, epoch)? + (from(&together, &student)? * mean_factor)?)?;
    if official {
        loss = (loss * outputs.logits.len() as f64)?;
    }
    if expert_factor != 0.0 {
        let share = expert_factor / outputs.logits.len() as f64;
        for (index, logits) in outputs.logits.iter().enumerate() {
            let expected = teacher.experts.get(index).unwrap_or(&together);
            loss = (loss + (from(expected, logits)? * share)?)?;
        }
    }
    Ok(loss)
}
