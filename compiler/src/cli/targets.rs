//! `ride-compile targets`: the machines that artifacts can be built for.

use anyhow::Result;
use clap::Args;
use ride_runtime::kernels::{BACKENDS, best};
use serde::Serialize;

use super::table::Table;
use super::ui::Ui;

/// List the machines that artifacts can be built for
#[derive(Args)]
#[command(after_help = "`--target host` is the one marked with an asterisk.")]
pub(crate) struct TargetsArgs {}

#[derive(Serialize)]
struct TargetReport {
    name: String,
    summary: String,
    triples: Vec<String>,
    layout: &'static str,
    residual_bits: u8,
    /// Whether `host` means this one.
    host: bool,
    /// Kernels that read its artifacts, slowest first.
    kernels: Vec<&'static str>,
    /// The one that this machine would run.
    kernel: Option<&'static str>,
}

pub(crate) fn run(_: &TargetsArgs, ui: &mut Ui) -> Result<()> {
    let reports: Vec<TargetReport> = ride_targets::all()?.iter().map(report).collect();
    ui.result(&reports, |reports| text(reports))
}

fn report(target: &ride_targets::Target) -> TargetReport {
    let layout = target.layout();
    TargetReport {
        name: target.name().to_owned(),
        summary: target.summary().to_owned(),
        triples: target.triples().to_vec(),
        layout: layout.name(),
        residual_bits: target.residual_bits(),
        host: target.name() == ride_targets::host(),
        kernels: BACKENDS.iter().filter(|b| b.layout == layout).map(|b| b.conv.name).collect(),
        kernel: best(layout).map(|b| b.conv.name),
    }
}

fn text(reports: &[TargetReport]) -> String {
    let mut table = Table::new(&["target", "layout", "residual bits", "kernel on this machine"]).left(4);
    for r in reports {
        let name = format!("{}{}", r.name, if r.host { " *" } else { "" });
        table.row([name, r.layout.to_owned(), r.residual_bits.to_string(), r.kernel.unwrap_or("none").to_owned()]);
    }
    let mut out = table.text();
    for r in reports {
        out += &format!("\n{}: {}\n", r.name, r.summary);
    }
    out
}
