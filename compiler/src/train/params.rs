//! Parameters and buffers of a network by their official names.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor, Var};
use ride_calibrate::sampling::SplitMix64;

use super::plan::{Head, HeadKind, Init, Plan};
use crate::checkpoint;

/// A named tensor that changes: a parameter, or a running statistic of batch normalisation.
#[derive(Clone, Debug)]
pub struct Named {
    /// Official name, such as `layer2s.0.4.bn1.weight`.
    pub name: String,
    /// Its value.
    pub var: Var,
}

/// What a network has learned.
#[derive(Debug)]
pub struct Params {
    /// Trained by gradients, in the order of the layers.
    parameters: Vec<Named>,
    /// Running mean and variance of every batch normalisation.
    buffers: Vec<Named>,
    index: HashMap<String, Slot>,
    device: Device,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Parameter(usize),
    Buffer(usize),
}

/// Which tensors [`Params::load`] took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Names that were found with the right shape.
    pub taken: Vec<String>,
    /// Names that the network has and the source has not, or has in another shape.
    pub missing: Vec<String>,
}

impl Params {
    /// Values as the authors' code starts with, drawn by `seed`: the same on every machine.
    ///
    /// # Errors
    /// If the device has no memory for them.
    pub fn new(plan: &Plan, device: &Device, seed: u64) -> Result<Self> {
        let mut params =
            Self { parameters: Vec::new(), buffers: Vec::new(), index: HashMap::new(), device: device.clone() };
        let mut random = SplitMix64::new(seed);
        for layer in plan.parts().flat_map(|part| part.convolutions()) {
            let shape = layer.shape;
            let window = shape.kernel * shape.kernel;
            let fan = match plan.init {
                Init::FanIn => shape.input / shape.groups * window,
                Init::FanOut => shape.output * window,
            };
            let dims = [shape.output, shape.input / shape.groups, shape.kernel, shape.kernel];
            let spread = (2.0 / fan as f64).sqrt();
            params.parameter(format!("{}.weight", layer.conv), &dims, || (random.normal() * spread) as f32)?;
            params.parameter(format!("{}.weight", layer.norm), &[shape.output], || 1.0)?;
            params.parameter(format!("{}.bias", layer.norm), &[shape.output], || 0.0)?;
            params.buffer(format!("{}.running_mean", layer.norm), shape.output, 0.0)?;
            params.buffer(format!("{}.running_var", layer.norm), shape.output, 1.0)?;
        }
        for head in &plan.heads {
            params.head(plan.init, head, &mut random)?;
        }
        Ok(params)
    }

    fn head(&mut self, init: Init, head: &Head, random: &mut SplitMix64) -> Result<()> {
        let Head { module, kind, features, classes } = head;
        let (features, classes) = (*features, *classes);
        let name = format!("{module}.weight");
        let bound = 1.0 / (features as f64).sqrt();
        match (kind, init) {
            // Directions only matter: columns are normalised.
            (HeadKind::Normed { .. }, _) => {
                let columns = unit_columns(features, classes, random);
                let mut values = columns.into_iter();
                self.parameter(name, &[features, classes], || values.next().unwrap_or(0.0))?;
            }
            (HeadKind::Linear { .. }, Init::FanIn) => {
                let spread = (2.0 / features as f64).sqrt();
                self.parameter(name, &[classes, features], || (random.normal() * spread) as f32)?;
            }
            _ => self.parameter(name, &[classes, features], || (random.symmetric() * bound) as f32)?,
        }
        if let HeadKind::Linear { bias: true } | HeadKind::Cosine { bias: true, .. } = kind {
            self.parameter(format!("{module}.bias"), &[classes], || (random.symmetric() * bound) as f32)?;
        }
        Ok(())
    }

