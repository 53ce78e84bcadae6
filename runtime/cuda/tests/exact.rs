//! The same bits as on the CPU: every operation, logits, routes, both executors, all numeric paths, several grids.

mod support;

use ride_compiler::memory::AlignedBytes;
use ride_cuda::{Executor, Options, Path, Session};
use ride_runtime::{Model, Policy};
use ride_tests::built::{self, TARGETS};
use ride_tests::exercise::{Answer, Arena, Recorder, picture};
use ride_tests::synthetic::Recipe;
use support::{Ground, grounds};

fn parse(bytes: &AlignedBytes) -> Model<'_> {
    Model::parse(bytes).expect("the compiler writes valid artifacts")
}

/// What the CPU says: trace and answer.
fn on_cpu(model: Model<'_>, pixels: &[u8], policy: Policy) -> (Answer, Recorder) {
    let mut arena = Arena::new(model, 0x3C);
    let mut session = ride_runtime::Session::new(model, arena.lend()).expect("the CPU runs every layout");
    let mut trace = Recorder::default();
    let answer = Answer::from(session.classify_probed(pixels, policy, &mut trace).expect("a valid image"));
    (answer, trace)
}

fn session<'m>(model: Model<'m>, ground: &Ground, path: Path, executor: Executor) -> Session<'m> {
    let options = Options { path: Some(path), executor, blocks: None };
    Session::with_options(model, &ground.device, options).unwrap_or_else(|e| panic!("{}: {e}", path.name()))
}

/// Compares everything that can be seen of one picture.
fn compare(what: &str, model: Model<'_>, ground: &Ground, path: Path, seed: u32) {
    let what = format!("{what}, picture {seed}, {} on {}", path.name(), ground.device.facts().name);
    let pixels = picture(model, seed);
    let mut by_op = session(model, ground, path, Executor::OpByOp);
    let mut policies = vec![Policy::All, Policy::Exactly(1), Policy::Routed];
    if model.routed() {
        policies.extend([Policy::Threshold(f32::INFINITY), Policy::Threshold(f32::NEG_INFINITY)]);
    }
    for policy in [Policy::All, Policy::Routed] {
        let (want, want_trace) = on_cpu(model, &pixels, policy);
        let mut trace = Recorder::default();
        let got = by_op.classify_probed(&pixels, policy, &mut trace).unwrap_or_else(|e| panic!("{what}: {e}"));
        let got = Answer::from(got);
        for (ran, want) in trace.writes.iter().zip(&want_trace.writes) {
            let step = model.part(want.part).and_then(|p| p.step(want.index)).expect("an operation that ran");
            let name = model.name(&step);
            assert!(ran == want, "{what}, {policy:?}: {:?} {name} ({}) differs", want.part, step.op.kind());
        }
        assert_eq!(trace.writes.len(), want_trace.writes.len(), "{what}, {policy:?}: operations");
        assert_eq!(routes(&trace), routes(&want_trace), "{what}, {policy:?}: routes");
        assert_eq!(got, want, "{what}, {policy:?}");
    }
    let mut whole = session(model, ground, path, Executor::Persistent);
    for policy in policies {
        let (want, _) = on_cpu(model, &pixels, policy);
        for session in [&mut whole, &mut by_op] {
            let got = Answer::from(session.classify(&pixels, policy).unwrap_or_else(|e| panic!("{what}: {e}")));
            assert_eq!(got, want, "{what}, {policy:?}");
        }
    }
}

/// Scores by their bits; what is no number has many.
fn routes(trace: &Recorder) -> Vec<(usize, Option<u32>, bool)> {
    let score = |bits: u32| Some(bits).filter(|b| !f32::from_bits(*b).is_nan());
    trace.routes.iter().map(|&(router, bits, proceed)| (router, score(bits), proceed)).collect()
}

fn everywhere(names: &[&str], bits: u8, pictures: u32) {
    for (name, recipe) in Recipe::all().into_iter().filter(|(name, _)| names.contains(name)) {
        let artifact = built::synthetic(&recipe, "portable", bits);
        let model = parse(&artifact);
        for ground in grounds() {
            for &path in &ground.paths {
                (0..pictures).for_each(|seed| compare(&format!("{name}, {bits} bits"), model, ground, path, seed));
            }
        }
    }
}

#[test]
fn the_smallest_network() {
    everywhere(&["tiny"], 16, 3);
}

#[test]
fn blocks_of_the_cifar_networks() {
    everywhere(&["cifar"], 16, 1);
}
