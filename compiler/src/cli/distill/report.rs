//! What `ride-compile distill` shows.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use ride_calibrate::metrics::ScoreReport;
use ride_compiler::network::Network;
use ride_compiler::train::batches::Position;
use ride_compiler::train::folder::MODEL;
use ride_compiler::train::net::Net;
use ride_compiler::train::params::Loaded;
use ride_compiler::train::settings::Settings;
use ride_compiler::train::state::State;
use ride_compiler::train::trainer::{Event, Report};
use serde::Serialize;

use super::super::table::{Table, grouped, millions, number};
use super::super::ui::{Progress, Ui};

/// Size of the network that is trained.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cost {
    experts: usize,
    parameters: usize,
    /// Multiply-accumulates of one image through all experts.
    macs: u64,
    /// Those of the teacher.
    teacher_macs: Option<u64>,
}

impl Cost {
    pub(super) fn of(student: &Network, teacher: Option<&Network>, net: &Net) -> Self {
        let parameters = net.parameters().iter().map(|named| named.var.elem_count()).sum();
        let macs = student.macs();
        Self { experts: student.experts.len(), parameters, macs, teacher_macs: teacher.map(Network::macs) }
    }

    pub(super) fn text(&self) -> String {
        let share = self.teacher_macs.filter(|&macs| macs > 0).map_or_else(String::new, |macs| {
            format!(", {:.1} % of the teacher's", 100.0 * self.macs as f64 / macs as f64)
        });
        let (parameters, macs) = (grouped(self.parameters as u64), millions(self.macs));
        format!("{} experts, {parameters} parameters, {macs} M MAC with all experts{share}", self.experts)
    }
}

/// Which tensors the student starts with.
pub(super) fn inheritance(loaded: &Loaded, sources: &BTreeMap<String, String>) -> String {
    let all = loaded.taken.len() + loaded.missing.len();
    let moved = loaded.taken.iter().filter(|name| sources.get(*name).is_some_and(|source| source != *name)).count();
    let from = if moved > 0 { format!(", {moved} of them from other places") } else { String::new() };
    let rest = match loaded.missing.first() {
        Some(first) => format!("; random are {}, the first {first}", loaded.missing.len()),
        None => String::new(),
    };
    format!("{} of {all} tensors start as the teacher's{from}{rest}; log.jsonl lists them", loaded.taken.len())
}

/// The log's first line.
#[derive(Serialize)]
pub(super) struct Start<'s> {
    event: &'static str,
    settings: &'s Settings,
    cost: &'s Cost,
    /// The teacher's tensor that each of the student's was made of.
    inherited: BTreeMap<&'s str, &'s str>,
    /// Tensors that start at random.
    random: &'s [String],
}

impl<'s> Start<'s> {
    pub(super) fn new(
        settings: &'s Settings,
        cost: &'s Cost,
        inherited: Option<&'s (Loaded, BTreeMap<String, String>)>,
    ) -> Self {
        let pairs = inherited.map(|(_, sources)| sources.iter().map(|(ours, theirs)| (ours.as_str(), theirs.as_str())));
        Self {
            event: "start",
            settings,
            cost,
            inherited: pairs.map(Iterator::collect).unwrap_or_default(),
            random: inherited.map_or(&[], |(loaded, _)| &loaded.missing),
        }
    }
}

/// The log's line for a training that goes on.
#[derive(Serialize)]
pub(super) struct Resume {
    pub(super) event: &'static str,
    #[serde(flatten)]
    pub(super) position: Position,
}

/// Accuracy of the first 1, 2, ... experts.
#[derive(Debug, Serialize)]
pub(super) struct Accuracy {
    pub(super) images: usize,
    pub(super) student: Vec<ScoreReport>,
    pub(super) teacher: Option<Vec<ScoreReport>>,
}

/// The result.
#[derive(Serialize)]
pub(super) struct Summary<'s> {
    event: &'static str,
    model: String,
    epochs: f64,
    images: u64,
    seconds: f64,
    images_per_second: Option<f64>,
    loss: Option<f64>,
    cost: Cost,
    accuracy: Option<Accuracy>,
    warnings: &'s [String],
}

impl<'s> Summary<'s> {
    pub(super) fn new(
        output: &Path,
        state: &State,
        last: Option<Report>,
        cost: Cost,
        accuracy: Option<Accuracy>,
        warnings: &'s [String],
    ) -> Self {
        let progress = &state.progress;
        Self {
            event: "result",
            model: output.join(MODEL).display().to_string(),
            epochs: progress.images as f64 / state.settings.inputs.images as f64,
            images: progress.images,
            seconds: progress.seconds,
            images_per_second: last.map(|report| report.images_per_second),
            loss: last.map(|report| report.loss),
            cost,
            accuracy,
            warnings,
        }
    }
}

pub(super) fn text(summary: &Summary<'_>) -> String {
    let Summary { model, epochs, seconds, images_per_second, cost, accuracy, .. } = summary;
    let speed = images_per_second.map_or_else(String::new, |speed| format!(", {speed:.0} images/s"));
    let mut out = format!("wrote {model}: {epochs:.1} epochs in {}{speed}\n{}\n", clock(*seconds), cost.text());
    let Some(Accuracy { images, student, teacher }) = accuracy else { return out };
    out += &format!("\naccuracy on {} images, without routers, %\n", grouped(*images as u64));
    let mut table = Table::new(&["", "overall", "many", "medium", "few"]);
    let mut rows = |who: &str, reports: &[ScoreReport]| {
        for (n, report) in reports.iter().enumerate() {
            let plural = if n == 0 { "expert" } else { "experts" };
            let figures = [report.top1, report.many, report.medium, report.few].map(|value| number(value, 2));
            let mut cells = vec![format!("{who}, {} {plural}", n + 1)];
            cells.extend(figures);
            table.row_of(cells);
        }
    };
    rows("student", student);
    rows("teacher", teacher.as_deref().unwrap_or_default());
    out += &table.text();
    out
}

/// `1:02:03` or `2:03`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Shows events: a bar on a terminal, a line for each epoch elsewhere.
pub(super) struct Bar<'u> {
    ui: &'u Ui,
    bar: Progress,
    last: Cell<Option<Report>>,
}

impl<'u> Bar<'u> {
    pub(super) fn new(ui: &'u Ui) -> Self {
        Self { ui, bar: ui.described("training"), last: Cell::new(None) }
    }

    pub(super) fn show(&self, event: &Event) {
        match event {
            Event::Batch(report) => {
                self.last.set(Some(*report));
                let Report { epoch, batch, batches, .. } = report;
                self.bar.describe(report.share, format!("epoch {epoch}, {batch}/{batches}: {}", going(report)));
            }
            Event::Epoch(report) if !self.bar.visible() => {
                self.ui.note(format_args!("epoch {}: {}", report.epoch, going(report)));
            }
            Event::Epoch(_) | Event::End { .. } => {}
        }
    }

    /// The last batch's report.
    pub(super) fn last(&self) -> Option<Report> {
        self.last.get()
    }
}

fn going(report: &Report) -> String {
    let Report { loss, rate, images_per_second, seconds_left, .. } = report;
    format!("loss {loss:.3}, rate {rate:.3e}, {images_per_second:.0} images/s, {} left", clock(*seconds_left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        for (seconds, text) in [(0.4, "0:00"), (59.6, "1:00"), (754.0, "12:34"), (3_723.0, "1:02:03")] {
            assert_eq!(clock(seconds), text);
        }
    }
}
