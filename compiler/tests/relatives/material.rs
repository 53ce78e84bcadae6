//! Checkpoints and descriptions of the relatives, and the networks that they give.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ride_compiler::checkpoint::Embedded;
use ride_compiler::import::{ImportOptions, Imported};
use ride_compiler::source::Source;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::seeded::uniform;

/// A model of `golden.json`.
#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) side: usize,
    /// Shape of each tensor by the project's name.
    pub(crate) tensors: BTreeMap<String, Vec<usize>>,
    /// Of each expert.
    pub(crate) logits: Vec<Vec<f64>>,
    /// What the project's evaluation looks at.
    pub(crate) answer: Vec<f64>,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn golden(name: &str) -> Golden {
    let text = fs::read_to_string(root().join("tests/data/relatives/golden.json")).unwrap();
    let mut all: BTreeMap<String, Golden> = serde_json::from_str(&text).unwrap();
    all.remove(name).unwrap()
}

/// A parameter, as `make.py` makes it up.
fn parameter(name: &str, shape: &[usize]) -> Vec<f32> {
    let fan_in: usize = shape.iter().skip(1).product();
    let value = |u: f64| match shape.len() {
        1 if name.ends_with("running_var") => 1.0 + 0.5 * u,
        1 => 0.2 * u + f64::from(u8::from(name.ends_with("weight"))),
        _ => u * (1.5 / fan_in as f64).sqrt(),
    };
    uniform(name, shape.iter().product()).into_iter().map(|u| value(u) as f32).collect()
}

/// Writes the checkpoint; `more` are tensors that only training needs.
pub(crate) fn write_checkpoint(folder: &Path, golden: &Golden, more: &[(&str, &[usize])]) {
    let more = more.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec()));
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = golden
        .tensors
        .iter()
        .map(|(name, shape)| (name.clone(), shape.clone()))
        .chain(more)
        .map(|(name, shape)| {
            let bytes = parameter(&name, &shape).iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views =
        tensors.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A description of `examples/descriptions`, with some of its text replaced.
pub(crate) fn describe(folder: &Path, name: &str, changes: &[(&str, &str)]) {
    let mut text = fs::read_to_string(root().join("examples/descriptions").join(name)).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{name} has no {from:?}");
        text = text.replace(from, to);
    }
    fs::write(folder.join("ride.toml"), text).unwrap();
}

fn write_config(folder: &Path, args: &Value) {
    let config = json!({
        "arch": {"type": "ResNet32Model", "args": args},
        "data_loader": {"type": "ImbalanceCIFAR100DataLoader", "args": {}},
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

pub(crate) fn ten(key: &str) -> (&str, &str) {
    match key {
        "100" => ("num_classes = 100\n", "num_classes = 10\n"),
        _ => ("num_classes = 1000", "num_classes = 10"),
    }
}

/// Folder with a relative's checkpoint and description.
pub(crate) fn relative(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let args = |reduce: bool| json!({"num_classes": 10, "num_experts": 3, "reduce_dimension": reduce, "use_norm": true, "returns_feat": true});
    match name {
        "sade" => {
            write_config(path, &args(true));
            describe(path, "sade.toml", &[]);
        }
        "balpoe" => {
            write_config(path, &args(false));
            describe(path, "balpoe.toml", &[]);
        }
        "ncl" => describe(path, "ncl.toml", &[ten("100")]),
        "ncl-cosine" => {
            // The cosine classifiers of the ImageNet configurations on the CIFAR network.
            let changes =
                [ten("1000"), ("ResNet50Model\" ", "ResNet32Model\" "), ("size = 224\nresize = 256", "size = 32")];
            describe(path, "ncl-cosine.toml", &changes);
        }
        "reslt" => {
            let narrow = "num_experts = 2\nlayer3_output_dim = 32\nlayer4_output_dim = 16";
            let changes = [ten("1000"), ("num_experts = 3", narrow), ("size = 224\nresize = 256", "size = 64")];
            describe(path, "ride-reslt.toml", &changes);
        }
        other => panic!("no relative {other}"),
    }
    write_checkpoint(path, &golden(name), &[]);
    folder
}

/// The network that a folder's description makes of its checkpoint.
pub(crate) fn import(folder: &Path) -> anyhow::Result<Imported> {
    let mut imported = Source::open(folder, Embedded::Ignore)?.import(&ImportOptions::default())?;
    imported.apply_rules(&[])?;
    Ok(imported)
}

/// What is said of a description that does not fit.
pub(crate) fn error(folder: &Path) -> String {
    format!("{:#}", import(folder).expect_err("a description that does not fit"))
}
