//! Training that lives with int8: the network computes with the weights and activations that `build` will make of it.
//!
//! Batch normalisation is folded by its running statistics, which stay as they are. Weights are rounded for each output
//! channel and activations by the ranges of a calibration table, both by the compiler's own rules; gradients pass rounding
//! unchanged (the straight-through estimator of Bengio et al., arXiv:1308.3432) and stop where an activation is clipped.
//! What differs from the integer network is f32 in place of its exact sums, and the rounding of shortcuts' projections.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use ride_calibrate::table::CalibrationTable;

use super::ops::quant::Rounding;
use crate::calibration;
use crate::lower;
use crate::network::{Input, Network};

/// Bits of the residual stream: `build`'s default.
const RESIDUAL_BITS: u8 = 16;

/// How a network is quantized while it is trained: the ranges of its activations, which do not change.
#[derive(Clone, Debug)]
pub struct Quantization {
    table: CalibrationTable,
    roundings: BTreeMap<String, Rounding>,
    input: Input,
}

impl Quantization {
    /// Quantization by the ranges of `table`, for a network of this structure; its weights do not matter.
    ///
    /// # Errors
    /// If the table lacks a value, or the network cannot be compiled.
    pub fn new(network: &Network, table: &CalibrationTable) -> Result<Self> {
        let mut roundings = BTreeMap::new();
        for (name, activation) in lower::activations(network, table, RESIDUAL_BITS)? {
            let codes = 127 - i32::from(activation.zero);
            let rounding = Rounding {
                step: activation.step as f32,
                ceiling: (activation.step * f64::from(codes)) as f32,
                fine: activation.fine.map(|step| step as f32),
            };
            roundings.insert(name, rounding);
        }
        Ok(Self { table: table.clone(), roundings, input: network.input.clone() })
    }

    /// The table that `build` needs for the trained network: the same ranges, without means, so that nothing is
    /// corrected that training has already seen to.
    ///
    /// # Errors
    /// If the network has values that the table has not.
    pub fn table(&self, trained: &Network) -> Result<CalibrationTable> {
        let mut table = CalibrationTable { model: calibration::fingerprint(trained), ..self.table.clone() };
        for stats in table.values.values_mut() {
            stats.mean.fill(0.0);
        }
        calibration::check(trained, &table).context("the trained network is not the one that was quantized")?;
        Ok(table)
    }

    /// Roundings of activations by name.
    pub(super) fn roundings(&self) -> &BTreeMap<String, Rounding> {
        &self.roundings
    }

    /// Real value of one step of a raw pixel, for each colour.
    pub(super) fn pixel_steps(&self) -> Vec<f64> {
        self.input.std.iter().map(|&std| 1.0 / (255.0 * f64::from(std))).collect()
    }

    /// What the border of images is: pixels are whole numbers, so it is not exactly zero.
    pub(super) fn border(&self) -> Result<Vec<f32>> {
        let Input { mean, std, .. } = &self.input;
        ensure!(mean.len() == std.len(), "there is not one deviation for each mean");
        let colour = |(&mean, &std): (&f32, &f32)| {
            let mean = 255.0 * f64::from(mean);
            ((mean.round() - mean) / (255.0 * f64::from(std))) as f32
        };
        Ok(mean.iter().zip(std).map(colour).collect())
    }
}
