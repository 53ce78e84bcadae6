//! Training: what a device's model lacks and a GPU is not needed for.

pub mod router;
