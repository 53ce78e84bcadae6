//! Pooling, classifiers and routers in float. Sums are kept in `f64` and added in index order.

use crate::network::{Confidence, Head, Router, Shape};
use anyhow::{Result, ensure};
use ride_runtime::op::Criterion;

/// What `torch.nn.functional.normalize` puts in place of a smaller norm.
const NORMALIZE_EPSILON: f64 = 1e-12;

/// A matrix-vector product with bias; the matrix is stored by columns, so that the sum runs along vectors.
struct Linear {
    columns: Vec<f32>,
    bias: Vec<f32>,
}

impl Linear {
    /// `weight` is `[outputs][inputs]`.
    fn new(what: &str, weight: &[f32], bias: &[f32], inputs: usize) -> Result<Self> {
        let outputs = bias.len();
        ensure!(
            inputs > 0 && outputs > 0 && outputs.checked_mul(inputs) == Some(weight.len()),
            "{what}: the weight has {} elements, expected the shape [{outputs}, {inputs}]",
            weight.len()
        );
        let columns = (0..inputs).flat_map(|i| (0..outputs).map(move |o| weight[o * inputs + i]));
        Ok(Self { columns: columns.collect(), bias: bias.to_vec() })
    }

    fn run(&self, x: &[f64]) -> Vec<f32> {
        let mut sums = vec![0.0_f64; self.bias.len()];
        for (&x, column) in x.iter().zip(self.columns.chunks_exact(self.bias.len())) {
            sums.iter_mut().zip(column).for_each(|(sum, &weight)| *sum += x * f64::from(weight));
        }
        sums.iter().zip(&self.bias).map(|(sum, &bias)| (sum + f64::from(bias)) as f32).collect()
    }
}

/// Mean over all pixels of an NHWC activation.
pub(super) fn global_average(x: &[f32], shape: Shape) -> Vec<f32> {
    let mut sums = vec![0.0_f64; shape.channels];
    for pixel in x.chunks_exact(shape.channels) {
        sums.iter_mut().zip(pixel).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let pixels = (shape.height * shape.width) as f64;
    sums.iter().map(|sum| (sum / pixels) as f32).collect()
}

fn norm(feature: &[f32]) -> f64 {
    feature.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

fn divided(feature: &[f32], by: f64) -> Vec<f64> {
    feature.iter().map(|&x| f64::from(x) / by).collect()
}

/// A [`Head`] ready to run.
pub(super) struct PreparedHead {
    linear: Linear,
    normalize: bool,
    pub(super) divisor: f32,
}

impl PreparedHead {
    /// Checks that `head` maps `features` to `classes`.
    pub(super) fn new(expert: &str, head: &Head, features: usize, classes: usize) -> Result<Self> {
        ensure!(
            head.features == features,
            "{expert}: the classifier takes {} features, but the trunk gives {features}",
            head.features
        );
        ensure!(
            head.bias.len() == classes,
            "{expert}: the classifier's bias has {} elements, expected one for each of {classes} classes",
            head.bias.len()
        );
        let linear = Linear::new(&format!("{expert}: the classifier"), &head.weight, &head.bias, features)?;
        ensure!(
            head.divisor.is_normal() && head.divisor > 0.0,
            "{expert}: the sum of logits cannot be divided by {}",
            head.divisor
        );
        Ok(Self { linear, normalize: head.normalize, divisor: head.divisor })
    }

    /// Logits of a pooled feature.
    pub(super) fn run(&self, feature: &[f32]) -> Vec<f32> {
        let by = if self.normalize { norm(feature).max(NORMALIZE_EPSILON) } else { 1.0 };
        self.linear.run(&divided(feature, by))
    }
}

/// A router ready to run.
pub(super) struct PreparedRouter {
    rule: Rule,
    threshold: f32,
}

enum Rule {
    Trained { hidden: Linear, fc: Linear, top_k: usize },
    Confidence(Criterion),
}

impl PreparedRouter {
    /// Checks that `router` takes `features` and `classes` logits.
    pub(super) fn trained(index: usize, router: &Router, features: usize, classes: usize) -> Result<Self> {
        let name = format!("router {index}");
        ensure!(
            router.top_k <= classes,
            "{name}: it looks at the {} largest logits, but there are only {classes} classes",
            router.top_k
        );
        let hidden =
            Linear::new(&format!("{name}: the hidden layer"), &router.hidden_weight, &router.hidden_bias, features)?;
        let inputs = router.top_k + router.hidden_bias.len();
        let fc = Linear::new(&format!("{name}: the score"), &router.fc_weight, &[router.fc_bias], inputs)?;
        Ok(Self { rule: Rule::Trained { hidden, fc, top_k: router.top_k }, threshold: router.threshold })
    }

    pub(super) fn confidence(rule: &Confidence) -> Self {
        Self { rule: Rule::Confidence(rule.criterion), threshold: rule.threshold }
    }

    /// The score; NaN for a feature of zeros, with which no trained router proceeds.
    pub(super) fn run(&self, feature: &[f32], mean_logits: &[f32]) -> f32 {
        match &self.rule {
            Rule::Trained { hidden, fc, top_k } => {
                let mut largest = mean_logits.to_vec();
                largest.sort_by(|a, b| b.total_cmp(a));
                let hidden = hidden.run(&divided(feature, norm(feature)));
                let hidden = hidden.iter().map(|&h| if h < 0.0 { 0.0 } else { h });
                let seen = largest.into_iter().take(*top_k).chain(hidden);
                fc.run(&seen.map(f64::from).collect::<Vec<_>>())[0]
            }
            Rule::Confidence(criterion) => confidence(*criterion, mean_logits),
        }
    }

    /// Whether the next expert is worth running, by this threshold or the router's own.
    pub(super) fn proceeds(&self, score: f32, threshold: Option<f32>) -> bool {
        let threshold = threshold.unwrap_or(self.threshold);
        match self.rule {
            Rule::Confidence(Criterion::MaxProbability | Criterion::Margin) => score < threshold,
            Rule::Confidence(Criterion::Entropy) | Rule::Trained { .. } => score > threshold,
        }
    }
}

/// The measures of [`ride_runtime::confidence`], in double precision.
pub(crate) fn confidence(criterion: Criterion, logits: &[f32]) -> f32 {
    let mut sorted: Vec<f64> = logits.iter().copied().map(f64::from).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let (Some(&largest), second) = (sorted.first(), sorted.get(1)) else { return f32::NAN };
    let exponentials = || sorted.iter().map(|logit| ((logit - largest).exp(), logit - largest));
    let sum: f64 = exponentials().map(|(e, _)| e).sum();
    let score = match criterion {
        Criterion::Margin => largest - second.unwrap_or(&largest),
        Criterion::MaxProbability => 1.0 / sum,
        Criterion::Entropy => sum.ln() - exponentials().map(|(e, below)| e * below).sum::<f64>() / sum,
    };
    score as f32
}
