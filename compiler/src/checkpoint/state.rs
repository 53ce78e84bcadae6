//! Finding the model's tensors in what `torch.save` pickled.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use ride_calibrate::pickle::{Kind, Pickle, Value};

use super::budget::Budget;
use super::storage::{Scalar, View};
use super::{Contents, config};

/// Keys under which trainers put the model's state.
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "net"];
/// How deep wrappers and tensor wrappers may be nested.
const MAX_WRAPPERS: usize = 4;

/// Where the bytes of storages come from.
pub(super) trait Storages {
    /// The first `bytes` bytes of the storage `key`; the caller has checked `bytes` against the budget.
    fn read(&mut self, key: &str, bytes: usize) -> Result<Vec<u8>>;
}

/// A tensor that has been found but not loaded.
struct Found<'p> {
    name: &'p str,
    storage: Storage<'p>,
    view: View,
}

/// A reference to a storage, as PyTorch's `persistent_id` gives it.
#[derive(Clone, Copy)]
pub(super) struct Storage<'p> {
    /// Name of the storage in the file.
    pub(super) key: &'p str,
    /// Element type; `None` for a class that is not known.
    pub(super) scalar: Option<Scalar>,
    /// Name of the storage's class, such as `FloatStorage`.
    class: &'p str,
    /// Number of elements.
    pub(super) elements: usize,
    /// First element of a view of a storage, which only files older than PyTorch 0.4 have.
    view_offset: usize,
}

/// Loads the model's tensors, and the configuration if it is wanted and there.
pub(super) fn load(
    pickle: &Pickle<'_>,
    storages: &mut dyn Storages,
    budget: &mut Budget,
    want_config: bool,
) -> Result<Contents> {
    let root = pickle.root();
    let (found, notes) = find(root)?;
    // Every storage is read once, however many tensors share it.
    let mut by_storage = BTreeMap::<&str, Vec<Found<'_>>>::new();
    for tensor in found {
        by_storage.entry(tensor.storage.key).or_default().push(tensor);
    }
    let mut tensors = BTreeMap::new();
    for (key, group) in by_storage {
        let bytes = group.iter().map(Found::storage_bytes).max().unwrap_or(0);
        let names = || group.iter().map(|tensor| tensor.name).next().unwrap_or_default();
        budget.take(bytes as u64).with_context(|| format!("cannot load tensor {:?}", names()))?;
        let storage = storages.read(key, bytes).with_context(|| format!("cannot load tensor {:?}", names()))?;
        for Found { name, view, .. } in &group {
            let tensor =
                view.len().and_then(|count| budget.take(count as u64 * 4)).and_then(|()| view.gather(&storage));
            tensors.insert((*name).to_owned(), tensor.with_context(|| format!("cannot load tensor {name:?}"))?);
        }
    }
    let config = if want_config { config::pickled(root) } else { None };
    Ok(Contents { tensors, config, notes })
}

impl Found<'_> {
    /// Bytes of the storage; the element count was checked when the tensor was found.
    fn storage_bytes(&self) -> usize {
        self.storage.elements * self.view.scalar.size()
    }
}

/// The tensors of the model's state, and notes about what was passed over.
fn find(root: Value<'_>) -> Result<(Vec<Found<'_>>, Vec<String>)> {
    let state = state_dict(root)?;
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    // Of equal keys the last one counts, as in Python.
    let entries: BTreeMap<&str, Value<'_>> = state
        .entries()
        .map(|(key, value)| {
            Ok((key.as_str().with_context(|| format!("the state dict's key {key} is no text"))?, value))
        })
        .collect::<Result<_>>()?;
    for (name, value) in entries {
        match tensor(value, MAX_WRAPPERS).with_context(|| format!("cannot load tensor {name:?}"))? {
            Some((storage, view)) => found.push(Found { name, storage, view }),
            None => skipped.push(format!("{name:?} is no tensor but {value}: it is passed over")),
        }
    }
    ensure!(!found.is_empty(), "the checkpoint's state dict holds no tensors");
    Ok((found, skipped))
}

