//! The training loop.
//!
//! It ends when the schedule does, when somebody asks it to stop, or with an error; in each case the folder holds a state
//! to go on from: written at the end of every epoch and when training stops, never with numbers that are not finite.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use ride_calibrate::data::DataSet;
use serde::Serialize;

use super::batches::{Batch, Position, Source, normalised};
use super::evaluate;
use super::folder::Folder;
use super::loss::{self, RideLoss};
use super::net::Net;
use super::optimizer::Sgd;
use super::qat::Quantization;
use super::settings::Settings;
use super::state::{Progress, State};
use super::teacher::Teacher;
use crate::network::Network;

/// What happens during training, for those who watch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A batch is done.
    Batch(Report),
    /// An epoch is done and its state saved.
    Epoch(Report),
    /// Training is over, or stopped before its end; its state is saved.
    End {
        /// Whether the schedule is complete.
        complete: bool,
        /// How far it got.
        #[serde(flatten)]
        report: Report,
    },
}

/// How training goes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The epoch, counted from 1.
    pub epoch: u64,
    /// Batches of it that are done.
    pub batch: usize,
    /// Batches of every epoch.
    pub batches: usize,
    /// Share of the training that is done.
    pub share: f64,
    /// Mean loss of this epoch's batches.
    pub loss: f64,
    /// Learning rate of the last batch.
    pub rate: f64,
    /// Training examples a second, since training was started or taken up again.
    pub images_per_second: f64,
    /// Seconds that were spent on batches altogether.
    pub seconds: f64,
    /// Seconds that are left at this speed.
    pub seconds_left: f64,
}

/// Who is told and who decides.
pub struct Watch<'a> {
    /// Called with every event.
    pub event: &'a dyn Fn(&Event),
    /// Asked after each batch whether to stop.
    pub stop: &'a dyn Fn() -> bool,
}

/// A training that is ready to run.
pub struct Trainer<'a> {
    settings: Settings,
    net: Net,
    sgd: Sgd,
    loss: RideLoss,
    teacher: Option<Teacher>,
    data: &'a DataSet,
    folder: &'a Folder,
    quantization: Option<Quantization>,
    progress: Progress,
    /// Where training was taken up.
    start: Progress,
}

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The schedule is complete.
    Complete,
    /// Somebody asked for it.
    Stopped,
}

impl<'a> Trainer<'a> {
    /// A new training of `net`; its first state is written, which shows whether there is room for it.
    ///
    /// # Errors
    /// If the settings are out of range, a class has no image, or the state cannot be written.
    pub fn new(
        settings: Settings,
        net: Net,
        teacher: Option<Teacher>,
        data: &'a DataSet,
        folder: &'a Folder,
    ) -> Result<Self> {
        let trainer = Self::prepare(settings, net, teacher, data, folder)?;
        trainer.save()?;
        Ok(trainer)
    }

    /// Takes up a training where `state` left it. `net` is replaced by what the state holds.
    ///
    /// # Errors
    /// If the state does not belong to `net` or the data.
    pub fn resume(
        state: State,
        mut net: Net,
        teacher: Option<Teacher>,
        data: &'a DataSet,
        folder: &'a Folder,
    ) -> Result<Self> {
        let State { settings, progress, model, velocity } = state;
        net.load_all(&model).context("the state does not belong to this network")?;
        let mut trainer = Self::prepare(settings, net, teacher, data, folder)?;
        let Self { net, sgd, .. } = &mut trainer;
        sgd.restore(net.parameters(), &velocity).context("the state does not belong to this network")?;
        trainer.progress = progress.clone();
        trainer.start = progress;
        Ok(trainer)
    }

    fn prepare(
        settings: Settings,
        net: Net,
        teacher: Option<Teacher>,
        data: &'a DataSet,
        folder: &'a Folder,
    ) -> Result<Self> {
        settings.validate()?;
        data.check_classes(net.plan().classes)?;
        let loss = RideLoss::new(settings.loss, &settings.inputs.class_counts, net.device())?;
        let sgd = Sgd::new(settings.optimizer, net.parameters())?;
        let (progress, start) = (Progress::default(), Progress::default());
        let mut trainer = Self { settings, net, sgd, loss, teacher, data, folder, progress, start, quantization: None };
        if let Some(ranges) = &trainer.settings.quantization {
            // Structure and normalisation count here, weights do not.
            let quantization = Quantization::new(&trainer.network()?, ranges).context("the calibrated ranges")?;
            trainer.net.quantize(Some(quantization.clone()))?;
            trainer.quantization = Some(quantization);
        }
        Ok(trainer)
    }

    /// Trains until the end.
    ///
    /// # Errors
    /// If an image cannot be read, the loss is no longer finite, or the folder cannot be written to. The last state that
    /// was saved stays.
    pub fn run(&mut self, watch: &Watch<'_>) -> Result<End> {
        let Settings { augment, sampling, batch, seed, .. } = self.settings;
        let source = Source { data: self.data, recipe: augment, sampling, batch, seed };
        source.run(self.progress.position, |batches| self.follow(&source, batches, watch))?
    }

