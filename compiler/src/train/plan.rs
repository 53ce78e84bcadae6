//! What a trainable network is made of: layers by the names of the official code's modules.
//!
//! [`crate::import::plan`] makes plans from configurations.

/// A network before it has parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// `arch.type` of the configuration.
    pub arch: String,
    /// How convolutions start.
    pub init: Init,
    /// Number of classes.
    pub classes: usize,
    /// What all experts share; may be empty.
    pub stem: Part,
    /// Each expert's own layers.
    pub experts: Vec<Part>,
    /// Each expert's classifier.
    pub heads: Vec<Head>,
}

/// How the authors' code initialises convolutions: normally distributed with variance `2 / fan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// The fan is the inputs of one output, as in the CIFAR networks (whose linear classifiers start alike).
    FanIn,
    /// The fan is the outputs, times the window, as in the ImageNet networks.
    FanOut,
}

/// A chain of layers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// `stem`, `expert0` and so on: the part's name in [`crate::network::Network`].
    pub name: String,
    /// The first convolution, with ReLU behind it.
    pub first: Option<ConvNorm>,
    /// Whether a 3 x 3 max pool of stride 2 and padding 1 follows it.
    pub max_pool: bool,
    /// Residual blocks.
    pub blocks: Vec<Residual>,
}

/// A residual block: `relu(convs(x) + shortcut(x))` with ReLU between the convolutions.
#[derive(Clone, Debug, PartialEq)]
pub struct Residual {
    /// The block's name within its part, such as `layer2.0`.
    pub node: String,
    /// Two or three convolutions.
    pub convs: Vec<ConvNorm>,
    /// What is added.
    pub shortcut: Shortcut,
}

/// What a residual block adds to its convolutions.
#[derive(Clone, Debug, PartialEq)]
pub enum Shortcut {
    /// The block's input.
    Identity,
    /// Every `stride`-th pixel of it with `pad` zero channels on either side.
    OptionA {
        /// Spatial stride.
        stride: usize,
        /// Zero channels on each side.
        pad: usize,
    },
    /// A 1 x 1 convolution of it.
    Projection(ConvNorm),
}

/// A convolution without bias and the batch normalisation behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvNorm {
    /// Module of the convolution: its tensor is `{conv}.weight`, `[output][input / groups][kernel][kernel]`.
    pub conv: String,
    /// Module of the normalisation: `{norm}.weight`, `.bias`, `.running_mean`, `.running_var`.
    pub norm: String,
    /// Name of the folded convolution's node within its part, such as `layer2.0.conv1`.
    pub node: String,
    /// Its shape.
    pub shape: Convolution,
}

/// Shape of a convolution with a square window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution {
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Rows and columns of the window.
    pub kernel: usize,
    /// Spatial stride.
    pub stride: usize,
    /// Zeros on each side.
    pub padding: usize,
    /// Groups; they divide the channels.
    pub groups: usize,
}

impl Convolution {
    /// Rows (or columns) of the output for `side` rows of input; `None` if the window does not fit.
    pub fn side(&self, side: usize) -> Option<usize> {
        Some((side + 2 * self.padding).checked_sub(self.kernel)? / self.stride + 1)
    }

    /// Elements of the weight.
    pub fn weights(&self) -> usize {
        self.output * self.input / self.groups * self.kernel * self.kernel
    }
}

/// A classifier on the average-pooled output of its expert.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Module: `{module}.weight` and, where there is one, `{module}.bias`.
    pub module: String,
    /// What it computes.
    pub kind: HeadKind,
    /// Length of the pooled feature.
    pub features: usize,
    /// Number of classes.
    pub classes: usize,
}

/// What a classifier computes of the feature `f`; vectors are normalised to unit length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeadKind {
    /// `W f + b`, `W` being `[classes][features]`.
    Linear {
        /// Whether there is `b`.
        bias: bool,
    },
    /// `s` times normalised `f` by normalised columns of `W`, which is `[features][classes]`.
    Normed {
        /// `s`.
        scale: f64,
    },
    /// `s` times normalised rows of `W`, `[classes][features]`, by normalised `f`, plus `b`.
    Cosine {
        /// `s`.
        scale: f64,
        /// Whether there is `b`.
        bias: bool,
    },
}

impl Part {
    /// All convolutions in the order in which they run.
    pub fn convolutions(&self) -> impl Iterator<Item = &ConvNorm> {
        self.first.iter().chain(self.blocks.iter().flat_map(|block| {
            let projection = match &block.shortcut {
                Shortcut::Projection(layer) => Some(layer),
                _ => None,
            };
            block.convs.iter().chain(projection)
        }))
    }
}

impl Plan {
    /// The stem and the experts.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.stem).chain(&self.experts)
    }
}
