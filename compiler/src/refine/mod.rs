//! Post-training refinement: an artifact closer to its float network, without labels and without training.
//!
//! 1. Residual streams whose last values are far larger than the others are cut in two, so that those do not share
//!    their coarse scale (`streams`).
//! 2. The convolutions for which it pays most read all 16 bits of their input, at twice their multiply-accumulates, for as
//!    many of those as [`Options`] grant (`reads`).
//! 3. What residual streams begin with is computed a second time for the convolution that reads it, in a scale of its own,
//!    if that reads it with 8 bits (`first`).
//! 4. Every convolution's weights are rounded so that its output changes least on the inputs that it sees
//!    (`curvature`), in place of each weight to the nearest step.
//! 5. Every classifier is fitted to the features that the int8 trunk then really computes (`heads`), with the float
//!    network's logits as the aim, and rounded in the same way; where classifiers are a small part of the network, to 16 bits.
//!
//! Channels are not equalised beforehand (Nagel et al., ICCV 2019): weights have a scale for each output channel and are
//! rounded by what their inputs are like, so on the RIDE models that were tried equalisation is worth 0.1 dB, and activations
//! could no longer be compared with the float network's.
//!
//! All of it looks at images only, and the artifact is an ordinary one. Images are computed alone and
//! sums are exact or in one order, so the same images give the same bytes whatever the number of threads.

mod curvature;
mod first;
mod heads;
mod moments;
mod reads;
mod streams;
mod windows;

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::{Result, anyhow, ensure};
use rayon::prelude::*;
use ride_calibrate::table::CalibrationTable;
use ride_runtime::Model;
use serde::Serialize;

use crate::artifact_file;
use crate::lower::rounding::{ConvSite, Rounding, conv_sites, min_scale};
use crate::lower::{self, Fine, Request, compile_rounded};
use crate::memory::AlignedBytes;
use crate::network::{Head, Network};
use crate::reference::Executor;
use curvature::{Curvature, Rounded};
use heads::Drafts;
use reads::{Choice, Plan};
use windows::SiteMoments;

/// Bytes for moments of all threads together; layers that need more take turns, with a run over the images for each.
const MEMORY: usize = 1 << 30;

/// What the name of a copy at another scale ends with, after the name of the value that it copies.
pub const RESCALED: &str = ".rescaled";

/// The images to refine with.
pub struct Images<'a> {
    /// Their numbers.
    pub indices: &'a [usize],
    /// Raw pixels of an image by its number.
    pub pixels: &'a (dyn Fn(usize) -> Result<Cow<'a, [u8]>> + Sync),
}

/// How far refinement may go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Multiply-accumulates that reading 16 bits may add, as a part of those of all experts; 0 for none.
    pub macs: f64,
}

impl Options {
    /// The same multiply-accumulates as before, but for a second run of a small first convolution.
    pub const NO_COST: Options = Options { macs: 0.0 };
}

/// Called from any thread after each image with the number of steps altogether.
pub type OnStep<'a> = &'a (dyn Fn(usize) + Sync);
/// The same without the number.
type OnProgress<'a> = &'a (dyn Fn() + Sync);

/// What [`refine`] has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Refined {
    /// The network that was refined: with some residuals copied and first convolutions run twice, the same function as
    /// before.
    pub network: Network,
    /// The calibration table of its values.
    pub table: CalibrationTable,
    /// Its weights.
    pub rounding: Rounding,
    /// What computes with 16 bits.
    pub fine: Fine,
    /// What it brings on the images that were used.
    pub report: Report,
}

impl Refined {
    /// Compiles what was refined, with everything else as in `request`, which it was made from.
    ///
    /// # Errors
    /// As [`crate::lower::compile`].
    pub fn compile(&self, request: &Request<'_>) -> Result<Vec<u8>> {
        let (network, table, fine) = (&self.network, &self.table, &self.fine);
        compile_rounded(&Request { network, table, fine, ..*request }, &self.rounding)
    }
}

