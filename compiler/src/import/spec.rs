//! What the configuration says about the network, checked before anything is built.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::arch::{Architecture, Block, Stage};
use super::args::Args;
use super::config::Config;
use super::tensors::Tensors;
use crate::description::{ClassifierKind, ClassifierTable, ModelTable};

/// Most experts; the paper uses two to six.
const MAX_EXPERTS: usize = 64;
/// Most classes; iNaturalist 2018 has 8,142.
const MAX_CLASSES: usize = 1 << 20;
/// Most blocks in a stage; ResNet-152 has 36.
const MAX_BLOCKS: usize = 256;
/// Widest stage, before the block's expansion.
const MAX_WIDTH: usize = 1 << 14;
/// The official default of `top_choices_num`.
const TOP_CHOICES: usize = 5;
/// The official default of `s`, the scale of normed classifiers.
const SCALE: f64 = 30.0;

/// One model: an architecture with its arguments.
#[derive(Debug)]
pub(super) struct Spec {
    /// The value of `arch.type`.
    pub(super) name: String,
    pub(super) arch: &'static Architecture,
    pub(super) classes: usize,
    pub(super) experts: usize,
    /// Width of each stage, before the block's expansion.
    pub(super) widths: Vec<usize>,
    /// Blocks in each stage.
    pub(super) depths: Vec<usize>,
    /// How many stages belong to the stem.
    pub(super) shared: usize,
    /// Whether a lone expert's tensors are named as if there were several: `layer3s.0` instead of `layer3`.
    pub(super) listed: bool,
    /// Whether the experts share no layer at all.
    pub(super) separate: bool,
    /// What the classifiers compute.
    pub(super) classifier: Classifier,
    /// Whether the architecture has routers.
    pub(super) routed: bool,
    /// How many sorted logits a router sees.
    pub(super) top_k: usize,
    /// Whether all routers have their last layer in common.
    pub(super) shared_fc: bool,
    /// What the user should know about arguments that are not followed.
    pub(super) warnings: Vec<String>,
    /// Who says all this, for messages.
    pub(super) origin: &'static str,
}

/// What a classifier computes; see [`ClassifierKind`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Classifier {
    Linear { bias: bool },
    Normed { scale: f64 },
    Cosine { scale: f64, bias: bool },
    Reslt { gamma: f64 },
}

impl Spec {
    /// Reads `arch` of the configuration; `model` says what it cannot.
    pub(super) fn read(config: &Config, model: &ModelTable, tensors: &Tensors<'_>) -> Result<Self> {
        let origin = config.origin;
        let kind = config.value.get("arch").and_then(|arch| arch.get("type")).and_then(Value::as_str);
        let kind = kind.with_context(|| {
            format!("{origin} has no arch.type; expected the architecture's name, one of {}", Architecture::known())
        })?;
        let (arch, routed) = Architecture::find(kind).with_context(|| {
            format!("{origin}: the architecture {kind:?} in arch.type is unknown; known are {}", Architecture::known())
        })?;
        let args = Args::new(config, "arch")?;
        let classes = args.count("num_classes", 1..=MAX_CLASSES)?;
        let classes = classes
            .with_context(|| format!("{origin}: arch.args.num_classes is missing; expected the number of classes"))?;
        let top_k = args.count("top_choices_num", 1..=MAX_CLASSES)?.unwrap_or(TOP_CHOICES);
        ensure!(
            !routed || top_k <= classes,
            "{origin}: arch.args.top_choices_num is {top_k} but there are only {classes} classes; a router cannot \
             see more logits than there are (if the key is missing, it is {TOP_CHOICES})"
        );
        let mut spec = Self {
            name: kind.to_string(),
            arch,
            classes,
            experts: 1,
            widths: widths(arch, &args, origin)?,
            depths: depths(arch, &args)?,
            shared: if model.separate { 0 } else { arch.family.shared },
            listed: false,
            separate: model.separate,
            classifier: Classifier::read(&args, model.classifier.as_ref())?,
            routed,
            top_k,
            shared_fc: args.flag("share_expert_help_pred_fc", true)?,
            warnings: Vec::new(),
            origin,
        };
        spec.share_layer3(&args)?;
        spec.count_experts(&args, tensors)?;
        if args.get("use_experts").is_some() {
            spec.warnings
                .push("arch.args.use_experts is not followed: every expert of the checkpoint is imported".into());
        }
        let routers = spec.routed && matches!(spec.classifier, Classifier::Reslt { .. });
        ensure!(!routers, "[model.classifier] kind = \"reslt\" is for architectures without trained routers");
        Ok(spec)
    }

