//! Artifacts with valid checksums and impossible content: refused with a reason, or harmless.

use std::panic::catch_unwind;

use ride_compiler::memory::AlignedBytes;
use ride_runtime::format::header::{Kind, model};
use ride_runtime::format::record::{PART_HEAD, RECORD_LEN};
use ride_runtime::op::{Layout, NONE, Op, Source, Step};
use ride_runtime::{Error, Model};
use ride_tests::built::{self, TARGETS, tiny};
use ride_tests::exercise::{Limits, Verdict, judge};
use ride_tests::forge::{EXPERT0, EXPERT1, Forge, MODEL, ROUTER0, STEM, assert_invalid, mutate};
use ride_tests::synthetic::{Random, Recipe};

#[test]
fn impossible_heads_are_refused() {
    let forge = Forge::of(&tiny("x86-64"));
    let max = u32::MAX;
    let (u16s, u32s) = (|v: u16| v.to_le_bytes().to_vec(), |v: u32| v.to_le_bytes().to_vec());
    let outside = "does not lie in the arena";
    let cases: Vec<(&str, usize, Vec<u8>, &str)> = vec![
        ("no rows", model::HEIGHT, u16s(0), "1..=8192"),
        ("too many columns", model::WIDTH, u16s(8193), "1..=8192"),
        ("no channels", model::CHANNELS, u16s(0), "1..=4 channels"),
        ("five channels", model::CHANNELS, u16s(5), "1..=4 channels"),
        ("no experts", model::EXPERTS, vec![0], "number of experts"),
        ("65 experts", model::EXPERTS, vec![65], "number of experts"),
        ("routing flag", model::ROUTED, vec![2], "routing flag"),
        ("no classes", model::CLASSES, u32s(0), "number of classes"),
        ("many classes", model::CLASSES, u32s(max), "number of classes"),
        ("no arena", model::ARENA, u32s(0), outside),
        ("scratch at the end of the address space", model::SCRATCH, u32s(max - 3), outside),
        ("scratch longer than the address space", model::SCRATCH_LEN, u32s(max), outside),
        ("logits at the end of the address space", model::LOGITS, u32s(max - 3), outside),
        ("sum misaligned", model::SUM, u32s(2), "misaligned"),
        ("sum at the end of the address space", model::SUM, u32s(max - 7), outside),
        ("feature at the end of the address space", model::FEATURE, u32s(max & !3), outside),
        ("no feature", model::FEATURES, u16s(0), "length of the feature"),
        ("long feature", model::FEATURES, u16s(32769), "length of the feature"),
        ("12 bits", model::RESIDUAL_BITS, vec![12], "8 or 16 bits"),
        ("layout", model::LAYOUT, vec![7], "unknown weight layout"),
        ("target", model::TARGET, vec![0xFF], "UTF-8"),
        ("architecture", model::ARCH + 31, vec![0xC3], "UTF-8"),
    ];
    for (what, at, bytes, reason) in cases {
        assert_invalid(what, &forge.clone().put(MODEL, at, &bytes).bytes(), "model", reason);
    }
    let mut overlapping = forge.clone();
    let logits = overlapping.content(Kind::Model, 0)[model::LOGITS..][..4].to_vec();
    assert_invalid("sum in the logits", &forge.clone().put(MODEL, model::SUM, &logits).bytes(), "model", "overlap");
    for (len, what) in [(0, "empty"), (model::LEN - 1, "short"), (model::LEN + 1, "long")] {
        let mut other = forge.clone();
        other.content(Kind::Model, 0).resize(len, 0);
        assert_invalid(what, &other.bytes(), "model", "wrong length");
    }
}

