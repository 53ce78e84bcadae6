//! `ride-compile distill`: training, with a teacher or without.

mod args;
mod report;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use ride_calibrate::data::{DataOptions, DataSet, Format, Split};
use ride_calibrate::preprocess::Preprocess;
use ride_compiler::checkpoint::{Checkpoint, Embedded};
use ride_compiler::description::ModelTable;
use ride_compiler::import::{self, ImportOptions, Imported};
use ride_compiler::source::Source;
use ride_compiler::train::augment::Recipe;
use ride_compiler::train::folder::Folder;
use ride_compiler::train::net::Net;
use ride_compiler::train::plan::HeadKind;
use ride_compiler::train::settings::{Inputs, Settings};
use ride_compiler::train::student::{self, Description};
use ride_compiler::train::teacher::Teacher;
use ride_compiler::train::trainer::{End, Trainer, Watch};
use ride_compiler::train::{self, evaluate};
use ride_runtime::format::crc::crc32;
use serde_json::Value;

pub(crate) use args::DistillArgs;

use super::exit::Stopped;
use super::inputs::{self, counts_of};
use super::interrupt;
use super::ui::Ui;
use report::{Accuracy, Cost, Summary};

/// A teacher as it was read.
struct Master {
    source: Source,
    imported: Imported,
}

pub(crate) fn run(args: &DistillArgs, ui: &mut Ui) -> Result<()> {
    if let Some(threads) = args.training.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads as usize);
        pool.build_global().with_context(|| format!("cannot have {threads} threads"))?;
    }
    if args.resume { resume(args, ui) } else { start(args, ui) }
}

/// A new training.
fn start(args: &DistillArgs, ui: &mut Ui) -> Result<()> {
    let description = args.student.as_deref().map(Description::read).transpose()?.unwrap_or_default();
    let master = args.teacher.as_deref().map(|path| Master::open(path, ui)).transpose()?;
    let theirs = master.as_ref().and_then(|master| master.source.checkpoint());
    let their_config = theirs.as_ref().map(|(checkpoint, table)| table.over(&checkpoint.config));
    let their_preprocess = master.as_ref().map(|master| &master.imported.preprocess);
    let (config, notes) = description.config(their_config.as_ref(), their_preprocess)?;
    notes.iter().for_each(|note| ui.note(note));
    let (preprocess, warnings) = import::preprocess(&config, &ImportOptions::default())?;
    warnings.iter().for_each(|warning| ui.warn(warning));
    let plan = import::plan(&config, &ModelTable::default(), &std::collections::BTreeMap::new())
        .context("the description of the student")?;
    let scale = plan.heads.first().map_or(1.0, |head| match head.kind {
        HeadKind::Normed { scale } | HeadKind::Cosine { scale, .. } => scale,
        HeadKind::Linear { .. } => 1.0,
    });

    let mut net = Net::new(plan, &train::device()?, args.training.seed)?;
    let mut inherited = None;
    if let Some((checkpoint, table)) = theirs.filter(|_| !args.random_init) {
        let plan = import::plan(&checkpoint.config, &table, &checkpoint.tensors).context("the teacher")?;
        let inheritance = student::inherit(&plan, &checkpoint.tensors, net.plan());
        inherited = Some((net.load(&inheritance.tensors)?, inheritance.sources));
    }
    let data =
        open(&args.data.data, Split::Train, &preprocess, (args.data.data_format, args.data.data_root.as_deref()))?
            .context("--data is needed to train")?;
    let schedule = args.training.schedule();
    let settings = Settings {
        inputs: inputs(args, &data, net.plan().classes)?,
        minutes: args.training.minutes,
        optimizer: args.training.optimizer(),
        loss: args.loss.ride(&schedule, scale),
        distillation: master.as_ref().and_then(|_| args.loss.distillation()),
        batch: args.training.batch(),
        sampling: args.data.sampling(),
        augment: args.data.augment.unwrap_or_else(|| Recipe::of_loader(loader(&config), &preprocess)),
        seed: args.training.seed,
        schedule,
        config,
    };
    settings.validate()?;
    let cost =
        Cost::of(&student_network(&settings, &net)?, master.as_ref().map(|master| &master.imported.network), &net);
    let teacher = teacher_of(master.as_ref(), &settings, &net, &preprocess)?;
    let val = open(&args.data.val, Split::Test, &preprocess, (None, None))?;
    check_val(val.as_ref(), &net)?;

    let folder = Folder::create(&args.output)?;
    ui.note(cost.text());
    if let Some((loaded, sources)) = &inherited {
        ui.note(report::inheritance(loaded, sources));
    }
    folder.log(&report::Start::new(&settings, &cost, inherited.as_ref()))?;
    let trainer = Trainer::new(settings, net, teacher, &data, &folder).with_context(|| hint(&args.output))?;
    Job { trainer, folder: &folder, master: master.as_ref(), val: val.as_ref(), cost }.run(&args.output, ui)
}

