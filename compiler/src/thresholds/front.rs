//! The Pareto front of accuracy against the mean number of experts.
//!
//! *One or two routers*: every combination of decisions that thresholds can bring about is looked at, so the front is exact
//! for these images (with more than [`MAX_CUTS`](super::axis::MAX_CUTS) distinct scores the first router's are thinned out
//! evenly). For each threshold of the first router, the second one's images are walked through once in the order of their
//! scores, which takes `images²` small steps altogether.
//!
//! *More routers*: for a series of prices of an expert, `right - price * experts` is raised one router after the other, each
//! exactly, until nothing changes. That finds the points on the convex hull or near it, and is not sure to find them all.

use serde::Serialize;

use super::axis::Axis;
use super::observations::{Observation, Observations, Point};

/// Routers up to which the front is exact.
pub const EXACT_ROUTERS: usize = 2;
/// Prices that are tried with more routers, and rounds for each.
const PRICES: usize = 64;
const ROUNDS: usize = 16;

/// What is to be high.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// Accuracy over all images.
    #[default]
    Top1,
    /// Mean of the classes' accuracies: the same where each class has as many images, and fair to rare classes where not.
    ClassMean,
}

impl Objective {
    /// The value of a point, percent.
    pub fn of(self, point: &Point) -> f64 {
        match self {
            Objective::Top1 => point.top1(),
            Objective::ClassMean => point.class_mean,
        }
    }
}

/// Points of which none is beaten by another, the cheapest first. With `min_few`, only points at which that share (percent) of
/// the few-shot images is right.
///
/// # Panics
/// If there are no images or no routers.
pub fn front(
    observations: &Observations,
    objective: Objective,
    min_few: Option<f64>,
    latency_ms: Option<&[f64]>,
) -> Vec<Point> {
    let table = Table::new(observations, objective);
    let axes: Vec<Axis> = (0..observations.scales.len()).map(|router| Axis::new(observations, router)).collect();
    let least_few = min_few.map_or(0, |percent| (percent / 100.0 * table.few_images as f64 - 1e-9).ceil() as i64);
    let mut best = Best { found: vec![None; observations.images.len() * axes.len() + 1], least_few };
    match &axes[..] {
        [first] => sweep(&table, first, None, &mut best),
        [first, second] => sweep(&table, first, Some(second), &mut best),
        more => ascend(observations, &table, more, &mut best),
    }
    let mut points: Vec<Point> = Vec::new();
    let mut value = f64::NEG_INFINITY;
    for found in best.found.iter().flatten() {
        if found.tally.value > value + 1e-12 {
            value = found.tally.value;
            points.push(observations.evaluate(&found.thresholds(&axes), latency_ms));
        }
    }
    points
}

/// What counts about an image, ready to be added up.
struct Table {
    experts: usize,
    /// `[images][experts]`: its share of the objective if it is right with so many experts, else 0.
    value: Vec<f64>,
    /// `[images][experts]`: 1 for a few-shot image that is right.
    few: Vec<u8>,
    few_images: usize,
}

/// Sums over images.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// The objective.
    value: f64,
    /// Few-shot images that are right.
    few: i64,
    /// Experts beyond the first of each image.
    extra: usize,
}

/// The best point of one cost.
#[derive(Clone, Debug)]
struct Found {
    tally: Tally,
    /// Index of each axis' cut.
    cuts: Vec<u32>,
}

/// The best point of every cost so far; the index is [`Tally::extra`].
struct Best {
    found: Vec<Option<Found>>,
    least_few: i64,
}

impl Found {
    fn thresholds(&self, axes: &[Axis]) -> Vec<f32> {
        self.cuts.iter().zip(axes).map(|(&cut, axis)| axis.cuts[cut as usize].threshold).collect()
    }
}

impl Best {
    fn offer(&mut self, tally: Tally, cuts: &[usize]) {
        if tally.few < self.least_few {
            return;
        }
        let place = &mut self.found[tally.extra];
        // Sums in another order may differ in their last bits: that is no improvement.
        if place.as_ref().is_none_or(|found| tally.value > found.tally.value + 1e-12) {
            *place = Some(Found { tally, cuts: cuts.iter().map(|&cut| cut as u32).collect() });
        }
    }
}

impl Table {
    fn new(observations: &Observations, objective: Objective) -> Self {
        let experts = observations.experts();
        let sizes = observations.by_class();
        let classes = sizes.iter().filter(|size| **size > 0).count().max(1) as f64;
        let weight = |image: &Observation| match objective {
            Objective::Top1 => 1.0 / observations.images.len() as f64,
            Objective::ClassMean => 1.0 / (classes * sizes[image.label] as f64),
        };
        let (mut value, mut few) = (Vec::new(), Vec::new());
        for image in &observations.images {
            let (weight, rare) = (weight(image), observations.few(image));
            for n in 1..=experts {
                value.push(if image.right(n) { weight } else { 0.0 });
                few.push(u8::from(rare && image.right(n)));
            }
        }
        let few_images = observations.images.iter().filter(|image| observations.few(image)).count();
        Self { experts, value, few, few_images }
    }

