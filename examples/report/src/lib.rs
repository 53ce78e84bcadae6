//! Device reports: what `ride-compile bench --json` says about the host, said by a device without heap and `std`.
//!
//! [`run`] tests an artifact, classifies images, measures latency against the number of experts and writes JSON piece by
//! piece.
#![cfg_attr(not(test), no_std)]

mod json;
mod samples;

use ride_runtime::format::crc::crc32;
use ride_runtime::op::Op;
use ride_runtime::{Error, Outcome, Policy, Session};

pub use json::Json;
use samples::Samples;

/// What times are counted in.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    /// The counter, as in `dwt`.
    pub name: &'static str,
    /// What it counts: `cycles`, `instructions` or `nanoseconds`.
    pub counts: &'static str,
    /// Counts of a second. For instructions: of a processor that takes one cycle for each.
    pub per_second: u64,
}

/// What a machine does for a report.
pub trait Machine {
    /// Counts since some moment in the past.
    fn now(&mut self) -> u64;
    /// Takes the next piece of the report.
    fn write(&mut self, text: &str);
    /// Called before the inferences, with all experts and all routers, whose need of stack is to be measured.
    fn before_stack(&mut self) {}
    /// Called after them: bytes of stack that it took, if the machine can tell.
    fn stack_bytes(&mut self) -> Option<u64> {
        None
    }
}

/// Memory that a report works in.
#[derive(Debug)]
pub struct Memory<'a> {
    /// Room for one image.
    pub pixels: &'a mut [u8],
    /// Room for times: as many as images and rounds together ask for, or as are wanted for medians.
    pub samples: &'a mut [u64],
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The processor.
    pub cpu: &'a str,
    /// The clock.
    pub timer: Timer,
    /// Images, one after the other.
    pub images: &'a [u8],
    /// Where they come from, as in `embedded`.
    pub source: &'a str,
    /// How often each image is measured.
    pub rounds: usize,
}

/// Writes the report of `session` on `machine`.
///
/// # Errors
/// The self-test fails, or the images do not fit the model.
pub fn run<M: Machine>(
    machine: &mut M,
    session: &mut Session<'_, '_>,
    memory: Memory<'_>,
    setup: &Setup<'_>,
) -> Result<(), Error> {
    let vectors = session.self_test(memory.pixels)?;
    let model = session.model();
    let needed = model.input_len();
    if setup.images.is_empty() || setup.images.chunks(needed.max(1)).any(|image| image.len() != needed) {
        return Err(Error::InputLength { needed, found: setup.images.len() });
    }
    let image = setup.images.get(..needed).unwrap_or_default();
    machine.before_stack();
    session.classify(image, Policy::All)?;
    if model.routed() {
        // Every router says yes, so all of them run too.
        session.classify(image, Policy::Threshold(f32::NEG_INFINITY))?;
    }
    let stack = machine.stack_bytes();

    let mut json = Json::new(|text: &str| machine.write(text));
    json.open("", '{');
    json.text("kernel", session.backend().conv.name);
    json.text("isa", session.backend().isa.name());
    json.number("threads", 1);
    json.number("rounds", (setup.rounds * images(setup, needed)) as u64);
    json.text("target", model.target());
    json.text("cpu", setup.cpu);
    json.text("images", setup.source);
    json.text("fingerprint", model.fingerprint());
    json.hexadecimal("checksum", model.checksum());
    json.open("timer", '{');
    json.text("name", setup.timer.name);
    json.text("counts", setup.timer.counts);
    json.number("per_second", setup.timer.per_second);
    json.close('}');
    json.number("arena_bytes", model.arena_len() as u64);
    match stack {
        Some(bytes) => json.number("stack_bytes", bytes),
        None => json.null("stack_bytes"),
    }
    json.number("golden_vectors", vectors as u64);
    answers(machine, session, setup)?;
    rows(machine, session, memory.samples, setup)?;
    routed(machine, session, memory.samples, setup)?;
    machine.write("\n}\n");
    Ok(())
}

fn images(setup: &Setup<'_>, needed: usize) -> usize {
    setup.images.len().checked_div(needed).unwrap_or(0)
}

