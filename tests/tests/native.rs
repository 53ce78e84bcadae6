//! Artifacts packed for other kernels than those they were built for: the same constants as a build for those, and the same
//! bits.

use ride_compiler::lower::native::{Native, relayout};
use ride_compiler::memory::AlignedBytes;
use ride_compiler::network::{self, Conv, Expert, Head, Input, Network, Node, Routing, Shape};
use ride_runtime::format::MAX_WEIGHTS;
use ride_runtime::format::header::Kind;
use ride_runtime::kernels::{self, Isa};
use ride_runtime::model::Part;
use ride_runtime::op::{Layout, Op, Step};
use ride_runtime::{Model, PartId, Policy, Session};
use ride_tests::built::{self, TARGETS};
use ride_tests::exercise::{Answer, Arena, Recorder, picture};
use ride_tests::forge::Forge;
use ride_tests::synthetic::{Blocks, Random, Recipe};

fn parse(bytes: &[u8]) -> Model<'_> {
    Model::parse(bytes).expect("a valid artifact")
}

/// All kinds, and one whose groups are single channels.
fn recipes() -> Vec<(&'static str, Recipe)> {
    let depthwise = Recipe { seed: 11, blocks: Blocks::Next(usize::MAX), channels: 48, ..Recipe::next() };
    [Recipe::all(), vec![("depthwise", depthwise)]].concat()
}

/// Everything about an operation but where the arena keeps what.
fn constants<'m>(part: &Part<'m>, step: &Step) -> (Vec<&'m [u8]>, String) {
    match step.op {
        Op::Conv(c) => {
            let facts = (c.shape, c.accumulate, c.raw, c.limits, c.border, c.weights, c.params, c.layout, c.acc_bits);
            (vec![part.constants(c.weights), part.constants(c.params)], format!("{facts:?}"))
        }
        Op::Head(h) => {
            (vec![part.constants(h.dense.weights), part.constants(h.dense.params)], format!("{:?}", h.dense))
        }
        _ => (Vec::new(), step.op.kind().to_owned()),
    }
}

/// Whether two artifacts differ in nothing but the places of activations and scratch memory.
fn assert_same_constants(what: &str, left: Model<'_>, right: Model<'_>) {
    assert_eq!(left.layout(), right.layout(), "{what}");
    for (a, b) in left.parts().zip(right.parts()) {
        assert_eq!(a.len(), b.len(), "{what}");
        for (x, y) in a.steps().zip(b.steps()) {
            assert_eq!((left.name(&x), x.scale), (right.name(&y), y.scale), "{what}");
            assert!(constants(&a, &x) == constants(&b, &y), "{what}: constants of {} differ", left.name(&x));
        }
    }
    for n in 0..left.experts() as u16 {
        let section = |model: Model<'_>| {
            let entry = model.sections().find(|e| e.kind == Kind::Router && e.index == n);
            entry.and_then(|e| e.slice(model.bytes()).map(<[u8]>::to_vec))
        };
        assert!(section(left) == section(right), "{what}: router {n} differs");
    }
}

/// Answers and everything that was written on the way, by the fastest kernels.
fn run(model: Model<'_>, pixels: &[u8]) -> [(Answer, Recorder); 2] {
    let mut arena = Arena::new(model, 0x5A);
    let mut session = Session::new(model, arena.lend()).expect("a kernel");
    let results = [Policy::All, Policy::Routed].map(|policy| {
        let mut trace = Recorder::default();
        let answer = Answer::from(session.classify_probed(pixels, policy, &mut trace).expect("a valid image"));
        (answer, trace)
    });
    assert!(arena.intact());
    results
}

#[test]
fn packed_anew_is_as_built_for_the_other_target() {
    for (name, recipe) in recipes() {
        let network = recipe.network();
        let table = built::table(&network).expect("a table");
        let plain = |target, bits| built::compile(&network, &table, target, bits).expect("an artifact");
        let fine = |target| built::compile_fine(&network, &table, target, true).expect("an artifact").0;
        let narrow = TARGETS.map(|target| plain(target, 8));
        let wide = TARGETS.map(|target| plain(target, 16));
        for (bits, built) in [("8", narrow), ("16", wide), ("fine 16", TARGETS.map(fine))] {
            for (from, target) in built.iter().zip(TARGETS) {
                for to in &built {
                    let (from, to) = (parse(from), parse(to));
                    let what = format!("{name}, {bits} bits, from {target} to {}", to.layout().name());
                    let copy = AlignedBytes::copy_of(&relayout(from, to.layout()).expect("it fits"));
                    let model = parse(&copy);
                    assert_same_constants(&what, model, to);
                    assert_eq!(model.target(), target, "{what}");
                    if from.layout() == to.layout() {
                        assert!(*copy == *from.bytes(), "{what}: not the same bytes");
                    }
                    let pixels = picture(model, 3);
                    assert!(run(model, &pixels) == run(from, &pixels), "{what}: other bits");
                }
            }
        }
    }
}

