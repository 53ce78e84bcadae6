//! Compares an artifact with the float model that it was built from, image by image and layer by layer.
//!
//! The float side is the official forward pass, routing included, through [`crate::reference`]; the int8 side is a
//! [`Session`] as a device runs it, on this machine's own kernels ([`Native`]). Every image is judged alone and the figures
//! are summed in the order of the images, so a report does not depend on the number of threads.

mod layers;

use anyhow::{Context, Result, ensure};
use ride_calibrate::data::{DataSet, Format};
use ride_calibrate::groups::ClassGroups;
use ride_calibrate::metrics::{Agreement, AgreementReport, LayerSqnr, Outcome, Score, ScoreReport, Sqnr, VerifyReport};
use ride_runtime::batch::Batch;
use ride_runtime::{Model, Policy, Session};
use serde::Serialize;

use crate::artifact_file;
use crate::calibration::fingerprint;
use crate::lower::native::Native;
use crate::network::Network;
use crate::reference::{self, Executor, Forward, Image, Observe, Scratch};
use layers::{Compare, Values, layer_names};

/// Images that the layers are compared on, spread evenly over those that are verified.
pub const LAYER_IMAGES: usize = 256;

/// What to verify.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// At most so many images: the first ones, except that those of a folder of class folders, which come sorted by
    /// class, are spread evenly over it.
    pub limit: Option<usize>,
    /// Training images of each class for an artifact that has none; empty where unknown.
    pub class_counts: Vec<u32>,
    /// Whether to compare the float model in half precision, too ([`Executor::in_half`]).
    pub half: bool,
}

/// Called from any thread after each image with the number of images altogether.
pub type OnProgress<'a> = &'a (dyn Fn(usize) + Sync);

/// The comparison. Accuracies and agreements are in percent, ratios in decibels, shares of images sum to 1.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Routed results of both sides, agreement, and signal-to-noise ratio of the mean logits of all experts.
    #[serde(flatten)]
    pub routed: VerifyReport,
    /// Change of the mean number of experts from float to int8, in percent of the float side's.
    pub experts_change_percent: Option<f64>,
    /// Results with a fixed number of experts and no routing, 1 first.
    pub fixed: Vec<Fixed>,
    /// Number of images that the layers were compared on.
    pub layers_images: usize,
    /// Whether accuracies of class groups could be given; they need training counts.
    pub groups_known: bool,
    /// Convolution kernel that ran.
    pub kernel: &'static str,
    /// Whether it read a copy of the weights in its own layout, because this machine has no fast kernel for the artifact's.
    pub repacked: bool,
    /// How experts are combined, on both sides.
    pub combiner: String,
    /// What routers decide by, on both sides; none without routers.
    pub routers: Vec<String>,
    /// How far each router's score is from the float model's, as root mean square over the images that have one on both
    /// sides, in the score's own units: those of the threshold. Every image is judged by every router here.
    pub score_errors: Vec<Option<f64>>,
    /// What half precision makes of the float model, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half: Option<Half>,
}

/// The float model in half precision beside itself in single precision; figures as in [`Report`].
#[derive(Clone, Debug, Serialize)]
pub struct Half {
    /// Routed results.
    #[serde(flatten)]
    pub score: ScoreReport,
    /// Agreement with single precision.
    pub agreement: AgreementReport,
    /// Change of the mean number of experts, in percent of single precision's.
    pub experts_change_percent: Option<f64>,
    /// Signal-to-noise ratio of the mean logits of all experts.
    pub sqnr_db: Option<f64>,
    /// How far each router's score is off, as root mean square.
    pub score_errors: Vec<Option<f64>>,
}

/// Results with a fixed number of experts.
#[derive(Clone, Debug, Serialize)]
pub struct Fixed {
    /// Number of experts.
    pub experts: usize,
    /// Accuracy of the float model, percent.
    pub float_top1: f64,
    /// Accuracy of the artifact, percent.
    pub int8_top1: f64,
    /// Images with the same predicted class, percent.
    pub agreement: f64,
    /// Signal-to-noise ratio of the mean logits.
    pub sqnr_db: Option<f64>,
}

