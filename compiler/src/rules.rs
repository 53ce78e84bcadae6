//! Applying [`Rules`] to a network: combiner, routers by confidence and logit adjustment.
//!
//! * **Combiner.** The answer of the first `n` experts is `Σ l[i] / n` (mean), `Σ l[i]` (sum) or `Σ w[i] l[i] / Σ w[i]`
//!   (weighted), sums over `i < n`. Weights become factors of the classifiers, so they cost nothing.
//! * **Routers** without trained layers look at the combined logits so far: see [`ride_runtime::confidence`].
//! * **Logit adjustment** (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, section 4.1) is for experts
//!   that were trained with plain cross-entropy, so that their logits follow the training set's class frequencies
//!   `prior[y]`: the class with the largest `l[y] - tau ln(prior[y])` is predicted. Experts that were trained with
//!   `l[y] + tau ln(prior[y])` inside the loss (balanced softmax, and so SADE, TADE and BalPoE) have learnt it already and
//!   need none. Each expert is adjusted before experts are combined, so an answer of few experts is adjusted as well.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ride_calibrate::groups::read_class_counts;
use ride_runtime::op::Criterion;

use crate::description::{
    AdjustmentTable, CombinerKind, CombinerTable, Counts, RouterKind, RouterTable, Rules, Values,
};
use crate::network::{Confidence, Network, Routing};

/// Changes `network` as the rules say. `counts` are the training images of each class where the rules do not give them,
/// empty if they are not known.
///
/// # Errors
/// Names the file, table and key and what is expected: wrong numbers of weights, thresholds or counts, values out of
/// range, rules that contradict the model's trained routers.
pub fn apply(rules: &Rules, network: &mut Network, counts: &[u32]) -> Result<()> {
    let changed = check_routers(rules, network)
        .and_then(|()| rules.adjustment.as_ref().map_or(Ok(()), |table| adjust(table, network, counts)))
        .and_then(|()| rules.combiner.as_ref().map_or(Ok(()), |table| combine(table, network)))
        .and_then(|()| rules.router.as_ref().map_or(Ok(()), |table| route(table, network)));
    match &rules.file {
        Some(file) => changed.with_context(|| format!("{} does not fit the model", file.display())),
        None => changed,
    }
}

/// Trained routers look at the mean of the logits as they were in training.
fn check_routers(rules: &Rules, network: &Network) -> Result<()> {
    let kept =
        rules.router.as_ref().and_then(|table| table.criterion).is_none_or(|kind| kind == RouterKind::Assignment);
    if !kept || !matches!(network.routing, Routing::Assignment(_)) {
        return Ok(());
    }
    let combined = rules.combiner.as_ref().is_some_and(|table| table.kind != CombinerKind::Mean);
    for (asked, table) in
        [(combined, "[combiner] (--combiner)"), (rules.adjustment.is_some(), "[logit_adjustment] (--logit-adjustment)")]
    {
        ensure!(
            !asked,
            "{table} changes the logits that the model's trained routers look at, and they were trained on the plain mean; \
             leave it out, or replace the routers with `[router] criterion` (--router)"
        );
    }
    Ok(())
}

fn combine(table: &CombinerTable, network: &mut Network) -> Result<()> {
    let experts = network.experts.len();
    let weights = match (table.kind, &table.weights) {
        (CombinerKind::Weighted, Some(weights)) => weights.clone(),
        (CombinerKind::Weighted, None) => {
            bail!("[combiner] weights is missing: a weighted mean needs {experts} numbers, one for each expert")
        }
        (_, Some(_)) => bail!("[combiner] weights belong to kind = \"weighted\"; leave them out or change the kind"),
        (_, None) => vec![1.0; experts],
    };
    ensure!(
        weights.len() == experts,
        "[combiner] weights has {} numbers, but the model has {experts} experts; expected one for each",
        weights.len()
    );
    let good = |weight: &&f32| weight.is_normal() && **weight > 0.0;
    if let Some(bad) = weights.iter().find(|weight| !good(weight)) {
        bail!("[combiner] weights has {bad}; a weight is a positive number, and only the ratios matter");
    }
    let mut sum = 0.0f64;
    for (expert, &weight) in network.experts.iter_mut().zip(&weights) {
        let head = &mut expert.head;
        sum += f64::from(weight);
        head.divisor = if table.kind == CombinerKind::Sum { 1.0 } else { sum as f32 };
        if weight != 1.0 {
            head.weight.iter_mut().chain(&mut head.bias).for_each(|value| *value *= weight);
        }
        let finite = head.divisor.is_finite() && head.weight.iter().chain(&head.bias).all(|value| value.is_finite());
        ensure!(
            finite,
            "[combiner] weights: {weight} takes logits beyond the range of f32; divide all weights by a number"
        );
    }
    Ok(())
}

