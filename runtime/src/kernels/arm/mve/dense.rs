//! Dense layers: eight features at a time.

use super::asm;
use crate::kernels::{DenseCall, dense, scalar};
use crate::op::feature_norm_at;

/// Runs a dense layer on plain rows.
///
/// # Safety
/// The core has MVE with integers.
pub(super) unsafe fn run(call: &mut DenseCall<'_>) {
    let d = *call.dense;
    let features = usize::from(d.features);
    let complete = call.feature.len() >= feature_norm_at(features)
        && call.weights.len() >= dense::weights_len(d.features, d.outputs, d.layout);
    if !complete || features == 0 || !call.feature.as_ptr().addr().is_multiple_of(2) {
        // The arena keeps features aligned.
        return scalar::dense::rows(call);
    }
    let inverse_norm = call.inverse_norm();
    for j in 0..usize::from(d.outputs) {
        // SAFETY: row `j` and the feature have that many values, and the feature is aligned.
        let dot = unsafe { asm::dot(call.weights.as_ptr().add(j * features), call.feature.as_ptr(), features) };
        let value = call.finish(j, dot, inverse_norm);
        if let Some(out) = call.out.get_mut(4 * j..).and_then(|o| o.first_chunk_mut()) {
            *out = value.to_le_bytes();
        }
    }
}
