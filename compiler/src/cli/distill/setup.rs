//! From options and files to a training that can begin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ride_calibrate::data::{DataOptions, DataSet, Format, Split};
use ride_calibrate::observer::Observer;
use ride_calibrate::preprocess::Preprocess;
use ride_calibrate::table::CalibrationTable;
use ride_compiler::calibration;
use ride_compiler::checkpoint::Embedded;
use ride_compiler::description::ModelTable;
use ride_compiler::import::{self, ImportOptions, Imported};
use ride_compiler::network::Shape;
use ride_compiler::source::Source;
use ride_compiler::train::augment::Recipe;
use ride_compiler::train::evaluate;
use ride_compiler::train::net::Net;
use ride_compiler::train::params::Loaded;
use ride_compiler::train::place::Place;
use ride_compiler::train::plan::{HeadKind, Plan};
use ride_compiler::train::settings::{Inputs, Settings};
use ride_compiler::train::student::{self, Description};
use ride_compiler::train::teacher::Teacher;
use ride_runtime::format::crc::crc32;
use serde_json::Value;

use super::super::inputs::counts_of;
use super::super::ui::Ui;
use super::args::{DistillArgs, TrainingData};

/// Images that ranges are measured on: `calibrate`'s default.
const CALIBRATION_IMAGES: usize = 512;
/// Scale of margins where logits have none of their own: the authors' default.
const MARGIN_SCALE: f64 = 30.0;

/// A teacher as it was read.
pub(super) struct Master {
    source: Source,
    pub(super) imported: Imported,
}

impl Master {
    pub(super) fn open(path: &Path, ui: &mut Ui) -> Result<Self> {
        let source = Source::open(path, Embedded::Accept).context("the teacher")?;
        source.notes().iter().for_each(|note| ui.note(note));
        let imported = source.import(&ImportOptions::default()).context("the teacher")?;
        imported.warnings.iter().for_each(|warning| ui.warn(warning));
        Ok(Self { source, imported })
    }

    /// The network where a student is, in candle's operations.
    fn beside(&self, student: &Net) -> Result<Net> {
        let (checkpoint, table) = self.source.checkpoint().context("it is ONNX")?;
        let plan = import::plan(&checkpoint.config, &table, &checkpoint.tensors)?;
        let mut net = Net::new(plan, student.device(), 0)?;
        net.use_plain_ops();
        net.load_all(&checkpoint.tensors)?;
        Ok(net)
    }
}

/// A network that is to be trained.
pub(super) struct Student {
    /// Its `config.json`.
    pub(super) config: Value,
    pub(super) preprocess: Preprocess,
    pub(super) net: Net,
    /// Which tensors are the teacher's, and what each was made of.
    pub(super) inherited: Option<(Loaded, BTreeMap<String, String>)>,
}

impl Student {
    pub(super) fn new(
        description: &Description,
        master: Option<&Master>,
        args: &DistillArgs,
        ui: &mut Ui,
    ) -> Result<Self> {
        let theirs = master.and_then(|master| master.source.checkpoint());
        let their_config = theirs.as_ref().map(|(checkpoint, table)| {
            let mut config = table.over(&checkpoint.config);
            // The authors' code leaves it out of plain networks.
            config["arch"]["args"]["num_experts"] =
                master.map_or(1, |master| master.imported.network.experts.len()).into();
            config
        });
        let their_preprocess = master.map(|master| &master.imported.preprocess);
        let (config, notes) = description.config(their_config.as_ref(), their_preprocess)?;
        notes.iter().for_each(|note| ui.note(note));
        let (preprocess, warnings) = import::preprocess(&config, &ImportOptions::default())?;
        warnings.iter().for_each(|warning| ui.warn(warning));
        let mut net = net(&config, args.training.place(args.qat), args.training.seed, ui)?;
        let mut inherited = None;
        let origin = args.init.as_deref().map(|path| Source::open(path, Embedded::Accept)).transpose()?;
        let origin = match &origin {
            Some(source) => Some(source.checkpoint().context("--init takes a checkpoint, not ONNX")?),
            None => theirs.filter(|_| !args.random_init),
        };
        if let Some((checkpoint, table)) = origin {
            let plan = import::plan(&checkpoint.config, &table, &checkpoint.tensors);
            let plan = plan.context("the network that weights come from")?;
            let inheritance = student::inherit(&plan, &checkpoint.tensors, net.plan());
            inherited = Some((net.load(&inheritance.tensors)?, inheritance.sources));
        }
        let taken = inherited.as_ref().is_some_and(|(loaded, _)| !loaded.taken.is_empty());
        ensure!(
            taken || !args.qat,
            "--qat refines a trained network, and this one has no weights to start from: name them with --init, or a \
             teacher that they can be taken from"
        );
        Ok(Self { config, preprocess, net, inherited })
    }
}

/// An untrained network.
pub(super) fn net(config: &Value, place: Place, seed: u64, ui: &Ui) -> Result<Net> {
    let plan = import::plan(config, &ModelTable::default(), &BTreeMap::new()).context("the student's description")?;
    let (net, note) = place.net(plan, seed)?;
    note.iter().for_each(|note| ui.note(note));
    Ok(net)
}

