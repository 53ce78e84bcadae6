//! Latency on a GPU by its model: what [`GpuModel`] says, applied to an artifact.

use ride_runtime::Model;
use ride_runtime::model::PartId;
use ride_runtime::op::{ConvShape, Op, Source};
use ride_targets::GpuModel;

/// Milliseconds of a sample with 1, 2, ... experts. Every expert ends with an operation of its own, which combines logits and
/// asks the router: a step, whether there is a router or not.
pub(super) fn latency_ms(model: Model<'_>, gpu: &GpuModel, clock_hz: u64) -> Vec<f64> {
    let mut us = gpu.launch_us;
    let mut after = Vec::with_capacity(model.experts());
    for part in model.parts() {
        us += part.steps().map(|step| op_us(model, gpu, clock_hz, &step.op)).sum::<f64>();
        if matches!(part.id, PartId::Expert(_)) {
            us += gpu.step_us;
            after.push(us / 1e3);
        }
    }
    after
}

fn op_us(model: Model<'_>, gpu: &GpuModel, clock_hz: u64, op: &Op) -> f64 {
    let compute = match op {
        Op::Conv(conv) => conv_cycles(gpu, conv.shape) / clock_hz as f64,
        _ => 0.0,
    };
    let memory = bytes(model, op) as f64 / gpu.bandwidth;
    compute.max(memory) * 1e6 + gpu.step_us
}

/// Cycles until the last worker is done.
fn conv_cycles(gpu: &GpuModel, s: ConvShape) -> f64 {
    let workers = u64::from(gpu.multiprocessors) * u64::from(gpu.workers);
    let count = |pixels: u32, channels: u32| {
        let (all, group) = ((s.out_h() * s.out_w()) as u64, s.group_out() as u64);
        all.div_ceil(u64::from(pixels)) * group.div_ceil(u64::from(channels)) * u64::from(s.groups)
    };
    // The largest tile of which every worker has one, else the smallest.
    let fits = gpu.tiles.iter().rev().find(|tile| count(tile.pixels, tile.channels) >= workers);
    let Some(tile) = fits.or(gpu.tiles.first()) else { return 0.0 };
    let rounds = count(tile.pixels, tile.channels).div_ceil(workers);
    let depth = (s.taps() as u64).next_multiple_of(u64::from(tile.depth));
    (rounds * u64::from(tile.pixels) * u64::from(tile.channels) * depth) as f64 / tile.macs_per_cycle
}

/// Bytes of weights, of what is read, and of what is written.
fn bytes(model: Model<'_>, op: &Op) -> usize {
    let weights = match op {
        Op::Conv(c) => c.shape.taps() * usize::from(c.shape.out_c),
        Op::Head(h) => usize::from(h.dense.features) * usize::from(h.dense.outputs),
        _ => 0,
    };
    let image = match op {
        Op::Load(_) => model.input_len(),
        Op::Conv(c) if c.source == Source::Image => model.input_len(),
        _ => 0,
    };
    let planes = op.reads().into_iter().chain(op.writes()).flatten().map(|(_, len)| len);
    weights + image + planes.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv(side: u16, channels: u16) -> ConvShape {
        let (kernel, stride, padding, groups) = (3, 1, 1, 1);
        ConvShape { in_h: side, in_w: side, in_c: channels, out_c: channels, kernel, stride, padding, groups }
    }

    /// Worked by hand for the Orin's figures: 64 workers; tiles of 16 x 8 x 32 and of 32 x 32 x 32.
    #[test]
    fn layers_are_cut_into_tiles() {
        let target = ride_targets::find("jetson-orin").unwrap();
        let gpu = target.gpu().unwrap();
        // 64 x 2 small tiles, two a worker; 9 * 16 values are 160 with padding.
        assert_eq!(conv_cycles(gpu, conv(32, 16)), 2.0 * (16 * 8 * 160) as f64 / 40.0);
        // 4 x 6 small tiles: most workers have none.
        assert_eq!(conv_cycles(gpu, conv(8, 48)), (16 * 8 * 448) as f64 / 40.0);
        // 98 x 2 large ones: four rounds.
        assert_eq!(conv_cycles(gpu, conv(56, 64)), 4.0 * (32 * 32 * 576) as f64 / 128.0);
        // Tiles do not cross groups, and there are enough large ones then: 32 x 16, mostly empty.
        let grouped = ConvShape { groups: 16, ..conv(32, 16) };
        assert_eq!(conv_cycles(gpu, grouped), 8.0 * (32 * 32 * 32) as f64 / 128.0);
    }
}
