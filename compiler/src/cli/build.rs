//! `ride-compile build`: from a trained model to an artifact.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ride_calibrate::data::{DataSet, Split};
use ride_calibrate::table::CalibrationTable;
use ride_compiler::import::Imported;
use ride_compiler::lower::{self, Request};
use ride_compiler::memory::AlignedBytes;
use ride_compiler::{artifact_file, calibration, inspect};
use ride_runtime::Model;
use serde::Serialize;

use super::exit::Failed;
use super::inputs::{CalibrationArgs, ClassArgs, DataArgs, ModelArgs};
use super::interrupt::uninterrupted;
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
  ride-compile build runs/my-sade --data images/ --combiner 1,1,2 --router max-probability --router-threshold 0.8
  ride-compile build model.onnx --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --resize 256 --data images/")]
pub(crate) struct BuildArgs {
    /// Machine to build for: `host` is this one, `ride-compile targets` lists all
    #[arg(long, value_name = "NAME", default_value = "host")]
    target: String,
    /// The artifact to write [default: the model folder's name with .ride]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Bits of the residual stream, 8 or 16 [default: what the target can afford]
    #[arg(long, value_name = "BITS", value_parser = clap::builder::PossibleValuesParser::new(["8", "16"]))]
    residual_bits: Option<String>,
    /// Fail with exit code 2 if the artifact has more bytes
    #[arg(long, value_name = "BYTES")]
    max_size: Option<usize>,
    /// Fail with exit code 2 if inference needs more bytes of memory
    #[arg(long, value_name = "BYTES")]
    max_arena: Option<usize>,
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
    classes: ClassArgs,
    #[command(flatten)]
    rules: RulesArgs,
}

#[derive(Serialize)]
struct Summary<'s> {
    artifact: String,
    target: &'s str,
    /// Kernel that this machine would run it with.
    kernel: &'static str,
    isa: &'static str,
    #[serde(flatten)]
    cost: inspect::Cost,
    residual_bits: u8,
    experts: usize,
    routed: bool,
    combiner: String,
    routers: Vec<String>,
    classes: usize,
    /// Classes by group; `None` without training counts.
    groups: Option<[usize; 3]>,
    calibration: Calibration,
    golden_vectors: usize,
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
    let mut imported = args.model.load(args.rules.rules(), ui)?;
    let table_file = args.table_file(ui)?;
    let data = args.data.open(&imported.preprocess, Split::Train)?;
    let table = args.table(table_file, &imported, data.as_ref(), ui)?;
    let classes = args.classes.resolve(&args.model, data.as_ref(), &table, imported.network.classes, ui)?;
    // Ranges belong to the network as it was trained: another combiner or threshold needs no new calibration.
    imported.apply_rules(&classes.counts)?;
    let network = &imported.network;
    let bytes = lower::compile(&Request {
        network,
        table: &table,
        target: &target,
        residual_bits: args.residual_bits(target.residual_bits()),
        classes: &classes,
        resize_short: imported.preprocess.resize_short,
        fingerprint: &calibration::fingerprint(network),
    })?;
    let golden_vectors = artifact_file::self_test(&bytes).map_err(|error| {
        Failed(format!("the finished artifact fails its self-test, nothing was written: {error:#}"))
    })?;
    let aligned = AlignedBytes::copy_of(&bytes);
    let model = Model::parse(&aligned)?;
    args.check_fit(model)?;
    uninterrupted(|| artifact_file::write(&output, &bytes))?;
    let backend = ride_runtime::kernels::best(model.layout()).context("no kernel runs this artifact here")?;
    let summary = Summary {
        artifact: output.display().to_string(),
        target: model.target(),
        kernel: backend.conv.name,
        isa: backend.isa.name(),
        cost: inspect::Cost::of(model),
        residual_bits: model.residual_bits(),
        experts: model.experts(),
        routed: model.routed(),
        combiner: inspect::combiner(model),
        routers: inspect::rules(model),
        classes: model.classes(),
        groups: inspect::groups(model),
        calibration: Calibration { images: table.images, observer: table.observer.to_string(), seed: table.seed },
        golden_vectors,
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
                if data.is_some() {
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
    let groups = s.groups.map_or_else(
        || "training counts unknown, so no class groups".to_owned(),
        |[many, medium, few]| format!("{many} many-shot, {medium} medium-shot, {few} few-shot"),
    );
    line("classes", format!("{} ({groups})", s.classes));
    line("calibration", format!("{} images, observer {}", s.calibration.images, s.calibration.observer));
    line("self-test", format!("{} golden vectors pass", s.golden_vectors));
    line("time", format!("{:.1} s", s.seconds));
    out
}
