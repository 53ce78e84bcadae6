//! `ride-compile inspect`: what is in a checkpoint or an artifact.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use ride_compiler::artifact_file::{self, ArtifactFile};
use ride_compiler::checkpoint::Embedded;
use ride_compiler::import::ImportOptions;
use ride_compiler::inspect::{ArtifactReport, CheckpointReport, InputReport, OpReport, rules_text};
use ride_compiler::source::Source;

use super::inputs::{self, COUNTS};
use super::rules::RulesArgs;
use super::table::{Table, grouped, millions};
use super::ui::Ui;

/// Show what is in a model or an artifact
///
/// Of an artifact: cost by number of experts, sections, kernels, and every operation with its scale, its place in the
/// arena and the rate to be expected of it on its target; layers on a slow path are named. Of a checkpoint or an ONNX model: what would be compiled.
#[derive(Args)]
#[command(after_help = "\
Examples:
  ride-compile inspect my-ride.ride
  ride-compile inspect runs/my-ride --json
  ride-compile inspect model.onnx")]
pub(crate) struct InspectArgs {
    /// Artifact, checkpoint, ONNX file, or folder with a checkpoint or a split ONNX model
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    rules: RulesArgs,
}

pub(crate) fn run(args: &InspectArgs, ui: &mut Ui) -> Result<()> {
    if artifact_file::is_artifact(&args.file)? {
        let file = ArtifactFile::read(&args.file)?;
        let report = ArtifactReport::of(file.model()?);
        return ui.result(&report, |report| artifact_text(&args.file.display().to_string(), report));
    }
    let source = Source::open(&args.file, Embedded::Accept)?;
    let rules = args.rules.rules();
    let mut options = source.options(&ImportOptions { rules, ..ImportOptions::default() });
    let unknown = source.needs_normalisation() && (options.mean.is_none() || options.std.is_none());
    if unknown {
        // What is in the graph can be shown all the same.
        options.mean.get_or_insert_with(|| vec![0.0]);
        options.std.get_or_insert_with(|| vec![1.0]);
    }
    let mut imported = source.import(&options)?;
    if unknown {
        let warning = "the normalisation of images is not known: shown with mean 0 and deviation 1; `build` takes --mean and \
                       --std, or a ride.toml beside the model";
        imported.warnings.push(warning.to_owned());
    }
    let counts = known_counts(&args.file, imported.network.classes)?;
    let unknown = imported.rules.adjustment.as_ref().is_some_and(|table| table.counts.is_none()) && counts.is_empty();
    if unknown {
        imported.rules.adjustment = None;
        let warning = "the training counts are not known: shown without logit adjustment; `build` takes --class-counts";
        imported.warnings.push(warning.to_owned());
    }
    imported.apply_rules(&counts)?;
    let report = CheckpointReport::of(&source, &imported)?;
    ui.result(&report, checkpoint_text)
}

/// Training images of each class from class_counts.txt beside the model, if it is there.
fn known_counts(model: &Path, classes: usize) -> Result<Vec<u32>> {
    let file = if model.is_dir() { model.join(COUNTS) } else { model.with_file_name(COUNTS) };
    if file.is_file() { inputs::counts_of(&file, classes) } else { Ok(Vec::new()) }
}

fn shape([height, width, channels]: [usize; 3]) -> String {
    format!("{height}x{width}x{channels}")
}

fn input_text(input: &InputReport) -> String {
    let resize = input.resize.map_or_else(String::new, |n| format!(", shorter side resized to {n}"));
    let InputReport { height, width, channels, mean, std, .. } = input;
    format!("  input        {height}x{width}x{channels} u8{resize}; mean {mean:?}, std {std:?}\n")
}

fn artifact_text(name: &str, r: &ArtifactReport) -> String {
    let mut out = format!("{name}: artifact of a {} for {}\n", r.arch, r.target);
    out += &input_text(&r.input);
    let groups = r.groups.map_or_else(
        || "training counts unknown".to_owned(),
        |[many, medium, few]| format!("{many} many-shot, {medium} medium-shot, {few} few-shot"),
    );
    let named = if r.class_names { "named" } else { "without names" };
    out += &format!("  classes      {}, {named} ({groups})\n", r.classes);
    out += &format!("  experts      {}, combined by {}\n", r.experts, r.combiner);
    out += &format!("  routers      {}\n", rules_text(&r.rules));
    out += &format!(
        "  size         {} bytes; int8 weights {} + {:.1} %\n",
        grouped(r.cost.bytes),
        grouped(r.cost.weight_bytes),
        100.0 * (r.cost.bytes as f64 / r.cost.weight_bytes.max(1) as f64 - 1.0)
    );
    out += &format!(
        "  arena        {} bytes = {:.3} x liveness bound of {}\n",
        grouped(r.cost.arena_bytes),
        r.arena_ratio,
        grouped(r.cost.liveness_bytes)
    );
    out += &format!("  arithmetic   int8, residual stream {} bits, weight layout {}\n", r.residual_bits, r.layout);
    out += &format!("  MAC/cycle    expected of {}\n", r.expected_for);
    if let Some(slow) = &r.slow_paths {
        out += &format!("  warning: {slow}\n");
    }
    out += &format!("  self-test    {} golden vectors\n", r.golden_vectors);
    out += &format!("  float model  fingerprint {}\n", r.fingerprint);
    out += "\nparts\n";
    out += &parts_table(r).text();
    out += "\nkernels for this layout\n";
    let mut kernels = Table::new(&["kernel", "instructions", "on this machine"]).left(3);
    for k in &r.kernels {
        let here = if k.chosen {
            "chosen"
        } else if k.available {
            "available"
        } else {
            "-"
        };
        kernels.row([k.kernel.to_owned(), k.isa.to_owned(), here.to_owned()]);
    }
    out += &kernels.text();
    out += "\nsections\n";
    let mut sections = Table::new(&["section", "at", "bytes", "crc32"]);
    for s in &r.sections {
        let name =
            if matches!(s.kind, "expert" | "router") { format!("{} {}", s.kind, s.index) } else { s.kind.into() };
        sections.row([name, grouped(s.at as u64), grouped(s.bytes as u64), s.crc32.clone()]);
    }
    out += &sections.text();
    out += "\narena\n";
    let mut regions = Table::new(&["region", "at", "bytes"]);
    for region in &r.regions {
        regions.row([region.name.to_owned(), grouped(region.at as u64), grouped(region.len as u64)]);
    }
    out += &regions.text();
    for part in &r.parts {
        out += &format!("\n{}\n", part.name);
        out += &ops_table(&part.ops).text();
    }
    out
}

