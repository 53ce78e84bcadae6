//! Classifies a PNG with an artifact, one expert at a time, against a deadline.
//!
//! ```text
//! cargo run --release -p ride-example-host -- my-ride.ride photo.png [DEADLINE_US]
//! ```
//!
//! The runtime does not allocate: the artifact's bytes and the arena belong to the caller. On a device both would be
//! statics; here they are on the heap.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ride_runtime::memory::AlignedBytes;
use ride_runtime::{Model, Session};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (artifact, image, deadline) = match &args[..] {
        [artifact, image] => (artifact, image, Duration::MAX),
        [artifact, image, us] => {
            let us = us.parse().with_context(|| format!("DEADLINE_US is a number of microseconds, not {us:?}"))?;
            (artifact, image, Duration::from_micros(us))
        }
        _ => bail!("usage: ride-example-host ARTIFACT IMAGE.png [DEADLINE_US]"),
    };
    let bytes = AlignedBytes::read(artifact).with_context(|| format!("cannot read {artifact}"))?;
    let model = Model::parse(&bytes).with_context(|| format!("cannot use {artifact}"))?;
    let pixels = read_image(Path::new(image), model)?;

    let mut memory = AlignedBytes::zeroed(model.arena_len());
    let mut session = Session::new(model, &mut memory)?;

    classify(&mut session, &pixels, deadline)
}

/// Runs experts until the routers are content or the next expert would not be done in time.
fn classify(session: &mut Session<'_, '_>, pixels: &[u8], deadline: Duration) -> Result<()> {
    let model = session.model();
    let begin = Instant::now();
    session.start(pixels)?;
    println!("stem       {:>8.1} us", us(begin.elapsed()));
    let mut slowest = Duration::ZERO;
    loop {
        let before = begin.elapsed();
        let progress = session.step()?;
        let now = begin.elapsed();
        slowest = slowest.max(now - before);

        let best = session.outcome()?;
        let score = progress.score.map_or_else(String::new, |score| format!(", router score {score:+.2}"));
        let class = match model.class_name(best.class) {
            "" => format!("class {}", best.class),
            name => name.to_owned(),
        };
        println!("{} expert{}  {:>8.1} us  {class}{score}", best.experts, plural(best.experts), us(now));

        if !progress.proceed {
            println!("=> {class}: no further expert is worth running");
            return Ok(());
        }
        if now + slowest > deadline {
            println!("=> {class}: another expert would miss the deadline of {:.0} us", us(deadline));
            return Ok(());
        }
    }
}

/// Raw pixels, height x width x channels, as the artifact takes them. Normalisation is part of the artifact.
fn read_image(path: &Path, model: Model<'_>) -> Result<Vec<u8>> {
    let image = image::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (height, width, channels) = model.input();
    ensure!(
        (image.height() as usize, image.width() as usize) == (height, width),
        "{} has {} x {} pixels, the artifact takes {height} x {width}; `ride-compile run --resize` scales images",
        path.display(),
        image.height(),
        image.width()
    );
    match channels {
        1 => Ok(image.into_luma8().into_raw()),
        3 => Ok(image.into_rgb8().into_raw()),
        _ => bail!("this example feeds 1 or 3 channels, the artifact takes {channels}"),
    }
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn plural(n: usize) -> &'static str {
    if n == 1 { " " } else { "s" }
}