/// Compares `model` with the `network` that it was built from on the images of `data`.
///
/// # Errors
/// If the artifact was built from another network, the data set belongs to another model, or an image cannot be read.
pub fn verify(
    model: Model<'_>,
    network: &Network,
    data: &DataSet,
    settings: &Settings,
    progress: OnProgress<'_>,
) -> Result<Report> {
    check_same_model(model, network)?;
    data.check_classes(model.classes())?;
    let counts = class_counts(model, &settings.class_counts)?;
    let images = choose(data, settings.limit)?;
    let executor = Executor::new(network)?;
    let half = if settings.half { Some(Executor::in_half(network)?) } else { None };
    let native = Native::of(model)?;
    let job = Job { model: native.checked()?, executor: &executor, half: half.as_ref(), data, images: &images };
    let records = job.run(progress)?;
    let mut report = Report { repacked: native.repacked(), ..job.summarise(&records, counts.as_deref()) };
    if counts.is_none() {
        let half = report.half.as_mut().map(|half| &mut half.score);
        for side in [&mut report.routed.float, &mut report.routed.int8].into_iter().chain(half) {
            (side.many, side.medium, side.few) = (None, None, None);
        }
    }
    Ok(report)
}

/// Checks that the artifact was built from this very network.
///
/// # Errors
/// Says what differs and how to go on.
pub fn check_same_model(model: Model<'_>, network: &Network) -> Result<()> {
    let found = fingerprint(network);
    ensure!(
        model.fingerprint() == found,
        "the artifact was not built from this model: it carries the fingerprint {} of a {} with {} experts, the model \
         is a {} with {} experts and fingerprint {found}; build the artifact again, name the right model, or repeat the \
         options and the ride.toml that it was built with (--combiner, --router, --logit-adjustment)",
        model.fingerprint(),
        model.arch(),
        model.experts(),
        network.arch,
        network.experts.len(),
    );
    Ok(())
}

/// Training counts of the artifact, else the ones given; `None` where unknown.
///
/// # Errors
/// If the ones given are of another number of classes.
pub fn class_counts(model: Model<'_>, given: &[u32]) -> Result<Option<Vec<u32>>> {
    let own: Vec<u32> = (0..model.classes()).map(|class| model.train_count(class)).collect();
    if own.iter().any(|&count| count > 0) {
        return Ok(Some(own));
    }
    ensure!(
        given.is_empty() || given.len() == model.classes(),
        "there are training counts for {} classes, but the artifact has {}",
        given.len(),
        model.classes()
    );
    Ok((!given.is_empty()).then(|| given.to_vec()))
}

/// Indices of the images to verify.
pub(crate) fn choose(data: &DataSet, limit: Option<usize>) -> Result<Vec<usize>> {
    let count = limit.unwrap_or(data.len()).min(data.len());
    ensure!(count > 0, "no images are left to verify; the limit must be at least 1");
    let spread = data.format() == Format::Folder;
    Ok((0..count).map(|i| if spread { i * data.len() / count } else { i }).collect())
}

/// What one image came to.
struct Record {
    label: usize,
    float: Outcome,
    int8: Outcome,
    /// Classes and logits of both sides with 1, 2, ... experts.
    fixed: Vec<FixedRecord>,
    /// Difference of each router's scores; not a number where a side has none.
    scores: Vec<f64>,
    /// One for each operation; empty where layers were not compared.
    layers: Vec<Sqnr>,
    half: Option<HalfRecord>,
}

/// What half precision made of one image.
struct HalfRecord {
    outcome: Outcome,
    logits: Sqnr,
    /// Difference of each router's scores.
    scores: Vec<f64>,
}

impl HalfRecord {
    fn of(half: &Forward, float: &Forward) -> Self {
        let experts = half.routed();
        let mut logits = Sqnr::default();
        logits.add(&float.mean_logits, &half.mean_logits);
        let scores = half.scores.iter().zip(&float.scores);
        HalfRecord {
            outcome: Outcome { class: reference::argmax(&half.mean_of(experts)), experts },
            logits,
            scores: scores.map(|(half, float)| f64::from(*half) - f64::from(*float)).collect(),
        }
    }
}

