//! The training configuration, completed by a model description.

use serde_json::Value;

use crate::description::ModelTable;

/// What is known about a checkpoint beside its tensors.
pub(super) struct Config {
    /// The keys `arch` and `data_loader`, whoever gave them.
    pub(super) value: Value,
    /// Whether the trainer wrote any of it.
    pub(super) trained: bool,
    /// Where the architecture and its arguments come from, for messages.
    pub(super) origin: &'static str,
}

impl Config {
    pub(super) fn new(config: &Value, model: &ModelTable) -> Self {
        let trained = config.is_object();
        let described = model.arch.is_some() || !model.args.is_empty() || model.separate || model.classifier.is_some();
        let origin = match (trained, described) {
            (true, false) => "config.json",
            (true, true) => "config.json with [model] of ride.toml",
            (false, _) => "[model] of ride.toml",
        };
        Self { value: model.over(config), trained, origin }
    }
}
