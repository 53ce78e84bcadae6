//! `ride-compile verify`: what int8 made of the float model.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use ride_calibrate::data::Split;
use ride_calibrate::metrics::ScoreReport;
use ride_compiler::artifact_file::ArtifactFile;
use ride_compiler::import::ImportOptions;
use ride_compiler::inspect;
use ride_compiler::thresholds::thresholds_of;
use ride_compiler::verify::{self, Report, Settings};
use ride_runtime::Model;
use serde::Serialize;

use super::exit::Failed;
use super::inputs::{self, DataArgs};
use super::rules::RulesArgs;
use super::table::{Table, number};
use super::ui::Ui;

/// Rows of the table of worst layers.
const WORST: usize = 5;

/// Compare an artifact with the float model that it was built from
///
/// Both sides classify the same images, with the same combiner and routers. Options on these that the artifact was built
/// with must be repeated, unless they are in a ride.toml beside the model. Reported are accuracies by class group, how many images use
/// how many experts, how often both sides agree, and the signal-to-noise ratio of logits and of every layer.
#[derive(Args)]
#[command(after_help = "\
Examples:
  ride-compile verify my-ride.ride --model runs/my-ride --data cifar-100-binary
  ride-compile verify my-ride.ride --model runs/my-ride --data cifar-100-binary --half
  ride-compile verify my-ride.ride --model runs/my-ride --data test/ --fail-below-agreement 97 --fail-top1-drop 0.5")]
pub(crate) struct VerifyArgs {
    /// Artifact to verify
    #[arg(value_name = "ARTIFACT")]
    artifact: PathBuf,
    /// Checkpoint that it was built from, or its folder
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// Without a config.json, take the configuration that the trainer pickled into the checkpoint
    #[arg(long)]
    embedded_config: bool,
    /// Verify at most N images: the first ones, or, of a folder of class folders, N spread evenly over it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Resize the shorter side of images to N pixels instead of as the artifact says
    #[arg(long, value_name = "N")]
    resize: Option<usize>,
    /// Training images of each class, one integer a line, for an artifact that was built without
    #[arg(long, value_name = "FILE")]
    class_counts: Option<PathBuf>,
    /// Also run the float model in half precision (binary16), as GPUs do without int8, and compare it in the same way
    #[arg(long)]
    half: bool,
    /// Fail with exit code 2 if fewer than X percent of the images get the float model's class
    #[arg(long, value_name = "X", help_heading = "Gates")]
    fail_below_agreement: Option<f64>,
    /// Fail with exit code 2 if int8 loses more than X points of routed top-1 accuracy
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Gates")]
    fail_top1_drop: Option<f64>,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    rules: RulesArgs,
}

#[derive(Serialize)]
struct Summary<'s> {
    #[serde(flatten)]
    report: &'s Report,
    /// What the gates object to; empty if they hold or there are none.
    failures: &'s [String],
    warnings: &'s [String],
}

pub(crate) fn run(args: &VerifyArgs, ui: &mut Ui) -> Result<()> {
    let file = ArtifactFile::read(&args.artifact)?;
    let model = file.model()?;
    // Thresholds can be changed in a finished artifact, so both sides take those that it has now.
    let thresholds = thresholds_of(model);
    let asked = args.rules.thresholds();
    let other = asked.iter().enumerate().any(|(n, t)| thresholds.get(n).is_some_and(|own| own != t));
    ensure!(
        !other,
        "the artifact has the thresholds {thresholds:?}, which both sides use; leave --router-threshold out, or change them \
         with `ride-compile thresholds --set`"
    );
    let options = ImportOptions { rules: args.rules.rules_without_threshold(), ..as_built(model) };
    let mut imported = inputs::load(&args.model, &options, args.embedded_config, ui)?;
    let given = match &args.class_counts {
        Some(counts) => inputs::counts_of(counts, model.classes())?,
        None => Vec::new(),
    };
    imported.apply_rules(&verify::class_counts(model, &given)?.unwrap_or_default())?;
    imported.network.routing.set_thresholds(&thresholds);
    verify::check_same_model(model, &imported.network)?;
    let preprocess = inputs::preprocess_of(model, args.resize);
    let data = args.data.open(&preprocess, Split::Test)?.context("--data is needed to verify")?;
    let settings = Settings { limit: args.limit.map(|limit| limit as usize), class_counts: given, half: args.half };
    let bar = ui.progress("verifying");
    let report = verify::verify(model, &imported.network, &data, &settings, &|total| bar.step(total))?;
    drop(bar);
    if !report.groups_known {
        ui.warn("training counts are unknown, so there are no class groups; --class-counts gives them");
    }
    let failures = args.failures(&report);
    let summary = Summary { report: &report, failures: &failures, warnings: ui.warnings() };
    ui.result(&summary, |s| text(s.report))?;
    if failures.is_empty() { Ok(()) } else { Err(Failed(failures.join("; ")).into()) }
}

/// The input as it was when the artifact was built, so that overrides need not be repeated.
fn as_built(model: Model<'_>) -> ImportOptions {
    let (height, width, channels) = model.input();
    ImportOptions {
        mean: Some((0..channels).map(|c| model.mean(c)).collect()),
        std: Some((0..channels).map(|c| model.std(c)).collect()),
        input_size: Some([height, width]),
        resize: model.resize(),
        ..ImportOptions::default()
    }
}

