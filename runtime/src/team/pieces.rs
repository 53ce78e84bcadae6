//! What threads share: output rows or channels of convolutions, and output rows of max poolings.
//!
//! Rows of an NHWC tensor are contiguous, so that an output is cut into disjoint slices. Where rows do not come out even, or
//! there are more weights than activations, as in the last layers of a network for large images, channels are cut
//! ([`Cut`]): each thread then reads its part of the weights only. Pieces are handed out one after the other; a thread that
//! has more time takes more of them.

use super::Team;
use super::cut::{Axis, Cut, pieces};
use crate::kernels::{Backend, ConvCall, MaxPoolCall};
use core::ops::Range;
use std::mem;
use std::sync::{Mutex, PoisonError};

/// Bytes that max pooling compares with an instruction, loads and loops included.
const POOL_BYTES: u64 = 16;

/// Runs a convolution, with the others of the team if that pays.
///
/// # Safety
/// The backend's instruction set is available.
pub(crate) unsafe fn convolve(team: Option<&Team>, backend: &'static Backend, mut call: ConvCall<'_>) {
    let cut = team.and_then(|team| Some((team, Cut::of(team, backend, &call)?)));
    let Some((team, Cut { axis, count, grain })) = cut else {
        // SAFETY: promised by the caller.
        return unsafe { (backend.conv.run)(&mut call) };
    };
    let ConvCall { conv, rows, channels, input, weights, params, out_hi, out_lo, scratch } = call;
    let row = conv.shape.out_w() * usize::from(conv.shape.out_c);
    let all = if axis == Axis::Rows { rows.clone() } else { channels.clone() };
    let pieces = Mutex::new((Cuts { all, count, grain, next: 0 }, out_hi, out_lo));
    let next = || {
        let (cuts, hi, lo) = &mut *pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = cuts.next()?;
        Some(match axis {
            Axis::Rows => {
                let bytes = row * piece.len();
                (piece, channels.clone(), hi.cut_off(bytes), lo.cut_off(bytes))
            }
            // SAFETY: kernels touch the bytes of the channels that they are asked for, and no two pieces have the same.
            Axis::Channels => unsafe { (rows.clone(), piece, hi.alias(), lo.alias()) },
        })
    };
    let work = |scratch: &mut [u8]| {
        while let Some((rows, channels, out_hi, out_lo)) = next() {
            let mut call = ConvCall { conv, rows, channels, input, weights, params, out_hi, out_lo, scratch };
            // SAFETY: promised by the caller.
            unsafe { (backend.conv.run)(&mut call) }
        }
    };
    team.run((backend.conv.scratch_len)(&conv.shape), &work, scratch);
}

/// Runs a max pooling, with the others of the team if that pays.
///
/// # Safety
/// The backend's instruction set is available.
pub(crate) unsafe fn max_pool(team: Option<&Team>, backend: &'static Backend, mut call: MaxPoolCall<'_>) {
    let pool = *call.pool;
    let compared = pool.output_len() as u64 * u64::from(pool.kernel).pow(2);
    let count = team.map_or(1, |team| pieces(team, 4, pool.out_h(), compared / POOL_BYTES));
    let Some(team) = team.filter(|_| count > 1) else {
        // SAFETY: promised by the caller.
        return unsafe { (backend.max_pool)(&mut call) };
    };
    let MaxPoolCall { pool, rows, in_hi, in_lo, out_hi, out_lo, flip } = call;
    let row = pool.out_w() * usize::from(pool.channels);
    let pieces = Mutex::new((Cuts { all: rows, count, grain: 1, next: 0 }, out_hi, out_lo));
    let next = || {
        let (cuts, hi, lo) = &mut *pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = cuts.next()?;
        let bytes = row * rows.len();
        Some((rows, cut_off(hi, bytes), cut_off(lo, bytes)))
    };
    let work = |_: &mut [u8]| {
        while let Some((rows, out_hi, out_lo)) = next() {
            let mut call = MaxPoolCall { pool, rows, in_hi, in_lo, out_hi, out_lo, flip };
            // SAFETY: promised by the caller.
            unsafe { (backend.max_pool)(&mut call) }
        }
    };
    team.run(0, &work, &mut []);
}

/// Rows or channels that are cut off one after the other.
#[derive(Clone, Debug)]
struct Cuts {
    all: Range<usize>,
    count: usize,
    /// How many stay together.
    grain: usize,
    next: usize,
}

impl Iterator for Cuts {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        if self.next >= self.count {
            return None;
        }
        // The larger pieces come first.
        let units = self.all.len().div_ceil(self.grain);
        let cut = |n: usize| self.all.end.min(self.all.start + self.grain * (n * units).div_ceil(self.count));
        let piece = cut(self.next)..cut(self.next + 1);
        self.next += 1;
        Some(piece)
    }
}

/// The first `bytes` of a plane, if it has any; the rest is left.
fn cut_off<'a>(plane: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let (first, rest) = mem::take(plane).split_at_mut_checked(bytes).unwrap_or_default();
    *plane = rest;
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_of_the_rows_in_order() {
        for (rows, count, grain) in
            [(7, 2, 1), (1, 1, 1), (14, 3, 1), (56, 8, 1), (5, 5, 1), (14, 2, 4), (28, 2, 4), (13, 4, 4), (3, 1, 4)]
        {
            let mut bytes: Vec<u8> = (0..rows * 3).map(|i| i as u8).collect();
            let (all, mut left) = (bytes.clone(), &mut bytes[..]);
            let (mut at, mut sizes) = (0, Vec::new());
            for piece in (Cuts { all: 0..rows, count, grain, next: 0 }) {
                assert_eq!(piece.start, at);
                assert_eq!(*cut_off(&mut left, 3 * piece.len()), all[3 * at..3 * piece.end]);
                at = piece.end;
                assert!(at == rows || at.is_multiple_of(grain));
                sizes.push(piece.len());
            }
            assert_eq!((at, sizes.len(), left.len()), (rows, count, 0));
            let units = |rows: &usize| rows.div_ceil(grain);
            assert!(sizes.iter().map(units).max().unwrap() - sizes.iter().map(units).min().unwrap() <= 1, "{sizes:?}");
        }
        assert!(cut_off(&mut &mut [][..], 3).is_empty());
    }
}
