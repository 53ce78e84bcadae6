//! Latency against the number of experts, on one thread or with several that share each inference.
//!
//! Every round takes one image through each policy in turn, so that a drift of the machine (clock, neighbours) hits all
//! of them equally. Nothing but [`Session::classify`] is inside the clock.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ride_calibrate::data::DataSet;
use ride_calibrate::sampling;
use ride_runtime::exec::{Output, Probe};
use ride_runtime::kernels::{BACKENDS, Backend};
use ride_runtime::model::Part;
use ride_runtime::op::{Router, Step};
use ride_runtime::{Model, PartId, Policy, Session, golden};
use serde::Serialize;

use crate::artifact_file;

/// Most images of a data set that take part, spread evenly over it.
pub const MAX_IMAGES: usize = 1000;
/// Synthetic images that are used without a data set.
pub const SYNTHETIC_IMAGES: u32 = 128;
/// Rounds before the clock counts, at most.
const WARM_UP: usize = 20;
/// Most rounds, which bounds the memory for samples.
const MAX_ROUNDS: usize = 1_000_000;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long; at least one round over everything is made.
    pub time: Duration,
    /// Kernels; `None` takes the fastest that this machine has.
    pub backend: Option<&'static Backend>,
    /// Only this number of experts, instead of every number and routing.
    pub experts: Option<usize>,
    /// Threads that share each inference.
    pub threads: usize,
}

/// Called after each round with the share of the time that has passed, 0..=1.
pub type OnProgress<'a> = &'a dyn Fn(f64);

/// Latency of one policy in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Half of the runs take less.
    pub median_us: f64,
    /// 99 of 100 runs take less.
    pub p99_us: f64,
    /// The fastest run.
    pub min_us: f64,
    /// Arithmetic mean.
    pub mean_us: f64,
}

/// Latency with a fixed number of experts.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Number of experts.
    pub experts: usize,
    /// How long it takes.
    #[serde(flatten)]
    pub latency: Latency,
    /// Multiply-accumulates of stem and experts, padding included.
    pub macs: u64,
    /// Billions of them a second, at the median.
    pub gmac_per_s: f64,
}

/// Latency where the routers decide.
#[derive(Clone, Debug, Serialize)]
pub struct Routed {
    /// Images that the routes were taken of.
    pub images: usize,
    /// Mean number of experts over them.
    pub expected_experts: f64,
    /// How long a sample takes.
    #[serde(flatten)]
    pub latency: Latency,
    /// Shares of the images that used 1, 2, ... experts.
    pub experts: Vec<f64>,
    /// What routing costs beyond the experts that it runs: the medians of the samples that used n experts against the
    /// medians with exactly n experts and no routers, weighted by how often they are used.
    pub overhead_percent: f64,
}

/// Everything measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Convolution kernel.
    pub kernel: &'static str,
    /// Instruction set.
    pub isa: &'static str,
    /// Threads that shared each inference.
    pub threads: usize,
    /// Rounds that the figures are made of.
    pub rounds: usize,
    /// One for each number of experts.
    pub rows: Vec<Row>,
    /// `None` without routers or where one number of experts was asked for.
    pub routed: Option<Routed>,
}

