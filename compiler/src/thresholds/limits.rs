//! Which point of a front is shipped, and how well such a choice carries over to other images.

use anyhow::{Result, ensure};
use serde::Serialize;

use super::front::{Objective, front};
use super::observations::{Observations, Point};

/// What a point must keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Limits {
    /// Mean number of experts at most.
    pub max_experts: Option<f64>,
    /// Expected latency at most, in milliseconds.
    pub max_latency_ms: Option<f64>,
    /// Points of accuracy that may be lost to running all experts.
    pub max_drop: Option<f64>,
    /// Points of few-shot accuracy that may be lost to running all experts.
    pub max_few_drop: Option<f64>,
}

/// What thresholds chosen on one half of the images come to on the other, both ways added up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldOut {
    /// Accuracy, percent.
    pub top1: f64,
    /// Few-shot accuracy, percent.
    pub few: Option<f64>,
    /// Mean number of experts.
    pub mean_experts: f64,
}

impl Limits {
    /// Whether anything is asked for.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Checks that the limits make sense for these images.
    ///
    /// # Errors
    /// Names the option.
    pub fn check(&self, observations: &Observations, latency_ms: Option<&[f64]>) -> Result<()> {
        let experts = observations.experts();
        if let Some(limit) = self.max_experts {
            ensure!(
                (1.0..=experts as f64).contains(&limit),
                "--max-experts {limit}: the mean number of experts lies between 1 and {experts}"
            );
        }
        if self.max_latency_ms.is_some() {
            ensure!(
                latency_ms.is_some(),
                "--max-latency: the latency of each number of experts is not known; name a target that has a latency model \
                 (--target, --clock), or pass measured ones with --latency"
            );
        }
        for (name, limit) in [("--max-drop", self.max_drop), ("--max-few-drop", self.max_few_drop)] {
            let good = limit.is_none_or(|limit| limit.is_finite() && limit >= 0.0);
            ensure!(good, "{name} is a number of percentage points, 0 or more");
        }
        let few = observations.images.iter().any(|image| observations.few(image));
        ensure!(
            self.max_few_drop.is_none() || few,
            "--max-few-drop: no image is known to be of a few-shot class; it takes training counts (--class-counts) and \
             images of classes with fewer than 20"
        );
        Ok(())
    }

    /// Few-shot accuracy that a point must have, percent.
    pub fn min_few(&self, observations: &Observations) -> Option<f64> {
        let drop = self.max_few_drop?;
        Some(observations.fixed(observations.experts(), None).score.few? - drop)
    }

    /// The point to ship: the best within limits of cost, or else the cheapest that loses no more than it may. `None` if
    /// nothing keeps the limits, or none are given.
    pub fn choose<'p>(&self, points: &'p [Point], all: &Point, objective: Objective) -> Option<&'p Point> {
        let within = |limit: Option<f64>, value: f64| limit.is_none_or(|limit| value <= limit + 1e-9);
        let kept = points.iter().filter(|point| {
            within(self.max_experts, point.experts())
                && within(self.max_latency_ms, point.latency_ms.unwrap_or(0.0))
                && within(self.max_drop, all.top1() - point.top1())
                && within(self.max_few_drop, all.score.few.unwrap_or(0.0) - point.score.few.unwrap_or(0.0))
        });
        if self.max_experts.is_some() || self.max_latency_ms.is_some() {
            // Of equally good points the first, which is the cheapest.
            kept.rev().max_by(|a, b| objective.of(a).total_cmp(&objective.of(b)))
        } else if self.any() {
            kept.min_by(|a, b| a.experts().total_cmp(&b.experts()))
        } else {
            None
        }
    }
}

/// Chooses on each half of the images and judges on the other; `None` where either half leaves no choice.
pub fn held_out(
    observations: &Observations,
    limits: &Limits,
    objective: Objective,
    latency_ms: Option<&[f64]>,
) -> Option<HeldOut> {
    // Every other image of each class, so that both halves have all of them.
    let mut seen = vec![0usize; observations.by_class().len()];
    let side: Vec<bool> = observations
        .images
        .iter()
        .map(|image| {
            seen[image.label] += 1;
            seen[image.label].is_multiple_of(2)
        })
        .collect();
    let halves = [observations.subset(|n| side[n]), observations.subset(|n| !side[n])];
    if halves.iter().any(|half| half.images.is_empty()) {
        return None;
    }
    let (mut right, mut experts, mut few, mut rare) = (0usize, 0usize, 0usize, 0usize);
    for (mine, other) in [(&halves[0], &halves[1]), (&halves[1], &halves[0])] {
        let points = front(mine, objective, limits.min_few(mine), latency_ms);
        let all = mine.fixed(mine.experts(), latency_ms);
        let chosen = limits.choose(&points, &all, objective)?;
        for image in &other.images {
            let used = image.used(&other.scales, &chosen.thresholds);
            let good = usize::from(image.right(used));
            (right, experts) = (right + good, experts + used);
            if other.few(image) {
                (few, rare) = (few + good, rare + 1);
            }
        }
    }
    let images = observations.images.len() as f64;
    Some(HeldOut {
        top1: 100.0 * right as f64 / images,
        few: (rare > 0).then(|| 100.0 * few as f64 / rare as f64),
        mean_experts: experts as f64 / images,
    })
}
