//! Dense layers: a pair of features by 16 outputs at a time (`vpmaddwd`).

use crate::kernels::{DenseCall, dense};
use crate::op::feature_norm_at;
use core::arch::x86_64::*;

/// Outputs computed together.
const LANES: usize = 16;

/// Runs a dense layer on packed weights.
///
/// # Safety
/// AVX2 is available.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn run(call: &mut DenseCall<'_>) {
    let d = *call.dense;
    let (features, outputs) = (usize::from(d.features), usize::from(d.outputs));
    let (pairs, padded) = (features.div_ceil(2), dense::padded_outputs(d.outputs, d.layout));
    if call.feature.len() < feature_norm_at(features)
        || call.weights.len() < 2 * pairs * padded
        || call.params.len() < 8 * outputs
        || call.out.len() < 4 * outputs
    {
        debug_assert!(false, "a slice is shorter than the layer asks");
        return;
    }
    let inverse_norm = call.inverse_norm();
    for first in (0..outputs).step_by(LANES) {
        // SAFETY: features are padded to whole pairs, weights to 16 outputs: `pairs` rows of 2 * padded bytes.
        let dots = unsafe { dots(call.feature.as_ptr(), call.weights.as_ptr().add(2 * first), pairs, 2 * padded) };
        if first + LANES <= outputs {
            // SAFETY: 16 outputs from `first` on exist, in both arrays of parameters and in `out`.
            unsafe { finish(call, first, dots, inverse_norm) };
            continue;
        }
        let mut sums = [0i32; LANES];
        // SAFETY: 64 bytes are written to 64 bytes.
        unsafe {
            _mm256_storeu_si256(sums.as_mut_ptr().cast(), dots[0]);
            _mm256_storeu_si256(sums.as_mut_ptr().add(8).cast(), dots[1]);
        }
        for (j, &dot) in sums.iter().enumerate().take(outputs - first) {
            let value = call.finish(first + j, dot, inverse_norm);
            call.out[4 * (first + j)..][..4].copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// Dot products of 16 outputs.
///
/// # Safety
/// AVX2 is available; `feature` has 4 bytes for each of `pairs`, and `weights` 32 at every multiple of `row` below.
#[target_feature(enable = "avx2")]
unsafe fn dots(feature: *const u8, weights: *const u8, pairs: usize, row: usize) -> [__m256i; 2] {
    let mut sums = [_mm256_setzero_si256(); 2];
    for pair in 0..pairs {
        // SAFETY: promised by the caller.
        let (x, a, b) = unsafe {
            let w = weights.add(pair * row);
            (
                feature.add(4 * pair).cast::<i32>().read_unaligned(),
                _mm_loadu_si128(w.cast()),
                _mm_loadu_si128(w.add(16).cast()),
            )
        };
        // Two products of a word and a signed byte do not leave 32 bits; sums wrap like the law's.
        let x = _mm256_set1_epi32(x);
        sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(a)));
        sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(b)));
    }
    sums
}

/// The law's binary32 operations, one at a time (never fused).
///
/// # Safety
/// AVX2 is available; parameters and `out` have 16 outputs from `first` on.
#[target_feature(enable = "avx2")]
unsafe fn finish(call: &mut DenseCall<'_>, first: usize, dots: [__m256i; 2], inverse_norm: f32) {
    let norm = _mm256_set1_ps(inverse_norm);
    for (i, dots) in dots.into_iter().enumerate() {
        let at = 4 * (first + 8 * i);
        // SAFETY: promised by the caller; biases follow the factors of all outputs.
        unsafe {
            let factor = _mm256_loadu_ps(call.params.as_ptr().add(at).cast());
            let bias = _mm256_loadu_ps(call.params.as_ptr().add(4 * usize::from(call.dense.outputs) + at).cast());
            let scaled = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dots), factor), norm);
            _mm256_storeu_ps(call.out.as_mut_ptr().add(at).cast(), _mm256_add_ps(scaled, bias));
        }
    }
}