/// Goes on with a training.
fn resume(args: &DistillArgs, ui: &mut Ui) -> Result<()> {
    let (folder, mut state) = Folder::resume(&args.output)?;
    let settings = &mut state.settings;
    if let Some(rate) = args.training.lr {
        settings.schedule.rate = rate;
    }
    for (given, stored) in
        [(&args.teacher, &mut settings.inputs.teacher), (&args.data.val, &mut settings.inputs.validation)]
    {
        if given.is_some() {
            stored.clone_from(given);
        }
    }
    let (preprocess, _) = import::preprocess(&settings.config, &ImportOptions::default())?;
    let path = args.data.data.clone().unwrap_or_else(|| settings.inputs.data.clone());
    let format = settings.inputs.data_format.as_deref().map(str::parse).transpose()?;
    let root = args.data.data_root.clone().or_else(|| settings.inputs.data_root.clone());
    let data = open(&Some(path), Split::Train, &preprocess, (args.data.data_format.or(format), root.as_deref()))?
        .context("--data is needed to train")?;
    ensure!(
        data.len() == settings.inputs.images && checksum(data.labels()) == settings.inputs.labels,
        "the data set has changed since the training began: {} images instead of {}, or other labels; --data says where \
         the right one is",
        data.len(),
        settings.inputs.images
    );
    let plan = import::plan(&settings.config, &ModelTable::default(), &std::collections::BTreeMap::new())?;
    let net = Net::new(plan, &train::device()?, settings.seed)?;
    let master = settings.inputs.teacher.as_deref().map(|path| Master::open(path, ui)).transpose()?;
    let teacher = teacher_of(master.as_ref(), settings, &net, &preprocess)?;
    let val = open(&settings.inputs.validation, Split::Test, &preprocess, (None, None))?;
    check_val(val.as_ref(), &net)?;
    let network = student_network(settings, &net)?;
    let cost = Cost::of(&network, master.as_ref().map(|master| &master.imported.network), &net);
    let position = state.progress.position;
    ui.note(format_args!("going on after {} epochs and {} batches", position.epoch, position.batch));
    folder.log(&report::Resume { event: "resume", position })?;
    let trainer = Trainer::resume(state, net, teacher, &data, &folder)?;
    Job { trainer, folder: &folder, master: master.as_ref(), val: val.as_ref(), cost }.run(&args.output, ui)
}

/// What is left to do once everything has been read.
struct Job<'a> {
    trainer: Trainer<'a>,
    folder: &'a Folder,
    master: Option<&'a Master>,
    val: Option<&'a DataSet>,
    cost: Cost,
}

