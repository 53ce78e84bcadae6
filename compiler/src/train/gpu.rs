//! The first CUDA GPU, in programs that are built for it.

use anyhow::{Context, Result};
use candle_core::Device;

/// Whether this program can train on GPUs at all.
pub(super) const BUILT: bool = true;

pub(super) fn open() -> Result<Device> {
    // Asked first, because its errors say what is missing: a GPU, or a newer driver.
    ride_cuda::Device::open(0)?;
    Device::new_cuda(0).context("the GPU cannot be used")
}
