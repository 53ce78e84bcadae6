//! Cutting a convolution into what threads compute of it: some rows, or some channels.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::case::Case;
use super::random::Random;
use ride_runtime::kernels::Backend;

/// Rows and channels that are computed at a time.
pub(super) type Piece = [Range<usize>; 2];

impl Case {
    /// What to compute at a time: everything; for a kernel that splits, also some rows at a time, and some channels.
    pub(super) fn pieces(&self, backend: &Backend, r: &mut Random) -> Vec<Vec<Piece>> {
        let (shape, step) = (&self.conv.shape, backend.conv.channel_step);
        let (rows, channels) = (shape.out_h(), usize::from(shape.out_c));
        let by_rows = cuts(rows, backend.conv.splits, r);
        let mut all: Vec<Vec<_>> =
            by_rows.iter().map(|cuts| between(cuts).map(|rows| [rows, 0..channels]).collect()).collect();
        if step > 0 && shape.groups == 1 && channels > step {
            let at = |n: &usize| channels.min(n * step);
            let by_channels: Vec<usize> =
                cuts(channels.div_ceil(step), true, r).last().expect("cuts").iter().map(at).collect();
            all.push(between(&by_channels).map(|channels| [0..rows, channels]).collect());
        }
        all
    }
}

/// The ranges between cuts.
pub(super) fn between(cuts: &[usize]) -> impl Iterator<Item = Range<usize>> {
    cuts.windows(2).map(|c| c[0]..c[1])
}

/// Where to cut `rows` rows: nowhere, and for a kernel that splits, in up to three places as well.
pub(super) fn cuts(rows: usize, splits: bool, r: &mut Random) -> Vec<Vec<usize>> {
    let mut all = vec![vec![0, rows]];
    if splits && rows > 1 {
        let mut some: Vec<usize> = [0, rows].into_iter().chain((0..3).map(|_| 1 + r.below(rows - 1))).collect();
        some.sort_unstable();
        some.dedup();
        all.push(some);
    }
    all
}
