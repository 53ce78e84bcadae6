//! Reports on artifacts.

use ride_calibrate::groups::ClassGroups;
use ride_runtime::format::header::{Kind, model as field};
use ride_runtime::kernels::{self, BACKENDS};
use ride_runtime::model::Part;
use ride_runtime::op::{self, Source, Step, feature_norm_at};
use ride_runtime::{Model, format, golden};
use serde::Serialize;

use super::InputReport;
use super::expected::Machine;

/// What an artifact costs.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// Bytes of the artifact.
    pub bytes: u64,
    /// Bytes of its int8 weights alone, without padding.
    pub weight_bytes: u64,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Largest sum of activations alive at the same time: no arena can be smaller.
    pub liveness_bytes: u64,
    /// Multiply-accumulates of a sample with 1, 2, ... experts, routers not counted.
    pub macs: Vec<u64>,
}

impl Cost {
    /// The cost of `model`.
    pub fn of(model: Model<'_>) -> Self {
        let steps: u64 = model.parts().map(|part| part.steps().map(|s| weight_bytes(&s.op)).sum::<u64>()).sum();
        let routers = (0..).map_while(|i| model.router(i));
        let routers: u64 = routers.filter_map(|r| r.assignment().map(|a| dense_weights(&a.hidden))).sum();
        Cost {
            bytes: model.bytes().len() as u64,
            weight_bytes: steps + routers,
            arena_bytes: model.arena_len() as u64,
            liveness_bytes: model.liveness_bound() as u64,
            macs: (1..=model.experts()).map(|n| crate::bench::macs(model, n)).collect(),
        }
    }
}

/// int8 weights of an operation.
fn weight_bytes(op: &op::Op) -> u64 {
    match op {
        // It shares them with the convolution that reads the high bytes.
        op::Op::Conv(conv) if matches!(conv.source, Source::Low(_)) => 0,
        op::Op::Conv(conv) => u64::from(conv.shape.out_c) * conv.shape.taps() as u64,
        op::Op::Head(head) => dense_weights(&head.dense),
        op::Op::Load(_) | op::Op::Shortcut(_) | op::Op::MaxPool(_) | op::Op::Pool(_) => 0,
    }
}

fn dense_weights(dense: &op::Dense) -> u64 {
    u64::from(dense.features) * u64::from(dense.outputs)
}

/// Number of many-, medium- and few-shot classes; `None` if the artifact has no training counts.
pub fn groups(model: Model<'_>) -> Option<[usize; 3]> {
    let counts: Vec<u32> = (0..model.classes()).map(|class| model.train_count(class)).collect();
    counts.iter().any(|&count| count > 0).then(|| ClassGroups::new(counts).sizes())
}

/// Everything about an artifact.
#[derive(Clone, Debug, Serialize)]
pub struct ArtifactReport {
    /// Always `artifact`.
    pub kind: &'static str,
    /// Version of the format.
    pub format_version: u16,
    /// Architecture of the float model.
    pub arch: String,
    /// Fingerprint of the float model.
    pub fingerprint: String,
    /// Target that it was built for.
    pub target: String,
    /// Input and preprocessing.
    pub input: InputReport,
    /// Number of classes.
    pub classes: usize,
    /// Classes by group (many, medium, few); `None` without training counts.
    pub groups: Option<[usize; 3]>,
    /// Whether classes have names.
    pub class_names: bool,
    /// Number of experts.
    pub experts: usize,
    /// Whether there are routers.
    pub routed: bool,
    /// How experts are combined.
    pub combiner: String,
    /// When each router lets the next expert run.
    pub rules: Vec<String>,
    /// Bits of the residual stream.
    pub residual_bits: u8,
    /// Layout of the weights.
    pub layout: &'static str,
    /// Bytes and multiply-accumulates.
    #[serde(flatten)]
    pub cost: Cost,
    /// Arena bytes over the liveness bound.
    pub arena_ratio: f64,
    /// Regions of the arena that belong to no operation alone.
    pub regions: Vec<Region>,
    /// Kernels for this layout, slowest first.
    pub kernels: Vec<KernelReport>,
    /// Instruction set that expected rates are for, and where they come from.
    pub expected_for: String,
    /// What runs slower on the target than it might, if anything does; see [`slow_paths`].
    pub slow_paths: Option<String>,
    /// Number of self-test vectors.
    pub golden_vectors: usize,
    /// Section table.
    pub sections: Vec<SectionReport>,
    /// Stem and experts.
    pub parts: Vec<PartReport>,
    /// One for each expert but the last, or none.
    pub routers: Vec<RouterReport>,
}

