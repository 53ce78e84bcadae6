//! Options that verbs share: models, data sets, classes, calibration.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use ride_calibrate::data::{DataOptions, DataSet, Format, Split};
use ride_calibrate::groups::read_class_counts;
use ride_calibrate::observer::Observer;
use ride_calibrate::preprocess::{InputSize, Preprocess};
use ride_calibrate::table::CalibrationTable;
use ride_compiler::calibration;
use ride_compiler::checkpoint::Embedded;
use ride_compiler::description::Rules;
use ride_compiler::import::{ImportOptions, Imported};
use ride_compiler::lower::ClassInfo;
use ride_compiler::source::Source;
use ride_runtime::Model;

use super::ui::Ui;

/// Where training counts lie beside a model.
pub(crate) const COUNTS: &str = "class_counts.txt";
/// Largest file of class names that is read.
const MAX_NAMES: u64 = 16 << 20;

/// The float model.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Checkpoint (.pth or .safetensors, config.json beside it) or the folder that holds both; ONNX file, or folder with
    /// stem.onnx, expert_0.onnx, ...
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    #[command(flatten)]
    input: InputArgs,
}

/// What the user says about the input instead of config.json or ride.toml.
#[derive(Args)]
#[command(next_help_heading = "Input of the network (otherwise from ride.toml or config.json)")]
pub(crate) struct InputArgs {
    /// Mean of each channel in units of 0..1, as in 0.4914,0.4822,0.4465
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    mean: Option<Vec<f32>>,
    /// Standard deviation of each channel in units of 0..1
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    std: Option<Vec<f32>>,
    /// Size of the network's input, as in 32x32
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    input_size: Option<[usize; 2]>,
    /// Resize the shorter side of images to N pixels, then crop the centre
    #[arg(long, value_name = "N")]
    resize: Option<usize>,
    /// Without a config.json, take the configuration that the trainer pickled into the checkpoint
    #[arg(long)]
    embedded_config: bool,
}

/// `HxW`, or one number for a square.
fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let (height, width) = text.split_once(['x', 'X']).unwrap_or((text, text));
    let side =
        |side: &str| side.trim().parse().map_err(|_| "expected height x width in pixels, as in 32x32".to_owned());
    Ok([side(height)?, side(width)?])
}

impl ModelArgs {
    /// Reads and imports the model; tells the user what is worth knowing about it. The rules are yet to be
    /// applied.
    pub(crate) fn load(&self, rules: Rules, ui: &mut Ui) -> Result<Imported> {
        load(&self.model, &self.options(rules), self.input.embedded_config, ui)
    }

    /// Reads the model without importing it.
    pub(crate) fn source(&self, ui: &Ui) -> Result<Source> {
        let embedded = if self.input.embedded_config { Embedded::Accept } else { Embedded::Ignore };
        let source = Source::open(&self.model, embedded)?;
        source.notes().iter().for_each(|note| ui.note(note));
        Ok(source)
    }

    /// What the options say about the import.
    pub(crate) fn options(&self, rules: Rules) -> ImportOptions {
        let InputArgs { mean, std, input_size, resize, .. } = &self.input;
        let (mean, std) = (mean.clone(), std.clone());
        let (input_size, resize) = (*input_size, *resize);
        ImportOptions { mean, std, input_size, resize, rules, ..ImportOptions::default() }
    }

    /// The folder that the checkpoint lies in.
    pub(crate) fn folder(&self) -> &Path {
        match self.model.parent() {
            _ if self.model.is_dir() => &self.model,
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// A file of this name beside the checkpoint, if there is one.
    pub(crate) fn beside(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder().join(name)).filter(|path| path.is_file())
    }
}

/// Reads and imports a model; with `embedded`, the configuration pickled in it may stand in for config.json.
pub(crate) fn load(path: &Path, options: &ImportOptions, embedded: bool, ui: &mut Ui) -> Result<Imported> {
    let embedded = if embedded { Embedded::Accept } else { Embedded::Ignore };
    let source = Source::open(path, embedded)?;
    source.notes().iter().for_each(|note| ui.note(note));
    let imported = source.import(options)?;
    imported.warnings.iter().for_each(|warning| ui.warn(warning));
    Ok(imported)
}

/// The data set.
#[derive(Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct DataArgs {
    /// Images: CIFAR .bin file or folder, cifar-100-python, folder of class folders, .npz with x and y, or a list of
    /// `path label` lines
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,
    /// Format of the data, instead of telling it by looking: cifar100-bin, cifar10-bin, cifar100-python, folder, npz or
    /// list
    #[arg(long, value_name = "FORMAT", requires = "data")]
    data_format: Option<Format>,
    /// Folder that the paths of a list are relative to, instead of the list's own
    #[arg(long, value_name = "DIR", requires = "data")]
    data_root: Option<PathBuf>,
}

impl DataArgs {
    /// Opens the data set, if one is named.
    pub(crate) fn open(&self, preprocess: &Preprocess, split: Split) -> Result<Option<DataSet>> {
        let Some(path) = &self.data else { return Ok(None) };
        let options = DataOptions {
            format: self.data_format,
            root: self.data_root.clone(),
            split,
            ..DataOptions::new(preprocess.clone())
        };
        DataSet::open(path, &options).map(Some)
    }
}