    /// What the state in the folder holds; `None` if there is none yet.
    pub fn saved(&self) -> Option<Position> {
        State::read(&self.folder.state()).ok().map(|state| state.progress.position)
    }

    fn follow(&mut self, source: &Source<'_>, batches: &Receiver<Result<Batch>>, watch: &Watch<'_>) -> Result<End> {
        let mut last = None;
        while self.done(source) < self.settings.schedule.epochs {
            let begin = Instant::now();
            let batch = batches.recv().context("no batches are prepared any more")??;
            let rate = self.learn(source, &batch)?;
            let epoch = self.progress.position.epoch;
            self.progress.position = source.after(batch.position);
            self.progress.images += batch.labels.len() as u64;
            self.progress.seconds += begin.elapsed().as_secs_f64();
            let report = self.report(source, batch.position, rate);
            last = Some(report);
            (watch.event)(&Event::Batch(report));
            if self.progress.position.epoch > epoch {
                self.progress.loss = 0.0;
                self.save()?;
                self.tell(&Event::Epoch(report), watch)?;
            }
            if (watch.stop)() {
                return self.end(End::Stopped, report, watch);
            }
        }
        // There is no batch to report where a complete training was taken up.
        let report = last.unwrap_or_else(|| self.report(source, self.progress.position, 0.0));
        self.end(End::Complete, report, watch)
    }

    fn end(&self, end: End, report: Report, watch: &Watch<'_>) -> Result<End> {
        self.save()?;
        self.tell(&Event::End { complete: end == End::Complete, report }, watch)?;
        Ok(end)
    }

    fn tell(&self, event: &Event, watch: &Watch<'_>) -> Result<()> {
        (watch.event)(event);
        self.folder.log(event)
    }

    /// Epochs of the schedule that are done.
    fn done(&self, source: &Source<'_>) -> f64 {
        let Position { epoch, batch } = self.progress.position;
        let epochs = epoch as f64 + batch as f64 / source.batches() as f64;
        self.settings.epochs_done(epochs, self.progress.seconds)
    }

    /// One step; returns its learning rate.
    fn learn(&mut self, source: &Source<'_>, batch: &Batch) -> Result<f64> {
        let done = self.done(source);
        let rate = self.settings.schedule.rate(done);
        let device = self.net.device().clone();
        let images = normalised(&batch.pixels, self.data.preprocess(), &device)?;
        // The loss counts epochs from 1, and so do the authors.
        let epoch = done.floor() as usize + 1;
        let asked = match (&self.teacher, self.settings.distillation) {
            (Some(teacher), Some(distillation)) => Some((distillation, teacher.ask(&batch.pixels, &device)?)),
            _ => None,
        };
        let step = self.net.step(&images, |outputs| match &asked {
            Some((distillation, teacher)) => {
                loss::with_teacher(&self.loss, distillation, outputs, teacher, (&batch.labels, epoch))
            }
            None => self.loss.of(outputs, &batch.labels, epoch),
        })?;
        if !step.loss.is_finite() {
            bail!(
                "the loss of batch {} of epoch {} is {} at the learning rate {rate}: training has diverged; a lower rate \
                 (--lr) or a longer warm-up (--warmup) helps",
                batch.position.batch + 1,
                batch.position.epoch + 1,
                step.loss
            );
        }
        self.progress.loss += f64::from(step.loss);
        self.sgd.step(self.net.parameters(), &step.gradients, rate)?;
        Ok(rate)
    }

    fn report(&self, source: &Source<'_>, done: Position, rate: f64) -> Report {
        let share = (self.done(source) / self.settings.schedule.epochs).clamp(0.0, 1.0);
        let seconds = self.progress.seconds;
        let here = seconds - self.start.seconds;
        let images = (self.progress.images - self.start.images) as f64;
        let images_per_second = if here > 0.0 { images / here } else { 0.0 };
        let batches = source.batches();
        let seconds_left = match self.settings.minutes {
            Some(minutes) => (60.0 * minutes - seconds).max(0.0),
            None => {
                let left = (1.0 - share) * self.settings.schedule.epochs * self.data.len() as f64;
                if images_per_second > 0.0 { left / images_per_second } else { 0.0 }
            }
        };
        let batch = (done.batch + 1).min(batches);
        let loss = self.progress.loss / batch as f64;
        Report { epoch: done.epoch + 1, batch, batches, share, loss, rate, images_per_second, seconds, seconds_left }
    }

    /// The state as it is.
    ///
    /// # Errors
    /// If the device fails.
    pub fn state(&self) -> Result<State> {
        Ok(State {
            settings: self.settings.clone(),
            progress: self.progress.clone(),
            model: self.net.tensors()?,
            velocity: self.sgd.state(self.net.parameters())?,
        })
    }

    /// The network as `build` will see it.
    fn network(&self) -> Result<Network> {
        evaluate::imported(&self.settings.config, &self.net)
    }

    /// Writes the network in its present state for `build`.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn export(&self) -> Result<()> {
        let ranges = match &self.quantization {
            Some(quantization) => Some(quantization.table(&self.network()?)?),
            None => None,
        };
        self.folder.export(&self.state()?, ranges.as_ref())
    }

    fn save(&self) -> Result<()> {
        self.state()?.write(&self.folder.state())
    }
}
