//! How a convolution is cut for the threads of a team.

use super::Team;
use super::pieces::MOST;
use crate::kernels::k8n16::winograd;
use crate::kernels::path::Path;
use crate::kernels::{Backend, ConvCall};
use crate::op::ConvShape;

/// Vector instructions that a piece has at least: some 2.5 microseconds, several times what the hand-over costs (`cargo run
/// --release -p ride-runtime --features std --example threads` shows it).
pub(super) const LEAST: u64 = 8192;
/// Bytes of weights that may be read again for each of several pieces a thread: they stay in the second cache. Otherwise each
/// thread gets one piece.
const LIGHT: usize = 128 << 10;
/// Bytes that a thread reads, of weights or of activations, in the time of a vector instruction.
const READ: u64 = 16;
/// Bytes that it transforms for Winograd's algorithm in that time.
const TRANSFORMED: u64 = 4;
/// Bytes that it gets from the caches of other threads in that time. Threads that have the same rows of every layer exchange
/// the rows at the edges only; one that has some of the channels needs what others have made of the rest before, and others
/// need what it makes.
const EXCHANGED: u64 = 1;

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// Output rows: every thread reads all weights.
    Rows,
    /// Output channels: every thread reads all activations.
    Channels,
}

/// How a convolution is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) axis: Axis,
    /// Number of pieces, 2 or more.
    pub(super) count: usize,
    /// Rows or channels that stay together: those of a tile.
    pub(super) grain: usize,
}

impl Cut {
    /// The better way for a team; `None` where sharing does not pay.
    pub(super) fn of(team: &Team, backend: &Backend, call: &ConvCall<'_>) -> Option<Self> {
        let shape = &call.conv.shape;
        let tiled = Path::of_conv(backend.isa, call.conv) == Path::Winograd;
        let plan = winograd::Plan::new(shape).filter(|_| tiled);
        let direct = || shape.macs() / u64::from(backend.isa.macs_per_instruction());
        let layer = Layer {
            threads: team.threads(),
            work: plan.map_or_else(direct, |plan| plan.cycles(shape)),
            shape,
            weights: call.weights.len(),
            inputs: call.input.len(),
            tiled,
        };
        let rows = backend.conv.splits.then(|| layer.rows(team));
        let channels = (shape.groups == 1).then(|| layer.channels(team, backend.conv.channel_step)).flatten();
        let cuts = [rows, channels].into_iter().flatten();
        cuts.filter(|cut| cut.count > 1).min_by_key(|cut| layer.time(cut))
    }
}

/// What the decision depends on.
struct Layer<'a> {
    threads: usize,
    /// Vector instructions.
    work: u64,
    shape: &'a ConvShape,
    /// Bytes of them.
    weights: usize,
    inputs: usize,
    /// Whether Winograd's algorithm computes it.
    tiled: bool,
}

impl Layer<'_> {
    fn rows(&self, team: &Team) -> Cut {
        let grain = if self.tiled { winograd::SIDE } else { 1 };
        // Each piece would transform the weights once more.
        let each = if self.weights <= LIGHT && !self.tiled { 4 } else { 1 };
        let count = pieces(team, each, self.shape.out_h().div_ceil(grain), self.work);
        Cut { axis: Axis::Rows, count, grain }
    }

    /// `step` channels are a tile's, or none may be cut.
    fn channels(&self, team: &Team, step: usize) -> Option<Cut> {
        let channels = usize::from(self.shape.out_c);
        // Those of 1x1 convolutions store whole cache lines where blocks come in fours.
        let lines = self.shape.kernel == 1 && channels.is_multiple_of(4 * step);
        let grain = if lines { 4 * step } else { step };
        let count = pieces(team, 1, channels.div_ceil(grain.max(1)), self.work);
        (step > 0).then_some(Cut { axis: Axis::Channels, count, grain })
    }

    /// Vector instructions, or as much time, that the thread needs which has the most to do.
    fn time(&self, cut: &Cut) -> u64 {
        let foreign = (self.inputs + self.shape.output_len()) / self.threads * (self.threads - 1);
        let (all, shared, exchanged) = match cut.axis {
            Axis::Rows => (self.shape.out_h(), self.weights, 0),
            Axis::Channels => (usize::from(self.shape.out_c), self.inputs, foreign),
        };
        let largest = all.min(cut.grain * all.div_ceil(cut.grain).div_ceil(cut.count));
        let pieces = cut.count.div_ceil(self.threads);
        let bytes = if self.tiled { TRANSFORMED } else { READ };
        let own = self.work * (pieces * largest).min(all) as u64 / all.max(1) as u64;
        own + shared as u64 / bytes + exchanged as u64 / EXCHANGED
    }
}

/// Number of pieces for a team, at most `each` for every thread; 1 where sharing does not pay. `work` is a number
/// of vector instructions.
pub(super) fn pieces(team: &Team, each: usize, units: usize, work: u64) -> usize {
    let threads = team.threads();
    if threads == 1 {
        return 1;
    }
    let affordable = usize::try_from(work / team.least).unwrap_or(usize::MAX);
    let count = affordable.min(units).min(each * threads).min(MOST);
    // The same number for everybody.
    if count > threads { count / threads * threads } else { count.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn layer(shape: &ConvShape, tiled: bool) -> Layer<'_> {
        let plan = winograd::Plan::new(shape).filter(|_| tiled);
        let work = plan.map_or(shape.macs() / 64, |plan| plan.cycles(shape));
        let weights = usize::from(shape.out_c) * shape.taps();
        Layer { threads: 2, work, shape, weights, inputs: shape.input_len(), tiled }
    }

    #[test]
    fn the_smaller_largest_piece_wins() {
        let team = Team::new(2).expect("threads");
        let axis = |side: u16, in_c, out_c, (kernel, stride): (u8, u8), tiled| {
            let (in_h, padding) = (side * u16::from(stride), kernel / 2);
            let shape = ConvShape { in_h, in_w: in_h, in_c, out_c, kernel, stride, padding, groups: 1 };
            let layer = layer(&shape, tiled);
            let (rows, channels) = (layer.rows(&team), layer.channels(&team, 16).expect("channels may be cut"));
            assert_eq!(layer.channels(&team, 0), None);
            if channels.count > 1 && layer.time(&channels) < layer.time(&rows) { Axis::Channels } else { Axis::Rows }
        };
        // Seven rows are four and three; and there are more weights than activations.
        assert_eq!(axis(7, 384, 384, (3, 1), false), Axis::Channels);
        assert_eq!(axis(7, 384, 1536, (1, 1), false), Axis::Channels);
        // Four rows of tiles, the last one of two pixels.
        assert_eq!(axis(14, 192, 192, (3, 1), true), Axis::Channels);
        assert_eq!(axis(56, 64, 64, (3, 1), true), Axis::Rows);
        // Seven rows of tiles, but too many activations.
        assert_eq!(axis(28, 128, 128, (3, 1), true), Axis::Rows);
        // 192 channels are three cache lines.
        assert_eq!(axis(14, 768, 192, (1, 1), false), Axis::Rows);
        assert_eq!(axis(28, 512, 192, (1, 1), false), Axis::Rows);
        assert_eq!(axis(8, 48, 48, (3, 1), false), Axis::Rows);
    }
}
