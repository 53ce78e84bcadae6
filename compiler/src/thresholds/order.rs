//! Which experts, and in which order: who runs first decides what most images see.
//!
//! The logits of all experts are kept, so that another order or a subset is a matter of adding them up. Orders are compared
//! by what confidence of the mean logits makes of them, because trained routers know one order only: the one that they were
//! trained for.

use anyhow::{Result, ensure};
use ride_calibrate::data::DataSet;
use ride_runtime::op::Criterion;
use serde::Serialize;

use super::collect::forwards;
use super::front::{Objective, front};
use super::limits::Limits;
use super::observations::{Observation, Observations};
use super::scale::{Measure, Scale};
use crate::network::{Network, Routing};
use crate::reference::{argmax, confidence};
use crate::verify::OnProgress;

/// Experts up to which all orders of all subsets are compared (64 of them); beyond, each expert in front is followed by
/// whichever expert helps most.
const ALL_ORDERS: usize = 4;
/// Most bytes of logits that are kept.
const MAX_BYTES: usize = 2 << 30;

/// Experts in an order, and what that order is worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ordered {
    /// Experts by their number in the model, the first to run first.
    pub order: Vec<usize>,
    /// Accuracy of the first 1, 2, ... of them without routing, percent.
    pub fixed: Vec<f64>,
    /// What orders are compared by, percent: the objective at `max_experts` on average, or without such a limit its mean over
    /// all budgets from one expert to all of the model's.
    pub value: f64,
}

/// What an image's experts say: the label and each expert's logits.
type Said = (usize, Vec<Vec<f32>>);

/// All orders that are worth comparing, the best first. Scores are those of `criterion`.
///
/// # Errors
/// If the model combines experts by something else than their mean, has one expert, or the logits do not fit into memory; as
/// [`super::of_network`] otherwise.
pub fn orders(
    network: &Network,
    data: &DataSet,
    limit: Option<usize>,
    criterion: Criterion,
    (limits, objective): (&Limits, Objective),
    progress: OnProgress<'_>,
) -> Result<Vec<Ordered>> {
    let experts = network.experts.len();
    ensure!(experts > 1, "the model has one expert, so there is no order to search");
    let plain = network.experts.iter().enumerate().all(|(n, expert)| expert.head.divisor == (n + 1) as f32);
    ensure!(plain, "orders are compared for the plain mean of experts; leave [combiner] (--combiner) out");
    let bytes = 4 * experts * network.classes * data.len().min(limit.unwrap_or(usize::MAX));
    ensure!(
        bytes <= MAX_BYTES,
        "the logits of all experts on these images take {bytes} bytes, and {MAX_BYTES} are kept; pass --limit"
    );
    let unrouted = Network { routing: Routing::None, ..network.clone() };
    let said = forwards(&unrouted, data, limit, progress, |label, forward| -> Said {
        (label, forward.experts.iter().map(|expert| expert.logits.clone()).collect())
    })?;
    let scale = Scale::new(Measure::Confidence(criterion), network.classes);
    let mut found: Vec<Ordered> = sequences(&said, experts)
        .into_iter()
        .map(|order| {
            let observations = observe(&said, &order, criterion, scale);
            let fixed = (1..=order.len()).map(|n| observations.fixed(n, None).top1()).collect();
            let value = worth(&observations, experts, limits, objective);
            Ordered { order, fixed, value }
        })
        .collect();
    found.sort_by(|a, b| b.value.total_cmp(&a.value).then(a.order.cmp(&b.order)));
    Ok(found)
}

/// The objective at the limit, or its mean over all budgets.
fn worth(observations: &Observations, experts: usize, limits: &Limits, objective: Objective) -> f64 {
    let alone = || vec![observations.fixed(1, None)];
    let points = if observations.scales.is_empty() { alone() } else { front(observations, objective, None, None) };
    // The front rises, so the last affordable point is the best.
    let at = |budget: f64| {
        points.iter().take_while(|p| p.experts() <= budget + 1e-9).last().map_or(0.0, |point| objective.of(point))
    };
    if let Some(budget) = limits.max_experts {
        return at(budget);
    }
    let steps = 10 * (experts - 1);
    (0..=steps).map(|n| at(1.0 + n as f64 / 10.0)).sum::<f64>() / (steps + 1) as f64
}

/// Orders to compare.
fn sequences(said: &[Said], experts: usize) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = Vec::new();
    let mut open: Vec<Vec<usize>> = (0..experts).map(|first| vec![first]).collect();
    while let Some(order) = open.pop() {
        let left: Vec<usize> = (0..experts).filter(|expert| !order.contains(expert)).collect();
        let with = |&expert: &usize| [&order[..], &[expert]].concat();
        if experts <= ALL_ORDERS {
            open.extend(left.iter().map(with));
        } else {
            // Of equals the first.
            open.extend(left.iter().map(with).rev().max_by_key(|order| right(said, order)));
        }
        all.push(order);
    }
    all
}

/// Images that the mean of these experts gets right.
fn right(said: &[Said], order: &[usize]) -> usize {
    said.iter().filter(|(label, logits)| argmax(&mean(logits, order)) == *label).count()
}

/// Mean logits of some experts, added up in their order as the float reference does.
fn mean(logits: &[Vec<f32>], order: &[usize]) -> Vec<f32> {
    let mut sums = vec![0.0f64; logits[0].len()];
    for &expert in order {
        sums.iter_mut().zip(&logits[expert]).for_each(|(sum, &logit)| *sum += f64::from(logit));
    }
    sums.iter().map(|sum| (sum / order.len() as f64) as f32).collect()
}

fn observe(said: &[Said], order: &[usize], criterion: Criterion, scale: Scale) -> Observations {
    let images = said.iter().map(|(label, logits)| {
        let means: Vec<Vec<f32>> = (1..=order.len()).map(|n| mean(logits, &order[..n])).collect();
        let scores = means[..order.len() - 1].iter().map(|mean| confidence(criterion, mean)).collect();
        Observation { label: *label, classes: means.iter().map(|mean| argmax(mean)).collect(), scores }
    });
    Observations { images: images.collect(), scales: vec![scale; order.len() - 1], counts: None }
}
