//! Trains RIDE's routers (the expert assignment module, stage 2) for experts that stay as they are.
//!
//! Wang et al., "Long-tailed Recognition by Routing Diverse Distribution-Aware Experts" (ICLR 2021), section 3.3, with the
//! details of the authors' code. Router `i` sees the `k` largest mean logits of the experts up to `i`, sorted, and 16 hidden
//! units of expert `i`'s feature divided by its norm. It is to say yes where the mean of the experts up to `i` is wrong and
//! that of some larger number of experts is right. The loss is binary cross-entropy with a weight on the rare yes, averaged
//! over the batch and over routers; classes are drawn equally often; batch normalisation runs on its stored statistics. Five
//! epochs of SGD, the rate falling by half a cosine from epoch to epoch.
//!
//! Nothing before the routers changes, so an image needs to go through the experts once. Which images are drawn is decided
//! before; the experts run over those in parallel, in the float reference, and what routers see is kept in memory as far as
//! it may be, part after part of the sequence.

mod draws;
mod features;
mod model;
mod net;
#[cfg(test)]
mod tests;

use anyhow::{Result, ensure};
use ride_calibrate::data::DataSet;
use serde::Serialize;

use super::augment::Recipe;
use super::optimizer::{self, Sgd};
use super::schedule::{Decay, Schedule};
use crate::network::Network;
use crate::reference::Executor;
use draws::Draws;
use features::{Layout, Rows};
use net::{Batch, RouterNet};

pub use model::{Prepared, check_output, prepare};

/// Hidden units of a router.
pub const HIDDEN: usize = 16;

/// How routers are trained.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Passes over as many draws as there are images.
    pub epochs: usize,
    /// Images in a step.
    pub batch: usize,
    /// The first epoch's learning rate.
    pub rate: f64,
    /// Momentum and weight decay.
    #[serde(flatten)]
    pub sgd: optimizer::Settings,
    /// Weight of an image for which the next expert is worth running.
    pub pos_weight: f64,
    /// Sorted mean logits that a router sees.
    pub top_choices: usize,
    /// Whether all routers have their last layer in common.
    pub shared_fc: bool,
    /// What happens to images.
    pub augment: Recipe,
    /// Varied copies of an image at most; an image that is drawn more often is seen again as it was.
    pub views: usize,
    /// Bytes that may be kept of what routers see.
    pub memory: usize,
    /// What randomness starts from.
    pub seed: u64,
}

/// What happens while routers are trained.
#[derive(Clone, Copy, Debug)]
pub enum Event<'e> {
    /// The experts have run for one of `total` images.
    Image {
        /// Forward passes altogether.
        total: usize,
    },
    /// An epoch is over.
    Epoch(&'e Epoch),
}

/// Called from any thread.
pub type OnEvent<'a> = &'a (dyn Fn(Event<'_>) + Sync);

/// One epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Epoch {
    /// From 1 on.
    pub epoch: usize,
    /// Learning rate.
    pub rate: f64,
    /// Mean loss.
    pub loss: f64,
    /// Of each router.
    pub routers: Vec<RouterEpoch>,
}

/// One router in one epoch, over class-balanced draws of training images: experts are surer of these than of others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouterEpoch {
    /// Images for which the next expert is worth running, percent.
    pub worth: f64,
    /// Images for which the router says so, percent.
    pub proceeds: f64,
    /// Of those for which it is worth it, how many it lets through, percent; `None` if there are none.
    pub found: Option<f64>,
}

/// Trained routers.
#[derive(Clone, Debug)]
pub struct Trained {
    /// By the official names.
    pub tensors: std::collections::BTreeMap<String, crate::checkpoint::Tensor>,
    /// One for each epoch.
    pub epochs: Vec<Epoch>,
    /// Forward passes of the experts.
    pub images: usize,
}

impl Settings {
    /// Checks the numbers for a network.
    ///
    /// # Errors
    /// Names the setting that is out of range.
    pub fn check(&self, network: &Network) -> Result<()> {
        let experts = network.experts.len();
        ensure!(experts > 1, "the model has one expert, so there is nothing to route");
        ensure!(self.epochs > 0 && self.batch > 0 && self.views > 0, "epochs, batch and views must be 1 or more");
        ensure!(
            self.rate.is_finite() && self.rate > 0.0,
            "the learning rate is {}; expected a positive number",
            self.rate
        );
        for (name, value) in [("momentum", self.sgd.momentum), ("weight decay", self.sgd.weight_decay)] {
            ensure!((0.0..1.0).contains(&value), "the {name} is {value}; expected a number from 0 to below 1");
        }
        ensure!(
            self.pos_weight.is_finite() && self.pos_weight > 0.0,
            "pos_weight is {}; expected a positive number",
            self.pos_weight
        );
        ensure!(
            (1..=network.classes).contains(&self.top_choices),
            "top_choices_num is {} but there are {} classes; a router cannot see more logits than there are",
            self.top_choices,
            network.classes
        );
        let features = network.experts[0].head.features;
        let same = network.experts.iter().all(|expert| expert.head.features == features);
        ensure!(same, "the experts' features differ in length; routers of one shape cannot see them all");
        let plain = network.experts.iter().enumerate().all(|(n, expert)| expert.head.divisor == (n + 1) as f32);
        ensure!(plain, "routers are trained on the plain mean of the experts");
        Ok(())
    }
}

