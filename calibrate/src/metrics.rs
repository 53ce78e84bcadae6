//! Accuracy by class group, use of experts, agreement between two executions and signal-to-noise ratios.
//!
//! Everything accumulates image by image and merges, so that threads can each keep their own. Accuracies and
//! agreements are reported in percent, ratios in decibels; what has no images is `None` (`null` in JSON).

use serde::Serialize;

use crate::groups::{ClassGroups, Group};

/// One image's result on one side (float or int8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The predicted class.
    pub class: usize,
    /// Number of experts that ran, at least one.
    pub experts: usize,
}

/// Counts what one side does with a data set.
#[derive(Clone, Debug)]
pub struct Score {
    groups: ClassGroups,
    /// Images and correct predictions of each group, in the order of [`Group::ALL`].
    images: [u64; 3],
    correct: [u64; 3],
    /// Images that used 1, 2, ... experts.
    experts: Vec<u64>,
}

/// What [`Score`] comes to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreReport {
    /// Accuracy over all images, percent.
    pub top1: Option<f64>,
    /// Accuracy over the images of many-shot classes, percent.
    pub many: Option<f64>,
    /// Accuracy over the images of medium-shot classes, percent.
    pub medium: Option<f64>,
    /// Accuracy over the images of few-shot classes, percent.
    pub few: Option<f64>,
    /// Shares of the images that used 1, 2, ... experts; they sum to 1.
    pub experts: Vec<f64>,
    /// Mean number of experts.
    pub mean_experts: Option<f64>,
}

impl Score {
    /// Nothing counted yet, for a model with `experts` experts.
    pub fn new(groups: ClassGroups, experts: usize) -> Self {
        Self { groups, images: [0; 3], correct: [0; 3], experts: vec![0; experts] }
    }

    /// Counts one image of class `label`.
    pub fn add(&mut self, label: usize, outcome: Outcome) {
        let group = self.groups.group(label).index();
        self.images[group] += 1;
        self.correct[group] += u64::from(outcome.class == label);
        if outcome.experts > self.experts.len() {
            self.experts.resize(outcome.experts, 0);
        }
        if let Some(used) = outcome.experts.checked_sub(1) {
            self.experts[used] += 1;
        }
    }

    /// Adds what another thread counted.
    pub fn merge(&mut self, other: &Self) {
        for i in 0..3 {
            self.images[i] += other.images[i];
            self.correct[i] += other.correct[i];
        }
        add_counts(&mut self.experts, &other.experts);
    }

    /// Number of images counted.
    pub fn images(&self) -> u64 {
        self.images.iter().sum()
    }

    /// The figures.
    pub fn report(&self) -> ScoreReport {
        let group = |g: Group| percent(self.correct[g.index()], self.images[g.index()]);
        let routed: u64 = self.experts.iter().sum();
        let used: u64 = self.experts.iter().zip(1..).map(|(images, experts)| images * experts).sum();
        ScoreReport {
            top1: percent(self.correct.iter().sum(), self.images()),
            many: group(Group::ManyShot),
            medium: group(Group::MediumShot),
            few: group(Group::FewShot),
            experts: self.experts.iter().map(|&n| ratio(n, routed).unwrap_or(0.0)).collect(),
            mean_experts: ratio(used, routed),
        }
    }
}

/// Counts how often two sides agree.
#[derive(Clone, Debug)]
pub struct Agreement {
    images: u64,
    same_class: u64,
    same_experts: u64,
    /// Decisions of each router that both sides reach, and those in which they agree.
    reached: Vec<u64>,
    agreed: Vec<u64>,
}

/// What [`Agreement`] comes to, all in percent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgreementReport {
    /// Images with the same predicted class.
    pub top1: Option<f64>,
    /// Router decisions with the same outcome, over all routers, of those that both sides reach.
    pub route: Option<f64>,
    /// The same for each router alone. Every image reaches the first router, so its figure is over all images.
    pub routers: Vec<Option<f64>>,
    /// Images that use the same number of experts.
    pub same_experts: Option<f64>,
}

impl Agreement {
    /// Nothing counted yet, for a model with `routers` routers: one less than experts, or zero where all always run.
    pub fn new(routers: usize) -> Self {
        Self { images: 0, same_class: 0, same_experts: 0, reached: vec![0; routers], agreed: vec![0; routers] }
    }

    /// Counts one image. Router `r` is reached by a side that ran at least `r + 1` experts and says "continue" on a
    /// side that ran more.
    pub fn add(&mut self, a: Outcome, b: Outcome) {
        self.images += 1;
        self.same_class += u64::from(a.class == b.class);
        self.same_experts += u64::from(a.experts == b.experts);
        for router in 0..self.reached.len().min(a.experts.min(b.experts)) {
            self.reached[router] += 1;
            self.agreed[router] += u64::from((a.experts > router + 1) == (b.experts > router + 1));
        }
    }

    /// Adds what another thread counted.
    pub fn merge(&mut self, other: &Self) {
        self.images += other.images;
        self.same_class += other.same_class;
        self.same_experts += other.same_experts;
        add_counts(&mut self.reached, &other.reached);
        add_counts(&mut self.agreed, &other.agreed);
    }

    /// The figures.
    pub fn report(&self) -> AgreementReport {
        AgreementReport {
            top1: percent(self.same_class, self.images),
            route: percent(self.agreed.iter().sum(), self.reached.iter().sum()),
            routers: self
                .agreed
                .iter()
                .zip(&self.reached)
                .map(|(&agreed, &reached)| percent(agreed, reached))
                .collect(),
            same_experts: percent(self.same_experts, self.images),
        }
    }
}

