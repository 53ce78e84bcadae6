//! Maximum over windows.

use crate::arith::{join, split};
use crate::kernels::MaxPoolCall;

/// Runs a max pooling.
pub fn run(call: &mut MaxPoolCall<'_>) {
    body(call);
}

/// The portable body; vector backends compile it again for their instruction set.
#[inline(always)]
pub(crate) fn body(call: &mut MaxPoolCall<'_>) {
    let m = *call.pool;
    let (channels, width) = (usize::from(m.channels), usize::from(m.in_w));
    let first_pixel = call.rows.start * m.out_w();
    for pixel in first_pixel..call.rows.end * m.out_w() {
        let (rows, columns) = (m.inside(pixel / m.out_w(), m.in_h), m.inside(pixel % m.out_w(), m.in_w));
        let to = (pixel - first_pixel) * channels..(pixel - first_pixel + 1) * channels;
        let mut first = true;
        for (y, x) in rows.flat_map(|y| columns.clone().map(move |x| (y, x))) {
            let from = (y * width + x) * channels..(y * width + x + 1) * channels;
            if call.out_lo.is_empty() {
                narrow(&mut call.out_hi[to.clone()], &call.in_hi[from], call.flip, first);
            } else {
                let best = (&mut call.out_hi[to.clone()], &mut call.out_lo[to.clone()]);
                wide(best, (&call.in_hi[from.clone()], &call.in_lo[from]), call.flip, first);
            }
            first = false;
        }
    }
}

#[inline(always)]
fn narrow(best: &mut [u8], pixel: &[u8], flip: u8, first: bool) {
    if first {
        return best.copy_from_slice(pixel);
    }
    // Bytes that have been moved to unsigned ones are compared as such.
    if flip == 0x80 {
        return best.iter_mut().zip(pixel).for_each(|(best, &v)| *best = (*best).max(v));
    }
    for (best, &v) in best.iter_mut().zip(pixel) {
        *best = ((*best ^ flip) as i8).max((v ^ flip) as i8) as u8 ^ flip;
    }
}

#[inline(always)]
fn wide((best_hi, best_lo): (&mut [u8], &mut [u8]), (hi, lo): (&[u8], &[u8]), flip: u8, first: bool) {
    if first {
        best_hi.copy_from_slice(hi);
        return best_lo.copy_from_slice(lo);
    }
    for ((best_hi, best_lo), (&hi, &lo)) in best_hi.iter_mut().zip(best_lo).zip(hi.iter().zip(lo)) {
        let (hi, lo) = split(join(*best_hi ^ flip, *best_lo).max(join(hi ^ flip, lo)));
        (*best_hi, *best_lo) = (hi ^ flip, lo);
    }
}
