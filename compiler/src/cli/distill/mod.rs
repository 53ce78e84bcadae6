//! `ride-compile distill`: training, with a teacher or without.

mod args;
mod report;
mod setup;

use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, ensure};
use ride_calibrate::data::{DataSet, Split};
use ride_compiler::import::{self, ImportOptions};
use ride_compiler::train::batches::Position;
use ride_compiler::train::evaluate;
use ride_compiler::train::folder::Folder;
use ride_compiler::train::student::Description;
use ride_compiler::train::trainer::{End, Trainer, Watch};

pub(crate) use args::DistillArgs;

use super::exit::Stopped;
use super::inputs;
use super::interrupt::{self, uninterrupted};
use super::ui::Ui;
use report::{Accuracy, Cost, Summary};
use setup::{Files, Master, Student};

pub(crate) fn run(args: &DistillArgs, ui: &mut Ui) -> Result<()> {
    if let Some(threads) = args.training.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads as usize);
        pool.build_global().with_context(|| format!("cannot have {threads} threads"))?;
    }
    if args.resume { resume(args, ui) } else { start(args, ui) }
}

/// A new training. Everything is read and checked before the folder is made.
fn start(args: &DistillArgs, ui: &mut Ui) -> Result<()> {
    let description = args.student.as_deref().map(Description::read).transpose()?.unwrap_or_default();
    let master = args.teacher.as_deref().map(|path| Master::open(path, ui)).transpose()?;
    let Student { config, preprocess, net, inherited } = Student::new(&description, master.as_ref(), args, ui)?;
    let data = Files::of(&args.data).open(Split::Train, &preprocess)?;
    let val = args.data.val.as_deref().map(|path| Files::at(path).open(Split::Test, &preprocess)).transpose()?;
    let mut settings = setup::settings(args, config, &preprocess, &data, net.plan())?;
    setup::check_val(val.as_ref(), &net)?;
    let teacher = setup::teacher(master.as_ref(), &settings, &net, &preprocess, ui)?;
    let network = evaluate::imported(&settings.config, &net)?;
    let cost = Cost::of(&network, master.as_ref().map(|master| &master.imported.network), &net);
    if args.qat {
        settings.quantization = Some(setup::ranges(&settings, &net, &data, ui)?);
    }

    let folder = Folder::create(&args.output)?;
    ui.note(cost.text());
    if let Some((loaded, sources)) = &inherited {
        ui.note(report::inheritance(loaded, sources));
    }
    folder.log(&report::Start::new(&settings, &cost, inherited.as_ref()))?;
    let trainer = Trainer::new(settings, net, teacher, &data, &folder)?;
    Job { trainer, folder: &folder, master: master.as_ref(), val: val.as_ref(), cost }.run(&args.output, ui)
}

/// Goes on with a training.
fn resume(args: &DistillArgs, ui: &mut Ui) -> Result<()> {
    let (folder, mut state) = Folder::resume(&args.output)?;
    let settings = &mut state.settings;
    if let Some(rate) = args.training.lr {
        settings.schedule.rate = rate;
    }
    let moved = [(&args.teacher, &mut settings.inputs.teacher), (&args.data.val, &mut settings.inputs.validation)];
    for (given, stored) in moved {
        if given.is_some() {
            stored.clone_from(given);
        }
    }
    let (preprocess, _) = import::preprocess(&settings.config, &ImportOptions::default())?;
    let data = Files::again(&settings.inputs, &args.data)?.open(Split::Train, &preprocess)?;
    ensure!(
        data.len() == settings.inputs.images && setup::checksum(data.labels()) == settings.inputs.labels,
        "the data set has changed since the training began: {} images instead of {}, or other labels; --data says where \
         the right one is",
        data.len(),
        settings.inputs.images
    );
    let place = args.training.place(settings.quantization.is_some());
    let net = setup::net(&settings.config, place, settings.seed, ui)?;
    let master = settings.inputs.teacher.as_deref().map(|path| Master::open(path, ui)).transpose()?;
    let teacher = setup::teacher(master.as_ref(), settings, &net, &preprocess, ui)?;
    let val = settings.inputs.validation.as_deref();
    let val = val.map(|path| Files::at(path).open(Split::Test, &preprocess)).transpose()?;
    setup::check_val(val.as_ref(), &net)?;
    let network = evaluate::imported(&settings.config, &net)?;
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
        let bar = report::Bar::new(ui);
        interrupt::patient(true);
        let end = self.trainer.run(&Watch { event: &|event| bar.show(event), stop: &interrupt::requested });
        interrupt::patient(false);
        let last = bar.last();
        drop(bar);
        if end.map_err(|error| with_way_out(&error, self.trainer.saved(), output))? == End::Stopped {
            let message = format!("what was learned is saved; `{}` goes on with it", again(output));
            return Err(Stopped(message).into());
        }
        let state = self.trainer.state()?;
        uninterrupted(|| self.trainer.export()).map_err(|error| with_way_out(&error, self.trainer.saved(), output))?;
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

/// The command that goes on with a training.
fn again(output: &Path) -> String {
    format!("ride-compile distill --resume -o {}", output.display())
}

/// The error, what is left, and how to go on.
fn with_way_out(error: &Error, saved: Option<Position>, output: &Path) -> Error {
    let Some(Position { epoch, batch }) = saved else { return anyhow!("{error:#}") };
    anyhow!(
        "{error:#}. What was learned in {epoch} epochs and {batch} batches is saved, and `{}` goes on with it",
        again(output)
    )
}
