//! Classifiers that make up for what int8 does to the features.
//!
//! The float network says what the logits should be, the int8 trunk what the features are: ridge regression of the
//! difference gives a better classifier, without labels. How strongly it is held back is chosen on images that it was not
//! fitted to, down to no change at all. Its rows are then rounded as those of convolutions are.

use anyhow::{Context, Result, anyhow};
use rayon::prelude::*;
use ride_runtime::batch::Batch;
use ride_runtime::exec::{Output, Probe};
use ride_runtime::op::{Op, Step};
use ride_runtime::{Model, PartId, Policy, Session};

use super::curvature::{Curvature, cholesky, inner, solve};
use super::{Images, OnProgress};
use crate::lower::rounding::{Row, nearest};
use crate::lower::{Fine, Request, arena_len};
use crate::network::{self, Head, Node};
use crate::reference::{self, Executor, Image, Scratch};

/// Images whose features and logits are held at a time.
const CHUNK: usize = 64;
/// Ridges that are tried, as parts of the mean variance of a feature; the last resort is no change.
const RIDGES: [f64; 6] = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0];

/// Weights of 16 bits may make the network's weights larger by one part of so many.
const WEIGHTS_PART: usize = 16;
/// And the arena.
const ARENA_PART: usize = 32;

/// Whether classifiers get weights of 16 bits: where they are a small part of the network, their rounding is a large part of
/// what is left of the noise of routers' scores, because those hang on the largest logits. Beside activations of 8 bits in
/// residual streams it would not be seen.
///
/// # Errors
/// If the network cannot be compiled.
pub(super) fn can_be_fine(request: &Request<'_>) -> Result<bool> {
    let network = request.network;
    let parts = std::iter::once(&network.stem).chain(network.experts.iter().map(|expert| &expert.trunk));
    let weights = |node: &Node| match &node.op {
        network::Op::Conv(conv) => conv.weight.len(),
        _ => 0,
    };
    let convs: usize = parts.flat_map(|part| &part.nodes).map(weights).sum();
    let heads: usize = network.experts.iter().map(|expert| expert.head.weight.len()).sum();
    let rows = u16::try_from(2 * network.classes);
    if request.residual_bits != 16 || WEIGHTS_PART * heads > convs + heads || rows.is_err() {
        return Ok(false);
    }
    let arena = arena_len(request)?;
    let fine = Fine { heads: true, ..request.fine.clone() };
    Ok(arena_len(&Request { fine: &fine, ..*request })? <= arena + arena / ARENA_PART)
}

/// A classifier's rows, and how they were found.
pub(super) struct Refit {
    pub(super) rows: Vec<Row>,
    /// The ridge; `None` if nothing helped on other images.
    pub(super) ridge: Option<f64>,
}

/// Sums for the regression of what is missing from the logits on the features.
#[derive(Clone)]
struct Sums {
    count: f64,
    features: Vec<f64>,
    products: Vec<f64>,
    missing: Vec<f64>,
    /// `[classes][features]`.
    cross: Vec<f64>,
}

impl Sums {
    fn new(features: usize, classes: usize) -> Self {
        Sums {
            count: 0.0,
            features: vec![0.0; features],
            products: vec![0.0; features * features],
            missing: vec![0.0; classes],
            cross: vec![0.0; classes * features],
        }
    }

    fn add(&mut self, feature: &[f64], missing: &[f64]) {
        self.count += 1.0;
        add(&mut self.features, feature, 1.0);
        add(&mut self.missing, missing, 1.0);
        let rows = self.products.chunks_exact_mut(feature.len());
        rows.zip(feature).for_each(|(row, &x)| add(row, feature, x));
        let rows = self.cross.chunks_exact_mut(feature.len());
        rows.zip(missing).for_each(|(row, &x)| add(row, feature, x));
    }

    fn merged(&self, other: &Sums) -> Sums {
        let mut sum = self.clone();
        sum.count += other.count;
        add(&mut sum.features, &other.features, 1.0);
        add(&mut sum.products, &other.products, 1.0);
        add(&mut sum.missing, &other.missing, 1.0);
        add(&mut sum.cross, &other.cross, 1.0);
        sum
    }

    fn mean(&self) -> Vec<f64> {
        self.features.iter().map(|x| x / self.count.max(1.0)).collect()
    }

    fn covariance(&self) -> Vec<f64> {
        let (mean, n) = (self.mean(), self.mean().len());
        (0..n * n).map(|i| self.products[i] / self.count.max(1.0) - mean[i / n] * mean[i % n]).collect()
    }

    /// Covariances of what is missing with the features, `[classes][features]`.
    fn cross_covariance(&self) -> Vec<f64> {
        let (mean, count, n) = (self.mean(), self.count.max(1.0), self.features.len());
        (0..self.cross.len()).map(|i| self.cross[i] / count - self.missing[i / n] / count * mean[i % n]).collect()
    }

