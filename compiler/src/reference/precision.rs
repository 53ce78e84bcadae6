//! Half precision, as GPUs run networks that nobody has quantized: weights, biases and every value between operations are
//! IEEE-754 binary16, sums are kept in more bits and rounded once. PyTorch's `.half()` and TensorRT's FP16 do so. Where they
//! fuse operations, they round less often than this, and more often where batch normalisation is an operation of its own,
//! which here is part of the weights: on the model of this repository, PyTorch's logits have 62.5 dB and these 66.2.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::network::{Network, Op, Part, Routing};

/// What values are kept in between operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    /// Single precision: values stay as they are.
    Single,
    /// Half precision.
    Half,
}

impl Precision {
    /// Rounds values to what is kept of them. Beyond 65504 they become infinite, as they do on a device.
    pub(super) fn keep(self, values: &mut [f32]) {
        if self == Precision::Half {
            round(values);
        }
    }
}

/// Values that are converted at a time.
const CHUNK: usize = 256;

/// Rounds to nearest, ties to even.
fn round(values: &mut [f32]) {
    let mut halves = [f16::ZERO; CHUNK];
    for chunk in values.chunks_mut(CHUNK) {
        let halves = &mut halves[..chunk.len()];
        halves.convert_from_f32_slice(chunk);
        halves.convert_to_f32_slice(chunk);
    }
}

/// The network with all weights and biases rounded; thresholds stay.
pub(super) fn rounded(network: &Network) -> Network {
    let mut network = network.clone();
    round_part(&mut network.stem);
    for expert in &mut network.experts {
        round_part(&mut expert.trunk);
        round(&mut expert.head.weight);
        round(&mut expert.head.bias);
    }
    if let Routing::Assignment(routers) = &mut network.routing {
        for router in routers {
            round(&mut router.hidden_weight);
            round(&mut router.hidden_bias);
            round(&mut router.fc_weight);
            round(std::slice::from_mut(&mut router.fc_bias));
        }
    }
    network
}

fn round_part(part: &mut Part) {
    for node in &mut part.nodes {
        if let Op::Conv(conv) = &mut node.op {
            round(&mut conv.weight);
            round(&mut conv.bias);
        }
    }
}