/// Class, experts and the checksum of the logits' bits of each image, for comparison with other machines.
fn answers<M: Machine>(machine: &mut M, session: &mut Session<'_, '_>, setup: &Setup<'_>) -> Result<(), Error> {
    let needed = session.model().input_len();
    machine.write(",\n  \"answers\": [");
    for (n, image) in setup.images.chunks_exact(needed.max(1)).enumerate() {
        machine.write(if n > 0 { ",\n    " } else { "\n    " });
        let outcome = session.classify(image, Policy::Routed)?;
        let mut json = Json::flat(|text: &str| machine.write(text));
        json.open("", '{');
        json.number("class", outcome.class as u64);
        json.number("experts", outcome.experts as u64);
        json.hexadecimal("logits_crc32", crc_of(&outcome));
        json.close('}');
    }
    machine.write("\n  ]");
    Ok(())
}

/// CRC-32 of the logits as they travel: little-endian binary32.
pub fn crc_of(outcome: &Outcome<'_>) -> u32 {
    // SAFETY: every f32 is four valid bytes, and bytes need no alignment.
    let (_, bytes, _) = unsafe { outcome.logits.align_to::<u8>() };
    crc32(bytes)
}

/// Latency with 1, 2, ... experts.
fn rows<M: Machine>(
    machine: &mut M,
    session: &mut Session<'_, '_>,
    memory: &mut [u64],
    setup: &Setup<'_>,
) -> Result<(), Error> {
    machine.write(",\n  \"rows\": [");
    for experts in 1..=session.model().experts() {
        let (samples, _) = measure(machine, session, memory, (setup, Policy::Exactly(experts)))?;
        machine.write(if experts > 1 { ",\n    " } else { "\n    " });
        let macs = macs(session, experts);
        let mut json = Json::flat(|text: &str| machine.write(text));
        json.open("", '{');
        json.number("experts", experts as u64);
        samples.write(&mut json, setup.timer.per_second);
        json.number("macs", macs);
        json.decimal("gmac_per_s", samples.macs_per_second(macs, setup.timer.per_second) / 1000, 6);
        json.close('}');
    }
    machine.write("\n  ]");
    Ok(())
}

/// Multiply-accumulates of the stem and the first `experts` experts.
fn macs(session: &Session<'_, '_>, experts: usize) -> u64 {
    let macs_of = |op: &Op| op.macs();
    session.model().parts().take(1 + experts).flat_map(|part| part.steps()).map(|step| macs_of(&step.op)).sum()
}

/// Latency where the routers decide.
fn routed<M: Machine>(
    machine: &mut M,
    session: &mut Session<'_, '_>,
    memory: &mut [u64],
    setup: &Setup<'_>,
) -> Result<(), Error> {
    if !session.model().routed() {
        machine.write(",\n  \"routed\": null");
        return Ok(());
    }
    let (samples, used) = measure(machine, session, memory, (setup, Policy::Routed))?;
    let count = images(setup, session.model().input_len()) as u64;
    let experts = session.model().experts();
    machine.write(",\n  \"routed\": ");
    let mut json = Json::flat(|text: &str| machine.write(text));
    json.open("", '{');
    json.number("images", count);
    let total: u64 = used.iter().enumerate().map(|(n, &u)| (n as u64 + 1) * u64::from(u)).sum();
    let runs = used.iter().map(|&u| u64::from(u)).sum::<u64>().max(1);
    json.decimal("expected_experts", (total * 10_000).checked_div(runs).unwrap_or(0), 4);
    samples.write(&mut json, setup.timer.per_second);
    json.open("experts", '[');
    for &u in used.iter().take(experts) {
        json.decimal("", (u64::from(u) * 10_000).checked_div(runs).unwrap_or(0), 4);
    }
    json.close(']');
    json.close('}');
    Ok(())
}

/// Experts whose use is counted.
const COUNTED: usize = 64;

/// Times of all images and rounds, and how many of them used 1, 2, ... experts.
fn measure<'s, M: Machine>(
    machine: &mut M,
    session: &mut Session<'_, '_>,
    memory: &'s mut [u64],
    (setup, policy): (&Setup<'_>, Policy),
) -> Result<(Samples<'s>, [u32; COUNTED]), Error> {
    let mut samples = Samples::new(memory);
    let mut used = [0; COUNTED];
    let needed = session.model().input_len().max(1);
    for _ in 0..setup.rounds {
        for image in setup.images.chunks_exact(needed) {
            let start = machine.now();
            let experts = session.classify(image, policy)?.experts;
            samples.add(machine.now().wrapping_sub(start));
            if let Some(n) = used.get_mut(experts.wrapping_sub(1)) {
                *n += 1;
            }
        }
    }
    Ok((samples, used))
}
