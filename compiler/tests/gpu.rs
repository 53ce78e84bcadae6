//! `bench --device cuda` where there is no driver, or not the right one.

use std::path::Path;
use std::process::{Command, Output};

fn ride(args: &[&str], library: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ride-compile"));
    command.args(args).env("RIDE_CUDA_LIBRARY", library).output().expect("ride-compile starts")
}

fn artifact(folder: &Path) -> String {
    let out = folder.join("model.ride").to_string_lossy().into_owned();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/models/ride-resnet32-cifar100lt");
    let built = ride(&["build", model, "--target", "jetson-orin", "-o", &out], "");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    out
}

#[test]
fn a_missing_driver_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let artifact = artifact(folder.path());
    for (library, part) in [("/nowhere/libcuda.so.1", "no NVIDIA driver"), ("libc.so.6", "no cuInit")] {
        let output = ride(&["bench", &artifact, "--device", "cuda", "--seconds", "0.1"], library);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(part) && message.contains("--device cuda"), "{message}");
        assert!(output.stdout.is_empty());
    }
    let both = ride(&["bench", &artifact, "--device", "cuda", "--threads", "2"], "");
    assert!(!both.status.success(), "threads are the CPU's");
}

/// The model of a board's GPU serves budgets, reports and operating points, and says what it is.
#[test]
fn latency_of_a_board_is_a_model_that_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("model.ride").to_string_lossy().into_owned();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/models/ride-resnet32-cifar100lt");
    let build = |target: &str, more: &[&str]| {
        ride(&[&["build", model, "--target", target, "-o", &out, "--json"], more].concat(), "")
    };
    let latency = |output: &Output| -> Vec<f64> {
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a report");
        let ms = report["estimate"]["latency_ms"].as_array().expect("an estimate").iter();
        ms.map(|ms| ms.as_f64().expect("a number")).collect()
    };
    let boards = ["jetson-nano", "jetson-tx2", "jetson-xavier", "jetson-orin"].map(|board| latency(&build(board, &[])));
    for ms in &boards {
        assert!(ms.len() == 3 && ms.is_sorted() && ms[0] > 0.05 && ms[2] < 20.0, "{ms:?}");
    }
    assert!(boards.windows(2).all(|pair| pair[0][2] > pair[1][2]), "newer boards are faster: {boards:?}");
    // Half the clock takes longer, but not twice as long: barriers and memory stay what they are.
    let slow = latency(&build("jetson-nano", &["--clock", "460.8M"]));
    assert!(slow[2] > 1.2 * boards[0][2] && slow[2] < 2.0 * boards[0][2], "{slow:?} and {boards:?}");
    let tight = build("jetson-orin", &["--budget", "latency=1us"]);
    let message = String::from_utf8_lossy(&tight.stderr);
    assert!(
        tight.status.code() == Some(2) && message.contains("not measured") && message.contains("Orin NX"),
        "{message}"
    );
    let shown = ride(&["targets", "jetson-orin"], "");
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("not measured") && shown.contains("8 multiprocessors"), "{shown}");
}
