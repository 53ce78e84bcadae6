//! Taking tensors out of a checkpoint by name and expected shape, each once.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use super::spec::Spec;
use crate::checkpoint::Tensor;

/// Most names listed in a message.
const SHOWN: usize = 6;

/// The tensors of a checkpoint and which of them have been used.
pub(super) struct Tensors<'a> {
    all: &'a BTreeMap<String, Tensor>,
    unused: BTreeSet<&'a str>,
    /// Who says what is expected.
    origin: &'static str,
}

impl<'a> Tensors<'a> {
    pub(super) fn new(all: &'a BTreeMap<String, Tensor>, origin: &'static str) -> Self {
        // The counter of batch normalisation matters in training only.
        let unused = all.keys().map(String::as_str).filter(|name| !name.ends_with("num_batches_tracked")).collect();
        Self { all, unused, origin }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    /// Number of different `index` in names of the form `list.index.rest`.
    pub(super) fn count_list(&self, list: &str) -> usize {
        let prefix = format!("{list}.");
        let names = self.all.range(prefix.clone()..).map(|(name, _)| name);
        let indices = names.map_while(|name| name.strip_prefix(&prefix)).filter_map(|rest| rest.split('.').next());
        indices.filter_map(|index| index.parse::<usize>().ok()).collect::<BTreeSet<_>>().len()
    }

    /// The elements of a tensor, which must have the given shape.
    ///
    /// # Errors
    /// If there is no such tensor or it has another shape.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<&'a [f32]> {
        let origin = self.origin;
        let (key, tensor) = self.all.get_key_value(name).with_context(|| {
            format!("the tensor {name} is missing from the checkpoint; expected shape {shape:?} by {origin}")
        })?;
        ensure!(
            tensor.shape == shape,
            "the tensor {name} has shape {:?} in the checkpoint; expected {shape:?} by {origin}",
            tensor.shape
        );
        ensure!(
            shape.iter().product::<usize>() == tensor.data.len(),
            "the tensor {name} of shape {shape:?} has {} elements",
            tensor.data.len()
        );
        self.unused.remove(key.as_str());
        Ok(&tensor.data)
    }

    /// Marks a tensor as used whose value does not matter.
    pub(super) fn ignore(&mut self, name: &str) {
        self.unused.remove(name);
    }

    /// # Errors
    /// If the checkpoint has tensors that the network has no place for.
    pub(super) fn finish(self, spec: &Spec) -> Result<()> {
        let Some(first) = self.unused.first() else { return Ok(()) };
        let more = self.unused.len().saturating_sub(SHOWN);
        let names: Vec<_> =
            self.unused.iter().take(SHOWN).map(|name| format!("{name} {:?}", self.all[*name].shape)).collect();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let advice = if first.starts_with("expert_help_pred") && !spec.routed {
            "; they belong to routers, which the EAModel architectures have"
        } else {
            "; [model] of a ride.toml can rename or ignore tensors"
        };
        bail!("the checkpoint has tensors that {spec} has no place for: {}{more}{advice}", names.join(", "))
    }
}
