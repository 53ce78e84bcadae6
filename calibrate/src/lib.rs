//! Data sets, observers, ranges and long-tail metrics.

pub mod atomic_file;
pub mod data;
pub mod groups;
pub mod metrics;
pub mod observer;
pub mod pickle;
pub mod preprocess;
pub mod raster;
mod resample;
pub mod sampling;
pub mod table;
