//! `ride-compile thresholds`: what accuracy costs in experts, and thresholds for finished artifacts.

mod text;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ride_calibrate::data::{DataSet, Split};
use ride_compiler::artifact_file::{self, ArtifactFile};
use ride_compiler::emit;
use ride_compiler::memory::AlignedBytes;
use ride_compiler::thresholds::{
    self, EXACT_ROUTERS, HeldOut, Limits, Objective, Observations, Ordered, Point, front, held_out, orders, patch,
    thresholds_of,
};
use ride_runtime::Model;
use ride_runtime::op::Criterion;
use serde::Serialize;
use text::{csv, list, orders_text, text};

use super::exit::Failed;
use super::inputs::{self, COUNTS, DataArgs, ModelArgs};
use super::interrupt::uninterrupted;
use super::limits::LimitArgs;
use super::rules::RulesArgs;
use super::ui::Ui;

/// Choose the routers' thresholds: accuracy against the mean number of experts
///
/// All experts run on every image of --data. Shown are the operating points that no other beats in both accuracy and experts;
/// limits choose one of them, and --write puts its thresholds into the artifact, with new checksums and golden vectors and
/// without building it again. Thresholds fit the images they are chosen on: take images that were held back from training, and
/// others for the final test.
#[derive(Args)]
#[command(after_help = "\
Examples:
  ride-compile thresholds my.ride --data val/                                      # the whole front
  ride-compile thresholds my.ride --data val/ --max-experts 1.8 --write            # the best at 1.8 experts
  ride-compile thresholds my.ride --data val/ --max-latency 20ms --max-few-drop 1 --target cortex-m7 --write -o fast.ride
  ride-compile thresholds my.ride --set 0.1,0.2                                    # these, please
  ride-compile thresholds runs/my-sade --data val/ --router margin --max-experts 2 # for ride.toml or build
  ride-compile thresholds runs/my-ride --data val/ --search-order                  # which expert should run first?")]
pub(crate) struct ThresholdsArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Look at no more than N images: the first ones, or, of a folder of class folders, N spread evenly over it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Data")]
    limit: Option<u32>,
    /// Training images of each class, one integer a line, for a model or artifact that does not say
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    class_counts: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Machine whose latency model counts, instead of the artifact's own
    #[arg(long, value_name = "NAME|FILE", help_heading = "Operating point")]
    target: Option<String>,
    /// Clock for the latency model instead of the target's typical one
    #[arg(long, value_name = "HZ", value_parser = super::build::parse_clock, help_heading = "Operating point")]
    clock: Option<u64>,
    /// Write these thresholds into the artifact, one for each router
    #[arg(
        long,
        value_name = "T,T,...",
        value_delimiter = ',',
        allow_hyphen_values = true,
        conflicts_with = "data",
        help_heading = "Writing"
    )]
    set: Vec<f32>,
    /// Write the chosen thresholds into the artifact
    #[arg(long, conflicts_with = "set", help_heading = "Writing")]
    write: bool,
    /// Write another file and leave the artifact as it is
    #[arg(long, short, value_name = "FILE", help_heading = "Writing")]
    output: Option<PathBuf>,
    /// What to write: the artifact, a Rust module that includes it, a C header and source
    #[arg(long, value_name = "KINDS", value_delimiter = ',', default_value = "ride", help_heading = "Writing")]
    emit: Vec<super::build::Emit>,
    /// Write the whole front as comma-separated values
    #[arg(long, value_name = "FILE", help_heading = "Writing")]
    csv: Option<PathBuf>,
    /// Compare orders and subsets of the experts too (of a model; `train-router --order` makes use of one)
    #[arg(long)]
    search_order: bool,
    #[command(flatten)]
    rules: RulesArgs,
}