/// How to calibrate.
#[derive(Args)]
#[command(next_help_heading = "Calibration")]
pub(crate) struct CalibrationArgs {
    /// Number of images to calibrate with
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    images: u32,
    /// How ranges are chosen: mse, minmax, percentile or percentile:P as in percentile:99.99
    #[arg(long, value_name = "NAME", default_value = "mse")]
    observer: Observer,
    /// Seed of the choice of images
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How images are chosen
    #[arg(long, value_enum, default_value_t = Sampling::Balanced)]
    sampling: Sampling,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sampling {
    /// As many of each class as there are, so that rare classes set ranges too
    Balanced,
    /// Every image is equally likely
    Uniform,
}

impl CalibrationArgs {
    pub(crate) fn settings(&self) -> calibration::Settings {
        calibration::Settings {
            images: self.images as usize,
            seed: self.seed,
            balanced: self.sampling == Sampling::Balanced,
            observer: self.observer,
        }
    }
}

/// What is known about the classes.
#[derive(Args)]
#[command(next_help_heading = "Classes")]
pub(crate) struct ClassArgs {
    /// Training images of each class, one integer a line; otherwise class_counts.txt beside the model, else counted
    /// from --data
    #[arg(long, value_name = "FILE")]
    class_counts: Option<PathBuf>,
    /// Names of the classes, one a line; otherwise those of the data set, else class_names.txt beside the model
    #[arg(long, value_name = "FILE")]
    class_names: Option<PathBuf>,
}

impl ClassArgs {
    /// Training counts and names for a model of `classes` classes; unknown ones stay empty.
    pub(crate) fn resolve(
        &self,
        model: &ModelArgs,
        data: Option<&DataSet>,
        table: &CalibrationTable,
        classes: usize,
        ui: &Ui,
    ) -> Result<ClassInfo> {
        let mut info =
            ClassInfo { counts: self.counts(model, data, classes, ui)?, names: self.names(model, data, classes, ui)? };
        // What the data set of the calibration said, where nothing nearer says anything.
        if info.counts.is_empty() && table.class_counts.len() == classes {
            info.counts.clone_from(&table.class_counts);
        }
        if info.names.is_empty() && table.class_names.len() == classes {
            info.names.clone_from(&table.class_names);
        }
        Ok(info)
    }

    fn counts(&self, model: &ModelArgs, data: Option<&DataSet>, classes: usize, ui: &Ui) -> Result<Vec<u32>> {
        let file = match &self.class_counts {
            Some(file) => Some(file.clone()),
            None => model.beside(COUNTS).inspect(|file| ui.note(taken("training counts", file))),
        };
        match (file, data) {
            (Some(file), _) => counts_of(&file, classes),
            (None, Some(data)) => {
                ui.note("training counts of the classes are counted from --data; --class-counts gives others");
                data.class_counts(classes)
            }
            (None, None) => Ok(Vec::new()),
        }
    }

    fn names(&self, model: &ModelArgs, data: Option<&DataSet>, classes: usize, ui: &Ui) -> Result<Vec<String>> {
        if let Some(file) = &self.class_names {
            return names_of(file, classes);
        }
        if let Some(names) = data.and_then(DataSet::class_names).filter(|names| names.len() == classes) {
            return Ok(names.to_vec());
        }
        let Some(file) = model.beside("class_names.txt") else { return Ok(Vec::new()) };
        ui.note(taken("class names", &file));
        names_of(&file, classes)
    }
}

fn taken(what: &str, file: &Path) -> String {
    format!("{what} are taken from {}", file.display())
}

/// Reads training counts and checks their number.
pub(crate) fn counts_of(file: &Path, classes: usize) -> Result<Vec<u32>> {
    let counts = read_class_counts(file)?;
    ensure!(
        counts.len() == classes,
        "{} has {} lines but the model has {classes} classes; expected the training images of one class a line",
        file.display(),
        counts.len()
    );
    Ok(counts)
}

fn names_of(file: &Path, classes: usize) -> Result<Vec<String>> {
    let what = || format!("cannot read the class names {}", file.display());
    let kind = std::fs::metadata(file).with_context(what)?;
    ensure!(kind.is_file() && kind.len() <= MAX_NAMES, "{} is no text file of class names", file.display());
    let text = std::fs::read_to_string(file).with_context(what)?;
    let names: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    ensure!(
        names.len() == classes,
        "{} has {} lines but the model has {classes} classes; expected the name of one class a line",
        file.display(),
        names.len()
    );
    Ok(names)
}

/// The preprocessing that an artifact carries; `resize` wins over the artifact's own.
pub(crate) fn preprocess_of(model: Model<'_>, resize: Option<usize>) -> Preprocess {
    let (height, width, channels) = model.input();
    Preprocess {
        input: InputSize { height, width, channels },
        mean: (0..channels).map(|c| model.mean(c)).collect(),
        std: (0..channels).map(|c| model.std(c)).collect(),
        resize_short: resize.or(model.resize()),
    }
}
