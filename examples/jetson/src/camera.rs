//! Frames as they come.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use ride_cuda::{Device, Session};
use ride_runtime::{Model, Policy};

/// Classifies frames from standard input until it ends, or until nobody reads the answers; each is read straight into
/// memory that the GPU sees.
pub(crate) fn run(model: Model<'_>, device: &Device) -> Result<(), String> {
    let mut session = Session::new(model, device).map_err(|e| e.to_string())?;
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    for frame in 0u64.. {
        if !fill(&mut input, session.image_mut())? {
            break;
        }
        let start = Instant::now();
        let outcome = session.classify_in_place(Policy::Routed).map_err(|e| e.to_string())?;
        let us = start.elapsed().as_secs_f64() * 1e6;
        let (class, experts) = (outcome.class, outcome.experts);
        let said = writeln!(output, r#"{{"frame": {frame}, "class": {class}, "experts": {experts}, "us": {us:.1}}}"#);
        match said {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            said => said.map_err(|error| format!("cannot write an answer: {error}"))?,
        }
    }
    Ok(())
}

/// Reads a whole frame; whether there was one.
fn fill(input: &mut impl Read, frame: &mut [u8]) -> Result<bool, String> {
    let mut done = 0;
    while done < frame.len() {
        match input.read(&mut frame[done..]) {
            Ok(0) if done == 0 => return Ok(false),
            Ok(0) => return Err(format!("the last frame has {done} bytes of {}", frame.len())),
            Ok(n) => done += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot read frames: {error}")),
        }
    }
    Ok(true)
}
