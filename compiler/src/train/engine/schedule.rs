//! In which order a part's layers run, and which values live where.

use anyhow::{Context, Result};

use crate::train::ops::conv::Conv;
use crate::train::ops::plane::Plane;
use crate::train::ops::pool;
use crate::train::ops::simd::Level;
use crate::train::plan::{ConvNorm, Part, Shortcut};

/// Border of a part's output, whatever reads it.
const OUTPUT_BORDER: usize = 1;

/// Index of an activation; 0 is the part's input.
pub(super) type ActId = usize;
/// Index of a layer.
pub(super) type LayerId = usize;

/// What is added to a convolution before ReLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    None,
    Same(ActId),
    OptionA { act: ActId, stride: usize, pad: usize },
    Layer(LayerId),
}

/// An activation made of convolutions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Join {
    pub(super) act: ActId,
    pub(super) layer: LayerId,
    pub(super) added: Added,
}

/// What happens to one image at a time: an activation is made and convolved.
#[derive(Clone, Debug, Default)]
pub(super) struct Stage {
    /// What makes the activation; `None` is the part's input.
    pub(super) join: Option<Join>,
    /// The activation's max-pooled form, which is then what is convolved.
    pub(super) pooled: Option<ActId>,
    /// Convolutions of it.
    pub(super) layers: Vec<LayerId>,
    /// Which later activation it is added to, and how.
    pub(super) skip: Option<Added>,
    pub(super) skip_to: ActId,
}

/// A convolution of an activation.
#[derive(Debug)]
pub(super) struct Wired {
    pub(super) conv: Conv,
    pub(super) names: ConvNorm,
    /// Name of its own value in [`crate::network::Network`].
    pub(super) value: String,
    /// The activation that its normalised output becomes part of.
    pub(super) consumer: ActId,
}

/// A part at a fixed size of image.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pub(super) stages: Vec<Stage>,
    pub(super) layers: Vec<Wired>,
    /// Shapes of activations.
    pub(super) acts: Vec<Plane>,
    /// Their names in [`crate::network::Network`]; empty for the input.
    pub(super) names: Vec<String>,
}

impl Stage {
    /// The activation that its convolutions read.
    pub(super) fn source(&self) -> ActId {
        self.pooled.or(self.join.map(|join| join.act)).unwrap_or(0)
    }
}

impl Schedule {
    /// # Errors
    /// If the image is too small for a layer.
    pub(super) fn new(part: &Part, input: Plane, level: Level) -> Result<Self> {
        let mut schedule =
            Self { acts: vec![input], names: vec![String::new()], stages: vec![Stage::default()], ..Self::default() };
        schedule.build(part, level).with_context(|| {
            format!("{} cannot run on an input of {} x {} pixels", part.name, input.height, input.width)
        })?;
        Ok(schedule)
    }

    fn build(&mut self, part: &Part, level: Level) -> Result<()> {
        let mut blocks = part.blocks.iter().peekable();
        if let Some(first) = &part.first {
            let next = blocks.peek().map_or(OUTPUT_BORDER, |block| border(&block.convs[0]));
            let layer = self.layer(&part.name, first, level)?;
            self.join(layer, Added::None, if part.max_pool { 0 } else { next }, format!("{}.relu1", part.name));
            if part.max_pool {
                let plane = *self.acts.last().context("there is an activation")?;
                let (height, width) = (pool::pooled(plane.height), pool::pooled(plane.width));
                self.acts.push(Plane { height, width, border: next, ..plane });
                self.names.push(format!("{}.maxpool", part.name));
                let act = self.acts.len() - 1;
                self.stage().pooled = Some(act);
            }
        }
        while let Some(block) = blocks.next() {
            let next = blocks.peek().map_or(OUTPUT_BORDER, |block| border(&block.convs[0]).max(OUTPUT_BORDER));
            let (start, input) = (self.stages.len() - 1, self.stage().source());
            let mut layer = 0;
            let name = |relu: usize| format!("{}.{}.relu{relu}", part.name, block.node);
            let mut added = match &block.shortcut {
                Shortcut::Identity => Added::Same(input),
                Shortcut::OptionA { stride, pad } => Added::OptionA { act: input, stride: *stride, pad: *pad },
                Shortcut::Projection(_) => Added::None,
            };
            for (index, names) in block.convs.iter().enumerate() {
                layer = self.layer(&part.name, names, level)?;
                if let (0, Shortcut::Projection(names)) = (index, &block.shortcut) {
                    added = Added::Layer(self.layer(&part.name, names, level)?);
                }
                if let Some(after) = block.convs.get(index + 1) {
                    self.join(layer, Added::None, border(after), name(index + 1));
                }
            }
            self.join(layer, added, next, name(block.convs.len()));
            let output = self.acts.len() - 1;
            if matches!(added, Added::Same(_) | Added::OptionA { .. }) {
                (self.stages[start].skip, self.stages[start].skip_to) = (Some(added), output);
            }
        }
        Ok(())
    }

    fn stage(&mut self) -> &mut Stage {
        self.stages.last_mut().expect("there is always one stage")
    }

    /// Adds a convolution of the current stage's activation.
    fn layer(&mut self, part: &str, names: &ConvNorm, level: Level) -> Result<LayerId> {
        let source = self.stage().source();
        let input = self.acts[source];
        let conv = Conv::new(names.shape, input, level).with_context(|| format!("{} has no pixel left", names.conv))?;
        let value = format!("{part}.{}", names.node);
        self.layers.push(Wired { conv, names: names.clone(), value, consumer: 0 });
        let layer = self.layers.len() - 1;
        self.stage().layers.push(layer);
        Ok(layer)
    }

    /// Begins a stage with an activation made of convolutions.
    fn join(&mut self, layer: LayerId, added: Added, border: usize, name: String) {
        let act = self.acts.len();
        self.names.push(name);
        self.acts.push(Plane { border, ..self.layers[layer].conv.output() });
        self.layers[layer].consumer = act;
        if let Added::Layer(layer) = added {
            self.layers[layer].consumer = act;
        }
        self.stages.push(Stage { join: Some(Join { act, layer, added }), ..Stage::default() });
    }
}

fn border(layer: &ConvNorm) -> usize {
    layer.shape.padding
}