fn route(table: &RouterTable, network: &mut Network) -> Result<()> {
    let Some(kind) = table.criterion else { return move_thresholds(table, network) };
    let criterion = match kind {
        RouterKind::Assignment => {
            ensure!(
                matches!(network.routing, Routing::Assignment(_)),
                "[router] criterion is \"assignment\", but the model has no trained routers; choose one of {}",
                measures()
            );
            return move_thresholds(table, network);
        }
        RouterKind::None => {
            ensure!(table.threshold.is_none(), "[router] threshold has no use with criterion = \"none\"; leave it out");
            network.routing = Routing::None;
            return Ok(());
        }
        RouterKind::MaxProbability => Criterion::MaxProbability,
        RouterKind::Margin => Criterion::Margin,
        RouterKind::Entropy => Criterion::Entropy,
    };
    let threshold = table.threshold.as_ref().with_context(|| {
        format!(
            "[router] threshold is missing: {} needs a number {} (--router-threshold)",
            criterion.name(),
            Range::of(criterion, network.classes)
        )
    })?;
    let thresholds = spread(threshold, network)?;
    let range = Range::of(criterion, network.classes);
    for &threshold in &thresholds {
        ensure!(
            range.has(threshold),
            "[router] threshold is {threshold}, but {} is a number {range}",
            criterion.name()
        );
    }
    let rule = |threshold| Confidence { criterion, threshold };
    network.routing = Routing::Confidence(thresholds.into_iter().map(rule).collect());
    Ok(())
}

/// Names of the criteria that need no training.
fn measures() -> String {
    Criterion::ALL.map(|criterion| format!("\"{}\"", criterion.name())).join(", ")
}

/// Other thresholds for the model's own routers.
fn move_thresholds(table: &RouterTable, network: &mut Network) -> Result<()> {
    let Some(threshold) = &table.threshold else { return Ok(()) };
    ensure!(
        network.routing != Routing::None || network.experts.len() == 1,
        "[router] threshold: the model has no routers of its own; choose a criterion as well, one of {}",
        measures()
    );
    let thresholds = spread(threshold, network)?;
    ensure!(thresholds.iter().all(|t| t.is_finite()), "[router] threshold must be a finite number");
    match &mut network.routing {
        Routing::None => {}
        Routing::Assignment(routers) => routers.iter_mut().zip(thresholds).for_each(|(r, t)| r.threshold = t),
        Routing::Confidence(rules) => rules.iter_mut().zip(thresholds).for_each(|(r, t)| r.threshold = t),
    }
    Ok(())
}

fn spread(threshold: &Values<f32>, network: &Network) -> Result<Vec<f32>> {
    let routers = network.experts.len() - 1;
    ensure!(routers > 0, "[router]: the model has one expert, so there is nothing to route; leave the table out");
    threshold.spread(routers).map_err(|found| {
        anyhow::anyhow!(
            "[router] threshold has {found} numbers, but {} experts have {routers} routers between them; expected one for \
             all or one for each",
            network.experts.len()
        )
    })
}

/// Values that a criterion can take.
pub(crate) struct Range(f32, f32);

impl Range {
    pub(crate) fn of(criterion: Criterion, classes: usize) -> Self {
        match criterion {
            Criterion::MaxProbability => Range(0.0, 1.0),
            Criterion::Margin => Range(0.0, f32::MAX),
            Criterion::Entropy => Range(0.0, (classes as f32).ln()),
        }
    }

    /// Smallest and largest value.
    pub(crate) fn limits(&self) -> (f32, f32) {
        (self.0, self.1)
    }

    fn has(&self, value: f32) -> bool {
        (self.0..=self.1).contains(&value)
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.1 {
            f32::MAX => write!(f, "from {} on, in units of the logits", self.0),
            high => write!(f, "from {} to {high}", self.0),
        }
    }
}

fn adjust(table: &AdjustmentTable, network: &mut Network, known: &[u32]) -> Result<()> {
    let experts = network.experts.len();
    let taus = table.tau.spread(experts).map_err(|found| {
        anyhow::anyhow!(
            "[logit_adjustment] tau has {found} numbers, but the model has {experts} experts; expected one for all or one \
             for each"
        )
    })?;
    ensure!(taus.iter().all(|tau| tau.is_finite()), "[logit_adjustment] tau must be a finite number");
    let counts = counts(table, known, network.classes)?;
    let total: f64 = counts.iter().map(|&count| f64::from(count)).sum();
    for (expert, tau) in network.experts.iter_mut().zip(taus) {
        for (bias, &count) in expert.head.bias.iter_mut().zip(&counts) {
            *bias = (f64::from(*bias) - tau * (f64::from(count) / total).ln()) as f32;
        }
        ensure!(
            expert.head.bias.iter().all(|bias| bias.is_finite()),
            "[logit_adjustment] tau {tau} takes logits beyond the range of f32"
        );
    }
    Ok(())
}

/// Training images of each class, all positive.
fn counts(table: &AdjustmentTable, known: &[u32], classes: usize) -> Result<Vec<u32>> {
    let (counts, key) = match &table.counts {
        Some(Counts::List(list)) => (list.clone(), "[logit_adjustment] counts".to_owned()),
        Some(Counts::File(file)) => (read_counts(file)?, format!("[logit_adjustment] counts ({})", file.display())),
        None => (known.to_vec(), "the training counts".to_owned()),
    };
    ensure!(
        !counts.is_empty(),
        "[logit_adjustment]: the training images of each class are not known; give them as counts = [...], as a file with \
         counts = \"FILE\", or with --class-counts FILE"
    );
    ensure!(counts.len() == classes, "{key}: there are {} numbers for {classes} classes", counts.len());
    if let Some(class) = counts.iter().position(|&count| count == 0) {
        bail!("{key}: class {class} has no training images, so its logarithm is infinite; give it at least 1");
    }
    Ok(counts)
}

fn read_counts(file: &Path) -> Result<Vec<u32>> {
    read_class_counts(file).context("[logit_adjustment] counts")
}