#[derive(Serialize)]
struct Summary<'s> {
    /// Artifact or model.
    subject: String,
    /// Where the images came from.
    data: String,
    images: usize,
    /// What each router decides by.
    criteria: Vec<&'static str>,
    objective: Objective,
    /// Whether the front holds every point there is.
    exact: bool,
    /// The thresholds as they are, where there are any.
    current: Option<Point>,
    /// A fixed number of experts, 1 first.
    fixed: Vec<Point>,
    front: Vec<Point>,
    limits: Limits,
    chosen: Option<Point>,
    /// The same choice made on half of the images and judged on the other half.
    held_out: Option<HeldOut>,
    /// Where latencies come from.
    latency: Option<String>,
    orders: Option<Vec<Ordered>>,
    written: Vec<String>,
    warnings: &'s [String],
}

#[derive(Serialize)]
struct Written<'s> {
    subject: String,
    thresholds: Vec<f32>,
    golden_vectors: usize,
    written: Vec<String>,
    warnings: &'s [String],
}

pub(crate) fn run(args: &ThresholdsArgs, ui: &mut Ui) -> Result<()> {
    let path = &args.model.model;
    ensure!(path.exists(), "there is no {}: expected an artifact (*.ride), a checkpoint or its folder", path.display());
    if artifact_file::is_artifact(path)? { of_artifact(args, ui) } else { of_model(args, ui) }
}

// ---- artifacts -----------------------------------------------------------------------------------------------------

fn of_artifact(args: &ThresholdsArgs, ui: &mut Ui) -> Result<()> {
    let path = &args.model.model;
    ensure!(!args.search_order, "--search-order takes the float model: an artifact has its experts in a fixed order");
    ensure!(
        !args.rules.any(),
        "an artifact's combiner and routers are fixed: options on them are for models; build it again to change them"
    );
    let file = ArtifactFile::read(path)?;
    let model = file.model()?;
    args.check_output()?;
    if !args.set.is_empty() || args.data.data.is_none() {
        let chooses = args.write || args.limits.limits().any() || args.csv.is_some();
        ensure!(
            !chooses || !args.set.is_empty(),
            "--data is needed to choose thresholds: labelled images that were held back from training"
        );
        return set(args, model, ui);
    }
    let chooses = !args.write || args.limits.limits().any();
    ensure!(chooses, "--write: no limit was given to choose by, such as --max-experts");
    let data = args.data.open(&inputs::preprocess_of(model, None), Split::Test)?.context("--data is needed")?;
    let given = match &args.class_counts {
        Some(file) => inputs::counts_of(file, model.classes())?,
        None => Vec::new(),
    };
    let latency = args.limits.latency(model, args.target.as_deref(), args.clock, args.target.is_some())?;
    let bar = ui.progress("running");
    let limit = args.limit.map(|limit| limit as usize);
    let observations = thresholds::of_artifact(model, &data, limit, &given, &|total| bar.step(total))?;
    drop(bar);
    let current = thresholds_of(model);
    let mut study = Study::new(args, &observations, Some(&current), latency, ui)?;
    if args.write {
        // Where limits leave nothing, the front is shown before it is said.
        let written = study.chosen.as_ref().map(|chosen| write(args, model, &chosen.thresholds));
        study.written = written.transpose()?.map_or_else(Vec::new, |(_, files)| files);
    }
    study.finish(args, &observations, None, ui)
}

/// `--set`; without it, shows what is there.
fn set(args: &ThresholdsArgs, model: Model<'_>, ui: &Ui) -> Result<()> {
    let (golden_vectors, written, thresholds) = if args.set.is_empty() {
        (ride_runtime::golden::vectors(&model).count(), Vec::new(), thresholds_of(model))
    } else {
        let (golden, written) = write(args, model, &args.set)?;
        (golden, written, args.set.clone())
    };
    let summary = Written {
        subject: args.model.model.display().to_string(),
        thresholds,
        golden_vectors,
        written,
        warnings: ui.warnings(),
    };
    ui.result(&summary, |s| {
        let list = if s.thresholds.is_empty() { "none, it has no routers".to_owned() } else { list(&s.thresholds) };
        match s.written.is_empty() {
            true => format!("thresholds of {}: {list}\n", s.subject),
            false => {
                format!("wrote {}: thresholds {list}, {} golden vectors pass\n", s.written.join(" "), s.golden_vectors)
            }
        }
    })
}

