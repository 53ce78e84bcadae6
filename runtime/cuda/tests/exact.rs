//! The same bits as on the CPU: every operation, logits, routes, both executors, all numeric paths, several grids.

mod support;

use ride_compiler::memory::AlignedBytes;
use ride_cuda::{Executor, Options, Path, Session};
use ride_runtime::format::header::Kind;
use ride_runtime::op::{Criterion, Op};
use ride_runtime::{Model, PartId, Policy};
use ride_tests::built::{self, TARGETS};
use ride_tests::exercise::{Answer, Arena, Recorder, picture};
use ride_tests::forge::{Forge, STEM};
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
    everywhere(&["tiny"], 16, 2);
    everywhere(&["tiny"], 8, 1);
}

#[test]
fn blocks_of_the_cifar_networks() {
    everywhere(&["cifar"], 16, 1);
}

/// Convolutions that read low bytes as well, in one group and in many, and classifiers with weights of 16 bits.
#[test]
fn what_has_16_bits() {
    let ground = &grounds()[grounds().len() - 1];
    for (name, recipe) in Recipe::all().into_iter().filter(|(name, _)| ["cifar", "next"].contains(name)) {
        let network = recipe.network();
        let table = built::table(&network).expect("a table");
        let (artifact, reads) = built::compile_fine(&network, &table, "portable", true).expect("an artifact");
        assert!(reads > 0, "{name}");
        ground.paths.iter().for_each(|&path| compare(name, parse(&artifact), ground, path, 1));
    }
}

#[test]
fn features_of_nothing_stop_the_router() {
    everywhere(&["dead"], 16, 1);
}

#[test]
fn routers_without_layers() {
    everywhere(&["max-probability", "margin", "entropy"], 16, 1);
}

#[test]
fn projections_and_grey_images() {
    everywhere(&["bottleneck"], 16, 1);
}

#[test]
fn experts_without_routers_or_stem() {
    everywhere(&["unrouted", "single", "separate"], 16, 1);
}

#[test]
fn groups_and_max_pooling() {
    let ground = &grounds()[grounds().len() - 1];
    for (name, recipe) in Recipe::all().into_iter().filter(|(name, _)| ["next", "pooled"].contains(name)) {
        let artifact = built::synthetic(&recipe, "portable", 16);
        ground.paths.iter().for_each(|&path| compare(name, parse(&artifact), ground, path, 1));
    }
}

#[test]
#[ignore = "minutes in the interpreter of a debug build; cargo test --release -- --ignored, or on a GPU"]
fn the_real_model() {
    let model = parse(built::real_artifact("portable", 16));
    for ground in grounds() {
        for &path in &ground.paths {
            compare("real model", model, ground, path, 1);
        }
    }
}

/// Artifacts for CPUs run on a GPU as they are: their weights are taken out of any layout.
#[test]
fn artifacts_of_all_layouts() {
    let ground = &grounds()[grounds().len() - 1];
    let path = ground.paths[ground.paths.len() - 1];
    for target in TARGETS {
        let artifact = built::tiny(target);
        compare(target, parse(&artifact), ground, path, 3);
    }
}

/// Weights at the ends of their range: accumulators and saturation as far out as they get.
#[test]
fn extreme_weights() {
    let artifact = built::tiny("portable");
    let fills: [fn(usize) -> u8; 3] = [|_| 127, |_| 129, |i| if i % 3 == 0 { 127 } else { 129 }];
    for fill in fills {
        let model = parse(&artifact);
        let mut forge = Forge::of(&artifact);
        for part in model.parts() {
            let section = match part.id {
                PartId::Expert(i) => (Kind::Expert, i),
                _ => STEM,
            };
            for step in part.steps() {
                if let Op::Conv(conv) = step.op {
                    let bytes: Vec<u8> = (0..conv.weights.len as usize).map(fill).collect();
                    forge = forge.put(section, conv.weights.at as usize, &bytes);
                }
            }
        }
        let bytes = AlignedBytes::copy_of(&forge.bytes());
        for ground in grounds() {
            ground.paths.iter().for_each(|&path| compare("extreme weights", parse(&bytes), ground, path, 2));
        }
    }
}

/// As many classes as the largest data set of RIDE's has, all ranked by each router: also where all logits are the same.
#[test]
fn thousands_of_classes() {
    let ground = &grounds()[grounds().len() - 1];
    let path = ground.paths[ground.paths.len() - 1];
    let many = Recipe { classes: 8142, ..Recipe::tiny() };
    let recipes = [None, Some(Criterion::Entropy), Some(Criterion::Margin)]
        .map(|confidence| Recipe { confidence, ..many.clone() });
    for recipe in recipes {
        let artifact = built::synthetic(&recipe, "portable", 16);
        let same = without_differences(&artifact);
        for bytes in [&artifact, &same] {
            let model = parse(bytes);
            let pixels = picture(model, 3);
            let mut session = session(model, ground, path, Executor::Persistent);
            for policy in [Policy::Routed, Policy::Threshold(f32::NEG_INFINITY), Policy::Threshold(f32::INFINITY)] {
                let (want, _) = on_cpu(model, &pixels, policy);
                let got = Answer::from(session.classify(&pixels, policy).expect("an answer"));
                assert_eq!(got, want, "{:?}, {policy:?}", recipe.confidence);
            }
        }
    }
}

