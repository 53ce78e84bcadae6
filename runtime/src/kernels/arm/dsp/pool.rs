//! Global average pooling: four channels at a time, in halfwords.

use super::asm;
use crate::arith::{inverse_norm, pool};
use crate::kernels::{PoolCall, scalar};

/// Pixels whose sum of bytes fits in a halfword.
const RUN: usize = 256;

/// Runs a pooling.
///
/// # Safety
/// The core has the DSP extension.
pub(super) unsafe fn run(call: &mut PoolCall<'_>) {
    let p = *call.pool;
    let channels = usize::from(p.channels);
    let narrow = call.in_lo.is_empty() && channels.is_multiple_of(4);
    if !narrow || call.in_hi.len() < p.input_len() || call.out.len() < p.output_len() {
        // Wide activations and ragged channels.
        return scalar::pool::run(call);
    }
    let (pixels, zero) = (p.pixels as usize, i32::from(p.zero));
    let mut squares = 0u64;
    let (features, rest) = call.out.split_at_mut(2 * channels);
    for (group, out) in features.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        // SAFETY: four channels of every pixel exist.
        let sums = unsafe { sums(call.in_hi.as_ptr().add(4 * group), pixels, channels) };
        for (sum, out) in sums.into_iter().zip(out.as_chunks_mut::<2>().0) {
            let f = pool(sum - pixels as i32 * zero, p.shift);
            squares += u64::from(f.unsigned_abs()).pow(2);
            *out = f.to_le_bytes();
        }
    }
    // An even number of channels leaves nothing between feature and norm.
    if let Some(norm) = rest.first_chunk_mut() {
        *norm = inverse_norm(squares).to_le_bytes();
    }
}

/// Sums of four channels.
///
/// # Safety
/// `from` and every `channels`th byte after it begin four bytes, `pixels` times.
unsafe fn sums(mut from: *const u8, pixels: usize, channels: usize) -> [i32; 4] {
    let mut sums = [0i32; 4];
    let mut left = pixels;
    while left > 0 {
        let n = left.min(RUN);
        let (mut even, mut odd) = (0, 0);
        for _ in 0..n {
            // SAFETY: promised by the caller.
            let word = unsafe { from.cast::<u32>().read_unaligned() };
            (even, odd) = (asm::sxtab16(even, word), asm::sxtab16_odd(odd, word));
            from = from.wrapping_add(channels);
        }
        let halves = [even as i16, odd as i16, (even >> 16) as i16, (odd >> 16) as i16];
        sums.iter_mut().zip(halves).for_each(|(s, h)| *s += i32::from(h));
        left -= n;
    }
    sums
}
