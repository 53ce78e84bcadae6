//! A network that can be trained.

use std::collections::BTreeMap;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use super::engine::Engine;
use super::ops::plain;
use super::ops::simd::Level;
use super::params::{Loaded, Named, Params};
use super::plan::{HeadKind, Plan};
use super::qat::Quantization;
use crate::checkpoint;
use crate::lower::integer;

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
    /// One for each of [`Net::parameters`], in their order, detached.
    pub gradients: Vec<Tensor>,
}

/// A plan with parameters.
///
/// On CPUs it computes with loops made for training, elsewhere with candle's own operations.
#[derive(Debug)]
pub struct Net {
    plan: Plan,
    params: Params,
    /// With what vectors it computes; `None` is candle's operations.
    level: Option<Level>,
    /// Memory of the last size of image.
    engine: Mutex<Option<Engine>>,
    /// If it computes as the integer network will.
    quantization: Option<Quantization>,
}

impl Net {
    /// A network that has learned nothing yet; equal seeds give equal networks.
    ///
    /// # Errors
    /// If the device has no memory for it.
    pub fn new(plan: Plan, device: &Device, seed: u64) -> Result<Self> {
        let params = Params::new(&plan, device, seed)?;
        let level = device.is_cpu().then(Level::best);
        Ok(Self { plan, params, level, engine: Mutex::new(None), quantization: None })
    }

    /// Computes with candle's own operations from now on, as on other devices than CPUs: slower there.
    pub fn use_plain_ops(&mut self) {
        self.level = None;
    }

    /// Whether it computes with candle's own operations.
    pub fn has_plain_ops(&self) -> bool {
        self.level.is_none()
    }

    /// Computes with rounded weights and activations from now on, by fixed running statistics: see [`super::qat`].
    /// `None` ends that.
    ///
    /// # Errors
    /// If the network is not on a CPU, or computes with candle's own operations.
    pub fn quantize(&mut self, quantization: Option<Quantization>) -> Result<()> {
        ensure!(
            self.level.is_some() || quantization.is_none(),
            "quantization-aware training runs in the loops for CPUs only: --device cpu"
        );
        self.quantization = quantization;
        self.engine = Mutex::new(None);
        Ok(())
    }

    /// Computes with other vectors.
    #[cfg(test)]
    pub(super) fn use_level(&mut self, level: Level) {
        self.level = Some(level);
        self.engine = Mutex::new(None);
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
        let outputs = match self.level {
            Some(level) => self.heads(self.features(images, level, Mode::Eval)?)?,
            None => self.plain(images, Mode::Eval)?,
        };
        Ok(outputs.detach())
    }

    /// Runs a batch in training mode and returns the loss with its gradients. Running statistics move; parameters do
    /// not. `loss` makes a scalar of the outputs by candle's differentiable operations.
    ///
    /// # Errors
    /// If the images do not fit the network, `loss` fails or the device does.
    pub fn step(&mut self, images: &Tensor, loss: impl FnOnce(&Outputs) -> Result<Tensor>) -> Result<Step> {
        let Some(level) = self.level else { return self.plain_step(images, loss) };
        let features = self.features(images, level, Mode::Train)?;
        // The features are leaves: from there on, the engine continues.
        let leaves = features.iter().map(Var::from_tensor).collect::<candle_core::Result<Vec<_>>>()?;
        let outputs = self.heads(leaves.iter().map(|leaf| leaf.as_tensor().clone()).collect())?;
        let loss = loss(&outputs)?;
        let store = loss.backward()?;
        let mut gradients = self.gradients_in(&store)?;
        let of_leaf = |leaf: &Var| -> Result<Vec<f32>> {
            Ok(match store.get(leaf) {
                Some(gradient) => gradient.flatten_all()?.to_vec1()?,
                None => vec![0.0; leaf.elem_count()],
            })
        };
        let of_features = leaves.iter().map(of_leaf).collect::<Result<Vec<_>>>()?;
        let mut engine = self.engine.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let engine = engine.as_mut().context("the forward pass has left no memory")?;
        for (name, gradient) in engine.backward(&of_features) {
            let position = self.params.position(&name)?;
            let dims = self.parameters()[position].var.dims().to_vec();
            gradients[position] = Tensor::from_vec(gradient, dims, self.device())?;
        }
        Ok(Step { loss: loss.to_scalar::<f32>()?, outputs: outputs.detach(), gradients })
    }

