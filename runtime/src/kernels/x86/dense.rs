//! Dense layers: a pair of features by 16 outputs at a time (`vpmaddwd`).

use crate::kernels::{DenseCall, dense};
use crate::op::feature_norm_at;
use core::arch::x86_64::*;

/// Outputs of a register pair.
const LANES: usize = 16;
/// Register pairs that are computed together where there are so many outputs: rows of weights lie far from each other
/// then, and the more of each is read at once, the less of it is fetched in vain.
const WIDE: usize = 6;
/// Rows of weights that are fetched ahead.
const AHEAD: usize = 12;

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
    let mut first = 0;
    while first < outputs {
        // SAFETY: features are padded to whole pairs, weights to 16 outputs: `pairs` rows of 2 * padded bytes.
        let (feature, weights) = (call.feature.as_ptr(), unsafe { call.weights.as_ptr().add(2 * first) });
        if first + WIDE * LANES <= padded {
            // SAFETY: as above, for WIDE times 16 outputs.
            let sums = unsafe { dots::<WIDE>(feature, weights, pairs, 2 * padded) };
            for (n, dots) in sums.into_iter().enumerate() {
                // SAFETY: AVX2 is available, and these outputs begin before the last one ends.
                unsafe { store(call, first + n * LANES, dots, inverse_norm) };
            }
            first += WIDE * LANES;
        } else {
            // SAFETY: as above, for 16 outputs.
            unsafe {
                let [sums] = dots::<1>(feature, weights, pairs, 2 * padded);
                store(call, first, sums, inverse_norm);
            }
            first += LANES;
        }
    }
}

/// Stores those of 16 outputs from `first` on that exist.
///
/// # Safety
/// AVX2 is available, and the layer's slices are complete.
#[target_feature(enable = "avx2")]
unsafe fn store(call: &mut DenseCall<'_>, first: usize, dots: [__m256i; 2], inverse_norm: f32) {
    let outputs = usize::from(call.dense.outputs);
    if first + LANES <= outputs {
        // SAFETY: 16 outputs from `first` on exist, in both arrays of parameters and in `out`.
        return unsafe { finish(call, first, dots, inverse_norm) };
    }
    let mut sums = [0i32; LANES];
    // SAFETY: 64 bytes are written to 64 bytes.
    unsafe {
        _mm256_storeu_si256(sums.as_mut_ptr().cast(), dots[0]);
        _mm256_storeu_si256(sums.as_mut_ptr().add(8).cast(), dots[1]);
    }
    for (j, &dot) in sums.iter().enumerate().take(outputs.saturating_sub(first)) {
        let value = call.finish(first + j, dot, inverse_norm);
        call.out[4 * (first + j)..][..4].copy_from_slice(&value.to_le_bytes());
    }
}

/// Dot products of `N` times 16 outputs.
///
/// # Safety
/// AVX2 is available; `feature` has 4 bytes for each of `pairs`, and `weights` 32 * N at every multiple of `row` below.
#[target_feature(enable = "avx2")]
unsafe fn dots<const N: usize>(feature: *const u8, weights: *const u8, pairs: usize, row: usize) -> [[__m256i; 2]; N] {
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for pair in 0..pairs {
        let ahead = weights.wrapping_add((pair + AHEAD) * row);
        for n in (0..N).step_by(2) {
            // A hint that faults nowhere, beyond the weights' end neither.
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(32 * n).cast());
        }
        // SAFETY: promised by the caller.
        let x = _mm256_set1_epi32(unsafe { feature.add(4 * pair).cast::<i32>().read_unaligned() });
        for (n, sums) in sums.iter_mut().enumerate() {
            // SAFETY: promised by the caller.
            let (a, b) = unsafe {
                let w = weights.add(pair * row + 32 * n);
                (_mm_loadu_si128(w.cast()), _mm_loadu_si128(w.add(16).cast()))
            };
            // Two products of a word and a signed byte do not leave 32 bits; sums wrap like the law's.
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(a)));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(b)));
        }
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
