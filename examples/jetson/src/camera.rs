//! Frames as they come.

use std::io::{self, Read};
use std::time::Instant;

use ride_cuda::{Device, Session};
use ride_runtime::{Model, Policy};

/// Classifies frames from standard input until it ends; each is read straight into memory that the GPU sees.
pub(crate) fn run(model: Model<'_>, device: &Device) -> Result<(), String> {
    let mut session = Session::new(model, device).map_err(|e| e.to_string())?;
    let mut input = io::stdin().lock();
    for frame in 0u64.. {
        if !fill(&mut input, session.image_mut())? {
            break;
        }
        let start = Instant::now();
        let outcome = session.classify_in_place(Policy::Routed).map_err(|e| e.to_string())?;
        let us = start.elapsed().as_secs_f64() * 1e6;
        println!(
            "{{\"frame\": {frame}, \"class\": {}, \"experts\": {}, \"us\": {us:.1}}}",
            outcome.class, outcome.experts
        );
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
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot read frames: {error}")),
        }
    }
    Ok(true)
}
