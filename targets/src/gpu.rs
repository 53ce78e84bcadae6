//! The latency model of a GPU.

use anyhow::{Result, ensure};
use serde::Deserialize;

/// What an inference takes on a GPU, by figures of its data sheet and by assumption: a model, not a measurement.
///
/// The executor runs one operation after the other in a single launch, and all blocks meet behind each:
///
/// ```text
/// t            = launch + Σ over operations (max(compute, memory) + step)
/// compute      = rounds × MACs of a tile / (MACs of a worker a cycle × clock)
/// rounds       = ⌈tiles of the layer / (multiprocessors × workers)⌉
/// memory       = (weights + what is read + what is written) / bandwidth
/// ```
///
/// That is the roofline model (Williams, Waterman and Patterson 2009), with two things that small layers are ruled by: work
/// comes in whole tiles, and a barrier costs as much however little lies before it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuModel {
    /// Multiprocessors, each with one block.
    pub multiprocessors: u32,
    /// Clock of the multiprocessors in Hz.
    pub clock_hz: u64,
    /// Warps or threads of a block, whichever compute a tile each.
    pub workers: u32,
    /// Tiles that the device code has, smallest first. A larger one is taken where there are enough for all workers.
    pub tiles: Vec<Tile>,
    /// Bytes of memory a second.
    pub bandwidth: f64,
    /// Microseconds of an inference besides its operations: launch, and waiting for the answer.
    pub launch_us: f64,
    /// Microseconds of an operation besides its work: the barrier of all blocks, and fetching what comes next.
    pub step_us: f64,
    /// Which module it is, where the figures come from, what was assumed.
    pub source: String,
}

/// What a worker computes at once.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tile {
    /// Pixels of the output.
    pub pixels: u32,
    /// Channels of the output, of one group.
    pub channels: u32,
    /// Values of a window, to a multiple of which it is padded.
    pub depth: u32,
    /// Multiply-accumulates of a worker a cycle while all workers of the multiprocessor are busy.
    pub macs_per_cycle: f64,
}

impl GpuModel {
    pub(crate) fn check(&self) -> Result<()> {
        let positive = |name: &str, value: f64| {
            ensure!(value.is_finite() && value > 0.0, "gpu.{name} must be a positive number");
            Ok(())
        };
        ensure!((1..=1024).contains(&self.multiprocessors), "gpu.multiprocessors must be 1 to 1024");
        ensure!((1..=1024).contains(&self.workers), "gpu.workers must be 1 to 1024");
        ensure!((1..=1_000_000_000_000).contains(&self.clock_hz), "gpu.clock_hz is out of range");
        ensure!(!self.tiles.is_empty(), "gpu.tiles must name a tile");
        for tile in &self.tiles {
            let sizes = [tile.pixels, tile.channels, tile.depth];
            ensure!(sizes.iter().all(|n| (1..=4096).contains(n)), "gpu.tiles: sizes must be 1 to 4096");
            positive("tiles.macs_per_cycle", tile.macs_per_cycle)?;
        }
        positive("bandwidth", self.bandwidth)?;
        for (name, us) in [("launch_us", self.launch_us), ("step_us", self.step_us)] {
            ensure!((0.0..1e6).contains(&us), "gpu.{name} must be 0 or more, and less than a second");
        }
        ensure!(!self.source.trim().is_empty(), "gpu.source must say where the figures come from");
        Ok(())
    }
}