/// Trains routers for the network's experts; routers that it has play no part.
///
/// # Errors
/// If the settings or the data set do not fit the network, an image cannot be read, or the loss is no number any more.
pub fn train(network: &Network, data: &DataSet, settings: &Settings, event: OnEvent<'_>) -> Result<Trained> {
    settings.check(network)?;
    data.check_classes(network.classes)?;
    let unrouted = Network { routing: crate::network::Routing::None, ..network.clone() };
    let executor = Executor::new(&unrouted)?;
    let layout = Layout {
        routers: network.experts.len() - 1,
        features: network.experts[0].head.features,
        top_k: settings.top_choices,
    };
    let draws = Draws::new(data.labels(), settings);
    let segments = draws.segments(settings.memory / (4 * layout.row()));
    let total = segments.iter().map(|segment| segment.distinct.len()).sum();
    let mut trainer = Trainer::new(layout, settings)?;
    for segment in &segments {
        let rows =
            Rows::compute(&executor, data, settings, layout, &segment.distinct, &|| event(Event::Image { total }))?;
        for step in &segment.steps {
            trainer.step(&rows, step)?;
            if let Some(epoch) = trainer.ended(step) {
                event(Event::Epoch(&epoch));
                trainer.epochs.push(epoch);
            }
        }
    }
    Ok(Trained { tensors: trainer.net.tensors()?, epochs: trainer.epochs, images: total })
}

struct Trainer<'s> {
    settings: &'s Settings,
    schedule: Schedule,
    net: RouterNet,
    sgd: Sgd,
    sums: Sums,
    epochs: Vec<Epoch>,
}

/// Sums over the draws of an epoch.
#[derive(Clone, Debug, Default)]
struct Sums {
    draws: usize,
    loss: f64,
    /// Of each router: worth it, let through, both.
    routers: Vec<[usize; 3]>,
}

impl<'s> Trainer<'s> {
    fn new(layout: Layout, settings: &'s Settings) -> Result<Self> {
        let net = RouterNet::new(layout, settings.shared_fc, settings.seed)?;
        let sgd = Sgd::new(settings.sgd, net.parameters())?;
        let decay = Decay::Cosine { end: 0.0 };
        let schedule = Schedule { rate: settings.rate, warmup: 0.0, decay, epochs: settings.epochs as f64 };
        let sums = Sums { routers: vec![[0; 3]; layout.routers], ..Sums::default() };
        Ok(Self { settings, schedule, net, sgd, sums, epochs: Vec::new() })
    }

    /// The authors' rate is constant within an epoch.
    fn rate(&self, epoch: usize) -> f64 {
        self.schedule.rate(epoch as f64)
    }

    fn step(&mut self, rows: &Rows, step: &draws::Step) -> Result<()> {
        let batch = Batch::gather(rows, &step.rows)?;
        let result = self.net.loss(&batch, self.settings.pos_weight)?;
        ensure!(
            result.loss.is_finite(),
            "the loss is no number any more in epoch {} of {}; nothing was written; try a lower learning rate (--lr, now {})",
            step.epoch + 1,
            self.settings.epochs,
            self.settings.rate
        );
        let rate = self.rate(step.epoch);
        self.sgd.step(self.net.parameters(), &result.gradients, rate)?;
        self.sums.draws += step.rows.len();
        self.sums.loss += result.loss * step.rows.len() as f64;
        for ((sums, scores), targets) in self.sums.routers.iter_mut().zip(&result.scores).zip(&batch.targets) {
            for (&score, &target) in scores.iter().zip(targets) {
                let (worth, proceeds) = (target > 0.5, score > 0.0);
                sums[0] += usize::from(worth);
                sums[1] += usize::from(proceeds);
                sums[2] += usize::from(worth && proceeds);
            }
        }
        Ok(())
    }

    /// The epoch that this step was the last of.
    fn ended(&mut self, step: &draws::Step) -> Option<Epoch> {
        if !step.last {
            return None;
        }
        let sums = std::mem::take(&mut self.sums);
        self.sums.routers = vec![[0; 3]; sums.routers.len()];
        let percent = |part: usize, whole: usize| 100.0 * part as f64 / whole as f64;
        let router = |&[worth, proceeds, both]: &[usize; 3]| RouterEpoch {
            worth: percent(worth, sums.draws),
            proceeds: percent(proceeds, sums.draws),
            found: (worth > 0).then(|| percent(both, worth)),
        };
        Some(Epoch {
            epoch: step.epoch + 1,
            rate: self.rate(step.epoch),
            loss: sums.loss / sums.draws as f64,
            routers: sums.routers.iter().map(router).collect(),
        })
    }
}
