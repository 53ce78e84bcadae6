//! A RIDE artifact on the GPU of a Jetson board (or of any machine with an NVIDIA GPU).
//!
//! ```text
//! ride-example-jetson board                      # what the GPU and its driver say about themselves, as JSON
//! ride-example-jetson check   my.ride            # every bit against the CPU, on all numeric paths that the GPU has
//! ride-example-jetson latency my.ride            # time against the number of experts, as JSON
//! ride-example-jetson camera  my.ride < frames   # raw frames from standard input, one line of JSON for each
//! ```

mod board;
mod camera;
mod check;
mod latency;

use std::fs;
use std::process::ExitCode;

use ride_cuda::Device;
use ride_runtime::Model;

const USAGE: &str = "usage: ride-example-jetson check|latency|camera ARTIFACT [--gpu N] [--count N]
       ride-example-jetson board [ARTIFACT] [--gpu N]

board    says what GPU and driver are, and whether ARTIFACT can be read
check    compares the GPU with this machine's CPU, bit for bit: --count pictures (default 4)
latency  measures 1, 2, ... experts and routing: --count runs each (default 200)
camera   classifies frames of height x width x channels raw bytes from standard input as they come";

/// What the command line asks for.
struct Arguments {
    verb: String,
    /// Only `board` can do without.
    artifact: Option<String>,
    gpu: usize,
    count: Option<u32>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut plain = Vec::new();
    let (mut gpu, mut count) = (0, None);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|v| v.parse::<u32>().ok()).ok_or(format!("{word} needs a number"));
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--gpu" => gpu = number()? as usize,
            "--count" => count = Some(number()?.max(1)),
            option if option.starts_with('-') => return Err(format!("unknown option {option}\n{USAGE}")),
            _ => plain.push(word),
        }
    }
    let mut plain = plain.into_iter();
    match (plain.next(), plain.next(), plain.next()) {
        (Some(verb), artifact, None) if verb == "board" || artifact.is_some() => {
            Ok(Some(Arguments { verb, artifact, gpu, count }))
        }
        _ => Err(USAGE.to_owned()),
    }
}

fn run() -> Result<(), String> {
    let Some(arguments) = parse(std::env::args().skip(1))? else {
        println!("{USAGE}");
        return Ok(());
    };
    let Some(path) = &arguments.artifact else {
        board::run(&open(arguments.gpu)?);
        return Ok(());
    };
    let bytes = fs::read(path).map_err(|error| format!("cannot read the artifact {path}: {error}"))?;
    let model = Model::parse(&bytes).map_err(|error| format!("cannot use {path}: {error}"))?;
    let device = open(arguments.gpu)?;
    match arguments.verb.as_str() {
        "board" => {
            board::run(&device);
            Ok(())
        }
        "check" => check::run(model, &device, arguments.count.unwrap_or(4)),
        "latency" => latency::run(model, &device, arguments.count.unwrap_or(200) as usize),
        "camera" => camera::run(model, &device),
        other => Err(format!("unknown verb {other}\n{USAGE}")),
    }
    .map_err(|error| format!("{path}: {error}"))
}

fn open(gpu: usize) -> Result<Device, String> {
    Device::open(gpu).map_err(|error| error.to_string())
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
