//! What quantization does to numbers, for training that is to live with it: the same rules as in the artifact.

use std::collections::BTreeMap;

use anyhow::Result;
use ride_calibrate::table::CalibrationTable;

use super::program::Program;
use super::quant;
use super::weights::quantize_channel;
use crate::network::Network;

/// How an activation is represented.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Activation {
    /// Real value of one int8 step.
    pub step: f64,
    /// Zero point of the int8 values.
    pub zero: i8,
    /// Real value of one step of the 16-bit value that residual sums are taken of; `None` for int8 alone.
    pub fine: Option<f64>,
}

/// The representation of every activation of the compiled network, by the name of the float node that it stands for.
///
/// # Errors
/// As [`super::compile`].
pub fn activations(
    network: &Network,
    table: &CalibrationTable,
    residual_bits: u8,
) -> Result<BTreeMap<String, Activation>> {
    let program = Program::new(network)?;
    let quants = quant::choose(&program, table, residual_bits)?;
    let activation = |quant: &quant::Quant| Activation {
        step: quant.scale,
        zero: quant.zero,
        fine: quant.wide.then(|| quant.requantized_scale()),
    };
    let names = program.values.iter().map(|value| value.name.clone());
    Ok(names.zip(quants.iter().map(activation)).collect())
}

/// The weights of one output channel as the artifact has them, in real numbers. `steps` are the input's: the real value
/// of one integer step for each weight; `bias` is the channel's.
pub fn fake_channel(weights: &mut [f64], steps: impl Fn(usize) -> f64, bias: f64) {
    let in_steps: Vec<f64> = weights.iter().enumerate().map(|(k, &w)| w * steps(k)).collect();
    let channel = quantize_channel(&in_steps, bias.abs() / f64::from(1 << 28));
    for (k, (weight, &q)) in weights.iter_mut().zip(&channel.q).enumerate() {
        *weight = channel.scale * f64::from(q) / steps(k);
    }
}
