//! RIDE's relatives as their projects save them, with the descriptions in `examples/descriptions`: the float network against
//! PyTorch, then int8 end to end through the command line.
//!
//! `tests/data/relatives/make.py` computed the golden logits and says how the parameters are made up.

mod npz;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ride_compiler::checkpoint::Embedded;
use ride_compiler::description::{
    AdjustmentTable, CombinerKind, CombinerTable, RouterKind, RouterTable, Rules, Values,
};
use ride_compiler::import::{ImportOptions, Imported};
use ride_compiler::network::Routing;
use ride_compiler::reference::{Executor, Forward, Image, Policy, Scratch};
use ride_compiler::source::Source;
use ride_runtime::golden;
use ride_runtime::op::Criterion;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

const CLASSES: usize = 10;
const IMAGES: usize = 40;

// ---- material ------------------------------------------------------------------------------------------------------

/// A model of `golden.json`.
#[derive(Deserialize)]
struct Golden {
    side: usize,
    /// Shape of each tensor by the project's name.
    tensors: BTreeMap<String, Vec<usize>>,
    /// Of each expert.
    logits: Vec<Vec<f64>>,
    /// What the project's evaluation looks at.
    answer: Vec<f64>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden(name: &str) -> Golden {
    let text = fs::read_to_string(root().join("tests/data/relatives/golden.json")).unwrap();
    let mut all: BTreeMap<String, Golden> = serde_json::from_str(&text).unwrap();
    all.remove(name).unwrap()
}

/// Numbers in -1..1 that depend on the name: `SplitMix64` of its FNV-1a hash.
fn uniform(name: &str, count: usize) -> Vec<f64> {
    let hash = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    let number = |index: u64| {
        let mut x = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        (x >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    (1..=count as u64).map(number).collect()
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
fn write_checkpoint(folder: &Path, golden: &Golden, more: &[(&str, &[usize])]) {
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
    let view = |(name, shape, bytes): &(String, Vec<usize>, Vec<u8>)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap().data().to_vec(), shape.clone())
    };
    let owned: Vec<_> = tensors.iter().map(view).collect();
    let views =
        owned.iter().map(|(name, bytes, shape)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A description of `examples/descriptions`, with some of its text replaced.
fn describe(folder: &Path, name: &str, changes: &[(&str, &str)]) {
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

fn ten(key: &str) -> (&str, &str) {
    match key {
        "100" => ("num_classes = 100\n", "num_classes = 10\n"),
        _ => ("num_classes = 1000", "num_classes = 10"),
    }
}

/// Folder with a relative's checkpoint and description.
fn relative(name: &str) -> TempDir {
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

// ---- float ---------------------------------------------------------------------------------------------------------

fn import(folder: &Path) -> anyhow::Result<Imported> {
    let mut imported = Source::open(folder, Embedded::Ignore)?.import(&ImportOptions::default())?;
    imported.apply_rules(&[])?;
    Ok(imported)
}

fn error(folder: &Path) -> String {
    format!("{:#}", import(folder).expect_err("a description that does not fit"))
}

fn forward(imported: &Imported, side: usize) -> Forward {
    let image: Vec<f32> = uniform("image", side * side * 3).into_iter().map(|u| u as f32).collect();
    let executor = Executor::new(&imported.network).unwrap();
    executor.forward(Image::Normalised(&image), Policy::All, &mut Scratch::default(), None).unwrap()
}

#[track_caller]
fn assert_close(ours: &[f32], theirs: &[f64], factor: f64) {
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs.iter().fold(0.1, |scale: f64, value| scale.max(value.abs()));
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!((f64::from(*ours) - factor * theirs).abs() < 2e-5 * factor * scale, "{ours} {theirs} {factor}");
    }
}

/// Every expert's logits, times its weight in the combination, and the combined ones.
#[track_caller]
fn assert_equals_pytorch(name: &str, weights: &[f64]) -> Imported {
    let (folder, golden) = (relative(name), golden(name));
    let imported = import(folder.path()).unwrap();
    let result = forward(&imported, golden.side);
    assert_eq!(result.experts.len(), golden.logits.len());
    for ((expert, logits), weight) in result.experts.iter().zip(&golden.logits).zip(weights) {
        assert_close(&expert.logits, logits, *weight);
    }
    assert_close(&result.mean_logits, &golden.answer, 1.0);
    imported
}

#[test]
fn sade_is_a_weighted_mean() {
    let imported = assert_equals_pytorch("sade", &[0.2, 0.3, 0.5]);
    assert_eq!(imported.network.routing, Routing::None);
    assert!(imported.warnings.is_empty(), "{:?}", imported.warnings);
}

#[test]
fn balpoe_is_a_mean_with_routers_by_confidence() {
    let imported = assert_equals_pytorch("balpoe", &[1.0; 3]);
    let Routing::Confidence(rules) = &imported.network.routing else { panic!("no routers") };
    assert_eq!(rules.len(), 2);
    assert!(rules.iter().all(|rule| rule.criterion == Criterion::MaxProbability && rule.threshold == 0.8));
}

#[test]
fn ncl_is_a_sum_of_separate_networks() {
    let imported = assert_equals_pytorch("ncl", &[1.0; 3]);
    assert!(imported.network.stem.nodes.is_empty());
    let Routing::Confidence(rules) = &imported.network.routing else { panic!("no routers") };
    assert_eq!(rules.iter().map(|rule| rule.threshold).collect::<Vec<_>>(), [4.0, 8.0]);
}

#[test]
fn ncl_can_have_cosine_classifiers() {
    assert_equals_pytorch("ncl-cosine", &[1.0; 3]);
}

#[test]
fn reslt_has_residual_classifiers() {
    assert_equals_pytorch("reslt", &[1.0; 2]);
}

#[test]
fn tensors_of_training_can_be_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let mut golden = golden("ncl");
    let classifiers = |name: &String| name.contains("classifier");
    let names: Vec<String> = golden.tensors.keys().filter(|name| classifiers(name)).cloned().collect();
    for name in names {
        let shape = golden.tensors.remove(&name).unwrap();
        golden.tensors.insert(name.replace("classifier", "classifier_ce"), shape);
    }
    let more: [(&str, &[usize]); 5] = [
        ("module.MOCO.0.queue", &[64, 16]),
        ("module.backbone_MA.0.conv1.weight", &[16, 3, 3, 3]),
        ("module.classifier_MA.2.0.weight", &[64, 64]),
        ("module.classifier.1.0.weight", &[64, 64]),
        ("module.classifier.1.2.bias", &[64]),
    ];
    write_checkpoint(folder.path(), &golden, &more);
    describe(folder.path(), "ncl-contrastive.toml", &[ten("100")]);
    let imported = import(folder.path()).unwrap();
    assert_eq!(imported.network.experts.len(), 3);
    // Names that no rule speaks of are left over, and named.
    write_checkpoint(folder.path(), &golden, &[("module.extra.weight", &[3])]);
    let error = error(folder.path());
    assert!(error.contains("extra.weight") && error.contains("[model]"), "{error}");
}

#[test]
fn logits_are_adjusted_by_class_frequencies() {
    let folder = relative("balpoe");
    let plain = forward(&import(folder.path()).unwrap(), 32);
    let counts: Vec<u32> = (0..CLASSES as u32).map(|class| 500 >> class.min(7)).collect();
    let lines: Vec<String> = counts.iter().map(u32::to_string).collect();
    fs::write(folder.path().join("class_counts.txt"), lines.join("\n")).unwrap();
    describe(folder.path(), "logit-adjustment.toml", &[("tau = 1.0 ", "tau = [0.0, 1.5, -2] ")]);
    let imported = import(folder.path()).unwrap();
    let adjusted = forward(&imported, 32);
    let total = f64::from(counts.iter().sum::<u32>());
    let expert = |e: usize, tau: f64| {
        let shifted = |(logit, count): (&f32, &u32)| f64::from(*logit) - tau * (f64::from(*count) / total).ln();
        plain.experts[e].logits.iter().zip(&counts).map(shifted).collect::<Vec<f64>>()
    };
    let expected = [expert(0, 0.0), expert(1, 1.5), expert(2, -2.0)];
    for (e, expected) in expected.iter().enumerate() {
        assert_close(&adjusted.experts[e].logits, expected, 1.0);
    }
    let mean: Vec<f64> = (0..CLASSES).map(|c| expected.iter().map(|expert| expert[c]).sum::<f64>() / 3.0).collect();
    assert_close(&adjusted.mean_logits, &mean, 1.0);
    let Routing::Confidence(rules) = &imported.network.routing else { panic!("no routers") };
    assert!(rules.iter().all(|rule| rule.criterion == Criterion::Entropy));
}

// ---- int8 ----------------------------------------------------------------------------------------------------------

fn picture(seed: u32, side: usize) -> Vec<u8> {
    let mut pixels = vec![0; side * side * 3];
    golden::image(seed, (side, 3), &mut pixels);
    pixels
}

/// Writes an archive of synthetic pictures and returns its name.
fn write_data(folder: &Path, side: usize) -> String {
    let file = folder.join("data.npz");
    let pixels: Vec<u8> = (0..IMAGES as u32).flat_map(|seed| picture(seed, side)).collect();
    let labels: Vec<usize> = (0..IMAGES).map(|image| image % CLASSES).collect();
    npz::write(&file, (side, side), &pixels, &labels);
    file.display().to_string()
}

fn run(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_ride-compile")).args(args).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Thresholds that about half of the pictures pass, as the command line takes them.
fn thresholds(folder: &Path, rules: Rules) -> String {
    let options = ImportOptions { rules, ..ImportOptions::default() };
    let mut imported = Source::open(folder, Embedded::Ignore).unwrap().import(&options).unwrap();
    imported.apply_rules(&[]).unwrap();
    let executor = Executor::new(&imported.network).unwrap();
    let mut scores = vec![Vec::new(); imported.network.routing.routers()];
    for seed in 0..IMAGES as u32 {
        let pixels = picture(seed, imported.network.input.shape.height);
        let forward = executor.forward(Image::Pixels(&pixels), Policy::All, &mut Scratch::default(), None).unwrap();
        scores.iter_mut().zip(forward.scores).for_each(|(all, score)| all.push(score));
    }
    let middle = |mut scores: Vec<f32>| {
        scores.sort_by(f32::total_cmp);
        (scores[IMAGES / 2 - 1] + scores[IMAGES / 2]) / 2.0
    };
    scores.into_iter().map(|scores| middle(scores).to_string()).collect::<Vec<_>>().join(",")
}

/// Builds a relative with routers of this criterion and compares it with its float network; returns both results.
fn build_and_verify(folder: &Path, criterion: RouterKind, name: &str, more: &[&str]) -> [Value; 2] {
    let router = RouterTable { criterion: Some(criterion), threshold: Some(Values::One(0.5)) };
    let thresholds = thresholds(folder, Rules { router: Some(router), ..Rules::default() });
    let (model, artifact) = (folder.display().to_string(), folder.join("out.ride").display().to_string());
    let side = json(&["inspect", &model, "--json"])["input"]["height"].as_u64().unwrap();
    let data = write_data(folder, side as usize);
    let rules = [&["--router", name, "--router-threshold", &thresholds], more].concat();
    let data = ["--data", &data, "--json"];
    let built = json(&[&["build", &model, "-o", &artifact][..], &data, &rules].concat());
    let verified = json(&[&["verify", &artifact, "--model", &model][..], &data, &rules].concat());
    assert_eq!(verified["routers"], built["routers"]);
    assert_eq!(verified["combiner"], built["combiner"]);
    let experts = built["experts"].as_u64().unwrap() as usize;
    assert_eq!(verified["routers"].as_array().unwrap().len(), experts - 1);
    assert!(verified["routers"][0].as_str().unwrap().starts_with(name), "{verified}");
    // The thresholds are in the middle of the scores, so there are samples of each kind, and some decisions are close.
    let share = |side: &str, n: usize| verified[side]["experts"][n].as_f64().unwrap();
    for side in ["float", "int8"] {
        assert!((0.3..0.7).contains(&share(side, 0)), "{name}: {verified}");
        assert!(share(side, experts - 1) > 0.02, "{name}: {verified}");
    }
    assert!(verified["sqnr_db"].as_f64().unwrap() > 25.0, "{name}: {}", verified["sqnr_db"]);
    assert!(verified["agreement"]["route"].as_f64().unwrap() >= 85.0, "{name}: {}", verified["agreement"]);
    assert!(verified["agreement"]["top1"].as_f64().unwrap() >= 85.0, "{name}: {}", verified["agreement"]);
    [built, verified]
}

#[test]
fn sade_is_compiled_with_routers() {
    let folder = relative("sade");
    let [built, _] = build_and_verify(folder.path(), RouterKind::Entropy, "entropy", &[]);
    assert_eq!(built["combiner"], "weighted mean 0.2 : 0.3 : 0.5");
    // Other weights are another network, and the artifact says so.
    let artifact = folder.path().join("out.ride").display().to_string();
    let (model, data) = (folder.path().display().to_string(), folder.path().join("data.npz").display().to_string());
    let mean = ["--combiner", "mean"];
    let output = run(&[&["verify", &artifact, "--model", &model, "--data", &data][..], &mean].concat());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("--combiner") && error.contains("fingerprint"), "{error}");
    // What it decides by is shown.
    let shown = json(&["inspect", &artifact, "--json"]);
    assert_eq!((&shown["combiner"], &shown["rules"]), (&built["combiner"], &built["routers"]));
    let text = String::from_utf8(run(&["inspect", &artifact]).stdout).unwrap();
    assert!(text.contains("combined by weighted mean") && text.contains("next expert runs if entropy >"), "{text}");
    let shown = json(&["inspect", &model, "--json"]);
    assert_eq!(shown["combiner"], built["combiner"]);
}

#[test]
fn balpoe_is_compiled_without_a_second_calibration() {
    let folder = relative("balpoe");
    let path = folder.path();
    build_and_verify(path, RouterKind::MaxProbability, "max-probability", &["--combiner", "mean"]);
    // A table of the network as it was trained serves every combiner and threshold.
    let (model, data) = (path.display().to_string(), path.join("data.npz").display().to_string());
    let (table, artifact) = (path.join("calibration.json"), path.join("other.ride"));
    let (table, artifact) = (table.display().to_string(), artifact.display().to_string());
    json(&["calibrate", &model, "--data", &data, "-o", &table, "--json"]);
    for (combiner, said) in [("sum", "sum"), ("3,2,1", "weighted mean 3 : 2 : 1")] {
        let rules = ["--combiner", combiner, "--router-threshold", "0.5", "--json"];
        let built = json(&[&["build", &model, "-o", &artifact][..], &rules].concat());
        assert_eq!(built["combiner"], said);
        assert_eq!(built["routers"], json!(["max-probability < 0.5", "max-probability < 0.5"]));
    }
    let built = json(&["build", &model, "-o", &artifact, "--router", "none", "--json"]);
    assert_eq!((&built["routed"], &built["routers"]), (&json!(false), &json!([])));
}

#[test]
fn separate_networks_are_compiled() {
    let folder = relative("ncl");
    let counts: Vec<String> = (1..=CLASSES).map(|class| (10 * class).to_string()).collect();
    fs::write(folder.path().join("class_counts.txt"), counts.join("\n")).unwrap();
    let [built, _] = build_and_verify(folder.path(), RouterKind::Margin, "margin", &["--logit-adjustment", "0"]);
    assert_eq!(built["combiner"], "sum");
    // An adjustment uses the counts beside the model, and verification those in the artifact.
    let model = folder.path().display().to_string();
    let (data, artifact) = (folder.path().join("data.npz"), folder.path().join("adjusted.ride"));
    let (data, artifact) = (data.display().to_string(), artifact.display().to_string());
    let with = ["--data", &data, "--logit-adjustment", "1.5", "--router", "none", "--json"];
    json(&[&["build", &model, "-o", &artifact][..], &with].concat());
    fs::remove_file(folder.path().join("class_counts.txt")).unwrap();
    let verified = json(&[&["verify", &artifact, "--model", &model][..], &with].concat());
    assert!(verified["agreement"]["top1"].as_f64().unwrap() >= 85.0, "{}", verified["agreement"]);
    assert!(verified["sqnr_db"].as_f64().unwrap() > 25.0, "{}", verified["sqnr_db"]);
}

/// `ResLT`'s pooling is a convolution of each channel by itself.
#[test]
fn residual_classifiers_are_compiled() {
    let folder = relative("reslt");
    let [built, _] = build_and_verify(folder.path(), RouterKind::Margin, "margin", &[]);
    assert_eq!((&built["combiner"], &built["experts"]), (&json!("mean"), &json!(2)));
}

// ---- descriptions that do not fit ----------------------------------------------------------------------------------

/// The trained model of the repository, which has routers of its own, with these rules.
fn trained(rules: Rules) -> anyhow::Result<Imported> {
    let source = Source::open(&root().join("examples/models/ride-resnet32-cifar100lt"), Embedded::Ignore)?;
    let mut imported = source.import(&ImportOptions { rules, ..ImportOptions::default() })?;
    imported.apply_rules(&[100; 100])?;
    Ok(imported)
}

#[test]
fn trained_routers_see_what_they_were_trained_on() {
    let sum = CombinerTable { kind: CombinerKind::Sum, weights: None };
    let adjustment = AdjustmentTable { tau: Values::One(1.0), counts: None };
    let router = |criterion, threshold| Some(RouterTable { criterion, threshold });
    for rules in [
        Rules { combiner: Some(sum.clone()), ..Rules::default() },
        Rules { adjustment: Some(adjustment.clone()), ..Rules::default() },
        Rules {
            combiner: Some(sum.clone()),
            router: router(Some(RouterKind::Assignment), Some(Values::One(0.5))),
            ..Rules::default()
        },
    ] {
        let error = format!("{:#}", trained(rules).expect_err("trained routers"));
        assert!(error.contains("trained routers") && error.contains("[router] criterion"), "{error}");
    }
    // Others can take their place, and their thresholds can move.
    let replaced = Rules {
        combiner: Some(sum),
        adjustment: Some(adjustment),
        router: router(Some(RouterKind::Margin), Some(Values::One(2.0))),
        file: None,
    };
    assert!(matches!(trained(replaced).unwrap().network.routing, Routing::Confidence(rules) if rules.len() == 2));
    let moved = Rules { router: router(None, Some(Values::Each(vec![0.25, -1.0]))), ..Rules::default() };
    let Routing::Assignment(routers) = trained(moved).unwrap().network.routing else { panic!("no trained routers") };
    assert_eq!(routers.iter().map(|router| router.threshold).collect::<Vec<_>>(), [0.25, -1.0]);
    let none = Rules { router: router(Some(RouterKind::None), None), ..Rules::default() };
    assert_eq!(trained(none).unwrap().network.routing, Routing::None);
}

#[test]
fn descriptions_that_do_not_fit_are_named() {
    let folder = relative("sade");
    let path = folder.path();
    for (text, parts) in [
        ("[combiner]\nkind = 'weighted'", &["[combiner] weights", "missing", "3"][..]),
        ("[combiner]\nkind = 'weighted'\nweights = [1, 2]", &["[combiner] weights", "2 numbers", "3 experts"]),
        ("[combiner]\nkind = 'weighted'\nweights = [1, 0, 2]", &["[combiner] weights", "positive"]),
        ("[combiner]\nkind = 'weighted'\nweights = [1, nan, 2]", &["[combiner] weights", "positive"]),
        ("[combiner]\nkind = 'weighted'\nweights = [1e38, 3e38, 3e38]", &["[combiner] weights", "range of f32"]),
        ("[combiner]\nkind = 'mean'\nweights = [1, 1, 2]", &["[combiner] weights", "weighted"]),
        ("[combiner]\nkind = 'median'", &["median", "mean"]),
        ("[combiner]\nweight = [1]", &["weight"]),
        ("[router]\ncriterion = 'margin'", &["[router] threshold", "missing", "margin"]),
        ("[router]\nthreshold = 0.5", &["[router] threshold", "no routers", "\"entropy\""]),
        ("[router]\ncriterion = 'assignment'", &["[router] criterion", "no trained routers"]),
        ("[router]\ncriterion = 'none'\nthreshold = 1", &["[router] threshold", "no use"]),
        ("[router]\ncriterion = 'max-probability'\nthreshold = 1.5", &["[router] threshold is 1.5", "from 0 to 1"]),
        ("[router]\ncriterion = 'max-probability'\nthreshold = nan", &["[router] threshold is NaN"]),
        ("[router]\ncriterion = 'margin'\nthreshold = -1", &["[router] threshold is -1"]),
        ("[router]\ncriterion = 'entropy'\nthreshold = 2.5", &["[router] threshold is 2.5", "2.3025851"]),
        ("[router]\ncriterion = 'entropy'\nthreshold = [1, 1, 1]", &["3 numbers", "2 routers"]),
        ("[router]\ncriterion = 'doubt'", &["doubt", "entropy"]),
        ("[logit_adjustment]\ntau = 1", &["[logit_adjustment]", "not known", "--class-counts"]),
        ("[logit_adjustment]\ntau = [1, 2]\ncounts = [1]", &["[logit_adjustment] tau", "2 numbers"]),
        ("[logit_adjustment]\ntau = inf\ncounts = [1]", &["[logit_adjustment] tau", "finite"]),
        ("[logit_adjustment]\ntau = 1\ncounts = [1, 2]", &["[logit_adjustment] counts", "2 numbers", "10 classes"]),
        (
            "[logit_adjustment]\ntau = 1\ncounts = [1, 2, 3, 4, 5, 6, 0, 8, 9, 10]",
            &["[logit_adjustment] counts", "class 6"],
        ),
        ("[logit_adjustment]\ntau = 1\ncounts = 'no.txt'", &["[logit_adjustment] counts", "no.txt"]),
        ("[model]\narch = 'ResNet33Model'", &["[model]", "ResNet33Model", "ResNet32Model"]),
        ("[model]\nargs = { num_experts = 4 }", &["[model]", "num_experts is 4", "3"]),
        ("[model]\nargs = { num_classes = 'ten' }", &["[model]", "num_classes", "ten"]),
        ("[model]\nseparate = true", &["conv1s.0.weight", "missing"]),
        ("[model]\nclassifier = { kind = 'cosine' }", &["[model.classifier] scale", "missing"]),
        ("[model]\nclassifier = { kind = 'cosine', scale = 0 }", &["[model.classifier] scale is 0"]),
        ("[model]\nclassifier = { kind = 'linear', scale = 3 }", &["[model.classifier] scale", "leave it out"]),
        ("[model]\nclassifier = { kind = 'reslt', gamma = 0.5 }", &["ResLTBlocks.0.0.weight", "missing"]),
        (
            "[model]\nrename = [{ from = 'backbone.{a', to = 'b' }]",
            &["ride.toml", "[model] rename, rule 1", "without }"],
        ),
        (
            "[model]\nrename = [{ from = 'backbone.linears.{e}', to = 'linears.0' }]",
            &["linears.0.weight", "rename", "linears.1.weight"],
        ),
    ] {
        fs::write(path.join("ride.toml"), text).unwrap();
        let error = error(path);
        for part in parts.iter().chain(&["ride.toml"]) {
            assert!(error.contains(part), "{text}: {part:?} is not in: {error}");
        }
    }
    // A rule that fits nothing is worth a note.
    fs::write(path.join("ride.toml"), "[model]\nrename = [{ from = 'nothing', to = 'x' }]").unwrap();
    let source = Source::open(path, Embedded::Ignore).unwrap();
    assert!(source.notes().iter().any(|note| note.contains("\"nothing\"")), "{:?}", source.notes());
    // Without config.json, the way out includes [model].
    fs::remove_file(path.join("config.json")).unwrap();
    let error = error(path);
    assert!(error.contains("config.json") && error.contains("[model]"), "{error}");
}
