//! Classifiers and routers.

use anyhow::{Result, ensure};

use super::spec::{Classifier, Spec};
use super::tensors::Tensors;
use crate::network::{Head, Router, Routing};

/// Smallest norm that `torch.nn.functional.normalize` divides by.
const MIN_NORM: f64 = 1e-12;
/// Pieces of the feature that `ResLT` classifies: for many-, medium- and few-shot classes.
pub(super) const PIECES: usize = 3;
/// Width of a router's hidden layer.
const HIDDEN: usize = 16;

/// The classifier of one expert.
pub(super) fn classifier(spec: &Spec, index: usize, tensors: &mut Tensors<'_>) -> Result<Head> {
    let (classes, features) = (spec.classes, spec.features());
    let module = spec.of_expert("linear", index);
    let name = format!("{module}.weight");
    let (weight, biased, pieces) = match spec.classifier {
        Classifier::Linear { bias } => (tensors.take(&name, &[classes, features])?.to_vec(), bias, 1),
        Classifier::Normed { scale } => {
            let bias = format!("{module}.bias");
            ensure!(
                !tensors.contains(&bias),
                "{} says use_norm, but a normed classifier has no bias and the checkpoint has {bias}",
                spec.origin
            );
            (normed(tensors.take(&name, &[features, classes])?, classes, scale), false, 1)
        }
        Classifier::Cosine { scale, bias } => {
            let weight = tensors.take(&name, &[classes, features])?;
            (rescaled(weight, features, |norm| scale / norm.max(MIN_NORM)), bias, 1)
        }
        Classifier::Reslt { gamma } => {
            // The authors' evaluation leaves out the bias that training has.
            tensors.ignore(&format!("{module}.bias"));
            let weight = tensors.take(&name, &[classes, features])?;
            // One matrix for the three pieces of the feature, whose logits are added.
            let rows = rescaled(weight, features, |norm| norm.powf(-gamma));
            (rows.chunks_exact(features).flat_map(|row| row.repeat(PIECES)).collect(), false, PIECES)
        }
    };
    ensure!(
        weight.iter().all(|value: &f32| value.is_finite()),
        "normalising {name} gives values beyond the range of f32"
    );
    let bias = match biased {
        true => tensors.take(&format!("{module}.bias"), &[classes])?.to_vec(),
        false => vec![0.0; classes],
    };
    let normalize = matches!(spec.classifier, Classifier::Normed { .. } | Classifier::Cosine { .. });
    Ok(Head { weight, bias, features: pieces * features, normalize, divisor: (index + 1) as f32 })
}

/// Rows times a factor that depends on their L2 norm.
fn rescaled(weight: &[f32], features: usize, factor: impl Fn(f64) -> f64) -> Vec<f32> {
    let row = |row: &[f32]| {
        let norm = row.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>().sqrt();
        let factor = factor(norm);
        row.iter().map(|&w| (f64::from(w) * factor) as f32).collect::<Vec<f32>>()
    };
    weight.chunks_exact(features).flat_map(row).collect()
}

/// Columns as unit vectors times `scale`, transposed to `[classes][features]`.
fn normed(weight: &[f32], classes: usize, scale: f64) -> Vec<f32> {
    let mut rows = Vec::with_capacity(weight.len());
    for class in 0..classes {
        let column = || weight.iter().skip(class).step_by(classes).map(|&w| f64::from(w));
        let norm = column().map(|w| w * w).sum::<f64>().sqrt().max(MIN_NORM);
        rows.extend(column().map(|w| (w / norm * scale) as f32));
    }
    rows
}

/// The routers between the experts.
pub(super) fn routing(spec: &Spec, tensors: &mut Tensors<'_>) -> Result<Routing> {
    if !spec.routed {
        return Ok(Routing::None);
    }
    if spec.experts == 1 {
        // A lone expert has nobody to hand over to, but the official code makes the shared layer all the same.
        tensors.ignore("expert_help_pred_fc.weight");
        tensors.ignore("expert_help_pred_fc.bias");
        return Ok(Routing::None);
    }
    (0..spec.experts - 1).map(|index| router(spec, index, tensors)).collect::<Result<_>>().map(Routing::Assignment)
}

fn router(spec: &Spec, index: usize, tensors: &mut Tensors<'_>) -> Result<Router> {
    let hidden = format!("expert_help_pred_hidden_fcs.{index}");
    let last = match spec.shared_fc {
        true => "expert_help_pred_fc".to_string(),
        false => format!("expert_help_pred_fcs.{index}"),
    };
    Ok(Router {
        hidden_weight: tensors.take(&format!("{hidden}.weight"), &[HIDDEN, spec.features()])?.to_vec(),
        hidden_bias: tensors.take(&format!("{hidden}.bias"), &[HIDDEN])?.to_vec(),
        top_k: spec.top_k,
        // The official code concatenates the sorted logits and then the hidden layer.
        fc_weight: tensors.take(&format!("{last}.weight"), &[1, spec.top_k + HIDDEN])?.to_vec(),
        fc_bias: tensors.take(&format!("{last}.bias"), &[1])?[0],
        threshold: 0.0,
    })
}
