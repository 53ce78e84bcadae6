//! Integer constants of convolutions and dense layers: the same numbers in every layout, packed and taken out again.

use anyhow::{Context, Result};
use ride_runtime::arith::MAX_RIGHT_SHIFT;
use ride_runtime::kernels::{self, Params, dense, packing};
use ride_runtime::op::{ConvShape, Dense, Layout};

/// Parameters of one output channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channel {
    /// What the accumulator starts with, for signed activations.
    pub(super) bias: i64,
    /// The factor from accumulator to output: see [`ride_runtime::arith::requantize`].
    pub(super) multiplier: i32,
    /// Its right shift.
    pub(super) right_shift: u8,
}

/// A convolution's constants, whatever the layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plain {
    /// OHWI.
    pub(super) weights: Vec<i8>,
    /// One for each output channel.
    pub(super) channels: Vec<Channel>,
}

/// The same as they lie in an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// Weights.
    pub(super) weights: Vec<u8>,
    /// Parameter arrays.
    pub(super) params: Vec<u8>,
}

/// What a bias loses where activations are moved to unsigned bytes: the move times the sum of the channel's weights.
fn fold(layout: Layout, row: &[i8]) -> i64 {
    i64::from(layout.plane_flip()) * row.iter().map(|&q| i64::from(q)).sum::<i64>()
}

impl Plain {
    /// Packs the constants of a convolution of this shape.
    pub(super) fn pack(&self, shape: &ConvShape, layout: Layout) -> Result<Packed> {
        let padded = kernels::padded_channels(shape, layout);
        // Padding channels multiply by zero.
        let (mut biases, mut multipliers) = (vec![0i32; padded], vec![0i32; padded]);
        let mut shifts = vec![MAX_RIGHT_SHIFT; padded];
        for (o, (channel, row)) in self.channels.iter().zip(self.weights.chunks_exact(shape.taps())).enumerate() {
            let at = kernels::param_at(shape, layout, o);
            let bias = i32::try_from(channel.bias - fold(layout, row));
            biases[at] = bias.with_context(|| format!("the bias of output channel {o} does not fit"))?;
            (multipliers[at], shifts[at]) = (channel.multiplier, channel.right_shift);
        }
        let mut weights = vec![0; kernels::weights_len(shape, layout)];
        packing::pack(shape, layout, &self.weights, &mut weights);
        let le = |values: &[i32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        Ok(Packed { weights, params: [le(&biases), le(&multipliers), shifts].concat() })
    }

    /// Takes back what [`Plain::pack`] did: the constants of a checked artifact's convolution.
    pub(super) fn unpack(shape: &ConvShape, layout: Layout, weights: &[u8], params: &[u8]) -> Self {
        let mut ohwi = vec![0; usize::from(shape.out_c) * shape.taps()];
        packing::unpack(shape, layout, weights, &mut ohwi);
        let params = Params::new(params, kernels::padded_channels(shape, layout));
        let channel = |(o, row): (usize, &[i8])| {
            let at = kernels::param_at(shape, layout, o);
            let bias = i64::from(params.bias(at)) + fold(layout, row);
            Channel { bias, multiplier: params.multiplier(at), right_shift: params.right_shift(at) }
        };
        let channels = ohwi.chunks_exact(shape.taps()).enumerate().map(channel).collect();
        Plain { weights: ohwi, channels }
    }
}

/// The packed weights of a dense layer in another layout.
pub(super) fn repack_dense(from: &Dense, weights: &[u8], layout: Layout) -> Vec<u8> {
    let to = Dense { layout, ..*from };
    let mut out = vec![0; dense::weights_len(from.features, from.outputs, layout)];
    for j in 0..usize::from(from.outputs) {
        for k in 0..usize::from(from.features) {
            out[dense::weight_at(&to, j, k)] = weights[dense::weight_at(from, j, k)];
        }
    }
    out
}
