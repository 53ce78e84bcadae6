//! Reading trained checkpoints: named `f32` tensors and the training configuration.
//!
//! Three containers are read: PyTorch's zip archive (`torch.save` since 1.6), the older stream of pickles followed by
//! the storages, and `.safetensors`. Pickles go through [`ride_calibrate::pickle`], which executes nothing. Only the
//! tensors of the model are loaded; the optimizer's state stays in the file.
//!
//! Files may be hostile: every size is checked against the file's length, and what is loaded altogether is limited to
//! 64 MB and 16 times that length.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

mod budget;
mod config;
mod legacy;
mod locate;
mod names;
pub mod safetensors;
mod state;
mod storage;
mod zip;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use names::Names;

/// Largest `config.json` that is read, in bytes; the official ones have about 2 KB.
const MAX_CONFIG: u64 = 16 << 20;

/// One named tensor of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    /// Length of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// Elements in row-major order; as many as the product of `shape`, all finite.
    pub data: Vec<f32>,
}

/// Where a checkpoint came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The file with the weights; empty for [`from_bytes`].
    pub weights: PathBuf,
    /// The `config.json`, or `None` if the configuration pickled in the checkpoint was used.
    pub config: Option<PathBuf>,
}

/// A trained model as its trainer saved it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// The training configuration: `arch`, `data_loader` and so on; null if there is none and
    /// none is needed.
    pub config: Value,
    /// The model's tensors by name, without the prefixes `module.` and `backbone.`, whatever type they were stored in.
    pub tensors: BTreeMap<String, Tensor>,
    /// The files that were read.
    pub source: Source,
    /// What a user may want to know about how the checkpoint was read, one sentence each.
    pub notes: Vec<String>,
}

/// What a weights file holds.
struct Contents {
    /// By the names in the file.
    tensors: BTreeMap<String, Tensor>,
    /// The configuration pickled in the checkpoint, if it was asked for and is there.
    config: Option<Value>,
    notes: Vec<String>,
}

/// Loads a checkpoint.
///
/// `path` is a `.pth` or `.safetensors` file with `config.json` beside it, or a folder holding both. Of several `.pth`
/// files in a folder, `checkpoint.pth` is taken, else `model_best.pth`, else the last by name, numbers counted.
///
/// # Errors
/// Names the file or tensor and what was expected: no such file, no configuration, an unknown or damaged format, an
/// unsupported element type, NaN or infinite weights, shapes beyond the file's size.
pub fn load(path: &Path) -> Result<Checkpoint> {
    load_with(path, Embedded::Ignore)
}

/// What is done with the configuration that the official trainer pickles into its checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Embedded {
    /// `config.json` must be there.
    Ignore,
    /// It stands in for a missing `config.json`; a note says so.
    Accept,
    /// Without a `config.json` there is no configuration: all that is needed is known otherwise.
    Optional,
    /// It stands in for a missing `config.json` if it is there, and may be missing as well.
    AcceptOptional,
}

impl Embedded {
    fn accepts(self) -> bool {
        matches!(self, Embedded::Accept | Embedded::AcceptOptional)
    }

    fn optional(self) -> bool {
        matches!(self, Embedded::Optional | Embedded::AcceptOptional)
    }

    /// The same choice where a configuration is not needed.
    #[must_use]
    pub fn or_none(self) -> Self {
        if self.accepts() { Embedded::AcceptOptional } else { Embedded::Optional }
    }
}

/// As [`load`], with a choice of what may stand in for `config.json`.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, embedded: Embedded) -> Result<Checkpoint> {
    load_named(path, embedded, &Names::default())
}

