//! Runs all experts and routers over a data set.

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use ride_calibrate::data::DataSet;
use ride_runtime::batch::Batch;
use ride_runtime::{Model, Session};

use super::observations::{Observation, Observations};
use super::scale::Scale;
use crate::lower::native::Native;
use crate::network::{Network, Routing};
use crate::reference::{self, Executor, Image, Policy, Scratch};
use crate::{artifact_file, verify};

/// Runs an artifact as a device does, on this machine's own kernels ([`Native`]); `counts` are the training images of each class for an artifact without, empty if not
/// known.
///
/// # Errors
/// If the artifact has no routers, the data set belongs to another model, or an image cannot be read.
pub fn of_artifact(
    model: Model<'_>,
    data: &DataSet,
    limit: Option<usize>,
    counts: &[u32],
    progress: verify::OnProgress<'_>,
) -> Result<Observations> {
    ensure!(
        model.routed(),
        "the artifact has no routers, so there are no thresholds to choose; build it from a model with trained routers \
         (`ride-compile train-router`) or with --router max-probability, margin or entropy"
    );
    data.check_classes(model.classes())?;
    let counts = verify::class_counts(model, counts)?;
    let native = Native::of(model)?;
    let model = native.checked()?;
    artifact_file::check_arena(model)?;
    let images = verify::choose(data, limit)?;
    let routers = (0..model.experts() - 1).filter_map(|n| model.router(n));
    let scales: Vec<Scale> = routers.map(|router| Scale::of(&router, model.classes())).collect();
    let image = |session: &mut Session<'_, '_>, _: &mut (), place: usize| -> Result<Observation> {
        let index = images[place];
        let pixels = data.pixels(index)?;
        let label = data.label(index) as usize;
        let observation = step_through(session, &pixels, label);
        progress(images.len());
        observation.with_context(|| format!("cannot run {}", data.record_name(index)))
    };
    let images = Batch::new(model, rayon::current_num_threads()).run(images.len(), || (), image)?;
    Ok(Observations { images, scales, counts })
}

fn step_through(session: &mut Session<'_, '_>, pixels: &[u8], label: usize) -> Result<Observation> {
    session.start(pixels)?;
    let mut observation = Observation { label, classes: Vec::new(), scores: Vec::new() };
    for _ in 0..session.model().experts() {
        let progress = session.step()?;
        observation.classes.push(session.outcome()?.class);
        observation.scores.extend(progress.score);
    }
    Ok(observation)
}

/// Runs the float model; `counts` are the training images of each class, empty if not known.
///
/// # Errors
/// If the network has no routers or is broken, the data set belongs to another model, or an image cannot be read.
pub fn of_network(
    network: &Network,
    data: &DataSet,
    limit: Option<usize>,
    counts: &[u32],
    progress: verify::OnProgress<'_>,
) -> Result<Observations> {
    ensure!(
        network.routing != Routing::None,
        "the model has no routers, so there are no thresholds to choose; train some (`ride-compile train-router`), or choose \
         one of --router max-probability, margin, entropy"
    );
    let images = forwards(network, data, limit, progress, |label, forward| Observation {
        label,
        classes: (1..=forward.used()).map(|n| reference::argmax(&forward.mean_of(n))).collect(),
        scores: forward.scores.clone(),
    })?;
    let scales = Scale::of_routing(&network.routing, network.classes);
    Ok(Observations { images, scales, counts: (!counts.is_empty()).then(|| counts.to_vec()) })
}

/// What `keep` makes of each image's label and forward pass through all experts, in the order of the images.
pub(super) fn forwards<T: Send>(
    network: &Network,
    data: &DataSet,
    limit: Option<usize>,
    progress: verify::OnProgress<'_>,
    keep: impl Fn(usize, &reference::Forward) -> T + Sync,
) -> Result<Vec<T>> {
    data.check_classes(network.classes)?;
    let images = verify::choose(data, limit)?;
    let executor = Executor::new(network)?;
    let run = |scratch: &mut Scratch, &index: &usize| -> Result<T> {
        let pixels = data.pixels(index)?;
        let forward = executor.forward(Image::Pixels(&pixels), Policy::All, scratch, None);
        let forward = forward.with_context(|| format!("cannot run {}", data.record_name(index)))?;
        progress(images.len());
        Ok(keep(data.label(index) as usize, &forward))
    };
    images.par_iter().map_init(Scratch::default, run).collect()
}