    /// Features of each expert, by the engine.
    fn features(&self, images: &Tensor, level: Level, mode: Mode) -> Result<Vec<Tensor>> {
        let (count, height, width, channels) = images.dims4().context("images must have four dimensions")?;
        ensure!(channels == 3, "images have {channels} channels; expected [N, H, W, 3]");
        let pixels = images.flatten_all()?.to_vec1::<f32>()?;
        let mut engine = self.engine.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !engine.as_ref().is_some_and(|engine| engine.fits([height, width])) {
            let mut new = Engine::new(&self.plan, [height, width], level)?;
            if let Some(quantization) = &self.quantization {
                new.quantize(quantization)?;
            }
            *engine = Some(new);
        }
        let engine = engine.as_mut().context("there is an engine")?;
        let features = engine.forward(&pixels, &self.params, mode)?;
        let tensor = |feature: Vec<f32>| {
            let length = feature.len() / count.max(1);
            Ok(Tensor::from_vec(feature, (count, length), self.device())?)
        };
        features.into_iter().map(tensor).collect()
    }

    fn plain_step(&self, images: &Tensor, loss: impl FnOnce(&Outputs) -> Result<Tensor>) -> Result<Step> {
        let outputs = self.plain(images, Mode::Train)?;
        let loss = loss(&outputs)?;
        let gradients = self.gradients_in(&loss.backward()?)?;
        let loss = (loss.detach() + self.not_finite(&gradients)?)?;
        Ok(Step { loss: loss.to_scalar::<f32>()?, outputs: outputs.detach(), gradients })
    }

    /// Zero, or not a number where the network's values are none: candle's ReLU makes zeros of those, so that they may not
    /// reach the loss. In the other direction nothing stops them on their way to the first layers.
    fn not_finite(&self, gradients: &[Tensor]) -> Result<Tensor> {
        let mut sum = Tensor::zeros((), DType::F32, self.device())?;
        for first in self.plan.parts().filter_map(|part| part.convolutions().next()) {
            let gradient = &gradients[self.params.position(&format!("{}.weight", first.conv))?];
            sum = (sum + (gradient.sum_all()? * 0.0)?)?;
        }
        Ok(sum)
    }

    /// Gradients of all parameters, zeros where the loss does not depend on them. candle's are made of tracked tensors and
    /// remember them: each would keep all activations of its step.
    pub(super) fn gradients_in(&self, store: &GradStore) -> Result<Vec<Tensor>> {
        let gradient = |named: &Named| match store.get(&named.var) {
            Some(gradient) => Ok(gradient.detach()),
            None => named.var.zeros_like(),
        };
        Ok(self.parameters().iter().map(gradient).collect::<candle_core::Result<_>>()?)
    }

    /// All in candle's own operations.
    pub(super) fn plain(&self, images: &Tensor, mode: Mode) -> Result<Outputs> {
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
            // The weight by which features, `unit` long or as they are, are multiplied: `[classes][features]`.
            let (weight, unit, bias) = match head.kind {
                HeadKind::Linear { bias } => (weight.as_tensor().clone(), false, bias),
                HeadKind::Normed { scale } => ((plain::unit(weight, 0)?.t()? * scale)?, true, false),
                HeadKind::Cosine { scale, bias } => ((plain::unit(weight, 1)? * scale)?, true, bias),
            };
            let weight = if self.quantization.is_some() { rounded(&weight)? } else { weight };
            let feature = if unit { plain::unit(feature, 1)? } else { feature.clone() };
            logits.push(biased(feature.matmul(&weight.t()?)?, bias)?);
        }
        Ok(Outputs { logits, features })
    }
}

/// A classifier's weight as the artifact has it; gradients pass unchanged.
fn rounded(weight: &Tensor) -> Result<Tensor> {
    let (classes, features) = weight.dims2()?;
    let mut values = weight.flatten_all()?.to_vec1::<f32>()?;
    values.chunks_exact_mut(features).for_each(integer::round_row);
    let moved = (Tensor::from_vec(values, (classes, features), weight.device())? - weight)?;
    Ok((weight + moved.detach())?)
}

impl Outputs {
    fn detach(&self) -> Self {
        let detach = |tensors: &[Tensor]| tensors.iter().map(Tensor::detach).collect();
        Self { logits: detach(&self.logits), features: detach(&self.features) }
    }
}
