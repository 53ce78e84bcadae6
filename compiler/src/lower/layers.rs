//! Constants of convolutions, classifiers and routers.

use std::borrow::Cow;

use anyhow::{Context, Result, ensure};
use ride_runtime::arith::MAX_RIGHT_SHIFT;
use ride_runtime::kernels::dense;
use ride_runtime::op::{ConvShape, Dense, Layout, Span};

use super::packing::{self, Packed, Plain};
use super::program::Plane;
use super::quant::Quant;
use super::rounding::Row;
use super::weights::{Channel, acc_bits, multiplier, quantize_channel};
use crate::network;

/// What a convolution reads: raw pixels or a quantized activation.
#[derive(Clone, Debug)]
pub(crate) enum ConvInput<'a> {
    /// Raw pixels; normalisation is folded into the weights, so the input loses nothing.
    Image(&'a network::Input),
    /// An activation, and the mean of each of its channels if calibration knows it.
    Activation(Quant, Option<&'a [f32]>),
}

impl ConvInput<'_> {
    /// Real value of one int8 step of channel `c`.
    pub(crate) fn scale(&self, c: usize) -> f64 {
        match self {
            ConvInput::Image(input) => 1.0 / (255.0 * f64::from(input.std[c])),
            ConvInput::Activation(q, _) => q.scale,
        }
    }

    /// Zero point of channel `c`; not an integer for raw pixels, where zero is the mean colour.
    pub(crate) fn zero(&self, c: usize) -> f64 {
        match self {
            ConvInput::Image(input) => 255.0 * f64::from(input.mean[c]) - 128.0,
            ConvInput::Activation(q, _) => f64::from(q.zero),
        }
    }

    fn mean(&self, c: usize) -> f64 {
        match self {
            ConvInput::Activation(_, Some(means)) => f64::from(means[c]),
            _ => 0.0,
        }
    }

    /// Bytes beyond the border: what stands for zero.
    pub(crate) fn border(&self, channels: usize) -> [u8; 4] {
        std::array::from_fn(|c| {
            let c = if channels <= 4 { c.min(channels - 1) } else { 0 };
            self.zero(c).round().clamp(-128.0, 127.0) as i8 as u8
        })
    }
}

/// A convolution's constants, ready for the artifact.
#[derive(Clone, Debug)]
pub(crate) struct ConvConstants {
    /// Weights and parameters.
    pub(super) packed: Packed,
    /// Every accumulator is smaller than two to this power.
    pub(crate) acc_bits: u8,
}

/// A convolution to quantize.
pub(crate) struct ConvLayer<'a> {
    /// Its float weights.
    pub(crate) conv: &'a network::Conv,
    /// Its geometry.
    pub(crate) shape: &'a ConvShape,
    /// What it reads.
    pub(crate) input: &'a ConvInput<'a>,
    /// Which bytes of it.
    pub(crate) plane: Plane,
    /// Its rows where they have been rounded already, one for each output channel.
    pub(crate) rows: Option<&'a [Row]>,
}

impl ConvLayer<'_> {
    /// Row of output channel `o`: as it was rounded, or each weight to the nearest step.
    fn row(&self, o: usize) -> Row {
        if let Some(row) = self.rows.and_then(|rows| rows.get(o)) {
            return row.clone();
        }
        let (taps, inputs) = (self.shape.taps(), self.shape.group_in());
        let row = &self.conv.weight[o * taps..][..taps];
        let channel = |k: usize| o / self.shape.group_out() * inputs + k % inputs;
        nearest_row(row, self.conv.bias[o], self.input, channel)
    }

    /// A row as the accumulator sees it: the real value of one of its units, and what it starts with.
    fn units(&self, row: &Row, channel: impl Fn(usize) -> usize) -> (f64, f64) {
        match self.plane {
            Plane::High => (row.scale, acc_bias(row, self.input, channel)),
            // 256 steps of a low byte, whose zero point is 0, are one of the high byte, whose convolution adds the bias.
            Plane::Low => (row.scale / 256.0, 0.0),
        }
    }
}

/// The smallest scale of a row with which its bias is representable.
pub(crate) fn min_scale(bias: f64) -> f64 {
    bias.abs() / f64::from(1 << 28)
}

/// Quantizes and packs a convolution.
pub(crate) fn conv(layer: &ConvLayer<'_>, output: &Quant, layout: Layout) -> Result<ConvConstants> {
    let ConvLayer { conv, shape, .. } = *layer;
    let mut plain = Plain { weights: Vec::with_capacity(conv.weight.len()), channels: Vec::new() };
    let mut bits = 0;
    for o in 0..conv.out_channels {
        let inputs = shape.group_in();
        let channel = |k: usize| o / shape.group_out() * inputs + k % inputs;
        let c = layer.row(o);
        let (scale, bias) = layer.units(&c, channel);
        ensure!(bias.abs() < f64::from(1 << 30), "the bias of output channel {o} does not fit in 31 bits");
        let bias = bias as i64;
        let own_bits = acc_bits(&c.q, bias);
        ensure!(own_bits <= 31, "the accumulator of output channel {o} can overflow 32 bits");
        bits = bits.max(own_bits);
        let (multiplier, right_shift) =
            multiplier(scale / output.requantized_scale()).with_context(|| format!("output channel {o}"))?;
        plain.channels.push(packing::Channel { bias, multiplier, right_shift });
        plain.weights.extend_from_slice(&c.q);
    }
    // Vector kernels requantize in 32-bit lanes: what is missing of a right shift of 33 must be free above the accumulator.
    let smallest = plain.channels.iter().map(|channel| channel.right_shift).min().unwrap_or(MAX_RIGHT_SHIFT);
    ensure!(
        33u8.saturating_sub(smallest) + bits <= 31,
        "the factor from accumulator to output is too large for vector kernels: the calibrated range of this output is \
         far too small for its weights; calibrate with more images or another observer"
    );
    Ok(ConvConstants { packed: plain.pack(shape, layout)?, acc_bits: bits })
}

