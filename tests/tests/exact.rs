//! The same bits from every backend, from every weight layout, and from a plain evaluation with the oracle.

use ride_compiler::memory::AlignedBytes;
use ride_compiler::network::{Network, Part};
use ride_compiler::reference::{Image, Policy as FloatPolicy, Scratch};
use ride_runtime::kernels::{Backend, k8n4};
use ride_runtime::op::Layout;
use ride_runtime::{Model, PartId, Policy, Session};
use ride_tests::built::{self, BUILDS, TARGETS};
use ride_tests::exercise::{Answer, Arena, Recorder, backends, picture};
use ride_tests::naive::{self, Evaluation};
use ride_tests::synthetic::Recipe;

/// Everything that a run of all experts shows, and what routing makes of it.
#[derive(Debug, PartialEq)]
struct Observed {
    all: Answer,
    all_trace: Recorder,
    routed: Answer,
    routed_trace: Recorder,
}

fn parse(bytes: &AlignedBytes) -> Model<'_> {
    Model::parse(bytes).expect("the compiler writes valid artifacts")
}

fn observe(model: Model<'_>, backend: &'static Backend, pixels: &[u8]) -> Observed {
    let mut arena = Arena::new(model, 0xA5);
    let mut session = Session::with_backend(model, arena.lend(), backend).expect("the backend is available");
    let mut run = |policy| {
        let mut trace = Recorder::default();
        let answer = Answer::from(session.classify_probed(pixels, policy, &mut trace).expect("a valid image"));
        (answer, trace)
    };
    let ((all, all_trace), (routed, routed_trace)) = (run(Policy::All), run(Policy::Routed));
    assert!(arena.intact(), "{}", backend.conv.name);
    Observed { all, all_trace, routed, routed_trace }
}

/// Compares two runs and names the first operation that differs.
fn assert_same(what: &str, model: Model<'_>, (left, right): (&Observed, &Observed)) {
    if left == right {
        return;
    }
    for (a, b) in left.all_trace.writes.iter().zip(&right.all_trace.writes) {
        if a != b {
            let step = model.part(a.part).and_then(|p| p.step(a.index)).expect("an operation that ran");
            panic!("{what}: {:?} {} ({}) differs", a.part, model.name(&step), step.op.kind());
        }
    }
    panic!("{what}: logits or routes differ");
}

