//! `ride-compile bench`: latency against the number of experts.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use ride_calibrate::data::Split;
use ride_compiler::artifact_file::ArtifactFile;
use ride_compiler::bench::{self, Latency, OpTime, Report, Settings};
use serde::Serialize;

use super::inputs::{self, DataArgs};
use super::table::{Table, millions};
use super::ui::Ui;
use super::{devices, gpu};

/// Measure latency against the number of experts
///
/// The numbers of experts take turns, so that a drift of the machine hits all of them. Without --data the images are
/// synthetic: latency of a fixed number of experts is the same, but how far samples are routed says little.
///
/// With --import nothing is measured: reports of devices (the firmware and device examples write them, and so does
/// --json) are checked against the artifact and shown in one table.
#[derive(Args)]
#[command(after_help = "\
Examples:
  ride-compile bench my-ride.ride
  ride-compile bench my-ride.ride --data cifar-100-binary --seconds 10
  ride-compile bench my-ride.ride --profile
  ride-compile bench my-ride.ride --threads 2
  ride-compile bench my-ride.ride --device cuda
  ride-compile bench my-ride.ride --json > host.json
  ride-compile bench my-ride.ride --import host.json cortex-m4.json raspberry-pi.json")]
pub(crate) struct BenchArgs {
    /// Artifact to measure
    #[arg(value_name = "ARTIFACT")]
    artifact: PathBuf,
    /// Number of experts to measure: `all` for 1, 2, ... and routing, or one number
    #[arg(long, value_name = "all|N", default_value = "all", value_parser = parse_experts)]
    experts: Experts,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    /// Threads that share each inference; the results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Where to measure: this machine's processor, or its NVIDIA GPU (whose driver is looked for)
    #[arg(long, value_enum, default_value_t = Place::Cpu, conflicts_with_all = ["threads", "kernel", "import"])]
    device: Place,
    /// Kernels to use instead of the fastest, by instruction set or name; `inspect` lists them
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Also give the time of every operation
    #[arg(long)]
    profile: bool,
    /// Resize the shorter side of images to N pixels instead of as the artifact says
    #[arg(long, value_name = "N")]
    resize: Option<usize>,
    /// Show these reports of devices that ran builds of the same model, instead of measuring
    #[arg(long, value_name = "JSON", num_args = 1.., conflicts_with_all = ["experts", "seconds", "kernel", "profile", "resize", "data"])]
    import: Vec<PathBuf>,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Place {
    Cpu,
    Cuda,
}

#[derive(Clone, Copy)]
enum Experts {
    All,
    Exactly(usize),
}

fn parse_experts(text: &str) -> Result<Experts, String> {
    match text.parse() {
        Ok(n) => Ok(Experts::Exactly(n)),
        Err(_) if text == "all" => Ok(Experts::All),
        Err(_) => Err("expected `all` or a number of experts".to_owned()),
    }
}

#[derive(Serialize)]
struct Summary<'s> {
    #[serde(flatten)]
    report: Report,
    target: &'s str,
    /// Of the float model.
    fingerprint: &'s str,
    /// Of the artifact.
    checksum: String,
    cpu: String,
    /// Milliseconds from the file to the checked model.
    open_ms: f64,
    /// `synthetic` or the path of the data set.
    images: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Vec<OpTime>>,
    warnings: &'s [String],
}