/// Signal-to-quantization-noise ratio: `10 log10(sum ref^2 / sum (ref - q)^2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sqnr {
    signal: f64,
    noise: f64,
}

impl Sqnr {
    /// Adds a tensor and what became of it, in the same order of elements.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(&mut self, reference: &[f32], quantized: &[f32]) {
        assert_eq!(reference.len(), quantized.len(), "a tensor and its quantized form have the same length");
        for (&r, &q) in reference.iter().zip(quantized) {
            let (r, q) = (f64::from(r), f64::from(q));
            self.signal += r * r;
            self.noise += (r - q) * (r - q);
        }
    }

    /// Adds what another thread summed. The sums are floating point: merge in a fixed order where the last digit of a
    /// report matters.
    pub fn merge(&mut self, other: &Self) {
        self.signal += other.signal;
        self.noise += other.noise;
    }

    /// Decibels; `None` where there is no noise, no signal or a value was not finite.
    pub fn db(&self) -> Option<f64> {
        let db = 10.0 * (self.signal / self.noise).log10();
        db.is_finite().then_some(db)
    }
}

/// Signal-to-noise ratio of one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerSqnr {
    /// The layer's name.
    pub name: String,
    /// Decibels; see [`Sqnr::db`].
    pub sqnr_db: Option<f64>,
}

/// The report of `verify`: an int8 artifact beside the float model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerifyReport {
    /// Number of images.
    pub images: u64,
    /// The float model, routing included.
    pub float: ScoreReport,
    /// The artifact.
    pub int8: ScoreReport,
    /// How often the two agree.
    pub agreement: AgreementReport,
    /// Signal-to-noise ratio of the logits with all experts, decibels.
    pub sqnr_db: Option<f64>,
    /// Signal-to-noise ratio of each layer in execution order.
    pub layers: Vec<LayerSqnr>,
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| 100.0 * part as f64 / whole as f64)
}

/// Adds `from` to `to`, which grows where it is shorter.
fn add_counts(to: &mut Vec<u64>, from: &[u64]) {
    to.resize(to.len().max(from.len()), 0);
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(class: usize, experts: usize) -> Outcome {
        Outcome { class, experts }
    }

    /// Classes 0 (many), 1 (medium) and 2 (few).
    fn score() -> Score {
        Score::new(ClassGroups::new(vec![500, 50, 5]), 3)
    }

    #[test]
    fn accuracies_by_group_and_expert_shares() {
        let mut first = score();
        first.add(0, outcome(0, 1));
        first.add(0, outcome(2, 3));
        first.add(1, outcome(1, 3));
        let mut second = score();
        second.add(2, outcome(0, 2));
        first.merge(&second);
        let report = first.report();
        assert_eq!(
            (report.top1, report.many, report.medium, report.few),
            (Some(50.0), Some(50.0), Some(100.0), Some(0.0))
        );
        assert_eq!(report.experts, [0.25, 0.25, 0.5]);
        assert_eq!(report.mean_experts, Some(2.25));
        assert_eq!(first.images(), 4);
    }

    #[test]
    fn nothing_counted_is_null_and_not_nan() {
        let report = serde_json::to_string(&score().report()).unwrap();
        assert_eq!(
            report,
            r#"{"top1":null,"many":null,"medium":null,"few":null,"experts":[0.0,0.0,0.0],"mean_experts":null}"#
        );
        assert_eq!(Agreement::new(2).report().routers, [None, None]);
        assert_eq!(Sqnr::default().db(), None);
    }

    #[test]
    fn routers_count_only_where_both_sides_arrive() {
        let mut agreement = Agreement::new(2);
        agreement.add(outcome(4, 1), outcome(4, 1)); // router 0: both stop
        agreement.add(outcome(4, 1), outcome(5, 3)); // router 0: differ, router 1 not reached by one side
        let mut other = Agreement::new(2);
        other.add(outcome(4, 2), outcome(4, 3)); // router 0: both go on, router 1: differ
        other.add(outcome(4, 3), outcome(4, 3)); // both agree
        agreement.merge(&other);
        let report = agreement.report();
        assert_eq!(report.top1, Some(75.0));
        assert_eq!(report.routers, [Some(75.0), Some(50.0)]);
        assert_eq!(report.route, Some(100.0 * 4.0 / 6.0));
        assert_eq!(report.same_experts, Some(50.0));
    }

    #[test]
    fn a_model_without_routers_has_no_route() {
        let mut agreement = Agreement::new(0);
        agreement.add(outcome(1, 3), outcome(1, 3));
        assert_eq!(agreement.report().route, None);
    }

    #[test]
    fn sqnr_of_a_known_error() {
        let mut sqnr = Sqnr::default();
        sqnr.add(&[1.0, -2.0], &[1.0, -2.0]);
        assert_eq!(sqnr.db(), None);
        let mut other = Sqnr::default();
        other.add(&[2.0, 1.0], &[2.0, 1.1]);
        sqnr.merge(&other);
        assert!((sqnr.db().unwrap() - 30.0).abs() < 1e-4, "{sqnr:?}");
        sqnr.add(&[f32::NAN], &[0.0]);
        assert_eq!(sqnr.db(), None);
    }
}
