//! The tables `[combiner]`, `[router]` and `[logit_adjustment]`: what can be decided after training.

use std::path::PathBuf;

use serde::Deserialize;

/// What a user asks for; what is left open stays as the model has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// How the logits of experts become one answer.
    pub combiner: Option<CombinerTable>,
    /// When the next expert runs.
    pub router: Option<RouterTable>,
    /// By how much logits are shifted for rare classes.
    pub adjustment: Option<AdjustmentTable>,
    /// The file that says so, for messages; `None` for the command line alone.
    pub file: Option<PathBuf>,
}

impl Rules {
    /// These rules with what they leave open taken from `other`.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let router = match (&self.router, &other.router) {
            (Some(ours), Some(theirs)) => Some(ours.or(theirs)),
            (ours, theirs) => ours.clone().or_else(|| theirs.clone()),
        };
        let adjustment = match (&self.adjustment, &other.adjustment) {
            (Some(ours), Some(theirs)) if ours.counts.is_none() => {
                Some(AdjustmentTable { counts: theirs.counts.clone(), ..ours.clone() })
            }
            (ours, theirs) => ours.clone().or_else(|| theirs.clone()),
        };
        Self {
            combiner: self.combiner.clone().or_else(|| other.combiner.clone()),
            router,
            adjustment,
            file: self.file.clone().or_else(|| other.file.clone()),
        }
    }
}

/// One value for all, or one for each.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Values<T> {
    /// For all.
    One(T),
    /// For each, in order.
    Each(Vec<T>),
}

impl<T: Copy> Values<T> {
    /// `count` values, or how many there are instead.
    ///
    /// # Errors
    /// The number of values, if it is neither one nor `count`.
    pub fn spread(&self, count: usize) -> Result<Vec<T>, usize> {
        match self {
            Values::One(value) => Ok(vec![*value; count]),
            Values::Each(values) if values.len() == count => Ok(values.clone()),
            Values::Each(values) => Err(values.len()),
        }
    }
}

/// The table `[combiner]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CombinerTable {
    /// Mean, sum, or weighted mean.
    pub kind: CombinerKind,
    /// Weights of a weighted mean, one for each expert; only their ratios matter.
    pub weights: Option<Vec<f32>>,
}

/// How logits are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CombinerKind {
    /// The mean of the experts that ran.
    Mean,
    /// Their sum.
    Sum,
    /// `Σ w[i] l[i] / Σ w[i]` over the experts that ran.
    Weighted,
}

/// The table `[router]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterTable {
    /// What decides; `None` leaves the model's own routers.
    pub criterion: Option<RouterKind>,
    /// In units of the criterion; one for all routers or one for each.
    #[serde(alias = "thresholds")]
    pub threshold: Option<Values<f32>>,
}

impl RouterTable {
    /// A threshold belongs to its criterion: it is not taken over by another one.
    fn or(&self, other: &Self) -> Self {
        let same = self.criterion.is_none() || self.criterion == other.criterion;
        let threshold = self.threshold.clone().or_else(|| other.threshold.clone().filter(|_| same));
        Self { criterion: self.criterion.or(other.criterion), threshold }
    }
}

/// What decides whether the next expert runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouterKind {
    /// Softmax probability of the largest logit.
    MaxProbability,
    /// Difference of the two largest logits.
    Margin,
    /// Entropy of the softmax in nats.
    Entropy,
    /// The model's trained routers.
    Assignment,
    /// Nothing: every expert runs.
    None,
}

/// The table `[logit_adjustment]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdjustmentTable {
    /// Factor of `-ln(prior)`; one for all experts or one for each.
    pub tau: Values<f64>,
    /// Training images of each class; `None` for those that are known otherwise.
    pub counts: Option<Counts>,
}

/// Training images of each class.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Counts {
    /// As they are.
    List(Vec<u32>),
    /// In a file, one integer a line; relative to the description's folder.
    File(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(criterion: Option<RouterKind>, threshold: Option<f32>) -> Rules {
        let router = Some(RouterTable { criterion, threshold: threshold.map(Values::One) });
        Rules { router, ..Rules::default() }
    }

    #[test]
    fn a_threshold_stays_with_its_criterion() {
        let file = router(Some(RouterKind::Margin), Some(2.0));
        let threshold = router(None, Some(3.0)).or(&file).router.unwrap();
        assert_eq!(threshold, router(Some(RouterKind::Margin), Some(3.0)).router.unwrap());
        let criterion = router(Some(RouterKind::Entropy), None).or(&file).router.unwrap();
        assert_eq!(criterion, router(Some(RouterKind::Entropy), None).router.unwrap());
        let same = router(Some(RouterKind::Margin), None).or(&file).router.unwrap();
        assert_eq!(same, file.router.clone().unwrap());
        assert_eq!(Rules::default().or(&file), file);
    }

    #[test]
    fn counts_stay_with_another_tau() {
        let table = |tau, counts| AdjustmentTable { tau: Values::One(tau), counts };
        let counts = Some(Counts::List(vec![5, 3]));
        let file = Rules { adjustment: Some(table(1.0, counts.clone())), ..Rules::default() };
        let asked = Rules { adjustment: Some(table(2.0, None)), ..Rules::default() };
        assert_eq!(asked.or(&file).adjustment, Some(table(2.0, counts)));
    }

    #[test]
    fn one_value_or_one_for_each() {
        assert_eq!(Values::One(1).spread(3), Ok(vec![1, 1, 1]));
        assert_eq!(Values::Each(vec![1, 2]).spread(2), Ok(vec![1, 2]));
        assert_eq!(Values::Each(vec![1, 2]).spread(3), Err(2));
    }
}
