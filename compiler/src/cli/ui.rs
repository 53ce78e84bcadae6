//! What the user sees: notes and progress on standard error, results on standard output.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// How much is shown, and the warnings so far.
pub(crate) struct Ui {
    quiet: bool,
    json: bool,
    /// Shown when they arise, or as part of the JSON result.
    warnings: Vec<String>,
}

/// Standard output was closed by its reader.
#[derive(Debug)]
pub(crate) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for Closed {}

impl Ui {
    pub(crate) fn new(quiet: bool, json: bool) -> Self {
        Ui { quiet, json, warnings: Vec::new() }
    }

    /// Something that the user should know but need not act on.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        self.say("note", &text);
    }

    /// Something that may be wrong.
    pub(crate) fn warn(&mut self, text: impl fmt::Display) {
        self.say("warning", &text);
        self.warnings.push(text.to_string());
    }

    /// Everything that was warned of.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn say(&self, what: &str, text: &dyn fmt::Display) {
        if !self.quiet && !self.json {
            // Nobody to read it is no reason to stop.
            let _ = writeln!(io::stderr(), "{what}: {text}");
        }
    }

    /// A bar on standard error, invisible unless that is a terminal and progress is wanted.
    pub(crate) fn progress(&self, what: &'static str) -> Progress {
        let visible = !self.quiet && !self.json && io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{msg:>12} [{bar:40}] {pos}/{len} {eta}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what);
        if visible {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Progress(bar)
    }

    /// As [`Ui::progress`], with a text of its own instead of counts.
    pub(crate) fn described(&self, what: &'static str) -> Progress {
        let progress = self.progress(what);
        if let Ok(style) = ProgressStyle::with_template("{msg:>12} [{bar:24}] {prefix}") {
            progress.0.set_style(style.progress_chars("=> "));
        }
        progress
    }

    /// Writes a result, as text or as JSON.
    pub(crate) fn result<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        if self.json {
            let mut json = serde_json::to_string_pretty(value).context("the result cannot be shown as JSON")?;
            json.push('\n');
            print(json.as_bytes())
        } else {
            print(text(value).as_bytes())
        }
    }
}

/// Writes to standard output.
///
/// # Errors
/// [`Closed`] if nobody reads it any more; otherwise what went wrong.
pub(crate) fn print(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

/// A progress bar that disappears when it is dropped.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// One of `total` steps has been done.
    pub(crate) fn step(&self, total: usize) {
        self.0.set_length(total as u64);
        self.0.inc(1);
    }

    /// Whether somebody sees it.
    pub(crate) fn visible(&self) -> bool {
        !self.0.is_hidden()
    }

    /// A share of the work, 0..=1, has been done; for bars of [`Ui::described`].
    pub(crate) fn describe(&self, share: f64, text: String) {
        self.share(share);
        self.0.set_prefix(text);
    }

    /// A share of the work, 0..=1, has been done.
    pub(crate) fn share(&self, share: f64) {
        self.0.set_length(100);
        self.0.set_position((100.0 * share) as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
