//! Convolutions that read all 16 bits of an activation.
//!
//! What is left of int8's noise after refinement comes mostly from reading activations with 8 bits and, in residual streams,
//! from cutting off what lies beyond the calibrated range. A convolution that runs twice, over the upper and over the
//! lower bytes, reads without loss; and a stream that is read in no other way needs no range that cuts anything off.
//!
//! What each such read is worth is measured, in an artifact that reads 16 bits everywhere: how far do the routers' scores (or
//! the logits of a network without routers) move when this one convolution reads 8 bits? Nothing behind it rounds, so
//! that is its own noise; where everything rounds, the least change makes all roundings behind it fall otherwise, and
//! the difference says nothing. No labels are needed. Reads are then taken in the order of noise for multiply-accumulates,
//! as many as the user grants.

use std::borrow::Cow;

use anyhow::{Context, Result};
use rayon::prelude::*;
use ride_calibrate::table::CalibrationTable;
use ride_runtime::{Model, Session};

use super::{Images, OnProgress, draft, parse, streams};
use crate::lower::reads::{FineSite, FreeStream, fine_sites};
use crate::lower::{Fine, Request, arena_len};
use crate::memory::AlignedBytes;
use crate::reference::{Executor, Image, Policy, Scratch};

/// Most images that candidates are compared on.
const MOST_IMAGES: usize = 256;
/// Fewest images.
const FEWEST_IMAGES: usize = 16;
/// Multiply-accumulates that all comparisons together may take, beyond the fewest images: a minute or two.
const WORK: u64 = 6_000_000_000_000;
/// By how much the arena may grow: one part of so many.
const ARENA_PART: usize = 4;

/// What can be read better, and how that is found out.
pub(super) struct Plan {
    sites: Vec<FineSite>,
    streams: Vec<FreeStream>,
    /// Images for each comparison.
    images: usize,
    /// Multiply-accumulates that may be spent.
    budget: u64,
}

/// What comparisons have shown, as parts of all noise.
struct Noises {
    /// Of reading 8 bits, for each site.
    reads: Vec<f64>,
    /// Of what is cut off, for each free stream.
    cuts: Vec<f64>,
}

/// What is to be read with 16 bits.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    /// The convolutions, and whether classifiers are fine.
    pub(super) fine: Fine,
    /// The calibration table, with wider ranges.
    pub(super) table: CalibrationTable,
    /// Multiply-accumulates that it costs.
    pub(super) macs: u64,
    /// Streams with wider ranges.
    pub(super) free: Vec<usize>,
}

impl Plan {
    /// What is worth a trial for at most this part of the network's multiply-accumulates.
    ///
    /// # Errors
    /// If the network cannot be compiled.
    pub(super) fn new(request: &Request<'_>, share: f64, available: usize) -> Result<Self> {
        let network = request.network;
        let budget = (share * network.macs() as f64) as u64;
        let (mut sites, mut streams) = fine_sites(request)?;
        // With 8 bits there is nothing more to read. What the last expert computes comes too late for the routers.
        let last = network.experts.len().saturating_sub(1);
        let late = |site: &FineSite| network.routing.routers() > 0 && site.expert == Some(last);
        streams.retain(|free| {
            let readers = || sites.iter().filter(|site| site.stream == Some(free.stream));
            readers().any(|site| !late(site)) && readers().map(|site| site.macs).sum::<u64>() <= budget
        });
        sites.retain(|site| request.residual_bits == 16 && site.macs <= budget);
        let needed = |site: &FineSite| streams.iter().any(|free| site.stream == Some(free.stream));
        sites.retain(|site| !late(site) || needed(site));
        let runs = (sites.len() + streams.len() + 1) as u64;
        let each = network.macs().saturating_mul(2 * runs);
        let images = usize::try_from(WORK / each.max(1)).unwrap_or(MOST_IMAGES).clamp(FEWEST_IMAGES, MOST_IMAGES);
        Ok(Plan { sites, streams, images: images.min(available), budget })
    }

    /// How often progress is reported.
    pub(super) fn steps(&self) -> usize {
        if self.sites.is_empty() { 0 } else { (self.sites.len() + self.streams.len() + 3) * self.images }
    }

    /// Compares, and chooses.
    ///
    /// # Errors
    /// If a draft cannot be compiled or an image cannot be read.
    pub(super) fn choose(
        &self,
        request: &Request<'_>,
        images: &Images<'_>,
        progress: OnProgress<'_>,
    ) -> Result<Choice> {
        let mut choice = Choice { fine: request.fine.clone(), table: request.table.clone(), macs: 0, free: Vec::new() };
        if self.sites.is_empty() {
            return Ok(choice);
        }
        let noises = self.noises(&Trial { request, images, count: self.images, progress }, &choice)?;
        let arena = arena_len(request)?;
        let mut refused = Vec::new();
        while let Some((next, what)) = self.best(&noises, &choice, &refused) {
            let wider = Request { table: &next.table, fine: &next.fine, ..*request };
            if arena_len(&wider)? <= arena + arena / ARENA_PART {
                choice = next;
            } else {
                refused.push(what);
            }
        }
        Ok(choice)
    }

