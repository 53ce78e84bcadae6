//! `ride-compile targets`: the machines that artifacts can be built for.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use ride_runtime::kernels::{BACKENDS, best};
use ride_targets::Target;
use serde::Serialize;

use super::table::{Table, grouped};
use super::ui::Ui;

/// List the machines that artifacts can be built for
#[derive(Args)]
#[command(after_help = "\
`--target host` is the one marked with an asterisk. A machine of your own is a file like those in targets/data: \
`--target my-board.toml`.

Examples:
  ride-compile targets
  ride-compile targets cortex-m4
  ride-compile targets my-board.toml --json")]
pub(crate) struct TargetsArgs {
    /// Show everything about this one: a name, or a data file of your own
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

#[derive(Serialize)]
struct TargetReport {
    name: String,
    summary: String,
    core: String,
    triples: Vec<String>,
    /// Cargo features of `ride-runtime`.
    features: Vec<String>,
    rustflags: Vec<String>,
    layout: &'static str,
    residual_bits: u8,
    /// Bytes of a typical part; `None` where programs come from elsewhere.
    flash: Option<u64>,
    ram: Option<u64>,
    clock_hz: Option<u64>,
    latency: Option<Latency>,
    gpu: Option<Gpu>,
    /// Whether `host` means this one.
    host: bool,
    /// Kernels of this machine that read its artifacts, slowest first.
    kernels: Vec<&'static str>,
    /// The one that this machine would run.
    kernel: Option<&'static str>,
}

/// The latency model, which is none of the artifact at hand.
#[derive(Serialize)]
struct Latency {
    cycles_per_mac: f64,
    source: String,
}

/// What the latency model of a GPU rests on.
#[derive(Serialize)]
struct Gpu {
    multiprocessors: u32,
    clock_hz: u64,
    /// Bytes a second.
    bandwidth: f64,
    launch_us: f64,
    step_us: f64,
    source: String,
}

pub(crate) fn run(args: &TargetsArgs, ui: &mut Ui) -> Result<()> {
    if let Some(name) = &args.name {
        return ui.result(&report(&ride_targets::find(name)?), detail);
    }
    let reports: Vec<TargetReport> = ride_targets::all()?.iter().map(report).collect();
    ui.result(&reports, |reports| text(reports))
}

fn report(target: &Target) -> TargetReport {
    let layout = target.layout();
    let latency =
        target.latency().map(|l| Latency { cycles_per_mac: l.cycles_per_mac, source: l.source.trim().to_owned() });
    let gpu = target.gpu().map(|g| Gpu {
        multiprocessors: g.multiprocessors,
        clock_hz: g.clock_hz,
        bandwidth: g.bandwidth,
        launch_us: g.launch_us,
        step_us: g.step_us,
        source: g.source.trim().to_owned(),
    });
    TargetReport {
        name: target.name().to_owned(),
        summary: target.summary().to_owned(),
        core: target.core().to_owned(),
        triples: target.triples().to_vec(),
        features: target.features().to_vec(),
        rustflags: target.rustflags().to_vec(),
        layout: layout.name(),
        residual_bits: target.residual_bits(),
        flash: target.flash(),
        ram: target.ram(),
        clock_hz: target.clock_hz(),
        latency,
        gpu,
        host: target.name() == ride_targets::host(),
        kernels: BACKENDS.iter().filter(|b| b.layout == layout).map(|b| b.conv.name).collect(),
        kernel: best(layout).map(|b| b.conv.name),
    }
}

fn text(reports: &[TargetReport]) -> String {
    let mut table = Table::new(&["target", "layout", "residual bits", "flash", "RAM", "machine"]).left(6);
    for r in reports {
        let name = format!("{}{}", r.name, if r.host { " *" } else { "" });
        let cells = [r.layout.to_owned(), r.residual_bits.to_string(), memory(r.flash), memory(r.ram)];
        let [layout, bits, flash, ram] = cells;
        table.row([name, layout, bits, flash, ram, r.summary.clone()]);
    }
    table.text()
}

fn detail(r: &TargetReport) -> String {
    let mut out = format!("{}: {}\n", r.name, r.summary);
    let list = |items: &[String]| if items.is_empty() { "none".to_owned() } else { items.join(" ") };
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {name:<14} {value}");
    };
    line("core", &r.core);
    line("triples", &list(&r.triples));
    line("features", &list(&r.features));
    line("rustflags", &list(&r.rustflags));
    line("layout", &format!("{} ({} on this machine)", r.layout, r.kernel.unwrap_or("no kernel")));
    line("residual bits", &r.residual_bits.to_string());
    line("flash", &memory(r.flash));
    line("RAM", &memory(r.ram));
    line("clock", &r.clock_hz.map_or_else(|| "-".to_owned(), |hz| format!("{} Hz", grouped(hz))));
    match (&r.latency, &r.gpu) {
        (Some(model), _) => line("latency model", &format!("{} cycles a MAC: {}", model.cycles_per_mac, model.source)),
        (None, Some(gpu)) => line(
            "latency model",
            &format!(
                "GPU, not measured: {} multiprocessors at {:.0} MHz, {:.1} GB/s, {} µs a launch, {} µs an operation: {}",
                gpu.multiprocessors,
                gpu.clock_hz as f64 / 1e6,
                gpu.bandwidth / 1e9,
                gpu.launch_us,
                gpu.step_us,
                gpu.source
            ),
        ),
        (None, None) => line("latency model", "none"),
    }
    out
}

/// `256K`, `1M`, or bytes.
fn memory(bytes: Option<u64>) -> String {
    match bytes {
        None => "-".to_owned(),
        Some(b) if b > 0 && b.is_multiple_of(1 << 20) => format!("{}M", b >> 20),
        Some(b) if b > 0 && b.is_multiple_of(1 << 10) => format!("{}K", b >> 10),
        Some(b) => b.to_string(),
    }
}
