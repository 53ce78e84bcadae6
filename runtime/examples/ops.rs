//! Times every operation of an artifact, where it runs in the network: with the caches as the operation before left them.
//!
//! `cargo run --release --example ops --features std -- FILE.ride [part of a kernel's name] [--sum]`
//!
//! The environment variable `QUANTILE` asks for another quantile than the median, as for the example `layers`; `PASSES`
//! says how often the network runs (default 30), `THREADS` how many threads share its operations (default 1). `--sum` adds up operations of the same shape.

use ride_runtime::exec::{Output, Probe};
use ride_runtime::kernels::{self, BACKENDS, Backend};
use ride_runtime::memory::AlignedBytes;
use ride_runtime::model::PartId;
use ride_runtime::op::{Op, Step};
use ride_runtime::{Model, Policy, Session, Team};
use std::collections::BTreeMap;
use std::error::Error;
use std::time::Instant;

/// Durations of each operation, in microseconds.
struct Clock {
    begun: Instant,
    times: BTreeMap<(PartId, usize), Vec<f64>>,
}

impl Probe for Clock {
    fn before(&mut self, _: PartId, _: usize, _: &Step) {
        self.begun = Instant::now();
    }

    fn after(&mut self, part: PartId, index: usize, _: &Step, _: Output<'_>) {
        self.times.entry((part, index)).or_default().push(self.begun.elapsed().as_secs_f64() * 1e6);
    }
}

fn setting(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn quantile(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() as f64 * setting("QUANTILE", 0.5).clamp(0.0, 0.99)) as usize]
}

/// What an operation does.
fn describe(op: &Op) -> String {
    match op {
        Op::Conv(c) => {
            let s = c.shape;
            let mut text = format!("{}x{}x{} -> {} {}x{}", s.in_h, s.in_w, s.in_c, s.out_c, s.kernel, s.kernel);
            if s.stride > 1 {
                text += &format!("/{}", s.stride);
            }
            if s.groups > 1 {
                text += &format!(" groups {}", s.groups);
            }
            for (what, is) in [("wide", c.out.lo.is_some()), ("residual", c.accumulate), ("raw", c.raw)] {
                if is {
                    text += &format!(", {what}");
                }
            }
            text
        }
        other => other.kind().to_owned(),
    }
}

/// The chosen backend, or the fastest one.
fn backend(model: Model<'_>, part: Option<&str>) -> Option<&'static Backend> {
    match part {
        None => kernels::best(model.layout()),
        Some(part) => {
            BACKENDS.iter().find(|b| b.layout == model.layout() && b.isa.available() && b.conv.name.contains(part))
        }
    }
}

/// Microseconds of whole inferences.
fn whole(session: &mut Session<'_, '_>, image: &[u8], experts: usize, passes: usize) -> f64 {
    quantile(
        (0..passes)
            .map(|_| {
                let start = Instant::now();
                session.classify(image, Policy::Exactly(experts)).expect("the image has the artifact's size");
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect(),
    )
}

fn main() -> Result<(), Box<dyn Error>> {
    let (flags, words): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let Some(path) = words.first() else {
        return Err("usage: ops FILE.ride [part of a kernel's name] [--sum]".into());
    };
    let bytes = AlignedBytes::read(path).map_err(|e| format!("cannot read {path}: {e}"))?;
    let model = Model::parse(&bytes)?;
    let backend = backend(model, words.get(1).map(String::as_str)).ok_or("no such kernel for this artifact")?;
    let mut memory = AlignedBytes::zeroed(model.arena_len());
    let team = Team::new(setting("THREADS", 1.0) as usize)?;
    let mut session = Session::with_backend(model, &mut memory, backend)?.with_team(&team);
    let image: Vec<u8> = (0..model.input_len()).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect();
    let passes = (setting("PASSES", 30.0) as usize).max(1);

    session.classify(&image, Policy::All)?;
    let mut clock = Clock { begun: Instant::now(), times: BTreeMap::new() };
    for _ in 0..passes {
        session.classify_probed(&image, Policy::All, &mut clock)?;
    }
    report(model, clock, flags.iter().any(|f| f == "--sum"));
    for experts in 1..=model.experts() {
        println!("{experts} of {} experts: {:10.1} us", model.experts(), whole(&mut session, &image, experts, passes));
    }
    println!("{}", backend.conv.name);
    Ok(())
}

/// Prints the operations; of one shape as one line, the slowest first, if `sum`.
fn report(model: Model<'_>, mut clock: Clock, sum: bool) {
    let mut sums: BTreeMap<String, (usize, f64, f64)> = BTreeMap::new();
    for part in model.parts() {
        for (index, step) in part.steps().enumerate() {
            let Some(samples) = clock.times.remove(&(part.id, index)) else { continue };
            let (us, macs, what) = (quantile(samples), step.op.macs() as f64, describe(&step.op));
            if sum {
                let entry = sums.entry(what).or_default();
                *entry = (entry.0 + 1, entry.1 + us, entry.2 + macs);
            } else {
                println!("{us:9.1} us {:6.1} GMAC/s  {what:48} {}", macs / us / 1e3, model.name(&step));
            }
        }
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    for (what, (count, us, macs)) in sums {
        println!("{us:9.1} us {:6.1} GMAC/s  {count:3} x {what}", macs / us / 1e3);
    }
}
