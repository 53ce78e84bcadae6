//! What a value of the graph means to a classifier.
//!
//! The importer follows the graph from its inputs and knows for every value what it stands for: an activation, a pooled
//! feature, logits as a linear function of features, and so on. What exporters do in between (reshapes, expansions,
//! separate scales) changes the description and makes no operation.

use std::rc::Rc;

use anyhow::{Result, ensure};

use super::tensor::Tensor;

/// Index into the activations of a [`super::lift::Lifted`]: `0` is the image, `i + 1` is what step `i` computes.
pub(super) type PlaneId = usize;

/// The meaning of a value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Depends on no input.
    Constant(Rc<Tensor>),
    /// The image before its axes are brought into the order batch, channels, rows, columns.
    ImageLast,
    /// An activation, batch x channels x rows x columns.
    Plane(PlaneId),
    /// An activation with rows and columns of zeros around it, to be taken up by a convolution: top, left, bottom, right.
    Padded(PlaneId, [usize; 4]),
    /// Every n-th row and column of an activation.
    Sampled(PlaneId, [usize; 2]),
    /// A pooled feature.
    Feature(Feature),
    /// A step on the way to the norm of a feature.
    Norm(Norm),
    /// Linear functions of features, added up.
    Logits(Logits),
    /// Several of them side by side along a new axis.
    Stack(Stack),
    /// The largest logits in descending order.
    Top(Top),
    /// `max(x, 0)` of a linear function: a router's hidden layer.
    Hidden(Rc<Logits>),
    /// Largest logits and hidden layer, side by side: what a router's last layer reads.
    Seen(Seen),
    /// A router's score.
    Score(Rc<Score>),
}

/// The global average of an activation.
#[derive(Clone, Debug)]
pub(super) struct Feature {
    pub(super) trunk: PlaneId,
    /// Whether it has been divided by its L2 norm.
    pub(super) unit: bool,
    /// A factor.
    pub(super) scale: f64,
    pub(super) shape: Vec<usize>,
}

/// Something made of a feature that its norm is computed of.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub(super) trunk: PlaneId,
    /// Factor of the feature.
    pub(super) scale: f64,
    pub(super) stage: NormStage,
    pub(super) shape: Vec<usize>,
}

/// How far the computation of a norm has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormStage {
    /// The square of each element.
    Squares,
    /// Their sum.
    Sum,
    /// Its root.
    Root,
}

/// `sum of scale * (weight . feature + bias)` over the terms, plus `offset`.
#[derive(Clone, Debug)]
pub(super) struct Logits {
    pub(super) terms: Vec<Term>,
    /// What was added after terms had been summed up; one for each output.
    pub(super) offset: Vec<f64>,
    pub(super) shape: Vec<usize>,
}

/// One linear function of one feature.
#[derive(Clone, Debug)]
pub(super) struct Term {
    /// The layer; the same `Rc` means the same layer.
    pub(super) layer: Rc<Layer>,
    /// One for each output.
    pub(super) bias: Vec<f64>,
    pub(super) scale: f64,
}

/// Weights of a linear layer and the feature that it reads.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) name: String,
    pub(super) trunk: PlaneId,
    pub(super) unit: bool,
    /// `[outputs][features]`.
    pub(super) weight: Vec<f64>,
    pub(super) features: usize,
}

/// Values of the same kind along an axis.
#[derive(Clone, Debug)]
pub(super) struct Stack {
    pub(super) items: Vec<Logits>,
    pub(super) axis: usize,
    pub(super) shape: Vec<usize>,
}

/// The `k` largest of some logits.
#[derive(Clone, Debug)]
pub(super) struct Top {
    pub(super) logits: Rc<Logits>,
    pub(super) k: usize,
    pub(super) shape: Vec<usize>,
}

/// Operands of a router's last layer.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) top: Top,
    pub(super) hidden: Rc<Logits>,
    /// Whether the hidden layer comes first.
    pub(super) hidden_first: bool,
}

/// A router's score, before the sigmoid.
#[derive(Clone, Debug)]
pub(super) struct Score {
    pub(super) seen: Seen,
    /// In the order that the network's routers have: largest logits, then hidden layer.
    pub(super) weight: Vec<f64>,
    pub(super) bias: f64,
    pub(super) shape: Vec<usize>,
}

impl Value {
    /// For messages.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Value::Constant(_) => "a constant",
            Value::ImageLast => "the image with its channels last",
            Value::Plane(_) | Value::Sampled(..) => "an activation",
            Value::Padded(..) => "a padded activation",
            Value::Feature(_) => "a pooled feature",
            Value::Norm(_) => "part of a feature's norm",
            Value::Logits(_) => "logits",
            Value::Stack(_) => "a stack of logits",
            Value::Top(_) => "the largest logits",
            Value::Hidden(_) => "a linear layer with ReLU behind the pooling",
            Value::Seen(_) => "what a router reads",
            Value::Score(_) => "a router's score",
        }
    }

    pub(super) fn constant(&self) -> Option<&Tensor> {
        match self {
            Value::Constant(tensor) => Some(tensor),
            _ => None,
        }
    }
}

impl Feature {
    /// The axis that the feature runs along.
    pub(super) fn axis(&self) -> usize {
        long_axis(&self.shape)
    }
}

/// The axis of the only side that is longer than 1; the second if there is none.
pub(super) fn long_axis(shape: &[usize]) -> usize {
    shape.iter().position(|&side| side > 1).unwrap_or(1)
}

impl Logits {
    /// Number of outputs.
    pub(super) fn outputs(&self) -> usize {
        self.offset.len()
    }

    /// The axis that the outputs run along.
    pub(super) fn axis(&self) -> usize {
        long_axis(&self.shape)
    }

    pub(super) fn scaled(mut self, factor: f64) -> Self {
        self.terms.iter_mut().for_each(|term| term.scale *= factor);
        self.offset.iter_mut().for_each(|value| *value *= factor);
        self
    }

    /// Adds one number to each output: to the bias of a lone layer, else to the offset.
    pub(super) fn plus(mut self, values: &[f64]) -> Self {
        match &mut self.terms[..] {
            [term] if self.offset.iter().all(|&value| value == 0.0) && term.scale != 0.0 => {
                term.bias.iter_mut().zip(values).for_each(|(bias, value)| *bias += value / term.scale);
            }
            _ => self.offset.iter_mut().zip(values).for_each(|(offset, value)| *offset += value),
        }
        self
    }

    /// The sum of two.
    ///
    /// # Errors
    /// If they have different numbers of outputs.
    pub(super) fn sum(mut self, other: &Self) -> Result<Self> {
        ensure!(
            self.outputs() == other.outputs(),
            "logits of {} and of {} classes cannot be added",
            self.outputs(),
            other.outputs()
        );
        for term in &other.terms {
            match self.terms.iter_mut().find(|own| own.same_head(term)) {
                Some(own) => own.scale += term.scale,
                None => self.terms.push(term.clone()),
            }
        }
        self.offset.iter_mut().zip(&other.offset).for_each(|(own, value)| *own += value);
        Ok(self)
    }
}

impl Term {
    /// Whether both are the same layer with the same bias, whatever their factors.
    pub(super) fn same_head(&self, other: &Self) -> bool {
        let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-6 * (1.0 + a.abs());
        Rc::ptr_eq(&self.layer, &other.layer) && self.bias.iter().zip(&other.bias).all(close)
    }
}