    /// Adds what changes when an image goes from `from` to `to` experts (counted from 0).
    fn step(&self, tally: &mut Tally, image: u32, from: usize, to: usize) {
        let at = image as usize * self.experts;
        tally.value += self.value[at + to] - self.value[at + from];
        tally.few += i64::from(self.few[at + to]) - i64::from(self.few[at + from]);
        tally.extra = tally.extra + to - from;
    }

    /// Every image with one expert.
    fn one_each(&self) -> Tally {
        let first = |n: usize| n * self.experts;
        let images = self.value.len() / self.experts;
        Tally {
            value: (0..images).map(|n| self.value[first(n)]).sum(),
            few: (0..images).map(|n| i64::from(self.few[first(n)])).sum(),
            extra: 0,
        }
    }
}

/// Every pair of cuts.
fn sweep(table: &Table, first: &Axis, second: Option<&Axis>, best: &mut Best) {
    let mut base = table.one_each();
    let mut rank = vec![0; first.order.len()];
    if let Some(second) = second {
        second.order.iter().enumerate().for_each(|(place, &image)| rank[image as usize] = place);
    }
    let mut reached = vec![false; first.order.len()];
    let mut done = 0;
    for (n, cut) in first.cuts.iter().enumerate() {
        for &image in &first.order[done..cut.proceed] {
            table.step(&mut base, image, 0, 1);
            reached[rank[image as usize]] = true;
        }
        done = cut.proceed;
        let Some(second) = second else {
            best.offer(base, &[n]);
            continue;
        };
        let (mut tally, mut from) = (base, 0);
        for (m, cut) in second.cuts.iter().enumerate() {
            let passed = from..cut.proceed;
            for (&image, _) in
                second.order[passed.clone()].iter().zip(&reached[passed]).filter(|(_, reached)| **reached)
            {
                table.step(&mut tally, image, 1, 2);
            }
            from = cut.proceed;
            best.offer(tally, &[n, m]);
        }
    }
}

/// One router after the other, for falling prices of an expert.
fn ascend(observations: &Observations, table: &Table, axes: &[Axis], best: &mut Best) {
    let ranks: Vec<Vec<usize>> = axes.iter().map(ranks).collect();
    let open: Vec<usize> = axes.iter().map(|axis| axis.cuts.len() - 1).collect();
    let mut offer = |cuts: &[usize]| {
        let tally = tally_of(observations, table, axes, &ranks, cuts);
        best.offer(tally, cuts);
    };
    for fixed in 0..=axes.len() {
        let cuts: Vec<usize> = open.iter().enumerate().map(|(r, &last)| if r < fixed { last } else { 0 }).collect();
        offer(&cuts);
    }
    let mut cuts = open.clone();
    for step in 0..PRICES {
        // From free to dearer than any expert is worth: each expert brings at most 1.
        let price = if step == 0 { 0.0 } else { 1e-4 * 1e4_f64.powf(step as f64 / (PRICES - 1) as f64) };
        for start in [cuts.clone(), open.clone()] {
            let mut now = start;
            for _ in 0..ROUNDS {
                let before = now.clone();
                for router in (0..axes.len()).rev() {
                    now[router] = best_cut(table, axes, &ranks, &now, router, price);
                    offer(&now);
                }
                if now == before {
                    break;
                }
            }
            cuts = now;
        }
    }
}

/// Place of each image on an axis.
fn ranks(axis: &Axis) -> Vec<usize> {
    let mut ranks = vec![0; axis.order.len()];
    axis.order.iter().enumerate().for_each(|(place, &image)| ranks[image as usize] = place);
    ranks
}

/// Experts (counted from 0) that an image uses from router `first` on.
fn stop(axes: &[Axis], ranks: &[Vec<usize>], cuts: &[usize], image: usize, first: usize) -> usize {
    let goes_on = |&r: &usize| ranks[r][image] < axes[r].cuts[cuts[r]].proceed;
    first + (first..axes.len()).take_while(goes_on).count()
}

fn tally_of(observations: &Observations, table: &Table, axes: &[Axis], ranks: &[Vec<usize>], cuts: &[usize]) -> Tally {
    let mut tally = table.one_each();
    for image in 0..observations.images.len() {
        table.step(&mut tally, image as u32, 0, stop(axes, ranks, cuts, image, 0));
    }
    tally
}

/// The cut of one router that is worth most at this price, the others staying as they are.
fn best_cut(table: &Table, axes: &[Axis], ranks: &[Vec<usize>], cuts: &[usize], router: usize, price: f64) -> usize {
    let images = axes[router].order.len() as f64;
    let (mut gain, mut from) = (0.0, 0);
    let (mut most, mut chosen) = (f64::NEG_INFINITY, 0);
    for (n, cut) in axes[router].cuts.iter().enumerate() {
        for &image in &axes[router].order[from..cut.proceed] {
            if stop(axes, ranks, cuts, image as usize, 0) < router {
                continue;
            }
            let mut change = Tally::default();
            let to = stop(axes, ranks, cuts, image as usize, router + 1);
            table.step(&mut change, image, router, to);
            gain += change.value - price * change.extra as f64 / images;
        }
        from = cut.proceed;
        if gain > most + 1e-12 {
            (most, chosen) = (gain, n);
        }
    }
    chosen
}