    /// Ridge regression: `[classes][features]`.
    fn fit(&self, ridge: f64) -> Vec<f64> {
        let (mut c, n) = (self.covariance(), self.features.len());
        let variance = (0..n).map(|k| c[k * n + k]).sum::<f64>() / n as f64;
        (0..n).for_each(|k| c[k * n + k] += (ridge * variance).max(f64::MIN_POSITIVE));
        cholesky(&mut c, n);
        let mut fit = self.cross_covariance();
        fit.chunks_exact_mut(n).for_each(|row| solve(&c, n, row));
        fit
    }

    /// How much the expected squared error of the logits changes with this fit.
    fn change(&self, fit: &[f64]) -> f64 {
        let (c, cross, n) = (self.covariance(), self.cross_covariance(), self.features.len());
        let row = |(row, cross): (&[f64], &[f64])| {
            let quadratic: f64 = c.chunks_exact(n).zip(row).map(|(c, x)| x * inner(c, row)).sum();
            quadratic - 2.0 * inner(row, cross)
        };
        fit.chunks_exact(n).zip(cross.chunks_exact(n)).map(row).sum()
    }
}

fn add(into: &mut [f64], from: &[f64], factor: f64) {
    into.iter_mut().zip(from).for_each(|(sum, x)| *sum += factor * x);
}

/// Signal and noise of logits.
#[derive(Clone, Copy, Default)]
pub(super) struct Noise {
    signal: f64,
    noise: f64,
}

impl Noise {
    fn add(&mut self, want: &[f32], got: &[f32]) {
        for (&want, &got) in want.iter().zip(got) {
            self.signal += f64::from(want).powi(2);
            self.noise += (f64::from(want) - f64::from(got)).powi(2);
        }
    }

    /// In decibels; infinite without noise.
    pub(super) fn db(self) -> f64 {
        10.0 * (self.signal / self.noise).log10()
    }
}

/// What is known after the images have run.
pub(super) struct Study {
    /// For each expert, sums over the images in even and in odd places.
    halves: Vec<[Sums; 2]>,
    /// The float network's mean logits of all experts for each image.
    wanted: Vec<Vec<f32>>,
    /// Of the draft without refinement.
    pub(super) nearest: Noise,
}

/// The two artifacts that are compared with the float network.
pub(super) struct Drafts<'m> {
    /// Without refinement.
    pub(super) nearest: Model<'m>,
    /// Rounded weights: its features are what classifiers are fitted to.
    pub(super) rounded: Model<'m>,
}

/// One image.
struct Record {
    /// The feature of each expert as its classifier sees it.
    features: Vec<Vec<f64>>,
    float: reference::Forward,
}

/// Runs float network and drafts over the images.
///
/// # Errors
/// Names the image that cannot be read.
pub(super) fn study(
    executor: &Executor,
    drafts: &Drafts<'_>,
    heads: &[&Head],
    images: &Images<'_>,
    progress: OnProgress<'_>,
) -> Result<Study> {
    let sums = |head: &&Head| [(); 2].map(|()| Sums::new(head.features, head.bias.len()));
    let halves = heads.iter().map(sums).collect();
    let mut study = Study { halves, wanted: Vec::new(), nearest: Noise::default() };
    let batch = Batch::new(drafts.rounded, rayon::current_num_threads());
    for (n, chunk) in images.indices.chunks(CHUNK).enumerate() {
        let records = batch.run(chunk.len(), Scratch::default, |session, scratch, i| {
            let record =
                (images.pixels)(chunk[i]).and_then(|pixels| record(executor, heads, session, scratch, &pixels));
            progress();
            record.with_context(|| format!("refinement fails on image {}", chunk[i]))
        })?;
        records.into_iter().enumerate().for_each(|(i, record)| study.add(n * CHUNK + i, heads, record));
    }
    study.nearest = study.noise(drafts.nearest, images, &|| ())?;
    Ok(study)
}

fn record(
    executor: &Executor,
    heads: &[&Head],
    session: &mut Session<'_, '_>,
    scratch: &mut Scratch,
    pixels: &[u8],
) -> Result<Record> {
    let float = executor.forward(Image::Pixels(pixels), reference::Policy::All, scratch, None)?;
    let mut features = Features(vec![Vec::new(); heads.len()]);
    session.classify_probed(pixels, Policy::All, &mut features)?;
    let mut features = features.0;
    for (feature, head) in features.iter_mut().zip(heads) {
        let norm = inner(feature, feature).sqrt();
        if head.normalize && norm > 0.0 {
            feature.iter_mut().for_each(|x| *x /= norm);
        }
    }
    Ok(Record { features, float })
}

/// Catches pooled features, in real units.
struct Features(Vec<Vec<f64>>);

impl Probe for Features {
    fn after(&mut self, part: PartId, _: usize, step: &Step, output: Output<'_>) {
        let (PartId::Expert(n), Op::Pool(pool)) = (part, &step.op) else { return };
        let Some(feature) = self.0.get_mut(usize::from(n)) else { return };
        let values = output.hi.as_chunks::<2>().0.iter().take(usize::from(pool.channels));
        feature.clear();
        feature.extend(values.map(|bytes| f64::from(i16::from_le_bytes(*bytes)) * f64::from(step.scale)));
    }
}