/// The same artifact with classifiers of zeros: all logits are equal.
fn without_differences(artifact: &AlignedBytes) -> AlignedBytes {
    let model = parse(artifact);
    let mut forge = Forge::of(artifact);
    for part in model.parts() {
        let PartId::Expert(i) = part.id else { continue };
        for step in part.steps() {
            if let Op::Head(head) = step.op {
                for range in [head.dense.weights, head.dense.params] {
                    forge = forge.put((Kind::Expert, i), range.at as usize, &vec![0; range.len as usize]);
                }
            }
        }
    }
    AlignedBytes::copy_of(&forge.bytes())
}

/// Many runs of one session without a wrong bit: 100,000 on a GPU, few in the interpreter, or as many as `RIDE_CUDA_RUNS` says.
#[test]
fn soak() {
    let ground = &grounds()[grounds().len() - 1];
    let otherwise = if ground.interpreted { 30 } else { 100_000 };
    let runs = std::env::var("RIDE_CUDA_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise);
    let own = built::tiny("portable");
    let artifact = if ground.interpreted { &own } else { built::real_artifact("portable", 16) };
    let model = parse(artifact);
    let pictures: Vec<_> = (0..8).map(|seed| picture(model, seed)).collect();
    let policies = [Policy::Routed, Policy::All, Policy::Exactly(1)];
    let answer = |pixels: &Vec<u8>| policies.map(|policy| on_cpu(model, pixels, policy).0);
    let want: Vec<_> = pictures.iter().map(answer).collect();
    for &path in &ground.paths {
        let mut session = session(model, ground, path, Executor::Persistent);
        for run in 0..runs {
            let (n, policy) = (run % pictures.len(), run / pictures.len() % policies.len());
            let got = session.classify(&pictures[n], policies[policy]).unwrap_or_else(|e| panic!("run {run}: {e}"));
            assert_eq!(Answer::from(got), want[n][policy], "run {run}, {}", path.name());
        }
        println!("{}: {runs} runs, every bit the same", path.name());
    }
}

/// Other grids give the same bits, and one session may be asked many times.
#[test]
fn grids_of_all_sizes() {
    let artifact = built::tiny("portable");
    let model = parse(&artifact);
    let ground = &grounds()[grounds().len() - 1];
    let most = ground.device.facts().multiprocessors.min(5);
    for blocks in 1..=most {
        let options = Options { blocks: Some(blocks), ..Options::default() };
        let mut session = Session::with_options(model, &ground.device, options).expect("a session");
        for seed in 0..4 {
            let pixels = picture(model, seed);
            let (want, _) = on_cpu(model, &pixels, Policy::Routed);
            assert_eq!(
                Answer::from(session.classify(&pixels, Policy::Routed).expect("an answer")),
                want,
                "{blocks} blocks"
            );
        }
        assert!(session.self_test().expect("the golden vectors") > 0);
    }
}

/// One expert at a time: the same answers as on the CPU after each of them.
#[test]
fn step_by_step() {
    let artifact = built::synthetic(&Recipe::tiny(), "portable", 16);
    let model = parse(&artifact);
    for ground in grounds() {
        for executor in [Executor::Persistent, Executor::OpByOp] {
            let mut gpu = session(model, ground, ground.paths[0], executor);
            let mut arena = Arena::new(model, 0x11);
            let mut cpu = ride_runtime::Session::new(model, arena.lend()).expect("a session");
            let pixels = picture(model, 5);
            cpu.start(&pixels).expect("the stem");
            gpu.start(&pixels).expect("the stem");
            for _ in 0..model.experts() {
                assert_eq!(gpu.step().expect("an expert"), cpu.step().expect("an expert"));
                let (got, want) = (gpu.outcome().expect("an answer"), cpu.outcome().expect("an answer"));
                assert_eq!(Answer::from(got), Answer::from(want));
            }
            assert!(gpu.step().is_err(), "there is no expert left");
        }
    }
}

#[test]
fn profiles_name_every_operation() {
    let artifact = built::tiny("portable");
    let model = parse(&artifact);
    let ground = &grounds()[0];
    let mut session = session(model, ground, ground.paths[0], Executor::OpByOp);
    let times = session.profile(&picture(model, 0)).expect("a profile");
    let operations: usize = model.parts().map(|p| p.len()).sum();
    assert_eq!(times.len(), operations + model.experts());
    assert!(times.iter().all(|t| t.us >= 0.0));
}
