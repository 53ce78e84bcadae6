//! `ride-compile calibrate`: the calibration table as a file of its own.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use ride_calibrate::data::{DataSet, Split};
use ride_calibrate::table::CalibrationTable;
use ride_compiler::description::Rules;
use ride_compiler::network::Network;
use ride_compiler::{artifact_file, calibration};
use serde::Serialize;

use super::inputs::{CalibrationArgs, DataArgs, ModelArgs};
use super::interrupt::uninterrupted;
use super::ui::Ui;

/// Run the float model over training images and write down the ranges of its activations
///
/// The table is what `build --calibration` reads. Called calibration.json and left beside the checkpoint, it makes
/// `build` work without data.
#[derive(Args)]
#[command(after_help = "\
Example:
  ride-compile calibrate runs/my-ride --data cifar-100-binary -o runs/my-ride/calibration.json
  ride-compile build runs/my-ride")]
pub(crate) struct CalibrateArgs {
    /// The table to write
    #[arg(long, short, value_name = "FILE", default_value = "calibration.json")]
    output: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    calibration: CalibrationArgs,
}

#[derive(Serialize)]
struct Summary<'s> {
    table: String,
    images: u64,
    values: usize,
    observer: String,
    warnings: &'s [String],
}

pub(crate) fn run(args: &CalibrateArgs, ui: &mut Ui) -> Result<()> {
    artifact_file::check_destination(&args.output)?;
    // The table belongs to the network as it was trained, so rules of a ride.toml play no part here.
    let imported = args.model.load(Rules::default(), ui)?;
    let data = args.data.open(&imported.preprocess, Split::Train)?.context("--data is needed to calibrate")?;
    let table = calibrate(&imported.network, &data, &args.calibration, ui)?;
    uninterrupted(|| table.write(&args.output))?;
    let summary = Summary {
        table: args.output.display().to_string(),
        images: table.images,
        values: table.values.len(),
        observer: table.observer.to_string(),
        warnings: ui.warnings(),
    };
    ui.result(&summary, |s| {
        format!("wrote {}: ranges of {} values, {} images, observer {}\n", s.table, s.values, s.images, s.observer)
    })
}

/// Calibrates with a progress bar.
pub(crate) fn calibrate(
    network: &Network,
    data: &DataSet,
    args: &CalibrationArgs,
    ui: &Ui,
) -> Result<CalibrationTable> {
    let settings = args.settings();
    if data.len() < settings.images {
        ui.note(format_args!("the data set has {} images: all of them calibrate", data.len()));
    }
    let bar = ui.progress("calibrating");
    calibration::calibrate(network, data, &settings, &|progress| bar.step(progress.total))
}
