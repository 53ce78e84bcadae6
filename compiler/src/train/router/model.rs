//! From a checkpoint to the experts that routers are trained for, and back to a checkpoint with routers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ride_calibrate::atomic_file;
use serde_json::{Value, json};

use super::{Settings, Trained};
use crate::checkpoint::{Checkpoint, Tensor, safetensors};
use crate::description::{CombinerKind, FILE, ModelTable};
use crate::import::{self, ImportOptions, Imported};
use crate::source::Source;
use crate::train::augment::Recipe;
use crate::train::optimizer;

/// Names of the routers' tensors begin so.
const ROUTER: &str = "expert_help_pred";
/// Modules that every expert has one of.
const LISTS: [&str; 5] = ["layer1s", "layer2s", "layer3s", "layer4s", "linears"];
/// The two files of a checkpoint.
const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
/// Files beside a model that go with it.
const COMPANIONS: [&str; 2] = ["class_counts.txt", "class_names.txt"];

/// Experts without routers, ready to be trained for.
pub struct Prepared {
    /// The network, unrouted.
    pub imported: Imported,
    /// Whether there were routers before.
    pub had_routers: bool,
    config: Value,
    tensors: BTreeMap<String, Tensor>,
    /// `[preprocess]` of a `ride.toml`, for what the configuration does not say.
    preprocess: Option<String>,
    folder: PathBuf,
}

/// Takes the routers off a checkpoint, and brings its experts into another order or takes some of them only.
///
/// # Errors
/// If the model is ONNX, combines experts by something else than their mean, is described in a way that a checkpoint's own
/// configuration cannot say, has fewer than two experts, or `order` is no order of them; otherwise as the importer.
pub fn prepare(source: &Source, options: &ImportOptions, order: Option<&[usize]>) -> Result<Prepared> {
    let path = source.weights();
    let Some((checkpoint, table)) = source.checkpoint() else {
        bail!(
            "{} is ONNX, whose experts cannot be written back with routers: train them from the checkpoint that it was exported \
             from, or let confidence decide (`build --router margin`, `ride-compile thresholds`)",
            path.display()
        );
    };
    ensure!(
        !table.separate && table.classifier.is_none(),
        "the ride.toml beside {} describes experts ([model] separate or classifier) that a config.json cannot, so there is no \
         checkpoint with routers for them; let confidence decide (`build --router margin`, `ride-compile thresholds`)",
        path.display()
    );
    let options = source.options(options);
    let rules = &options.rules;
    let plain = rules.combiner.as_ref().is_none_or(|combiner| combiner.kind == CombinerKind::Mean);
    ensure!(
        plain && rules.adjustment.is_none(),
        "routers are trained on the plain mean of the logits: leave [combiner] and [logit_adjustment] out of the ride.toml \
         beside {}",
        path.display()
    );
    let mut config = table.over(&checkpoint.config);
    let mut tensors = checkpoint.tensors.clone();
    let all = tensors.len();
    tensors.retain(|name, _| !name.starts_with(ROUTER));
    let had_routers = tensors.len() < all;
    rename_arch(&mut config, false)?;
    if let Some(order) = order {
        tensors = reordered(&tensors, order)?;
        config["arch"]["args"]["num_experts"] = json!(order.len());
    }
    let preprocess = described(&options);
    let stripped = Checkpoint { config, tensors, source: checkpoint.source.clone(), notes: Vec::new() };
    let options = ImportOptions { model: ModelTable::default(), rules: Default::default(), ..options };
    let imported = import::network(&stripped, &options)
        .with_context(|| format!("cannot import the experts of {}", path.display()))?;
    ensure!(imported.network.experts.len() > 1, "{} has one expert, so there is nothing to route", path.display());
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    Ok(Prepared { imported, had_routers, config: stripped.config, tensors: stripped.tensors, preprocess, folder })
}

