//! What scores mean and which thresholds they can be compared with.

use ride_runtime::op::{Criterion, Router, Rule};

use crate::network::Routing;
use crate::rules::Range;

/// Where a router's score comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Trained layers; the score is a logit.
    Assignment,
    /// The mean logits so far.
    Confidence(Criterion),
}

/// A router's scores as a scale: one direction is eager to run the next expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    measure: Measure,
    low: f32,
    high: f32,
}

impl Scale {
    /// The scale of a measure for a model with this number of classes.
    pub fn new(measure: Measure, classes: usize) -> Self {
        let (low, high) = match measure {
            Measure::Assignment => (-f32::MAX, f32::MAX),
            Measure::Confidence(criterion) => Range::of(criterion, classes).limits(),
        };
        Self { measure, low, high }
    }

    /// The scale of an artifact's router.
    pub fn of(router: &Router, classes: usize) -> Self {
        let measure = match router.rule {
            Rule::Assignment(_) => Measure::Assignment,
            Rule::Confidence(criterion) => Measure::Confidence(criterion),
        };
        Self::new(measure, classes)
    }

    /// The scale of each router of a network.
    pub fn of_routing(routing: &Routing, classes: usize) -> Vec<Self> {
        match routing {
            Routing::None => Vec::new(),
            Routing::Assignment(routers) => vec![Self::new(Measure::Assignment, classes); routers.len()],
            Routing::Confidence(rules) => {
                rules.iter().map(|rule| Self::new(Measure::Confidence(rule.criterion), classes)).collect()
            }
        }
    }

    /// The measure's name, as `--router` takes it.
    pub fn name(&self) -> &'static str {
        match self.measure {
            Measure::Assignment => "assignment",
            Measure::Confidence(criterion) => criterion.name(),
        }
    }

    /// Whether large scores ask for the next expert; otherwise small ones do.
    pub(super) fn above(&self) -> bool {
        matches!(self.measure, Measure::Assignment | Measure::Confidence(Criterion::Entropy))
    }

    /// Whether the next expert runs: what [`Router::proceeds`] says.
    pub fn proceeds(&self, score: f32, threshold: f32) -> bool {
        if self.above() { score > threshold } else { score < threshold }
    }

    /// Whether a router can have this threshold.
    pub fn has(&self, threshold: f32) -> bool {
        (self.low..=self.high).contains(&threshold)
    }

    /// The thresholds that are possible, for messages.
    pub fn range(&self) -> String {
        match self.measure {
            Measure::Assignment => "any finite number".to_owned(),
            Measure::Confidence(_) if self.high == f32::MAX => format!("a finite number from {} on", self.low),
            Measure::Confidence(_) => format!("a number from {} to {}", self.low, self.high),
        }
    }

    /// The threshold that lets fewest scores through.
    pub(super) fn closed(&self) -> f32 {
        if self.above() { self.high } else { self.low }
    }

    /// The threshold that lets most scores through.
    pub(super) fn open(&self) -> f32 {
        if self.above() { self.low } else { self.high }
    }

    /// A threshold that tells `eager` from the less eager `next`: their middle, or `next` where they are neighbours.
    pub(super) fn between(&self, eager: f32, next: f32) -> f32 {
        let middle = f64::midpoint(f64::from(eager), f64::from(next)) as f32;
        let apart = self.proceeds(eager, middle) && !self.proceeds(next, middle);
        (if apart { middle } else { next }).clamp(self.low, self.high)
    }

    /// Orders scores, the most eager first; what is no number comes last.
    pub(super) fn eagerness(&self, a: f32, b: f32) -> std::cmp::Ordering {
        match (a.is_nan(), b.is_nan()) {
            (false, false) if self.above() => b.total_cmp(&a),
            (false, false) => a.total_cmp(&b),
            (a, b) => a.cmp(&b),
        }
    }
}
