//! Latency of an artifact with 1, 2, ... threads inside one inference, and what handing over work costs.
//!
//! `cargo run --release -p ride-runtime --features std --example threads -- FILE.ride [THREADS] [EXPERTS]`
//!
//! The numbers of threads take turns, so that a drift of the machine hits all of them. `SECONDS` in the environment says for
//! how long (default 5), `QUANTILE` which quantile is shown (default 0.5), as for the example `layers`.

use ride_runtime::memory::AlignedBytes;
use ride_runtime::{Model, Policy, Session, Team};
use std::error::Error;
use std::time::Instant;

fn setting(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn quantile(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() as f64 * setting("QUANTILE", 0.5).clamp(0.0, 0.99)) as usize]
}

/// Microseconds of `f`.
fn time(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64() * 1e6
}

/// Microseconds that it takes to hand over a job, with all threads awake.
fn hand_over(team: &Team) -> f64 {
    let mut samples: Vec<f64> = (0..2000).map(|_| team.hand_over().as_secs_f64() * 1e6).collect();
    quantile(&mut samples)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(path) = args.first() else {
        return Err("usage: threads FILE.ride [THREADS] [EXPERTS]".into());
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads: usize = args.get(1).map_or(Ok(cores), |n| n.parse())?;
    let bytes = AlignedBytes::read(path).map_err(|e| format!("cannot read {path}: {e}"))?;
    let model = Model::parse(&bytes)?;
    let experts: usize = args.get(2).map_or(Ok(model.experts()), |n| n.parse())?;
    let image: Vec<u8> = (0..model.input_len()).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect();

    let teams = (1..=threads.max(1)).map(Team::new).collect::<Result<Vec<_>, _>>()?;
    let mut samples = vec![Vec::new(); teams.len()];
    let mut memory = AlignedBytes::zeroed(model.arena_len());
    let (mut want, start) = (None, Instant::now());
    while start.elapsed().as_secs_f64() < setting("SECONDS", 5.0) || samples[0].len() < 3 {
        for (team, samples) in teams.iter().zip(&mut samples) {
            let mut session = Session::new(model, &mut memory)?.with_team(team);
            team.wake();
            let mut answer = Vec::new();
            samples.push(time(|| {
                let outcome = session.classify(&image, Policy::Exactly(experts)).expect("the image has the right size");
                answer.extend_from_slice(outcome.logits);
            }));
            if *want.get_or_insert_with(|| answer.clone()) != answer {
                return Err(format!("{} threads give other logits", team.threads()).into());
            }
        }
    }
    let runs = samples[0].len();
    println!("{experts} of {} experts, {runs} runs each", model.experts());
    let alone = quantile(&mut samples[0]);
    for (team, samples) in teams.iter().zip(&mut samples) {
        let us = quantile(samples);
        let job = hand_over(team);
        println!("{:2} threads {us:10.1} us, {:5.2} x; handing over {job:5.2} us", team.threads(), alone / us);
    }
    Ok(())
}
