//! `bench --import`: reports of devices in one table, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

fn ride(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ride-compile")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn succeeds(arguments: &[&str]) -> String {
    let output = ride(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An artifact, what `bench --json` says about it on this machine, what a board might say, and a folder for reports.
struct Lab {
    folder: TempDir,
    artifact: &'static Path,
    host: Value,
    board: Value,
}

/// The artifact, and the report of this machine.
fn shared() -> &'static (PathBuf, Value) {
    static SHARED: OnceLock<(PathBuf, Value)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("devices-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let artifact = folder.join("a.ride");
        let model = format!("{}/../examples/models/ride-resnet32-cifar100lt", env!("CARGO_MANIFEST_DIR"));
        succeeds(&["build", &model, "--target", "cortex-m4", "-o", artifact.to_str().unwrap(), "--quiet"]);
        let host = succeeds(&["bench", artifact.to_str().unwrap(), "--seconds", "0.1", "--json"]);
        (artifact, serde_json::from_str(&host).unwrap())
    })
}

impl Lab {
    fn new() -> Self {
        let (artifact, host) = shared();
        let (folder, host) = (tempfile::tempdir().unwrap(), host.clone());
        let mut board = host.clone();
        board["cpu"] = json!("an386");
        board["images"] = json!("embedded");
        board["timer"] = json!({"name": "icount", "counts": "instructions", "per_second": 25_000_000});
        board["stack_bytes"] = json!(1072);
        board["arena_bytes"] = json!(35_840);
        board["answers"] = json!([{"class": 57, "experts": 3, "logits_crc32": "3e81d54c"}]);
        for (row, counts) in board["rows"].as_array_mut().unwrap().iter_mut().zip([57_592_440, 84_790_480, 111_988_640])
        {
            row["median_counts"] = json!(counts);
        }
        Lab { folder, artifact, host, board }
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn import(&self, files: &[&str]) -> Output {
        ride(&[&["bench", self.artifact.to_str().unwrap(), "--import"], files].concat())
    }

    /// The error of an import that must fail with `code`.
    fn refuses(&self, files: &[&str], code: i32) -> String {
        let output = self.import(files);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{files:?}: {error}");
        assert!(error.starts_with("error: ") && !error.contains("panicked") && output.stdout.is_empty(), "{error}");
        error
    }
}

#[test]
fn one_table_shows_all_devices() {
    let lab = Lab::new();
    let host = lab.write("host.json", &lab.host.to_string());
    let board = lab.write("board.json", &lab.board.to_string());
    let mut other = lab.board.clone();
    // Another build of the same model may answer otherwise, and need not measure everything.
    other["checksum"] = json!("00000001");
    other["cpu"] = json!("Cortex-A53");
    other["answers"][0]["logits_crc32"] = json!("00000002");
    other["timer"] = json!({"name": "monotonic", "counts": "nanoseconds", "per_second": 1_000_000_000});
    other["rows"].as_array_mut().unwrap().remove(0);
    other["routed"] = Value::Null;
    let other = lab.write("other.json", &other.to_string());

    let artifact = lab.artifact.to_str().unwrap();
    let text = succeeds(&["bench", artifact, "--import", &host, &board, &other]);
    assert!(text.contains("2 of 3 devices ran this artifact"), "{text}");
    let board_line = text.lines().find(|line| line.contains("an386")).unwrap();
    for part in ["M instructions", "57.59", "84.79", "111.99", "1072"] {
        assert!(board_line.contains(part), "{part}: {text}");
    }
    let other_line = text.lines().find(|line| line.contains("Cortex-A53")).unwrap();
    assert!(other_line.contains(" - ") && other_line.contains("ms"), "{text}");

    let report: Value =
        serde_json::from_str(&succeeds(&["bench", artifact, "--json", "--import", &host, &board])).unwrap();
    assert_eq!((&report["experts"], &report["fingerprint"]), (&json!(3), &lab.host["fingerprint"]));
    let devices = report["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2);
    assert_eq!((&devices[1]["cpu"], &devices[1]["same_artifact"]), (&json!("an386"), &json!(true)));
    assert_eq!(devices[1]["rows"][2]["median_counts"], 111_988_640);
}

#[test]
fn times_of_an_emulators_host_are_warned_of() {
    let lab = Lab::new();
    let mut board = lab.board.clone();
    board["timer"] = json!({"name": "host", "counts": "nanoseconds", "per_second": 1_000_000_000});
    let board = lab.write("board.json", &board.to_string());
    let output = lab.import(&[&board]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("-icount"), "{output:?}");
}

#[test]
fn equal_artifacts_must_answer_equally() {
    let lab = Lab::new();
    let mut wrong = lab.board.clone();
    wrong["cpu"] = json!("broken board");
    wrong["answers"][0]["logits_crc32"] = json!("deadbeef");
    let (good, bad) = (lab.write("good.json", &lab.board.to_string()), lab.write("bad.json", &wrong.to_string()));
    let error = lab.refuses(&[&good, &bad], 2);
    assert!(["broken board", "an386", "deadbeef", "image 1"].iter().all(|part| error.contains(part)), "{error}");
    // Images of their own need not be the same.
    wrong["images"] = json!("camera.bin");
    let own = lab.write("own.json", &wrong.to_string());
    assert!(lab.import(&[&good, &own]).status.success());
}

#[test]
fn reports_that_cannot_be_trusted_are_refused() {
    let lab = Lab::new();
    let changes: [(&str, Value, &str); 14] = [
        ("/fingerprint", json!("0123456789abcdef"), "another model"),
        ("/rows", json!([]), "no rows"),
        ("/rows/0/experts", json!(0), "0 experts"),
        ("/rows/2/experts", json!(4), "4 experts"),
        ("/rows/1/experts", json!(1), "two rows"),
        ("/rows/0/macs", json!(7), "multiply-accumulates"),
        ("/rows/0/median_us", json!(-1.0), "median_us"),
        ("/rows/0/median_us", json!("fast"), "no report"),
        ("/rows/0/min_us", json!(1e9), "between"),
        ("/rows/0/p99_us", json!(1e300), "p99_us"),
        ("/cpu", json!("\u{1b}[2Jgone"), "not printable"),
        ("/cpu", json!("x".repeat(10_000)), "longer"),
        ("/routed/experts", json!([0.5, 0.5]), "shares"),
        ("/timer/per_second", json!(0), "stands still"),
    ];
    for (place, value, part) in changes {
        let mut report = lab.board.clone();
        *report.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
        let file = lab.write("changed.json", &report.to_string());
        let error = lab.refuses(&[&file], 1);
        assert!(error.contains("changed.json") && error.contains(part), "{place}: {error}");
    }
}

#[test]
fn files_that_are_no_reports_are_refused() {
    let lab = Lab::new();
    let whole = lab.board.to_string();
    let contents = [
        String::new(),
        "null".into(),
        "[]".into(),
        "{}".into(),
        whole[..whole.len() / 2].to_owned(),
        "[".repeat(100_000),
        whole.replacen('{', "{\"cpu\":\"twice\",", 1),
        whole.clone() + "x",
        format!("\u{feff}{whole}"),
    ];
    for content in contents {
        let file = lab.write("broken.json", &content);
        let error = lab.refuses(&[&file], 1);
        assert!(error.contains("broken.json") && error.contains("no report"), "{error}");
    }
    let huge = lab.folder.path().join("huge.json");
    fs::File::create(&huge).unwrap().set_len(1 << 33).unwrap();
    assert!(lab.refuses(&[huge.to_str().unwrap()], 1).contains("more than"));
    let absent = Path::new("/nonexistent/report.json").to_str().unwrap();
    assert!(lab.refuses(&[absent], 1).contains(absent));
    assert!(lab.refuses(&[lab.folder.path().to_str().unwrap()], 1).contains("not a file"));
    // Nothing is measured, so options of measuring make no sense.
    let output = lab.import(&["x.json", "--seconds", "1"]);
    assert_eq!(output.status.code(), Some(1));
}
