//! A MobileNet-v2 in miniature, from ONNX to int8: ReLU6, depthwise windows, residuals; and what is said where a target
//! has no kernel for them.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::{json, run, succeeds, text, write_npz_of};

fn onnx() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/onnx/mobile-script-17.onnx")
}

const NORMALISATION: [&str; 4] = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"];

/// Builds for `target`; returns the JSON summary.
fn build(folder: &Path, target: &str) -> serde_json::Value {
    let (model, data, path) = (onnx(), folder.join("data.npz"), folder.join(format!("{target}.ride")));
    let args = ["build", text(&model), "--target", target, "--data", text(&data), "-o", text(&path), "--json"];
    json(&[&args[..], &NORMALISATION].concat())
}

#[test]
fn depthwise_networks_keep_their_answers() {
    let folder = TempDir::new().unwrap();
    write_npz_of(&folder.path().join("data.npz"), 64, (16, 10));
    let mut reports = Vec::new();
    for target in ["x86-64", "aarch64", "portable"] {
        build(folder.path(), target);
        let (path, model) = (folder.path().join(format!("{target}.ride")), onnx());
        let data = folder.path().join("data.npz");
        let args = ["verify", text(&path), "--model", text(&model), "--data", text(&data), "--json"];
        let mut report = json(&args);
        assert!(report["sqnr_db"].as_f64().unwrap() > 25.0, "{target}: {report}");
        assert!(report["agreement"]["top1"].as_f64().unwrap() > 90.0, "{target}: {report}");
        let layers = report["layers"].as_array().unwrap();
        assert!(layers.len() > 10 && layers.iter().all(|l| l["sqnr_db"].as_f64().unwrap() > 15.0), "{layers:?}");
        reports.push(["int8", "agreement", "sqnr_db", "layers"].map(|key| report[key].take()));
    }
    assert!(reports.iter().all(|report| *report == reports[0]), "every layout gives the same answers");
}

#[test]
fn slow_paths_are_announced() {
    let folder = TempDir::new().unwrap();
    write_npz_of(&folder.path().join("data.npz"), 8, (16, 10));
    let depthwise = |op: &&serde_json::Value| op["detail"].as_str().unwrap().contains("groups");
    for (target, slow) in
        [("x86-64", None), ("cortex-a53", None), ("cortex-m33", Some("dsp")), ("cortex-m4", Some("dsp"))]
    {
        let warnings = build(folder.path(), target)["warnings"].as_array().unwrap().clone();
        assert_eq!(warnings.len(), usize::from(slow.is_some()), "{target}: {warnings:?}");
        let path = folder.path().join(format!("{target}.ride"));
        let report = json(&["inspect", text(&path), "--json"]);
        let ops: Vec<_> =
            report["parts"].as_array().unwrap().iter().flat_map(|p| p["ops"].as_array().unwrap()).collect();
        let (grouped, others): (Vec<_>, Vec<_>) =
            ops.iter().copied().filter(|op| op["kind"] == "conv").partition(depthwise);
        assert_eq!(grouped.len(), 3);
        assert!(others.iter().all(|op| op["slow_path"].is_null()), "{target}: {others:?}");
        for op in grouped.iter().chain(&others) {
            assert!(op["expected_macs_per_cycle"].as_f64().unwrap() > 0.0, "{op}");
        }
        let shown = succeeds(&["inspect", text(&path)]);
        assert!(shown.contains("MAC/cycle"), "{shown}");
        let Some(isa) = slow else {
            assert!(grouped.iter().all(|op| op["slow_path"].is_null()), "{grouped:?}");
            continue;
        };
        let warning = warnings[0].as_str().unwrap();
        for part in ["3 of ", target, isa, "portable code"] {
            assert!(warning.contains(part), "{warning}");
        }
        assert!(grouped.iter().all(|op| op["slow_path"].as_str().unwrap().contains(isa)), "{grouped:?}");
        assert!(shown.contains(warning) && shown.contains("slow path"), "{shown}");
    }
    // People are told once.
    let (model, data, path) = (onnx(), folder.path().join("data.npz"), folder.path().join("again.ride"));
    let args = ["build", text(&model), "--target", "cortex-m4", "--data", text(&data), "-o", text(&path)];
    let output = run(&[&args[..], &NORMALISATION].concat());
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && notes.matches("slow path").count() == 1, "{notes}");
}
