//! A trained model in any of the forms that are taken: a checkpoint of the official code, or ONNX.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::checkpoint::{self, Checkpoint, Embedded, Names};
use crate::description::{Description, ModelTable};
use crate::import::{self, ImportOptions, Imported};
use crate::onnx::{self, OnnxModel};

/// A model as it was read, not yet imported.
#[derive(Clone, Debug)]
pub struct Source {
    model: Model,
    /// `ride.toml` beside it.
    description: Option<(PathBuf, Description)>,
}

#[derive(Clone, Debug)]
enum Model {
    Checkpoint(Box<Checkpoint>),
    Onnx(Box<OnnxModel>),
}

/// Reads a checkpoint as its description says.
fn load_checkpoint(
    path: &Path,
    embedded: Embedded,
    description: Option<&(PathBuf, Description)>,
) -> Result<Checkpoint> {
    let Some((file, description)) = description else { return checkpoint::load_with(path, embedded) };
    let table = &description.model;
    let names = Names::new(&table.rename, &table.ignore).with_context(|| file.display().to_string())?;
    let embedded = if table.has_arch() { embedded.or_none() } else { embedded };
    checkpoint::load_named(path, embedded, &names).with_context(|| format!("following {}", file.display()))
}

impl Source {
    /// Reads the model in a file or folder; `embedded` says what may stand in for a missing `config.json`.
    ///
    /// # Errors
    /// Names the file and what is wrong with it; see [`checkpoint::load`] and [`OnnxModel::load`].
    pub fn open(path: &Path, embedded: Embedded) -> Result<Self> {
        let description = Description::beside(path)?;
        let model = if onnx::is_onnx(path) {
            if let Some((file, description)) = &description {
                let unused = description.model == ModelTable::default();
                ensure!(unused, "{}: [model] is for checkpoints, and {} is ONNX", file.display(), path.display());
            }
            Model::Onnx(Box::new(OnnxModel::load(path)?))
        } else {
            Model::Checkpoint(Box::new(load_checkpoint(path, embedded, description.as_ref())?))
        };
        Ok(Self { model, description })
    }

    /// Builds the network; `ride.toml` fills in what the options leave open.
    ///
    /// # Errors
    /// Names the model and the tensor, key or node that stands in the way.
    pub fn import(&self, options: &ImportOptions) -> Result<Imported> {
        let options = self.options(options);
        let imported = match &self.model {
            Model::Checkpoint(checkpoint) => import::network(checkpoint, &options),
            Model::Onnx(model) => onnx::import(model, &options),
        };
        imported.with_context(|| {
            let weights = self.weights().display();
            match &self.description {
                Some((path, _)) => format!("cannot import the model {weights} as {} describes it", path.display()),
                None => format!("cannot import the model {weights}"),
            }
        })
    }

    /// The options, completed by `ride.toml`.
    pub fn options(&self, options: &ImportOptions) -> ImportOptions {
        self.description
            .as_ref()
            .map_or_else(|| options.clone(), |(path, description)| description.complete(path, options))
    }

    /// Whether images' normalisation can only be known from options or `ride.toml`.
    pub fn needs_normalisation(&self) -> bool {
        matches!(self.model, Model::Onnx(_))
    }

    /// `checkpoint` or `onnx`.
    pub fn kind(&self) -> &'static str {
        match &self.model {
            Model::Checkpoint(_) => "checkpoint",
            Model::Onnx(_) => "onnx",
        }
    }

    /// The checkpoint as it was read and what `ride.toml` says about it; `None` for ONNX.
    pub fn checkpoint(&self) -> Option<(&Checkpoint, ModelTable)> {
        let table = self.description.as_ref().map(|(_, description)| description.model.clone());
        match &self.model {
            Model::Checkpoint(checkpoint) => Some((checkpoint, table.unwrap_or_default())),
            Model::Onnx(_) => None,
        }
    }

    /// The file with the weights, or the folder of a split model.
    pub fn weights(&self) -> &Path {
        match &self.model {
            Model::Checkpoint(checkpoint) => &checkpoint.source.weights,
            Model::Onnx(model) => &model.path,
        }
    }

    /// The file with the configuration.
    pub fn config(&self) -> Option<&Path> {
        match &self.model {
            Model::Checkpoint(checkpoint) => checkpoint.source.config.as_deref(),
            Model::Onnx(_) => self.description.as_ref().map(|(path, _)| path.as_path()),
        }
    }

    /// What is worth knowing about how it was read, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = match &self.model {
            Model::Checkpoint(checkpoint) => checkpoint.notes.clone(),
            Model::Onnx(model) => vec![format!("written by {}", model.producer())],
        };
        notes.extend(self.description.iter().map(|(path, _)| format!("{} is followed", path.display())));
        notes
    }
}
