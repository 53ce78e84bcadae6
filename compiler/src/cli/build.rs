//! `ride-compile build`: from a trained model to an artifact.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use ride_calibrate::data::{DataOptions, DataSet, Split};
use ride_calibrate::table::CalibrationTable;
use ride_compiler::budget::{self, Budget, Estimate, Line};
use ride_compiler::description::Rules;
use ride_compiler::import::Imported;
use ride_compiler::lower::{self, Request};
use ride_compiler::memory::AlignedBytes;
use ride_compiler::refine::Report;
use ride_compiler::thresholds::{Point, patch};
use ride_compiler::{artifact_file, calibration, emit, inspect};
use ride_runtime::Model;
use serde::Serialize;

use super::exit::Failed;
use super::inputs::{CalibrationArgs, ClassArgs, DataArgs, ModelArgs, preprocess_of};
use super::interrupt::uninterrupted;
use super::limits::LimitArgs;
use super::refine::{self, RefineArgs};
use super::rules::RulesArgs;
use super::table::{grouped, millions};
use super::ui::Ui;

/// Compile a trained model into one int8 artifact
///
/// The activations' ranges come from --data (training images), from --calibration, or from a calibration.json beside
/// the checkpoint. The artifact is tested before it is written, and the same inputs give the same bytes.
#[derive(Args)]
#[command(after_help = "\
Examples:
  ride-compile build runs/my-ride --data cifar-100-binary -o my-ride.ride
  ride-compile build model_best.pth --data images/ --class-counts counts.txt --target x86-64
  ride-compile build runs/my-ride --calibration table.json
  ride-compile build runs/my-ride --data cifar-100-binary --refine -o my-ride.ride
  ride-compile build runs/my-sade --data images/ --combiner 1,1,2 --router max-probability --router-threshold 0.8
  ride-compile build runs/my-sade --data images/ --router margin --choose-thresholds val/ --max-experts 1.8
  ride-compile build model.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --resize 256 --data images/
  ride-compile build runs/my-ride --target cortex-m7 --emit ride,rust,c --budget flash=1M,ram=256K,latency=50ms")]
pub(crate) struct BuildArgs {
    /// Machine to build for: `host` is this one, `ride-compile targets` lists all; or a data file of your own (.toml)
    #[arg(long, value_name = "NAME|FILE", default_value = "host")]
    target: String,
    /// The artifact to write [default: the model folder's name with .ride]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What to write beside each other: the artifact, a Rust module that includes it, a C header and source
    #[arg(long, value_name = "KINDS", value_delimiter = ',', default_value = "ride")]
    emit: Vec<Emit>,
    /// Bits of the residual stream, 8 or 16 [default: what the target can afford]
    #[arg(long, value_name = "BITS", value_parser = clap::builder::PossibleValuesParser::new(["8", "16"]))]
    residual_bits: Option<String>,
    /// Fail with exit code 2 if the artifact has more bytes
    #[arg(long, value_name = "BYTES")]
    max_size: Option<usize>,
    /// Fail with exit code 2 if inference needs more bytes of memory
    #[arg(long, value_name = "BYTES")]
    max_arena: Option<usize>,
    /// Fail with exit code 2 if the artifact does not fit: bytes of flash for the artifact, of RAM for arena and image,
    /// and a time for all experts by the target's latency model
    #[arg(long, value_name = "flash=1M,ram=256K,latency=20ms", value_parser = parse_budget)]
    budget: Option<Budget>,
    /// Clock for the latency model instead of the target's typical one
    #[arg(long, value_name = "HZ", value_parser = parse_clock)]
    clock: Option<u64>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Use this calibration table instead of calibrating
    #[arg(long, value_name = "FILE", help_heading = "Calibration")]
    calibration: Option<PathBuf>,
    #[command(flatten)]
    settings: CalibrationArgs,
    #[command(flatten)]
    refine: RefineArgs,
    #[command(flatten)]
    classes: ClassArgs,
    #[command(flatten)]
    rules: RulesArgs,
    /// Choose the routers' thresholds on these labelled images, which were held back from training, by --max-experts,
    /// --max-latency, --max-drop or --max-few-drop
    #[arg(long, value_name = "PATH", help_heading = "Operating point")]
    choose_thresholds: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// Kinds of files.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Emit {
    /// The artifact
    Ride,
    /// The artifact and a Rust module that includes it
    Rust,
    /// A C header and source that hold the artifact
    C,
}