/// Patches, tests and writes; gives the number of golden vectors and the files.
fn write(args: &ThresholdsArgs, model: Model<'_>, thresholds: &[f32]) -> Result<(usize, Vec<String>)> {
    let bytes = AlignedBytes::copy_of(&patch(model, thresholds)?);
    let golden = artifact_file::self_test(&bytes)
        .map_err(|error| Failed(format!("the artifact fails its self-test, nothing was written: {error:#}")))?;
    let output = args.output.as_ref().unwrap_or(&args.model.model);
    let patched = Model::parse(&bytes)?;
    let files = uninterrupted(|| emit::write(output, &args.kinds(), patched))?;
    Ok((golden, files.iter().map(|file| file.display().to_string()).collect()))
}

// ---- models --------------------------------------------------------------------------------------------------------

fn of_model(args: &ThresholdsArgs, ui: &mut Ui) -> Result<()> {
    let path = &args.model.model;
    let writes = args.write || !args.set.is_empty() || args.output.is_some();
    ensure!(
        !writes,
        "{} is a model: thresholds are written into artifacts; pass them to `build` with --router-threshold, or put them into \
         a ride.toml",
        path.display()
    );
    ensure!(
        args.target.is_none() && args.clock.is_none(),
        "--target and --clock are for artifacts: a latency model needs what a target's artifact executes; pass --latency"
    );
    args.check_output()?;
    let mut imported = args.model.load(args.rules.rules_without_threshold(), ui)?;
    let data = args.data.open(&imported.preprocess, Split::Test)?;
    let data = data.context("--data is needed: labelled images that were held back from training")?;
    let classes = imported.network.classes;
    let counts = match args.class_counts.clone().or_else(|| args.model.beside(COUNTS)) {
        Some(file) => inputs::counts_of(&file, classes)?,
        None => Vec::new(),
    };
    let criterion = args.rules.criterion();
    // Orders are compared before rules: those make a network whose experts have weights.
    let orders = args.search_order.then(|| search(args, &imported.network, &data, criterion, ui)).transpose()?;
    let routed = criterion.is_some() || imported.rules.router.is_some() || imported.network.routing.routers() > 0;
    if let (Some(orders), false) = (&orders, routed) {
        let summary = serde_json::json!({ "subject": path.display().to_string(), "orders": orders });
        return ui.result(&summary, |_| orders_text(orders));
    }
    imported.apply_rules(&counts)?;
    let network = &imported.network;
    let bar = ui.progress("running");
    let limit = args.limit.map(|limit| limit as usize);
    let observations = thresholds::of_network(network, &data, limit, &counts, &|total| bar.step(total))?;
    drop(bar);
    let measured = args.limits.measured(network.experts.len())?;
    let latency = measured.map(|ms| (ms, "(as passed with --latency)".to_owned()));
    let current = network.routing.thresholds();
    let current = (criterion.is_none() || !args.rules.thresholds().is_empty()).then_some(current.as_slice());
    let study = Study::new(args, &observations, current, latency, ui)?;
    study.finish(args, &observations, orders, ui)
}

fn search(
    args: &ThresholdsArgs,
    network: &ride_compiler::network::Network,
    data: &DataSet,
    criterion: Option<Criterion>,
    ui: &Ui,
) -> Result<Vec<Ordered>> {
    let bar = ui.progress("all experts");
    let limit = args.limit.map(|limit| limit as usize);
    let by = (&args.limits.limits(), args.limits.objective());
    orders(network, data, limit, criterion.unwrap_or(Criterion::Margin), by, &|total| bar.step(total))
}

// ---- what both have ------------------------------------------------------------------------------------------------

/// The front and the choice.
struct Study {
    current: Option<Point>,
    fixed: Vec<Point>,
    front: Vec<Point>,
    chosen: Option<Point>,
    held_out: Option<HeldOut>,
    latency: Option<String>,
    written: Vec<String>,
}

