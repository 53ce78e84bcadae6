//! Ranges of activations, chosen by what they do to the logits.
//!
//! Calibration weighs what is clipped against coarser steps for each value alone. What is clipped moves all layers behind
//! it in one direction, though, while rounding errors average out, and all values of a residual stream share one
//! scale. So each stream's range, and those of the other values of each part together, are tried larger and smaller on the
//! int8 program itself.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use rayon::prelude::*;
use ride_calibrate::table::CalibrationTable;

use super::heads::noise;
use super::{Images, OnProgress, draft, parse};
use crate::lower::Request;
use crate::lower::rounding::residual_streams;
use crate::reference::{Executor, Image, Policy, Scratch};

/// Factors that are tried, each against the best so far.
const FACTORS: [f32; 3] = [1.15, 1.3, 0.9];
/// At most so many images: the first ones.
const IMAGES: usize = 512;
/// What a change must bring, as a part of the squared error, so that chance is left alone.
const GAIN: f64 = 0.01;

/// How often [`choose`] reports progress.
///
/// # Errors
/// If the network cannot be compiled.
pub(super) fn steps(request: &Request<'_>, images: usize) -> Result<usize> {
    Ok(images.min(IMAGES) + FACTORS.len() * groups(request)?.len())
}

/// The table of `request` with other ranges where they bring the logits closer to the float network's.
///
/// # Errors
/// If the network cannot be compiled or an image cannot be read.
pub(super) fn choose(
    request: &Request<'_>,
    executor: &Executor,
    images: &Images<'_>,
    progress: OnProgress<'_>,
) -> Result<CalibrationTable> {
    let images = Images { indices: &images.indices[..images.indices.len().min(IMAGES)], ..*images };
    let wanted = wanted(executor, &images, progress)?;
    let error = |table: &CalibrationTable| -> Result<f64> {
        let bytes = draft(&Request { table, ..*request }, None)?;
        Ok(noise(parse(&bytes)?, &wanted, &images, &|| ())?.noise())
    };
    let mut best = request.table.clone();
    let mut least = error(&best)?;
    for group in groups(request)? {
        let mut found_one = false;
        for factor in FACTORS {
            progress();
            if found_one {
                continue;
            }
            let table = scaled(&best, &group, factor);
            // A range can become too small for the weights; then it is none to choose.
            let Ok(found) = error(&table) else { continue };
            if found < (1.0 - GAIN) * least {
                (best, least, found_one) = (table, found, true);
            }
        }
    }
    Ok(best)
}

/// The float network's mean logits of all experts.
fn wanted(executor: &Executor, images: &Images<'_>, progress: OnProgress<'_>) -> Result<Vec<Vec<f32>>> {
    let run = |scratch: &mut Scratch, &index: &usize| {
        let pixels = (images.pixels)(index)?;
        let forward = executor.forward(Image::Pixels(&pixels), Policy::All, scratch, None);
        progress();
        Ok(forward.with_context(|| format!("refinement fails on image {index}"))?.mean_logits)
    };
    images.indices.par_iter().map_init(Scratch::default, run).collect()
}

/// Values whose ranges change together: each residual stream, then what is left of each part.
fn groups(request: &Request<'_>) -> Result<Vec<Vec<String>>> {
    let mut groups = residual_streams(request.network)?;
    let taken: BTreeSet<String> = groups.iter().flatten().cloned().collect();
    let network = request.network;
    for part in std::iter::once(&network.stem).chain(network.experts.iter().map(|expert| &expert.trunk)) {
        groups.push(part.nodes.iter().map(|node| node.name.clone()).filter(|name| !taken.contains(name)).collect());
    }
    groups.retain(|group| !group.is_empty());
    Ok(groups)
}

fn scaled(table: &CalibrationTable, group: &[String], factor: f32) -> CalibrationTable {
    let mut table = table.clone();
    for name in group {
        if let Some(value) = table.values.get_mut(name) {
            (value.min, value.max) = (value.min * factor, value.max * factor);
        }
    }
    table
}