/// The kernels called `name`: an instruction set (`avx2`) or a convolution kernel. Only those that read the layout of
/// `model` and that this machine has count.
///
/// # Errors
/// Lists the names that there are.
pub fn backend(model: Model<'_>, name: &str) -> Result<&'static Backend> {
    let usable: Vec<_> = backends(model).collect();
    let found = usable.iter().find(|b| b.isa.name() == name || b.conv.name == name);
    let names = usable.iter().map(|b| format!("{} ({})", b.isa.name(), b.conv.name)).collect::<Vec<_>>().join(", ");
    found
        .copied()
        .with_context(|| format!("there is no kernel {name:?} for this artifact on this machine; available: {names}"))
}

/// The backends that can run `model` on this machine, slowest first.
pub fn backends(model: Model<'_>) -> impl Iterator<Item = &'static Backend> {
    BACKENDS.iter().filter(move |b| b.layout == model.layout() && b.isa.available())
}

/// Pixels of up to [`MAX_IMAGES`] images of `data`, spread evenly over it and shuffled, so that the first few of them
/// stand for all even where the set is sorted by class.
///
/// # Errors
/// If an image cannot be read.
pub fn images_of(data: &DataSet) -> Result<Vec<Vec<u8>>> {
    let count = data.len().min(MAX_IMAGES);
    let order = sampling::uniform(count, count, 0);
    order.iter().map(|i| Ok(data.pixels(i * data.len() / count)?.into_owned())).collect()
}

/// Synthetic pictures, the same on every machine.
pub fn synthetic_images(model: Model<'_>) -> Vec<Vec<u8>> {
    let (_, width, channels) = model.input();
    let picture = |seed| {
        let mut pixels = vec![0; model.input_len()];
        golden::image(seed, (width, channels), &mut pixels);
        pixels
    };
    (1..=SYNTHETIC_IMAGES).map(picture).collect()
}

/// Measures `model` on `images`.
///
/// # Errors
/// If there are no images, they do not fit the model, or it has fewer experts than asked for.
pub fn bench(model: Model<'_>, images: &[Vec<u8>], settings: &Settings, progress: OnProgress<'_>) -> Result<Report> {
    ensure!(!images.is_empty(), "there are no images to measure with");
    if let Some(n) = settings.experts.filter(|n| !(1..=model.experts()).contains(n)) {
        bail!("{n} experts were asked for, the artifact has {}", model.experts());
    }
    let team = artifact_file::team(settings.threads)?;
    let mut arena = artifact_file::arena(model)?;
    let mut session = session(model, &mut arena, settings.backend)?.with_team(&team);
    let counts = match settings.experts {
        Some(n) => vec![n],
        None => (1..=model.experts()).collect(),
    };
    let mut rounds = Rounds {
        routed: settings.experts.is_none() && model.routed(),
        fixed: counts.iter().map(|&experts| (experts, Vec::new())).collect(),
        routed_runs: Vec::new(),
    };
    let start = Instant::now();
    for image in images.iter().cycle().take(WARM_UP) {
        rounds.round(&mut session, image)?;
        if start.elapsed() >= settings.time / 10 {
            break;
        }
    }
    rounds.clear();
    let start = Instant::now();
    for (n, image) in images.iter().cycle().take(MAX_ROUNDS).enumerate() {
        let share = start.elapsed().as_secs_f64() / settings.time.as_secs_f64().max(1e-9);
        if share >= 1.0 && n > 0 {
            break;
        }
        progress(share.min(1.0));
        rounds.round(&mut session, image)?;
    }
    let used = if rounds.routed { used_experts(&mut session, images, settings.time)? } else { Vec::new() };
    Ok(rounds.report(session.backend(), model, settings.threads, &used))
}

fn session<'m, 'a>(
    model: Model<'m>,
    arena: &'a mut [u8],
    backend: Option<&'static Backend>,
) -> Result<Session<'m, 'a>> {
    Ok(match backend {
        Some(backend) => Session::with_backend(model, arena, backend)?,
        None => Session::new(model, arena)?,
    })
}

/// Number of experts that routing uses for each image, for as many of them as `time` allows, at least one.
fn used_experts(session: &mut Session<'_, '_>, images: &[Vec<u8>], time: Duration) -> Result<Vec<usize>> {
    let start = Instant::now();
    let mut used = Vec::with_capacity(images.len());
    for image in images {
        used.push(session.classify(image, Policy::Routed)?.experts);
        if start.elapsed() >= time {
            break;
        }
    }
    Ok(used)
}

/// Samples in nanoseconds.
struct Rounds {
    routed: bool,
    /// Number of experts and its samples.
    fixed: Vec<(usize, Vec<u64>)>,
    /// Experts used, and time.
    routed_runs: Vec<(usize, u64)>,
}

impl Rounds {
    fn round(&mut self, session: &mut Session<'_, '_>, image: &[u8]) -> Result<()> {
        for (experts, samples) in &mut self.fixed {
            samples.push(timed(session, image, Policy::Exactly(*experts))?.1);
        }
        if self.routed {
            self.routed_runs.push(timed(session, image, Policy::Routed)?);
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.fixed.iter_mut().for_each(|(_, samples)| samples.clear());
        self.routed_runs.clear();
    }

    fn report(&self, backend: &'static Backend, model: Model<'_>, threads: usize, used: &[usize]) -> Report {
        let row = |(experts, samples): &(usize, Vec<u64>)| {
            let (latency, macs) = (Latency::of(samples), macs(model, *experts));
            Row { experts: *experts, latency, macs, gmac_per_s: macs as f64 / latency.median_us / 1e3 }
        };
        Report {
            kernel: backend.conv.name,
            isa: backend.isa.name(),
            threads,
            rounds: self.fixed.first().map_or(0, |(_, samples)| samples.len()),
            rows: self.fixed.iter().map(row).collect(),
            routed: (!used.is_empty()).then(|| self.routed_report(model.experts(), used)),
        }
    }

    fn routed_report(&self, experts: usize, used: &[usize]) -> Routed {
        let share = |n: usize| used.iter().filter(|&&u| u == n).count() as f64 / used.len() as f64;
        let times: Vec<u64> = self.routed_runs.iter().map(|run| run.1).collect();
        Routed {
            images: used.len(),
            expected_experts: used.iter().sum::<usize>() as f64 / used.len() as f64,
            latency: Latency::of(&times),
            experts: (1..=experts).map(share).collect(),
            overhead_percent: self.overhead_percent(),
        }
    }

    fn overhead_percent(&self) -> f64 {
        let (mut routed, mut alone) = (0.0, 0.0);
        for (experts, samples) in &self.fixed {
            let times: Vec<u64> = self.routed_runs.iter().filter(|run| run.0 == *experts).map(|run| run.1).collect();
            if !times.is_empty() {
                routed += times.len() as f64 * Latency::of(&times).median_us;
                alone += times.len() as f64 * Latency::of(samples).median_us;
            }
        }
        100.0 * (routed / alone - 1.0)
    }
}

/// Experts used, and nanoseconds.
fn timed(session: &mut Session<'_, '_>, image: &[u8], policy: Policy) -> Result<(usize, u64)> {
    let start = Instant::now();
    let outcome = session.classify(image, policy)?;
    let experts = std::hint::black_box(&outcome).experts;
    let elapsed = start.elapsed();
    Ok((experts, elapsed.as_nanos() as u64))
}

impl Latency {
    /// Of samples in nanoseconds; zeros if there are none.
    pub fn of(samples: &[u64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let us = |ns: Option<&u64>| ns.map_or(0.0, |&ns| ns as f64 / 1e3);
        let mean = samples.iter().sum::<u64>() as f64 / samples.len().max(1) as f64 / 1e3;
        Latency {
            median_us: us(sorted.get(sorted.len() / 2)),
            p99_us: us(sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1))),
            min_us: us(sorted.first()),
            mean_us: mean,
        }
    }
}

/// Multiply-accumulates of the stem and the first `experts` experts.
pub fn macs(model: Model<'_>, experts: usize) -> u64 {
    let part_macs = |part: Part<'_>| part.steps().map(|step| step.op.macs()).sum::<u64>();
    model.parts().take(1 + experts).map(part_macs).sum()
}

/// Time of one operation or router.
#[derive(Clone, Debug, Serialize)]
pub struct OpTime {
    /// Name; `routerN` for a router.
    pub name: String,
    /// Kind of operation, or `router`.
    pub kind: &'static str,
    /// Multiply-accumulates; 0 for what is no product.
    pub macs: u64,
    /// Half of the runs take less, in microseconds.
    pub median_us: f64,
    /// Billions of multiply-accumulates a second.
    pub gmac_per_s: f64,
    /// Share of the sum of all medians, percent.
    pub share_percent: f64,
}

/// Times every operation with all experts and all routers running.
///
/// # Errors
/// As [`bench()`].
pub fn profile(
    model: Model<'_>,
    images: &[Vec<u8>],
    settings: &Settings,
    progress: OnProgress<'_>,
) -> Result<Vec<OpTime>> {
    ensure!(!images.is_empty(), "there are no images to measure with");
    let team = artifact_file::team(settings.threads)?;
    let mut arena = artifact_file::arena(model)?;
    let mut session = session(model, &mut arena, settings.backend)?.with_team(&team);
    let mut clock = Clock::default();
    // No score is as low, so every router asks for the next expert.
    let policy = if model.routed() { Policy::Threshold(f32::NEG_INFINITY) } else { Policy::All };
    let start = Instant::now();
    for (n, image) in images.iter().cycle().take(MAX_ROUNDS / 16).enumerate() {
        let share = start.elapsed().as_secs_f64() / settings.time.as_secs_f64().max(1e-9);
        if share >= 1.0 && n > WARM_UP {
            break;
        }
        progress(share.min(1.0));
        clock.at = 0;
        session.classify_probed(image, policy, &mut clock)?;
        if n + 1 == WARM_UP {
            clock.samples.iter_mut().for_each(Vec::clear);
        }
    }
    Ok(clock.report(model))
}

/// Measures what lies between the two calls of the probe.
struct Clock {
    start: Instant,
    /// Operation or router within this run.
    at: usize,
    /// What each of them is, in the order in which they run.
    what: Vec<What>,
    samples: Vec<Vec<u32>>,
}

enum What {
    Op(Step),
    Router(usize),
}

impl Default for Clock {
    fn default() -> Self {
        Clock { start: Instant::now(), at: 0, what: Vec::new(), samples: Vec::new() }
    }
}

impl Clock {
    fn stop(&mut self, what: impl FnOnce() -> What) {
        let elapsed = self.start.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32;
        if self.at == self.what.len() {
            self.what.push(what());
            self.samples.push(Vec::new());
        }
        self.samples[self.at].push(elapsed);
        self.at += 1;
    }

    fn report(&self, model: Model<'_>) -> Vec<OpTime> {
        let median = |samples: &Vec<u32>| {
            let samples: Vec<u64> = samples.iter().map(|&ns| u64::from(ns)).collect();
            Latency::of(&samples).median_us
        };
        let medians: Vec<f64> = self.samples.iter().map(median).collect();
        let total: f64 = medians.iter().sum();
        let time = |(what, &median_us): (&What, &f64)| {
            let (name, kind, macs) = match what {
                What::Op(step) => (model.name(step).to_owned(), step.op.kind(), step.op.macs()),
                What::Router(n) => (format!("router{n}"), "router", router_macs(model, *n)),
            };
            let gmac_per_s = if median_us > 0.0 { macs as f64 / median_us / 1e3 } else { 0.0 };
            OpTime { name, kind, macs, median_us, gmac_per_s, share_percent: 100.0 * median_us / total }
        };
        self.what.iter().zip(&medians).map(time).collect()
    }
}

/// Multiply-accumulates of the router behind expert `n`.
pub fn router_macs(model: Model<'_>, n: usize) -> u64 {
    let router = model.router(n);
    router.as_ref().and_then(Router::assignment).map_or(0, |a| {
        let (features, hidden) = (u64::from(a.hidden.features), u64::from(a.hidden.outputs));
        features * hidden + hidden + u64::from(a.top_k)
    })
}

impl Probe for Clock {
    fn before(&mut self, _: PartId, _: usize, _: &Step) {
        self.start = Instant::now();
    }

    fn after(&mut self, _: PartId, _: usize, step: &Step, _: Output<'_>) {
        self.stop(|| What::Op(*step));
    }

    fn before_router(&mut self, _: usize) {
        self.start = Instant::now();
    }

    fn routed(&mut self, router: usize, _: f32, _: bool) {
        self.stop(|| What::Router(router));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_samples() {
        let samples: Vec<u64> = (1..=1000).rev().map(|n| n * 1000).collect();
        let l = Latency::of(&samples);
        assert_eq!((l.min_us, l.median_us, l.p99_us, l.mean_us), (1.0, 501.0, 990.0, 500.5));
        let one = Latency::of(&[7000]);
        assert_eq!((one.min_us, one.median_us, one.p99_us, one.mean_us), (7.0, 7.0, 7.0, 7.0));
    }

    #[test]
    fn overhead_compares_like_with_like() {
        let rounds = Rounds {
            routed: true,
            fixed: vec![(1, vec![100_000; 4]), (2, vec![200_000; 4])],
            routed_runs: vec![(1, 110_000), (2, 202_000), (2, 202_000), (1, 110_000)],
        };
        assert!((rounds.overhead_percent() - 4.0).abs() < 1e-9);
        let routed = rounds.routed_report(2, &[1, 2, 2, 2]);
        assert_eq!((routed.expected_experts, routed.experts), (1.75, vec![0.25, 0.75]));
    }
}
