//! How good a float network is, and what it costs.

use anyhow::{Context, Result};
use rayon::prelude::*;
use ride_calibrate::data::DataSet;
use ride_calibrate::groups::ClassGroups;
use ride_calibrate::metrics::{Outcome, Score, ScoreReport};
use serde_json::Value;

use super::net::Net;
use crate::checkpoint::Checkpoint;
use crate::import::{self, ImportOptions};
use crate::network::Network;
use crate::reference::{Executor, Image, Policy, Scratch, argmax};

/// Accuracy of the first 1, 2, ... experts of a network on all images. `counts` are the training images of each class.
///
/// # Errors
/// If the data set belongs to another model or an image cannot be read.
pub fn accuracy(
    network: &Network,
    data: &DataSet,
    counts: &[u32],
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<ScoreReport>> {
    data.check_classes(network.classes)?;
    let executor = Executor::new(network)?;
    let experts = network.experts.len();
    let none = || -> Vec<Score> { vec![Score::new(ClassGroups::new(counts.to_vec()), experts); experts] };
    let judge = |scratch: &mut Scratch, index: usize| -> Result<Vec<usize>> {
        let pixels = data.pixels(index)?;
        let forward = executor.forward(Image::Pixels(&pixels), Policy::All, scratch, None);
        let forward = forward.with_context(|| data.record_name(index))?;
        progress(data.len());
        Ok((1..=experts).map(|n| argmax(&forward.mean_of(n))).collect())
    };
    let classes = (0..data.len()).into_par_iter().map_init(Scratch::default, judge).collect::<Result<Vec<_>>>()?;
    let mut scores = none();
    for (index, classes) in classes.into_iter().enumerate() {
        for (n, (score, class)) in scores.iter_mut().zip(classes).enumerate() {
            score.add(data.label(index) as usize, Outcome { class, experts: n + 1 });
        }
    }
    Ok(scores.iter().map(Score::report).collect())
}

/// What the importer makes of a network in training: as `build` will see it.
///
/// # Errors
/// If the network is none that can be compiled, or the device fails.
pub fn imported(config: &Value, net: &Net) -> Result<Network> {
    let checkpoint = Checkpoint { config: config.clone(), tensors: net.tensors()?, ..Checkpoint::default() };
    Ok(import::network(&checkpoint, &ImportOptions::default()).context("the student")?.network)
}
