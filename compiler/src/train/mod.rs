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
pub mod place;
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
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(not(feature = "cuda"))]
#[path = "no_gpu.rs"]
mod gpu;
mod ops;
mod probe;

#[cfg(test)]
mod tests;
