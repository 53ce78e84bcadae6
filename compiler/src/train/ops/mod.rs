//! The operations of networks in training.
//!
//! [`plain`] composes candle's own, with gradients from `tape`. The others are made for CPUs, where candle's convolutions leave most of the machine
//! unused and its tape keeps every gradient twice: they work on one image at a time, NHWC, while it is in the cache, and
//! [`super::engine`] runs them.

pub(super) mod conv;
mod gather;
pub(super) mod norm;
pub(super) mod plain;
pub(super) mod plane;
pub(super) mod pool;
pub(super) mod quant;
pub(super) mod simd;
mod tape;
mod weight;
