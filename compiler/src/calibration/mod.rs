//! Calibration: the float network runs over a few hundred images and the range and the channel means of every value are
//! written down in a [`CalibrationTable`].
//!
//! All experts run on every image, whatever the routers say: a rarely used expert needs ranges as good as the others'.
//! The statistics merge exactly, and each image is computed alone, so the same images give the same table whatever the
//! number of threads.

mod fingerprint;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use ride_calibrate::data::DataSet;
use ride_calibrate::observer::{Observer, TensorStats};
use ride_calibrate::sampling;
use ride_calibrate::table::{CalibrationTable, Origin};

use crate::network::{Network, Part, Shape};
use crate::reference::{Executor, INPUT, Image, Observe, Policy, Scratch};

pub use fingerprint::fingerprint;

/// What to calibrate with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How many images run; fewer if the data set has fewer.
    pub images: usize,
    /// Seed of their choice.
    pub seed: u64,
    /// Whether the classes give equally many images as far as they can, so that rare classes set ranges too; otherwise
    /// every image is equally likely.
    pub balanced: bool,
    /// How ranges are chosen from what was observed.
    pub observer: Observer,
}

/// How far calibration has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Images that have run.
    pub done: usize,
    /// Images altogether.
    pub total: usize,
}

/// Called from any thread after each image; several calls may run at once and arrive out of order.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Sync);

/// Statistics of every value of a network by the name of the node that computes it.
pub type Statistics = BTreeMap<String, TensorStats>;

/// Runs the network over images of `data` and returns the table of all its values.
///
/// # Errors
/// If the network does not fit together, the data set belongs to another model (labels, image size), an image cannot be
/// read, or a value is not finite; the message names the image and the value.
pub fn calibrate(
    network: &Network,
    data: &DataSet,
    settings: &Settings,
    progress: OnProgress<'_>,
) -> Result<CalibrationTable> {
    data.check_classes(network.classes)?;
    let images = choose(data.labels(), settings);
    let image = |index: usize| data.pixels(index);
    let statistics = collect(network, &images, image, progress)?;
    let mut table = tabulate(network, &statistics, images.len(), settings)?;
    table.class_counts = data.class_counts(network.classes)?;
    table.class_names = data.class_names().map(<[String]>::to_vec).unwrap_or_default();
    Ok(table)
}

/// Indices of the images that the settings choose from a set with these labels, in drawing order.
pub fn choose(labels: &[u32], settings: &Settings) -> Vec<usize> {
    if settings.balanced {
        sampling::class_balanced(labels, settings.images, settings.seed)
    } else {
        sampling::uniform(labels.len(), settings.images, settings.seed)
    }
}

/// Name and shape of every value that is calibrated: the output of each node, stem first, in execution order. The
/// network's input is not among them: it is raw `u8`.
///
/// # Errors
/// If the shapes of a part do not fit together.
pub fn values(network: &Network) -> Result<Vec<(&str, Shape)>> {
    let stem = part_values(&network.stem, network.input.shape)?;
    let stem_output = stem.last().map_or(network.input.shape, |(_, shape)| *shape);
    let mut values = stem;
    for expert in &network.experts {
        values.extend(part_values(&expert.trunk, stem_output)?);
    }
    Ok(values)
}

fn part_values(part: &Part, input: Shape) -> Result<Vec<(&str, Shape)>> {
    let shapes = part.shapes(input).with_context(|| format!("{}: the shapes do not fit together", part.name))?;
    Ok(part.nodes.iter().zip(&shapes[1..]).map(|(node, &shape)| (node.name.as_str(), shape)).collect())
}

/// Checks that `table` was made from this network and has all of its values.
///
/// # Errors
/// See [`CalibrationTable::check`].
pub fn check(network: &Network, table: &CalibrationTable) -> Result<()> {
    let values = values(network)?;
    table.check(&fingerprint(network), values.iter().map(|(name, shape)| (*name, shape.channels)))
}

/// The table of statistics that `images` images have given.
///
/// # Errors
/// If a value was never observed.
pub fn tabulate(
    network: &Network,
    statistics: &Statistics,
    images: usize,
    settings: &Settings,
) -> Result<CalibrationTable> {
    let Settings { observer, seed, .. } = *settings;
    let mut table =
        CalibrationTable::new(Origin { model: fingerprint(network), observer, images: images as u64, seed });
    for (name, stats) in statistics {
        table.insert(name, stats)?;
    }
    Ok(table)
}

/// Runs all experts over the images that `pixels` gives for each of `images` and observes every value, in parallel.
///
/// # Errors
/// As [`calibrate`]; of several images that fail, the first in the order of `images` is named.
pub fn collect<'a>(
    network: &Network,
    images: &[usize],
    pixels: impl Fn(usize) -> Result<Cow<'a, [u8]>> + Sync,
    progress: OnProgress<'_>,
) -> Result<Statistics> {
    ensure!(!images.is_empty(), "there are no images to calibrate with; at least one is needed");
    let executor = Executor::new(network)?;
    let empty = empty_statistics(network)?;
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // Places are given out in order, so a failure leaves none before it unvisited.
    let take = || {
        let place = next.fetch_add(1, Ordering::Relaxed);
        images.get(place).map(|&index| (place, index))
    };
    let worker = |_: rayon::BroadcastContext<'_>| {
        let mut collector = Collector { statistics: empty.clone(), failed: None };
        let mut scratch = Scratch::default();
        while let Some((place, index)) = take() {
            let run = pixels(index).and_then(|pixels| collector.run(&executor, &pixels, &mut scratch));
            if let Err(error) = run {
                next.store(images.len(), Ordering::Relaxed);
                return Err((place, error.context(format!("calibration fails on image {index}"))));
            }
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            progress(Progress { done, total: images.len() });
        }
        Ok(collector.statistics)
    };
    merge(rayon::broadcast(worker))
}

/// Merges what the threads have observed, or returns the failure of the first image.
fn merge(parts: Vec<Result<Statistics, (usize, anyhow::Error)>>) -> Result<Statistics> {
    let (mut merged, mut failures) = (Statistics::new(), Vec::new());
    for part in parts {
        match part {
            Err(failure) => failures.push(failure),
            Ok(part) if merged.is_empty() => merged = part,
            Ok(part) => {
                for (into, from) in merged.values_mut().zip(part.values()) {
                    into.merge(from)?;
                }
            }
        }
    }
    match failures.into_iter().min_by_key(|(place, _)| *place) {
        Some((_, error)) => Err(error),
        None => Ok(merged),
    }
}

fn empty_statistics(network: &Network) -> Result<Statistics> {
    let mut statistics = Statistics::new();
    for (name, shape) in values(network)? {
        let old = statistics.insert(name.to_owned(), TensorStats::new(shape.channels));
        ensure!(old.is_none() && name != INPUT, "two values of the network have the name {name}");
    }
    Ok(statistics)
}

/// What one thread observes.
struct Collector {
    statistics: Statistics,
    /// The first value of an image that could not be observed.
    failed: Option<anyhow::Error>,
}

impl Collector {
    fn run(&mut self, executor: &Executor, pixels: &[u8], scratch: &mut Scratch) -> Result<()> {
        executor.forward(Image::Pixels(pixels), Policy::All, scratch, Some(self))?;
        self.failed.take().map_or(Ok(()), Err)
    }
}

impl Observe for Collector {
    fn value(&mut self, name: &str, _: Shape, data: &[f32]) {
        let Some(stats) = self.statistics.get_mut(name) else { return };
        if let (Err(error), None) = (stats.observe(data), &self.failed) {
            self.failed = Some(error.context(format!("the value {name}")));
        }
    }
}