#[derive(Clone, Copy)]
struct FixedRecord {
    float: usize,
    int8: usize,
    logits: Sqnr,
}

struct Job<'j> {
    model: Model<'j>,
    executor: &'j Executor,
    half: Option<&'j Executor>,
    data: &'j DataSet,
    images: &'j [usize],
}

/// What one thread works with besides its session.
struct Worker {
    scratch: Scratch,
    values: Values,
}

impl Job<'_> {
    /// One record for each image, in their order.
    fn run(&self, progress: OnProgress<'_>) -> Result<Vec<Record>> {
        artifact_file::check_arena(self.model)?;
        let worker = || Worker { scratch: Scratch::default(), values: Values::new(self.model) };
        let record = |session: &mut Session<'_, '_>, worker: &mut Worker, place: usize| -> Result<Record> {
            let record = self.image(session, worker, place)?;
            progress(self.images.len());
            Ok(record)
        };
        Batch::new(self.model, rayon::current_num_threads()).run(self.images.len(), worker, record)
    }

    /// Runs both sides on the image in this place.
    fn image(&self, session: &mut Session<'_, '_>, worker: &mut Worker, place: usize) -> Result<Record> {
        let (index, with_layers) = (self.images[place], self.with_layers(place));
        let pixels = self.data.pixels(index)?;
        let observe = with_layers.then_some(&mut worker.values as &mut dyn Observe);
        let image = Image::Pixels(&pixels);
        let float = self.executor.forward(image, reference::Policy::All, &mut worker.scratch, observe)?;
        let label = self.data.label(index) as usize;
        let name = || format!("cannot run {}", self.data.record_name(index));
        let mut record = run_int8(session, &pixels, &float, label).with_context(name)?;
        if with_layers {
            worker.values.add_experts(&float);
            let mut probe = Compare { values: &worker.values, layers: Vec::new(), buffer: Vec::new() };
            session.classify_probed(&pixels, Policy::All, &mut probe).with_context(name)?;
            record.layers = probe.layers;
        }
        if let Some(half) = self.half {
            let half = half.forward(image, reference::Policy::All, &mut worker.scratch, None)?;
            record.half = Some(HalfRecord::of(&half, &float));
        }
        Ok(record)
    }

    /// Whether the layers are compared on the image in this place: on [`LAYER_IMAGES`], spread evenly.
    fn with_layers(&self, place: usize) -> bool {
        let (all, some) = (self.images.len(), LAYER_IMAGES.min(self.images.len()));
        place * some / all != (place + 1) * some / all
    }

    fn summarise(&self, records: &[Record], counts: Option<&[u32]>) -> Report {
        let experts = self.model.experts();
        let groups = ClassGroups::new(counts.unwrap_or_default().to_vec());
        let mut float = Score::new(groups.clone(), experts);
        let mut int8 = Score::new(groups.clone(), experts);
        let routers = if self.model.routed() { experts - 1 } else { 0 };
        let mut agreement = Agreement::new(routers);
        let mut fixed = vec![FixedSum::default(); experts];
        let mut layers = vec![Sqnr::default(); layer_names(self.model).len()];
        for record in records {
            float.add(record.label, record.float);
            int8.add(record.label, record.int8);
            agreement.add(record.float, record.int8);
            fixed.iter_mut().zip(&record.fixed).for_each(|(sum, one)| sum.add(record.label, one));
            layers.iter_mut().zip(&record.layers).for_each(|(sum, one)| sum.merge(one));
        }
        let layers = layer_names(self.model).into_iter().zip(&layers);
        let (float, int8) = (float.report(), int8.report());
        Report {
            experts_change_percent: experts_change(&float, &int8),
            fixed: (1..).zip(&fixed).map(|(n, sum)| sum.report(n, records.len())).collect(),
            layers_images: records.iter().filter(|r| !r.layers.is_empty()).count(),
            groups_known: counts.is_some(),
            kernel: ride_runtime::kernels::best(self.model.layout()).map_or("", |b| b.conv.name),
            repacked: false,
            combiner: crate::inspect::combiner(self.model),
            routers: crate::inspect::rules(self.model),
            score_errors: score_errors(routers, records.iter().map(|r| &*r.scores)),
            half: self.half.map(|_| summarise_half(records, Score::new(groups, experts), &float, routers)),
            routed: VerifyReport {
                images: records.len() as u64,
                float,
                int8,
                agreement: agreement.report(),
                sqnr_db: fixed.last().and_then(|sum| sum.logits.db()),
                layers: layers.map(|(name, sum)| LayerSqnr { name, sqnr_db: sum.db() }).collect(),
            },
        }
    }
}