/// The mapping from names to tensors: the root itself or what it holds under one of the usual keys.
fn state_dict(root: Value<'_>) -> Result<Value<'_>> {
    let mut value = root;
    for _ in 0..MAX_WRAPPERS {
        let wrapped = WRAPPERS.iter().find_map(|key| value.get(key).filter(|inner| inner.entries().next().is_some()));
        match wrapped {
            Some(inner) => value = inner,
            None => break,
        }
    }
    let is_tensor = |(_, value): (Value<'_>, Value<'_>)| matches!(tensor(value, MAX_WRAPPERS), Ok(Some(_)) | Err(_));
    if value.entries().any(is_tensor) {
        return Ok(value);
    }
    let mut modules = [root].into_iter().chain(WRAPPERS.iter().filter_map(|key| root.get(key)));
    if let Some(module) = modules.find(|value| value.state().is_some_and(|state| state.get("_modules").is_some())) {
        bail!(
            "it holds {module}, a whole pickled module, which only its own Python code can read; save \
             model.state_dict() instead"
        );
    }
    bail!("there are no tensors in it: expected a state dict, or a dict with one under {}", WRAPPERS.join(", "))
}

/// What one of PyTorch's `_rebuild` functions would make a tensor of; `None` for anything else.
fn tensor(value: Value<'_>, depth: usize) -> Result<Option<(Storage<'_>, View)>> {
    let (Some((module, function)), Some(args)) = (value.class(), value.args()) else { return Ok(None) };
    if value.kind() != Kind::Object || !matches!(module, "torch._utils" | "torch._tensor" | "torch._jit_internal") {
        return Ok(None);
    }
    match function {
        "_rebuild_tensor" | "_rebuild_tensor_v2" => rebuild(args).map(Some),
        "_rebuild_parameter" | "_rebuild_parameter_with_state" if depth > 0 => match args.at(0) {
            Some(data) => tensor(data, depth - 1),
            None => bail!("a parameter without data"),
        },
        _ => bail!("its kind ({module}.{function}) is not supported; save a plain dense tensor"),
    }
}

/// A tensor of the arguments `(storage, offset, shape, strides, ...)`.
fn rebuild(args: Value<'_>) -> Result<(Storage<'_>, View)> {
    let argument = |index: usize| args.at(index).with_context(|| format!("argument {index} of {args} is missing"));
    let storage = storage(argument(0)?.persistent_id().context("its storage is no reference to the file")?)?;
    let scalar = storage.scalar.with_context(|| {
        format!("its element type is not supported ({}); floats of 16 to 64 bits and integers are", storage.class)
    })?;
    let bytes = storage.elements.checked_mul(scalar.size());
    bytes.filter(|&bytes| bytes <= isize::MAX as usize).context("its storage is too large")?;
    let offset = argument(1)?.as_usize().and_then(|offset| offset.checked_add(storage.view_offset));
    let offset = offset.context("its offset is no count")?;
    let view = View { scalar, offset, shape: dimensions(argument(2)?)?, stride: dimensions(argument(3)?)? };
    view.len()?;
    Ok((storage, view))
}

/// Shape or strides: a tuple of counts, or a `torch.Size` of one.
fn dimensions(value: Value<'_>) -> Result<Vec<usize>> {
    let tuple = if value.class() == Some(("torch", "Size")) { value.args().and_then(|args| args.at(0)) } else { None };
    let tuple = tuple.unwrap_or(value);
    ensure!(matches!(tuple.kind(), Kind::Tuple | Kind::List), "its shape or strides are {value}, not a tuple");
    let counts = tuple.items().map(|n| n.as_usize().with_context(|| format!("its shape or strides hold {n}")));
    counts.collect()
}

/// Reads `("storage", class, key, location, elements[, view])`.
pub(super) fn storage(id: Value<'_>) -> Result<Storage<'_>> {
    let part = |index: usize| id.at(index).with_context(|| format!("the storage reference {id} is too short"));
    ensure!(part(0)?.as_str() == Some("storage"), "the reference {id} is not to a storage");
    let (_, class) = part(1)?.class().with_context(|| format!("the storage class is {}", id.at(1).unwrap_or(id)))?;
    let key = part(2)?.as_str().context("the storage's key is no text")?;
    let elements = part(4)?.as_usize().context("the storage's size is no count")?;
    let view = id.at(5).filter(|view| view.kind() != Kind::None);
    let view_offset = match view {
        Some(view) => view.at(1).and_then(Value::as_usize).context("the storage's view has no offset")?,
        None => 0,
    };
    Ok(Storage { key, scalar: Scalar::of_storage_class(class), class, elements, view_offset })
}
