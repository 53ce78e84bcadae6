//! Classifiers and routers.

use anyhow::{Result, ensure};

use super::spec::Spec;
use super::tensors::Tensors;
use crate::network::{Head, Router, Routing};

/// Smallest norm that `torch.nn.functional.normalize` divides by.
const MIN_NORM: f64 = 1e-12;
/// Width of a router's hidden layer.
const HIDDEN: usize = 16;

/// The classifier of one expert.
///
/// A normed classifier has its weight as `[features][classes]`; logits are `s * normalize(x) . normalize(column)`.
pub(super) fn classifier(spec: &Spec, index: usize, tensors: &mut Tensors<'_>) -> Result<Head> {
    let (classes, features) = (spec.classes, spec.features());
    let module = spec.of_expert("linear", index);
    let divisor = (index + 1) as f32;
    let name = format!("{module}.weight");
    let bias = format!("{module}.bias");
    if spec.use_norm {
        ensure!(
            !tensors.contains(&bias),
            "config.json says use_norm, but a normed classifier has no bias and the checkpoint has {bias}"
        );
        let weight = normed(tensors.take(&name, &[features, classes])?, classes, spec.scale);
        ensure!(
            weight.iter().all(|value| value.is_finite()),
            "normalising {name} gives values beyond the range of f32"
        );
        return Ok(Head { weight, bias: vec![0.0; classes], features, normalize: true, divisor });
    }
    let weight = tensors.take(&name, &[classes, features])?.to_vec();
    Ok(Head { weight, bias: tensors.take(&bias, &[classes])?.to_vec(), features, normalize: false, divisor })
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
