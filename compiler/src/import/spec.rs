//! What the configuration says about the network, checked before anything is built.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::arch::{Architecture, Block, Stage};
use super::args::Args;
use super::tensors::Tensors;

/// Most experts; the paper uses two to six.
const MAX_EXPERTS: usize = 64;
/// Most classes; iNaturalist 2018 has 8,142.
const MAX_CLASSES: usize = 1 << 20;
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
    /// How many stages belong to the stem.
    pub(super) shared: usize,
    /// Whether a lone expert's tensors are named as if there were several: `layer3s.0` instead of `layer3`.
    pub(super) listed: bool,
    /// Whether feature and classifier are normalised.
    pub(super) use_norm: bool,
    /// Factor of the logits.
    pub(super) scale: f64,
    /// Whether the architecture has routers.
    pub(super) routed: bool,
    /// How many sorted logits a router sees.
    pub(super) top_k: usize,
    /// Whether all routers have their last layer in common.
    pub(super) shared_fc: bool,
    /// What the user should know about arguments that are not followed.
    pub(super) warnings: Vec<String>,
}

impl Spec {
    /// Reads `arch` of the configuration.
    pub(super) fn read(config: &Value, tensors: &Tensors<'_>) -> Result<Self> {
        let kind = config.get("arch").and_then(|arch| arch.get("type")).and_then(Value::as_str);
        let kind = kind.with_context(|| {
            format!("config.json has no arch.type; expected the architecture's name, one of {}", Architecture::known())
        })?;
        let (arch, routed) = Architecture::find(kind).with_context(|| {
            format!(
                "config.json: the architecture {kind:?} in arch.type is unknown; known are {}",
                Architecture::known()
            )
        })?;
        let args = Args::new(config, "arch")?;
        let classes = args.count("num_classes", 1..=MAX_CLASSES)?;
        let classes =
            classes.context("config.json: arch.args.num_classes is missing; expected the number of classes")?;
        let use_norm = args.flag("use_norm", false)?;
        let top_k = args.count("top_choices_num", 1..=MAX_CLASSES)?.unwrap_or(TOP_CHOICES);
        ensure!(
            !routed || top_k <= classes,
            "config.json: arch.args.top_choices_num is {top_k} but there are only {classes} classes; a router cannot \
             see more logits than there are (if the key is missing, it is {TOP_CHOICES})"
        );
        let mut spec = Self {
            name: kind.to_string(),
            arch,
            classes,
            experts: 1,
            widths: widths(arch, &args)?,
            shared: arch.family.shared,
            listed: false,
            use_norm,
            scale: if use_norm { args.number("s", SCALE)? } else { 1.0 },
            routed,
            top_k,
            shared_fc: args.flag("share_expert_help_pred_fc", true)?,
            warnings: Vec::new(),
        };
        spec.share_layer3(&args)?;
        spec.count_experts(&args, tensors)?;
        if args.get("use_experts").is_some() {
            spec.warnings
                .push("arch.args.use_experts is not followed: every expert of the checkpoint is imported".into());
        }
        Ok(spec)
    }

    fn share_layer3(&mut self, args: &Args<'_>) -> Result<()> {
        let key = format!("share_layer{}", self.shared + 1);
        if !self.arch.family.may_share_next {
            ensure!(args.get("share_layer3").is_none(), "config.json: {} has no argument share_layer3", self.name);
        } else if args.flag(&key, false)? {
            self.shared += 1;
        }
        Ok(())
    }

    /// Compares `num_experts` with the classifiers that are there, before anything is built for each expert.
    fn count_experts(&mut self, args: &Args<'_>, tensors: &Tensors<'_>) -> Result<()> {
        let listed = tensors.count_list("linears");
        self.listed = listed > 0;
        let found = if self.listed { listed } else { usize::from(tensors.contains("linear.weight")) };
        let classifiers = if self.listed { "linears.0, linears.1, ..." } else { "linear" };
        ensure!(found > 0, "the checkpoint has no classifier: expected the tensor linears.0.weight or linear.weight");
        let asked = args.count("num_experts", 1..=MAX_EXPERTS)?.unwrap_or(found);
        ensure!(
            asked == found,
            "config.json: arch.args.num_experts is {asked} but the checkpoint has the classifiers of {found} \
             ({classifiers}); is this the config.json of another checkpoint?"
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

/// For messages: the arguments that shapes follow from.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, classes, experts, widths, use_norm, .. } = self;
        write!(f, "{name} with num_classes {classes}, num_experts {experts}, widths {widths:?}, use_norm {use_norm}")?;
        if self.routed {
            write!(f, ", top_choices_num {}", self.top_k)?;
        }
        Ok(())
    }
}

/// The width of each stage: `layerN_output_dim` if given, else by `reduce_dimension`. Stages that all architectures
/// share have a fixed width.
fn widths(arch: &Architecture, args: &Args<'_>) -> Result<Vec<usize>> {
    let reduce = args.flag("reduce_dimension", false)?;
    let stages = arch.family.stages.iter().enumerate();
    let width = |(index, stage): (usize, &Stage)| {
        let own = index >= arch.family.shared;
        let given = args.count(&format!("layer{}_output_dim", index + 1), 1..=MAX_WIDTH)?.filter(|_| own);
        let width = given.unwrap_or(if reduce { stage.reduced } else { stage.planes });
        ensure!(
            arch.block.inner(width) > 0,
            "config.json: arch.args.layer{}_output_dim {width} is too narrow for {}: its groups would be empty",
            index + 1,
            arch.name
        );
        Ok(width)
    };
    let widths = stages.map(width).collect::<Result<Vec<_>>>()?;
    if arch.block == Block::OptionA {
        check_padding(&widths)?;
    }
    Ok(widths)
}

/// The option-A shortcut pads with the same number of zero channels on either side.
fn check_padding(widths: &[usize]) -> Result<()> {
    for (index, pair) in widths.windows(2).enumerate() {
        let added = pair[1].checked_sub(pair[0]);
        ensure!(
            added.is_some_and(|added| added.is_multiple_of(2)),
            "config.json: arch.args.layer{}_output_dim is {} but the shortcut from {} channels can only add an even \
             number of them",
            index + 2,
            pair[1],
            pair[0]
        );
    }
    Ok(())
}