/// Changes `arch.type` between `ResNet32Model` and `ResNet32EAModel`.
fn rename_arch(config: &mut Value, routed: bool) -> Result<()> {
    let kind = config["arch"]["type"].as_str().context("the configuration has no arch.type")?;
    let base = kind.strip_suffix("Model").unwrap_or(kind);
    let base = base.strip_suffix("EA").unwrap_or(base);
    let name = if routed { format!("{base}EAModel") } else { format!("{base}Model") };
    config["arch"]["type"] = Value::String(name);
    if !config["arch"]["args"].is_object() {
        config["arch"]["args"] = json!({});
    }
    Ok(())
}

/// The tensors with expert `order[i]` in place `i`.
fn reordered(tensors: &BTreeMap<String, Tensor>, order: &[usize]) -> Result<BTreeMap<String, Tensor>> {
    let split = |name: &str| -> Option<(String, usize, String)> {
        let mut parts = name.splitn(3, '.');
        let list = parts.next().filter(|list| LISTS.contains(list))?;
        let index = parts.next()?.parse().ok()?;
        Some((list.to_owned(), index, parts.next()?.to_owned()))
    };
    let experts = tensors.keys().filter_map(|name| split(name)).map(|(_, index, _)| index + 1).max().unwrap_or(1);
    let good = order.iter().enumerate().all(|(n, expert)| *expert < experts && !order[..n].contains(expert));
    ensure!(
        good && order.len() > 1,
        "--order {order:?}: expected two or more different experts, counted from 0; the model has {experts}"
    );
    let mut out = BTreeMap::new();
    for (name, tensor) in tensors {
        match split(name) {
            None => {
                out.insert(name.clone(), tensor.clone());
            }
            Some((list, index, rest)) => {
                if let Some(place) = order.iter().position(|&expert| expert == index) {
                    out.insert(format!("{list}.{place}.{rest}"), tensor.clone());
                }
            }
        }
    }
    Ok(out)
}

/// What options or a `ride.toml` say about images, as a `ride.toml` for the new checkpoint.
fn described(options: &ImportOptions) -> Option<String> {
    let mut text = String::new();
    let list = |values: &Vec<f32>| values.iter().map(f32::to_string).collect::<Vec<_>>().join(", ");
    text.extend(options.mean.as_ref().map(|mean| format!("mean = [{}]\n", list(mean))));
    text.extend(options.std.as_ref().map(|std| format!("std = [{}]\n", list(std))));
    text.extend(options.input_size.map(|[height, width]| format!("size = [{height}, {width}]\n")));
    text.extend(options.resize.map(|resize| format!("resize = {resize}\n")));
    (!text.is_empty()).then(|| format!("[preprocess]\n{text}"))
}

impl Prepared {
    /// How the authors train routers; what the checkpoint's own routers were trained with wins.
    pub fn settings(&self) -> Settings {
        let network = &self.imported.network;
        let args = &self.config["arch"]["args"];
        // The recipe of stage 1 says nothing about stage 2.
        let own = |pointer: &str| self.config.pointer(pointer).filter(|_| self.had_routers);
        let number = |pointer: &str, default: f64| own(pointer).and_then(Value::as_f64).unwrap_or(default);
        let count = |pointer: &str, default: usize| number(pointer, default as f64).max(1.0) as usize;
        // 30 of CIFAR-100's classes, 50 of more.
        let usual = if network.classes > 100 { 50 } else { 30 };
        let loader = self.config.pointer("/data_loader/type").and_then(Value::as_str);
        let sgd = optimizer::Settings {
            momentum: number("/optimizer/args/momentum", 0.9),
            nesterov: own("/optimizer/args/nesterov").and_then(Value::as_bool).unwrap_or(true),
            weight_decay: number("/optimizer/args/weight_decay", 5e-4),
        };
        Settings {
            epochs: count("/trainer/epochs", 5),
            batch: count("/data_loader/args/batch_size", 512),
            rate: number("/optimizer/args/lr", 0.01),
            sgd,
            pos_weight: args["pos_weight"].as_f64().unwrap_or(100.0),
            top_choices: args["top_choices_num"].as_u64().map_or(usual.min(network.classes), |n| n as usize),
            shared_fc: args["share_expert_help_pred_fc"].as_bool().unwrap_or(true),
            augment: Recipe::of_loader(loader, &self.imported.preprocess),
            views: 4,
            memory: 2 << 30,
            seed: 0,
        }
    }

