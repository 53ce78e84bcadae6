//! Dense layers: a pair of features by 16 outputs at a time (`vpmaddwd`).

use crate::kernels::{DenseCall, dense};
use crate::op::feature_norm_at;
use core::arch::x86_64::*;

/// Outputs of a register pair.
const LANES: usize = 16;
/// Pairs of features whose rows of weights are read side by side where weights come from afar.
const ROWS: usize = 4;
/// Bytes of weights from which on they are read in the order of their addresses, as memory likes it, and sums wait in
/// the output meanwhile.
const STREAM: usize = 256 << 10;

/// Bytes of weights that are fetched ahead then, into the second cache, which takes more requests at a time than the first.
const AHEAD: usize = 32 << 10;

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
    if 2 * pairs * padded >= STREAM {
        // SAFETY: AVX2 is available, and the slices are complete.
        return unsafe { stream(call, pairs, 2 * padded, inverse_norm) };
    }
    for first in (0..outputs).step_by(LANES) {
        // SAFETY: features are padded to whole pairs, weights to 16 outputs: `pairs` rows of 2 * padded bytes.
        unsafe {
            let dots = dots(call.feature.as_ptr(), call.weights.as_ptr().add(2 * first), pairs, 2 * padded);
            store(call, first, dots, inverse_norm);
        }
    }
}

/// Runs a layer with many weights, row by row.
///
/// # Safety
/// AVX2 is available, and the layer's slices are complete: `pairs` rows of `row` bytes of weights.
#[target_feature(enable = "avx2")]
unsafe fn stream(call: &mut DenseCall<'_>, pairs: usize, row: usize, inverse_norm: f32) {
    let outputs = usize::from(call.dense.outputs);
    let whole = outputs / LANES * LANES;
    // The output's bytes hold the sums of whole sixteens until the end.
    let sums = call.out.as_mut_ptr();
    call.out[..4 * outputs].fill(0);
    let mut last = [_mm256_setzero_si256(); 2];
    for pair in (0..pairs).step_by(ROWS) {
        let mut rows = [(call.weights.as_ptr(), _mm256_setzero_si256()); ROWS];
        for (r, (weights, x)) in rows.iter_mut().enumerate().take(pairs - pair) {
            // SAFETY: this pair exists, among the features and among the rows.
            unsafe {
                *x = _mm256_set1_epi32(call.feature.as_ptr().add(4 * (pair + r)).cast::<i32>().read_unaligned());
                *weights = weights.add((pair + r) * row);
            }
        }
        let ahead = rows[0].0.wrapping_add(AHEAD);
        for first in (0..whole).step_by(LANES) {
            // A hint that faults nowhere, beyond the weights' end neither.
            for r in 0..ROWS {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(r * row + 2 * first).cast());
            }
            // SAFETY: 16 outputs from `first` on have 64 bytes in `out`, and 32 in each row.
            unsafe {
                let at = sums.add(4 * first).cast::<__m256i>();
                let before = [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))];
                let [a, b] = add_rows(before, &rows, 2 * first);
                _mm256_storeu_si256(at, a);
                _mm256_storeu_si256(at.add(1), b);
            }
        }
        if whole < outputs {
            // SAFETY: rows are padded to 16 outputs.
            last = unsafe { add_rows(last, &rows, 2 * whole) };
        }
    }
    for first in (0..whole).step_by(LANES) {
        // SAFETY: as above; `store` reads these sums before it overwrites them.
        unsafe {
            let at = call.out.as_ptr().add(4 * first).cast::<__m256i>();
            let dots = [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))];
            store(call, first, dots, inverse_norm);
        }
    }
    if whole < outputs {
        // SAFETY: AVX2 is available, and the slices are complete.
        unsafe { store(call, whole, last, inverse_norm) };
    }
}

/// Adds what rows of weights and their pairs of features contribute to 16 outputs, `at` bytes into the rows.
///
/// # Safety
/// AVX2 is available, and each row has 32 bytes there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_rows(mut sums: [__m256i; 2], rows: &[(*const u8, __m256i); ROWS], at: usize) -> [__m256i; 2] {
    for &(weights, x) in rows {
        // SAFETY: promised by the caller.
        sums = unsafe { add_pair(sums, x, weights.add(at)) };
    }
    sums
}

/// Adds the products of a pair of features with the weights of 16 outputs.
///
/// # Safety
/// AVX2 is available, and there are 32 bytes of weights.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_pair([low, high]: [__m256i; 2], x: __m256i, weights: *const u8) -> [__m256i; 2] {
    // SAFETY: promised by the caller.
    let (a, b) = unsafe { (_mm_loadu_si128(weights.cast()), _mm_loadu_si128(weights.add(16).cast())) };
    // Two products of a word and a signed byte do not leave 32 bits; sums wrap like the law's.
    [
        _mm256_add_epi32(low, _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(a))),
        _mm256_add_epi32(high, _mm256_madd_epi16(x, _mm256_cvtepi8_epi16(b))),
    ]
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

/// Dot products of 16 outputs.
///
/// # Safety
/// AVX2 is available; `feature` has 4 bytes for each of `pairs`, and `weights` 32 at every multiple of `row` below.
#[target_feature(enable = "avx2")]
unsafe fn dots(feature: *const u8, weights: *const u8, pairs: usize, row: usize) -> [__m256i; 2] {
    let mut sums = [_mm256_setzero_si256(); 2];
    for pair in 0..pairs {
        // SAFETY: promised by the caller.
        sums = unsafe {
            let x = _mm256_set1_epi32(feature.add(4 * pair).cast::<i32>().read_unaligned());
            add_pair(sums, x, weights.add(pair * row))
        };
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
