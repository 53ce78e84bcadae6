//! `verify`.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{IMAGES, command, fails, json, lab, model, run, succeeds, text};

#[test]
fn verify_compares_both_sides() {
    let lab = lab();
    let model = model();
    let args = ["verify", text(&lab.artifact), "--model", text(&model), "--data", text(&lab.npz), "--json"];
    let output = command(&args).env("RAYON_NUM_THREADS", "1").output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let other = command(&args).env("RAYON_NUM_THREADS", "3").output().unwrap();
    assert_eq!(output.stdout, other.stdout, "the number of threads must not show");
    assert_eq!((&report["images"], &report["layers_images"]), (&IMAGES.into(), &IMAGES.into()));
    for side in ["float", "int8"] {
        let shares = report[side]["experts"].as_array().unwrap();
        assert_eq!(shares.len(), 3);
        assert!((shares.iter().map(|s| s.as_f64().unwrap()).sum::<f64>() - 1.0).abs() < 1e-9);
        for key in ["top1", "many", "medium", "few"] {
            assert!((0.0..=100.0).contains(&report[side][key].as_f64().unwrap()), "{report}");
        }
    }
    for key in ["top1", "route"] {
        assert!(report["agreement"][key].as_f64().unwrap() > 60.0, "{report}");
    }
    assert!(report["sqnr_db"].as_f64().unwrap() > 20.0, "{report}");
    let layers = report["layers"].as_array().unwrap();
    let ops = json(&["inspect", text(&lab.artifact), "--json"]);
    let ops = ops["parts"].as_array().unwrap().iter().flat_map(|p| p["ops"].as_array().unwrap()).map(|op| &op["name"]);
    assert!(ops.eq(layers.iter().map(|l| &l["name"])), "layers are the operations");
    // Every layer has its counterpart, and int8 follows it.
    assert!(layers.iter().all(|l| l["sqnr_db"].as_f64().unwrap() > 10.0), "{layers:?}");
    assert_eq!(report["fixed"].as_array().unwrap().len(), 3);

    let limited = json(&[&args[..], &["--limit", "5"]].concat());
    assert_eq!(limited["images"], 5);
    let table = succeeds(&args[..6]);
    for part in ["float", "int8", "few-shot", "SQNR", "router 1"] {
        assert!(table.contains(part), "{table}");
    }
    assert!(report.get("half").is_none() && !table.contains("half"));
}

#[test]
fn half_precision_is_a_third_side() {
    let lab = lab();
    let model = model();
    let args = ["verify", text(&lab.artifact), "--model", text(&model), "--data", text(&lab.npz), "--half"];
    let report = json(&[&args[..], &["--json"]].concat());
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{report}"));
    let (half, int8) = (&report["half"], &report);
    assert!((number(&half["top1"]) - number(&report["float"]["top1"])).abs() < 5.0, "{report}");
    assert!(number(&half["agreement"]["top1"]) >= number(&int8["agreement"]["top1"]), "{report}");
    assert!(number(&half["sqnr_db"]) > number(&int8["sqnr_db"]) + 10.0, "11 bits against 8: {report}");
    assert_eq!(half["experts"].as_array().unwrap().len(), 3);
    for (half, int8) in half["score_errors"].as_array().unwrap().iter().zip(int8["score_errors"].as_array().unwrap()) {
        assert!(number(half) < number(int8), "{report}");
    }
    let table = succeeds(&args);
    assert!(
        table.lines().any(|line| line.split_whitespace().eq(["float", "int8", "change", "half", "change"])),
        "{table}"
    );
}

#[test]
fn gates_fail_with_their_own_code() {
    let lab = lab();
    let model = model();
    let args = ["verify", text(&lab.artifact), "--model", text(&model), "--data", text(&lab.npz), "--limit", "4"];
    let error = fails(&[&args[..], &["--fail-below-agreement", "100.5"]].concat(), 2);
    assert!(error.contains("verification failed") && error.contains("100.5"), "{error}");
    let error = fails(&[&args[..], &["--fail-top1-drop", "-101"]].concat(), 2);
    assert!(error.contains("verification failed") && error.contains("top-1"), "{error}");
    let output = run(&[&args[..], &["--fail-below-agreement", "100.5", "--json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["failures"].as_array().unwrap().len(), 1);
    succeeds(&[&args[..], &["--fail-below-agreement", "0", "--fail-top1-drop", "101"]].concat());
}

#[test]
fn verify_without_training_counts_has_no_groups() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let (model, table, path) = (model(), folder.path().join("t.json"), folder.path().join("m.ride"));
    succeeds(&["calibrate", text(&model), "--data", text(&lab.npz), "--images", "2", "-o", text(&table)]);
    let mut without: serde_json::Value = serde_json::from_slice(&fs::read(&table).unwrap()).unwrap();
    assert!(without.as_object_mut().unwrap().remove("class_counts").is_some(), "calibrate counts the classes");
    fs::write(&table, without.to_string()).unwrap();
    succeeds(&["build", text(&model), "--calibration", text(&table), "-o", text(&path)]);
    let args = ["verify", text(&path), "--model", text(&model), "--data", text(&lab.npz), "--limit", "3", "--json"];
    let report = json(&args);
    assert!(report["float"]["few"].is_null() && report["float"]["top1"].is_number(), "{report}");
    assert_eq!(report["warnings"].as_array().unwrap().len(), 1);
    let report = json(&[&args[..], &["--class-counts", text(&lab.counts)]].concat());
    assert!(report["float"]["many"].is_number(), "{report}");
}

/// CIFAR-100-LT, where it is at hand: `RIDE_SHARED`, else the folder `shared` beside the repository.
fn real_data() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var_os("RIDE_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    Some(root.join("cifar100-lt")).filter(|folder| folder.is_dir())
}

/// int8 against float on 5,000 images, routed.
#[test]
fn real_images_keep_their_accuracy_and_their_routes() {
    let Some(data) = real_data() else {
        println!("skipped: there is no CIFAR-100-LT (RIDE_SHARED)");
        return;
    };
    let (model, folder) = (model(), TempDir::new().unwrap());
    let (path, counts) = (folder.path().join("m.ride"), data.join("class_counts.txt"));
    let (train, val) = (data.join("train.bin"), data.join("val.bin"));
    let build = ["build", text(&model), "--data", text(&train), "-o", text(&path), "--class-counts", text(&counts)];
    succeeds(&build);
    let report = json(&["verify", text(&path), "--model", text(&model), "--data", text(&val), "--json"]);
    let at = |keys: &[&str]| keys.iter().fold(&report, |value, key| &value[*key]).as_f64().unwrap();
    assert!((at(&["float", "top1"]) - 39.42).abs() < 1e-9, "the float side is the official model");
    assert!((at(&["float", "top1"]) - at(&["int8", "top1"])).abs() <= 0.3);
    assert!((at(&["float", "few"]) - at(&["int8", "few"])).abs() <= 0.5);
    assert!(at(&["agreement", "top1"]) >= 97.0);
    assert!(report["agreement"]["routers"].as_array().unwrap().iter().all(|r| r.as_f64().unwrap() >= 98.5));
    assert!(at(&["experts_change_percent"]).abs() <= 1.0);
    assert!(at(&["sqnr_db"]) >= 34.0);
    let off: Vec<f64> = report["score_errors"].as_array().unwrap().iter().map(|rms| rms.as_f64().unwrap()).collect();
    assert!(off.len() == 2 && off.iter().all(|rms| (0.01..0.6).contains(rms)), "{off:?}");
}