impl Job<'_> {
    fn run(mut self, output: &Path, ui: &mut Ui) -> Result<()> {
        interrupt::stop_on_request();
        let bar = report::Bar::new(ui);
        let end = self.trainer.run(&Watch { event: &|event| bar.show(event), stop: &interrupt::requested });
        let last = bar.last();
        drop(bar);
        if end.with_context(|| hint(output))? == End::Stopped {
            let message = format!(
                "what was learned is saved; `ride-compile distill --resume -o {}` goes on with it",
                output.display()
            );
            return Err(Stopped(message).into());
        }
        let state = self.trainer.state()?;
        self.folder.export(&state, &self.trainer.tensors()?).with_context(|| hint(output))?;
        // What is judged is what was written, read as `build` reads it.
        let network = inputs::load(output, &ImportOptions::default(), false, ui)?.network;
        let counts = &state.settings.inputs.class_counts;
        let mut accuracy = None;
        if let Some(val) = self.val {
            let bar = ui.progress("judging");
            let judge = |network| evaluate::accuracy(network, val, counts, &|total| bar.step(total));
            let teacher = self.master.map(|master| judge(&master.imported.network)).transpose()?;
            accuracy = Some(Accuracy { images: val.len(), student: judge(&network)?, teacher });
        }
        let summary = Summary::new(output, &state, last, self.cost, accuracy, ui.warnings());
        self.folder.log(&summary)?;
        ui.result(&summary, report::text)
    }
}

/// How to go on after an error that leaves a state.
fn hint(output: &Path) -> String {
    format!("`ride-compile distill --resume -o {}` goes on where it was saved", output.display())
}

impl Master {
    fn open(path: &Path, ui: &mut Ui) -> Result<Self> {
        let source = Source::open(path, Embedded::Accept).context("the teacher")?;
        source.notes().iter().for_each(|note| ui.note(note));
        let imported = source.import(&ImportOptions::default()).context("the teacher")?;
        imported.warnings.iter().for_each(|warning| ui.warn(warning));
        Ok(Self { source, imported })
    }
}

/// The teacher, if it is listened to.
fn teacher_of(
    master: Option<&Master>,
    settings: &Settings,
    net: &Net,
    preprocess: &Preprocess,
) -> Result<Option<Teacher>> {
    let Some(master) = master.filter(|_| settings.distillation.is_some()) else { return Ok(None) };
    let teacher = Teacher::new(&master.imported.network)?;
    let size = preprocess.input;
    let input = ride_compiler::network::Shape { height: size.height, width: size.width, channels: size.channels };
    teacher.check(input, net.plan().classes)?;
    Ok(Some(teacher))
}

/// The network as `build` will see it: shows in time that it can be read.
fn student_network(settings: &Settings, net: &Net) -> Result<ride_compiler::network::Network> {
    let checkpoint = Checkpoint { config: settings.config.clone(), tensors: net.tensors()?, ..Checkpoint::default() };
    Ok(import::network(&checkpoint, &ImportOptions::default()).context("the student")?.network)
}

/// `data_loader.type` of a configuration.
fn loader(config: &Value) -> Option<&str> {
    config.get("data_loader")?.get("type")?.as_str()
}

fn inputs(args: &DistillArgs, data: &DataSet, classes: usize) -> Result<Inputs> {
    let class_counts = match &args.data.class_counts {
        Some(file) => counts_of(file, classes)?,
        None => data.class_counts(classes)?,
    };
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let given = args.data.data.as_deref().context("--data is needed to train")?;
    Ok(Inputs {
        data: absolute(given),
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

fn checksum(labels: &[u32]) -> u32 {
    crc32(&labels.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<_>>())
}

fn open(
    path: &Option<std::path::PathBuf>,
    split: Split,
    preprocess: &Preprocess,
    (format, root): (Option<Format>, Option<&Path>),
) -> Result<Option<DataSet>> {
    let Some(path) = path else { return Ok(None) };
    let options =
        DataOptions { format, split, root: root.map(Path::to_path_buf), ..DataOptions::new(preprocess.clone()) };
    DataSet::open(path, &options).map(Some)
}

fn check_val(val: Option<&DataSet>, net: &Net) -> Result<()> {
    val.map_or(Ok(()), |val| val.check_classes(net.plan().classes).context("--val"))
}
