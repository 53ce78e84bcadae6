//! `ride-compile bench --device cuda`: the same table, measured on an NVIDIA GPU.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ride_compiler::bench::{self, Latency};
use ride_cuda::{Device, Executor, Options, Session};
use ride_runtime::{Model, Policy};
use serde::Serialize;

use super::table::{Table, millions};
use super::ui::Ui;

/// What is measured.
pub(crate) struct Setup<'s> {
    pub(crate) model: Model<'s>,
    pub(crate) images: &'s [Vec<u8>],
    /// `synthetic` or the path of the data set.
    pub(crate) source: String,
    pub(crate) time: Duration,
    /// One number of experts, or all.
    pub(crate) experts: Option<usize>,
    pub(crate) profile: bool,
}

#[derive(Serialize)]
struct Summary<'s> {
    gpu: &'s str,
    compute_capability: String,
    multiprocessors: u32,
    /// Highest clock that the driver names, not the one at this moment.
    clock_max_khz: u32,
    cuda_driver: i32,
    /// Numeric path.
    path: &'static str,
    golden_vectors: usize,
    memory_bytes: usize,
    images: &'s str,
    rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Vec<OpTime>>,
    warnings: &'s [String],
}

#[derive(Serialize)]
struct Row {
    executor: &'static str,
    /// A number of experts, or `routed`.
    experts: String,
    #[serde(flatten)]
    latency: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    macs: Option<u64>,
}

#[derive(Serialize)]
struct OpTime {
    name: String,
    kind: &'static str,
    us: f64,
}

/// Measures, after the artifact's golden vectors have passed on this GPU.
pub(crate) fn run(setup: &Setup<'_>, ui: &mut Ui) -> Result<()> {
    let device = Device::open(0).context("--device cuda")?;
    let facts = device.facts();
    let mut rows = Vec::new();
    let mut golden_vectors = 0;
    let executors = [("persistent", Executor::Persistent), ("op-by-op", Executor::OpByOp)];
    for (name, executor) in executors {
        let options = Options { executor, ..Options::default() };
        let mut session = Session::with_options(setup.model, &device, options).context("--device cuda")?;
        golden_vectors = session.self_test().context("the GPU's answers are not the artifact's")?;
        let policies = policies(setup)?;
        let time = setup.time / (executors.len() * policies.len()) as u32;
        for (experts, policy) in policies {
            let latency = measure(&mut session, setup.images, policy, time)?;
            let macs = if let Policy::Exactly(n) = policy { Some(bench::macs(setup.model, n)) } else { None };
            rows.push(Row { executor: name, experts, latency, macs });
        }
    }
    let mut session = Session::new(setup.model, &device)?;
    let profile = setup.profile.then(|| profile(&mut session, &setup.images[0])).transpose()?;
    let summary = Summary {
        gpu: &facts.name,
        compute_capability: format!("{}.{}", facts.capability.0, facts.capability.1),
        multiprocessors: facts.multiprocessors,
        clock_max_khz: facts.clock_khz,
        cuda_driver: facts.driver,
        path: session.path().name(),
        golden_vectors,
        memory_bytes: session.memory(),
        images: &setup.source,
        rows,
        profile,
        warnings: ui.warnings(),
    };
    ui.result(&summary, text)
}

fn policies(setup: &Setup<'_>) -> Result<Vec<(String, Policy)>> {
    let available = setup.model.experts();
    if let Some(n) = setup.experts {
        ensure!((1..=available).contains(&n), "--experts {n}: the artifact has {available}");
        return Ok(vec![(n.to_string(), Policy::Exactly(n))]);
    }
    let mut all: Vec<_> = (1..=available).map(|n| (n.to_string(), Policy::Exactly(n))).collect();
    if setup.model.routed() {
        all.push(("routed".to_owned(), Policy::Routed));
    }
    Ok(all)
}

/// Times of single images, from the copy of the pixels to the logits; the first ones warm the GPU up.
fn measure(session: &mut Session<'_>, images: &[Vec<u8>], policy: Policy, time: Duration) -> Result<Latency> {
    for image in images.iter().take(8) {
        session.classify(image, policy)?;
    }
    let (start, mut samples) = (Instant::now(), Vec::new());
    for image in images.iter().cycle() {
        let before = Instant::now();
        session.classify(image, policy)?;
        samples.push(before.elapsed().as_nanos() as u64);
        if start.elapsed() >= time || samples.len() >= 1 << 20 {
            break;
        }
    }
    Ok(Latency::of(&samples))
}

fn profile(session: &mut Session<'_>, image: &[u8]) -> Result<Vec<OpTime>> {
    let model = session.model();
    let times = session.profile(image)?;
    let op = |time: ride_cuda::OpTime| {
        let step = model.part(time.part).and_then(|part| part.step(time.index));
        let (name, kind) = step.map_or(("combiner and router", "join"), |step| (model.name(&step), step.op.kind()));
        OpTime { name: name.to_owned(), kind, us: time.us }
    };
    Ok(times.into_iter().map(op).collect())
}

fn text(s: &Summary<'_>) -> String {
    let mut out = format!(
        "{} (compute capability {}, {} multiprocessors), path {}, {} images, {} golden vectors pass\n",
        s.gpu, s.compute_capability, s.multiprocessors, s.path, s.images, s.golden_vectors
    );
    let mut table = Table::new(&["executor", "experts", "median µs", "p99 µs", "min µs", "M MAC"]);
    for row in &s.rows {
        let us = |v: f64| format!("{v:.1}");
        let l = &row.latency;
        let macs = row.macs.map_or("-".to_owned(), millions);
        table.row([row.executor.to_owned(), row.experts.clone(), us(l.median_us), us(l.p99_us), us(l.min_us), macs]);
    }
    out += &table.text();
    if let Some(profile) = &s.profile {
        let mut table = Table::new(&["operation", "kind", "µs"]).left(2);
        for op in profile {
            table.row([op.name.clone(), op.kind.to_owned(), format!("{:.2}", op.us)]);
        }
        out += "\nall experts, operation by operation\n";
        out += &table.text();
    }
    out
}
