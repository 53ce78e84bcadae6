//! Global average pooling to a 16-bit feature and its inverse norm.

use crate::arith::{inverse_norm, join, pool};
use crate::kernels::PoolCall;

/// Runs a pooling.
pub fn run(call: &mut PoolCall<'_>) {
    body(call);
}

/// Channels summed side by side.
const LANES: usize = 16;

/// The portable body; vector backends compile it again for their instruction set. Slices that are too short, which those of
/// a validated model are not, give wrong results and never a panic: firmware links no path to one.
#[inline(always)]
pub(crate) fn body(call: &mut PoolCall<'_>) {
    let p = *call.pool;
    let channels = usize::from(p.channels);
    let mut squares = 0u64;
    let mut first = 0;
    while first < channels {
        let n = LANES.min(channels - first);
        let sums = if n == LANES { lane_sums(call, first) } else { ragged_sums(call, first, n) };
        let features = call.out.get_mut(2 * first..).unwrap_or_default().as_chunks_mut::<2>().0;
        for (&sum, out) in sums.iter().take(n).zip(features) {
            let f = pool(sum, p.shift);
            squares += u64::from(f.unsigned_abs()).pow(2);
            *out = f.to_le_bytes();
        }
        first += n;
    }
    let norm_at = p.norm_at();
    if let Some(padding) = call.out.get_mut(2 * channels..norm_at) {
        padding.fill(0);
    }
    if let Some(norm) = call.out.get_mut(norm_at..).and_then(|rest| rest.first_chunk_mut()) {
        *norm = inverse_norm(squares).to_le_bytes();
    }
}

/// Sums of `LANES` channels from `first` on, zero point removed.
#[inline(always)]
fn lane_sums(call: &PoolCall<'_>, first: usize) -> [i32; LANES] {
    // There is at least one channel; saying so keeps the panic of `chunks_exact` out of firmware.
    let channels = usize::from(call.pool.channels).max(1);
    let zero = i32::from(call.pool.zero);
    let mut sums = [0i32; LANES];
    let lanes = |pixel| lanes(pixel, first);
    if call.in_lo.is_empty() {
        for hi in call.in_hi.chunks_exact(channels).map(lanes) {
            for (s, &v) in sums.iter_mut().zip(hi) {
                *s += i32::from((v ^ call.flip) as i8) - zero;
            }
        }
    } else {
        // Not `zip`, which divides both lengths by the number of channels, and so links a panic where it is not inlined.
        let mut low = call.in_lo.chunks_exact(channels).map(lanes);
        for hi in call.in_hi.chunks_exact(channels).map(lanes) {
            let Some(lo) = low.next() else { break };
            for ((s, &h), &l) in sums.iter_mut().zip(hi).zip(lo) {
                *s += i32::from(join(h ^ call.flip, l)) - zero;
            }
        }
    }
    sums
}

/// `LANES` channels of a pixel, from `first` on.
#[inline(always)]
fn lanes(pixel: &[u8], first: usize) -> &[u8; LANES] {
    pixel.get(first..).and_then(|rest| rest.first_chunk()).unwrap_or(&[0; LANES])
}

/// The same for the last, incomplete group of channels.
fn ragged_sums(call: &PoolCall<'_>, first: usize, n: usize) -> [i32; LANES] {
    let channels = usize::from(call.pool.channels);
    let zero = i32::from(call.pool.zero);
    let mut sums = [0i32; LANES];
    for (i, sum) in sums.iter_mut().enumerate().take(n) {
        for pixel in 0..call.pool.pixels as usize {
            let at = pixel * channels + first + i;
            let byte = |plane: &[u8]| plane.get(at).copied().unwrap_or(0);
            let hi = byte(call.in_hi) ^ call.flip;
            let v = if call.in_lo.is_empty() { i16::from(hi as i8) } else { join(hi, byte(call.in_lo)) };
            *sum += i32::from(v) - zero;
        }
    }
    sums
}
