//! Routers as a user trains and tunes them: `train-router`, `thresholds`, and `build` with thresholds that are chosen.

mod npz;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use ride_compiler::checkpoint::{self, Tensor};
use ride_runtime::golden;
use serde_json::{Value, json};
use tempfile::TempDir;

const IMAGES: usize = 40;

// ---- running -------------------------------------------------------------------------------------------------------

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ride-compile"));
    command.args(args).stdin(Stdio::null());
    command
}

fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn run(args: &[&str]) -> String {
    succeeds(command(args).output().unwrap())
}

fn run_json(args: &[&str]) -> Value {
    serde_json::from_str(&run(&[args, &["--json"]].concat())).unwrap()
}

/// Standard error of a run that must fail with `code`, in one line.
#[track_caller]
fn fails(args: &[&str], code: i32) -> String {
    let output = command(args).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    assert_eq!(error.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

// ---- material ------------------------------------------------------------------------------------------------------

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/models/ride-resnet32-cifar100lt");

/// Synthetic pictures with these labels.
fn write_npz(path: &Path, labels: &[usize]) {
    let mut pixels = Vec::new();
    for seed in 0..labels.len() {
        let mut picture = vec![0; 32 * 32 * 3];
        golden::image(seed as u32, (32, 3), &mut picture);
        pixels.extend(picture);
    }
    npz::write(path, (32, 32), &pixels, labels);
}

struct Lab {
    /// Pictures labelled with what 1, 2 or 3 experts say, so that routes matter.
    npz: PathBuf,
    /// The example model.
    artifact: PathBuf,
}

fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("routing");
        fs::create_dir_all(&folder).unwrap();
        let lab = Lab { npz: folder.join("data.npz"), artifact: folder.join("model.ride") };
        run(&["build", MODEL, "-o", text(&lab.artifact)]);
        let file = ride_compiler::artifact_file::ArtifactFile::read(&lab.artifact).unwrap();
        let model = file.model().unwrap();
        let mut arena = ride_compiler::artifact_file::arena(model).unwrap();
        let mut session = ride_runtime::Session::new(model, &mut arena).unwrap();
        let label = |n: usize| {
            let mut picture = vec![0; 32 * 32 * 3];
            golden::image(n as u32, (32, 3), &mut picture);
            session.classify(&picture, ride_runtime::Policy::Exactly(1 + n % 3)).unwrap().class
        };
        write_npz(&lab.npz, &(0..IMAGES).map(label).collect::<Vec<_>>());
        lab
    })
}

