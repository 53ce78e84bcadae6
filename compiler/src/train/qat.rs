//! Training that lives with int8: the network computes as the one that `build` will make of it.
//!
//! Batch normalisation is folded by its running statistics, which stay as they are. Weights, activations and sums are the
//! artifact's integers, made by the compiler's and the runtime's own functions: both networks agree to the bit until the
//! classifiers, whose sums are `f32` here. Gradients pass rounding unchanged (the straight-through estimator of Bengio et
//! al., arXiv:1308.3432) and stop where an activation is clipped.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ride_calibrate::table::CalibrationTable;

use crate::calibration;
use crate::lower::integer::{self, Quant};
use crate::network::{Input, Network};

/// Bits of the residual stream: `build`'s default.
const RESIDUAL_BITS: u8 = 16;

/// How a network is quantized while it is trained: the ranges of its activations, which do not change.
#[derive(Clone, Debug)]
pub struct Quantization {
    table: CalibrationTable,
    quants: BTreeMap<String, Quant>,
    input: Input,
}

impl Quantization {
    /// Quantization by the ranges of `table`, for a network of this structure; its weights do not matter. Images must be
    /// whole pixels, normalised as the network's input says.
    ///
    /// # Errors
    /// If the table lacks a value, or the network cannot be compiled.
    pub fn new(network: &Network, table: &CalibrationTable) -> Result<Self> {
        let quants = integer::activations(network, table, RESIDUAL_BITS)?;
        Ok(Self { table: table.clone(), quants, input: network.input.clone() })
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

    /// The representation of a value.
    pub(super) fn get(&self, name: &str) -> Result<Quant> {
        self.quants.get(name).copied().with_context(|| format!("the value {name} has no range"))
    }

    /// How images are normalised.
    pub(super) fn input(&self) -> &Input {
        &self.input
    }

    /// For each colour the real value of one step of a pixel, less 128, and what stands for its mean.
    pub(super) fn pixels(&self) -> Vec<(f64, f64)> {
        (0..self.input.shape.channels).map(|colour| integer::pixel(&self.input, colour)).collect()
    }
}
