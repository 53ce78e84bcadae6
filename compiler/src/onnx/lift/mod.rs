//! Follows a graph from its inputs and finds out what every value means.

mod constant;
mod head;
mod norm;
mod plane;
mod router;
mod shape;

use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};

use super::fold;
use super::graph::{Graph, Node, shortened};
use super::tensor::Tensor;
use super::value::{PlaneId, Value};
use crate::network::{Op, Shape};

/// An activation and how it is computed; values and operands are [`PlaneId`]s.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) op: Op,
    pub(super) inputs: Vec<PlaneId>,
}

/// What has been understood so far; several graphs that belong together share one.
#[derive(Clone, Debug)]
pub(super) struct Lifted {
    /// Steps in execution order.
    pub(super) steps: Vec<Step>,
    /// Shapes of the image and of every step's result.
    pub(super) shapes: Vec<Shape>,
}

impl Lifted {
    pub(super) fn new(image: Shape) -> Self {
        Self { steps: Vec::new(), shapes: vec![image] }
    }

    /// Adds a step.
    ///
    /// # Errors
    /// If the operation cannot take its operands.
    pub(super) fn push(&mut self, name: &str, op: Op, inputs: Vec<PlaneId>) -> Result<PlaneId> {
        let shape = self.shapes[inputs[0]];
        ensure!(
            inputs.iter().all(|&input| self.shapes[input] == shape),
            "its operands have different shapes: {:?}",
            inputs.iter().map(|&input| self.sides(input)).collect::<Vec<_>>()
        );
        let output = op.output_shape(shape).filter(|shape| !shape.is_empty());
        let output =
            output.with_context(|| format!("it cannot take an activation of shape {:?}", self.sides(inputs[0])))?;
        self.steps.push(Step { name: name.to_owned(), op, inputs });
        self.shapes.push(output);
        Ok(self.steps.len())
    }

    /// Shape of an activation in ONNX's order.
    pub(super) fn sides(&self, plane: PlaneId) -> [usize; 4] {
        let Shape { height, width, channels } = self.shapes[plane];
        [1, channels, height, width]
    }
}

/// Follows one graph.
pub(super) struct Lifter<'l> {
    pub(super) lifted: &'l mut Lifted,
    opset: i64,
    /// Batch size that is written into the graph.
    batch: usize,
    values: HashMap<String, Value>,
    /// How many nodes (and outputs) read each value.
    readers: HashMap<String, usize>,
    /// Elements of constants that may still be computed.
    budget: usize,
}

/// Operators by which exporters select samples, which only routing does in a classifier.
pub(super) const SELECTING: [&str; 10] = [
    "NonZero",
    "GatherND",
    "ScatterND",
    "ScatterElements",
    "Scatter",
    "Compress",
    "If",
    "Loop",
    "Scan",
    "GatherElements",
];

impl<'l> Lifter<'l> {
    /// Starts with the values of the inputs.
    pub(super) fn new(lifted: &'l mut Lifted, graph: &Graph, batch: usize, inputs: Vec<(String, Value)>) -> Self {
        let mut readers = HashMap::new();
        let used = graph.nodes.iter().flat_map(|node| &node.inputs).chain(&graph.outputs);
        used.for_each(|name| *readers.entry(name.clone()).or_insert(0) += 1);
        let weights: usize = graph.constants.values().map(Tensor::len).sum();
        let budget = weights.saturating_mul(4).saturating_add(1 << 24);
        Self { lifted, opset: graph.opset, batch, values: inputs.into_iter().collect(), readers, budget }
    }

    /// Goes through all nodes and returns the meaning of the outputs.
    ///
    /// # Errors
    /// Names the node, its operator and what is in the way.
    pub(super) fn run(&mut self, graph: &Graph) -> Result<Vec<(String, Value)>> {
        for (name, tensor) in &graph.constants {
            self.values.insert(name.clone(), Value::Constant(Rc::new(tensor.clone())));
        }
        for node in &graph.nodes {
            let value = self.node(node).with_context(|| node.to_string())?;
            let output = node.outputs.first().context("a node has no output")?;
            self.values.insert(output.clone(), value);
        }
        let output = |name: &String| {
            let value = self.values.get(name).cloned();
            Ok((name.clone(), value.with_context(|| format!("the output {:?} is not computed", shortened(name)))?))
        };
        graph.outputs.iter().map(output).collect()
    }

    fn node(&mut self, node: &Node) -> Result<Value> {
        let values: Vec<Option<Value>> = node.inputs.iter().map(|name| self.values.get(name).cloned()).collect();
        for (name, value) in node.inputs.iter().zip(&values) {
            ensure!(
                name.is_empty() || value.is_some(),
                "its operand {:?} is a result that is not supported",
                shortened(name)
            );
        }
        if let Some(value) = self.constant(node, &values)? {
            return Ok(value);
        }
        let first = values.iter().flatten().find(|value| !matches!(value, Value::Constant(_)));
        let subject = first.context("this operator is not supported on constants")?;
        let call = Call { node, values: &values };
        let done = match subject {
            Value::Constant(_) => None,
            Value::ImageLast => shape::image(self, &call)?,
            Value::Plane(_) | Value::Padded(..) | Value::Sampled(..) => plane::apply(self, &call)?,
            Value::Feature(_) => head::feature(self, &call)?,
            Value::Norm(_) => norm::apply(self, &call)?,
            Value::Logits(_) => head::logits(self, &call)?,
            Value::Stack(_) => head::stack(self, &call)?,
            Value::Top(_) | Value::Hidden(_) | Value::Seen(_) | Value::Score(_) => router::apply(self, &call)?,
        };
        match done {
            Some(value) => Ok(value),
            None => bail!(unsupported(node, subject)),
        }
    }