    /// Measures what each read and each range costs. `none` is what is compiled without refinement.
    fn noises(&self, trial: &Trial<'_, '_>, none: &Choice) -> Result<Noises> {
        let total = trial.scores(none)?.squares(&trial.float()?);
        let all = self.sites.iter().fold(none.clone(), |all, site| all.with(site));
        let exact = trial.scores(&all)?;
        let part = |choice: &Choice| -> Result<f64> {
            let shares = trial.scores(choice)?.squares(&exact).into_iter().zip(&total).map(|(own, all)| own / all);
            Ok(shares.filter(|share| share.is_finite()).sum())
        };
        let coarse = |site: &FineSite| {
            let mut choice = all.clone();
            choice.fine.reads.remove(&site.name);
            part(&choice)
        };
        let reads = self.sites.par_iter().map(coarse).collect::<Result<_>>()?;
        let cuts = self.streams.par_iter().map(|free| part(&all.clone().without_cut(free))).collect::<Result<_>>()?;
        Ok(Noises { reads, cuts })
    }

    /// The read, or all reads of a stream and its wider range, that takes away the most noise for its multiply-accumulates
    /// and can be paid for: what is chosen then, and what it is called. Noises add up.
    fn best(&self, noises: &Noises, choice: &Choice, refused: &[String]) -> Option<(Choice, String)> {
        let mut best = (0.0, None);
        let mut offer = |noise: f64, next: Choice, what: &str| {
            let rate = noise / (next.macs - choice.macs).max(1) as f64;
            if next.macs <= self.budget && rate > best.0 && !refused.iter().any(|name| name == what) {
                best = (rate, Some((next, what.to_owned())));
            }
        };
        let left = || self.sites.iter().zip(&noises.reads).filter(|(site, _)| !choice.fine.reads.contains(&site.name));
        for (site, &noise) in left() {
            offer(noise, choice.clone().with(site), &site.name);
        }
        let streams = self.streams.iter().zip(&noises.cuts).filter(|(free, _)| !choice.free.contains(&free.stream));
        for (free, cut) in streams {
            let readers = || left().filter(|(site, _)| site.stream == Some(free.stream));
            let noise = cut + readers().map(|(_, noise)| noise).sum::<f64>();
            let next = readers().fold(choice.clone(), |next, (site, _)| next.with(site)).without_cut(free);
            offer(noise, next, &free.values[0]);
        }
        best.1
    }
}

impl Choice {
    /// With one read more.
    fn with(mut self, site: &FineSite) -> Self {
        if self.fine.reads.insert(site.name.clone()) {
            self.macs += site.macs;
        }
        self
    }

    /// With a range of this stream that cuts off nothing.
    fn without_cut(mut self, free: &FreeStream) -> Self {
        self.free.push(free.stream);
        free.values.iter().for_each(|name| streams::widen(&mut self.table, name));
        self
    }
}

/// Runs drafts on images.
struct Trial<'t, 'i> {
    request: &'t Request<'t>,
    images: &'t Images<'i>,
    count: usize,
    progress: OnProgress<'t>,
}

/// What decides, for each image: the routers' scores, or all logits.
struct Scores {
    /// Numbers that have a noise of their own.
    groups: usize,
    images: Vec<Vec<f32>>,
}

impl Scores {
    /// Mean square of the difference, for each group.
    fn squares(&self, other: &Scores) -> Vec<f64> {
        let mut sums = vec![0.0; self.groups];
        for (a, b) in self.images.iter().zip(&other.images) {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                let square = (f64::from(*a) - f64::from(*b)).powi(2);
                // A score that is not a number says stop, with any number of bits.
                sums[n % self.groups] += if square.is_finite() { square } else { 0.0 };
            }
        }
        sums.iter().map(|sum| sum / self.images.len().max(1) as f64).collect()
    }
}

impl<'i> Trial<'_, 'i> {
    fn groups(&self) -> usize {
        self.request.network.routing.routers().max(1)
    }

    /// Of an artifact with these reads.
    fn scores(&self, choice: &Choice) -> Result<Scores> {
        let bytes = draft(&Request { table: &choice.table, fine: &choice.fine, ..*self.request }, None)?;
        let model = parse(&bytes)?;
        self.collect(model)
    }

    fn collect(&self, model: Model<'_>) -> Result<Scores> {
        let mut arena = AlignedBytes::zeroed(model.arena_len());
        let mut session = Session::new(model, &mut arena)?;
        let mut images = Vec::new();
        for i in 0..self.count {
            session.start(&self.pixels(i)?)?;
            let mut scores = Vec::new();
            for _ in 0..model.experts() {
                scores.extend(session.step()?.score);
            }
            if scores.is_empty() {
                scores.extend_from_slice(session.outcome()?.logits);
            }
            (self.progress)();
            images.push(scores);
        }
        Ok(Scores { groups: self.groups(), images })
    }

    /// Of the float network.
    fn float(&self) -> Result<Scores> {
        let executor = Executor::new(self.request.network)?;
        let routed = self.request.network.routing.routers() > 0;
        let scores = |scratch: &mut Scratch, i: usize| {
            let pixels = self.pixels(i)?;
            let float = executor.forward(Image::Pixels(&pixels), Policy::All, scratch, None)?;
            (self.progress)();
            Ok(if routed { float.scores } else { float.mean_logits })
        };
        let images = (0..self.count).into_par_iter().map_init(Scratch::default, scores).collect::<Result<_>>()?;
        Ok(Scores { groups: self.groups(), images })
    }

    fn pixels(&self, i: usize) -> Result<Cow<'i, [u8]>> {
        let index = self.images.indices[i * self.images.indices.len() / self.count];
        (self.images.pixels)(index).with_context(|| format!("refinement fails on image {index}"))
    }
}
