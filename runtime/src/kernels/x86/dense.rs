//! Dense layers: pairs of features by 16 outputs at a time, in code that compilers turn into `vpmaddwd`.

use crate::format::{f32_at, u16_at};
use crate::kernels::{DenseCall, dense};
use crate::op::Layout;

/// Outputs computed together.
const LANES: usize = 16;

/// Portable body of the packed layout; compiled for each vector unit.
#[inline(always)]
pub(super) fn body(call: &mut DenseCall<'_>) {
    let d = *call.dense;
    debug_assert_eq!(d.layout, Layout::K8N16);
    let inverse_norm = call.inverse_norm();
    let (outputs, pairs) = (usize::from(d.outputs), usize::from(d.features).div_ceil(2));
    let row = 2 * dense::padded_outputs(d.outputs, d.layout);
    for first in (0..outputs).step_by(LANES) {
        let mut dots = [0i32; LANES];
        for pair in 0..pairs {
            let x = [u16_at(call.feature, 4 * pair) as i16, u16_at(call.feature, 4 * pair + 2) as i16].map(i32::from);
            let Some(w) = call.weights.get(pair * row + 2 * first..).and_then(|w| w.first_chunk::<32>()) else {
                return;
            };
            for (j, dot) in dots.iter_mut().enumerate() {
                let (even, odd) = (i32::from(w[2 * j] as i8), i32::from(w[2 * j + 1] as i8));
                *dot = dot.wrapping_add(even * x[0] + odd * x[1]);
            }
        }
        finish(call, first, &dots, inverse_norm);
    }
}

#[inline(always)]
fn finish(call: &mut DenseCall<'_>, first: usize, dots: &[i32; LANES], inverse_norm: f32) {
    let outputs = usize::from(call.dense.outputs);
    let (factors, biases) = call.params.split_at(4 * outputs);
    let group = 4 * first..4 * (first + LANES);
    if let (Some(factors), Some(biases), Some(out)) =
        (factors.get(group.clone()), biases.get(group.clone()), call.out.get_mut(group))
    {
        for (j, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
            let value = ((dots[j] as f32) * f32_at(factors, 4 * j)) * inverse_norm + f32_at(biases, 4 * j);
            *out = value.to_le_bytes();
        }
        return;
    }
    for (j, &dot) in dots.iter().enumerate().take(outputs - first) {
        let value = call.finish(first + j, dot, inverse_norm);
        call.out[4 * (first + j)..][..4].copy_from_slice(&value.to_le_bytes());
    }
}