fn parts_table(r: &ArtifactReport) -> Table {
    let mut table = Table::new(&["part", "ops", "M MAC", "bytes", "int8 weights"]);
    for p in &r.parts {
        let bytes = [p.bytes as u64, p.weight_bytes].map(grouped);
        let [all, weights] = bytes;
        table.row([p.name.clone(), p.ops.len().to_string(), format!("{:.3}", p.macs as f64 / 1e6), all, weights]);
    }
    for p in &r.routers {
        let rule = match p.hidden {
            0 => p.rule.to_owned(),
            hidden => format!("top {}, {hidden} hidden", p.top_k),
        };
        let name = format!("{} ({rule}, threshold {})", p.name, p.threshold);
        table.row([
            name,
            "1".to_owned(),
            format!("{:.3}", p.macs as f64 / 1e6),
            grouped(p.bytes as u64),
            String::new(),
        ]);
    }
    for (n, &macs) in r.cost.macs.iter().enumerate() {
        table.row([format!("sample with {}", n + 1), String::new(), format!("{:.3}", macs as f64 / 1e6)]);
    }
    table
}

/// Multiply-accumulates a cycle, which range from a hundredth to a hundred.
fn rate(rate: f64) -> String {
    if rate < 1.0 { format!("{rate:.2}") } else { format!("{rate:.1}") }
}

fn ops_table(ops: &[OpReport]) -> Table {
    let mut table = Table::new(&[
        "operation",
        "kind",
        "output",
        "M MAC",
        "MAC/cycle",
        "scale",
        "zero",
        "bits",
        "reads",
        "writes",
        "kernel",
        "",
    ])
    .left(2);
    let places = |regions: &[[usize; 2]]| {
        let shown: Vec<String> = regions.iter().map(|[at, len]| format!("{at}+{len}")).collect();
        shown.join(" ")
    };
    for op in ops {
        table.row([
            op.name.clone(),
            format!("{} {}", op.kind, op.detail),
            shape(op.output),
            format!("{:.3}", op.macs as f64 / 1e6),
            op.expected_macs_per_cycle.map_or_else(String::new, rate),
            format!("{:.3e}", op.scale),
            op.zero_point.to_string(),
            op.bits.to_string(),
            places(&op.reads),
            places(&op.writes),
            op.kernel.unwrap_or_default().to_owned(),
            op.slow_path.as_ref().map_or_else(String::new, |why| format!("slow path, {why}")),
        ]);
    }
    table
}

fn checkpoint_text(r: &CheckpointReport) -> String {
    let what = if r.kind == "onnx" { "ONNX model" } else { r.kind };
    let mut out = format!("{}: {} {what}\n", r.weights, r.arch);
    let pickled = if r.kind == "onnx" { "none" } else { "pickled in the checkpoint" };
    out += &format!("  config       {}\n", r.config.as_deref().unwrap_or(pickled));
    out += &input_text(&r.input);
    out += &format!("  classes      {}\n", r.classes);
    out += &format!("  experts      {}, combined by {}\n", r.experts, r.combiner);
    out += &format!("  routers      {}\n", rules_text(&r.rules));
    out += &format!("  parameters   {} with batch normalisation folded in\n", grouped(r.parameters));
    let macs: Vec<String> = r.macs.iter().map(|&macs| millions(macs)).collect();
    out += &format!("  M MAC        {} for 1..={} experts\n", macs.join(" / "), r.experts);
    out += &format!("  fingerprint  {}\n", r.fingerprint);
    for (what, lines) in [("note", &r.notes), ("warning", &r.warnings)] {
        lines.iter().for_each(|line| out += &format!("  {what}: {line}\n"));
    }
    out += "\nparts\n";
    let mut parts = Table::new(&["part", "nodes", "M MAC", "parameters"]);
    for p in &r.parts {
        parts.row([
            p.name.clone(),
            p.ops.len().to_string(),
            format!("{:.3}", p.macs as f64 / 1e6),
            grouped(p.parameters),
        ]);
    }
    for p in &r.routers {
        let name = match p.hidden {
            0 => format!("{} ({})", p.name, p.rule),
            hidden => format!("{} (top {}, {hidden} hidden)", p.name, p.top_k),
        };
        parts.row([name, "1".to_owned(), String::new(), grouped(p.parameters)]);
    }
    out += &parts.text();
    for part in &r.parts {
        out += &format!("\n{}\n", part.name);
        let mut ops = Table::new(&["node", "kind", "output", "M MAC", "parameters"]).left(2);
        for op in &part.ops {
            let macs = format!("{:.3}", op.macs as f64 / 1e6);
            ops.row([op.name.clone(), op.kind.to_owned(), shape(op.output), macs, grouped(op.parameters)]);
        }
        out += &ops.text();
    }
    out
}
