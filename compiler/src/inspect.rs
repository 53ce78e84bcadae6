//! What is in a checkpoint or an artifact, as data that can be shown or serialised.

mod artifact;
mod checkpoint;
mod expected;
mod rules;

use serde::Serialize;

pub use artifact::{
    ArtifactReport, Cost, KernelReport, OpReport, PartReport, Region, RouterReport, SectionReport, groups, slow_paths,
};
pub use checkpoint::{CheckpointReport, FloatOp, FloatPart, FloatRouter};
pub use rules::{combiner, rules, rules_text};

/// Input and preprocessing.
#[derive(Clone, Debug, Serialize)]
pub struct InputReport {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// Mean of each channel in units of 0..=1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel in units of 0..=1.
    pub std: Vec<f32>,
    /// Shorter side that images are resized to before the centre crop.
    pub resize: Option<usize>,
}