impl From<Emit> for emit::Kind {
    fn from(kind: Emit) -> Self {
        match kind {
            Emit::Ride => emit::Kind::Ride,
            Emit::Rust => emit::Kind::Rust,
            Emit::C => emit::Kind::C,
        }
    }
}

fn parse_budget(text: &str) -> Result<Budget, String> {
    Budget::parse(text).map_err(|error| format!("{error:#}"))
}

pub(crate) fn parse_clock(text: &str) -> Result<u64, String> {
    ride_targets::parse_frequency(text).map_err(|error| format!("{error:#}"))
}

#[derive(Serialize)]
struct Summary<'s> {
    artifact: String,
    /// Everything that was written.
    files: Vec<String>,
    target: &'s str,
    /// Kernel that this machine would run it with.
    kernel: &'static str,
    isa: &'static str,
    #[serde(flatten)]
    cost: inspect::Cost,
    residual_bits: u8,
    experts: usize,
    routed: bool,
    /// What the chosen thresholds come to on the images that they were chosen on.
    operating_point: Option<Point>,
    combiner: String,
    routers: Vec<String>,
    classes: usize,
    /// Classes by group; `None` without training counts.
    groups: Option<[usize; 3]>,
    calibration: Calibration,
    /// What refinement has brought; `None` without it.
    refinement: Option<Report>,
    golden_vectors: usize,
    /// Latency by the target's model; `None` without one.
    estimate: Option<Estimate>,
    budget: Vec<Line>,
    seconds: f64,
    warnings: &'s [String],
}

#[derive(Serialize)]
struct Calibration {
    images: u64,
    observer: String,
    seed: u64,
}

pub(crate) fn run(args: &BuildArgs, ui: &mut Ui) -> Result<()> {
    let start = Instant::now();
    let target = ride_targets::find(&args.target)?;
    let output = args.output()?;
    artifact_file::check_destination(&output)?;
    let kinds: Vec<emit::Kind> = args.emit.iter().map(|&kind| kind.into()).collect();
    emit::check(&output, &kinds)?;
    args.check_choice()?;
    let mut imported = args.model.load(args.rules(), ui)?;
    let table_file = args.table_file(ui)?;
    let data = args.data.open(&imported.preprocess, Split::Train)?;
    let table = args.table(table_file, &imported, data.as_ref(), ui)?;
    let classes = args.classes.resolve(&args.model, data.as_ref(), &table, imported.network.classes, ui)?;
    // Ranges belong to the network as it was trained: another combiner or threshold needs no new calibration.
    imported.apply_rules(&classes.counts)?;
    let network = &imported.network;
    let request = Request {
        network,
        table: &table,
        target: &target,
        residual_bits: args.residual_bits(target.residual_bits()),
        classes: &classes,
        resize_short: imported.preprocess.resize_short,
        fingerprint: &calibration::fingerprint(network),
        fine: lower::Fine::NONE,
    };
    let (bytes, refinement) = match args.refine.run(&request, data.as_ref(), &args.settings, ui)? {
        Some(refined) => (refined.compile(&request)?, Some(refined.report)),
        None => (lower::compile(&request)?, None),
    };
    let (bytes, operating_point) = args.with_chosen_thresholds(bytes, ui)?;
    let golden_vectors = artifact_file::self_test(&bytes).map_err(|error| {
        Failed(format!("the finished artifact fails its self-test, nothing was written: {error:#}"))
    })?;
    let aligned = AlignedBytes::copy_of(&bytes);
    let model = Model::parse(&aligned)?;
    args.check_fit(model)?;
    let estimate = Estimate::of(model, &target, args.clock);
    let budget = budget::compare(model, &args.budget.unwrap_or_default(), estimate.as_ref())?;
    if budget.iter().any(|line| !line.fits()) {
        return Err(Failed(super::budget::broken(&output, &budget, model, estimate.as_ref())).into());
    }
    if let Some(slow) = inspect::slow_paths(model) {
        ui.warn(slow);
    }
    let files = uninterrupted(|| emit::write(&output, &kinds, model))?;
    let backend = ride_runtime::kernels::best(model.layout()).context("no kernel runs this artifact here")?;
    let summary = Summary {
        artifact: output.display().to_string(),
        files: files.iter().map(|file| file.display().to_string()).collect(),
        target: model.target(),
        kernel: backend.conv.name,
        isa: backend.isa.name(),
        cost: inspect::Cost::of(model),
        residual_bits: model.residual_bits(),
        experts: model.experts(),
        routed: model.routed(),
        operating_point,
        combiner: inspect::combiner(model),
        routers: inspect::rules(model),
        classes: model.classes(),
        groups: inspect::groups(model),
        calibration: Calibration { images: table.images, observer: table.observer.to_string(), seed: table.seed },
        refinement,
        golden_vectors,
        estimate,
        budget,
        seconds: start.elapsed().as_secs_f64(),
        warnings: ui.warnings(),
    };
    ui.result(&summary, text)
}