/// Counts what half precision made of the images into `score`; `float` is single precision's.
fn summarise_half(records: &[Record], mut score: Score, float: &ScoreReport, routers: usize) -> Half {
    let (mut agreement, mut logits) = (Agreement::new(routers), Sqnr::default());
    for (record, half) in records.iter().filter_map(|record| Some((record, record.half.as_ref()?))) {
        score.add(record.label, half.outcome);
        agreement.add(record.float, half.outcome);
        logits.merge(&half.logits);
    }
    let score = score.report();
    let halves = records.iter().filter_map(|record| record.half.as_ref());
    Half {
        experts_change_percent: experts_change(float, &score),
        score,
        agreement: agreement.report(),
        sqnr_db: logits.db(),
        score_errors: score_errors(routers, halves.map(|half| &*half.scores)),
    }
}

/// Root mean square of the differences of each router's scores; `images` has them for each image.
fn score_errors<'r>(routers: usize, images: impl Iterator<Item = &'r [f64]> + Clone) -> Vec<Option<f64>> {
    let error = |n: usize| {
        let squares = images.clone().filter_map(|scores| scores.get(n).map(|d| d * d).filter(|d| d.is_finite()));
        let (count, sum) = squares.fold((0u32, 0.0), |(count, sum), square| (count + 1, sum + square));
        (count > 0).then(|| (sum / f64::from(count)).sqrt())
    };
    (0..routers).map(error).collect()
}

/// Change of the mean number of experts, in percent of the first side's.
fn experts_change(float: &ScoreReport, other: &ScoreReport) -> Option<f64> {
    Some(100.0 * (other.mean_experts? / float.mean_experts? - 1.0))
}

/// Sums over images with a fixed number of experts.
#[derive(Clone, Default)]
struct FixedSum {
    float: u64,
    int8: u64,
    same: u64,
    logits: Sqnr,
}

impl FixedSum {
    fn add(&mut self, label: usize, one: &FixedRecord) {
        self.float += u64::from(one.float == label);
        self.int8 += u64::from(one.int8 == label);
        self.same += u64::from(one.float == one.int8);
        self.logits.merge(&one.logits);
    }

    fn report(&self, experts: usize, images: usize) -> Fixed {
        let percent = |n: u64| 100.0 * n as f64 / images as f64;
        Fixed {
            experts,
            float_top1: percent(self.float),
            int8_top1: percent(self.int8),
            agreement: percent(self.same),
            sqnr_db: self.logits.db(),
        }
    }
}

/// Runs all experts step by step: the first stop that a router asks for is the routed result.
fn run_int8(session: &mut Session<'_, '_>, pixels: &[u8], float: &Forward, label: usize) -> Result<Record> {
    session.start(pixels)?;
    let (mut routed, mut fixed, mut scores) = (None, Vec::new(), Vec::new());
    for n in 1..=session.model().experts() {
        let progress = session.step()?;
        let outcome = session.outcome()?;
        let both = progress.score.zip(float.scores.get(n - 1));
        scores.extend(both.map(|(int8, float)| f64::from(int8) - f64::from(*float)));
        if !progress.proceed && routed.is_none() {
            routed = Some(Outcome { class: outcome.class, experts: n });
        }
        let reference = float.mean_of(n);
        let mut logits = Sqnr::default();
        logits.add(&reference, outcome.logits);
        fixed.push(FixedRecord { float: reference::argmax(&reference), int8: outcome.class, logits });
    }
    let used = float.routed();
    Ok(Record {
        label,
        float: Outcome { class: fixed[used - 1].float, experts: used },
        int8: routed.context("the last expert does not end the sample")?,
        fixed,
        scores,
        layers: Vec::new(),
        half: None,
    })
}
