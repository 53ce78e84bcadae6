//! Reports latency against the number of experts on a device with Linux, as JSON for `ride-compile bench --import`.
//!
//! ```text
//! rustup target add aarch64-unknown-linux-musl
//! export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld       # the linker that comes with Rust; a PC's cc won't do
//! cargo build --release -p ride-example-device --target aarch64-unknown-linux-musl
//! scp target/aarch64-unknown-linux-musl/release/ride-example-device my-ride.ride board:
//! ssh board ./ride-example-device my-ride.ride --core 3 --rounds 50 > device.json
//! ```
//!
//! Nothing but the runtime and the standard library is linked, so a static (musl) binary is all that the device needs.
//! 32-bit Arm: `armv7-unknown-linux-musleabihf`, and the variable's name accordingly.

#[cfg(target_os = "linux")]
mod affinity;
#[cfg(not(target_os = "linux"))]
#[path = "no_affinity.rs"]
mod affinity;
mod arguments;
mod machine;

use std::fs;
use std::process::ExitCode;

use ride_report::{Memory, Setup};
use ride_runtime::memory::AlignedBytes;
use ride_runtime::{Model, Session, golden};

use arguments::Arguments;
use machine::Linux;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1))? else {
        println!("{}", arguments::USAGE);
        return Ok(());
    };
    if let Some(core) = arguments.core {
        affinity::pin(core).map_err(|error| format!("--core {core}: {error}"))?;
    }
    let path = &arguments.artifact;
    let bytes = AlignedBytes::read(path).map_err(|error| format!("cannot read the artifact {path}: {error}"))?;
    let model = Model::parse(&bytes).map_err(|error| format!("cannot use {path}: {error}"))?;
    report(model, &arguments).map_err(|error| format!("{path}: {error}"))
}

fn report(model: Model<'_>, arguments: &Arguments) -> Result<(), String> {
    let images = images(model, arguments)?;
    let mut arena = AlignedBytes::zeroed(model.arena_len());
    let mut session = Session::new(model, &mut arena).map_err(|error| error.to_string())?;
    let mut pixels = vec![0; model.input_len()];
    let mut samples = vec![0; (images.len() / model.input_len()).saturating_mul(arguments.rounds).min(MAX_SAMPLES)];
    let mut machine = Linux::new();
    let cpu = arguments.name.clone().unwrap_or_else(machine::cpu);
    let setup = Setup {
        cpu: &cpu,
        timer: machine::TIMER,
        images: &images,
        source: arguments.images.as_deref().unwrap_or("synthetic"),
        rounds: arguments.rounds,
    };
    let memory = Memory { pixels: &mut pixels, samples: &mut samples };
    ride_report::run(&mut machine, &mut session, memory, &setup).map_err(|error| error.to_string())?;
    machine.finish().map_err(|error| format!("cannot write the report: {error}"))
}

/// Most times that are kept for a median.
const MAX_SAMPLES: usize = 4096;

/// Raw images of a file, or synthetic ones.
fn images(model: Model<'_>, arguments: &Arguments) -> Result<Vec<u8>, String> {
    let (height, width, channels) = model.input();
    let len = model.input_len();
    let Some(path) = &arguments.images else {
        let mut images = vec![0; len * arguments.count];
        for (seed, image) in (1..).zip(images.chunks_exact_mut(len)) {
            golden::image(seed, (width, channels), image);
        }
        return Ok(images);
    };
    let images = fs::read(path).map_err(|error| format!("cannot read the images {path}: {error}"))?;
    if images.is_empty() || !images.len().is_multiple_of(len) {
        return Err(format!(
            "{path} has {} bytes; expected images of {height} x {width} x {channels} raw pixels, {len} bytes each",
            images.len()
        ));
    }
    Ok(images)
}