    /// The result of a node without inputs that depend on the image; `None` if it has such inputs.
    fn constant(&mut self, node: &Node, values: &[Option<Value>]) -> Result<Option<Value>> {
        if let ("Shape", Some(Some(value))) = (node.op.as_str(), values.first()) {
            let shape = self.shape_of(value);
            return Ok(Some(Value::Constant(Rc::new(fold::shape_of(node, &shape)?))));
        }
        let mut operands = Vec::with_capacity(values.len());
        for value in values {
            match value {
                None => operands.push(None),
                Some(Value::Constant(tensor)) => operands.push(Some(&**tensor)),
                Some(_) => return Ok(None),
            }
        }
        let Some(tensor) = fold::evaluate(node, &operands, self.opset)? else { return Ok(None) };
        let left = self.budget.checked_sub(tensor.len());
        self.budget = left.context("the graph computes constants that are far larger than its weights")?;
        Ok(Some(Value::Constant(Rc::new(tensor))))
    }

    /// The shape of a value, batch first.
    fn shape_of(&self, value: &Value) -> Vec<usize> {
        match value {
            Value::Constant(tensor) => tensor.shape.clone(),
            Value::ImageLast => {
                let Shape { height, width, channels } = self.lifted.shapes[0];
                vec![1, height, width, channels]
            }
            Value::Plane(plane) => self.lifted.sides(*plane).to_vec(),
            Value::Padded(plane, [top, left, bottom, right]) => {
                let [n, c, h, w] = self.lifted.sides(*plane);
                vec![n, c, h + top + bottom, w + left + right]
            }
            Value::Sampled(plane, [rows, columns]) => {
                let [n, c, h, w] = self.lifted.sides(*plane);
                vec![n, c, h.div_ceil(*rows), w.div_ceil(*columns)]
            }
            Value::Feature(feature) => feature.shape.clone(),
            Value::Norm(norm) => norm.shape.clone(),
            Value::Logits(logits) => logits.shape.clone(),
            Value::Stack(stack) => stack.shape.clone(),
            Value::Top(top) => top.shape.clone(),
            Value::Hidden(hidden) => hidden.shape.clone(),
            Value::Seen(seen) => vec![1, seen.top.k + seen.hidden.outputs()],
            Value::Score(score) => score.shape.clone(),
        }
    }

    /// Whether nothing but one node reads a value.
    fn read_once(&self, name: &str) -> bool {
        self.readers.get(name) == Some(&1)
    }
}

/// A node and its operands.
struct Call<'c> {
    node: &'c Node,
    values: &'c [Option<Value>],
}

impl<'c> Call<'c> {
    fn op(&self) -> &'c str {
        &self.node.op
    }

    fn value(&self, index: usize) -> Option<&'c Value> {
        self.values.get(index).and_then(Option::as_ref)
    }

    fn tensor(&self, index: usize) -> Option<&'c Tensor> {
        self.value(index).and_then(Value::constant)
    }

    /// A constant operand that must be there.
    fn weight(&self, index: usize) -> Result<&'c Tensor> {
        self.tensor(index).with_context(|| format!("its operand {} is not constant", index + 1))
    }

    fn tensors(&self) -> Vec<Option<&'c Tensor>> {
        (0..self.values.len()).map(|index| self.tensor(index)).collect()
    }

    /// The constant of an operation with two operands, and whether it comes first.
    fn pair(&self) -> Option<(&'c Tensor, bool)> {
        match (self.tensor(0), self.tensor(1)) {
            (Some(tensor), None) => Some((tensor, true)),
            (None, Some(tensor)) => Some((tensor, false)),
            _ => None,
        }
    }
}

/// Why a node cannot be taken.
fn unsupported(node: &Node, subject: &Value) -> String {
    let op = node.op.as_str();
    let what = subject.describe();
    if matches!(op, "Where" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual") {
        return format!(
            "it selects samples by {what}: the exporter has traced the routing of its example into the graph, so the \
             graph no longer runs every expert; export every expert and every router's score as outputs instead, as \
             examples/export/export_onnx.py does"
        );
    }
    let advice = match op {
        "QuantizeLinear" | "DequantizeLinear" | "QLinearConv" | "ConvInteger" | "DynamicQuantizeLinear" => {
            ": the model is quantized already; export the float model, quantizing is done here"
        }
        "HardSwish" | "HardSigmoid" | "Sigmoid" | "Swish" | "Mish" | "Gelu" | "Erf" | "Tanh" | "LeakyRelu"
        | "PRelu" | "Elu" | "Selu" | "Softplus" => {
            ": of activation functions, the int8 arithmetic has ReLU and ReLU6 (Clip to 0..6); train the model with one \
             of these (MobileNetV2 has them, MobileNetV3 does not)"
        }
        "Concat" => ": joining activations (DenseNet, Inception) has no int8 kernel",
        "Softmax" | "LogSoftmax" | "ArgMax" => {
            ": export the logits themselves; the runtime compares and averages logits"
        }
        "ConvTranspose" | "Resize" | "Upsample" => ": a classifier has no need of it",
        "Attention" | "LayerNormalization" | "GroupNormalization" | "InstanceNormalization" => {
            ": only batch normalisation can be folded into convolutions"
        }
        _ => "",
    };
    format!("this operator is not supported on {what}{advice}")
}
