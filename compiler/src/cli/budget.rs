//! Budgets on the command line: what is too large, and what it is made of.

use std::path::Path;

use ride_compiler::budget::{self, Estimate, Line};
use ride_compiler::inspect::ArtifactReport;
use ride_runtime::Model;

use super::table::{Table, grouped};

/// The message for an artifact that breaks limits.
pub(crate) fn broken(output: &Path, lines: &[Line], model: Model<'_>, estimate: Option<&Estimate>) -> String {
    let mut out = format!("{} does not fit its budget; nothing was written\n", output.display());
    let mut table = Table::new(&["", "needs", "budget", "too much"]);
    for line in lines {
        let over = if line.fits() { "fits".to_owned() } else { amount(line.what, line.needs - line.limit) };
        table.row([line.what.to_owned(), amount(line.what, line.needs), amount(line.what, line.limit), over]);
    }
    out += &table.text();
    let report = ArtifactReport::of(model);
    for line in lines.iter().filter(|line| !line.fits()) {
        out += &match line.what {
            "flash" => flash(&report),
            "ram" => ram(&report, model),
            _ => estimate.map_or_else(String::new, latency),
        };
    }
    out.truncate(out.trim_end().len());
    out
}

fn amount(what: &str, value: f64) -> String {
    if what == "latency" { format!("{value:.2} ms") } else { format!("{} bytes", grouped(value as u64)) }
}

fn flash(report: &ArtifactReport) -> String {
    let mut table = Table::new(&["flash, by section", "bytes"]);
    for s in &report.sections {
        let name = if matches!(s.kind, "expert" | "router") { format!("{}{}", s.kind, s.index) } else { s.kind.into() };
        table.row([name, grouped(s.bytes as u64)]);
    }
    format!("{}  (the program's code comes on top; fewer experts or narrower layers need less)\n", table.text())
}

/// The arena by what is in it when it is fullest, and its fixed regions.
fn ram(report: &ArtifactReport, model: Model<'_>) -> String {
    let mut table = Table::new(&["RAM, by region", "bytes", "at"]);
    let fullest = report
        .parts
        .iter()
        .flat_map(|part| part.ops.iter().map(move |op| (part, op)))
        .max_by_key(|(_, op)| regions(op).map(|[_, len]| len).sum::<usize>());
    if let Some((part, op)) = fullest {
        for (n, [at, len]) in regions(op).enumerate() {
            let way = if n < op.reads.len() { "read" } else { "written" };
            table.row([format!("{} {} ({way})", part.name, op.name), grouped(len as u64), at.to_string()]);
        }
    }
    for region in report.regions.iter().filter(|r| r.len > 0) {
        table.row([region.name.to_owned(), grouped(region.len as u64), region.at.to_string()]);
    }
    table.row_of(vec!["the whole arena".to_owned(), grouped(model.arena_len() as u64)]);
    table.row_of(vec!["image".to_owned(), grouped(budget::ram(model) - model.arena_len() as u64)]);
    let way_out = if report.residual_bits > 8 { "; --residual-bits 8 needs less" } else { "" };
    format!("{}  (stack comes on top{way_out})\n", table.text())
}

fn regions(op: &ride_compiler::inspect::OpReport) -> impl Iterator<Item = [usize; 2]> {
    op.reads.iter().chain(&op.writes).copied()
}

fn latency(e: &Estimate) -> String {
    let mut table = Table::new(&["latency by the target's model", "ms"]);
    for (n, ms) in e.latency_ms.iter().enumerate() {
        table.row([format!("{} experts", n + 1), format!("{ms:.2}")]);
    }
    format!("{}  {}\n", table.text(), basis(e))
}

/// What an estimate rests on.
pub(crate) fn basis(e: &Estimate) -> String {
    let by = e.cycles_per_mac.map_or("a model of the GPU".to_owned(), |cycles| format!("{cycles} cycles a MAC"));
    format!("(estimated, not measured: {by} at {:.0} MHz; {})", e.clock_hz as f64 / 1e6, e.source)
}