/// A range of the arena.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// What it holds.
    pub name: &'static str,
    /// First byte.
    pub at: usize,
    /// Bytes.
    pub len: usize,
}

/// A kernel family that reads the artifact's layout.
#[derive(Clone, Debug, Serialize)]
pub struct KernelReport {
    /// Instruction set.
    pub isa: &'static str,
    /// Convolution kernel.
    pub kernel: &'static str,
    /// Whether this machine has the instruction set.
    pub available: bool,
    /// Whether it is the one that runs here.
    pub chosen: bool,
}

/// An entry of the section table.
#[derive(Clone, Debug, Serialize)]
pub struct SectionReport {
    /// What it holds.
    pub kind: &'static str,
    /// Number of the expert or router.
    pub index: u16,
    /// First byte.
    pub at: usize,
    /// Bytes.
    pub bytes: usize,
    /// CRC-32 in hexadecimal.
    pub crc32: String,
}

/// Stem or expert.
#[derive(Clone, Debug, Serialize)]
pub struct PartReport {
    /// `stem`, `expert0`, ...
    pub name: String,
    /// Bytes of its section.
    pub bytes: usize,
    /// int8 weights.
    pub weight_bytes: u64,
    /// Multiply-accumulates.
    pub macs: u64,
    /// Operations in execution order.
    pub ops: Vec<OpReport>,
}

/// One operation of an artifact.
#[derive(Clone, Debug, Serialize)]
pub struct OpReport {
    /// Name of the value that it computes.
    pub name: String,
    /// `conv`, `shortcut`, `pool` or `head`.
    pub kind: &'static str,
    /// Geometry in words.
    pub detail: String,
    /// Kernel that computes a convolution on this machine.
    pub kernel: Option<&'static str>,
    /// Multiply-accumulates a cycle to be expected of a convolution on the artifact's target: a model, not a
    /// measurement. `compiler/src/inspect/expected.rs` writes it down.
    pub expected_macs_per_cycle: Option<f64>,
    /// Why a convolution is slower on the target than it might be.
    pub slow_path: Option<String>,
    /// Rows, columns and channels of the result.
    pub output: [usize; 3],
    /// Multiply-accumulates.
    pub macs: u64,
    /// Real value of one integer step of the result.
    pub scale: f32,
    /// Integer that stands for zero.
    pub zero_point: i16,
    /// Bits of one value of the result.
    pub bits: u8,
    /// Arena regions read, `[at, len]`; the image is not in the arena.
    pub reads: Vec<[usize; 2]>,
    /// Arena regions written, `[at, len]`.
    pub writes: Vec<[usize; 2]>,
}

/// A router.
#[derive(Clone, Debug, Serialize)]
pub struct RouterReport {
    /// `router0`, ...
    pub name: String,
    /// Bytes of its section.
    pub bytes: usize,
    /// `assignment` for trained layers, or the measure of confidence.
    pub rule: &'static str,
    /// Number of largest mean logits that trained layers see.
    pub top_k: u16,
    /// Hidden units of trained layers.
    pub hidden: u16,
    /// The next expert runs iff the score is larger; for max-probability and margin, smaller.
    pub threshold: f32,
    /// Multiply-accumulates.
    pub macs: u64,
}

