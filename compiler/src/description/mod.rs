//! `ride.toml`: what a model's own files do not say, written down beside them.
//!
//! ```toml
//! [preprocess]
//! mean = [0.485, 0.456, 0.406]   # of each channel, in units of 0..1
//! std = [0.229, 0.224, 0.225]
//! size = [224, 224]              # rows and columns of the network's input
//! resize = 256                   # shorter side of an image before the crop
//!
//! [onnx]
//! experts = 3                    # how many a graph must have
//!
//! [combiner]
//! kind = "weighted"              # or "mean", "sum"
//! weights = [0.2, 0.3, 0.5]      # one for each expert; only the ratios matter
//!
//! [router]
//! criterion = "max-probability"  # or "margin", "entropy", "assignment" (the trained ones), "none"
//! threshold = 0.8                # one for all routers, or one for each
//!
//! [logit_adjustment]
//! tau = 1.0                      # one for all experts, or one for each
//! counts = "class_counts.txt"    # or [500, 480, ...]; else --class-counts, or what is known of the training data
//!
//! [model]                        # checkpoints only
//! arch = "ResNet32Model"
//! args = { num_classes = 100, num_experts = 3 }
//! separate = true                # the experts share no layer
//! classifier = { kind = "cosine", scale = 16 }
//! rename = [{ from = "backbone.{expert}.{module}", to = "{module}s.{expert}" }]
//! ignore = ["MOCO"]
//! ```
//!
//! Every table may be left out. Options of the command line win over it, and it wins over `config.json`. What the tables
//! mean is said in [`crate::rules`] (combiner, router, adjustment), [`ModelTable`] and [`crate::checkpoint::Names`];
//! `examples/descriptions` has one file for each relative of RIDE that is known.

mod model;
mod rules;

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::import::ImportOptions;

pub use model::{ClassifierKind, ClassifierTable, ModelTable, RenameTable};
pub use rules::{AdjustmentTable, CombinerKind, CombinerTable, Counts, RouterKind, RouterTable, Rules, Values};

/// Its name.
pub const FILE: &str = "ride.toml";
/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// How images become the network's input.
    #[serde(default)]
    pub preprocess: PreprocessTable,
    /// What an ONNX graph is expected to hold.
    #[serde(default)]
    pub onnx: OnnxTable,
    /// Which architecture a checkpoint has and how its tensors are called.
    #[serde(default)]
    pub model: ModelTable,
    /// How the logits of experts become one answer.
    pub combiner: Option<CombinerTable>,
    /// When the next expert runs.
    pub router: Option<RouterTable>,
    /// By how much logits are shifted for rare classes.
    pub logit_adjustment: Option<AdjustmentTable>,
}

/// The table `[preprocess]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessTable {
    /// Mean of each channel, in units of the pixel range 0..=1.
    pub mean: Option<Vec<f32>>,
    /// Standard deviation of each channel, in the same units.
    pub std: Option<Vec<f32>>,
    /// Rows and columns of the network's input, which is also what is cropped from an image.
    #[serde(alias = "crop")]
    pub size: Option<Size>,
    /// Length in pixels that the shorter side of an image is resized to before the crop.
    pub resize: Option<usize>,
}

/// One side of a square, or rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// A square.
    Side(usize),
    /// Rows and columns.
    Sides([usize; 2]),
}

/// The table `[onnx]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnnxTable {
    /// Number of experts that the graph must have.
    pub experts: Option<usize>,
}

impl Description {
    /// Reads the description beside a model, if there is one.
    ///
    /// # Errors
    /// Names the file and the line that is wrong.
    pub fn beside(model: &Path) -> Result<Option<(PathBuf, Self)>> {
        let path = if model.is_dir() { model.join(FILE) } else { model.with_file_name(FILE) };
        if !path.is_file() {
            return Ok(None);
        }
        let what = || format!("cannot read {}", path.display());
        let mut text = String::new();
        let file = std::fs::File::open(&path).with_context(what)?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text).with_context(what)?;
        ensure!(text.len() as u64 <= MAX_BYTES, "{} is larger than {} MB", path.display(), MAX_BYTES >> 20);
        let mut description: Self =
            toml::from_str(&text).with_context(|| format!("{} is not valid", path.display()))?;
        if let Some(AdjustmentTable { counts: Some(Counts::File(file)), .. }) = &mut description.logit_adjustment {
            *file = path.with_file_name(&*file);
        }
        Ok(Some((path, description)))
    }

    /// What the file at `path` says about combiner, routers and adjustment.
    fn rules(&self, path: &Path) -> Rules {
        let (combiner, router, adjustment) =
            (self.combiner.clone(), self.router.clone(), self.logit_adjustment.clone());
        let any = combiner.is_some() || router.is_some() || adjustment.is_some();
        Rules { combiner, router, adjustment, file: any.then(|| path.to_path_buf()) }
    }

    /// The options with what they leave open filled in from this description, which is the file at `path`.
    #[must_use]
    pub fn complete(&self, path: &Path, options: &ImportOptions) -> ImportOptions {
        let PreprocessTable { mean, std, size, resize } = &self.preprocess;
        let sides = size.map(|size| match size {
            Size::Side(side) => [side, side],
            Size::Sides(sides) => sides,
        });
        ImportOptions {
            mean: options.mean.clone().or_else(|| mean.clone()),
            std: options.std.clone().or_else(|| std.clone()),
            input_size: options.input_size.or(sides),
            resize: options.resize.or(*resize),
            experts: options.experts.or(self.onnx.experts),
            rules: options.rules.or(&self.rules(path)),
            model: self.model.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<(PathBuf, Description)>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), text).unwrap();
        Description::beside(&folder.path().join("model.onnx"))
    }

    #[test]
    fn options_win_over_the_file() {
        let text = "[preprocess]\nmean = [0.5]\nsize = 32\nresize = 40\n[onnx]\nexperts = 2\n";
        let (path, description) = read(text).unwrap().unwrap();
        let options = ImportOptions { mean: Some(vec![0.25]), ..ImportOptions::default() };
        let all = description.complete(&path, &options);
        assert_eq!((all.mean, all.input_size, all.resize), (Some(vec![0.25]), Some([32, 32]), Some(40)));
        assert_eq!((all.experts, all.std), (Some(2), None));
        let (_, described) = read("preprocess = { crop = [30, 20] }").unwrap().unwrap();
        assert_eq!(described.preprocess.size, Some(Size::Sides([30, 20])));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, what) in
            [("[preproces]\n", "preproces"), ("[preprocess]\nmean = 3\n", "mean"), ("[onnx]\nfoo = 1", "foo")]
        {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains("ride.toml") && error.contains(what), "{error}");
        }
        assert!(Description::beside(Path::new("/nowhere/model.onnx")).unwrap().is_none());
    }
}
