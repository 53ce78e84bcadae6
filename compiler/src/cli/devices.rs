//! `ride-compile bench --import`: reports of devices in one table.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use ride_compiler::device::{self, Device, Times};
use ride_runtime::Model;
use serde::Serialize;

use super::exit::Failed;
use super::table::Table;
use super::ui::Ui;

/// Most reports in a table.
const MAX_DEVICES: usize = 256;

#[derive(Serialize)]
struct Summary<'s> {
    fingerprint: &'s str,
    /// Target of the artifact at hand.
    target: &'s str,
    experts: usize,
    devices: Vec<Entry>,
    warnings: &'s [String],
}

#[derive(Serialize)]
struct Entry {
    file: String,
    /// Whether it ran exactly the artifact at hand.
    same_artifact: bool,
    #[serde(flatten)]
    device: Device,
}

/// Shows the reports in `files`, all about the network of `model`.
pub(crate) fn run(model: Model<'_>, files: &[PathBuf], ui: &mut Ui) -> Result<()> {
    ensure!(files.len() <= MAX_DEVICES, "{} reports are more than {MAX_DEVICES}", files.len());
    let devices = files.iter().map(|file| Device::read(file, model)).collect::<Result<Vec<_>>>()?;
    device::check_answers(&devices).map_err(|error| Failed(format!("{error:#}")))?;
    for (file, device) in files.iter().zip(&devices) {
        if device.is_emulated_time() {
            ui.warn(format_args!(
                "{}: times of an emulator that does not count instructions say nothing about {}; run it with -icount shift=0",
                file.display(),
                device.cpu
            ));
        }
    }
    let entry = |(file, device): (&PathBuf, Device)| Entry {
        file: file.display().to_string(),
        same_artifact: device.runs(model),
        device,
    };
    let summary = Summary {
        fingerprint: model.fingerprint(),
        target: model.target(),
        experts: model.experts(),
        devices: files.iter().zip(devices).map(entry).collect(),
        warnings: ui.warnings(),
    };
    ui.result(&summary, text)
}

fn text(s: &Summary<'_>) -> String {
    let experts = (1..=s.experts).map(|n| if n == 1 { "1 expert".to_owned() } else { format!("{n} experts") });
    let titles: Vec<String> =
        ["device", "target", "kernel", "counts"].map(str::to_owned).into_iter().chain(experts).collect();
    let mut titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    titles.extend(["routed", "stack"]);
    let mut table = Table::new(&titles).left(4);
    for Entry { device, .. } in &s.devices {
        let instructions = device.timer.as_ref().is_some_and(|t| t.instructions());
        let unit = if instructions { "M instructions" } else { "ms" };
        let shown = |times: Option<&Times>| times.map_or_else(|| "-".to_owned(), |t| amount(t, instructions));
        let mut cells = [&device.cpu, &device.target, &device.kernel].map(String::clone).to_vec();
        cells.push(unit.to_owned());
        cells.extend((1..=s.experts).map(|n| shown(device.row(n).map(|row| &row.times))));
        cells.push(shown(device.routed.as_ref().map(|routed| &routed.times)));
        cells.push(device.stack_bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()));
        table.row_of(cells);
    }
    let equal = s.devices.iter().filter(|entry| entry.same_artifact).count();
    format!(
        "medians for model {}; {equal} of {} devices ran this artifact, the others builds of the same model\n{}",
        s.fingerprint,
        s.devices.len(),
        table.text()
    )
}

/// Milliseconds, or millions of instructions.
fn amount(times: &Times, instructions: bool) -> String {
    match times.median_counts.filter(|_| instructions) {
        Some(counts) => format!("{:.2}", counts as f64 / 1e6),
        None => format!("{:.3}", times.median_us / 1e3),
    }
}
