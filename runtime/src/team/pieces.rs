//! What threads share: output rows or channels of convolutions, and output rows of max poolings.
//!
//! Rows of an NHWC tensor are contiguous, so that an output is cut into disjoint slices. Where rows do not come out even, or
//! there are more weights than activations, as in the last layers of a network for large images, channels are cut
//! ([`Cut`]): each thread then reads its part of the weights only. A thread begins with the same part of each
//! layer, which it finds in its own cache; who is done takes what others have not begun.

use super::Team;
use super::cut::{Axis, Cut, pieces};
use crate::kernels::{Backend, ConvCall, MaxPoolCall, Plane};
use core::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that max pooling compares with an instruction, loads and loops included.
const POOL_BYTES: u64 = 16;
/// Most pieces of an operation.
pub(super) const MOST: usize = 256;

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
    let all = if axis == Axis::Rows { &rows } else { &channels };
    let pieces = Pieces::new(all.clone(), count, grain);
    let work = |member: usize, scratch: &mut [u8]| {
        for piece in pieces.claim(member, team.threads()) {
            // SAFETY: no two pieces have the same rows, or the same channels, whose bytes alone kernels touch; and each is
            // claimed once.
            let [out_hi, out_lo] = [&out_hi, &out_lo].map(|plane| unsafe {
                match axis {
                    Axis::Rows => plane.part(piece.start * row..piece.end * row),
                    Axis::Channels => plane.part(0..plane.len()),
                }
            });
            let (rows, channels) = match axis {
                Axis::Rows => (piece, channels.clone()),
                Axis::Channels => (rows.clone(), piece),
            };
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
    let pieces = Pieces::new(rows, count, 1);
    let [out_hi, out_lo] = [out_hi, out_lo].map(Plane::new);
    let work = |member: usize, _: &mut [u8]| {
        for rows in pieces.claim(member, team.threads()) {
            // SAFETY: no two pieces have the same rows, and each is claimed once.
            let [out_hi, out_lo] =
                [&out_hi, &out_lo].map(|plane| unsafe { plane.part(rows.start * row..rows.end * row).into_slice() });
            let mut call = MaxPoolCall { pool, rows, in_hi, in_lo, out_hi, out_lo, flip };
            // SAFETY: promised by the caller.
            unsafe { (backend.max_pool)(&mut call) }
        }
    };
    team.run(0, &work, &mut []);
}

/// Rows or channels cut into pieces, of which each is computed once.
#[derive(Debug)]
struct Pieces {
    all: Range<usize>,
    count: usize,
    /// How many rows or channels stay together.
    grain: usize,
    /// A bit for each piece that has been claimed.
    claimed: [AtomicU64; MOST / 64],
}

impl Pieces {
    /// `count` pieces, at most [`MOST`].
    fn new(all: Range<usize>, count: usize, grain: usize) -> Self {
        Pieces { all, count: count.min(MOST), grain, claimed: Default::default() }
    }

    fn piece(&self, n: usize) -> Range<usize> {
        // The larger pieces come first.
        let units = self.all.len().div_ceil(self.grain);
        let cut = |n: usize| self.all.end.min(self.all.start + self.grain * (n * units).div_ceil(self.count));
        cut(n)..cut(n + 1)
    }

    /// The pieces that thread `member` of so many computes: its own part of them, always the same one, as its cache holds
    /// what it has computed before; then what others have left, those that they would come to last.
    fn claim(&self, member: usize, threads: usize) -> impl Iterator<Item = Range<usize>> {
        let count = self.count;
        let [first, end] = [member, member + 1].map(|m| (m * count).div_ceil(threads).min(count));
        let others = (0..count - (end - first)).map(move |n| (first + count - 1 - n) % count);
        (first..end).chain(others).filter(|&n| self.is_mine(n)).map(|n| self.piece(n))
    }

    /// Claims piece `n`; says whether nobody else has.
    fn is_mine(&self, n: usize) -> bool {
        let bit = 1 << (n % 64);
        // Relaxed: what pieces read was written before the job began, and what they write is looked at when it has ended.
        self.claimed[n / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_everything_in_order() {
        for (rows, count, grain) in
            [(7, 2, 1), (1, 1, 1), (14, 3, 1), (56, 8, 1), (5, 5, 1), (14, 2, 4), (28, 2, 4), (13, 4, 4), (3, 1, 4)]
        {
            let pieces = Pieces::new(10..10 + rows, count, grain);
            let (mut at, mut units) = (10, Vec::new());
            for piece in (0..count).map(|n| pieces.piece(n)) {
                assert_eq!(piece.start, at);
                at = piece.end;
                assert!(at == 10 + rows || (at - 10).is_multiple_of(grain));
                units.push(piece.len().div_ceil(grain));
            }
            assert_eq!(at, 10 + rows);
            assert!(units.iter().max().unwrap() - units.iter().min().unwrap() <= 1, "{units:?}");
        }
    }

    #[test]
    fn each_piece_is_claimed_once_and_by_its_owner_first() {
        let order = |count, member, threads| -> Vec<usize> {
            Pieces::new(0..count, count, 1).claim(member, threads).map(|piece| piece.start).collect()
        };
        assert_eq!(order(8, 0, 2), [0, 1, 2, 3, 7, 6, 5, 4]);
        assert_eq!(order(8, 1, 2), [4, 5, 6, 7, 3, 2, 1, 0]);
        assert_eq!(order(2, 1, 3), [1, 0]);
        assert_eq!(order(2, 2, 3), [1, 0]);
        for (count, threads) in [(8, 2), (2, 5), (7, 3), (1, 4), (256, 300), (200, 7)] {
            let pieces = Pieces::new(0..count, count, 1);
            let mut members: Vec<_> = (0..threads).map(|member| pieces.claim(member, threads)).collect();
            let mut seen = Vec::new();
            while seen.len() < count {
                let some: Vec<_> = members.iter_mut().filter_map(|member| member.next()).collect();
                assert!(!some.is_empty());
                seen.extend(some.into_iter().map(|piece| piece.start));
            }
            seen.sort_unstable();
            assert!(seen.into_iter().eq(0..count), "{count} pieces, {threads} threads");
            assert!(members.iter_mut().all(|member| member.next().is_none()));
        }
    }
}
