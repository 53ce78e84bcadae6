//! The numbers of the artifact, for training that computes with them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ride_calibrate::table::CalibrationTable;

use super::Fine;
use super::layers::{self, ConvInput};
use super::program::Program;
use super::quant;
use super::weights::{self, quantize_channel};
use crate::network::{Input, Network};

pub(crate) use super::layers::pooling;
pub(crate) use super::quant::Quant;

/// The representation of every activation of the compiled network, by the name of the float node that it stands for.
///
/// # Errors
/// As [`super::compile`].
pub(crate) fn activations(
    network: &Network,
    table: &CalibrationTable,
    residual_bits: u8,
) -> Result<BTreeMap<String, Quant>> {
    let program = Program::new(network, &Fine::NONE.reads)?;
    let quants = quant::choose(&program, table, residual_bits)?;
    Ok(program.values.iter().map(|value| value.name.clone()).zip(quants).collect())
}

/// What a convolution reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// Raw pixels.
    Image(&'a Input),
    /// An activation.
    Activation(Quant),
}

/// One output channel of a convolution.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Channel {
    /// Weights, in the order given.
    pub(crate) q: Vec<i8>,
    /// Real value of one unit of the accumulator.
    pub(crate) scale: f64,
    /// What the accumulator of inputs with their zero points starts with.
    pub(crate) bias: i32,
    /// The factor from accumulator to output: see [`ride_runtime::arith::requantize`].
    pub(crate) multiplier: i32,
    /// Its shift.
    pub(crate) right_shift: u8,
}

/// Quantizes an output channel whose weights, window row by window row and pixel by pixel, belong to the input channels
/// from `first` on.
///
/// # Errors
/// If the range of the output is far too small for the weights.
pub(crate) fn channel(
    row: &[f32],
    bias: f32,
    (source, first, inputs): (Source<'_>, usize, usize),
    output: &Quant,
) -> Result<Channel> {
    let input = match source {
        Source::Image(input) => ConvInput::Image(input),
        Source::Activation(quant) => ConvInput::Activation(quant, None),
    };
    let in_channel = |k| first + k % inputs;
    let row = layers::nearest_row(row, bias, &input, in_channel);
    let (multiplier, right_shift) = weights::multiplier(row.scale / output.requantized_scale())?;
    let bias = layers::acc_bias(&row, &input, in_channel) as i64;
    let bias = i32::try_from(bias).context("a bias does not fit in 32 bits")?;
    Ok(Channel { q: row.q, scale: row.scale, bias, multiplier, right_shift })
}

/// The factor of a shortcut from one residual stream to another.
///
/// # Errors
/// If it is too large.
pub(crate) fn rescale(from: &Quant, to: &Quant) -> Result<(i32, u8)> {
    weights::multiplier(from.output_scale() / to.requantized_scale())
}

/// Real value of one int8 step of a pixel's colour, and what stands for its mean.
pub(crate) fn pixel(input: &Input, colour: usize) -> (f64, f64) {
    let source = ConvInput::Image(input);
    (source.scale(colour), source.zero(colour))
}

/// A classifier's weights for one class, rounded as in the artifact.
pub(crate) fn round_row(row: &mut [f32]) {
    let wide: Vec<f64> = row.iter().map(|&weight| f64::from(weight)).collect();
    let channel = quantize_channel(&wide, 1e-30);
    row.iter_mut().zip(&channel.q).for_each(|(weight, &q)| *weight = (channel.scale * f64::from(q)) as f32);
}