/// The example model without its routers, as stage 1 leaves it.
fn write_stage_1(folder: &Path) {
    let mut checkpoint = checkpoint::load(Path::new(MODEL)).unwrap();
    checkpoint.tensors.retain(|name, _| !name.starts_with("expert_help_pred"));
    write_safetensors(&folder.join("model.safetensors"), &checkpoint.tensors);
    let config = json!({
        "arch": { "type": "ResNet32Model", "args": { "num_classes": 100, "reduce_dimension": true, "use_norm": true } },
        "data_loader": { "type": "ImbalanceCIFAR100DataLoader", "args": { "batch_size": 128 } },
        "optimizer": { "args": { "lr": 0.1 } },
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    use safetensors::tensor::{Dtype, TensorView};
    let bytes: BTreeMap<&String, Vec<u8>> =
        tensors.iter().map(|(name, t)| (name, t.data.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
    let views = tensors
        .iter()
        .map(|(name, t)| (name.as_str(), TensorView::new(Dtype::F32, t.shape.clone(), &bytes[name]).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

// ---- thresholds ----------------------------------------------------------------------------------------------------

#[test]
fn patched_artifacts_are_those_that_build_makes() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let file = |name: &str| folder.path().join(name);
    let (patched, built) = (file("patched.ride"), file("built.ride"));
    run(&["thresholds", text(&lab.artifact), "--set", "-1.25,2.5", "-o", text(&patched)]);
    run(&["build", MODEL, "--router-threshold", "-1.25,2.5", "-o", text(&built)]);
    let bytes = fs::read(&patched).unwrap();
    assert_eq!(bytes, fs::read(&built).unwrap());
    assert_ne!(bytes, fs::read(&lab.artifact).unwrap());
    // It stays the model's artifact, and both sides of a verification use what it holds.
    let verify = ["verify", text(&patched), "--model", MODEL, "--data", text(&lab.npz)];
    let report = run_json(&verify);
    assert!(report["agreement"]["route"].as_f64().unwrap() > 90.0, "{}", report["agreement"]);
    assert!(report["routers"][1].as_str().unwrap().contains("2.5"), "{}", report["routers"]);
    let error = fails(&[&verify[..], &["--router-threshold", "0.5"]].concat(), 1);
    assert!(error.contains("--router-threshold") && error.contains("2.5"), "{error}");
    // In place, and back again.
    let shown = run_json(&["thresholds", text(&patched)]);
    assert_eq!(shown["thresholds"], json!([-1.25, 2.5]));
    let written = run_json(&["thresholds", text(&patched), "--set", "0,0", "--emit", "ride,rust,c"]);
    assert_eq!(fs::read(&patched).unwrap(), fs::read(&lab.artifact).unwrap());
    assert!(written["golden_vectors"].as_u64().unwrap() > 0);
    assert_eq!(names(folder.path()), ["built.ride", "patched.c", "patched.h", "patched.ride", "patched.rs"]);
}

#[test]
fn the_chosen_point_is_what_the_artifact_does() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let (out, csv) = (folder.path().join("out.ride"), folder.path().join("front.csv"));
    let args = ["thresholds", text(&lab.artifact), "--data", text(&lab.npz), "--csv", text(&csv)];
    let limits = ["--max-experts", "1.9", "--latency", "1ms,2ms,4ms"];
    let report = run_json(&[&args[..], &limits, &["--write", "-o", text(&out)]].concat());
    let front = report["front"].as_array().unwrap();
    let number = |point: &Value, key: &str| point[key].as_f64().unwrap();
    assert!(front.len() > 1 && report["exact"] == true && report["images"] == IMAGES, "{report}");
    for pair in front.windows(2) {
        assert!(number(&pair[0], "mean_experts") < number(&pair[1], "mean_experts"));
        assert!(number(&pair[0], "top1") < number(&pair[1], "top1"));
    }
    let chosen = &report["chosen"];
    assert!(front.contains(chosen) && number(chosen, "mean_experts") <= 1.9);
    let shares: Vec<f64> = chosen["experts"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
    let ms = shares[0] + 2.0 * shares[1] + 4.0 * shares[2];
    assert!((number(chosen, "latency_ms") - ms).abs() < 1e-9);
    // The file does what was promised, on the runtime.
    let verified = run_json(&["verify", text(&out), "--model", MODEL, "--data", text(&lab.npz)]);
    for key in ["top1", "many", "medium", "few", "mean_experts", "experts"] {
        assert_eq!(verified["int8"][key], chosen[key], "{key}");
    }
    let lines = fs::read_to_string(&csv).unwrap();
    assert_eq!(lines.lines().count(), front.len() + 1);
    assert!(lines.starts_with("mean_experts,top1,many,medium,few,class_mean,latency_ms,threshold0,threshold1\n"));
    // Text for people, and the artifact as it was.
    let shown = run(&[&args[..], &["--max-latency", "2.2ms"], &limits[2..]].concat());
    assert!(shown.contains("chosen") && shown.contains("--set") && shown.contains("always 3 experts"), "{shown}");
    assert_eq!(run_json(&["thresholds", text(&lab.artifact)])["thresholds"], json!([0.0, 0.0]));
}

/// A microcontroller's artifact, whose kernels this machine does not have: its own latency model counts.
#[test]
fn the_chosen_point_keeps_a_devices_latency() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let (device, out) = (folder.path().join("m7.ride"), folder.path().join("out.ride"));
    let built = run_json(&["build", MODEL, "--target", "cortex-m7", "-o", text(&device)]);
    let times: Vec<f64> =
        built["estimate"]["latency_ms"].as_array().unwrap().iter().map(|ms| ms.as_f64().unwrap()).collect();
    assert!(times.len() == 3 && times[0] > 1.0 && times.is_sorted(), "{times:?}");
    let limit = (times[0] + times[1]) / 2.0;
    let args = ["thresholds", text(&device), "--data", text(&lab.npz), "--max-latency", &format!("{limit}ms")];
    let report = run_json(&[&args[..], &["--write", "-o", text(&out)]].concat());
    assert!(report["latency"].as_str().unwrap().contains("480 MHz"), "{}", report["latency"]);
    let chosen = &report["chosen"];
    let shares = chosen["experts"].as_array().unwrap().iter().map(|share| share.as_f64().unwrap());
    let expected: f64 = shares.zip(&times).map(|(share, ms)| share * ms).sum();
    let found = chosen["latency_ms"].as_f64().unwrap();
    assert!((found - expected).abs() < 1e-9 && found <= limit && found > times[0], "{found}, {expected}");
    // Every faster point is worse, and so is every one that the limit leaves.
    let front = report["front"].as_array().unwrap();
    let kept = front.iter().filter(|point| point["latency_ms"].as_f64().unwrap() <= limit);
    assert!(kept.clone().count() > 1 && kept.clone().next_back() == Some(chosen), "{chosen}");
    // What was written does this, and is still for the device.
    let verified = run_json(&["verify", text(&out), "--model", MODEL, "--data", text(&lab.npz)]);
    assert_eq!(verified["int8"]["experts"], chosen["experts"]);
    let vector = ride_runtime::kernels::BACKENDS.iter().any(|b| b.isa.name() != "scalar" && b.isa.available());
    assert_eq!(verified["repacked"].as_bool(), Some(vector));
    assert_eq!(run_json(&["inspect", text(&out)])["target"], "cortex-m7");
    // At half the clock, in twice the time; on another target, in its own.
    let slow = run_json(&[&args[..4], &["--target", "cortex-m7", "--clock", "240M"]].concat());
    assert!((slow["fixed"][0]["latency_ms"].as_f64().unwrap() / times[0] - 2.0).abs() < 1e-6, "{}", slow["fixed"]);
    // The front is shown where nothing keeps the limit.
    let failed = command(&[&args[..5], &["1us", "--write", "-o", text(&out)]].concat()).output().unwrap();
    assert_eq!(failed.status.code(), Some(2));
    assert!(String::from_utf8(failed.stdout).unwrap().contains("the front has"));
}

#[test]
fn confidence_is_tuned_in_build() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    for (criterion, limit) in [("margin", 1.5), ("entropy", 2.5), ("max-probability", 1.0)] {
        let out = folder.path().join(format!("{criterion}.ride"));
        let args = ["build", MODEL, "--router", criterion, "--choose-thresholds", text(&lab.npz)];
        let limited = limit.to_string();
        let built = run_json(&[&args[..], &["--max-experts", &limited, "-o", text(&out)]].concat());
        let point = &built["operating_point"];
        assert!(point["mean_experts"].as_f64().unwrap() <= limit && point["thresholds"].as_array().unwrap().len() == 2);
        // The criterion has to be repeated, the thresholds are in the artifact.
        let verify = ["verify", text(&out), "--model", MODEL, "--data", text(&lab.npz)];
        let verified = run_json(&[&verify[..], &["--router", criterion]].concat());
        assert_eq!(verified["int8"]["mean_experts"], point["mean_experts"]);
        assert_eq!(verified["int8"]["top1"], point["top1"]);
    }
    let error = fails(&["build", MODEL, "--max-experts", "2", "-o", "x.ride"], 1);
    assert!(error.contains("--choose-thresholds"), "{error}");
    let args = ["build", MODEL, "--choose-thresholds", text(&lab.npz), "-o", "x.ride"];
    assert!(fails(&args, 1).contains("--max-experts"));
    assert!(!Path::new("x.ride").exists());
}

#[test]
fn float_models_have_fronts_and_orders() {
    let lab = lab();
    let args = ["thresholds", MODEL, "--data", text(&lab.npz)];
    let report = run_json(&[&args[..], &["--router", "margin", "--max-experts", "1.5"]].concat());
    assert_eq!(report["criteria"], json!(["margin", "margin"]));
    assert!(report["chosen"]["mean_experts"].as_f64().unwrap() <= 1.5);
    let report = run_json(&[&args[..], &["--search-order", "--limit", "30"]].concat());
    let orders = report["orders"].as_array().unwrap();
    // One to three of three experts, in any order.
    assert_eq!((orders.len(), report["images"].as_u64()), (3 + 6 + 6, Some(30)));
    let values: Vec<f64> = orders.iter().map(|order| order["value"].as_f64().unwrap()).collect();
    assert!(values.windows(2).all(|pair| pair[0] >= pair[1]), "{values:?}");
    let natural = orders.iter().find(|order| order["order"] == json!([0, 1, 2])).unwrap();
    let fixed: Vec<_> = report["fixed"].as_array().unwrap().iter().map(|point| point["top1"].clone()).collect();
    assert_eq!(natural["fixed"], json!(fixed));
}

#[test]
fn thresholds_refuse_what_they_cannot_do() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let file = |name: &str| folder.path().join(name);
    let (plain, margin, before) = (file("plain.ride"), file("margin.ride"), fs::read(&lab.artifact).unwrap());
    run(&["build", MODEL, "--router", "none", "-o", text(&plain)]);
    let router = ["--router", "max-probability", "--router-threshold", "0.5"];
    run(&[&["build", MODEL, "-o", text(&margin)][..], &router].concat());
    let artifact = text(&lab.artifact);
    let data = ["--data", text(&lab.npz)];
    let (plain, margin) = (text(&plain), text(&margin));
    let none = file("none.ride");
    for (args, code, parts) in [
        (vec!["thresholds", plain, "--set", "1"], 1, &["no routers"][..]),
        (vec!["thresholds", plain, data[0], data[1]], 1, &["no routers", "--router"]),
        (vec!["thresholds", artifact, "--set", "1"], 1, &["1 thresholds for 2 routers"]),
        (vec!["thresholds", artifact, "--set", "1,nan"], 1, &["NaN", "router 1", "finite"]),
        (vec!["thresholds", margin, "--set", "0.5,1.5"], 1, &["1.5", "max-probability", "from 0 to 1"]),
        (vec!["thresholds", artifact, "--write"], 1, &["--data"]),
        (vec!["thresholds", artifact, data[0], data[1], "--write"], 1, &["--max-experts"]),
        (vec!["thresholds", artifact, data[0], data[1], "--max-experts", "4"], 1, &["between 1 and 3"]),
        (vec!["thresholds", artifact, data[0], data[1], "--max-latency", "1ms"], 1, &["--latency", "--target"]),
        (vec!["thresholds", artifact, data[0], data[1], "--latency", "1ms,2ms"], 1, &["--latency has 2", "3 experts"]),
        (vec!["thresholds", artifact, "--set", "1,1", "-o", text(folder.path())], 1, &["folder"]),
        (vec!["thresholds", artifact, data[0], data[1], "-o", text(&none)], 1, &["--write"]),
        (vec!["thresholds", artifact, data[0], data[1], "--search-order"], 1, &["--search-order", "model"]),
        (vec!["thresholds", artifact, data[0], data[1], "--router", "margin"], 1, &["build it again"]),
        (vec!["thresholds", MODEL, "--set", "1,1"], 1, &["--router-threshold", "ride.toml"]),
        (vec!["thresholds", MODEL], 1, &["--data"]),
        (vec!["thresholds", "nowhere.ride", "--set", "1,1"], 1, &["nowhere.ride"]),
        (
            vec![
                "thresholds",
                artifact,
                data[0],
                data[1],
                "--max-latency",
                "1us",
                "--latency",
                "1ms,2ms,3ms",
                "--write",
                "-o",
                text(&none),
            ],
            2,
            &["keep these limits"],
        ),
    ] {
        let error = fails(&args, code);
        for part in parts {
            assert!(error.contains(part), "{args:?}: {part:?} is not in: {error}");
        }
    }
    assert!(!none.exists());
    assert_eq!(fs::read(&lab.artifact).unwrap(), before);
}

// ---- training ------------------------------------------------------------------------------------------------------

const QUICK: [&str; 8] = ["--augment", "none", "--epochs", "2", "--batch", "8", "--lr", "0.001"];

#[test]
fn stage_1_gets_routers_that_everything_reads() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let (stage, out) = (folder.path().join("stage1"), folder.path().join("routed"));
    fs::create_dir(&stage).unwrap();
    write_stage_1(&stage);
    fs::write(stage.join("class_counts.txt"), "7\n".repeat(100)).unwrap();
    let train = |model: &Path, out: &Path, threads: &str, more: &[&str]| -> Value {
        let args = ["train-router", text(model), "--data", text(&lab.npz), "-o", text(out), "--json"];
        let output = command(&[&args[..], &QUICK, more].concat()).env("RAYON_NUM_THREADS", threads).output();
        serde_json::from_str(&succeeds(output.unwrap())).unwrap()
    };
    let report = train(&stage, &out, "1", &[]);
    assert_eq!((&report["arch"], &report["retrained"]), (&json!("ResNet32EAModel"), &json!(false)));
    assert_eq!(report["epochs"].as_array().unwrap().len(), 2);
    assert_eq!((&report["settings"]["pos_weight"], &report["settings"]["top_choices"]), (&json!(100.0), &json!(30)));
    assert!(report["forwards"].as_u64().unwrap() <= IMAGES as u64);
    assert_eq!(names(&out), ["class_counts.txt", "config.json", "model.safetensors"]);
    // The experts are the same numbers; the routers are new.
    let (before, after) = (checkpoint::load(&stage).unwrap(), checkpoint::load(&out).unwrap());
    assert!(before.tensors.iter().all(|(name, tensor)| after.tensors[name] == *tensor));
    assert_eq!(after.tensors.len(), before.tensors.len() + 6);
    assert_eq!(after.config["arch"]["args"]["pos_weight"], 100.0);
    assert_eq!(after.config["optimizer"]["args"]["lr"], 0.001);
    // Threads make no difference, nor do routers that were there before.
    let again = folder.path().join("again");
    let report = train(Path::new(MODEL), &again, "2", &[]);
    assert_eq!(report["retrained"], true);
    assert_eq!(checkpoint::load(&again).unwrap().tensors, after.tensors);
    // build, verify and thresholds need nothing else.
    let artifact = folder.path().join("routed.ride");
    let args = ["build", text(&out), "--data", text(&lab.npz), "--images", "8", "-o", text(&artifact)];
    assert_eq!(run_json(&args)["routed"], true);
    let verified = run_json(&["verify", text(&artifact), "--model", text(&out), "--data", text(&lab.npz)]);
    assert!(verified["agreement"]["route"].as_f64().unwrap() > 85.0, "{}", verified["agreement"]);
    // Its own recipe is used for the next time, and its folder may be written again.
    let shorter = train(&out, &folder.path().join("next"), "2", &["--seed", "1"]);
    assert_eq!(shorter["settings"]["seed"], 1);
    train(&stage, &out, "2", &[]);
}

#[test]
fn experts_can_be_reordered_and_dropped() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let out = folder.path().join("two");
    let args = ["train-router", MODEL, "--data", text(&lab.npz), "-o", text(&out), "--order", "2,0"];
    let report = run_json(&[&args[..], &QUICK].concat());
    assert_eq!((&report["experts"], &report["epochs"][0]["routers"].as_array().unwrap().len()), (&json!(2), &1));
    let (before, after) =
        (checkpoint::load(Path::new(MODEL)).unwrap().tensors, checkpoint::load(&out).unwrap().tensors);
    for (place, expert) in [(0, 2), (1, 0)] {
        for name in ["linears.X.weight", "layer2s.X.0.conv1.weight", "layer3s.X.4.bn2.running_var"] {
            let named = |index: usize| name.replace('X', &index.to_string());
            assert_eq!(after[&named(place)], before[&named(expert)], "{name}");
        }
    }
    assert!(!after.keys().any(|name| name.starts_with("linears.2") || name.contains("hidden_fcs.1")));
    assert_eq!(run_json(&["inspect", text(&out)])["experts"], 2);
}

#[test]
fn train_router_refuses_what_it_cannot_do() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let (out, stage) = (folder.path().join("out"), folder.path().join("stage1"));
    fs::create_dir(&stage).unwrap();
    write_stage_1(&stage);
    let foreign = folder.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("model_best.pth"), "x").unwrap();
    let (out, stage, npz) = (text(&out), text(&stage), text(&lab.npz));
    let onnx = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/onnx/ride-script-13.onnx");
    let wrong = folder.path().join("wrong.npz");
    write_npz(&wrong, &[100]);
    for (args, parts) in [
        (vec![text(&onnx), "--data", npz, "-o", out, "--mean", "0,0,0", "--std", "1,1,1"], &["ONNX", "checkpoint"][..]),
        (vec![stage, "--data", npz, "-o", stage], &["holds the model itself"]),
        (vec![stage, "--data", npz, "-o", text(&foreign)], &["model_best.pth"]),
        (vec![stage, "--data", npz, "-o", "/nowhere/at/all"], &["no folder /nowhere/at"]),
        (vec![stage, "--data", npz, "-o", out, "--order", "0,0"], &["--order", "different"]),
        (vec![stage, "--data", npz, "-o", out, "--order", "0,3"], &["--order", "the model has 3"]),
        (vec![stage, "--data", npz, "-o", out, "--order", "1"], &["--order", "two or more"]),
        (vec![stage, "--data", npz, "-o", out, "--top-choices", "101"], &["top_choices_num is 101", "100 classes"]),
        (vec![stage, "--data", npz, "-o", out, "--lr", "-1"], &["learning rate is -1"]),
        (vec![stage, "--data", npz, "-o", out, "--lr", "1e30", "--augment", "none", "--batch", "8"], &["--lr"]),
        (vec![stage, "--data", text(&wrong), "-o", out], &["label 100"]),
        (vec![stage, "-o", out], &["--data"]),
    ] {
        let error = fails_any(&[&["train-router"][..], &args].concat());
        for part in parts {
            assert!(error.contains(part), "{args:?}: {part:?} is not in: {error}");
        }
    }
    // What the plain mean is not, cannot be learned.
    fs::write(Path::new(stage).join("ride.toml"), "[combiner]\nkind = 'sum'\n").unwrap();
    assert!(fails(&["train-router", stage, "--data", npz, "-o", out], 1).contains("[combiner]"));
    assert!(!Path::new(out).exists());
}

/// As [`fails`] with code 1, for usage errors too, which clap prints in lines of its own.
#[track_caller]
fn fails_any(args: &[&str]) -> String {
    let output = command(args).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
    assert!(error.contains("error: ") && !error.contains("panicked"), "{error}");
    error
}
