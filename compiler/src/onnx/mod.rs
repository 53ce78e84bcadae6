//! Importing ONNX graphs.
//!
//! Three forms are taken: one graph with an output for each expert (or their stack, or their mean, and optionally a score
//! for each router), a folder with `stem.onnx`, `expert_0.onnx`, ... and optionally `router_0.onnx`, ..., and a classifier
//! with a single path. Graphs are read by meaning, not by pattern: see `value.rs`. What has no counterpart in a
//! [`Network`](crate::network::Network) is refused with the node's name, its operator and the reason.
//!
//! Files may be hostile: messages are counted before they are decoded, sizes are checked against what is there, computed
//! constants are limited, and weights in other files must lie right beside the model.

mod fold;
mod graph;
mod lift;
mod limits;
mod locate;
mod network;
mod outputs;
mod partition;
mod proto;
mod tensor;
mod value;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use graph::Graph;

pub use locate::is_onnx;
pub use network::import;

/// Graphs as they were read, not yet understood.
#[derive(Clone, Debug)]
pub struct OnnxModel {
    /// The file, or the folder of a split model.
    pub path: PathBuf,
    files: Files,
}

/// One graph or one for each part.
#[derive(Clone, Debug)]
enum Files {
    Whole(Box<Graph>),
    Split { stem: Box<Graph>, experts: Vec<Graph>, routers: Vec<Graph> },
}

impl OnnxModel {
    /// Reads a file, or the parts in a folder.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self> {
        let files = match locate::locate(path)? {
            locate::Located::Whole(file) => Files::Whole(Box::new(proto::read(&file)?)),
            locate::Located::Split { stem, experts, routers } => Files::Split {
                stem: Box::new(proto::read(&stem)?),
                experts: experts.iter().map(|file| proto::read(file)).collect::<Result<_>>()?,
                routers: routers.iter().map(|file| proto::read(file)).collect::<Result<_>>()?,
            },
        };
        Ok(Self { path: path.to_path_buf(), files })
    }

    /// Reads a single graph from memory; it cannot have weights in other files.
    ///
    /// # Errors
    /// As [`OnnxModel::load`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let graph = proto::parse(bytes, None)?;
        Ok(Self { path: PathBuf::from("memory"), files: Files::Whole(Box::new(graph)) })
    }

    /// Who wrote it and with which set of operators.
    pub fn producer(&self) -> String {
        let (Files::Whole(graph) | Files::Split { stem: graph, .. }) = &self.files;
        format!(
            "{}, opset {}",
            if graph.producer.is_empty() { "unknown exporter" } else { &graph.producer },
            graph.opset
        )
    }
}

/// The only input of a graph.
fn only_input(graph: &Graph) -> Result<&graph::InputInfo> {
    let first = graph.inputs.first().context("the graph has no input")?;
    ensure!(
        graph.inputs.len() == 1,
        "the graph has {} inputs ({}); expected one, the image",
        graph.inputs.len(),
        graph.inputs.iter().take(4).map(|input| graph::shortened(&input.name)).collect::<Vec<_>>().join(", ")
    );
    Ok(first)
}
