//! What threads share: output rows of convolutions and of max poolings.
//!
//! Rows of an NHWC tensor are contiguous, so that an output is cut into disjoint slices. Pieces are handed out one after the
//! other; a thread that has more time takes more of them.

use super::Team;
use crate::kernels::k8n16::winograd;
use crate::kernels::path::Path;
use crate::kernels::{Backend, ConvCall, MaxPoolCall};
use core::ops::Range;
use std::mem;
use std::sync::{Mutex, PoisonError};

/// Vector instructions that a piece has at least: some 2.5 microseconds, several times what the hand-over costs (`cargo run
/// --release -p ride-runtime --features std --example threads` shows it).
pub(super) const LEAST: u64 = 8192;
/// Bytes of weights that may be read again for each of several pieces a thread: they stay in the second cache. Otherwise each
/// thread gets one piece.
const LIGHT: usize = 128 << 10;
/// Bytes that max pooling compares with an instruction, loads and loops included.
const POOL_BYTES: u64 = 16;

/// Runs a convolution, with the others of the team if that pays.
///
/// # Safety
/// The backend's instruction set is available.
pub(crate) unsafe fn convolve(team: Option<&Team>, backend: &'static Backend, mut call: ConvCall<'_>) {
    let shape = call.conv.shape;
    let work = shape.macs() / u64::from(backend.isa.macs_per_instruction());
    let tiled = Path::of_conv(backend.isa, call.conv) == Path::Winograd;
    let grain = if tiled { winograd::SIDE } else { 1 };
    let count = team.filter(|_| backend.conv.splits).map_or(1, |team| {
        // Each piece would transform the weights once more.
        let each = if call.weights.len() <= LIGHT && !tiled { 4 } else { 1 };
        pieces(team, each, shape.out_h().div_ceil(grain), work)
    });
    let Some(team) = team.filter(|_| count > 1) else {
        // SAFETY: promised by the caller.
        return unsafe { (backend.conv.run)(&mut call) };
    };
    let ConvCall { conv, rows, input, weights, params, out_hi, out_lo, scratch } = call;
    let row = shape.out_w() * usize::from(shape.out_c);
    let pieces = Mutex::new(Pieces { rows, count, grain, next: 0, row, hi: out_hi, lo: out_lo });
    let work = |scratch: &mut [u8]| {
        while let Some(Piece { rows, hi, lo }) = claim(&pieces) {
            let mut call = ConvCall { conv, rows, input, weights, params, out_hi: hi, out_lo: lo, scratch };
            // SAFETY: promised by the caller.
            unsafe { (backend.conv.run)(&mut call) }
        }
    };
    team.run((backend.conv.scratch_len)(&shape), &work, scratch);
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
    let pieces = Mutex::new(Pieces { rows, count, grain: 1, next: 0, row, hi: out_hi, lo: out_lo });
    let work = |_: &mut [u8]| {
        while let Some(Piece { rows, hi, lo }) = claim(&pieces) {
            let mut call = MaxPoolCall { pool, rows, in_hi, in_lo, out_hi: hi, out_lo: lo, flip };
            // SAFETY: promised by the caller.
            unsafe { (backend.max_pool)(&mut call) }
        }
    };
    team.run(0, &work, &mut []);
}

/// Number of pieces for a team, at most `each` for every thread; 1 where sharing does not pay. `work` is a number
/// of vector instructions.
fn pieces(team: &Team, each: usize, rows: usize, work: u64) -> usize {
    let threads = team.threads();
    if threads == 1 {
        return 1;
    }
    let affordable = usize::try_from(work / team.least).unwrap_or(usize::MAX);
    let count = affordable.min(rows).min(each * threads);
    // The same number for everybody.
    if count > threads { count / threads * threads } else { count.max(1) }
}