    /// Writes the checkpoint with these routers into a folder and returns the files.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn write(&self, folder: &Path, trained: &Trained, settings: &Settings) -> Result<Vec<PathBuf>> {
        let what = || format!("cannot make the folder {}", folder.display());
        fs::create_dir_all(folder).with_context(what)?;
        let mut files: Vec<(&str, Vec<u8>)> = vec![(CONFIG, self.config_with(settings)?)];
        for name in COMPANIONS {
            let from = self.folder.join(name);
            if from.is_file() {
                files.push((name, fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?));
            }
        }
        files.extend(self.preprocess.as_ref().map(|text| (FILE, text.clone().into_bytes())));
        // The weights come last: without them a folder is no checkpoint.
        let mut tensors = self.tensors.clone();
        tensors.extend(trained.tensors.clone());
        files.push((WEIGHTS, safetensors::encode(&tensors, None)?));
        let mut written = Vec::new();
        for (name, bytes) in files {
            let path = folder.join(name);
            atomic_file::write(&path, &bytes)?;
            written.push(path);
        }
        Ok(written)
    }

    /// The configuration as the authors' trainer would have had it for this training.
    fn config_with(&self, s: &Settings) -> Result<Vec<u8>> {
        let mut config = self.config.clone();
        rename_arch(&mut config, true)?;
        let args = &mut config["arch"]["args"];
        args["num_experts"] = json!(self.imported.network.experts.len());
        args["top_choices_num"] = json!(s.top_choices);
        args["pos_weight"] = json!(s.pos_weight);
        args["share_expert_help_pred_fc"] = json!(s.shared_fc);
        let sgd = &s.sgd;
        let optimizer = json!({
            "lr": s.rate, "weight_decay": sgd.weight_decay, "momentum": sgd.momentum, "nesterov": sgd.nesterov
        });
        config["optimizer"] = json!({ "type": "SGD", "args": optimizer });
        config["lr_scheduler"] = json!({ "type": "CosineAnnealingLR", "args": { "T_max": s.epochs, "eta_min": 0.0 } });
        config["loss"] = json!({ "type": "CrossEntropyLoss" });
        for (section, key, value) in
            [("data_loader", "batch_size", json!(s.batch)), ("data_loader", "balanced", json!(true))]
        {
            if config[section]["args"].is_object() {
                config[section]["args"][key] = value;
            }
        }
        if !config["trainer"].is_object() {
            config["trainer"] = json!({});
        }
        config["trainer"]["epochs"] = json!(s.epochs);
        let mut bytes = serde_json::to_vec_pretty(&config)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// Checks that a checkpoint can be written to a folder before the work is done: one that does not exist, is empty, or holds an
/// older result. A `ride.toml` is in the way, because it may say something of the user's own.
///
/// # Errors
/// Names what is in the way.
pub fn check_output(folder: &Path, model: &Path) -> Result<()> {
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    ensure!(parent.is_dir(), "cannot make {}: there is no folder {}", folder.display(), parent.display());
    if !folder.exists() {
        return Ok(());
    }
    ensure!(folder.is_dir(), "{} is a file; -o names a folder for {WEIGHTS} and {CONFIG}", folder.display());
    let own = |path: &Path| path.canonicalize().ok();
    let source = if model.is_dir() { own(model) } else { model.parent().and_then(own) };
    ensure!(
        own(folder) != source,
        "{} holds the model itself, whose config.json would be replaced; write to another folder",
        folder.display()
    );
    let known: Vec<&str> = [WEIGHTS, CONFIG].into_iter().chain(COMPANIONS).collect();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list the folder {}", folder.display()))? {
        let name = entry?.file_name();
        ensure!(
            name.to_str().is_some_and(|name| known.contains(&name) || name.starts_with('.')),
            "{} holds {}, which a new checkpoint must not be mixed up with; write to a folder of its own",
            folder.display(),
            Path::new(&name).display()
        );
    }
    Ok(())
}
