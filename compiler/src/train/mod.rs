//! Training: the networks of the family with gradients, their losses and parameters.
//!
//! Everything here works on candle's tensors, which stay inside this folder. Images are `[N, H, W, 3]`, `f32`,
//! normalised.

pub mod augment;
pub mod batches;
pub mod evaluate;
pub mod folder;
pub mod loss;
pub mod net;
pub mod optimizer;
pub mod params;
pub mod plan;
pub mod qat;
pub mod router;
pub mod sampler;
pub mod schedule;
pub mod settings;
pub mod state;
pub mod student;
pub mod teacher;
pub mod trainer;

mod engine;
mod ops;

use anyhow::{Context, Result};
use candle_core::Device;

/// Where networks are trained: the first CUDA GPU if the program was built for them and there is one, else here.
///
/// # Errors
/// If the GPU cannot be used.
pub fn device() -> Result<Device> {
    Device::cuda_if_available(0).context("the GPU cannot be used")
}

#[cfg(test)]
mod tests;
