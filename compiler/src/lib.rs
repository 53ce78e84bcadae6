//! Compiles trained RIDE checkpoints into routed int8 artifacts.

pub mod artifact_file;
pub mod bench;
pub mod budget;
pub mod calibration;
pub mod checkpoint;
pub mod description;
pub mod device;
pub mod emit;
pub mod import;
pub mod inspect;
pub mod lower;
pub mod memory;
pub mod network;
pub mod onnx;
pub mod reference;
pub mod refine;
pub mod rules;
pub mod source;
pub mod thresholds;
#[cfg(feature = "train")]
pub mod train;
pub mod verify;