/// What refinement brings on the images that it used. Ratios are of the mean logits of all experts, in decibels.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Number of images.
    pub images: usize,
    /// Signal-to-noise ratio without refinement.
    pub nearest_db: f64,
    /// The same after refinement.
    pub refined_db: f64,
    /// First convolutions that run twice.
    pub doubled: usize,
    /// Residuals that are copied to another scale.
    pub copies: usize,
    /// Convolutions that read all 16 bits of their input.
    pub fine_reads: Vec<String>,
    /// Multiply-accumulates that they cost.
    pub fine_macs: u64,
    /// Whether classifiers have weights of 16 bits.
    pub fine_heads: bool,
    /// Residual streams that are read in no other way, and whose range therefore cuts off nothing.
    pub free_streams: usize,
    /// Error of each convolution's output that is left, as a part of that of rounding to nearest: the mean over all
    /// convolutions, each for itself on float inputs.
    pub rounding_left: f64,
    /// Ridge that each expert's classifier was fitted with, as a part of the features' variance; none where fitting does not
    /// help on images that were left out.
    pub ridges: Vec<Option<f64>>,
    /// Whether the refined weights are used: not if the logits would be no better.
    pub used: bool,
}

/// Refines the weights of `request`'s network on `images`.
///
/// # Errors
/// If the network cannot be compiled, or an image cannot be read; the message names it.
pub fn refine(request: &Request<'_>, images: &Images<'_>, options: Options, progress: OnStep<'_>) -> Result<Refined> {
    ensure!(!images.indices.is_empty(), "there are no images to refine with; at least one is needed");
    let original = *request;
    let cut = Shaped::of(request).then(request, streams::cut)?;
    let fine_heads = Fine { heads: heads::can_be_fine(&cut.request(request))?, ..Fine::default() };
    let request = &Request { fine: &fine_heads, ..*request };
    let plan = Plan::new(&cut.request(request), options.macs, images.indices.len())?;
    // Batches of moments depend on what is chosen, but there are nearly always as many as now.
    let memory = MEMORY / rayon::current_num_threads().max(1);
    let expected = batches(&conv_sites(&cut.request(request))?, memory).len();
    let total = plan.steps() + (expected + 2) * images.indices.len();
    let progress = || progress(total);
    let Choice { fine, table, macs: fine_macs, free } = plan.choose(&cut.request(request), images, &progress)?;
    let request = &Request { fine: &fine, ..*request };
    let copies = cut.added;
    let shaped = Shaped { table, added: 0, ..cut }.then(request, first::twice)?;
    let doubled = shaped.added;
    let request = &shaped.request(request);
    let Shaped { network, .. } = &shaped;

    let executor = Executor::new(network)?;
    let sites = conv_sites(request)?;
    let batches = batches(&sites, memory);

    let mut rounding = Rounding::default();
    let mut left = Vec::new();
    for batch in batches {
        let moments = windows::collect(&executor, batch, images, &progress)?;
        let rounded: Vec<Vec<Rounded>> = batch.par_iter().zip(moments).map(|(site, m)| round(site, m)).collect();
        for (site, rows) in batch.iter().zip(rounded) {
            left.push(part_left(&rows));
            rounding.layers.insert(site.name.clone(), rows.into_iter().map(|r| r.row).collect());
        }
    }

    let (nearest, rounded) = (draft(&original, None)?, draft(request, Some(&rounding))?);
    let drafts = Drafts { nearest: parse(&nearest)?, rounded: parse(&rounded)? };
    let heads: Vec<&Head> = request.network.experts.iter().map(|expert| &expert.head).collect();
    let study = heads::study(&executor, &drafts, &heads, images, &progress)?;
    let mut ridges = Vec::new();
    for (n, head) in heads.iter().enumerate() {
        let refit = study.refit(n, head, request.fine.heads)?;
        rounding.layers.insert(format!("expert{n}.head"), refit.rows);
        ridges.push(refit.ridge);
    }
    let refined = draft(request, Some(&rounding))?;
    let refined_db = study.noise(parse(&refined)?, images, &progress)?.db();
    let nearest_db = study.nearest.db();
    // Also where both are infinite or none is a number.
    let used = refined_db > nearest_db;
    let rounding_left = left.iter().sum::<f64>() / left.len().max(1) as f64;
    let images = images.indices.len();
    let fine_reads = fine.reads.iter().cloned().collect();
    let fine_heads = fine.heads;
    let free_streams = free.len();
    let report = Report {
        images,
        nearest_db,
        refined_db,
        doubled,
        copies,
        fine_reads,
        fine_macs,
        fine_heads,
        free_streams,
        rounding_left,
        ridges,
        used,
    };
    let (request, rounding) = if used { (request, rounding) } else { (&original, Rounding::default()) };
    let (network, table, fine) = (request.network.clone(), request.table.clone(), request.fine.clone());
    Ok(Refined { network, table, rounding, fine, report })
}