impl BuildArgs {
    /// The file to write.
    fn output(&self) -> Result<PathBuf> {
        if let Some(output) = &self.output {
            return Ok(output.clone());
        }
        ensure!(
            self.model.model.exists(),
            "there is no {}: MODEL is a checkpoint (.pth or .safetensors), an ONNX file, or the folder that holds it",
            self.model.model.display()
        );
        let folder = self.model.folder();
        let named = || folder.canonicalize().ok()?.file_name().map(PathBuf::from);
        let mut name = named().with_context(|| {
            format!("the folder {} does not exist or has no name; name the artifact with -o", folder.display())
        })?;
        name.as_mut_os_string().push(".ride");
        Ok(name)
    }

    fn residual_bits(&self, default: u8) -> u8 {
        // clap has checked the value.
        self.residual_bits.as_deref().and_then(|bits| bits.parse().ok()).unwrap_or(default)
    }

    /// What is asked of combiner and routers.
    fn rules(&self) -> Rules {
        if self.choose_thresholds.is_some() { self.rules.rules_without_threshold() } else { self.rules.rules() }
    }

    /// Limits without images to choose by would go unheard.
    fn check_choice(&self) -> Result<()> {
        ensure!(
            self.choose_thresholds.is_some() || !self.limits.limits().any(),
            "--max-experts, --max-latency, --max-drop and --max-few-drop need labelled images to choose thresholds by: pass \
             them with --choose-thresholds"
        );
        Ok(())
    }

    /// The artifact with the thresholds that `--choose-thresholds` leads to, if it is there.
    fn with_chosen_thresholds(&self, bytes: Vec<u8>, ui: &Ui) -> Result<(Vec<u8>, Option<Point>)> {
        let Some(path) = &self.choose_thresholds else { return Ok((bytes, None)) };
        let aligned = AlignedBytes::copy_of(&bytes);
        let model = Model::parse(&aligned)?;
        let options = DataOptions { split: Split::Test, ..DataOptions::new(preprocess_of(model, None)) };
        let data = DataSet::open(path, &options)?;
        let latency = self.limits.latency(model, Some(&self.target), self.clock, false)?;
        let ms = latency.as_ref().map(|(ms, _)| ms.as_slice());
        let chosen = super::thresholds::choose_for(model, &data, &self.limits, ms, ui)?;
        Ok((patch(model, &chosen.thresholds)?, Some(chosen)))
    }

    /// The calibration table to read instead of calibrating, if any.
    fn table_file(&self, ui: &Ui) -> Result<Option<PathBuf>> {
        if self.calibration.is_some() || self.data.data.is_some() {
            return Ok(self.calibration.clone());
        }
        match self.model.beside("calibration.json") {
            Some(file) => {
                ui.note(format_args!("ranges are taken from {}", file.display()));
                Ok(Some(file))
            }
            None => bail!(
                "the ranges of the activations are not known: pass --data with training images to measure them, or \
                 --calibration with a table that `ride-compile calibrate` wrote (there is no calibration.json in {})",
                self.model.folder().display()
            ),
        }
    }

