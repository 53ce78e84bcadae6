//! `build --refine`: weights chosen on images instead of rounded one by one.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use clap::Args;
use ride_calibrate::data::DataSet;
use ride_compiler::calibration::{self, Settings};
use ride_compiler::lower::Request;
use ride_compiler::refine::{self, Images, Options, Refined, Report};

use super::inputs::CalibrationArgs;
use super::table::millions;
use super::ui::Ui;

/// Whether and how to refine.
#[derive(Args)]
#[command(next_help_heading = "Refinement")]
pub(crate) struct RefineArgs {
    /// Choose the int8 weights so that the outputs of layers change least on images of --data, and fit the classifiers to
    /// the int8 features (with 16-bit weights where they are small); needs no labels and no training
    #[arg(long, requires = "data")]
    refine: bool,
    /// Number of images to refine with
    #[arg(long, value_name = "N", default_value_t = 2048, requires = "refine", value_parser = clap::value_parser!(u32).range(1..))]
    refine_images: u32,
    /// Multiply-accumulates that refinement may add, in percent of those of all experts, for convolutions that read all 16
    /// bits of their input: those that bring routers (or logits) closest to the float model; takes memory, too
    #[arg(long, value_name = "PERCENT", default_value = "0", requires = "refine", value_parser = parse_percent)]
    refine_macs: f64,
}

/// A percentage from 0 to 100, with or without its sign.
fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>();
    number
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| "it must be 0 to 100 percent".to_owned())
}

impl RefineArgs {
    /// Whether the user wants it.
    pub(crate) fn wanted(&self) -> bool {
        self.refine
    }

    /// Refines, if the user wants it, with images chosen as those of the calibration are.
    pub(crate) fn run(
        &self,
        request: &Request<'_>,
        data: Option<&DataSet>,
        calibration: &CalibrationArgs,
        ui: &mut Ui,
    ) -> Result<Option<Refined>> {
        if !self.refine {
            return Ok(None);
        }
        let data = data.context("--refine needs images: pass --data")?;
        data.check_classes(request.network.classes)?;
        let settings = Settings { images: self.refine_images as usize, ..calibration.settings() };
        if data.len() < settings.images {
            ui.note(format_args!("the data set has {} images: all of them refine", data.len()));
        }
        let indices = calibration::choose(data.labels(), &settings);
        let bar = ui.progress("refining");
        let images = Images { indices: &indices, pixels: &|index| data.pixels(index) };
        let options = Options { macs: self.refine_macs / 100.0 };
        let refined = refine::refine(request, &images, options, &|total| bar.step(total))?;
        drop(bar);
        if !refined.report.used {
            ui.warn("refinement does not bring the logits closer to the float model's, so it is left out");
        }
        Ok(Some(refined))
    }
}

/// One line for people.
pub(crate) fn text(report: &Report) -> String {
    let mut text = format!(
        "{} images: logits {:.1} -> {:.1} dB SQNR; {:.0} % of the convolutions' rounding error is left",
        report.images,
        report.nearest_db,
        report.refined_db,
        100.0 * report.rounding_left
    );
    if report.fine_heads {
        text.push_str("; classifiers have 16-bit weights");
    }
    if !report.fine_reads.is_empty() {
        let (count, macs) = (report.fine_reads.len(), millions(report.fine_macs));
        // Writing to a string cannot fail.
        let _ = write!(text, "; {count} convolutions read 16 bits for {macs} M MAC more (--refine-macs)");
    }
    text
}