impl ArtifactReport {
    /// The report of `model`.
    pub fn of(model: Model<'_>) -> Self {
        let (height, width, channels) = model.input();
        let input = InputReport {
            height,
            width,
            channels,
            mean: (0..channels).map(|c| model.mean(c)).collect(),
            std: (0..channels).map(|c| model.std(c)).collect(),
            resize: model.resize(),
        };
        let (cost, machine) = (Cost::of(model), Machine::of(model));
        ArtifactReport {
            kind: "artifact",
            format_version: format::VERSION,
            arch: model.arch().to_owned(),
            fingerprint: model.fingerprint().to_owned(),
            target: model.target().to_owned(),
            input,
            classes: model.classes(),
            groups: groups(model),
            class_names: (0..model.classes()).any(|class| !model.class_name(class).is_empty()),
            experts: model.experts(),
            routed: model.routed(),
            combiner: super::combiner(model),
            rules: super::rules(model),
            residual_bits: model.residual_bits(),
            layout: model.layout().name(),
            arena_ratio: cost.arena_bytes as f64 / cost.liveness_bytes.max(1) as f64,
            cost,
            regions: regions(model),
            kernels: kernels_for(model),
            slow_paths: slow_paths_on(model, &machine),
            expected_for: machine.basis.clone(),
            golden_vectors: golden::vectors(&model).count(),
            sections: model.sections().map(section).collect(),
            parts: model.parts().map(|p| part(model, &machine, p)).collect(),
            routers: (0..).map_while(|i| router(model, i)).collect(),
        }
    }
}

fn section(entry: format::header::Entry) -> SectionReport {
    SectionReport {
        kind: entry.kind.name(),
        index: entry.index,
        at: entry.at,
        bytes: entry.len,
        crc32: format!("{:08x}", entry.crc),
    }
}

/// The fixed regions, whose places the model section gives.
fn regions(model: Model<'_>) -> Vec<Region> {
    let Some(head) = model.sections().find(|s| s.kind == Kind::Model) else { return Vec::new() };
    let u32_at = |at: usize| {
        let bytes = model.bytes().get(head.at + at..head.at + at + 4);
        bytes.map_or(0, |b| b.iter().rev().fold(0, |n, &byte| n << 8 | usize::from(byte)))
    };
    let features = u32_at(field::FEATURES) & 0xffff;
    let logits = 4 * model.classes();
    vec![
        Region { name: "feature", at: u32_at(field::FEATURE), len: feature_norm_at(features) + 4 },
        Region { name: "logits", at: u32_at(field::LOGITS), len: logits },
        Region { name: "sum of logits", at: u32_at(field::SUM), len: logits },
        Region { name: "scratch", at: u32_at(field::SCRATCH), len: u32_at(field::SCRATCH_LEN) },
    ]
}

fn kernels_for(model: Model<'_>) -> Vec<KernelReport> {
    let best = kernels::best(model.layout()).map(|b| b.conv.name);
    let usable = BACKENDS.iter().filter(|b| b.layout == model.layout());
    let report = |b: &kernels::Backend| KernelReport {
        isa: b.isa.name(),
        kernel: b.conv.name,
        available: b.isa.available(),
        chosen: best == Some(b.conv.name),
    };
    usable.map(report).collect()
}

/// One line about the layers of `model` that run slower on its target than they might, portable code where other
/// machines have vector kernels or zeros multiplied between groups; `None` if there are none.
pub fn slow_paths(model: Model<'_>) -> Option<String> {
    slow_paths_on(model, &Machine::of(model))
}

fn slow_paths_on(model: Model<'_>, machine: &Machine) -> Option<String> {
    let mut reasons: Vec<(String, usize, &str)> = Vec::new();
    let (mut layers, mut slow_macs, mut all_macs) = (0, 0, 0);
    for step in model.parts().flat_map(|part| part.steps()) {
        let op::Op::Conv(conv) = &step.op else { continue };
        (layers, all_macs) = (layers + 1, all_macs + conv.shape.macs());
        let Some(reason) = machine.slow(&conv.shape) else { continue };
        slow_macs += conv.shape.macs();
        match reasons.iter_mut().find(|(known, ..)| *known == reason) {
            Some((_, count, _)) => *count += 1,
            None => reasons.push((reason, 1, model.name(&step))),
        }
    }
    let count: usize = reasons.iter().map(|(_, count, _)| count).sum();
    let one = |(reason, count, first): &(String, usize, &str)| match count {
        1 => format!("{first}: {reason}"),
        _ => format!("{first} and {} more: {reason}", count - 1),
    };
    let shown: Vec<String> = reasons.iter().map(one).collect();
    let share = 100.0 * slow_macs as f64 / all_macs.max(1) as f64;
    (count > 0).then(|| {
        format!(
            "{count} of {layers} int8 layers ({share:.1} % of the multiply-accumulates) run on a slow path on {}: {}",
            model.target(),
            shown.join("; ")
        )
    })
}

