//! Maximum over windows.

use crate::arith::{join, split};
use crate::kernels::MaxPoolCall;

/// Runs a max pooling.
pub fn run(call: &mut MaxPoolCall<'_>) {
    body(call);
}

/// The portable body; vector backends compile it again for their instruction set. Slices that are too short, which those of
/// a validated model are not, stay as they are and never cause a panic: firmware links no path to one.
#[inline(always)]
pub(crate) fn body(call: &mut MaxPoolCall<'_>) {
    let m = *call.pool;
    let (channels, width) = (usize::from(m.channels), usize::from(m.in_w));
    let (out_w, first_row) = (m.out_w(), call.rows.start);
    for (row, column) in call.rows.clone().flat_map(|row| (0..out_w).map(move |column| (row, column))) {
        let (rows, columns) = (m.inside(row, m.in_h), m.inside(column, m.in_w));
        let pixel = (row - first_row) * out_w + column;
        let to = pixel * channels..(pixel + 1) * channels;
        let mut first = true;
        let Some(best_hi) = call.out_hi.get_mut(to.clone()) else { return };
        let mut best_lo = call.out_lo.get_mut(to);
        for (y, x) in rows.flat_map(|y| columns.clone().map(move |x| (y, x))) {
            let from = (y * width + x) * channels..(y * width + x + 1) * channels;
            let Some(hi) = call.in_hi.get(from.clone()) else { return };
            match &mut best_lo {
                None => narrow(best_hi, hi, call.flip, first),
                Some(best_lo) => {
                    let Some(lo) = call.in_lo.get(from) else { return };
                    wide((best_hi, best_lo), (hi, lo), call.flip, first);
                }
            }
            first = false;
        }
    }
}

#[inline(always)]
fn narrow(best: &mut [u8], pixel: &[u8], flip: u8, first: bool) {
    if first {
        return best.iter_mut().zip(pixel).for_each(|(best, &v)| *best = v);
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
        best_hi.iter_mut().zip(hi).for_each(|(best, &v)| *best = v);
        return best_lo.iter_mut().zip(lo).for_each(|(best, &v)| *best = v);
    }
    for ((best_hi, best_lo), (&hi, &lo)) in best_hi.iter_mut().zip(best_lo).zip(hi.iter().zip(lo)) {
        let (hi, lo) = split(join(*best_hi ^ flip, *best_lo).max(join(hi ^ flip, lo)));
        (*best_hi, *best_lo) = (hi ^ flip, lo);
    }
}