pub(crate) fn run(args: &BenchArgs, ui: &mut Ui) -> Result<()> {
    if !(args.seconds > 0.0 && args.seconds <= 86_400.0) {
        bail!("--seconds must be a positive number of at most 86400, not {}", args.seconds);
    }
    let opening = Instant::now();
    let file = ArtifactFile::read(&args.artifact)?;
    let model = file.model()?;
    let open_ms = opening.elapsed().as_secs_f64() * 1e3;
    if !args.import.is_empty() {
        return devices::run(model, &args.import, ui);
    }
    let settings = Settings {
        time: Duration::from_secs_f64(args.seconds),
        backend: args.kernel.as_deref().map(|name| bench::backend(model, name)).transpose()?,
        experts: match args.experts {
            Experts::All => None,
            Experts::Exactly(n) => Some(n),
        },
        threads: args.threads,
    };
    let (images, source) = match args.data.open(&inputs::preprocess_of(model, args.resize), Split::Test)? {
        Some(data) => {
            data.check_classes(model.classes())?;
            (bench::images_of(&data)?, args.data.data.iter().map(|path| path.display().to_string()).collect())
        }
        None => (bench::synthetic_images(model), "synthetic".to_owned()),
    };
    if args.device == Place::Cuda {
        let (time, experts, profile) = (settings.time, settings.experts, args.profile);
        return gpu::run(&gpu::Setup { model, images: &images, source, time, experts, profile }, ui);
    }
    let bar = ui.progress("measuring");
    let report = bench::bench(model, &images, &settings, &|share| bar.share(share))?;
    let profile = args.profile.then(|| bench::profile(model, &images, &settings, &|share| bar.share(share)));
    drop(bar);
    let summary = Summary {
        report,
        target: model.target(),
        fingerprint: model.fingerprint(),
        checksum: format!("{:08x}", model.checksum()),
        cpu: cpu(),
        open_ms,
        images: source,
        profile: profile.transpose()?,
        warnings: ui.warnings(),
    };
    ui.result(&summary, text)
}

/// The processor's name where the system tells it, else its architecture.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

fn text(s: &Summary<'_>) -> String {
    let r = &s.report;
    let plural = if r.threads == 1 { "" } else { "s" };
    let mut out =
        format!("{} ({}), {} thread{plural}, {} rounds, {} images\n", r.kernel, s.cpu, r.threads, r.rounds, s.images);
    out += &format!("opened and checked in {:.1} ms\n", s.open_ms);
    let mut table = Table::new(&["experts", "median µs", "p99 µs", "min µs", "M MAC", "GMAC/s"]);
    let us = |v: f64| format!("{v:.1}");
    let times = |l: &Latency| [us(l.median_us), us(l.p99_us), us(l.min_us)];
    for row in &r.rows {
        let [median, p99, min] = times(&row.latency);
        let cells = [row.experts.to_string(), median, p99, min, millions(row.macs), format!("{:.1}", row.gmac_per_s)];
        table.row(cells);
    }
    if let Some(routed) = &r.routed {
        let [median, p99, min] = times(&routed.latency);
        table.row_of(vec!["routed".to_owned(), median, p99, min]);
    }
    out += &table.text();
    if let Some(routed) = &r.routed {
        let share = |(n, share): (usize, &f64)| format!("{:.1} % use {}", 100.0 * share, n + 1);
        let shares: Vec<String> = routed.experts.iter().enumerate().map(share).collect();
        out += &format!(
            "routed: {:.2} experts expected ({}), mean {:.1} µs, {:+.1} % against the experts alone\n",
            routed.expected_experts,
            shares.join(", "),
            routed.latency.mean_us,
            routed.overhead_percent
        );
        if s.images == "synthetic" {
            out += "        (synthetic images; --data gives the routes of real ones)\n";
        }
    }
    if let Some(profile) = &s.profile {
        out += "\nall experts, operation by operation\n";
        out += &profile_table(profile).text();
    }
    out
}

fn profile_table(profile: &[OpTime]) -> Table {
    let mut table = Table::new(&["operation", "kind", "median µs", "GMAC/s", "share %"]).left(2);
    for op in profile {
        let rate = if op.macs > 0 { format!("{:.1}", op.gmac_per_s) } else { "-".to_owned() };
        let share = format!("{:.1}", op.share_percent);
        table.row([op.name.clone(), op.kind.to_owned(), format!("{:.2}", op.median_us), rate, share]);
    }
    table
}
