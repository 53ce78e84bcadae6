//! Training: the networks of the family with gradients, their losses and parameters.
//!
//! Everything here works on candle's tensors, which stay inside this folder. Images are `[N, H, W, 3]`, `f32`,
//! normalised.

pub mod augment;
pub mod batches;
pub mod loss;
pub mod net;
pub mod optimizer;
pub mod params;
pub mod plan;
pub mod router;
pub mod sampler;
pub mod schedule;

mod ops;

#[cfg(test)]
mod tests;