/// Compares every backend of every layout on one picture; returns what they agree on.
fn all_backends_agree(what: &str, models: &[Model<'_>], seed: u32) -> Observed {
    let pixels = picture(models[0], seed);
    let runs = models.iter().flat_map(|&m| backends(m).map(move |b| (m, b)));
    let mut runs = runs.map(|(m, b)| (b.isa.name(), m.layout().name(), observe(m, b, &pixels)));
    let (_, _, first) = runs.next().expect("the scalar backend runs everywhere");
    for (isa, layout, run) in runs {
        assert_same(&format!("{what}, picture {seed}, {isa} on {layout}"), models[0], (&first, &run));
    }
    first
}

/// Compares what a backend did with the plain evaluation.
fn assert_naive(what: &str, observed: &Observed, evaluation: &Evaluation) {
    let trace = &observed.all_trace.writes;
    assert_eq!(trace.len(), evaluation.written.len(), "{what}: number of operations");
    for (ran, want) in trace.iter().zip(&evaluation.written) {
        assert_eq!((ran.part, ran.index), (want.part, want.index), "{what}: order of operations");
        let same = ran.hi == want.hi && ran.lo == want.lo;
        assert!(same, "{what}: {} ({:?}, operation {}) differs from the oracle", want.name, want.part, want.index);
    }
    let bits = |logits: &[f32]| logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
    let last = evaluation.means.last().expect("at least one expert");
    assert_eq!(observed.all.logits, bits(last), "{what}: mean logits of all experts");
    assert_eq!(observed.routed.experts, evaluation.routed, "{what}: route");
    assert_eq!(observed.routed.logits, bits(&evaluation.means[evaluation.routed - 1]), "{what}: routed mean logits");
    let routes = observed.routed_trace.routes.iter();
    for (&(router, score, _), want) in routes.zip(&evaluation.scores) {
        let same = score == want.to_bits() || f32::from_bits(score).is_nan() && want.is_nan();
        assert!(same, "{what}: score of router {router}");
    }
}

#[test]
fn synthetic_networks_give_the_same_bits_everywhere() {
    for (name, recipe) in Recipe::all() {
        for bits in [8, 16] {
            let what = format!("{name}, {bits} bits");
            let artifacts = TARGETS.map(|target| built::synthetic(&recipe, target, bits));
            let models = artifacts.each_ref().map(parse);
            for seed in 0..12 {
                let observed = all_backends_agree(&what, &models, seed);
                if seed < 6 {
                    let evaluation = naive::evaluate(models[0], &picture(models[0], seed)).expect("a sound artifact");
                    assert_naive(&format!("{what}, picture {seed}"), &observed, &evaluation);
                }
            }
        }
    }
}

/// Convolutions that read low bytes as well, and classifiers with weights of 16 bits, in every layout.
#[test]
fn what_has_16_bits_gives_the_same_bits_everywhere() {
    let mut reads = 0;
    for (name, recipe) in Recipe::all() {
        let network = recipe.network();
        let table = built::table(&network).expect("a table");
        let artifacts = TARGETS.map(|target| built::compile_fine(&network, &table, target, true).expect("an artifact"));
        reads += artifacts[0].1;
        let models = artifacts.each_ref().map(|(bytes, _)| parse(bytes));
        for seed in 0..6 {
            let observed = all_backends_agree(name, &models, seed);
            let evaluation = naive::evaluate(models[0], &picture(models[0], seed)).expect("a sound artifact");
            assert_naive(&format!("{name}, picture {seed}"), &observed, &evaluation);
        }
    }
    assert!(reads > 20, "{reads}");
}

#[test]
fn the_real_model_gives_the_same_bits_everywhere() {
    for bits in [16, 8] {
        let what = format!("real model, {bits} bits");
        let builds = BUILDS.into_iter().filter(|&(_, b)| b == bits);
        let models: Vec<_> = builds.map(|(target, bits)| parse(built::real_artifact(target, bits))).collect();
        let pixels = picture(models[0], 1);
        let observed = all_backends_agree(&what, &models, 1);
        assert_naive(&what, &observed, &naive::evaluate(models[0], &pixels).expect("a sound artifact"));
    }
}

/// Many pictures, vector backends only: the scalar ones have been compared above.
#[test]
fn vector_backends_agree_with_each_other_on_many_pictures() {
    for bits in [16, 8] {
        let model = parse(built::real_artifact("x86-64", bits));
        let vector: Vec<_> = backends(model).filter(|b| b.isa.name() != "scalar").collect();
        let [first, others @ ..] = &vector[..] else {
            println!("skipped: this machine has no vector backend");
            return;
        };
        for seed in 100..148 {
            let pixels = noisy(model, seed);
            let want = observe(model, first, &pixels);
            for other in others {
                let what = format!("{bits} bits, picture {seed}, {}", other.isa.name());
                assert_same(&what, model, (&want, &observe(model, other, &pixels)));
            }
        }
    }
}

/// A picture with contrast up to black and white, which reaches the limits of activations.
fn noisy(model: Model<'_>, seed: u32) -> Vec<u8> {
    let mut pixels = picture(model, seed);
    if seed.is_multiple_of(2) {
        pixels.iter_mut().for_each(|p| *p = if *p > 127 { 255 - *p / 64 } else { *p / 64 });
    }
    pixels
}

#[test]
fn policies_and_steps_tell_the_same_story() {
    for (name, recipe) in Recipe::all() {
        let artifact = built::synthetic(&recipe, ride_targets::host(), 16);
        let model = parse(&artifact);
        let mut routes = vec![0; model.experts() + 1];
        for seed in 0..24 {
            let used = one_story(model, &picture(model, seed), name);
            routes[used] += 1;
        }
        if model.routed() && !recipe.dead {
            assert!(routes[1..].iter().all(|&n| n > 0), "{name}: routes {routes:?} do not test much");
        }
    }
}

/// Checks one image under every policy; returns the experts that routing used.
fn one_story(model: Model<'_>, pixels: &[u8], name: &str) -> usize {
    let mut arena = Arena::new(model, 0);
    let mut session = Session::new(model, arena.lend()).expect("a session");
    let mut steps = Vec::new();
    session.start(pixels).expect("a valid image");
    let mut wanted = None;
    for n in 1..=model.experts() {
        let progress = session.step().expect("another expert");
        assert_eq!(progress.experts, n);
        assert_eq!(progress.score.is_some(), model.routed() && n < model.experts());
        let decides = |score: f32| model.router(n - 1).is_some_and(|r| r.proceeds(score, r.threshold));
        assert_eq!(progress.proceed, progress.score.map_or(n < model.experts(), decides), "{name}");
        if !progress.proceed && wanted.is_none() {
            wanted = Some(n);
        }
        steps.push((Answer::from(session.outcome().expect("an answer")), progress.score));
    }
    let mut classify = |policy| Answer::from(session.classify(pixels, policy).expect("a valid policy"));
    for (n, (answer, _)) in steps.iter().enumerate() {
        assert_eq!(classify(Policy::Exactly(n + 1)), *answer, "{name}: exactly {} experts", n + 1);
    }
    let last = &steps[model.experts() - 1].0;
    assert_eq!(classify(Policy::All), *last, "{name}: all experts");
    let routed = classify(Policy::Routed);
    assert_eq!(Some(routed.experts), wanted, "{name}: route");
    assert_eq!(routed, steps[routed.experts - 1].0, "{name}: routed answer");
    if model.routed() {
        let nan = steps.iter().position(|(_, score)| score.is_some_and(f32::is_nan));
        let most = nan.map_or(model.experts(), |n| n + 1);
        let router = model.router(0).expect("a router");
        // The rule says whether a large score or a small one asks for more.
        let (eager, lazy) = match router.proceeds(0.0, f32::NEG_INFINITY) {
            true => (f32::NEG_INFINITY, f32::INFINITY),
            false => (f32::INFINITY, f32::NEG_INFINITY),
        };
        assert_eq!(classify(Policy::Threshold(eager)), steps[most - 1].0, "{name}: all that there is");
        assert_eq!(classify(Policy::Threshold(lazy)), steps[0].0, "{name}: as little as possible");
        if router.assignment().is_some() {
            assert_eq!(classify(Policy::Threshold(router.threshold)), routed, "{name}: the artifact's threshold");
        }
    }
    routed.experts
}

/// A router divides its feature by the norm without an epsilon: a zero feature gives NaN in the official code, which
/// compares false and stops.
#[test]
fn a_zero_feature_stops_after_the_first_expert() {
    let recipe = Recipe::dead();
    let network = recipe.network();
    let float = built::float(&network).expect("a sound network");
    for (target, bits) in BUILDS {
        let artifact = built::synthetic(&recipe, target, bits);
        let model = parse(&artifact);
        for seed in 0..4 {
            let pixels = picture(model, seed);
            let policy = FloatPolicy::Routed { threshold: None };
            let forward = float.forward(Image::Pixels(&pixels), policy, &mut Scratch::default(), None);
            let forward = forward.expect("a valid image");
            assert!(forward.used() == 1 && forward.scores[0].is_nan(), "the float model goes on");
            let mut arena = Arena::new(model, 0x55);
            let mut session = Session::new(model, arena.lend()).expect("a session");
            session.start(&pixels).expect("a valid image");
            let progress = session.step().expect("the first expert");
            assert!(progress.score.is_some_and(f32::is_nan) && !progress.proceed, "{target}, {bits} bits");
            for policy in [Policy::Routed, Policy::Threshold(f32::NEG_INFINITY)] {
                assert_eq!(session.classify(&pixels, policy).expect("a valid image").experts, 1, "{policy:?}");
            }
        }
    }
}

#[test]
fn memory_and_size_keep_their_promise() {
    let network = &built::real().network;
    let int8 = weights(network);
    for (target, bits) in BUILDS {
        let artifact = built::real_artifact(target, bits);
        let model = parse(artifact);
        // Of the widths, the one that the target uses by default; kernels' scratch memory weighs more on the other.
        let default = ride_targets::find(target).expect("a target").residual_bits() == bits;
        let (arena, bound) = (model.arena_len() as f64, model.liveness_bound() as f64);
        println!(
            "{target}, {bits} bits: {} bytes = int8 weights + {:.2} %, arena {arena} = bound + {:.2} %",
            artifact.len(),
            100.0 * (artifact.len() as f64 / int8 as f64 - 1.0),
            100.0 * (arena / bound - 1.0)
        );
        // Transformed tiles of Winograd convolutions come on top: 64-bit Arm trades some 90 KB for half the instructions.
        let tiles = if model.layout() == Layout::K8N4 { kernel_memory(model) } else { 0 } as f64;
        assert!(
            !default || arena <= 1.10 * bound + tiles,
            "{target}, {bits} bits: arena of {arena} bytes, bound {bound}"
        );
        assert!(artifact.len() as f64 <= 1.06 * int8 as f64, "{target}, {bits} bits: {} bytes", artifact.len());
        assert!(bound >= largest_step(model) as f64, "the bound is below what one operation touches");
    }
}

/// Weights of convolutions, classifiers and routers, one byte each.
fn weights(network: &Network) -> usize {
    use ride_compiler::network::{Op, Routing};
    let convs = |part: &Part| -> usize {
        part.nodes.iter().map(|n| if let Op::Conv(c) = &n.op { c.weight.len() } else { 0 }).sum()
    };
    let experts: usize = network.experts.iter().map(|e| convs(&e.trunk) + e.head.weight.len()).sum();
    let routers: usize = match &network.routing {
        Routing::Confidence(_) | Routing::None => 0,
        Routing::Assignment(routers) => routers.iter().map(|r| r.hidden_weight.len() + r.fc_weight.len()).sum(),
    };
    convs(&network.stem) + experts + routers
}

/// Most memory that the convolutions of the layout `k8n4` want besides activations.
fn kernel_memory(model: Model<'_>) -> usize {
    let of = |op: &ride_runtime::op::Op| match op {
        ride_runtime::op::Op::Conv(conv) => k8n4::scratch_len(&conv.shape),
        _ => 0,
    };
    model.parts().flat_map(|p| p.steps()).map(|s| of(&s.op)).max().unwrap_or(0)
}

/// Most activation bytes that one operation reads and writes.
fn largest_step(model: Model<'_>) -> usize {
    let touched = |op: &ride_runtime::op::Op| -> usize {
        op.reads().into_iter().chain(op.writes()).flatten().map(|(_, len)| len).sum()
    };
    model.parts().flat_map(|p| p.steps()).map(|s| touched(&s.op)).max().unwrap_or(0)
}

#[test]
fn the_same_request_gives_the_same_bytes() {
    for recipe in [Recipe::cifar(), Recipe::bottleneck()] {
        let network = recipe.network();
        for (target, bits) in BUILDS {
            let build = || {
                let table = built::table(&network).expect("a table");
                built::compile(&network, &table, target, bits).expect("an artifact")
            };
            assert!(*build() == *build(), "{target}, {bits} bits");
        }
    }
    let network = &built::real().network;
    let table = built::table(network).expect("a table");
    let again = built::compile(network, &table, "x86-64", 16).expect("an artifact");
    assert!(*again == **built::real_artifact("x86-64", 16), "the real model");
}

/// Weights need no alignment: an artifact in the middle of a file or of flash runs as well.
#[test]
fn an_artifact_may_lie_anywhere() {
    for target in ["portable", "x86-64"] {
        let artifact = built::synthetic(&Recipe::cifar(), target, 16);
        let model = parse(&artifact);
        let pixels = picture(model, 3);
        for shift in [1, 2, 4, 8, 24, 63] {
            let mut moved = AlignedBytes::zeroed(artifact.len() + shift);
            moved[shift..].copy_from_slice(&artifact);
            let there = Model::parse(&moved[shift..]).expect("the same artifact");
            for backend in backends(model) {
                let what = format!("{} moved by {shift}", backend.isa.name());
                assert_same(&what, model, (&observe(model, backend, &pixels), &observe(there, backend, &pixels)));
            }
        }
    }
}

/// Nothing of a sample shows in the next one.
#[test]
fn samples_do_not_influence_each_other() {
    let artifact = built::synthetic(&Recipe::cifar(), ride_targets::host(), 16);
    let model = parse(&artifact);
    let mut arena = Arena::new(model, 0xFF);
    let mut session = Session::new(model, arena.lend()).expect("a session");
    let alone: Vec<Answer> = (0..8)
        .map(|seed| {
            let mut arena = Arena::new(model, seed as u8);
            let mut session = Session::new(model, arena.lend()).expect("a session");
            Answer::from(session.classify(&picture(model, seed), Policy::Routed).expect("a valid image"))
        })
        .collect();
    for seed in (0..8).chain((0..8).rev()) {
        let pixels = picture(model, seed);
        let together = Answer::from(session.classify(&pixels, Policy::Routed).expect("a valid image"));
        assert_eq!(together, alone[seed as usize]);
        // A sample that is given up half-way.
        session.start(&picture(model, 99)).expect("a valid image");
        session.step().expect("the first expert");
    }
}

#[test]
fn every_part_has_a_section_of_its_own() {
    let artifact = built::real_artifact("x86-64", 16);
    let model = parse(artifact);
    assert_eq!(model.parts().count(), 1 + model.experts());
    for (part, id) in model.parts().zip((0..).map(|i| if i == 0 { PartId::Stem } else { PartId::Expert(i - 1) })) {
        assert_eq!(part.id, id);
        assert!(!part.is_empty() && part.steps().count() == part.len());
        assert!(part.steps().all(|s| !model.name(&s).is_empty() && s.scale > 0.0));
    }
    assert!((0..model.experts() - 1).all(|i| model.router(i).is_some()));
    assert!(model.router(model.experts() - 1).is_none());
}

/// The parameter-free shortcut has no meaning on an image, whose channels each have a scale of their own.
#[test]
fn a_shortcut_of_the_image_is_refused() {
    let mut network = Recipe::cifar().network();
    network.stem.nodes.clear();
    network.experts.truncate(1);
    network.routing = ride_compiler::network::Routing::None;
    let nodes = &mut network.experts[0].trunk.nodes;
    for node in nodes.iter_mut().filter(|n| n.inputs == [0]) {
        match &mut node.op {
            ride_compiler::network::Op::Conv(c) => {
                c.in_channels = network.input.shape.channels;
                c.weight.truncate(c.out_channels * c.kernel * c.kernel * c.in_channels);
            }
            ride_compiler::network::Op::Shortcut { after, .. } => *after += 16 - network.input.shape.channels,
            _ => {}
        }
    }
    let table = built::table(&network).expect("a float network without a stem runs");
    for (target, bits) in BUILDS {
        let error = format!("{:#}", built::compile(&network, &table, target, bits).expect_err("no such shortcut"));
        assert!(error.contains("shortcut"), "{error}");
    }
}