impl Study {
    fn add(&mut self, place: usize, heads: &[&Head], record: Record) {
        let experts = record.features.iter().zip(&record.float.experts);
        for ((halves, head), (feature, float)) in self.halves.iter_mut().zip(heads).zip(experts) {
            let rows = head.weight.chunks_exact(head.features).zip(&head.bias).zip(&float.logits);
            let missing = rows.map(|((row, &bias), &want)| {
                let dot: f64 = row.iter().zip(feature).map(|(&w, x)| f64::from(w) * x).sum();
                f64::from(want) - dot - f64::from(bias)
            });
            halves[place % 2].add(feature, &missing.collect::<Vec<_>>());
        }
        self.wanted.push(record.float.mean_logits);
    }

    /// Compares the mean logits of all experts that `model` computes with the float network's.
    ///
    /// # Errors
    /// Names the image that cannot be read.
    pub(super) fn noise(&self, model: Model<'_>, images: &Images<'_>, progress: OnProgress<'_>) -> Result<Noise> {
        let batch = Batch::new(model, rayon::current_num_threads());
        let each = batch.run(
            self.wanted.len(),
            || (),
            |session, (), i| {
                let pixels = (images.pixels)(images.indices[i])?;
                let mut noise = Noise::default();
                noise.add(&self.wanted[i], session.classify(&pixels, Policy::All)?.logits);
                progress();
                anyhow::Ok(noise)
            },
        )?;
        let sum = |a: Noise, b: Noise| Noise { signal: a.signal + b.signal, noise: a.noise + b.noise };
        Ok(each.into_iter().fold(Noise::default(), sum))
    }

    /// New rows for the classifier of expert `expert`; if it is `fine`, after those the rows of what they leave.
    ///
    /// # Errors
    /// If there is no such expert.
    pub(super) fn refit(&self, expert: usize, head: &Head, fine: bool) -> Result<Refit> {
        let [even, odd] = self.halves.get(expert).ok_or_else(|| anyhow!("there is no expert {expert}"))?;
        let ridge = best_ridge(even, odd);
        let all = even.merged(odd);
        let fit = ridge.map_or_else(|| vec![0.0; head.weight.len()], |ridge| all.fit(ridge));
        let mean = all.mean();
        let curvature = Curvature::of_covariance(mean.clone(), all.covariance());
        let round = |class: usize| {
            let own = class * head.features..(class + 1) * head.features;
            let row: Vec<f64> =
                head.weight[own.clone()].iter().zip(&fit[own.clone()]).map(|(&w, d)| f64::from(w) + d).collect();
            // The mean of what is missing goes to the bias as well.
            let shift = all.missing[class] / all.count.max(1.0) - inner(&fit[own], &mean);
            let bias = f64::from(head.bias[class]) + shift;
            if !fine {
                return [Some(curvature.round(&row, bias, 1e-30).row), None];
            }
            // The second row makes up for what the first takes from the mean, too.
            let plain = nearest(&row, 1e-30);
            let first = Row { q: plain.q, scale: plain.scale, bias };
            let second = curvature.round(&first.left_of(&row), 0.0, 1e-30).row;
            [Some(first), Some(second)]
        };
        let rows: Vec<[Option<Row>; 2]> = (0..head.bias.len()).into_par_iter().map(round).collect();
        let (first, second): (Vec<_>, Vec<_>) = rows.into_iter().map(<(_, _)>::from).unzip();
        Ok(Refit { rows: first.into_iter().chain(second).flatten().collect(), ridge })
    }
}

/// The ridge with which each half of the images predicts the other best, if any predicts anything.
fn best_ridge(even: &Sums, odd: &Sums) -> Option<f64> {
    let mut best = (0.0, None);
    for ridge in RIDGES {
        let change = odd.change(&even.fit(ridge)) + even.change(&odd.fit(ridge));
        if change < best.0 {
            best = (change, Some(ridge));
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(count: usize, error: impl Fn(f64, f64, f64) -> f64) -> [Sums; 2] {
        let mut halves = [(); 2].map(|()| Sums::new(2, 1));
        let mut state = 11u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1u32 << 23) - 1.0
        };
        for i in 0..count {
            let (a, b, noise) = (next(), next(), next());
            halves[i % 2].add(&[a, b], &[error(a, b, noise)]);
        }
        halves
    }

    #[test]
    fn what_features_explain_is_found() {
        let [even, odd] = sums(400, |a, b, noise| 0.5 * a - 0.25 * b + 3.0 + 0.01 * noise);
        let fit = even.merged(&odd).fit(best_ridge(&even, &odd).expect("a fit that helps"));
        assert!((fit[0] - 0.5).abs() < 0.01 && (fit[1] + 0.25).abs() < 0.01, "{fit:?}");
    }

    #[test]
    fn noise_is_left_alone() {
        let [even, odd] = sums(40, |_, _, noise| noise);
        let ridge = best_ridge(&even, &odd);
        let fit = ridge.map_or([0.0; 2].to_vec(), |ridge| even.merged(&odd).fit(ridge));
        assert!(fit.iter().all(|x| x.abs() < 0.1), "{ridge:?} {fit:?}");
    }
}
