//! `check.sh` from end to end, with the interpreter as the driver: every step runs, and what is missing or fails is said.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ride_tests::built;
use serde_json::Value;

/// A name that JSON has to escape.
const NAME: &str = r#"tiny "a\b" net.ride"#;

/// A folder with an artifact for another machine: GPUs take those, too.
fn folder() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let (artifact, report) = (folder.path().join(NAME), folder.path().join("report.json"));
    std::fs::write(&artifact, &*built::tiny("x86-64")).expect("the artifact can be written");
    (folder, artifact, report)
}

/// The interpreter's shared library, which Cargo puts beside the tests.
fn interpreter() -> PathBuf {
    let tests = std::env::current_exe().expect("the test's own path");
    let name = format!("{}ride_ptx{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    tests.parent().expect("a folder").join(name)
}

/// Cargo's profile of this test.
const PROFILE: &str = if cfg!(debug_assertions) { "dev" } else { "release" };

/// The script as for a GPU with all numeric paths, in few runs.
fn script(arguments: &[&Path]) -> Command {
    run(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/check.sh")), arguments)
}

fn run(script: &Path, arguments: &[&Path]) -> Command {
    let mut command = Command::new("bash");
    command.arg(script).args(arguments);
    command.env("RIDE_CUDA_PROFILE", PROFILE);
    command.env("RIDE_CUDA_LIBRARY", interpreter()).env("RIDE_PTX_VISIBLE", "4");
    command.env("RIDE_CUDA_RUNS", "1").env("RIDE_CUDA_TESTS", "grids_of step_by");
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn report(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("a report");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}:\n{text}"))
}

/// Lines of a part of the report.
fn output(part: &Value) -> Vec<&str> {
    part["output"].as_array().expect("lines").iter().map(|line| line.as_str().expect("text")).collect()
}

fn has_python() -> bool {
    Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success())
}

#[test]
fn a_report_has_everything() {
    let (folder, artifact, path) = folder();
    let models = folder.path().join("models");
    std::fs::create_dir(&models).expect("a folder");
    std::fs::write(models.join("all.onnx"), "no network").expect("a file");
    let mut arguments = vec![&*artifact, &*path];
    arguments.extend(has_python().then_some(&*models));
    let done = script(&arguments).output().expect("bash");
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let report = report(&path);
    assert_eq!(report["result"], "passed");
    assert_eq!((&report["runs"], &report["artifact"]["file"]), (&Value::from(1), &Value::from(NAME)));
    assert_eq!(report["board"]["compute_capability"], "9.0");
    let (check, tests) = (output(&report["check"]), output(&report["tests"]));
    for numbers in ["f32", "dp4a", "wmma", "mma"] {
        let same = |line: &&str| line.starts_with(numbers) && line.ends_with("every bit the same");
        assert!(check.iter().any(same), "{numbers}: {check:?}");
    }
    for test in ["grids_of_all_sizes", "step_by_step"] {
        assert!(tests.contains(&&*format!("test {test} ... ok")), "{tests:?}");
    }
    assert_eq!(report["tests"]["only"], "grids_of step_by");
    let rows = report["latency"]["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 2 * 3, "two executors; one expert, two, as routed");
    assert!(rows.iter().all(|row| row["median_us"].as_f64().is_some_and(|us| us > 0.0)));
    if has_python() {
        let missing = report["peers"]["missing"].as_object().expect("what is missing");
        assert!(missing["torch-fp16-graph 1"].as_str().is_some_and(|why| why.contains("1.ts")), "{missing:?}");
        assert!(missing.contains_key("ort-cuda-fp32 all"), "{missing:?}");
        assert!(report["peers"]["all"]["ride_us"].as_f64().is_some_and(|us| us > 0.0));
    }
}

/// What breaks on the way is in the report, with the steps that went well.
#[test]
fn a_failing_gpu_has_a_report_too() {
    let (_folder, artifact, path) = folder();
    let done = script(&[&artifact, &path]).env("RIDE_PTX_MEMORY", "1000").output().expect("bash");
    assert_eq!(done.status.code(), Some(2), "{}", said(&done));
    assert!(said(&done).contains("failed: check tests latency"), "{}", said(&done));
    let report = report(&path);
    assert_eq!((&report["result"], &report["check"]["result"]), (&Value::from("failed"), &Value::from("failed")));
    let errors = |part: &str| report[part]["errors"].to_string();
    assert!(errors("check").contains("bytes of memory left"), "{report}");
    assert!(errors("tests").contains("OutOfMemory"), "{report}");
    assert!(output(&report["tests"]).iter().any(|line| line.contains("FAILED")), "{report}");
    assert_eq!(report["latency"], Value::Null);
    assert_eq!(report["board"]["multiprocessors"], 5);
}

/// A board without Rust gets the programs in a folder.
#[test]
fn a_bundle_needs_no_cargo() {
    let (folder, artifact, path) = folder();
    let bundle = folder.path().join("bundle");
    let make = || {
        let mut command = Command::new("bash");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/bundle.sh")).arg(&bundle);
        command.env("RIDE_CUDA_PROFILE", PROFILE).output().expect("bash")
    };
    let made = make();
    assert!(made.status.success(), "{}", said(&made));
    let mut command = run(&bundle.join("examples/jetson/check.sh"), &[&artifact, &path]);
    let done = command.env("PATH", "/usr/bin:/bin").output().expect("bash");
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    let report = report(&path);
    assert_eq!((&report["result"], &report["profile"]), (&Value::from("passed"), &Value::from(PROFILE)));
    for test in ["grids_of_all_sizes", "step_by_step"] {
        assert!(output(&report["tests"]).contains(&&*format!("test {test} ... ok")), "{report}");
    }
    assert!(report["commit"].as_str().is_some_and(|commit| !commit.is_empty()));
    let again = make();
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("is there already"), "{}", said(&again));
}

#[test]
fn what_is_missing_is_said_at_once() {
    let (folder, artifact, path) = folder();
    let (nothing, readme) = (folder.path().join("nothing"), folder.path().join("readme.ride"));
    std::fs::write(&readme, "This is no artifact.").expect("a file");
    let elsewhere = nothing.join("report.json");
    let cases: [(&str, Vec<&Path>); 7] = [
        ("check.sh ARTIFACT REPORT.json", vec![&artifact]),
        ("there is no artifact", vec![&nothing, &path]),
        ("cannot use", vec![&readme, &path]),
        ("cannot write a report", vec![&artifact, &elsewhere]),
        ("is a folder", vec![&artifact, folder.path()]),
        ("there is no folder", vec![&artifact, &path, &nothing]),
        ("there is no folder", vec![&artifact, &path, &artifact]),
    ];
    for (message, arguments) in cases {
        let done = script(&arguments).output().expect("bash");
        assert_eq!(done.status.code(), Some(1), "{arguments:?}: {}", said(&done));
        assert!(said(&done).contains(message), "{arguments:?}: {}", said(&done));
    }
    let with = |name: &str, value: &str| script(&[&artifact, &path]).env(name, value).output().expect("bash");
    for (name, value, message) in [
        ("RIDE_CUDA_LIBRARY", "/nowhere/libcuda.so.1", "no NVIDIA driver"),
        ("RIDE_PTX_VISIBLE", "", "sees no GPU"),
        ("RIDE_CUDA_RUNS", "many", "no number of runs"),
        ("PATH", "/usr/bin:/bin", "no cargo"),
    ] {
        if name == "PATH" && ["/usr/bin/cargo", "/bin/cargo"].iter().any(|cargo| Path::new(cargo).exists()) {
            continue; // it comes from the system here
        }
        let done = with(name, value);
        assert_eq!(done.status.code(), Some(1), "{name}: {}", said(&done));
        assert!(said(&done).contains(message), "{name}: {}", said(&done));
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 2, "nothing is written but the two files above: {left:?}");
}
