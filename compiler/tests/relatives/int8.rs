//! Int8 end to end through the command line.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use ride_compiler::checkpoint::Embedded;
use ride_compiler::description::{RouterKind, RouterTable, Rules, Values};
use ride_compiler::import::ImportOptions;
use ride_compiler::reference::{Executor, Image, Policy, Scratch};
use ride_compiler::source::Source;
use ride_runtime::golden;
use serde_json::{Value, json};

use crate::material::relative;
use crate::{CLASSES, npz};

const IMAGES: usize = 40;

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
