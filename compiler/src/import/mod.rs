//! From a checkpoint of the official RIDE code to the [`Network`] that the rest of the compiler works on.
//!
//! The architectures are those of Wang et al., "Long-tailed Recognition by Routing Diverse Distribution-Aware
//! Experts" (ICLR 2021), with the tensor names of the authors' code: ResNet-32 for CIFAR, and ResNet-10/50/101/152
//! and ResNeXt-50/152 for ImageNet-LT, iNaturalist and Places, each with and without routers. What tells them apart is
//! data in `arch.rs`. Every tensor of the checkpoint must be used and must have the shape that the configuration gives
//! it.

use anyhow::{Context, Result, ensure};
use ride_calibrate::preprocess::Preprocess;
use serde_json::Value;

use crate::checkpoint::Checkpoint;
use crate::description::{ModelTable, Rules};
use crate::network::{Input, Network, Part, Routing, Shape};

mod arch;
mod args;
mod blocks;
mod config;
mod head;
#[cfg(feature = "train")]
mod plan;
mod preprocess;
mod spec;
mod tensors;

#[cfg(test)]
mod tests;

#[cfg(feature = "train")]
pub use plan::plan;

use arch::Architecture;
use config::Config;
use spec::Spec;
use tensors::Tensors;

/// What the user says about the model beyond its own files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportOptions {
    /// `--mean`: mean of each channel, in units of the pixel range 0..=1.
    pub mean: Option<Vec<f32>>,
    /// `--std`: standard deviation of each channel, in the same units.
    pub std: Option<Vec<f32>>,
    /// `--input-size`: rows and columns of the network's input.
    pub input_size: Option<[usize; 2]>,
    /// `--resize`: length in pixels that the shorter side of an image is resized to before the crop.
    pub resize: Option<usize>,
    /// How many experts an ONNX graph must have.
    pub experts: Option<usize>,
    /// Combiner, routers and logit adjustment.
    pub rules: Rules,
    /// Architecture, arguments and classifiers of a checkpoint.
    pub model: ModelTable,
}

/// An imported model.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The float network, batch normalisation folded in.
    pub network: Network,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
    /// How images become the network's input.
    pub preprocess: Preprocess,
    /// What [`Imported::apply_rules`] has yet to do.
    pub rules: Rules,
}

impl Imported {
    /// Turns the network as it was trained, which calibration tables belong to, into the one that is compiled: combiner,
    /// routers and logit adjustment. `counts` are the training images of each class, empty if they are not known.
    ///
    /// # Errors
    /// See [`crate::rules::apply`].
    pub fn apply_rules(&mut self, counts: &[u32]) -> Result<()> {
        crate::rules::apply(&std::mem::take(&mut self.rules), &mut self.network, counts)
    }
}

/// Builds the network of a checkpoint.
///
/// # Errors
/// Names the tensor or the configuration's key and what was expected: an unknown architecture, arguments out of range,
/// missing, left-over or mis-shaped tensors, a batch normalisation that cannot be folded, an input that is too small
/// for the network.
pub fn network(checkpoint: &Checkpoint, options: &ImportOptions) -> Result<Imported> {
    let config = Config::new(&checkpoint.config, &options.model);
    let mut tensors = Tensors::new(&checkpoint.tensors, config.origin);
    let spec = Spec::read(&config, &options.model, &tensors)?;
    let (preprocess, mut warnings) = preprocess::of_config(&config, spec.arch.family.input, options)?;
    warnings.extend(spec.warnings.iter().cloned());
    let stem = blocks::stem(&spec, &mut tensors)?;
    let size = preprocess.input;
    let shape = Shape { height: size.height, width: size.width, channels: size.channels };
    // Shapes that do not fit are found below.
    let between = stem.shapes(shape).and_then(|shapes| shapes.last().copied()).unwrap_or(shape);
    let mut experts = Vec::new();
    for index in 0..spec.experts {
        experts.push(blocks::expert(&spec, index, between, &mut tensors)?);
    }
    let routing = head::routing(&spec, &mut tensors)?;
    tensors.finish(&spec)?;
    let input = Input { shape, mean: preprocess.mean.clone(), std: preprocess.std.clone() };
    let network = Network { arch: spec.name.clone(), input, classes: spec.classes, stem, experts, routing };
    check_shapes(&network)?;
    Ok(Imported { network, warnings, preprocess, rules: options.rules.clone() })
}

/// How images become the input of the network that a configuration describes, and warnings about what is assumed.
///
/// # Errors
/// If the architecture is unknown or the preparation is not possible.
pub fn preprocess(config: &Value, options: &ImportOptions) -> Result<(Preprocess, Vec<String>)> {
    let config = Config::new(config, &options.model);
    let kind = config.value.get("arch").and_then(|arch| arch.get("type")).and_then(Value::as_str);
    let kind = kind.with_context(|| format!("{} has no arch.type", config.origin))?;
    let (arch, _) = Architecture::find(kind)
        .with_context(|| format!("the architecture {kind:?} is unknown; known are {}", Architecture::known()))?;
    preprocess::of_config(&config, arch.family.input, options)
}

/// Every operation must be able to take what it is given.
fn check_shapes(network: &Network) -> Result<()> {
    let Shape { height, width, channels } = network.input.shape;
    let walk = |part: &Part, input: Shape| {
        let shapes = part.shapes(input).and_then(|shapes| shapes.last().copied()).filter(|shape| !shape.is_empty());
        shapes.with_context(|| {
            format!("{} cannot run on an input of {height} x {width} x {channels}; see --input-size", part.name)
        })
    };
    let stem = walk(&network.stem, network.input.shape)?;
    for expert in &network.experts {
        let output = walk(&expert.trunk, stem)?;
        ensure!(
            output.channels == expert.head.features,
            "{} ends with {} channels but its classifier takes {}",
            expert.trunk.name,
            output.channels,
            expert.head.features
        );
    }
    let between = network.experts.len() - 1;
    ensure!(
        network.routing == Routing::None || network.routing.routers() == between,
        "there is not one router between each two experts"
    );
    Ok(())
}
