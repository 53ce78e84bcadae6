//! Global average pooling to a 16-bit feature and its inverse norm.

use crate::arith::{inverse_norm, join, pool};
use crate::kernels::PoolCall;

/// Runs a pooling.
pub fn run(call: &mut PoolCall<'_>) {
    body(call);
}

/// Channels summed side by side.
const LANES: usize = 16;

/// The portable body; vector backends compile it again for their instruction set.
#[inline(always)]
pub(crate) fn body(call: &mut PoolCall<'_>) {
    let p = *call.pool;
    let channels = usize::from(p.channels);
    let mut squares = 0u64;
    let mut first = 0;
    while first < channels {
        let n = LANES.min(channels - first);
        let sums = if n == LANES { lane_sums(call, first) } else { ragged_sums(call, first, n) };
        for (i, &sum) in sums[..n].iter().enumerate() {
            let f = pool(sum, p.shift);
            squares += u64::from(f.unsigned_abs()).pow(2);
            call.out[2 * (first + i)..][..2].copy_from_slice(&f.to_le_bytes());
        }
        first += n;
    }
    let norm_at = p.norm_at();
    call.out[2 * channels..norm_at].fill(0);
    call.out[norm_at..norm_at + 4].copy_from_slice(&inverse_norm(squares).to_le_bytes());
}

/// Sums of `LANES` channels from `first` on, zero point removed.
#[inline(always)]
fn lane_sums(call: &PoolCall<'_>, first: usize) -> [i32; LANES] {
    let channels = usize::from(call.pool.channels);
    let zero = i32::from(call.pool.zero);
    let mut sums = [0i32; LANES];
    for (pixel, hi) in call.in_hi.chunks_exact(channels).enumerate() {
        let hi: &[u8; LANES] = hi[first..].first_chunk().unwrap_or(&[0; LANES]);
        if call.in_lo.is_empty() {
            for (s, &v) in sums.iter_mut().zip(hi) {
                *s += i32::from((v ^ call.flip) as i8) - zero;
            }
        } else {
            let lo = call.in_lo[pixel * channels + first..].first_chunk().unwrap_or(&[0; LANES]);
            for ((s, &h), &l) in sums.iter_mut().zip(hi).zip(lo) {
                *s += i32::from(join(h ^ call.flip, l)) - zero;
            }
        }
    }
    sums
}

/// The same for the last, incomplete group of channels.
fn ragged_sums(call: &PoolCall<'_>, first: usize, n: usize) -> [i32; LANES] {
    let channels = usize::from(call.pool.channels);
    let zero = i32::from(call.pool.zero);
    let mut sums = [0i32; LANES];
    for (i, sum) in sums.iter_mut().enumerate().take(n) {
        for pixel in 0..call.pool.pixels as usize {
            let at = pixel * channels + first + i;
            let hi = call.in_hi[at] ^ call.flip;
            let v = if call.in_lo.is_empty() { i16::from(hi as i8) } else { join(hi, call.in_lo[at]) };
            *sum += i32::from(v) - zero;
        }
    }
    sums
}
