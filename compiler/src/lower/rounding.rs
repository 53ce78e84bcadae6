//! Weights that were rounded before lowering, and what such rounding must know about the integer program.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::layers::ConvInput;
use super::program::{Input, Kind, Plane, Program, Step};
use super::quant::{self, Quant};
use super::{Fine, Request};
use crate::network::{Conv, Network, Shape};
use crate::reference::INPUT;

pub(crate) use super::layers::min_scale;
pub(crate) use super::weights::quantize_channel as nearest;

/// One output channel, rounded: `weight ≈ scale * q`.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Values in -127..=127, in the order of the float weights.
    pub q: Vec<i8>,
    /// Real value of one step of `q`. For a convolution it counts in steps of its int8 input: a weight is
    /// `scale * q / step` for an input channel whose step has the real value `step`.
    pub scale: f64,
    /// The bias, in real units.
    pub bias: f64,
}

impl Row {
    /// What the row leaves of the weights that it stands for, in the same units.
    pub(crate) fn left_of(&self, weights: &[f64]) -> Vec<f64> {
        weights.iter().zip(&self.q).map(|(w, &q)| w - self.scale * f64::from(q)).collect()
    }
}

/// Rounded rows by layer: convolutions by the name of their node, classifiers as `expert0.head`, `expert1.head`, ...
///
/// Layers that are missing are rounded to nearest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rounding {
    /// One row for each output channel; for classifiers with weights of 16 bits ([`Fine::heads`]) after those one more for each
    /// class, of what the first leaves.
    pub layers: BTreeMap<String, Vec<Row>>,
}

impl Rounding {
    /// The rows of a layer of `outputs` channels with `taps` weights each, if it has been rounded.
    ///
    /// # Errors
    /// If the rows are not those of such a layer.
    pub(super) fn rows(&self, layer: &str, outputs: usize, taps: usize) -> Result<Option<&[Row]>> {
        let Some(rows) = self.layers.get(layer) else { return Ok(None) };
        let good =
            |row: &Row| row.q.len() == taps && !row.q.contains(&i8::MIN) && row.scale.is_normal() && row.scale > 0.0;
        ensure!(
            rows.len() == outputs && rows.iter().all(good),
            "{layer}: the rounded weights are not {outputs} rows of {taps} values in -127..=127"
        );
        Ok(Some(rows))
    }
}

/// A convolution and its input as the integer program sees it.
#[derive(Clone, Debug)]
pub struct ConvSite<'n> {
    /// Name of the node, which is its name in a [`Rounding`].
    pub name: String,
    /// The float convolution.
    pub conv: &'n Conv,
    /// Name of the float value that it reads, as the reference executor calls it.
    pub value: String,
    /// Shape of that value.
    pub input: Shape,
    /// Real value of one int8 step of each input channel.
    pub steps: Vec<f64>,
    /// Smallest and largest input in steps, counted from the real zero.
    pub limits: (f64, f64),
}

/// All convolutions in execution order.
///
/// # Errors
/// As [`super::compile`], for a network or table that cannot be compiled.
pub fn conv_sites<'n>(request: &Request<'n>) -> Result<Vec<ConvSite<'n>>> {
    let program = Program::new(request.network, &request.fine.reads)?;
    let quants = quant::choose(&program, request.table, request.residual_bits)?;
    let parts = std::iter::once(&program.stem).chain(&program.experts);
    let mut sites = Vec::new();
    for step in parts.flat_map(|part| &part.steps) {
        // Low bytes are multiplied by the weights that are chosen for the high ones.
        let Kind::Conv { conv, plane: Plane::High, .. } = step.kind else { continue };
        let (value, input) = match step.input {
            Input::Image => (INPUT, request.network.input.shape),
            Input::Value(v) => (program.values[v].name.as_str(), program.values[v].shape),
        };
        let reads = conv_input(request, &program, &quants, step);
        let steps = (0..conv.in_channels).map(|c| reads.scale(c)).collect();
        let limits = match step.input {
            // Pixels, whose zero point is the mean colour.
            Input::Image => (-255.0, 255.0),
            Input::Value(v) => {
                let zero = f64::from(quants[v].zero);
                (-128.0 - zero, 127.0 - zero)
            }
        };
        let (name, value) = (step.name.clone(), value.to_owned());
        sites.push(ConvSite { name, conv, value, input, steps, limits });
    }
    Ok(sites)
}

/// Names of the values of each residual stream, which share one scale, in execution order.
///
/// # Errors
/// As [`super::compile`], for a network that cannot be compiled.
pub fn residual_streams(network: &Network) -> Result<Vec<Vec<String>>> {
    let program = Program::new(network, &Fine::NONE.reads)?;
    let own = |stream: usize| program.values.iter().filter(move |value| value.stream == Some(stream));
    let residual = program.streams.iter().enumerate().filter(|(_, residual)| **residual);
    Ok(residual.map(|(stream, _)| own(stream).map(|value| value.name.clone()).collect()).collect())
}

/// What a convolution reads.
pub(super) fn conv_input<'a>(
    request: &'a Request<'_>,
    program: &Program<'_>,
    quants: &[Quant],
    step: &Step<'_>,
) -> ConvInput<'a> {
    let Input::Value(v) = step.input else { return ConvInput::Image(&request.network.input) };
    let means = request.table.values.get(&program.values[v].name).map(|entry| &entry.mean[..]);
    ConvInput::Activation(quants[v], means.filter(|means| means.len() == program.values[v].shape.channels))
}
