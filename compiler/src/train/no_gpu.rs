//! Programs that are not built for GPUs.

use anyhow::{Result, bail};
use candle_core::Device;

/// Whether this program can train on GPUs at all.
pub(super) const BUILT: bool = false;

pub(super) fn open() -> Result<Device> {
    bail!("this program trains on the CPU; build it with --features cuda, which needs NVIDIA's toolkit")
}