/// The network with other scales.
struct Shaped {
    network: Network,
    table: CalibrationTable,
    /// Values that it has more than before.
    added: usize,
}

/// A change that keeps the function; none where nothing is to be gained.
type Change = fn(&Request<'_>) -> Result<Option<(Network, CalibrationTable)>>;

impl Shaped {
    fn of(request: &Request<'_>) -> Self {
        Shaped { network: request.network.clone(), table: request.table.clone(), added: 0 }
    }

    /// `request` with this network.
    fn request<'a>(&'a self, request: &Request<'a>) -> Request<'a> {
        Request { network: &self.network, table: &self.table, ..*request }
    }

    /// After one more change.
    fn then(self, request: &Request<'_>, change: Change) -> Result<Self> {
        let changed = change(&self.request(request))?;
        Ok(match changed {
            Some((network, table)) => {
                let added = self.added + table.values.len() - self.table.values.len();
                Shaped { network, table, added }
            }
            None => self,
        })
    }
}

/// An artifact for this machine, whose kernels are the fastest here; the bits are the same on every target.
fn draft(request: &Request<'_>, rounding: Option<&Rounding>) -> Result<AlignedBytes> {
    let target = &ride_targets::find(ride_targets::host())?;
    let rounding = rounding.unwrap_or(const { &Rounding { layers: BTreeMap::new() } });
    Ok(AlignedBytes::copy_of(&lower::draft(&Request { target, ..*request }, rounding)?))
}

fn parse(bytes: &AlignedBytes) -> Result<Model<'_>> {
    let model = Model::parse(bytes).map_err(|e| anyhow!("the runtime refuses the draft of the artifact: {e}"))?;
    artifact_file::check_arena(model)?;
    Ok(model)
}

/// Splits the layers into runs whose moments fit into `memory` bytes; a layer that does not fit goes alone.
fn batches<'a, 'n>(sites: &'a [ConvSite<'n>], memory: usize) -> Vec<&'a [ConvSite<'n>]> {
    let (mut batches, mut first, mut bytes) = (Vec::new(), 0, 0usize);
    for (n, site) in sites.iter().enumerate() {
        let own = windows::bytes(site);
        if n > first && bytes + own > memory {
            batches.push(&sites[first..n]);
            (first, bytes) = (n, 0);
        }
        bytes += own;
    }
    if first < sites.len() {
        batches.push(&sites[first..]);
    }
    batches
}

/// Rounds the rows of one convolution.
fn round(site: &ConvSite<'_>, moments: SiteMoments) -> Vec<Rounded> {
    let (conv, taps) = (site.conv, windows::taps(site));
    let (inputs, outputs) = (conv.in_channels / conv.groups, conv.out_channels / conv.groups);
    let group = |(group, moments)| {
        let curvature = Curvature::new(moments);
        let row = |o: usize| {
            let weights = &conv.weight[o * taps..][..taps];
            let step = |k: usize| site.steps[group * inputs + k % inputs];
            let row: Vec<f64> = weights.iter().enumerate().map(|(k, &w)| f64::from(w) * step(k)).collect();
            let bias = f64::from(conv.bias[o]);
            curvature.round(&row, bias, min_scale(bias))
        };
        (group * outputs..(group + 1) * outputs).into_par_iter().map(row).collect::<Vec<_>>()
    };
    moments.into_par_iter().enumerate().flat_map_iter(group).collect()
}

/// What is left of the error of rounding to nearest.
fn part_left(rows: &[Rounded]) -> f64 {
    let sum = |cost: fn(&Rounded) -> f64| rows.iter().map(cost).sum::<f64>();
    let nearest = sum(|r| r.nearest);
    if nearest > 0.0 { sum(|r| r.cost) / nearest } else { 1.0 }
}