/// There and back again gives the artifact, but for an arena that may have grown.
#[test]
fn the_real_model_survives_all_layouts() {
    let own = parse(built::real_artifact("x86-64", 16));
    let mut bytes = own.bytes().to_vec();
    for target in TARGETS {
        let layout = ride_targets::find(target).expect("a target").layout();
        bytes = relayout(parse(&bytes), layout).expect("it fits");
    }
    bytes = relayout(parse(&bytes), own.layout()).expect("it fits");
    let (back, own) = (Forge::of(&bytes), Forge::of(own.bytes()));
    for (back, own) in back.sections.iter().zip(&own.sections).skip(1) {
        assert!(back == own, "section {:?} {}", own.0, own.1);
    }
}

#[test]
fn copies_are_for_vector_kernels_and_pass_the_golden_vectors() {
    for target in TARGETS {
        let bytes = built::tiny(target);
        let model = parse(&bytes);
        let native = Native::of(model).expect("a sound artifact");
        let best = |model: Model<'_>| kernels::best(model.layout()).expect("portable code at least").isa;
        let vector = kernels::BACKENDS.iter().any(|b| b.isa != Isa::Scalar && b.isa.available());
        assert_eq!(native.repacked(), vector && best(model) == Isa::Scalar, "{target}");
        let run = native.checked().expect("it gives the same results");
        assert_eq!(best(run) == Isa::Scalar, !vector, "{target}");
        assert_eq!(native.repacked(), run.bytes() != model.bytes(), "{target}");
    }
}

/// An artifact that says something else than it computes.
#[test]
fn copies_of_artifacts_with_wrong_golden_vectors_are_refused() {
    let target = TARGETS.into_iter().find(|target| {
        let bytes = built::tiny(target);
        Native::of(parse(&bytes)).expect("a sound artifact").repacked()
    });
    let Some(target) = target else {
        println!("skipped: this machine has no vector kernels");
        return;
    };
    // A bias of the second expert's classifier.
    let mut forge = Forge::of(&built::tiny(target));
    let bytes = forge.bytes();
    let part = parse(&bytes).part(PartId::Expert(1)).expect("two experts");
    let head = part.steps().find_map(|step| match step.op {
        Op::Head(head) => Some(head),
        _ => None,
    });
    let params = head.expect("an expert has a classifier").dense.params;
    let end = (params.at + params.len) as usize;
    forge.content(Kind::Expert, 1)[end - 4..end].copy_from_slice(&9.0f32.to_le_bytes());
    let bytes = AlignedBytes::copy_of(&forge.bytes());
    let native = Native::of(parse(&bytes)).expect("nothing is wrong with its structure");
    let error = format!("{:#}", native.checked().expect_err("other results"));
    assert!(error.contains("golden"), "{error}");
}

/// Weights that the other layout would fill up with zeros beyond its bounds are left as they are.
#[test]
fn copies_are_bounded() {
    // As x86 kernels read 5x5 windows of a prime number of single channels, all groups are one dense convolution.
    const CHANNELS: usize = 3301;
    let mut random = Random::new(1);
    let mut conv = |name: &str, [in_channels, out_channels]: [usize; 2], kernel: usize, groups: usize| {
        let weight = random.many(out_channels * in_channels / groups * kernel * kernel, 0.5);
        let (bias, padding) = (random.many(out_channels, 0.1), kernel / 2);
        let op = Conv { weight, bias, out_channels, in_channels, kernel, stride: 1, padding, groups };
        Node { name: name.into(), op: ride_compiler::network::Op::Conv(op), inputs: vec![0] }
    };
    let first = conv("stem.first", [3, CHANNELS], 1, 1);
    let second = Node { inputs: vec![1], ..conv("stem.depthwise", [CHANNELS, CHANNELS], 5, CHANNELS) };
    let trunk = conv("expert0.conv", [CHANNELS, 8], 1, 1);
    let head = Head { weight: random.many(40, 1.0), bias: vec![0.0; 5], features: 8, normalize: false, divisor: 1.0 };
    let network = Network {
        arch: "Wide".into(),
        input: Input { shape: Shape { height: 2, width: 2, channels: 3 }, mean: vec![0.5; 3], std: vec![0.2; 3] },
        classes: 5,
        stem: network::Part { name: "stem".into(), nodes: vec![first, second] },
        experts: vec![Expert { trunk: network::Part { name: "expert0".into(), nodes: vec![trunk] }, head }],
        routing: Routing::None,
    };
    let table = built::table(&network).expect("a sound network");
    let bytes = built::compile(&network, &table, "portable", 8).expect("it compiles");
    let native = Native::of(parse(&bytes)).expect("it can run as it is");
    let dense = (25 * CHANNELS * CHANNELS) as u64;
    assert!(dense > MAX_WEIGHTS as u64);
    let x86 = kernels::best(Layout::K8N16).is_some_and(|backend| backend.isa != Isa::Scalar);
    assert!(!(x86 && native.repacked()));
    native.checked().expect("it can run as it is");
}