fn part(model: Model<'_>, machine: &Machine, part: Part<'_>) -> PartReport {
    let name = match part.id {
        ride_runtime::PartId::Stem => "stem".to_owned(),
        ride_runtime::PartId::Expert(n) => format!("expert{n}"),
        ride_runtime::PartId::Router(n) => format!("router{n}"),
    };
    PartReport {
        name,
        bytes: part.section_len(),
        weight_bytes: part.steps().map(|step| weight_bytes(&step.op)).sum(),
        macs: part.steps().map(|step| step.op.macs()).sum(),
        ops: part.steps().map(|step| operation(model, machine, &step)).collect(),
    }
}

fn operation(model: Model<'_>, machine: &Machine, step: &Step) -> OpReport {
    let region = |(at, len): (usize, usize)| [at, len];
    let wide = |planes: op::Planes| if planes.lo.is_some() { 16 } else { 8 };
    let (detail, output, zero_point, bits) = match &step.op {
        op::Op::Load(_) => {
            let (h, w, c) = model.input();
            ("the image, for experts without a stem".to_owned(), [h, w, c], -128, 8)
        }
        op::Op::Conv(c) => {
            let s = c.shape;
            let output = [s.out_h(), s.out_w(), usize::from(s.out_c)];
            (conv_detail(c), output, c.limits.zero, wide(c.out))
        }
        op::Op::Shortcut(s) => {
            let output = [s.out_h(), s.out_w(), usize::from(s.out_c)];
            (format!("{} channels, stride {}", s.in_c, s.stride), output, s.limits.zero, wide(s.out))
        }
        op::Op::MaxPool(m) => {
            let output = [m.out_h(), m.out_w(), usize::from(m.channels)];
            (format!("{0}x{0}, stride {1}", m.kernel, m.stride), output, m.zero, wide(m.out))
        }
        op::Op::Pool(p) => (format!("{} pixels", p.pixels), [1, 1, usize::from(p.channels)], 0, 16),
        op::Op::Head(h) => {
            let norm = if h.dense.normalize { ", normalised" } else { "" };
            let fine = if h.fine { ", 16-bit weights" } else { "" };
            let detail = format!("{} features{norm}{fine}", h.dense.features);
            (detail, [1, 1, h.classes()], 0, 32)
        }
    };
    let conv = match &step.op {
        op::Op::Conv(conv) => Some(conv),
        _ => None,
    };
    OpReport {
        name: model.name(step).to_owned(),
        kind: step.op.kind(),
        detail,
        kernel: conv.and_then(|c| kernels::best(model.layout()).map(|b| kernels::conv_name(b, c))),
        expected_macs_per_cycle: conv.map(|c| machine.expected(c)),
        slow_path: conv.and_then(|c| machine.slow(&c.shape)),
        output,
        macs: step.op.macs(),
        scale: step.scale,
        zero_point,
        bits,
        reads: step.op.reads().into_iter().flatten().map(region).collect(),
        writes: step.op.writes().into_iter().flatten().map(region).collect(),
    }
}

fn conv_detail(c: &op::Conv) -> String {
    let s = c.shape;
    let mut detail = format!("{0}x{0}/{1} of {2} channels", s.kernel, s.stride, s.in_c);
    if s.groups > 1 {
        detail += &format!(" in {} groups", s.groups);
    }
    match c.source {
        Source::Image => detail += " of the image",
        Source::Low(_) => detail += ", their low bytes",
        Source::Arena(_) => {}
    }
    if c.accumulate {
        detail += " + residual";
    }
    if c.limits.min == c.limits.zero {
        detail += ", relu";
    }
    detail
}

fn router(model: Model<'_>, n: usize) -> Option<RouterReport> {
    let router = model.router(n)?;
    let section = model.sections().find(|s| s.kind == Kind::Router && usize::from(s.index) == n)?;
    Some(RouterReport {
        name: format!("router{n}"),
        bytes: section.len,
        rule: match router.rule {
            op::Rule::Assignment(_) => "assignment",
            op::Rule::Confidence(criterion) => criterion.name(),
        },
        top_k: router.assignment().map_or(0, |a| a.top_k),
        hidden: router.assignment().map_or(0, |a| a.hidden.outputs),
        threshold: router.threshold,
        macs: crate::bench::router_macs(model, n),
    })
}
