//! Dense layers on 16-bit features.

use crate::format::u16_at;
use crate::kernels::{DenseCall, dense};

/// Plain rows of weights.
pub fn rows(call: &mut DenseCall<'_>) {
    run(call);
}

/// Pairs of features for 16 outputs at a time.
pub fn packed(call: &mut DenseCall<'_>) {
    run(call);
}

fn run(call: &mut DenseCall<'_>) {
    let d = *call.dense;
    let inverse_norm = call.inverse_norm();
    for j in 0..usize::from(d.outputs) {
        let mut dot = 0i32;
        for k in 0..usize::from(d.features) {
            let w = call.weights.get(dense::weight_at(&d, j, k)).map_or(0, |&w| w as i8);
            dot = dot.wrapping_add(i32::from(w) * i32::from(u16_at(call.feature, 2 * k) as i16));
        }
        let value = call.finish(j, dot, inverse_norm);
        if let Some(out) = call.out.get_mut(4 * j..).and_then(|rest| rest.first_chunk_mut()) {
            *out = value.to_le_bytes();
        }
    }
}