/// Rows of an output that are cut off one after the other.
#[derive(Debug)]
struct Pieces<'a> {
    rows: Range<usize>,
    count: usize,
    /// Rows that stay together: those of a row of tiles.
    grain: usize,
    next: usize,
    /// Bytes of a row of a plane.
    row: usize,
    /// Planes of what is left; `lo` is empty for a narrow output.
    hi: &'a mut [u8],
    lo: &'a mut [u8],
}

/// Some rows, and their planes.
#[derive(Debug)]
struct Piece<'a> {
    rows: Range<usize>,
    hi: &'a mut [u8],
    lo: &'a mut [u8],
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.next >= self.count {
            return None;
        }
        // The larger pieces come first.
        let units = self.rows.len().div_ceil(self.grain);
        let cut = |n: usize| self.rows.end.min(self.rows.start + self.grain * (n * units).div_ceil(self.count));
        let rows = cut(self.next)..cut(self.next + 1);
        self.next += 1;
        let bytes = rows.len() * self.row;
        Some(Piece { rows, hi: cut_off(&mut self.hi, bytes), lo: cut_off(&mut self.lo, bytes) })
    }
}

/// The first `bytes` of a plane, if it has any.
fn cut_off<'a>(plane: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let (first, rest) = mem::take(plane).split_at_mut_checked(bytes).unwrap_or_default();
    *plane = rest;
    first
}

/// The next piece. Kernels run without the lock.
fn claim<'a>(pieces: &Mutex<Pieces<'a>>) -> Option<Piece<'a>> {
    pieces.lock().unwrap_or_else(PoisonError::into_inner).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_of_the_rows_in_order() {
        for (rows, count, grain, wide) in [
            (7, 2, 1, true),
            (1, 1, 1, false),
            (14, 3, 1, true),
            (56, 8, 1, false),
            (5, 5, 1, true),
            (14, 2, 4, true),
            (28, 2, 4, false),
            (13, 4, 4, true),
            (3, 1, 4, false),
        ] {
            let mut hi: Vec<u8> = (0..rows * 3).map(|i| i as u8).collect();
            let (mut lo, all) = (if wide { hi.clone() } else { Vec::new() }, hi.clone());
            let parts = Pieces { rows: 0..rows, count, grain, next: 0, row: 3, hi: &mut hi, lo: &mut lo };
            let (mut at, mut sizes) = (0, Vec::new());
            for piece in parts {
                assert_eq!(piece.rows.start, at);
                assert_eq!(*piece.hi, all[3 * at..3 * piece.rows.end]);
                assert_eq!(*piece.lo, all[3 * at..if wide { 3 * piece.rows.end } else { 3 * at }]);
                at = piece.rows.end;
                assert!(at == rows || at.is_multiple_of(grain));
                sizes.push(piece.rows.len());
            }
            assert_eq!((at, sizes.len()), (rows, count));
            let units = |rows: &usize| rows.div_ceil(grain);
            assert!(sizes.iter().map(units).max().unwrap() - sizes.iter().map(units).min().unwrap() <= 1, "{sizes:?}");
        }
    }

    #[test]
    fn small_work_stays_together() {
        let teams: Vec<Team> = (0..=8).map(|n| Team::new(n).expect("threads")).collect();
        for (threads, each, rows, work, count) in [
            (2, 4, 56, LEAST, 1),
            (2, 4, 56, 2 * LEAST, 2),
            (2, 4, 56, 7 * LEAST, 6),
            (2, 4, 56, u64::MAX, 8),
            (2, 1, 7, 100 * LEAST, 2),
            (8, 1, 7, 100 * LEAST, 7),
            (5, 4, 1, 100 * LEAST, 1),
            (3, 4, 9, 0, 1),
            (1, 4, 9, 100 * LEAST, 1),
            (0, 4, 9, 100 * LEAST, 1),
        ] {
            assert_eq!(pieces(&teams[threads], each, rows, work), count, "{threads} threads, {rows} rows");
        }
    }
}
