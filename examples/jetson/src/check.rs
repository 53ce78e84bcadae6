//! The GPU against the CPU, bit for bit.

use ride_cuda::{Device, Executor, Options, Path, Session};
use ride_runtime::exec::{Output, Probe};
use ride_runtime::format::ARENA_ALIGN;
use ride_runtime::op::Step;
use ride_runtime::{Model, Outcome, PartId, Policy, golden};

/// What operations wrote, with activations as plain int8 bits.
#[derive(Default)]
struct Outputs(Vec<Written>);

#[derive(PartialEq)]
struct Written {
    part: PartId,
    index: usize,
    hi: Vec<u8>,
    lo: Option<Vec<u8>>,
}

impl Probe for Outputs {
    fn after(&mut self, part: PartId, index: usize, _: &Step, output: Output<'_>) {
        let hi = output.hi.iter().map(|b| b ^ output.flip).collect();
        self.0.push(Written { part, index, hi, lo: output.lo.map(<[u8]>::to_vec) });
    }
}

/// An answer that can be compared.
#[derive(Debug, PartialEq)]
struct Answer {
    class: usize,
    experts: usize,
    logits: Vec<u32>,
}

impl From<Outcome<'_>> for Answer {
    fn from(o: Outcome<'_>) -> Self {
        let bits = |l: &f32| if l.is_nan() { f32::NAN.to_bits() } else { l.to_bits() };
        Answer { class: o.class, experts: o.experts, logits: o.logits.iter().map(bits).collect() }
    }
}

/// Classifies on the CPU.
fn on_cpu(model: Model<'_>, pixels: &[u8], policy: Policy) -> Result<(Answer, Outputs), String> {
    let mut memory = vec![0; model.arena_len() + ARENA_ALIGN];
    let start = memory.as_ptr().addr().next_multiple_of(ARENA_ALIGN) - memory.as_ptr().addr();
    let mut session = ride_runtime::Session::new(model, &mut memory[start..]).map_err(|e| e.to_string())?;
    let mut outputs = Outputs::default();
    let answer = session.classify_probed(pixels, policy, &mut outputs).map_err(|e| e.to_string())?.into();
    Ok((answer, outputs))
}

fn policies(model: Model<'_>) -> Vec<Policy> {
    let mut all = vec![Policy::All, Policy::Routed];
    all.extend((1..=model.experts()).map(Policy::Exactly));
    if model.routed() {
        all.extend([f32::INFINITY, f32::NEG_INFINITY, 0.0].map(Policy::Threshold));
    }
    all
}

/// Compares one picture on one path.
fn compare(model: Model<'_>, device: &Device, path: Path, pixels: &[u8]) -> Result<usize, String> {
    let session = |executor, blocks| {
        let options = Options { path: Some(path), executor, blocks };
        Session::with_options(model, device, options).map_err(|e| e.to_string())
    };
    let (want, outputs) = on_cpu(model, pixels, Policy::All)?;
    let mut traced = Outputs::default();
    let mut by_op = session(Executor::OpByOp, None)?;
    let got = Answer::from(by_op.classify_probed(pixels, Policy::All, &mut traced).map_err(|e| e.to_string())?);
    for (want, got) in outputs.0.iter().zip(&traced.0) {
        if want != got {
            let step = model.part(want.part).and_then(|p| p.step(want.index));
            let name = step.map_or("", |s| model.name(&s));
            let kind = step.map_or("", |s| s.op.kind());
            return Err(format!("{:?} {name} ({kind}) differs from the CPU", want.part));
        }
    }
    if got != want || outputs.0.len() != traced.0.len() {
        return Err("logits of all experts differ from the CPU".to_owned());
    }
    let mut compared = traced.0.len();
    for blocks in [None, Some(1), Some(2)] {
        let mut whole = session(Executor::Persistent, blocks)?;
        for policy in policies(model) {
            let (want, _) = on_cpu(model, pixels, policy)?;
            let got = Answer::from(whole.classify(pixels, policy).map_err(|e| e.to_string())?);
            if got != want {
                return Err(format!("{policy:?} in one launch of {} blocks differs from the CPU", whole.blocks()));
            }
            compared += 1;
        }
        whole.start(pixels).map_err(|e| e.to_string())?;
        while whole.step().map_err(|e| e.to_string())?.proceed {}
        let (want, _) = on_cpu(model, pixels, Policy::Routed)?;
        if Answer::from(whole.outcome().map_err(|e| e.to_string())?) != want {
            return Err("expert by expert differs from routing on the CPU".to_owned());
        }
        compared += 1;
    }
    Ok(compared)
}

/// Compares pictures on all paths; says what was compared.
pub(crate) fn run(model: Model<'_>, device: &Device, pictures: u32) -> Result<(), String> {
    let facts = device.facts();
    println!("{}, compute capability {}.{}", facts.name, facts.capability.0, facts.capability.1);
    let (_, width, channels) = model.input();
    for path in Path::ALL.into_iter().filter(|p| p.capability() <= facts.capability) {
        let mut compared = 0;
        for seed in 0..pictures {
            let mut pixels = vec![0; model.input_len()];
            golden::image(seed, (width, channels), &mut pixels);
            compared += compare(model, device, path, &pixels)
                .map_err(|error| format!("{}, picture {seed}: {error}", path.name()))?;
        }
        println!("{:5}: {compared} comparisons with the CPU, every bit the same", path.name());
    }
    let mut session = Session::new(model, device).map_err(|e| e.to_string())?;
    println!("{} golden vectors of the artifact pass", session.self_test().map_err(|e| e.to_string())?);
    Ok(())
}
