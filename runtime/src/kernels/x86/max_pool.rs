//! Maximum over windows: of a narrow activation, a cache line of channels at a time.

use crate::kernels::{MaxPoolCall, scalar};

/// Channels that are kept in registers over a window.
const LINE: usize = 64;

/// Runs a max pooling; compiled for each unit.
#[inline(always)]
pub(super) fn run(call: &mut MaxPoolCall<'_>) {
    let channels = usize::from(call.pool.channels);
    // Bytes that have been moved to unsigned ones are compared as such.
    let lines = call.out_lo.is_empty() && call.flip == 0x80 && channels.is_multiple_of(LINE);
    if !lines || narrow(call, channels).is_none() {
        scalar::max_pool::body(call);
    }
}

/// `None`, and some outputs left, if a slice is shorter than the shape asks.
#[inline(always)]
fn narrow(call: &mut MaxPoolCall<'_>, channels: usize) -> Option<()> {
    let pool = call.pool;
    let (in_w, out_w) = (usize::from(pool.in_w), pool.out_w());
    let out_rows = call.out_hi.get_mut(..call.rows.len() * out_w * channels)?.chunks_exact_mut(out_w * channels);
    for (row, outputs) in call.rows.clone().zip(out_rows) {
        let rows = pool.inside(row, pool.in_h);
        for (column, output) in outputs.chunks_exact_mut(channels).enumerate() {
            let columns = pool.inside(column, pool.in_w);
            for (line, output) in output.as_chunks_mut::<LINE>().0.iter_mut().enumerate() {
                let mut best = [0; LINE];
                for y in rows.clone() {
                    let first = (y * in_w + columns.start) * channels + line * LINE;
                    for x in 0..columns.len() {
                        raise(&mut best, call.in_hi.get(first + x * channels..)?.first_chunk()?);
                    }
                }
                *output = best;
            }
        }
    }
    Some(())
}

#[inline(always)]
fn raise(best: &mut [u8; LINE], pixel: &[u8; LINE]) {
    for (best, &v) in best.iter_mut().zip(pixel) {
        *best = v.max(*best);
    }
}
