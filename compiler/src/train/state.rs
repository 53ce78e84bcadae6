//! A training as a file: everything that is needed to go on exactly where it was.
//!
//! The file holds parameters, running statistics and velocities as safetensors, and settings and progress as JSON in the
//! header. It is written beside its final name and renamed, so it is always a whole one. Random numbers need no state:
//! each depends on the seed and its place only (see [`super::batches`]).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ride_calibrate::atomic_file;
use serde::{Deserialize, Serialize};

use super::batches::Position;
use super::settings::Settings;
use crate::checkpoint::{self, Tensor, safetensors};

/// Version of the file's layout.
const FORMAT: u32 = 1;
/// Before the names of parameters and running statistics.
const MODEL: &str = "model.";
/// Before the names of parameters whose velocity it is.
const VELOCITY: &str = "velocity.";

/// How far a training is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The next batch.
    pub position: Position,
    /// Time that was spent on batches.
    pub seconds: f64,
    /// Examples that were seen.
    pub images: u64,
    /// Sum of the losses of this epoch's batches so far.
    pub loss: f64,
}

/// A training that can go on.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// What it was started with.
    pub settings: Settings,
    /// How far it is.
    pub progress: Progress,
    /// Parameters and running statistics by their official names.
    pub model: BTreeMap<String, Tensor>,
    /// The optimizer's velocities by the names of their parameters.
    pub velocity: BTreeMap<String, Tensor>,
}

/// The JSON in the header.
#[derive(Serialize, Deserialize)]
struct Header<S, P> {
    format: u32,
    settings: S,
    progress: P,
}

impl State {
    /// Writes the state; an existing file stays as it is unless all goes well.
    ///
    /// # Errors
    /// Names the file, or the first tensor that is not finite: such a state is of no use.
    pub fn write(&self, path: &Path) -> Result<()> {
        for (name, tensor) in self.model.iter().chain(&self.velocity) {
            ensure!(tensor.data.iter().all(|value| value.is_finite()), "{name} is no longer finite");
        }
        let header = Header { format: FORMAT, settings: &self.settings, progress: &self.progress };
        let note = serde_json::to_string(&header)?;
        let prefixed = |prefix: &'static str, tensors: &BTreeMap<String, Tensor>| {
            let tensors = tensors.iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor.clone()));
            tensors.collect::<Vec<_>>()
        };
        let all = prefixed(MODEL, &self.model).into_iter().chain(prefixed(VELOCITY, &self.velocity)).collect();
        atomic_file::write(path, &safetensors::encode(&all, Some(&note))?)
    }

    /// Reads what [`State::write`] wrote.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read the training's state {}", path.display()))?;
        Self::decode(&bytes).with_context(|| format!("{} is no state of a training", path.display()))
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let note = safetensors::note(bytes)?.context("its header says nothing about a training")?;
        let header: Header<serde_json::Value, serde_json::Value> = serde_json::from_str(&note)?;
        ensure!(
            header.format == FORMAT,
            "it has the format {}, this program reads {FORMAT}; go on with the program that wrote it",
            header.format
        );
        let mut state = Self {
            settings: serde_json::from_value(header.settings).context("its settings")?,
            progress: serde_json::from_value(header.progress).context("its progress")?,
            model: BTreeMap::new(),
            velocity: BTreeMap::new(),
        };
        for (name, tensor) in checkpoint::tensors_from_bytes(bytes)? {
            if let Some(name) = name.strip_prefix(MODEL) {
                state.model.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix(VELOCITY) {
                state.velocity.insert(name.to_owned(), tensor);
            }
        }
        Ok(state)
    }
}
