//! A network that can be trained.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};

use super::ops::plain;
use super::params::{Loaded, Named, Params};
use super::plan::{HeadKind, Plan};
use crate::checkpoint;

/// What batch normalisation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Normalises by the batch and moves the running statistics (momentum 0.1).
    Train,
    /// Normalises by the running statistics.
    Eval,
}

/// What a network computes of a batch.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// `[N, classes]` of each expert.
    pub logits: Vec<Tensor>,
    /// `[N, features]` of each expert: the average-pooled output of its last block.
    pub features: Vec<Tensor>,
}

impl Outputs {
    /// The mean of all experts' logits, `[N, classes]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn mean(&self) -> Result<Tensor> {
        mean(&self.logits)
    }
}

/// The mean of equally shaped tensors.
pub(super) fn mean(tensors: &[Tensor]) -> Result<Tensor> {
    let (first, rest) = tensors.split_first().context("there is no expert")?;
    let sum = rest.iter().try_fold(first.clone(), |sum, next| sum + next)?;
    Ok((sum / tensors.len() as f64)?)
}

/// Loss and gradients of one batch.
#[derive(Debug)]
pub struct Step {
    /// The loss, detached.
    pub loss: f32,
    /// What the network computed, detached.
    pub outputs: Outputs,
    /// One for each of [`Net::parameters`], in their order.
    pub gradients: Vec<Tensor>,
}

/// A plan with parameters.
#[derive(Debug)]
pub struct Net {
    plan: Plan,
    params: Params,
}

impl Net {
    /// A network that has learned nothing yet; equal seeds give equal networks.
    ///
    /// # Errors
    /// If the device has no memory for it.
    pub fn new(plan: Plan, device: &Device, seed: u64) -> Result<Self> {
        let params = Params::new(&plan, device, seed)?;
        Ok(Self { plan, params })
    }

    /// Its layers.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        self.params.device()
    }

    /// Everything that is trained, in a fixed order.
    pub fn parameters(&self) -> &[Named] {
        self.params.parameters()
    }

    /// Running statistics of batch normalisation, in a fixed order.
    pub fn buffers(&self) -> &[Named] {
        self.params.buffers()
    }

    /// Takes the tensors that fit by name and shape; see [`Params::load`].
    ///
    /// # Errors
    /// As there.
    pub fn load(&mut self, tensors: &BTreeMap<String, checkpoint::Tensor>) -> Result<Loaded> {
        self.params.load(tensors)
    }

    /// Takes all parameters and running statistics from a checkpoint of the same architecture.
    ///
    /// # Errors
    /// Names the first tensor that is missing or has another shape.
    pub fn load_all(&mut self, tensors: &BTreeMap<String, checkpoint::Tensor>) -> Result<()> {
        let loaded = self.load(tensors)?;
        ensure!(
            loaded.missing.is_empty(),
            "{} tensors of the network are not in the checkpoint in their shape; the first is {}",
            loaded.missing.len(),
            loaded.missing[0]
        );
        Ok(())
    }

    /// Copies of all tensors by their official names.
    ///
    /// # Errors
    /// If the device fails.
    pub fn tensors(&self) -> Result<BTreeMap<String, checkpoint::Tensor>> {
        self.params.tensors()
    }

    /// Logits and features by the running statistics, without gradients. `images` are `[N, H, W, 3]`, normalised.
    ///
    /// # Errors
    /// If the images do not fit the network or the device fails.
    pub fn evaluate(&self, images: &Tensor) -> Result<Outputs> {
        let outputs = self.plain(images, Mode::Eval)?;
        Ok(outputs.detach())
    }

    /// Runs a batch in training mode and returns the loss with its gradients. Running statistics move; parameters do
    /// not. `loss` makes a scalar of the outputs by candle's differentiable operations.
    ///
    /// # Errors
    /// If the images do not fit the network, `loss` fails or the device does.
    pub fn step(&mut self, images: &Tensor, loss: impl FnOnce(&Outputs) -> Result<Tensor>) -> Result<Step> {
        let outputs = self.plain(images, Mode::Train)?;
        let loss = loss(&outputs)?;
        let store = loss.backward()?;
        let gradient = |named: &Named| match store.get(&named.var) {
            Some(gradient) => Ok(gradient.clone()),
            None => named.var.zeros_like(),
        };
        let gradients = self.parameters().iter().map(gradient).collect::<candle_core::Result<_>>()?;
        Ok(Step { loss: loss.to_scalar::<f32>()?, outputs: outputs.detach(), gradients })
    }

    /// All in candle's own operations.
    fn plain(&self, images: &Tensor, mode: Mode) -> Result<Outputs> {
        let (_, height, width, channels) = images.dims4().context("images must have four dimensions")?;
        ensure!(channels == 3, "images have {channels} channels; expected [N, H, W, 3]");
        let images = images.permute((0, 3, 1, 2))?.contiguous()?;
        let context = |part: &str| format!("{part} cannot run on images of {height} x {width}");
        let shared = plain::part(&self.plan.stem, &self.params, &images, mode).with_context(|| context("the stem"))?;
        let mut features = Vec::new();
        for part in &self.plan.experts {
            let output = plain::part(part, &self.params, &shared, mode).with_context(|| context(&part.name))?;
            features.push(output.mean((2, 3))?);
        }
        self.heads(features)
    }

    fn heads(&self, features: Vec<Tensor>) -> Result<Outputs> {
        let mut logits = Vec::new();
        for (head, feature) in self.plan.heads.iter().zip(&features) {
            let weight = self.params.get(&format!("{}.weight", head.module))?;
            let biased = |logits: Tensor, bias: bool| -> Result<Tensor> {
                Ok(match bias {
                    true => logits.broadcast_add(self.params.get(&format!("{}.bias", head.module))?)?,
                    false => logits,
                })
            };
            logits.push(match head.kind {
                HeadKind::Linear { bias } => biased(feature.matmul(&weight.t()?)?, bias)?,
                HeadKind::Normed { scale } => (plain::unit(feature, 1)?.matmul(&plain::unit(weight, 0)?)? * scale)?,
                HeadKind::Cosine { scale, bias } => {
                    biased((plain::unit(feature, 1)?.matmul(&plain::unit(weight, 1)?.t()?)? * scale)?, bias)?
                }
            });
        }
        Ok(Outputs { logits, features })
    }
}

impl Outputs {
    fn detach(&self) -> Self {
        let detach = |tensors: &[Tensor]| tensors.iter().map(Tensor::detach).collect();
        Self { logits: detach(&self.logits), features: detach(&self.features) }
    }
}
