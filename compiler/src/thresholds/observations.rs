//! What all experts and routers said about each image, and what thresholds make of it.

use ride_calibrate::groups::{ClassGroups, Group};
use ride_calibrate::metrics::{Outcome, Score, ScoreReport};
use serde::Serialize;

use super::scale::Scale;

/// One image, run through all experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// The true class.
    pub label: usize,
    /// The class that the combined first `n` experts give, `n` from 1 on.
    pub classes: Vec<usize>,
    /// Score of each router.
    pub scores: Vec<f32>,
}

/// All images of a data set.
#[derive(Clone, Debug)]
pub struct Observations {
    /// In the order of the data set.
    pub images: Vec<Observation>,
    /// What the routers' scores mean; one for each expert but the last.
    pub scales: Vec<Scale>,
    /// Training images of each class; `None` if they are not known.
    pub counts: Option<Vec<u32>>,
}

/// An operating point: thresholds and what they come to on the images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// One for each router.
    pub thresholds: Vec<f32>,
    /// Accuracies in percent, shares of images by number of experts, mean number of experts.
    #[serde(flatten)]
    pub score: ScoreReport,
    /// Mean of the accuracies of the classes that occur, percent.
    pub class_mean: f64,
    /// Expected latency in milliseconds, where the latency of each number of experts is known.
    pub latency_ms: Option<f64>,
}

impl Observation {
    /// Number of experts that run with these thresholds.
    pub fn used(&self, scales: &[Scale], thresholds: &[f32]) -> usize {
        let asks = self.scores.iter().zip(scales).zip(thresholds);
        1 + asks.take_while(|((score, scale), threshold)| scale.proceeds(**score, **threshold)).count()
    }

    /// Whether the first `experts` experts are right.
    pub(super) fn right(&self, experts: usize) -> bool {
        self.classes[experts - 1] == self.label
    }
}

impl Observations {
    /// Number of experts.
    pub fn experts(&self) -> usize {
        self.scales.len() + 1
    }

    /// Whether an image belongs to a few-shot class; never where training counts are not known.
    pub(super) fn few(&self, image: &Observation) -> bool {
        let count = |counts: &Vec<u32>| counts.get(image.label).copied().unwrap_or(0);
        self.counts.as_ref().is_some_and(|counts| Group::of_count(count(counts)) == Group::FewShot)
    }

    /// Number of images of each class, as long as the largest label asks for.
    pub(super) fn by_class(&self) -> Vec<usize> {
        let mut sizes = Vec::new();
        for image in &self.images {
            if sizes.len() <= image.label {
                sizes.resize(image.label + 1, 0);
            }
            sizes[image.label] += 1;
        }
        sizes
    }

    /// What these thresholds come to; `latency_ms` of 1, 2, ... experts may be known.
    pub fn evaluate(&self, thresholds: &[f32], latency_ms: Option<&[f64]>) -> Point {
        self.count(thresholds.to_vec(), latency_ms, |image| image.used(&self.scales, thresholds))
    }

    /// What a fixed number of experts comes to.
    pub fn fixed(&self, experts: usize, latency_ms: Option<&[f64]>) -> Point {
        let threshold = |(n, scale): (usize, &Scale)| if n + 1 < experts { scale.open() } else { scale.closed() };
        let thresholds = self.scales.iter().enumerate().map(threshold).collect();
        self.count(thresholds, latency_ms, |_| experts)
    }

    fn count(&self, thresholds: Vec<f32>, latency_ms: Option<&[f64]>, used: impl Fn(&Observation) -> usize) -> Point {
        let mut score = Score::new(ClassGroups::new(self.counts.clone().unwrap_or_default()), self.experts());
        let sizes = self.by_class();
        let mut right = vec![0usize; sizes.len()];
        for image in &self.images {
            let experts = used(image);
            score.add(image.label, Outcome { class: image.classes[experts - 1], experts });
            right[image.label] += usize::from(image.right(experts));
        }
        let mut score = score.report();
        if self.counts.is_none() {
            (score.many, score.medium, score.few) = (None, None, None);
        }
        let accuracies = sizes.iter().zip(&right).filter(|(size, _)| **size > 0);
        let accuracies: Vec<f64> = accuracies.map(|(&size, &right)| right as f64 / size as f64).collect();
        let class_mean = 100.0 * accuracies.iter().sum::<f64>() / accuracies.len().max(1) as f64;
        let expected = |ms: &[f64]| score.experts.iter().zip(ms).map(|(share, ms)| share * ms).sum();
        let latency_ms = latency_ms.map(expected);
        Point { thresholds, score, class_mean, latency_ms }
    }

    /// Some of the images.
    pub(super) fn subset(&self, keep: impl Fn(usize) -> bool) -> Self {
        let images = self.images.iter().enumerate().filter(|(n, _)| keep(*n)).map(|(_, image)| image.clone());
        Self { images: images.collect(), scales: self.scales.clone(), counts: self.counts.clone() }
    }
}

impl Point {
    /// Mean number of experts.
    pub fn experts(&self) -> f64 {
        self.score.mean_experts.unwrap_or(0.0)
    }

    /// Accuracy over all images, percent.
    pub fn top1(&self) -> f64 {
        self.score.top1.unwrap_or(0.0)
    }
}