    fn parameter(&mut self, name: String, dims: &[usize], mut value: impl FnMut() -> f32) -> Result<()> {
        let data: Vec<f32> = (0..dims.iter().product()).map(|_| value()).collect();
        let var = Var::from_tensor(&Tensor::from_vec(data, dims, &self.device)?)?;
        self.index.insert(name.clone(), Slot::Parameter(self.parameters.len()));
        self.parameters.push(Named { name, var });
        Ok(())
    }

    fn buffer(&mut self, name: String, len: usize, value: f32) -> Result<()> {
        let var = Var::from_tensor(&Tensor::full(value, len, &self.device)?)?;
        self.index.insert(name.clone(), Slot::Buffer(self.buffers.len()));
        self.buffers.push(Named { name, var });
        Ok(())
    }

    /// Where the tensors are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Everything that is trained, in a fixed order.
    pub fn parameters(&self) -> &[Named] {
        &self.parameters
    }

    /// Running statistics, in a fixed order.
    pub fn buffers(&self) -> &[Named] {
        &self.buffers
    }

    /// Position of a parameter in [`Params::parameters`].
    pub(super) fn position(&self, name: &str) -> Result<usize> {
        match self.index.get(name) {
            Some(Slot::Parameter(index)) => Ok(*index),
            _ => anyhow::bail!("the network has no parameter {name}"),
        }
    }

    /// A parameter or buffer.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn get(&self, name: &str) -> Result<&Var> {
        match self.index.get(name) {
            Some(Slot::Parameter(index)) => Ok(&self.parameters[*index].var),
            Some(Slot::Buffer(index)) => Ok(&self.buffers[*index].var),
            None => anyhow::bail!("the network has no tensor {name}"),
        }
    }

    /// Takes every tensor that has the name and shape of one of the network's; the others stay as they are.
    ///
    /// # Errors
    /// If a tensor has not as many elements as its shape says, or the device fails.
    pub fn load(&mut self, tensors: &BTreeMap<String, checkpoint::Tensor>) -> Result<Loaded> {
        let mut loaded = Loaded::default();
        for Named { name, var } in self.parameters.iter().chain(&self.buffers) {
            match tensors.get(name) {
                Some(tensor) if tensor.shape == var.dims() => {
                    set(var, &tensor.data).with_context(|| format!("the tensor {name}"))?;
                    loaded.taken.push(name.clone());
                }
                _ => loaded.missing.push(name.clone()),
            }
        }
        Ok(loaded)
    }

    /// Copies of all tensors, to be stored in a file that the importer reads.
    ///
    /// # Errors
    /// If the device fails.
    pub fn tensors(&self) -> Result<BTreeMap<String, checkpoint::Tensor>> {
        let copy = |named: &Named| {
            let data = named.var.flatten_all()?.to_vec1::<f32>()?;
            Ok((named.name.clone(), checkpoint::Tensor { shape: named.var.dims().to_vec(), data }))
        };
        self.parameters.iter().chain(&self.buffers).map(copy).collect()
    }
}

/// Overwrites a variable.
pub(super) fn set(var: &Var, data: &[f32]) -> Result<()> {
    ensure!(data.len() == var.elem_count(), "{} elements, expected the shape {:?}", data.len(), var.dims());
    var.set(&Tensor::from_slice(data, var.dims(), var.device())?.to_dtype(DType::F32)?)?;
    Ok(())
}

/// `[features][classes]`, each column uniform in the cube and scaled to length one.
fn unit_columns(features: usize, classes: usize, random: &mut SplitMix64) -> Vec<f32> {
    let mut values: Vec<f64> = (0..features * classes).map(|_| random.symmetric()).collect();
    for class in 0..classes {
        let norm = values.iter().skip(class).step_by(classes).map(|v| v * v).sum::<f64>().sqrt();
        values.iter_mut().skip(class).step_by(classes).for_each(|v| *v /= norm.max(f64::MIN_POSITIVE));
    }
    values.into_iter().map(|v| v as f32).collect()
}