impl Study {
    fn new(
        args: &ThresholdsArgs,
        observations: &Observations,
        current: Option<&[f32]>,
        latency: Option<(Vec<f64>, String)>,
        ui: &mut Ui,
    ) -> Result<Self> {
        let (ms, latency) = latency.unzip();
        let ms = ms.as_deref();
        let (limits, objective) = (args.limits.limits(), args.limits.objective());
        limits.check(observations, ms)?;
        if observations.counts.is_none() {
            ui.warn("training counts are unknown, so there are no class groups; --class-counts gives them");
        }
        let points = front(observations, objective, limits.min_few(observations), ms);
        let fixed: Vec<Point> = (1..=observations.experts()).map(|n| observations.fixed(n, ms)).collect();
        let all = fixed.last().context("a model has experts")?;
        let chosen = limits.choose(&points, all, objective).cloned();
        let held_out = chosen.as_ref().and_then(|_| held_out(observations, &limits, objective, ms));
        let current = current.map(|current| observations.evaluate(current, ms));
        Ok(Self { current, fixed, front: points, chosen, held_out, latency, written: Vec::new() })
    }

    /// A verdict where limits leave nothing.
    fn check_choice(&self, limits: &Limits, path: &Path) -> Result<()> {
        if self.chosen.is_none() && limits.any() {
            let text = format!("no thresholds of {} keep these limits on these images; see the front", path.display());
            return Err(Failed(text).into());
        }
        Ok(())
    }

    fn finish(
        self,
        args: &ThresholdsArgs,
        observations: &Observations,
        orders: Option<Vec<Ordered>>,
        ui: &Ui,
    ) -> Result<()> {
        if let Some(path) = &args.csv {
            uninterrupted(|| ride_calibrate::atomic_file::write(path, csv(&self.front).as_bytes()))?;
        }
        let path = &args.model.model;
        let limits = args.limits.limits();
        let verdict = self.check_choice(&limits, path);
        let summary = Summary {
            subject: path.display().to_string(),
            data: args.data.data.as_ref().map_or_else(String::new, |data| data.display().to_string()),
            images: observations.images.len(),
            criteria: observations.scales.iter().map(|scale| scale.name()).collect(),
            objective: args.limits.objective(),
            exact: observations.scales.len() <= EXACT_ROUTERS,
            current: self.current,
            fixed: self.fixed,
            front: self.front,
            limits,
            chosen: self.chosen,
            held_out: self.held_out,
            latency: self.latency,
            orders,
            written: self.written,
            warnings: ui.warnings(),
        };
        ui.result(&summary, text)?;
        verdict
    }
}

impl ThresholdsArgs {
    fn kinds(&self) -> Vec<emit::Kind> {
        self.emit.iter().map(|&kind| kind.into()).collect()
    }

    /// Checks where files go before the work is done.
    fn check_output(&self) -> Result<()> {
        let writes = self.write || !self.set.is_empty();
        if let Some(output) = &self.output {
            ensure!(writes, "-o names the artifact to write: pass --write or --set as well");
            artifact_file::check_destination(output)?;
        }
        if writes {
            emit::check(self.output.as_ref().unwrap_or(&self.model.model), &self.kinds())?;
        }
        if let Some(csv) = &self.csv {
            artifact_file::check_destination(csv)?;
        }
        Ok(())
    }
}

/// Thresholds chosen on labelled images for an artifact that was just compiled.
pub(crate) fn choose_for(
    model: Model<'_>,
    data: &DataSet,
    limits: &LimitArgs,
    latency: Option<&[f64]>,
    ui: &Ui,
) -> Result<Point> {
    let wanted = limits.limits();
    if !wanted.any() {
        bail!(
            "--choose-thresholds needs something to choose by: --max-experts, --max-latency, --max-drop or --max-few-drop"
        );
    }
    let bar = ui.progress("routing");
    let observations = thresholds::of_artifact(model, data, None, &[], &|total| bar.step(total))?;
    drop(bar);
    wanted.check(&observations, latency)?;
    let points = front(&observations, limits.objective(), wanted.min_few(&observations), latency);
    let all = observations.fixed(observations.experts(), latency);
    let chosen = wanted.choose(&points, &all, limits.objective()).cloned();
    chosen.ok_or_else(|| {
        Failed("no thresholds keep these limits on these images, nothing was written; `ride-compile thresholds` shows the front".into())
            .into()
    })
}
