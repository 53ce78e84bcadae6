//! Replays an artifact's golden vectors on every backend of this machine, and brackets single images for instruction
//! counters.
//!
//! ```text
//! cargo run --release -p ride-runtime --features std --example replay -- my.ride [part of a kernel's name]
//! ```
//!
//! With a kernel's name, only the first backend whose kernel contains it runs. On 64-bit Arm one image with all experts is region 0 of the QEMU plugin
//! in `tests/arm`, one with a single expert region 1, and with the environment variable `LAYERS` set each kind of
//! operation a region from 2 on (then regions 0 and 1 contain the bookkeeping).

use ride_runtime::exec::{Output, Probe};
use ride_runtime::format::ARENA_ALIGN;
use ride_runtime::kernels::{BACKENDS, Backend};
use ride_runtime::op::{Op, Step};
use ride_runtime::{Model, PartId, Policy, Session, golden};
use std::process::ExitCode;

/// Marks the beginning and the end of a region for instruction counters; a hint without effect for processors.
#[cfg(target_arch = "aarch64")]
mod mark {
    macro_rules! hint {
        ($number:expr, $first:expr, $($n:literal)*) => {
            match $number {
                // SAFETY: hints of this range have no effect.
                $($n => unsafe { core::arch::asm!("hint #{n}", n = const $first + 2 * $n, options(nostack, preserves_flags)) },)*
                _ => (),
            }
        };
    }

    pub(super) fn start(region: usize) {
        hint!(region, 96, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }

    pub(super) fn stop(region: usize) {
        hint!(region, 97, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
}

/// Other machines have no such hints.
#[cfg(not(target_arch = "aarch64"))]
mod mark {
    pub(super) fn start(_: usize) {}
    pub(super) fn stop(_: usize) {}
}

/// A region for each kind of operation, in the order of their appearance.
#[derive(Default)]
struct Layers(Vec<String>);

impl Layers {
    fn region(&mut self, step: &Step) -> usize {
        let name = match &step.op {
            Op::Conv(c) => {
                let s = c.shape;
                let form = match (c.out.lo.is_some(), c.accumulate) {
                    (false, false) => "",
                    (true, false) => " wide",
                    (false, true) => " residual",
                    (true, true) => " wide residual",
                };
                let stride = s.stride;
                format!("conv {}x{}x{} -> {} /{stride}{form}", s.in_h, s.in_w, s.in_c, s.out_c)
            }
            op => op.kind().to_owned(),
        };
        let at = self.0.iter().position(|n| *n == name).unwrap_or_else(|| {
            self.0.push(name);
            self.0.len() - 1
        });
        2 + at
    }
}

impl Probe for Layers {
    fn before(&mut self, _: PartId, _: usize, step: &Step) {
        mark::start(self.region(step));
    }

    fn after(&mut self, _: PartId, _: usize, step: &Step, _: Output<'_>) {
        mark::stop(self.region(step));
    }
}

fn run() -> Result<(), String> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: replay ARTIFACT [part of a kernel's name]")?;
    let bytes = std::fs::read(&path).map_err(|e| format!("cannot read {path}: {e}"))?;
    let model = Model::parse(&bytes).map_err(|e| format!("cannot use {path}: {e}"))?;
    let mut backends: Vec<&'static Backend> =
        BACKENDS.iter().filter(|b| b.layout == model.layout() && b.isa.available()).collect();
    if let Some(part) = args.next() {
        backends.retain(|b| b.conv.name.contains(&part));
        backends.truncate(1);
    }
    if backends.is_empty() {
        return Err("no kernel of this machine fits".into());
    }
    for backend in backends {
        replay(model, backend).map_err(|e| format!("{}: {e}", backend.conv.name))?;
    }
    Ok(())
}

fn replay(model: Model<'_>, backend: &'static Backend) -> Result<(), ride_runtime::Error> {
    let mut memory = vec![0; model.arena_len() + ARENA_ALIGN];
    let start = memory.as_ptr().align_offset(ARENA_ALIGN);
    let mut session = Session::with_backend(model, &mut memory[start..], backend)?;
    let mut pixels = vec![0; model.input_len()];
    let vectors = session.self_test(&mut pixels)?;
    let (_, width, channels) = model.input();
    golden::image(1, (width, channels), &mut pixels);
    let mut layers = Layers::default();
    let mut classes = [0; 2];
    for (region, policy) in [Policy::All, Policy::Exactly(1)].into_iter().enumerate() {
        mark::start(region);
        let outcome = if std::env::var_os("LAYERS").is_some() {
            session.classify_probed(&pixels, policy, &mut layers)?
        } else {
            session.classify(&pixels, policy)?
        };
        mark::stop(region);
        classes[region] = outcome.class;
    }
    println!("{:32} {vectors} golden vectors, classes {classes:?}", backend.conv.name);
    for (n, name) in layers.0.iter().enumerate() {
        println!("region {:2}: {name}", n + 2);
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
