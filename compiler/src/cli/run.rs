//! `ride-compile run`: classifies image files.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use ride_calibrate::groups::Group;
use ride_calibrate::raster::Image;
use ride_compiler::artifact_file::{self, ArtifactFile};
use ride_compiler::inspect;
use ride_runtime::{Model, Outcome, Policy, Session};
use serde::Serialize;

use super::inputs;
use super::ui::Ui;

/// Classify image files
///
/// PNG and JPEG files are decoded and prepared as the artifact says.
#[derive(Args)]
#[command(after_help = "\
Examples:
  ride-compile run my-ride.ride photo.png
  ride-compile run my-ride.ride *.png --policy 1 --json")]
pub(crate) struct RunArgs {
    /// Artifact to run
    #[arg(value_name = "ARTIFACT")]
    artifact: PathBuf,
    /// PNG or JPEG files
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// Experts that run: `routed` lets the routers decide, `all`, or a number
    #[arg(long, value_name = "routed|all|N", default_value = "routed", value_parser = parse_policy)]
    policy: Experts,
    /// Threshold of the routers instead of the artifact's: of the score before the sigmoid, or in units of the criterion
    /// that `inspect` shows
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    threshold: Option<f32>,
    /// Show the K classes with the largest logits
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    /// Threads that share each inference; the answers do not depend on it
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: usize,
    /// Resize the shorter side of images to N pixels instead of as the artifact says, then crop the centre
    #[arg(long, value_name = "N")]
    resize: Option<usize>,
}

#[derive(Clone, Copy, PartialEq)]
enum Experts {
    Routed,
    All,
    Exactly(usize),
}

fn parse_policy(text: &str) -> Result<Experts, String> {
    match (text, text.parse()) {
        ("routed", _) => Ok(Experts::Routed),
        ("all", _) => Ok(Experts::All),
        (_, Ok(n)) => Ok(Experts::Exactly(n)),
        (_, Err(_)) => Err("expected `routed`, `all` or a number of experts".to_owned()),
    }
}

#[derive(Serialize)]
struct Answer {
    image: String,
    class: usize,
    name: Option<String>,
    /// Group of the class by its training images, where they are known.
    group: Option<Group>,
    experts: usize,
    top: Vec<Candidate>,
}

#[derive(Serialize)]
struct Candidate {
    class: usize,
    name: Option<String>,
    logit: f32,
}

pub(crate) fn run(args: &RunArgs, ui: &mut Ui) -> Result<()> {
    let policy = args.policy()?;
    let file = ArtifactFile::read(&args.artifact)?;
    let model = file.model()?;
    if policy == Policy::Routed && model.routed() {
        ui.note(inspect::rules_text(&inspect::rules(model)));
    }
    let preprocess = inputs::preprocess_of(model, args.resize);
    let counted = (0..model.classes()).any(|class| model.train_count(class) > 0);
    let mut arena = artifact_file::arena(model)?;
    let team = artifact_file::team(args.threads)?;
    let mut session = Session::new(model, &mut arena)?.with_team(&team);
    let mut answers = Vec::new();
    let mut classify = |path: &PathBuf| -> Result<Answer> {
        let what = || format!("cannot classify {}", path.display());
        let pixels = Image::open(path).and_then(|image| preprocess.apply(&image)).with_context(what)?;
        let outcome = session.classify(&pixels, policy).with_context(what)?;
        Ok(answer(model, path.display().to_string(), &outcome, args.top, counted))
    };
    // The answers before a bad image are good ones: they are shown before the error.
    let failed = args.images.iter().find_map(|path| match classify(path) {
        Ok(answer) => {
            answers.push(answer);
            None
        }
        Err(error) => Some(error),
    });
    ui.result(&answers, |answers| answers.iter().map(text).collect())?;
    failed.map_or(Ok(()), Err)
}

impl RunArgs {
    fn policy(&self) -> Result<Policy> {
        if let Some(threshold) = self.threshold {
            ensure!(!threshold.is_nan(), "--threshold must be a number");
            if self.policy != Experts::Routed {
                bail!("--threshold is for routing; leave out --policy, or say --policy routed");
            }
            return Ok(Policy::Threshold(threshold));
        }
        Ok(match self.policy {
            Experts::Routed => Policy::Routed,
            Experts::All => Policy::All,
            Experts::Exactly(n) => Policy::Exactly(n),
        })
    }
}

fn answer(model: Model<'_>, image: String, outcome: &Outcome<'_>, top: usize, counted: bool) -> Answer {
    let mut order: Vec<usize> = (0..outcome.logits.len()).collect();
    order.sort_by(|&a, &b| outcome.logits[b].total_cmp(&outcome.logits[a]));
    let candidate = |&class: &usize| Candidate { class, name: name(model, class), logit: outcome.logits[class] };
    Answer {
        image,
        class: outcome.class,
        name: name(model, outcome.class),
        group: counted.then(|| Group::of_count(model.train_count(outcome.class))),
        experts: outcome.experts,
        top: order.iter().take(top).map(candidate).collect(),
    }
}

fn name(model: Model<'_>, class: usize) -> Option<String> {
    Some(model.class_name(class).to_owned()).filter(|name| !name.is_empty())
}

fn text(answer: &Answer) -> String {
    let called = |class: usize, name: &Option<String>| match name {
        Some(name) => format!("{name} (class {class})"),
        None => format!("class {class}"),
    };
    let group = answer.group.map_or_else(String::new, |group| format!(", {group}"));
    let plural = if answer.experts == 1 { "" } else { "s" };
    let class = called(answer.class, &answer.name);
    let mut out = format!("{}: {class}{group}, {} expert{plural}\n", answer.image, answer.experts);
    for c in &answer.top {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {:>9.4}  {}", c.logit, called(c.class, &c.name));
    }
    out
}
