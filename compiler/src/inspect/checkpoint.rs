//! Reports on checkpoints.

use anyhow::{Context, Result};
use serde::Serialize;

use super::InputReport;
use crate::calibration::fingerprint;
use crate::import::Imported;
use crate::network::{self, Network, Op, Routing, Shape};
use crate::source::Source;

/// Everything about a checkpoint.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointReport {
    /// `checkpoint` or `onnx`.
    pub kind: &'static str,
    /// File with the weights.
    pub weights: String,
    /// File with the configuration, if it was not the pickled one; of ONNX, its `ride.toml`.
    pub config: Option<String>,
    /// Architecture.
    pub arch: String,
    /// Fingerprint of the imported network.
    pub fingerprint: String,
    /// Input and preprocessing.
    pub input: InputReport,
    /// Number of classes.
    pub classes: usize,
    /// Number of experts.
    pub experts: usize,
    /// Whether there are routers.
    pub routed: bool,
    /// How experts are combined.
    pub combiner: String,
    /// When each router lets the next expert run.
    pub rules: Vec<String>,
    /// Weights and biases after batch normalisation has been folded in.
    pub parameters: u64,
    /// Multiply-accumulates of a sample with 1, 2, ... experts, routers not counted.
    pub macs: Vec<u64>,
    /// Stem and experts.
    pub parts: Vec<FloatPart>,
    /// Routers.
    pub routers: Vec<FloatRouter>,
    /// What is worth knowing about how it was read.
    pub notes: Vec<String>,
    /// What may be wrong.
    pub warnings: Vec<String>,
}

/// Stem or expert of a float network.
#[derive(Clone, Debug, Serialize)]
pub struct FloatPart {
    /// `stem`, `expert0`, ...
    pub name: String,
    /// Weights and biases, classifier included.
    pub parameters: u64,
    /// Multiply-accumulates, classifier included.
    pub macs: u64,
    /// Operations in execution order.
    pub ops: Vec<FloatOp>,
}

/// One node of a float network, or an expert's classifier.
#[derive(Clone, Debug, Serialize)]
pub struct FloatOp {
    /// Name.
    pub name: String,
    /// Kind of node.
    pub kind: &'static str,
    /// Rows, columns and channels of the result.
    pub output: [usize; 3],
    /// Weights and biases.
    pub parameters: u64,
    /// Multiply-accumulates.
    pub macs: u64,
}

/// A router of a float network.
#[derive(Clone, Debug, Serialize)]
pub struct FloatRouter {
    /// `router0`, ...
    pub name: String,
    /// `assignment` for trained layers, or the measure of confidence.
    pub rule: &'static str,
    /// Number of largest mean logits that trained layers see.
    pub top_k: usize,
    /// Hidden units of trained layers.
    pub hidden: usize,
    /// Weights and biases.
    pub parameters: u64,
}

impl CheckpointReport {
    /// The report of an imported model.
    ///
    /// # Errors
    /// If the shapes of the network do not fit together.
    pub fn of(source: &Source, imported: &Imported) -> Result<Self> {
        let (network, preprocess) = (&imported.network, &imported.preprocess);
        let parts = float_parts(network)?;
        let routers = float_routers(network);
        let sum = |n: usize| parts.iter().take(1 + n).map(|p| p.macs).sum();
        let parameters = parts.iter().map(|p| p.parameters).chain(routers.iter().map(|r| r.parameters)).sum();
        Ok(CheckpointReport {
            kind: source.kind(),
            weights: source.weights().display().to_string(),
            config: source.config().map(|path| path.display().to_string()),
            arch: network.arch.clone(),
            fingerprint: fingerprint(network),
            input: InputReport {
                height: preprocess.input.height,
                width: preprocess.input.width,
                channels: preprocess.input.channels,
                mean: preprocess.mean.clone(),
                std: preprocess.std.clone(),
                resize: preprocess.resize_short,
            },
            classes: network.classes,
            experts: network.experts.len(),
            routed: !routers.is_empty(),
            combiner: super::rules::combiner_of(network),
            rules: super::rules::rules_of(network),
            parameters,
            macs: (1..=network.experts.len()).map(sum).collect(),
            parts,
            routers,
            notes: source.notes(),
            warnings: imported.warnings.clone(),
        })
    }
}

fn float_parts(network: &Network) -> Result<Vec<FloatPart>> {
    let (stem, output) = float_part(&network.stem, network.input.shape)?;
    let mut parts = vec![stem];
    for (n, expert) in network.experts.iter().enumerate() {
        let (mut part, _) = float_part(&expert.trunk, output)?;
        let head = FloatOp {
            name: format!("expert{n}.head"),
            kind: if expert.head.normalize { "normed linear" } else { "linear" },
            output: [1, 1, network.classes],
            parameters: (expert.head.weight.len() + expert.head.bias.len()) as u64,
            macs: expert.head.weight.len() as u64,
        };
        part.parameters += head.parameters;
        part.macs += head.macs;
        part.ops.push(head);
        parts.push(part);
    }
    Ok(parts)
}

/// A part's report and the shape of its output.
fn float_part(part: &network::Part, input: Shape) -> Result<(FloatPart, Shape)> {
    let shapes = part.shapes(input).with_context(|| format!("{}: the shapes do not fit together", part.name))?;
    let ops: Vec<FloatOp> =
        part.nodes.iter().zip(&shapes[1..]).map(|(node, &shape)| float_op(&node.name, &node.op, shape)).collect();
    let parameters = ops.iter().map(|op| op.parameters).sum();
    let macs = ops.iter().map(|op| op.macs).sum();
    Ok((FloatPart { name: part.name.clone(), parameters, macs, ops }, *shapes.last().unwrap_or(&input)))
}

fn float_op(name: &str, op: &Op, output: Shape) -> FloatOp {
    let (kind, parameters, macs) = match op {
        Op::Conv(c) => {
            let macs = (output.height * output.width * c.weight.len()) as u64;
            ("conv", (c.weight.len() + c.bias.len()) as u64, macs)
        }
        Op::Relu => ("relu", 0, 0),
        Op::Clamp { .. } => ("clamp", 0, 0),
        Op::Add => ("add", 0, 0),
        Op::Shortcut { .. } => ("shortcut", 0, 0),
        Op::MaxPool { .. } => ("max pool", 0, 0),
    };
    let output = [output.height, output.width, output.channels];
    FloatOp { name: name.to_owned(), kind, output, parameters, macs }
}

fn float_confidence((n, rule): (usize, &network::Confidence)) -> FloatRouter {
    FloatRouter { name: format!("router{n}"), rule: rule.criterion.name(), top_k: 0, hidden: 0, parameters: 0 }
}

fn float_routers(network: &Network) -> Vec<FloatRouter> {
    let routers = match &network.routing {
        Routing::None => return Vec::new(),
        Routing::Assignment(routers) => routers,
        Routing::Confidence(rules) => return rules.iter().enumerate().map(float_confidence).collect(),
    };
    let report = |(n, r): (usize, &network::Router)| FloatRouter {
        name: format!("router{n}"),
        rule: "assignment",
        top_k: r.top_k,
        hidden: r.hidden_bias.len(),
        parameters: (r.hidden_weight.len() + r.hidden_bias.len() + r.fc_weight.len() + 1) as u64,
    };
    routers.iter().enumerate().map(report).collect()
}
