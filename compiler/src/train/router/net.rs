//! The routers' layers with gradients, and their loss.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor, Var};
use ride_calibrate::sampling::SplitMix64;

use super::HIDDEN;
use super::features::{Layout, Rows};
use crate::checkpoint;
use crate::train::params::Named;

/// What the numbers that weights are drawn with are for.
const PURPOSE: u64 = 4;

/// All routers.
pub(super) struct RouterNet {
    layout: Layout,
    /// Hidden weight and bias of each router, then weight and bias of each last layer.
    parameters: Vec<Named>,
}

/// What routers see of a batch, and what they should say.
pub(super) struct Batch {
    /// Of each router, `[batch, features]`.
    pub(super) features: Vec<Tensor>,
    /// Of each router, `[batch, top_k]`.
    pub(super) logits: Vec<Tensor>,
    /// Of each router, one for each image: 0 or 1.
    pub(super) targets: Vec<Vec<f32>>,
}

/// A step's results.
pub(super) struct Loss {
    pub(super) loss: f64,
    /// In the order of the parameters.
    pub(super) gradients: Vec<Tensor>,
    /// Of each router, one for each image.
    pub(super) scores: Vec<Vec<f32>>,
}

impl Batch {
    /// Rows put together.
    pub(super) fn gather(rows: &Rows, picked: &[u32]) -> Result<Self> {
        let Layout { routers, features, top_k } = rows.layout;
        let (mut batch, count) = (Self { features: Vec::new(), logits: Vec::new(), targets: Vec::new() }, picked.len());
        for router in 0..routers {
            let pieces = || picked.iter().map(move |&row| rows.piece(row as usize, router));
            let all: Vec<f32> = pieces().flat_map(|piece| piece.features.iter().copied()).collect();
            batch.features.push(Tensor::from_vec(all, (count, features), &Device::Cpu)?);
            let all: Vec<f32> = pieces().flat_map(|piece| piece.logits.iter().copied()).collect();
            batch.logits.push(Tensor::from_vec(all, (count, top_k), &Device::Cpu)?);
            batch.targets.push(pieces().map(|piece| piece.target).collect());
        }
        Ok(batch)
    }
}

impl RouterNet {
    /// Weights as the authors' code starts with: He et al.'s normal distribution by inputs (arXiv:1502.01852), biases uniform
    /// within one by the root of the inputs.
    pub(super) fn new(layout: Layout, shared_fc: bool, seed: u64) -> Result<Self> {
        let mut random = SplitMix64::of(&[PURPOSE, seed]);
        let mut parameters = Vec::new();
        let mut layer = |name: String, outputs: usize, inputs: usize| -> Result<()> {
            let spread = (2.0 / inputs as f64).sqrt();
            let weight: Vec<f32> = (0..outputs * inputs).map(|_| (normal(&mut random) * spread) as f32).collect();
            let bound = 1.0 / (inputs as f64).sqrt();
            let bias: Vec<f32> = (0..outputs).map(|_| random.between(-bound, bound) as f32).collect();
            let weight = Var::from_tensor(&Tensor::from_vec(weight, (outputs, inputs), &Device::Cpu)?)?;
            parameters.push(Named { name: format!("{name}.weight"), var: weight });
            let bias = Var::from_tensor(&Tensor::from_vec(bias, outputs, &Device::Cpu)?)?;
            parameters.push(Named { name: format!("{name}.bias"), var: bias });
            Ok(())
        };
        for router in 0..layout.routers {
            layer(format!("expert_help_pred_hidden_fcs.{router}"), HIDDEN, layout.features)?;
        }
        if shared_fc {
            layer("expert_help_pred_fc".to_owned(), 1, layout.top_k + HIDDEN)?;
        } else {
            for router in 0..layout.routers {
                layer(format!("expert_help_pred_fcs.{router}"), 1, layout.top_k + HIDDEN)?;
            }
        }
        Ok(Self { layout, parameters })
    }

    pub(super) fn parameters(&self) -> &[Named] {
        &self.parameters
    }

    /// Scores of one router, one for each image.
    fn scores(&self, router: usize, features: &Tensor, logits: &Tensor) -> Result<Tensor> {
        let var = |at: usize| self.parameters[at].var.as_tensor();
        let hidden = features.matmul(&var(2 * router).t()?)?.broadcast_add(var(2 * router + 1))?.relu()?;
        // One last layer for all, or one for each, behind the hidden layers.
        let all = self.layout.routers;
        let last = 2 * if self.parameters.len() == 2 * all + 2 { all } else { all + router };
        let seen = Tensor::cat(&[logits, &hidden], 1)?;
        Ok(seen.matmul(&var(last).t()?)?.broadcast_add(var(last + 1))?.squeeze(1)?)
    }

    /// The loss with its gradients, averaged over images and routers.
    pub(super) fn loss(&self, batch: &Batch, pos_weight: f64) -> Result<Loss> {
        let (mut sum, mut scores): (Option<Tensor>, _) = (None, Vec::new());
        for router in 0..self.layout.routers {
            let score = self.scores(router, &batch.features[router], &batch.logits[router])?;
            let targets = Tensor::new(batch.targets[router].as_slice(), &Device::Cpu)?;
            let loss = cross_entropy(&score, &targets, pos_weight)?;
            sum = Some(match sum {
                Some(sum) => (sum + loss)?,
                None => loss,
            });
            scores.push(score.to_vec1()?);
        }
        let loss = (sum.context("there are no routers")? / self.layout.routers as f64)?;
        let gradients = loss.backward()?;
        let gradient = |named: &Named| {
            let gradient = gradients.get(named.var.as_tensor());
            gradient.cloned().with_context(|| format!("{} has no gradient", named.name))
        };
        let gradients = self.parameters.iter().map(gradient).collect::<Result<_>>()?;
        Ok(Loss { loss: f64::from(loss.to_scalar::<f32>()?), gradients, scores })
    }

    /// Copies of all tensors by the official names.
    pub(super) fn tensors(&self) -> Result<BTreeMap<String, checkpoint::Tensor>> {
        let copy = |named: &Named| {
            let data = named.var.flatten_all()?.to_vec1::<f32>()?;
            Ok((named.name.clone(), checkpoint::Tensor { shape: named.var.dims().to_vec(), data }))
        };
        self.parameters.iter().map(copy).collect()
    }
}

/// Mean of `-w y ln p - (1 - y) ln(1 - p)`, `p` being the sigmoid of the score `z`, in a form that large scores leave finite:
/// `(1 - y) z + (1 + (w - 1) y) (ln(1 + exp(-|z|)) + max(-z, 0))`.
fn cross_entropy(score: &Tensor, target: &Tensor, pos_weight: f64) -> Result<Tensor> {
    let weight = target.affine(pos_weight - 1.0, 1.0)?;
    let soft = (score.abs()?.neg()?.exp()? + 1.0)?.log()?;
    let hard = score.neg()?.relu()?;
    let linear = (target.affine(-1.0, 1.0)? * score)?;
    Ok((linear + (weight * (soft + hard)?)?)?.mean_all()?)
}

/// Standard normal, by Box and Muller's transform.
fn normal(random: &mut SplitMix64) -> f64 {
    // Never the logarithm of zero.
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.unit()).cos()
}