    /// The ranges: read, or measured.
    fn table(
        &self,
        file: Option<PathBuf>,
        imported: &Imported,
        data: Option<&DataSet>,
        ui: &Ui,
    ) -> Result<CalibrationTable> {
        let network = &imported.network;
        match (file, data) {
            (Some(file), data) => {
                if data.is_some() && !self.refine.wanted() {
                    ui.note("with --calibration, --data gives class names and training counts only");
                }
                let table = CalibrationTable::read(&file)?;
                let check = calibration::check(network, &table);
                check.with_context(|| format!("cannot use the calibration table {}", file.display()))?;
                Ok(table)
            }
            (None, Some(data)) => super::calibrate::calibrate(network, data, &self.settings, ui),
            (None, None) => bail!("neither --data nor --calibration was given"),
        }
    }

    fn check_fit(&self, model: Model<'_>) -> Result<(), Failed> {
        let (size, arena) = (model.bytes().len(), model.arena_len());
        for (what, found, limit, way_out) in [
            ("artifact", size, self.max_size, "it takes a model with fewer experts or narrower layers"),
            ("arena", arena, self.max_arena, "--residual-bits 8 needs less"),
        ] {
            if let Some(limit) = limit.filter(|&limit| found > limit) {
                let message =
                    format!("the {what} has {found} bytes, {limit} were allowed; nothing was written; {way_out}");
                return Err(Failed(message));
            }
        }
        Ok(())
    }
}

fn text(s: &Summary<'_>) -> String {
    let mut out = format!("{} for {} ({} on this machine)\n", s.artifact, s.target, s.kernel);
    let over = |whole: u64, part: u64| 100.0 * (whole as f64 / part.max(1) as f64 - 1.0);
    let c = &s.cost;
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {name:<12} {value}");
    };
    line(
        "size",
        format!(
            "{} bytes (int8 weights {} + {:.1} %)",
            grouped(c.bytes),
            grouped(c.weight_bytes),
            over(c.bytes, c.weight_bytes)
        ),
    );
    line(
        "arena",
        format!(
            "{} bytes (liveness bound {} + {:.1} %), {}-bit residual stream",
            grouped(c.arena_bytes),
            grouped(c.liveness_bytes),
            over(c.arena_bytes, c.liveness_bytes),
            s.residual_bits
        ),
    );
    let macs: Vec<String> = c.macs.iter().map(|&macs| millions(macs)).collect();
    line("experts", format!("{}, {}: {} M MAC for 1..={}", s.experts, s.combiner, macs.join(" / "), s.experts));
    line("routers", inspect::rules_text(&s.routers));
    if let Some(point) = &s.operating_point {
        let text = format!("{:.3} experts on average, {:.2} % top-1 on these images", point.experts(), point.top1());
        line("chosen", text);
    }
    let groups = s.groups.map_or_else(
        || "training counts unknown, so no class groups".to_owned(),
        |[many, medium, few]| format!("{many} many-shot, {medium} medium-shot, {few} few-shot"),
    );
    line("classes", format!("{} ({groups})", s.classes));
    line("calibration", format!("{} images, observer {}", s.calibration.images, s.calibration.observer));
    if let Some(report) = s.refinement.as_ref().filter(|report| report.used) {
        line("refinement", refine::text(report));
    }
    if let Some(estimate) = &s.estimate {
        let ms: Vec<String> =
            estimate.latency_ms.iter().map(|ms| format!("{ms:.*}", if *ms < 10.0 { 2 } else { 1 })).collect();
        line("latency", format!("{} ms {}", ms.join(" / "), super::budget::basis(estimate)));
    }
    if s.files.len() > 1 {
        line("files", s.files.join(" "));
    }
    line("self-test", format!("{} golden vectors pass", s.golden_vectors));
    line("time", format!("{:.1} s", s.seconds));
    out
}