/// Rounds the weights of one output channel to the nearest step; `channel` is the input channel of each weight.
pub(crate) fn nearest_row(row: &[f32], bias: f32, input: &ConvInput<'_>, channel: impl Fn(usize) -> usize) -> Row {
    let scales: Vec<f64> = (0..row.len()).map(|k| input.scale(channel(k))).collect();
    let in_steps: Vec<f64> = row.iter().zip(&scales).map(|(&w, scale)| f64::from(w) * scale).collect();
    let bias = f64::from(bias);
    let c = quantize_channel(&in_steps, min_scale(bias));
    // Rounding moves the mean of the output by what it takes from the weights times the mean input (Nagel et al.,
    // "Data-Free Quantization through Weight Equalization and Bias Correction", ICCV 2019): give it back.
    let lost = |(k, (&w, &q)): (usize, (&f32, &i8))| {
        (f64::from(w) - c.scale * f64::from(q) / scales[k]) * input.mean(channel(k))
    };
    let lost: f64 = row.iter().zip(&c.q).enumerate().map(lost).sum();
    Row { q: c.q, scale: c.scale, bias: bias + lost }
}

/// The bias of a rounded row in units of the accumulator, with the input's zero point folded in.
pub(crate) fn acc_bias(row: &Row, input: &ConvInput<'_>, channel: impl Fn(usize) -> usize) -> f64 {
    let zero_part: f64 = row.q.iter().enumerate().map(|(k, &q)| f64::from(q) * input.zero(channel(k))).sum();
    (row.bias / row.scale - zero_part).round()
}

/// Right shift from the sum over all pixels to the feature, and the real value of one step of the latter: features
/// saturate at 16 bits, and the classifier's sum of products must fit in 32.
pub(crate) fn pooling(quant: &Quant, pixels: usize, features: usize) -> (u8, f64) {
    let span: i64 = if quant.wide { 65535 } else { 255 };
    let unbounded = |shift: u8| ((pixels as i64 * span) >> shift) + 1;
    let mut shift = 0;
    while unbounded(shift) > 32767 || unbounded(shift) * 127 * features as i64 >= 1 << 31 {
        shift += 1;
    }
    (shift, quant.output_scale() * 2f64.powi(i32::from(shift)) / pixels as f64)
}

/// A dense layer's constants.
#[derive(Clone, Debug)]
pub(crate) struct DenseConstants {
    /// The layer; spans are still empty.
    pub(crate) dense: Dense,
    /// Packed weights.
    pub(crate) weights: Vec<u8>,
    /// Factors and biases.
    pub(crate) params: Vec<u8>,
}

/// A dense layer on pooled features.
pub(crate) struct DenseLayer<'a> {
    /// `[outputs][features]`.
    pub(crate) weight: &'a [f32],
    /// One for each output.
    pub(crate) bias: &'a [f32],
    /// Length of the feature.
    pub(crate) features: usize,
    /// Whether the feature is normalised, so that its scale does not matter.
    pub(crate) normalize: bool,
    /// Whether weights have 16 bits: after a row for each output comes one of what that leaves.
    pub(crate) fine: bool,
    /// Its rows where they have been rounded already.
    pub(crate) rows: Option<&'a [Row]>,
}

impl DenseLayer<'_> {
    /// All rows: as they were rounded, or each weight to the nearest step.
    fn rounded(&self) -> Cow<'_, [Row]> {
        if let Some(rows) = self.rows {
            return Cow::Borrowed(rows);
        }
        let nearest = |weights: &[f64], bias: f64| {
            let Channel { q, scale } = quantize_channel(weights, 1e-30);
            Row { q, scale, bias }
        };
        let weights = self.weight.chunks_exact(self.features).map(|row| row.iter().map(|&w| f64::from(w)).collect());
        let weights: Vec<Vec<f64>> = weights.collect();
        let mut rows: Vec<Row> = weights.iter().zip(self.bias).map(|(w, &bias)| nearest(w, f64::from(bias))).collect();
        if self.fine {
            let left = weights.iter().zip(&rows).map(|(w, row)| nearest(&row.left_of(w), 0.0));
            rows.extend(left.collect::<Vec<_>>());
        }
        Cow::Owned(rows)
    }

    /// Quantizes and packs the layer; `feature_scale` is the real value of one integer step of the feature.
    pub(crate) fn quantize(&self, feature_scale: f64, layout: Layout) -> Result<DenseConstants> {
        let rounded = self.rounded();
        let (features, outputs) = (u16::try_from(self.features)?, u16::try_from(rounded.len())?);
        let empty = Span { at: 0, len: 0 };
        let normalize = self.normalize;
        let dense = Dense { features, outputs, weights: empty, params: empty, layout, normalize };
        let mut factors = Vec::with_capacity(rounded.len());
        let mut rows = Vec::with_capacity(rounded.len() * self.features);
        let mut biases = Vec::with_capacity(rounded.len());
        for row in rounded.iter() {
            factors.push(if self.normalize { row.scale } else { row.scale * feature_scale } as f32);
            biases.push(row.bias as f32);
            rows.extend_from_slice(&row.q);
        }
        let mut weights = vec![0; dense::weights_len(features, outputs, layout)];
        dense::pack(&dense, &rows, &mut weights);
        let params = factors.iter().chain(&biases).flat_map(|v| v.to_le_bytes()).collect();
        Ok(DenseConstants { dense, weights, params })
    }
}
