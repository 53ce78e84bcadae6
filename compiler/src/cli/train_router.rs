//! `ride-compile train-router`: routers for experts that are trained already.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use ride_calibrate::data::Split;
use ride_compiler::description::Rules;
use ride_compiler::train::augment::Recipe;
use ride_compiler::train::router::{self, Epoch, Event, Settings, check_output, prepare};
use ride_targets::parse_size;
use serde::Serialize;

use super::inputs::{DataArgs, ModelArgs};
use super::interrupt::uninterrupted;
use super::table::{Table, number};
use super::ui::Ui;

/// Train the routers of a checkpoint: which images are worth the next expert
///
/// The experts stay as they are. --data are the training images, which the experts run over once; classes are drawn equally
/// often, and the routers learn to tell where a later expert will put a wrong answer right, as the paper's second stage does.
/// A checkpoint without routers gets some, one that has them gets new ones. Written are model.safetensors and config.json,
/// which `build` reads. Then choose an operating point with `ride-compile thresholds`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  ride-compile train-router runs/stage1 --data cifar-100-binary -o runs/routed
  ride-compile train-router runs/stage1 --data train/ -o runs/routed --order 2,0,1   # expert 2 runs first
  ride-compile train-router runs/stage1 --data train/ -o runs/quick --augment none   # each image once, as it is

Recipe: what the checkpoint's config.json says if it has routers, else that of the authors. The same seed gives the same
routers on the same kind of machine, with any number of threads.")]
pub(crate) struct TrainRouterArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Folder to write the new checkpoint to
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    /// Experts in the order in which they are to run, counted from 0; those left out are dropped
    #[arg(long, value_name = "I,I,...", value_delimiter = ',')]
    order: Option<Vec<usize>>,
    #[command(flatten)]
    recipe: RecipeArgs,
}

/// What differs from the recipe that is known.
#[derive(Args)]
#[command(next_help_heading = "Recipe (otherwise the checkpoint's or the authors')")]
struct RecipeArgs {
    /// Passes over as many draws as there are images [authors: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    epochs: Option<u32>,
    /// Images in a step [authors: 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// The first epoch's learning rate; it falls by half a cosine [authors: 0.01]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Share of every weight that is added to its gradient [authors: 0.0005]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    weight_decay: Option<f64>,
    /// Share of the last step's direction that is kept [authors: 0.9]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    momentum: Option<f64>,
    /// Weight of images for which the next expert is worth running: more of it, more experts [authors: 100]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pos_weight: Option<f64>,
    /// Sorted logits that a router sees [authors: 30 of 100 classes, 50 of more]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top_choices: Option<u32>,
    /// Give each router a last layer of its own instead of one for all
    #[arg(long)]
    separate_fc: bool,
    /// How images are varied: none, cifar, imagenet or inaturalist [default: as the data loader in config.json does]
    #[arg(long, value_name = "NAME")]
    augment: Option<Recipe>,
    /// Varied copies of an image at most: the more, the longer it takes
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    views: u32,
    /// Memory for what routers see of the images; with less, some images go through the experts again
    #[arg(long, value_name = "BYTES", default_value = "2G", value_parser = parse_bytes)]
    memory: u64,
    /// Seed of weights, draws and augmentation
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| format!("{error:#}"))
}

impl RecipeArgs {
    fn over(&self, known: Settings) -> Settings {
        let mut sgd = known.sgd;
        sgd.weight_decay = self.weight_decay.unwrap_or(sgd.weight_decay);
        sgd.momentum = self.momentum.unwrap_or(sgd.momentum);
        let or = |given: Option<u32>, known: usize| given.map_or(known, |given| given as usize);
        Settings {
            epochs: or(self.epochs, known.epochs),
            batch: or(self.batch, known.batch),
            rate: self.lr.unwrap_or(known.rate),
            sgd,
            pos_weight: self.pos_weight.unwrap_or(known.pos_weight),
            top_choices: or(self.top_choices, known.top_choices),
            shared_fc: known.shared_fc && !self.separate_fc,
            augment: self.augment.unwrap_or(known.augment),
            views: self.views as usize,
            memory: usize::try_from(self.memory).unwrap_or(usize::MAX),
            seed: self.seed,
        }
    }
}

#[derive(Serialize)]
struct Summary<'s> {
    files: Vec<String>,
    /// Architecture of the new checkpoint.
    arch: String,
    experts: usize,
    /// Whether the checkpoint had routers before.
    retrained: bool,
    settings: &'s Settings,
    /// Images of the data set, and forward passes of the experts.
    images: usize,
    forwards: usize,
    epochs: &'s [Epoch],
    seconds: f64,
    warnings: &'s [String],
}

pub(crate) fn run(args: &TrainRouterArgs, ui: &mut Ui) -> Result<()> {
    let start = Instant::now();
    check_output(&args.output, &args.model.model)?;
    let source = args.model.source(ui)?;
    let prepared = prepare(&source, &args.model.options(Rules::default()), args.order.as_deref())?;
    prepared.imported.warnings.iter().for_each(|warning| ui.warn(warning));
    let network = &prepared.imported.network;
    let settings = args.recipe.over(prepared.settings());
    settings.check(network)?;
    let data = args.data.open(&prepared.imported.preprocess, Split::Train)?;
    let data = data.context("--data is needed to train: the training images")?;
    let empty = data.class_counts(network.classes)?.iter().filter(|&&count| count == 0).count();
    if empty > 0 {
        ui.warn(format_args!("{empty} of {} classes have no training images; the others are drawn", network.classes));
    }
    let bar = Mutex::new(Some(ui.progress("experts")));
    let event = |event: Event<'_>| match event {
        Event::Image { total } => {
            if let Some(bar) = bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_ref() {
                bar.step(total);
            }
        }
        Event::Epoch(epoch) => ui.note(format_args!("epoch {}: loss {:.4}", epoch.epoch, epoch.loss)),
    };
    let trained = router::train(network, &data, &settings, &event)?;
    drop(bar.into_inner());
    let files = uninterrupted(|| prepared.write(&args.output, &trained, &settings))?;
    let summary = Summary {
        files: files.iter().map(|file| file.display().to_string()).collect(),
        arch: network.arch.replace("Model", "EAModel"),
        experts: network.experts.len(),
        retrained: prepared.had_routers,
        settings: &settings,
        images: data.len(),
        forwards: trained.images,
        epochs: &trained.epochs,
        seconds: start.elapsed().as_secs_f64(),
        warnings: ui.warnings(),
    };
    ui.result(&summary, text)
}

fn text(s: &Summary<'_>) -> String {
    let what = if s.retrained { "new routers" } else { "routers" };
    let mut out = format!("{what} for {} with {} experts: {}\n", s.arch, s.experts, s.files.join(" "));
    let mut titles = vec!["epoch".to_owned(), "rate".to_owned(), "loss".to_owned()];
    titles.extend((1..s.experts).map(|n| format!("router {n}: worth / let through / found %")));
    let mut table = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
    for epoch in s.epochs {
        let mut row = vec![epoch.epoch.to_string(), format!("{:.5}", epoch.rate), format!("{:.4}", epoch.loss)];
        row.extend(
            epoch.routers.iter().map(|r| format!("{:.1} / {:.1} / {}", r.worth, r.proceeds, number(r.found, 1))),
        );
        table.row_of(row);
    }
    out += &table.text();
    out += "worth: a later expert puts a wrong answer right, in class-balanced draws of training images\n";
    out += &format!("{} images, {} passes through the experts, {:.1} s\n", s.images, s.forwards, s.seconds);
    out + "choose the operating point with `ride-compile thresholds`, on images held back from training\n"
}