impl VerifyArgs {
    /// What the gates object to.
    fn failures(&self, report: &Report) -> Vec<String> {
        let mut failures = Vec::new();
        let agreement = report.routed.agreement.top1.unwrap_or(0.0);
        if let Some(limit) = self.fail_below_agreement.filter(|&limit| agreement < limit) {
            failures.push(format!("verification failed: top-1 agreement is {agreement:.2} %, below {limit} %"));
        }
        let top1 = |side: &ScoreReport| side.top1.unwrap_or(0.0);
        let drop = top1(&report.routed.float) - top1(&report.routed.int8);
        if let Some(limit) = self.fail_top1_drop.filter(|&limit| drop > limit) {
            failures.push(format!("verification failed: int8 loses {drop:.2} points of top-1, more than {limit}"));
        }
        failures
    }
}

fn text(report: &Report) -> String {
    let r = &report.routed;
    let kernel = report.kernel;
    let copy = if report.repacked { ", on weights packed for this machine" } else { "" };
    let mut out = format!("{} images, routed ({kernel}{copy})\n", r.images);
    out += &format!("combined by {}; routers: {}\n", report.combiner, inspect::rules_text(&report.routers));
    out += &sides(report).text();
    out += "\nagreement with float\n";
    out += &agreement(report).text();
    out += "\nfixed number of experts, no routing\n";
    let mut fixed = Table::new(&["experts", "float top-1 %", "int8 top-1 %", "agreement %", "logits SQNR dB"]);
    for f in &report.fixed {
        let percent = |v: f64| format!("{v:.2}");
        let cells = [f.float_top1, f.int8_top1, f.agreement].map(percent);
        let [float, int8, same] = cells;
        fixed.row([f.experts.to_string(), float, int8, same, number(f.sqnr_db, 1)]);
    }
    out += &fixed.text();
    let mut worst: Vec<_> = r.layers.iter().filter_map(|l| Some((l.sqnr_db?, &l.name))).collect();
    worst.sort_by(|a, b| a.0.total_cmp(&b.0));
    out += &format!("\nlayers with the lowest SQNR, {} images\n", report.layers_images);
    let mut table = Table::new(&["layer", "SQNR dB"]);
    worst.iter().take(WORST).for_each(|(db, name)| table.row([(*name).clone(), format!("{db:.1}")]));
    out + &table.text()
}

/// Accuracies and use of experts of all sides.
fn sides(report: &Report) -> Table {
    let (float, int8) = (&report.routed.float, &report.routed.int8);
    let others: Vec<&ScoreReport> = [int8].into_iter().chain(report.half.as_ref().map(|half| &half.score)).collect();
    let titles = ["", "float", "int8", "change", "half", "change"];
    let mut table = Table::new(&titles[..2 + 2 * others.len()]);
    let mut row = |name: &str, decimals: usize, value: &dyn Fn(&ScoreReport) -> Option<f64>| {
        let reference = value(float);
        let mut cells = vec![name.to_owned(), number(reference, decimals)];
        for other in others.iter().map(|side| value(side)) {
            let change = reference.zip(other).map_or_else(|| "-".to_owned(), |(a, b)| format!("{:+.decimals$}", b - a));
            cells.extend([number(other, decimals), change]);
        }
        table.row_of(cells);
    };
    row("top-1 %", 2, &|side| side.top1);
    row("many-shot %", 2, &|side| side.many);
    row("medium-shot %", 2, &|side| side.medium);
    row("few-shot %", 2, &|side| side.few);
    for n in 0..float.experts.len() {
        let plural = if n == 0 { "expert" } else { "experts" };
        row(&format!("{} {plural}, % of images", n + 1), 2, &|side| side.experts.get(n).map(|share| 100.0 * share));
    }
    row("mean experts", 4, &|side| side.mean_experts);
    table
}

/// How far int8, and half precision where it was asked for, are from the float model.
fn agreement(report: &Report) -> Table {
    let half = report.half.as_ref();
    let mut table = match half {
        Some(_) => Table::new(&["", "int8", "half"]),
        None => Table::default(),
    };
    let mut row = |name: &str, int8: Option<f64>, other: Option<Option<f64>>, decimals: usize, unit: &str| {
        let cell = |value| format!("{}{unit}", number(value, decimals));
        let values = [Some(int8), other].into_iter().flatten();
        table.row_of([name.to_owned()].into_iter().chain(values.map(cell)).collect());
    };
    let a = &report.routed.agreement;
    row("same class", a.top1, half.map(|h| h.agreement.top1), 2, " %");
    row("router decisions reached by both", a.route, half.map(|h| h.agreement.route), 2, " %");
    let nth = |values: &[Option<f64>], n: usize| values.get(n).copied().flatten();
    for (n, &router) in a.routers.iter().enumerate() {
        row(&format!("  router {n}"), router, half.map(|h| nth(&h.agreement.routers, n)), 2, " %");
        let (int8, half) = (nth(&report.score_errors, n), half.map(|h| nth(&h.score_errors, n)));
        row("    its score is off by, rms", int8, half, 3, "");
    }
    row("same number of experts", a.same_experts, half.map(|h| h.agreement.same_experts), 2, " %");
    let change = half.map(|h| h.experts_change_percent);
    row("change of mean experts", report.experts_change_percent, change, 2, " %");
    row("SQNR of logits, all experts", report.routed.sqnr_db, half.map(|h| h.sqnr_db), 2, " dB");
    table
}