/// As [`load_with`], with rules for the names of tensors.
///
/// # Errors
/// As [`load`], and if two tensors get the same name.
pub fn load_named(path: &Path, embedded: Embedded, names: &Names) -> Result<Checkpoint> {
    let located = locate::locate(path)?;
    let weights = &located.weights;
    ensure!(
        located.config.is_some() || embedded != Embedded::Ignore,
        "there is no {}: put the config.json that the trainer wrote beside the checkpoint, pass --embedded-config to \
         take the configuration that is pickled in it, or describe the model in the table [model] of a ride.toml",
        located.expected_config.display()
    );
    let config = match &located.config {
        Some(file) => Some(read_config(file)?),
        None => None,
    };
    let file = File::open(weights).with_context(|| format!("cannot open the checkpoint {}", weights.display()))?;
    let contents = read(BufReader::new(file), config.is_none() && embedded.accepts());
    let contents = contents.with_context(|| format!("cannot read the checkpoint {}", weights.display()))?;
    let (tensors, unused) =
        names.apply(contents.tensors).with_context(|| format!("cannot use the checkpoint {}", weights.display()))?;
    let mut notes = located.notes;
    notes.extend(contents.notes);
    notes.extend(unused);
    let config = match (config, contents.config) {
        (Some(config), _) => config,
        (None, Some(config)) => {
            notes.push(format!(
                "there is no {}: the configuration pickled in the checkpoint is used",
                located.expected_config.display()
            ));
            config
        }
        (None, None) if embedded.optional() => Value::Null,
        (None, None) => bail!(
            "there is no {}, and {} holds no configuration of its own; put the config.json that the trainer wrote \
             beside the checkpoint",
            located.expected_config.display(),
            weights.display()
        ),
    };
    let source = Source { weights: located.weights, config: located.config };
    Ok(Checkpoint { config, tensors, source, notes })
}

/// Reads a checkpoint from memory: the bytes of a weights file and those of its `config.json`, if there is one.
///
/// # Errors
/// As [`load`].
pub fn from_bytes(weights: &[u8], config: Option<&[u8]>) -> Result<Checkpoint> {
    let config = config.map(parse_config).transpose().context("config.json is not valid")?;
    let contents = read(Cursor::new(weights), config.is_none())?;
    let config = config.or(contents.config).context("there is no config.json, and the checkpoint holds none")?;
    let (tensors, _) = Names::default().apply(contents.tensors)?;
    Ok(Checkpoint { config, tensors, source: Source::default(), notes: contents.notes })
}

/// Reads the tensors of a safetensors file in memory, by the names in it.
///
/// # Errors
/// As [`load`].
pub fn tensors_from_bytes(file: &[u8]) -> Result<BTreeMap<String, Tensor>> {
    Ok(safetensors::read(Cursor::new(file), file.len() as u64)?.tensors)
}

/// Reads a weights file of any known format.
fn read<R: Read + Seek>(mut reader: R, want_config: bool) -> Result<Contents> {
    let length = reader.seek(SeekFrom::End(0))?;
    reader.rewind()?;
    let mut start = Vec::new();
    reader.by_ref().take(16).read_to_end(&mut start)?;
    reader.rewind()?;
    ensure!(length > 0, "the file is empty");
    match start.as_slice() {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => zip::read(reader, length, want_config),
        [0x80, 0..=5, ..] => legacy::read(reader, length, want_config),
        [_, _, _, _, _, _, _, _, b'{', ..] => safetensors::read(reader, length),
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', ..] => {
            bail!("this is a git-lfs pointer, not the checkpoint itself; fetch the file with `git lfs pull`")
        }
        _ => bail!(
            "this is no checkpoint: expected a PyTorch file (a zip archive or a pickle) or safetensors, but it starts \
             with \"{}\"",
            start.escape_ascii()
        ),
    }
}

fn read_config(path: &Path) -> Result<Value> {
    let what = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(what)?;
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG + 1).read_to_end(&mut bytes).with_context(what)?;
    parse_config(&bytes).with_context(|| format!("{} is not valid", path.display()))
}

fn parse_config(bytes: &[u8]) -> Result<Value> {
    ensure!(bytes.len() as u64 <= MAX_CONFIG, "it is larger than {} MB", MAX_CONFIG >> 20);
    let config: Value = serde_json::from_slice(bytes)?;
    ensure!(config.is_object(), "expected a JSON object with the key \"arch\"");
    Ok(config)
}