#[test]
fn impossible_parts_are_refused() {
    let forge = Forge::of(&tiny("portable"));
    let beyond = "operations reach beyond the section";
    for (count, reason) in [(1u32 << 26, beyond), (u32::MAX, beyond), (0x0400_0001, beyond)] {
        for part in [STEM, EXPERT1] {
            let bytes = forge.clone().put(part, 0, &count.to_le_bytes()).bytes();
            assert_invalid("huge number of operations", &bytes, part.0.name(), reason);
        }
    }
    for (kind, index) in [STEM, EXPERT0] {
        let mut short = forge.clone();
        short.content(kind, index).truncate(PART_HEAD - 1);
        assert_invalid("a cut head", &short.bytes(), kind.name(), beyond);
    }
    let bytes = forge.clone().put(STEM, PART_HEAD, &[9]).bytes();
    assert_invalid("operation 9", &bytes, "stem", "unknown operation");
    let bytes = forge.clone().put(STEM, PART_HEAD + 12, &[9]).bytes();
    assert_invalid("layout 9", &bytes, "stem", "unknown operation");
    // Thousands of operations where one would do.
    let mut long = forge.clone();
    let content = long.content(Kind::Stem, 0);
    let record = content[PART_HEAD..PART_HEAD + RECORD_LEN].to_vec();
    let head = 9000u32.to_le_bytes().into_iter().chain([0; 12]);
    let tail = content.split_off(PART_HEAD + RECORD_LEN);
    *content = head.chain(record.iter().copied().cycle().take(9000 * RECORD_LEN)).chain(tail).collect();
    assert!(matches!(Model::parse(&long.bytes()), Err(Error::Invalid { section: "stem", .. })));
    let none = forge.put(EXPERT0, 0, &0u32.to_le_bytes());
    assert_invalid("an expert without operations", &none.bytes(), "expert", "must end with pooling");
}

/// What [`first`] takes for convolutions with groups.
const GROUPED: &str = "conv with groups";

/// Index of the first operation of a kind in a part.
fn first(forge: &Forge, part: (Kind, u16), kind: &str) -> usize {
    let of_kind = |s: &Step| match &s.op {
        Op::Conv(c) if c.shape.groups > 1 && kind == GROUPED => true,
        op => op.kind() == kind,
    };
    forge.clone().steps(part).iter().position(of_kind).expect("an operation of this kind")
}

/// A change of one operation that must be refused.
struct Flaw {
    what: &'static str,
    part: (Kind, u16),
    kind: &'static str,
    change: fn(&mut Step),
    reason: &'static str,
}

fn conv(step: &mut Step) -> &mut ride_runtime::op::Conv {
    match &mut step.op {
        Op::Conv(c) => c,
        other => panic!("{} is no convolution", other.kind()),
    }
}

fn shortcut(step: &mut Step) -> &mut ride_runtime::op::Shortcut {
    match &mut step.op {
        Op::Shortcut(s) => s,
        other => panic!("{} is no shortcut", other.kind()),
    }
}

fn max_pool(step: &mut Step) -> &mut ride_runtime::op::MaxPool {
    match &mut step.op {
        Op::MaxPool(m) => m,
        other => panic!("{} is no max pooling", other.kind()),
    }
}

fn pool(step: &mut Step) -> &mut ride_runtime::op::Pool {
    match &mut step.op {
        Op::Pool(p) => p,
        other => panic!("{} is no pooling", other.kind()),
    }
}

fn head(step: &mut Step) -> &mut ride_runtime::op::Head {
    match &mut step.op {
        Op::Head(h) => h,
        other => panic!("{} is no classifier", other.kind()),
    }
}

/// Makes it one of 16-bit weights with so many rows.
fn fine(head: &mut ride_runtime::op::Head, rows: u16) {
    (head.fine, head.dense.outputs) = (true, rows);
}

/// Classes of the smallest artifact.
const CLASSES: u16 = 5;

const BEYOND: &str = "constants reach beyond the section";
const OUTSIDE: &str = "an activation does not lie in the arena";

