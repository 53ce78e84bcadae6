//! Compiles trained RIDE checkpoints into routed int8 artifacts.

pub mod network;
