//! Times training steps: forward and backward pass, RIDE's loss and the update, on noise.
//!
//! `cargo run --release -p ride-compiler --example train -- [SECONDS] [BATCH] [THREADS] [DEVICE]`
//!
//! DEVICE is `cpu` unless given, `cuda` (with `--features cuda`), or `composed`: a GPU's operations on the CPU.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use ride_compiler::description::ModelTable;
use ride_compiler::import;
use ride_compiler::train::loss::{RideLoss, Settings};
use ride_compiler::train::optimizer::{self, Sgd};
use ride_compiler::train::place::Place;
use serde_json::json;

/// So small that noise does not blow the weights up.
const RATE: f64 = 1e-3;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse().context(text));
    let (seconds, batch, threads) = (number(10)?, number(128)?, number(2)?);
    let place = match arguments.next().as_deref() {
        None | Some("cpu") => Place::Cpu,
        Some("cuda") => Place::Cuda,
        Some("composed") => Place::Composed,
        Some(other) => bail!("{other} is no device: cpu, cuda or composed"),
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let config = json!({"arch": {"type": "ResNet32Model", "args": {
        "num_classes": 100, "num_experts": 3, "reduce_dimension": true, "use_norm": true}}});
    let plan = import::plan(&config, &ModelTable::default(), &BTreeMap::new())?;
    let (mut net, _) = place.net(plan, 1)?;
    let device = net.device().clone();
    let counts: Vec<u32> = (0..100).map(|class| 500 - 4 * class).collect();
    let ride = RideLoss::new(Settings::default(), &counts, &device)?;
    let images = Tensor::randn(0.0f32, 1.0, (batch, 32, 32, 3), &device)?;
    let targets: Vec<u32> = (0..batch as u32).map(|image| image % 100).collect();
    let mut sgd = Sgd::new(optimizer::Settings::default(), net.parameters())?;
    let (mut times, start) = (Vec::new(), Instant::now());
    while start.elapsed() < Duration::from_secs(seconds as u64) || times.len() < 3 {
        let begin = Instant::now();
        let step = net.step(&images, |outputs| ride.of(outputs, &targets, 1))?;
        sgd.step(net.parameters(), &step.gradients, RATE)?;
        times.push(begin.elapsed().as_secs_f64());
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    let rate = |at: usize| batch as f64 / times[at];
    println!(
        "{} steps of {batch} images, {threads} threads, {place:?}: median {:.1} ms, {:.1} images/s; best {:.1} images/s",
        times.len(),
        1e3 * times[times.len() / 2],
        rate(times.len() / 2),
        rate(0)
    );
    Ok(())
}
