//! Dense layers: a pair of features by 16 outputs at a time.

use crate::kernels::{DenseCall, dense};
use crate::op::feature_norm_at;
use core::arch::aarch64::*;

/// Outputs computed together.
const LANES: usize = 16;

/// Runs a dense layer on packed weights.
///
/// # Safety
/// NEON is available.
#[inline(always)]
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
        for (to, dots) in sums.as_chunks_mut::<4>().0.iter_mut().zip(dots) {
            // SAFETY: 16 bytes are written to 16 bytes.
            unsafe { vst1q_s32(to.as_mut_ptr(), dots) };
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
/// NEON is available; `feature` has 4 bytes for each of `pairs`, and `weights` 32 at every multiple of `row` below.
#[inline(always)]
unsafe fn dots(feature: *const u8, weights: *const u8, pairs: usize, row: usize) -> [int32x4_t; 4] {
    // SAFETY: promised by the caller. Two products of a word and a signed byte do not leave 32 bits; sums wrap like the
    // law's.
    unsafe {
        let mut sums = [vdupq_n_s32(0); 4];
        for pair in 0..pairs {
            let x: [i16; 2] = feature.add(4 * pair).cast::<[i16; 2]>().read_unaligned();
            let int8x16x2_t(even, odd) = vld2q_s8(weights.add(pair * row).cast());
            for (w, x) in [even, odd].into_iter().zip(x) {
                let (low, high) = (vmovl_s8(vget_low_s8(w)), vmovl_high_s8(w));
                sums[0] = vmlal_n_s16(sums[0], vget_low_s16(low), x);
                sums[1] = vmlal_high_n_s16(sums[1], low, x);
                sums[2] = vmlal_n_s16(sums[2], vget_low_s16(high), x);
                sums[3] = vmlal_high_n_s16(sums[3], high, x);
            }
        }
        sums
    }
}

/// The law's binary32 operations, one at a time (never fused).
///
/// # Safety
/// NEON is available; parameters and `out` have 16 outputs from `first` on.
#[inline(always)]
unsafe fn finish(call: &mut DenseCall<'_>, first: usize, dots: [int32x4_t; 4], inverse_norm: f32) {
    for (i, dots) in dots.into_iter().enumerate() {
        let at = 4 * (first + 4 * i);
        // SAFETY: promised by the caller; biases follow the factors of all outputs.
        unsafe {
            let factor = vreinterpretq_f32_u8(vld1q_u8(call.params.as_ptr().add(at)));
            let bias =
                vreinterpretq_f32_u8(vld1q_u8(call.params.as_ptr().add(4 * usize::from(call.dense.outputs) + at)));
            let scaled = vmulq_n_f32(vmulq_f32(vcvtq_f32_s32(dots), factor), inverse_norm);
            vst1q_u8(call.out.as_mut_ptr().add(at), vreinterpretq_u8_f32(vaddq_f32(scaled, bias)));
        }
    }
}