    fn share_layer3(&mut self, args: &Args<'_>) -> Result<()> {
        if !self.arch.family.may_share_next {
            // BalPoE's ResNet-32 can share stages, but its checkpoints repeat them for every expert.
            for key in ["share_layer2", "share_layer3"] {
                if args.flag(key, false)? {
                    self.warnings.push(format!("arch.args.{key} is not followed: each expert runs its own copy"));
                }
            }
        } else if args.flag(&format!("share_layer{}", self.arch.family.shared + 1), false)? {
            ensure!(
                !self.separate,
                "[model] separate = true, but arch.args say that experts share layer3; drop one of them"
            );
            self.shared += 1;
        }
        Ok(())
    }

    /// Compares `num_experts` with the classifiers that are there, before anything is built for each expert. Without
    /// any tensors, which is how untrained networks are planned, `num_experts` must be there.
    fn count_experts(&mut self, args: &Args<'_>, tensors: &Tensors<'_>) -> Result<()> {
        if tensors.is_empty() {
            let asked = args.count("num_experts", 1..=MAX_EXPERTS)?;
            self.experts = asked.with_context(|| format!("{}: arch.args.num_experts is missing", self.origin))?;
            // A lone expert is the plain network to the official code, whose modules are not in lists.
            self.listed = self.experts > 1;
            return Ok(());
        }
        let listed = tensors.count_list("linears");
        self.listed = listed > 0;
        let found = if self.listed { listed } else { usize::from(tensors.contains("linear.weight")) };
        let classifiers = if self.listed { "linears.0, linears.1, ..." } else { "linear" };
        ensure!(found > 0, "the checkpoint has no classifier: expected the tensor linears.0.weight or linear.weight");
        let asked = args.count("num_experts", 1..=MAX_EXPERTS)?.unwrap_or(found);
        ensure!(
            asked == found,
            "{origin}: arch.args.num_experts is {asked} but the checkpoint has the classifiers of {found} \
             ({classifiers}); is this the {origin} of another checkpoint?",
            origin = self.origin
        );
        ensure!(found <= MAX_EXPERTS, "the checkpoint has {found} experts; at most {MAX_EXPERTS} are possible");
        self.experts = found;
        Ok(())
    }

    /// Output channels of a stage, counted from 0.
    pub(super) fn channels(&self, stage: usize) -> usize {
        self.widths[stage] * self.arch.block.expansion()
    }

    /// Length of the pooled feature.
    pub(super) fn features(&self) -> usize {
        self.channels(self.widths.len() - 1)
    }

    /// Name of a module of one expert, such as `layer3s.0` or, for a plain network, `layer3`.
    pub(super) fn of_expert(&self, module: &str, expert: usize) -> String {
        if self.listed { format!("{module}s.{expert}") } else { module.to_string() }
    }
}

