//! The same architectures as plans for training: layers by their modules' names, batch normalisation not folded in.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;

use super::arch::{Block, FamilyInput};
use super::blocks::{BlockShape, Geometry, IMAGE_CHANNELS};
use super::config::Config;
use super::spec::{Classifier, Spec};
use super::tensors::Tensors;
use crate::checkpoint::Tensor;
use crate::description::ModelTable;
use crate::train::plan::{ConvNorm, Convolution, Head, HeadKind, Init, Part, Plan, Residual, Shortcut};

/// The plan of the network that a configuration describes. `tensors` are those of a checkpoint, by which experts are
/// counted and found out how they are named; an untrained network has none, and `arch.args.num_experts` must be there.
///
/// Routers are not planned: they are trained on the features of a finished network.
///
/// # Errors
/// Names the key of the configuration that is missing, out of range or cannot be trained.
pub fn plan(config: &Value, model: &ModelTable, tensors: &BTreeMap<String, Tensor>) -> Result<Plan> {
    let config = Config::new(config, model);
    let spec = Spec::read(&config, model, &Tensors::new(tensors, config.origin))?;
    let features = spec.features();
    let mut heads = Vec::new();
    for index in 0..spec.experts {
        let kind = match spec.classifier {
            Classifier::Linear { bias } => HeadKind::Linear { bias },
            Classifier::Normed { scale } => HeadKind::Normed { scale },
            Classifier::Cosine { scale, bias } => HeadKind::Cosine { scale, bias },
            Classifier::Reslt { .. } => bail!("ResLT's classifier cannot be trained; it is for inference only"),
        };
        heads.push(Head { module: spec.of_expert("linear", index), kind, features, classes: spec.classes });
    }
    let init = match spec.arch.family.input {
        FamilyInput::Cifar => Init::FanIn,
        FamilyInput::ImageNet => Init::FanOut,
    };
    let experts = (0..spec.experts).map(|index| expert(&spec, index)).collect();
    Ok(Plan { arch: spec.name.clone(), init, classes: spec.classes, stem: stem(&spec), experts, heads })
}

fn stem(spec: &Spec) -> Part {
    let mut part = Part { name: "stem".into(), ..Part::default() };
    if !spec.separate {
        first(spec, ("conv1".into(), "bn1".into()), &mut part);
        for stage in 0..spec.shared {
            blocks(spec, stage, &format!("layer{}", stage + 1), &mut part);
        }
    }
    part
}

fn expert(spec: &Spec, index: usize) -> Part {
    let mut part = Part { name: format!("expert{index}"), ..Part::default() };
    if spec.separate {
        first(spec, (spec.of_expert("conv1", index), spec.of_expert("bn1", index)), &mut part);
    }
    for stage in spec.shared..spec.widths.len() {
        blocks(spec, stage, &spec.of_expert(&format!("layer{}", stage + 1), index), &mut part);
    }
    part
}

fn first(spec: &Spec, (conv, norm): (String, String), part: &mut Part) {
    let (kernel, stride, output) = spec.arch.family.first;
    let geometry = Geometry { input: IMAGE_CHANNELS, output, kernel, stride, groups: 1 };
    part.first = Some(ConvNorm { conv, norm, node: "conv1".into(), shape: convolution(geometry) });
    part.max_pool = spec.arch.family.max_pool;
}

fn blocks(spec: &Spec, stage: usize, module: &str, part: &mut Part) {
    let mut input = if stage == 0 { spec.arch.family.first.2 } else { spec.channels(stage - 1) };
    for block in 0..spec.depths[stage] {
        let stride = if block == 0 { spec.arch.family.stages[stage].stride } else { 1 };
        let shape = BlockShape { kind: spec.arch.block, input, planes: spec.widths[stage], stride };
        let node = format!("layer{}.{block}", stage + 1);
        part.blocks.push(residual(&format!("{module}.{block}"), node, &shape));
        input = shape.output();
    }
}

fn residual(module: &str, node: String, shape: &BlockShape) -> Residual {
    let layer = |(index, &geometry): (usize, &Geometry)| ConvNorm {
        conv: format!("{module}.conv{}", index + 1),
        norm: format!("{module}.bn{}", index + 1),
        node: format!("{node}.conv{}", index + 1),
        shape: convolution(geometry),
    };
    let convs = shape.convolutions().iter().enumerate().map(layer).collect();
    let (input, output, stride) = (shape.input, shape.output(), shape.stride);
    let shortcut = if stride == 1 && input == output {
        Shortcut::Identity
    } else if shape.kind == Block::OptionA {
        Shortcut::OptionA { stride, pad: (output - input) / 2 }
    } else {
        Shortcut::Projection(ConvNorm {
            conv: format!("{module}.downsample.0"),
            norm: format!("{module}.downsample.1"),
            node: format!("{node}.downsample"),
            shape: convolution(Geometry { input, output, kernel: 1, stride, groups: 1 }),
        })
    };
    Residual { node, convs, shortcut }
}

fn convolution(geometry: Geometry) -> Convolution {
    let Geometry { input, output, kernel, stride, groups } = geometry;
    Convolution { input, output, kernel, stride, padding: kernel / 2, groups }
}
