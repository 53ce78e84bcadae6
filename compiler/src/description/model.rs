//! The table `[model]`: checkpoints whose trainer wrote no `config.json`, or named its tensors in its own way.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The table `[model]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// Architecture, as `arch.type` of `config.json`; wins over it.
    pub arch: Option<String>,
    /// Arguments of the architecture, as `arch.args` of `config.json`; each wins over the one there.
    #[serde(default)]
    pub args: BTreeMap<String, Value>,
    /// Whether the experts share nothing: each has its own first convolution and `layer1` (`conv1s.0`, `bn1s.0`,
    /// `layer1s.0`, ...).
    #[serde(default)]
    pub separate: bool,
    /// What the classifiers compute, if it is not what `use_norm` says.
    pub classifier: Option<ClassifierTable>,
    /// Names of the tensors: the first rule that fits changes a name. See [`crate::checkpoint::Names`].
    #[serde(default)]
    pub rename: Vec<RenameTable>,
    /// Tensors without a place in the network, by the pattern of a rule.
    #[serde(default)]
    pub ignore: Vec<String>,
}

impl ModelTable {
    /// Whether it takes the place of the configuration's `arch`.
    pub fn has_arch(&self) -> bool {
        self.arch.is_some()
    }

    /// The configuration with this table's architecture and arguments.
    pub fn over(&self, config: &Value) -> Value {
        let mut config = if config.is_object() { config.clone() } else { Value::Object(serde_json::Map::new()) };
        if self.arch.is_none() && self.args.is_empty() {
            return config;
        }
        if !config["arch"].is_object() {
            config["arch"] = Value::Object(serde_json::Map::new());
        }
        let arch = &mut config["arch"];
        if let Some(name) = &self.arch {
            arch["type"] = Value::String(name.clone());
        }
        if !arch["args"].is_object() {
            arch["args"] = Value::Object(serde_json::Map::new());
        }
        for (key, value) in &self.args {
            arch["args"][key.as_str()] = value.clone();
        }
        config
    }
}

/// The table `[model.classifier]`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierTable {
    /// What is computed.
    pub kind: ClassifierKind,
    /// Factor of the logits of normalised classifiers.
    pub scale: Option<f64>,
    /// Whether there is a bias; `None` is true for `linear` and `cosine`.
    pub bias: Option<bool>,
    /// Exponent of the rows' norms in ResLT's classifier.
    pub gamma: Option<f64>,
}

/// What a classifier computes of the pooled feature `f`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassifierKind {
    /// `W f + b`, `W` being `[classes][features]`.
    Linear,
    /// `s * normalize(f) . normalize(W)` with the columns of `W`, which is `[features][classes]`; no bias (RIDE).
    Normed,
    /// `s * normalize(f) . normalize(W) + b` with the rows of `W`, which is `[classes][features]` (NCL). A zero feature
    /// gives the bias.
    Cosine,
    /// `W' (r1 + r2 + r3)`, where `r` is a 1 x 1 convolution with batch normalisation and ReLU of the pooled feature in
    /// three equal pieces, and `W'` has the rows of `W` divided by their norms to the power of gamma; no bias (`ResLT`).
    Reslt,
}

/// One rule of `rename`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenameTable {
    /// Pattern of the name's first components, such as `backbone.{expert}.{module}`.
    pub from: String,
    /// What takes their place, such as `{module}s.{expert}`.
    pub to: String,
}