impl Classifier {
    /// As the arguments of the architecture say, unless a description says more.
    fn read(args: &Args<'_>, table: Option<&ClassifierTable>) -> Result<Self> {
        let use_norm = args.flag("use_norm", false)?;
        let Some(&ClassifierTable { kind, scale, bias, gamma }) = table else {
            return Ok(match use_norm {
                true => Classifier::Normed { scale: args.number("s", SCALE)? },
                false => Classifier::Linear { bias: true },
            });
        };
        let unused = match kind {
            ClassifierKind::Linear => [("scale", scale.is_some()), ("gamma", gamma.is_some())],
            ClassifierKind::Normed => [("bias", bias == Some(true)), ("gamma", gamma.is_some())],
            ClassifierKind::Cosine => [("gamma", gamma.is_some()); 2],
            ClassifierKind::Reslt => [("scale", scale.is_some()), ("bias", bias == Some(true))],
        };
        if let Some((key, _)) = unused.iter().find(|(_, given)| *given) {
            bail!("[model.classifier] {key} has no meaning for this kind of classifier; leave it out");
        }
        let number = |key: &str, given: Option<f64>| match given {
            Some(value) => {
                ensure!(
                    value.is_finite() && value > 0.0,
                    "[model.classifier] {key} is {value}; expected a positive number"
                );
                Ok(value)
            }
            None => bail!("[model.classifier] {key} is missing; the configuration of the training has it"),
        };
        Ok(match kind {
            ClassifierKind::Linear => Classifier::Linear { bias: bias.unwrap_or(true) },
            ClassifierKind::Normed => {
                Classifier::Normed { scale: number("scale", scale.or(Some(args.number("s", SCALE)?)))? }
            }
            ClassifierKind::Cosine => Classifier::Cosine { scale: number("scale", scale)?, bias: bias.unwrap_or(true) },
            ClassifierKind::Reslt => Classifier::Reslt { gamma: number("gamma", gamma)? },
        })
    }
}

impl fmt::Display for Classifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Classifier::Linear { .. } => write!(f, "use_norm false"),
            Classifier::Normed { .. } => write!(f, "use_norm true"),
            Classifier::Cosine { .. } => write!(f, "cosine classifiers"),
            Classifier::Reslt { .. } => write!(f, "ResLT's classifiers"),
        }
    }
}

/// For messages: the arguments that shapes follow from.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, classes, experts, widths, classifier, .. } = self;
        write!(f, "{name} with num_classes {classes}, num_experts {experts}, widths {widths:?}, {classifier}")?;
        if self.depths != self.arch.depths {
            write!(f, ", blocks {:?}", self.depths)?;
        }
        if self.separate {
            write!(f, ", separate experts")?;
        }
        if self.routed {
            write!(f, ", top_choices_num {}", self.top_k)?;
        }
        Ok(())
    }
}

/// The width of each stage: `layerN_output_dim` if given, else by `reduce_dimension`. Stages that all architectures
/// share have a fixed width.
fn widths(arch: &Architecture, args: &Args<'_>, origin: &str) -> Result<Vec<usize>> {
    let reduce = args.flag("reduce_dimension", false)?;
    let stages = arch.family.stages.iter().enumerate();
    let width = |(index, stage): (usize, &Stage)| {
        let own = index >= arch.family.shared;
        let given = args.count(&format!("layer{}_output_dim", index + 1), 1..=MAX_WIDTH)?.filter(|_| own);
        let width = given.unwrap_or(if reduce { stage.reduced } else { stage.planes });
        ensure!(
            arch.block.inner(width) > 0,
            "{origin}: arch.args.layer{}_output_dim {width} is too narrow for {}: its groups would be empty",
            index + 1,
            arch.name
        );
        Ok(width)
    };
    let widths = stages.map(width).collect::<Result<Vec<_>>>()?;
    if arch.block == Block::OptionA {
        check_padding(&widths, origin)?;
    }
    Ok(widths)
}

/// The blocks of each stage: `layerN_blocks` if given, else those of the architecture. The authors' code has no such
/// argument; students that are shallower than their architecture do.
fn depths(arch: &Architecture, args: &Args<'_>) -> Result<Vec<usize>> {
    let stages = arch.depths.iter().enumerate();
    stages
        .map(|(stage, &blocks)| {
            Ok(args.count(&format!("layer{}_blocks", stage + 1), 1..=MAX_BLOCKS)?.unwrap_or(blocks))
        })
        .collect()
}

/// The option-A shortcut pads with the same number of zero channels on either side.
fn check_padding(widths: &[usize], origin: &str) -> Result<()> {
    for (index, pair) in widths.windows(2).enumerate() {
        let added = pair[1].checked_sub(pair[0]);
        ensure!(
            added.is_some_and(|added| added.is_multiple_of(2)),
            "{origin}: arch.args.layer{}_output_dim is {} but the shortcut from {} channels can only add an even \
             number of them",
            index + 2,
            pair[1],
            pair[0]
        );
    }
    Ok(())
}