/// The teacher, if it is listened to: where the student is if it computes with candle's operations, as on GPUs.
pub(super) fn teacher(
    master: Option<&Master>,
    settings: &Settings,
    net: &Net,
    preprocess: &Preprocess,
    ui: &Ui,
) -> Result<Option<Teacher>> {
    let Some(master) = master.filter(|_| settings.distillation.is_some()) else { return Ok(None) };
    let mut teacher = Teacher::new(&master.imported.network)?;
    let size = preprocess.input;
    let input = Shape { height: size.height, width: size.width, channels: size.channels };
    teacher.check(input, net.plan().classes)?;
    if net.has_plain_ops() {
        let moved = master.beside(net).and_then(|net| teacher.run_on_device(net, &master.imported.preprocess));
        if let Err(error) = moved {
            ui.note(format_args!("the teacher runs on the CPU, which may be slower than the training: {error:#}"));
        }
    }
    Ok(Some(teacher))
}

/// What the options come to.
pub(super) fn settings(
    args: &DistillArgs,
    config: Value,
    preprocess: &Preprocess,
    data: &DataSet,
    plan: &Plan,
) -> Result<Settings> {
    let scale = plan.heads.first().map_or(MARGIN_SCALE, |head| match head.kind {
        HeadKind::Normed { scale } | HeadKind::Cosine { scale, .. } => scale,
        HeadKind::Linear { .. } => MARGIN_SCALE,
    });
    let schedule = args.training.schedule(args.qat);
    let loader = config.get("data_loader").and_then(|loader| loader.get("type")).and_then(Value::as_str);
    let settings = Settings {
        inputs: inputs(args, data, plan.classes)?,
        minutes: args.training.minutes,
        optimizer: args.training.optimizer(),
        loss: args.loss.ride(&schedule, scale),
        distillation: args.teacher.as_ref().and_then(|_| args.loss.distillation()),
        quantization: None,
        batch: args.training.batch(),
        sampling: args.data.sampling(),
        augment: args.data.augment.unwrap_or_else(|| Recipe::of_loader(loader, preprocess)),
        seed: args.training.seed,
        schedule,
        config,
    };
    settings.validate()?;
    Ok(settings)
}

/// Ranges of the network's activations before it is trained, by `calibrate`'s defaults.
pub(super) fn ranges(settings: &Settings, net: &Net, data: &DataSet, ui: &Ui) -> Result<CalibrationTable> {
    let network = evaluate::imported(&settings.config, net)?;
    let choice = calibration::Settings {
        images: CALIBRATION_IMAGES,
        seed: settings.seed,
        balanced: true,
        observer: Observer::Mse,
    };
    let bar = ui.progress("calibrating");
    calibration::calibrate(&network, data, &choice, &|progress| bar.step(progress.total))
}

fn inputs(args: &DistillArgs, data: &DataSet, classes: usize) -> Result<Inputs> {
    let class_counts = match &args.data.class_counts {
        Some(file) => counts_of(file, classes)?,
        None => data.class_counts(classes)?,
    };
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    Ok(Inputs {
        data: args.data.data.as_deref().map(absolute).unwrap_or_default(),
        data_format: args.data.data_format.map(|format| format.to_string()),
        data_root: args.data.data_root.as_deref().map(absolute),
        images: data.len(),
        labels: checksum(data.labels()),
        class_counts,
        class_names: data.class_names().filter(|names| names.len() == classes).unwrap_or_default().to_vec(),
        validation: args.data.val.as_deref().map(absolute),
        teacher: args.teacher.as_deref().map(absolute),
    })
}

/// By which a data set is recognised.
pub(super) fn checksum(labels: &[u32]) -> u32 {
    crc32(&labels.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<_>>())
}

/// A data set and how it is read.
#[derive(Default)]
pub(super) struct Files {
    path: PathBuf,
    format: Option<Format>,
    root: Option<PathBuf>,
}

impl Files {
    /// As the options say.
    pub(super) fn of(args: &TrainingData) -> Self {
        // Without --resume, clap insists on --data.
        let path = args.data.clone().unwrap_or_default();
        Self { path, format: args.data_format, root: args.data_root.clone() }
    }

    /// As the options say, or as they said when the training began.
    pub(super) fn again(inputs: &Inputs, args: &TrainingData) -> Result<Self> {
        let format = inputs.data_format.as_deref().map(str::parse).transpose()?;
        Ok(Self {
            path: args.data.clone().unwrap_or_else(|| inputs.data.clone()),
            format: args.data_format.or(format),
            root: args.data_root.clone().or_else(|| inputs.data_root.clone()),
        })
    }

    /// Whatever is there.
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_path_buf(), ..Self::default() }
    }

    pub(super) fn open(self, split: Split, preprocess: &Preprocess) -> Result<DataSet> {
        let Self { path, format, root } = self;
        DataSet::open(&path, &DataOptions { format, split, root, ..DataOptions::new(preprocess.clone()) })
    }
}

pub(super) fn check_val(val: Option<&DataSet>, net: &Net) -> Result<()> {
    val.map_or(Ok(()), |val| val.check_classes(net.plan().classes).context("--val"))
}