const fn flaw(
    what: &'static str,
    (part, kind): ((Kind, u16), &'static str),
    change: fn(&mut Step),
    reason: &'static str,
) -> Flaw {
    Flaw { what, part, kind, change, reason }
}

#[test]
fn impossible_convolutions_are_refused() {
    let stem = (STEM, "conv");
    let expert = (EXPERT1, "conv");
    let flaws = [
        flaw("no rows", stem, |s| conv(s).shape.in_h = 0, "empty"),
        flaw("no output channels", stem, |s| conv(s).shape.out_c = 0, "empty"),
        flaw("window larger than the image", stem, |s| conv(s).shape.kernel = 15, "empty"),
        flaw("window of 16", stem, |s| (conv(s).shape.kernel, conv(s).shape.padding) = (16, 15), "window, stride"),
        flaw("no window", stem, |s| conv(s).shape.kernel = 0, "window, stride"),
        flaw("stride 0", stem, |s| conv(s).shape.stride = 0, "empty"),
        flaw("stride 9", stem, |s| conv(s).shape.stride = 9, "window, stride"),
        flaw("padding as wide as the window", stem, |s| conv(s).shape.padding = 3, "window, stride"),
        flaw("another image", stem, |s| conv(s).shape.in_w = 9, "does not fit the image"),
        flaw("enormous planes", expert, |s| (conv(s).shape.in_h, conv(s).shape.in_w) = (65535, 65535), "too large"),
        flaw(
            // 2^16 * 2^16 * 1: zero in 32 bits.
            "planes that wrap 32 bits",
            expert,
            |s| (conv(s).shape.in_h, conv(s).shape.in_w, conv(s).shape.in_c) = (32768, 32768, 4),
            "too large",
        ),
        flaw("many taps", expert, |s| (conv(s).shape.in_c, conv(s).shape.kernel) = (60000, 3), "too large"),
        flaw("more channels", expert, |s| conv(s).shape.out_c += 1, "wrong length|overwritten"),
        flaw("layout", stem, |s| conv(s).layout = other(conv(s).layout), "layout differs"),
        flaw("limits upside down", stem, |s| (conv(s).limits.min, conv(s).limits.max) = (1, 0), "zero point or limits"),
        flaw("32 bits", stem, |s| conv(s).acc_bits = 32, "too many bits"),
        flaw("weights at the end", stem, |s| conv(s).weights.at = u32::MAX - 3, BEYOND),
        flaw("weights misaligned", stem, |s| conv(s).weights.at += 2, "misaligned"),
        flaw("weights cut off", stem, |s| conv(s).weights.len -= 1, "wrong length"),
        flaw("parameters at the end", stem, |s| conv(s).params.at = u32::MAX - 3, BEYOND),
        flaw("parameters misaligned", stem, |s| conv(s).params.at += 1, "misaligned"),
        flaw("input far away", expert, |s| conv(s).source = Source::Arena(u32::MAX), OUTSIDE),
        flaw("input just outside", expert, |s| conv(s).source = Source::Arena(1 << 20), OUTSIDE),
        flaw("output far away", stem, |s| conv(s).out.hi = u32::MAX, OUTSIDE),
        flaw("low plane just before the mark", stem, |s| conv(s).out.lo = Some(NONE - 1), OUTSIDE),
        flaw("both planes in one place", stem, |s| conv(s).out.lo = Some(conv(s).out.hi), "overlap"),
        flaw("output over the input", expert, |s| conv(s).out.hi = source(s), "overlap"),
        flaw("image in an expert", expert, |s| conv(s).source = Source::Image, "fit the image|instead of the stem"),
        flaw("an infinite scale", stem, |s| s.scale = f32::INFINITY, "scale is not a number"),
        flaw("a name far away", stem, |s| s.name = u32::MAX, "name is missing"),
    ];
    for target in TARGETS {
        assert_flaws(&Forge::of(&tiny(target)), &flaws);
    }
}

fn other(layout: Layout) -> Layout {
    if layout == Layout::Ohwi { Layout::K8N16 } else { Layout::Ohwi }
}

fn source(step: &mut Step) -> u32 {
    match conv(step).source {
        Source::Arena(at) | Source::Low(at) => at,
        Source::Image => 0,
    }
}

#[test]
fn impossible_groups_and_max_poolings_are_refused() {
    let groups = (STEM, GROUPED);
    let most = (STEM, "max-pool");
    let flaws = [
        flaw("no groups", groups, |s| conv(s).shape.groups = 0, "do not divide"),
        flaw("groups that do not divide", groups, |s| conv(s).shape.groups += 1, "do not divide"),
        flaw("more groups than channels", groups, |s| conv(s).shape.groups = u16::MAX, "do not divide"),
        flaw("one group", groups, |s| conv(s).shape.groups = 1, "wrong length"),
        flaw("half as many groups", groups, |s| conv(s).shape.groups /= 2, "wrong length"),
        flaw("depthwise", groups, |s| conv(s).shape.groups = conv(s).shape.in_c, "wrong length"),
        flaw("an input channel less", groups, |s| conv(s).shape.in_c -= 1, "do not divide"),
        flaw("an output channel more", groups, |s| conv(s).shape.out_c += 1, "do not divide"),
        flaw("twice the outputs", groups, |s| conv(s).shape.out_c *= 2, "wrong length|overwritten"),
        flaw("many channels in many groups", groups, wide_groups, "wrong length|too large|reach beyond"),
        flaw("weights of other groups", groups, |s| conv(s).weights.len /= 2, "wrong length"),
        flaw("parameters at the end", groups, |s| conv(s).params.at = u32::MAX - 3, BEYOND),
        flaw("no rows", most, |s| max_pool(s).in_h = 0, "empty"),
        flaw("no channels", most, |s| max_pool(s).channels = 0, "empty"),
        flaw("stride 0", most, |s| max_pool(s).stride = 0, "empty"),
        flaw("stride 9", most, |s| max_pool(s).stride = 9, "window, stride"),
        flaw("no window", most, |s| max_pool(s).kernel = 0, "window, stride"),
        flaw("window of 16", most, |s| (max_pool(s).kernel, max_pool(s).padding) = (16, 1), "window, stride"),
        flaw("windows without a pixel", most, |s| max_pool(s).padding = 3, "window, stride"),
        flaw("enormous planes", most, |s| (max_pool(s).in_h, max_pool(s).in_w) = (65535, 65535), "too large"),
        flaw("narrow to wide", most, other_width, "narrow and a wide"),
        flaw("another size", most, |s| max_pool(s).in_w -= 1, "overwritten|overlap|nothing has written"),
        flaw("more channels", most, |s| max_pool(s).channels += 1, "overwritten|overlap|nothing has written|arena"),
        flaw("output far away", most, |s| max_pool(s).out.hi = u32::MAX - 1, OUTSIDE),
        flaw("input far away", most, |s| max_pool(s).source.hi = u32::MAX - 1, OUTSIDE),
        flaw("output over the input", most, |s| max_pool(s).out = max_pool(s).source, "overlap"),
        flaw("input from nowhere", most, |s| max_pool(s).source.hi ^= 4, "overlap|overwritten|nothing has written"),
    ];
    for target in TARGETS {
        assert_flaws(&Forge::of(&built::synthetic(&Recipe::next(), target, 16)), &flaws);
    }
}

/// 2^15 groups of one channel: small windows, but planes and weights of another layer.
fn wide_groups(step: &mut Step) {
    let shape = &mut conv(step).shape;
    (shape.in_c, shape.out_c, shape.groups) = (1 << 15, 1 << 15, 1 << 15);
}

fn other_width(step: &mut Step) {
    let source = &mut max_pool(step).source;
    source.lo = if source.lo.is_some() { None } else { Some(0) };
}

#[test]
fn impossible_shortcuts_poolings_and_classifiers_are_refused() {
    let cut = (EXPERT0, "shortcut");
    let flaws = [
        flaw("no columns", cut, |s| shortcut(s).in_w = 0, "empty"),
        flaw("stride 0", cut, |s| shortcut(s).stride = 0, "stride is out of range"),
        flaw("stride 9", cut, |s| shortcut(s).stride = 9, "stride is out of range"),
        flaw("padding beyond the output", cut, |s| shortcut(s).before = 65535, "fewer output"),
        flaw("fewer channels", cut, |s| shortcut(s).out_c = 1, "fewer output"),
        flaw("narrow to wide", cut, |s| shortcut(s).source.lo = None, "narrow and a wide"),
        flaw("shift 23", cut, |s| shortcut(s).right_shift = 23, "right shift"),
        flaw("shift 63", cut, |s| shortcut(s).right_shift = 63, "right shift"),
        flaw("a negative multiplier", cut, |s| shortcut(s).multiplier = -(1 << 30), "not normalised"),
        flaw("a small multiplier", cut, |s| shortcut(s).multiplier = 1, "not normalised"),
        flaw("enormous planes", cut, |s| (shortcut(s).in_h, shortcut(s).in_w) = (65535, 65535), "too large"),
        flaw(
            "limits upside down",
            cut,
            |s| (shortcut(s).limits.min, shortcut(s).limits.max) = (1, 0),
            "zero point or limits",
        ),
        flaw("output far away", cut, |s| shortcut(s).out.hi = u32::MAX - 1, OUTSIDE),
        flaw("input over the output", cut, |s| shortcut(s).source.hi = shortcut(s).out.hi, "overlap"),
        flaw("input from nowhere", cut, |s| shortcut(s).source.hi ^= 4, "overlap|overwritten|nothing has written"),
        flaw("no pixels", (EXPERT0, "pool"), |s| pool(s).pixels = 0, "pooled area"),
        flaw("many pixels", (EXPERT0, "pool"), |s| pool(s).pixels = 32769, "pooled area"),
        flaw("another area", (EXPERT0, "pool"), |s| pool(s).pixels -= 1, "overwritten"),
        flaw("shift 32", (EXPERT0, "pool"), |s| pool(s).shift = 32, "shift"),
        flaw("other channels", (EXPERT0, "pool"), |s| pool(s).channels = 0, "length of the feature"),
        flaw("feature elsewhere", (EXPERT0, "pool"), |s| pool(s).out ^= 4, "feature is not where"),
        flaw("logits elsewhere", (EXPERT1, "head"), |s| head(s).out = u32::MAX, "does not connect"),
        flaw("feature elsewhere", (EXPERT1, "head"), |s| head(s).source = 1, "does not connect"),
        flaw("one row for two classes", (EXPERT1, "head"), |s| head(s).fine = true, "number of classes"),
        flaw("half a row", (EXPERT1, "head"), |s| fine(head(s), 2 * CLASSES + 1), "number of classes"),
        flaw("rows without weights", (EXPERT1, "head"), |s| fine(head(s), 2 * CLASSES), "wrong length|scratch|beyond"),
        flaw("a class less", (EXPERT1, "head"), |s| head(s).dense.outputs -= 1, "number of classes"),
        flaw("other features", (EXPERT1, "head"), |s| head(s).dense.features += 1, "fit the feature"),
        flaw("weights cut off", (EXPERT1, "head"), |s| head(s).dense.weights.len -= 1, "wrong length"),
        flaw("weights far away", (EXPERT1, "head"), |s| head(s).dense.weights.at = u32::MAX - 3, BEYOND),
        flaw("parameters far away", (EXPERT1, "head"), |s| head(s).dense.params.at = 1 << 31, BEYOND),
    ];
    for target in TARGETS {
        assert_flaws(&Forge::of(&tiny(target)), &flaws);
    }
}

/// `reason` may name alternatives, separated by `|`.
fn assert_flaws(forge: &Forge, flaws: &[Flaw]) {
    for Flaw { what, part, kind, change, reason } in flaws {
        let n = first(forge, *part, kind);
        let bytes = forge.clone().edit(*part, n, change).bytes();
        match Model::parse(&bytes) {
            Err(Error::Invalid { section, reason: r, at }) => {
                let known = reason.split('|').any(|reason| r.contains(reason));
                assert!(known && section == part.0.name() && at >= n, "{kind}: {what}: {section} {at}: {r}");
            }
            other => panic!("{kind}: {what}: {:?}", other.map(|_| "accepted")),
        }
    }
}

/// The parameter arrays of a convolution lie behind its weights.
#[test]
fn impossible_parameters_are_refused() {
    for target in TARGETS {
        let forge = Forge::of(&tiny(target));
        let mut step = forge.clone().steps(STEM)[0];
        let conv = *conv(&mut step);
        let channels = ride_runtime::kernels::padded_channels(&conv.shape, conv.layout);
        let at = conv.params.at as usize;
        for (what, at, bytes, reason) in [
            ("shift 23", at + 8 * channels, vec![23], "right shift"),
            ("shift 63", at + 9 * channels - 1, vec![63], "right shift"),
            ("multiplier 1", at + 4 * channels, vec![1, 0, 0, 0], "not normalised"),
            ("multiplier below zero", at + 8 * channels - 1, vec![0x80], "not normalised"),
        ] {
            assert_invalid(what, &forge.clone().put(STEM, at, &bytes).bytes(), "stem", reason);
        }
    }
    // Only small pixels have borders of their own for each channel.
    let artifact = built::synthetic(&Recipe::cifar(), "x86-64", 16);
    let forge = Forge::of(&artifact);
    let bytes = forge.edit(EXPERT0, 0, |s| conv(s).border[2] ^= 1).bytes();
    assert_invalid("a border of its own for channel 2 of 16", &bytes, "expert", "border differs");
}

/// The smallest artifact with everything that has 16 bits.
fn fine_forge(target: &str) -> Forge {
    let network = Recipe::tiny().network();
    let artifact = built::table(&network).and_then(|table| built::compile_fine(&network, &table, target, true));
    Forge::of(&artifact.expect("an artifact").0)
}

#[test]
fn impossible_routers_names_classes_and_vectors_are_refused() {
    for target in TARGETS {
        let forge = Forge::of(&tiny(target));
        let far = (u32::MAX - 3).to_le_bytes();
        for (what, at, bytes, reason) in [
            ("layout", 12, vec![5], "unknown rule or layout"),
            ("other layout", 12, vec![if target == "portable" { 1 } else { 0 }], "layout differs"),
            ("features", 8, vec![7, 0], "fit the feature"),
            ("no hidden units", 10, vec![0, 0], "fit the feature"),
            ("hidden units", 10, vec![0xFF, 0xFF], "wrong length"),
            ("no logits", 16, vec![0, 0], "largest logits"),
            ("more logits than classes", 16, vec![6, 0], "largest logits|beyond the section"),
            ("weights far away", 32, far.to_vec(), BEYOND),
            ("parameters far away", 40, far.to_vec(), BEYOND),
            ("last layer far away", 24, far.to_vec(), BEYOND),
            ("last layer misaligned", 24, vec![1], "misaligned"),
        ] {
            let result = Model::parse(&forge.clone().put(ROUTER0, at, &bytes).bytes()).err();
            let right = matches!(result, Some(Error::Invalid { section: "router", reason: r, at: 0 })
                if reason.split('|').any(|reason| r.contains(reason)));
            assert!(right, "{what}: {result:?}");
        }
        let mut short = forge.clone();
        short.content(Kind::Router, 0).truncate(63);
        assert_invalid("a cut router", &short.bytes(), "router", "too short");
        let no_scratch = forge.clone().put(MODEL, model::SCRATCH_LEN, &[4, 0, 0, 0]);
        assert_invalid("scratch", &no_scratch.bytes(), "router", "scratch memory is too small");
        let no_scratch = fine_forge(target).put(MODEL, model::SCRATCH_LEN, &[4, 0, 0, 0]);
        assert_invalid("scratch", &no_scratch.bytes(), "expert", "scratch memory is too small");
    }
    let forge = Forge::of(&tiny("portable"));
    // Five classes: 20 bytes of training counts, then the names.
    let mut cases = Vec::new();
    let mut change = |what, kind: Kind, f: fn(&mut Vec<u8>), section, reason| {
        let mut forged = forge.clone();
        f(forged.content(kind, 0));
        cases.push((what, forged.bytes(), section, reason));
    };
    change("no names of classes", Kind::Classes, |c| c.truncate(20), "classes", "cut off");
    change("no counts", Kind::Classes, |c| c.truncate(19), "classes", "too short");
    change("a long name", Kind::Classes, |c| c[20..22].fill(0xFF), "classes", "cut off");
    change("a name that is no text", Kind::Classes, |c| c[22] = 0xFF, "classes", "not UTF-8");
    change("more than names", Kind::Classes, |c| c.push(0), "classes", "after the last");
    change("no names of operations", Kind::Names, Vec::clear, "stem", "name is missing");
    change("an operation's name is no text", Kind::Names, |n| n[1] = 0xFF, "stem", "not UTF-8");
    change("no vectors", Kind::Golden, Vec::clear, "golden", "wrong length");
    change("a vector more", Kind::Golden, |g| g[0] += 1, "golden", "wrong length");
    change("many vectors", Kind::Golden, |g| g[..4].fill(0xFF), "golden", "wrong length");
    change("a cut vector", Kind::Golden, |g| g.truncate(19), "golden", "wrong length");
    for (what, bytes, section, reason) in cases {
        assert_invalid(what, &bytes, section, reason);
    }
}

/// Programs whose every operation is sound, but that read what is not there.
#[test]
fn broken_lifetimes_are_refused() {
    let forge = Forge::of(&tiny("portable"));
    let steps = forge.clone().steps(STEM);
    let last = steps.len() - 1;
    let Op::Conv(residual) = steps[last].op else { panic!("the stem ends with a convolution") };
    assert!(residual.accumulate);
    // The stem's convolutions in another order.
    let swapped = forge.clone().edit(STEM, 0, |s| s.op = steps[1].op).edit(STEM, 1, |s| s.op = steps[0].op);
    assert_invalid("reads before the write", &swapped.bytes(), "stem", "nothing has written");
    // A residual that nobody has made.
    let lost = forge.clone().edit(STEM, 0, |s| conv(s).accumulate = true);
    assert_invalid("a residual from nowhere", &lost.bytes(), "stem", "nothing has written");
    // The first expert moves an activation of its own to where the second one looks for the stem's output.
    let moved = |forge: &Forge, expert, to: u32| {
        let n = forge.clone().steps(expert).len() - 4;
        forge
            .clone()
            .edit(expert, n, |s| conv(s).out.hi = to)
            .edit(expert, n + 1, |s| conv(s).source = Source::Arena(to))
    };
    let over = moved(&forge, EXPERT0, residual.out.hi);
    assert_invalid("the stem's output is lost", &over.bytes(), "expert", "overwritten");
    assert!(Model::parse(&moved(&forge, EXPERT1, residual.out.hi).bytes()).is_ok(), "after the last expert it may be");
    // The sum of logits must last until the last expert is added.
    let sum = forge.clone().content(Kind::Model, 0)[model::SUM..][..4].try_into().expect("four bytes");
    let sum = u32::from_le_bytes(sum);
    assert!(Model::parse(&moved(&forge, EXPERT0, sum).bytes()).is_ok(), "before the first sum it may be anything");
    assert_invalid("the sum is lost", &moved(&forge, EXPERT1, sum).bytes(), "expert", "overwrites the sum");
    // Classifier first, pooling afterwards.
    let expert = forge.clone().steps(EXPERT0);
    let n = expert.len();
    let turned = forge
        .clone()
        .edit(EXPERT0, n - 2, |s| s.op = expert[n - 1].op)
        .edit(EXPERT0, n - 1, |s| s.op = expert[n - 2].op);
    assert_invalid("classifier before pooling", &turned.bytes(), "expert", "must end with pooling and classifier");
}

/// Thousands of artifacts with valid checksums and changed content: refused, or run without a trace outside of their
/// arena; and as long as they keep what the compiler promises, with one answer from every backend and every arena.
#[test]
fn crafted_artifacts_are_harmless() {
    let limits = Limits { arena: 1 << 22, cost: 3_000_000 };
    let (mut refused, mut lawful, mut unlawful) = (0, 0, 0);
    for (recipe, mutants) in [
        (Recipe::tiny(), 3000),
        (Recipe::dead(), 600),
        (Recipe::single(), 600),
        (Recipe::unrouted(), 400),
        (Recipe::bottleneck(), 80),
        (Recipe::cifar(), 40),
        (Recipe::next(), 80),
    ] {
        for (target, bits) in built::BUILDS {
            let original = built::synthetic(&recipe, target, bits);
            let mut random = Random::new(recipe.seed * 100 + u64::from(bits));
            let mut mutant = AlignedBytes::copy_of(&original);
            for n in 0..mutants / 4 {
                mutant.copy_from_slice(&original);
                mutate(&mut mutant, &mut random);
                match catch_unwind(|| judge(&mutant, limits)) {
                    Ok(Verdict::Refused(_)) => refused += 1,
                    Ok(Verdict::Lawful) => lawful += 1,
                    Ok(Verdict::Unlawful) => unlawful += 1,
                    Ok(Verdict::Expensive) => {}
                    Err(_) => panic!("mutant {n} of {recipe:?} for {target}, {bits} bits"),
                }
            }
        }
    }
    println!("{refused} refused, {lawful} lawful, {unlawful} unlawful");
    // Otherwise this is no test.
    assert!(refused > 1000 && lawful > 1000 && unlawful > 10);
}
