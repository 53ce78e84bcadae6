//! The `ride-compile` binary as a user runs it: every verb, JSON shapes, bad input, exit codes, nothing left behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use ride_runtime::format::crc::crc32;
use ride_runtime::golden;
use serde_json::Value;
use tempfile::TempDir;

const CLASSES: usize = 100;
const IMAGES: usize = 24;

// ---- running -------------------------------------------------------------------------------------------------------

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ride-compile"));
    command.args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// Standard output of a run that must succeed.
fn succeeds(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(args)).unwrap()
}

/// Standard error of a run that must fail with `code`: one line that begins with `error: `.
fn fails(args: &[&str], code: i32) -> String {
    let output = run(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    let lines = error.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(lines, 1, "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Names of everything in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

// ---- material ------------------------------------------------------------------------------------------------------

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/ride-resnet32-cifar100lt")
}

fn picture(seed: u32) -> Vec<u8> {
    let mut pixels = vec![0; 32 * 32 * 3];
    golden::image(seed, (32, 3), &mut pixels);
    pixels
}

fn label(image: usize) -> usize {
    image * 37 % CLASSES
}

/// Training images of a class: there are classes of every group.
fn train_count(class: usize) -> usize {
    [500, 50, 5][class % 3]
}

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let len = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), data].concat()
}

/// Writes a NumPy archive of synthetic pictures.
fn write_npz(path: &Path, images: usize) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let pixels: Vec<u8> = (0..images).flat_map(|i| picture(i as u32)).collect();
    let labels: Vec<u8> = (0..images).flat_map(|i| (label(i) as i64).to_le_bytes()).collect();
    for (name, bytes) in [
        ("x.npy", npy("|u1", &format!("{images}, 32, 32, 3"), &pixels)),
        ("y.npy", npy("<i8", &format!("{images},"), &labels)),
    ] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap();
}

/// An RGB picture as PNG (W3C, third edition), deflated with stored blocks (RFC 1950, RFC 1951).
fn png(width: usize, height: usize, pixels: &[u8]) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let body = [&kind[..], data].concat();
        let len = u32::try_from(data.len()).unwrap().to_be_bytes();
        [&len[..], &body, &crc32(&body).to_be_bytes()].concat()
    };
    let rows: Vec<u8> = pixels.chunks(3 * width).flat_map(|row| [&[0], row].concat()).collect();
    let mut stream = vec![0x78, 0x01];
    let blocks = rows.chunks(65_535).count();
    for (n, block) in rows.chunks(65_535).enumerate() {
        let len = u16::try_from(block.len()).unwrap();
        stream.push(u8::from(n + 1 == blocks));
        stream.extend([len.to_le_bytes(), (!len).to_le_bytes()].concat());
        stream.extend(block);
    }
    let (mut a, mut b) = (1u32, 0u32);
    for &byte in &rows {
        a = (a + u32::from(byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    stream.extend((b << 16 | a).to_be_bytes());
    let size = [width, height].map(|side| u32::try_from(side).unwrap().to_be_bytes()).concat();
    let header = [&size[..], &[8, 2, 0, 0, 0]].concat();
    [b"\x89PNG\r\n\x1a\n", &chunk(b"IHDR", &header)[..], &chunk(b"IDAT", &stream), &chunk(b"IEND", b"")].concat()
}

/// A folder with one folder for each class, some of which have pictures.
fn write_class_folders(root: &Path, images: usize) {
    for class in 0..CLASSES {
        fs::create_dir_all(root.join(format!("kind{class:03}"))).unwrap();
    }
    for i in 0..images {
        let path = root.join(format!("kind{:03}/{i}.png", label(i)));
        fs::write(path, png(32, 32, &picture(i as u32))).unwrap();
    }
}

/// What most tests start from.
struct Lab {
    npz: PathBuf,
    artifact: PathBuf,
    counts: PathBuf,
}

/// A data set and an artifact, made once.
fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
        fs::create_dir_all(&folder).unwrap();
        let lab = Lab {
            npz: folder.join("data.npz"),
            artifact: folder.join("model.ride"),
            counts: folder.join("counts.txt"),
        };
        write_npz(&lab.npz, IMAGES);
        let counts: Vec<String> = (0..CLASSES).map(|class| train_count(class).to_string()).collect();
        fs::write(&lab.counts, counts.join("\n")).unwrap();
        build(&lab, &lab.artifact, &[]);
        lab
    })
}

/// Builds an artifact of the example model; returns the JSON summary.
fn build(lab: &Lab, output: &Path, more: &[&str]) -> Value {
    let model = model();
    let mut args = vec!["build", text(&model), "--data", text(&lab.npz), "--images", "8", "-o", text(output), "--json"];
    args.extend(["--class-counts", text(&lab.counts)]);
    args.extend(more);
    json(&args)
}

/// Copies the model so that it can be changed.
fn copy_of_model(folder: &Path) {
    for name in ["checkpoint.pth", "config.json"] {
        fs::copy(model().join(name), folder.join(name)).unwrap();
    }
}

/// Writes the model's tensors as safetensors, after `change`.
fn write_safetensors(path: &Path, change: impl FnOnce(&mut BTreeMap<String, ride_compiler::checkpoint::Tensor>)) {
    use safetensors::tensor::{Dtype, TensorView};
    let mut tensors = ride_compiler::checkpoint::load(&model()).unwrap().tensors;
    change(&mut tensors);
    let bytes: BTreeMap<&String, Vec<u8>> =
        tensors.iter().map(|(name, t)| (name, t.data.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
    let views = tensors
        .iter()
        .map(|(name, t)| (name.as_str(), TensorView::new(Dtype::F32, t.shape.clone(), &bytes[name]).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

// ---- build ---------------------------------------------------------------------------------------------------------

#[test]
fn build_reports_costs_and_gives_the_same_bytes_for_any_number_of_threads() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let first = fs::read(&lab.artifact).unwrap();
    let path = folder.path().join("again.ride");
    let model = model();
    let output = command(&["build", text(&model), "--data", text(&lab.npz), "--images", "8", "-o", text(&path)])
        .args(["--class-counts", text(&lab.counts), "--json"])
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(fs::read(&path).unwrap(), first);
    assert_eq!(names(folder.path()), ["again.ride"]);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |key: &str| summary[key].as_u64().unwrap();
    assert_eq!(number("bytes"), first.len() as u64);
    assert_eq!((number("experts"), number("classes")), (3, 100));
    assert!(number("bytes") <= number("weight_bytes") * 106 / 100, "{summary}");
    assert!(number("arena_bytes") <= number("liveness_bytes") * 110 / 100, "{summary}");
    assert_eq!(summary["macs"].as_array().unwrap().len(), 3);
    assert_eq!(summary["routed"], true);
    assert!(number("golden_vectors") > 0);
    assert!(summary["calibration"]["images"] == 8 && summary["warnings"].as_array().unwrap().is_empty());
}

#[test]
fn a_table_of_its_own_gives_the_same_artifact() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    copy_of_model(folder.path());
    let table = folder.path().join("calibration.json");
    let made = json(&[
        "calibrate",
        text(folder.path()),
        "--data",
        text(&lab.npz),
        "--images",
        "8",
        "-o",
        text(&table),
        "--json",
    ]);
    assert!(made["images"] == 8 && made["values"].as_u64().unwrap() > 50, "{made}");
    let named = folder.path().join("named.ride");
    succeeds(&[
        "build",
        text(folder.path()),
        "--calibration",
        text(&table),
        "--class-counts",
        text(&lab.counts),
        "-o",
        text(&named),
        "-q",
    ]);
    assert_eq!(fs::read(&named).unwrap(), fs::read(&lab.artifact).unwrap());

    // Beside the checkpoint, tables and class files are found without being named, and the user is told.
    fs::copy(&lab.counts, folder.path().join("class_counts.txt")).unwrap();
    let words: Vec<String> = (0..CLASSES).map(|class| format!("thing {class}")).collect();
    fs::write(folder.path().join("class_names.txt"), words.join("\n") + "\n").unwrap();
    let found = folder.path().join("found.ride");
    let output = run(&["build", text(&folder.path().join("checkpoint.pth")), "-o", text(&found)]);
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{notes}");
    for file in ["calibration.json", "class_counts.txt", "class_names.txt"] {
        assert!(notes.contains(file), "{notes}");
    }
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("many-shot") && shown.contains("self-test"), "{shown}");
    let picture_file = folder.path().join("a.png");
    fs::write(&picture_file, png(32, 32, &picture(3))).unwrap();
    assert!(succeeds(&["run", text(&found), text(&picture_file)]).contains("thing "));
}

#[test]
fn class_folders_give_names_and_counts() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let data = folder.path().join("data");
    write_class_folders(&data, IMAGES);
    let (model, path) = (model(), folder.path().join("m.ride"));
    let output = run(&["build", text(&model), "--data", text(&data), "--images", "4", "-o", text(&path)]);
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && notes.contains("counted from --data"), "{notes}");
    let report = json(&["inspect", text(&path), "--json"]);
    assert_eq!(report["class_names"], true);
    assert_eq!(report["groups"].to_string(), "[0,0,100]");
    let wrong = folder.path().join("data/stray");
    fs::create_dir(&wrong).unwrap();
    let error = fails(&["verify", text(&lab.artifact), "--model", text(&model), "--data", text(&data)], 1);
    assert!(error.contains("101 class folders"), "{error}");
}

#[test]
fn safetensors_with_the_same_tensors_give_the_same_artifact() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    fs::copy(model().join("config.json"), folder.path().join("config.json")).unwrap();
    write_safetensors(&folder.path().join("model.safetensors"), |_| {});
    let out = folder.path().join("out.ride");
    succeeds(&[
        "build",
        text(folder.path()),
        "--data",
        text(&lab.npz),
        "--images",
        "8",
        "--class-counts",
        text(&lab.counts),
        "-o",
        text(&out),
    ]);
    assert_eq!(fs::read(&out).unwrap(), fs::read(&lab.artifact).unwrap());

    write_safetensors(&folder.path().join("model.safetensors"), |tensors| {
        tensors.values_mut().next().unwrap().data[0] += 0.25;
    });
    let error = fails(&["verify", text(&lab.artifact), "--model", text(folder.path()), "--data", text(&lab.npz)], 1);
    assert!(error.contains("not built from this model") && error.contains("fingerprint"), "{error}");

    fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = fails(&["inspect", text(folder.path())], 1);
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn what_does_not_fit_is_not_written() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let (model, path) = (model(), folder.path().join("m.ride"));
    for limit in ["--max-arena", "--max-size"] {
        let args =
            ["build", text(&model), "--data", text(&lab.npz), "--images", "1", "-o", text(&path), limit, "1000", "-q"];
        let error = fails(&args, 2);
        assert!(error.contains("1000 were allowed"), "{error}");
    }
    assert!(names(folder.path()).is_empty());
}

#[test]
fn the_residual_stream_can_be_narrow() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let narrow = build(lab, &folder.path().join("m.ride"), &["--residual-bits", "8", "--target", "x86-64"]);
    let wide = json(&["inspect", text(&lab.artifact), "--json"]);
    assert_eq!((&narrow["residual_bits"], &wide["residual_bits"]), (&8.into(), &16.into()));
    assert_eq!(narrow["target"], "x86-64");
    assert!(narrow["arena_bytes"].as_u64() < wide["arena_bytes"].as_u64());
}

#[test]
fn bad_builds_say_what_is_wrong_and_leave_nothing() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let (model, npz) = (model(), &lab.npz);
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir(at("cut")).unwrap();
    fs::copy(model.join("config.json"), at("cut/config.json")).unwrap();
    let whole = fs::read(model.join("checkpoint.pth")).unwrap();
    fs::write(at("cut/checkpoint.pth"), &whole[..whole.len() / 2]).unwrap();
    fs::create_dir(at("strange")).unwrap();
    fs::copy(model.join("checkpoint.pth"), at("strange/checkpoint.pth")).unwrap();
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    fs::write(at("strange/config.json"), config.replace("ResNet32EAModel", "VisionTransformer")).unwrap();
    fs::create_dir(at("bare")).unwrap();
    for file in ["checkpoint.pth", "config.json"] {
        fs::copy(model.join(file), at("bare").join(file)).unwrap();
    }
    fs::create_dir(at("mute")).unwrap();
    fs::copy(model.join("checkpoint.pth"), at("mute/checkpoint.pth")).unwrap();
    fs::write(at("counts.txt"), "1\n2\n").unwrap();
    fs::write(at("table.json"), "{\"version\": 1}").unwrap();
    let before = names(folder.path());
    let out = at("m.ride");
    let (counts, table) = (at("counts.txt"), at("table.json"));
    let with = |model: &Path, more: &[&str]| {
        let mut args = vec!["build".to_owned(), text(model).to_owned(), "-q".to_owned()];
        args.extend(more.iter().map(|&arg| arg.to_owned()));
        if !more.contains(&"-o") {
            args.extend(["-o".to_owned(), text(&out).to_owned()]);
        }
        args
    };
    let data = ["--data", text(npz)];
    let absent = at("absent/m.ride");
    let cases: [(Vec<String>, &[&str]); 15] = [
        (with(&at("mute"), &data), &["mute/config.json", "--embedded-config"]),
        (with(&at("bare"), &[]), &["--data", "--calibration"]),
        (with(&at("empty"), &data), &["empty", ".pth"]),
        (with(&at("absent"), &data), &["absent"]),
        (with(&at("cut"), &data), &["cut/checkpoint.pth"]),
        (with(&at("strange"), &data), &["VisionTransformer"]),
        (with(&model, &["--data", text(npz), "--target", "toaster"]), &["toaster", "x86-64"]),
        (with(&model, &["--data", text(&at("empty"))]), &["empty", "class folders"]),
        (with(&model, &["--data", text(npz), "--data-format", "tfrecord"]), &["tfrecord", "npz"]),
        (with(&model, &["--data", text(npz), "--data-format", "list"]), &["data.npz"]),
        (with(&model, &["--data", text(npz), "--class-counts", text(&counts)]), &["2 lines", "100 classes"]),
        (with(&model, &["--data", text(npz), "--observer", "guess"]), &["guess", "mse"]),
        (with(&model, &["--calibration", text(&table)]), &["table.json"]),
        (with(&model, &["--data", text(npz), "-o", text(&absent)]), &["absent"]),
        (with(&model, &["--data", text(npz), "-o", text(folder.path())]), &["folder"]),
    ];
    for (args, parts) in cases {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let error = fails(&args, 1);
        for part in parts {
            assert!(error.contains(part), "{args:?}: {part:?} is missing in {error}");
        }
    }
    assert_eq!(names(folder.path()), before);
}

#[test]
fn an_old_artifact_survives_a_failed_build() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let path = folder.path().join("m.ride");
    fs::write(&path, "precious").unwrap();
    let model = model();
    fails(&["build", text(&model), "--data", text(&lab.npz), "--max-size", "1", "-o", text(&path), "-q"], 2);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(names(folder.path()), ["m.ride"]);
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let (model, path) = (model(), folder.path().join("m.ride"));
    let mut child = command(&["build", text(&model), "--data", text(&lab.npz), "-o", text(&path)])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first note says that the program is under way.
    let mut line = String::new();
    let mut notes = std::io::BufReader::new(child.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut notes, &mut line).unwrap();
    assert!(line.starts_with("note: "), "{line}");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(names(folder.path()).is_empty());
}

// ---- inspect, targets, completions ---------------------------------------------------------------------------------

#[test]
fn inspect_shows_artifacts_and_checkpoints() {
    let lab = lab();
    let report = json(&["inspect", text(&lab.artifact), "--json"]);
    assert_eq!(report["kind"], "artifact");
    let parts = report["parts"].as_array().unwrap();
    assert_eq!(
        parts.iter().map(|p| p["name"].as_str().unwrap()).collect::<Vec<_>>(),
        ["stem", "expert0", "expert1", "expert2"]
    );
    let arena = report["arena_bytes"].as_u64().unwrap();
    let mut macs = 0;
    for op in parts.iter().flat_map(|p| p["ops"].as_array().unwrap()) {
        let places = ["reads", "writes"].map(|key| op[key].as_array().unwrap().clone()).concat();
        assert!(places.iter().all(|p| p[0].as_u64().unwrap() + p[1].as_u64().unwrap() <= arena), "{op}");
        assert!(op["scale"].as_f64().unwrap() > 0.0, "{op}");
        macs += op["macs"].as_u64().unwrap();
    }
    assert_eq!(report["macs"][2], macs);
    assert_eq!(report["kernels"].as_array().unwrap().iter().filter(|k| k["chosen"] == true).count(), 1);
    let end =
        report["sections"].as_array().unwrap().iter().map(|s| s["at"].as_u64().unwrap() + s["bytes"].as_u64().unwrap());
    assert_eq!(end.max(), report["bytes"].as_u64());
    let shown = succeeds(&["inspect", text(&lab.artifact)]);
    for part in ["liveness", "expert2.head", "router1", "sections", "chosen"] {
        assert!(shown.contains(part), "{shown}");
    }

    let model = model();
    let float = json(&["inspect", text(&model), "--json"]);
    assert_eq!((&float["kind"], &float["arch"]), (&"checkpoint".into(), &"ResNet32EAModel".into()));
    assert_eq!(float["macs"], report["macs"]);
    assert_eq!(float["fingerprint"], report["fingerprint"]);
    let file = model.join("checkpoint.pth");
    assert_eq!(succeeds(&["inspect", text(&file)]), succeeds(&["inspect", text(&model)]).replace("//", "/"));
}

#[test]
fn targets_and_completions_are_printed() {
    let targets = json(&["targets", "--json"]);
    assert_eq!(targets.as_array().unwrap().iter().filter(|t| t["host"] == true).count(), 1);
    assert!(succeeds(&["targets"]).contains("portable"));
    let m4 = json(&["targets", "cortex-m4", "--json"]);
    assert_eq!((&m4["triples"][0], &m4["residual_bits"]), (&"thumbv7em-none-eabihf".into(), &8.into()));
    assert!(succeeds(&["targets", "cortex-m4"]).contains("thumbv7em-none-eabihf"));
    assert!(fails(&["targets", "toaster"], 1).contains("toaster"));
    assert!(fails(&["targets", "absent.toml"], 1).contains("absent.toml"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(succeeds(&["completions", shell]).contains("ride-compile"));
    }
    let help = succeeds(&["--help"]);
    assert!(help.contains("Examples:") && help.contains("Exit codes"), "{help}");
    for verb in ["build", "calibrate", "inspect", "run", "verify", "bench", "completions"] {
        assert!(succeeds(&[verb, "--help"]).contains("Example"), "{verb}");
    }
    for args in [&["frobnicate"][..], &["build"], &["verify", "x.ride"], &["completions", "tcsh"]] {
        fails(args, 1);
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let lab = lab();
    for args in
        [&["completions", "zsh"][..], &["inspect", text(&lab.artifact)], &["inspect", text(&lab.artifact), "--json"]]
    {
        let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

// ---- run -----------------------------------------------------------------------------------------------------------

#[test]
fn run_classifies_as_the_policies_say() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let files: Vec<PathBuf> = (0..3).map(|i| folder.path().join(format!("{i}.png"))).collect();
    for (i, file) in files.iter().enumerate() {
        fs::write(file, png(32, 32, &picture(i as u32))).unwrap();
    }
    let answers = |more: &[&str]| {
        let mut args = vec!["run", text(&lab.artifact), "--json"];
        args.extend(files.iter().map(|f| text(f)));
        args.extend(more);
        json(&args).as_array().unwrap().clone()
    };
    let routed = answers(&[]);
    assert_eq!(routed.len(), 3);
    for answer in &routed {
        let top = answer["top"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["class"]), (5, &answer["class"]), "{answer}");
        assert!(top.windows(2).all(|w| w[0]["logit"].as_f64() >= w[1]["logit"].as_f64()), "{answer}");
        let class = usize::try_from(answer["class"].as_u64().unwrap()).unwrap();
        let group = ["many_shot", "medium_shot", "few_shot"][class % 3];
        assert_eq!(answer["group"], group);
    }
    for (n, policy) in [(1, "1"), (2, "2"), (3, "all")] {
        assert!(answers(&["--policy", policy, "--top", "2"]).iter().all(|a| a["experts"] == n));
    }
    assert!(answers(&["--threshold", "-1e30"]).iter().all(|a| a["experts"] == 3));
    assert!(answers(&["--threshold", "1e30"]).iter().all(|a| a["experts"] == 1));
    // A resized image is another one, but it is classified.
    let large = folder.path().join("large.png");
    fs::write(&large, png(50, 40, &vec![99; 50 * 40 * 3])).unwrap();
    assert!(succeeds(&["run", text(&lab.artifact), text(&large), "--resize", "32"]).contains("expert"));

    for (policy, part) in [("4", "4 experts"), ("0", "0 experts"), ("some", "`routed`")] {
        let error = fails(&["run", text(&lab.artifact), text(&files[0]), "--policy", policy], 1);
        assert!(error.contains(part), "{error}");
    }
    fails(&["run", text(&lab.artifact), text(&files[0]), "--policy", "all", "--threshold", "1"], 1);
    let alone = json(&["run", text(&lab.artifact), text(&files[0]), "--json"]);
    assert_eq!(json(&["run", text(&lab.artifact), text(&files[0]), "--json", "--threads", "3"]), alone);
    for verb in ["run", "bench"] {
        let images: &[&str] = if verb == "run" { &[text(&files[0])] } else { &[] };
        for threads in ["0", "257"] {
            let error = fails(&[&[verb, text(&lab.artifact), "--threads", threads], images].concat(), 1);
            assert!(error.contains("1 to 256 threads"), "{error}");
        }
    }
}

#[test]
fn bad_images_and_artifacts_are_named() {
    let (lab, folder) = (lab(), TempDir::new().unwrap());
    let at = |name: &str| folder.path().join(name);
    let good = png(32, 32, &picture(1));
    fs::write(at("good.png"), &good).unwrap();
    fs::write(at("cut.png"), &good[..good.len() / 2]).unwrap();
    fs::write(at("text.jpg"), "no picture").unwrap();
    fs::write(at("large.png"), png(64, 48, &vec![7; 64 * 48 * 3])).unwrap();
    for (name, parts) in [
        ("cut.png", &["cut.png"][..]),
        ("text.jpg", &["text.jpg", "PNG"]),
        ("absent.png", &["absent.png"]),
        ("large.png", &["large.png", "48 x 64", "32 x 32", "--resize"]),
    ] {
        let args = ["run", text(&lab.artifact), text(&at("good.png")), text(&at(name))].map(str::to_owned);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let error = fails(&args, 1);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        let answered = String::from_utf8(run(&args).stdout).unwrap();
        assert!(answered.contains("good.png: "), "{answered}");
    }

    let whole = fs::read(&lab.artifact).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let damaged: [(&str, Vec<u8>, &str); 5] = [
        ("cut.ride", whole[..whole.len() - 1].to_vec(), "truncated"),
        ("flipped.ride", flipped, "checksum"),
        ("longer.ride", [&whole[..], &[0; 64]].concat(), "64 bytes follow"),
        ("empty.ride", Vec::new(), "empty"),
        ("zip.ride", b"PK\x03\x04 nothing".to_vec(), "not an artifact"),
    ];
    let model = model();
    for (name, bytes, part) in damaged {
        let path = at(name);
        fs::write(&path, bytes).unwrap();
        for args in [
            vec!["run", text(&path), text(&lab.npz)],
            vec!["bench", text(&path)],
            vec!["verify", text(&path), "--model", text(&model), "--data", text(&lab.npz)],
        ] {
            let error = fails(&args, 1);
            assert!(error.contains(name) && error.contains(part), "{error}");
        }
        // `inspect` takes what is no artifact at all for a checkpoint.
        fails(&["inspect", text(&path)], 1);
    }
    fails(&["run", text(&at("absent.ride")), text(&at("good.png"))], 1);
    fails(&["run", text(folder.path()), text(&at("good.png"))], 1);
}

// ---- verify and bench ----------------------------------------------------------------------------------------------

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

#[test]
fn bench_measures_every_number_of_experts() {
    let lab = lab();
    let report =
        json(&["bench", text(&lab.artifact), "--seconds", "0.2", "--data", text(&lab.npz), "--profile", "--json"]);
    assert_eq!(report["threads"], 1);
    let shared = json(&["bench", text(&lab.artifact), "--seconds", "0.05", "--threads", "2", "--json"]);
    assert_eq!(shared["threads"], 2);
    assert!(!report["kernel"].as_str().unwrap().is_empty());
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(row["experts"], n + 1);
        let us = |key: &str| row[key].as_f64().unwrap();
        assert!(0.0 < us("min_us") && us("min_us") <= us("median_us") && us("median_us") <= us("p99_us"), "{row}");
        assert!(row["macs"].as_u64().unwrap() > 40_000_000);
    }
    let routed = &report["routed"];
    assert!((1.0..=3.0).contains(&routed["expected_experts"].as_f64().unwrap()), "{routed}");
    assert!(routed["mean_us"].as_f64().unwrap() > 0.0 && routed["overhead_percent"].is_number(), "{routed}");
    let profile = report["profile"].as_array().unwrap();
    let share: f64 = profile.iter().map(|op| op["share_percent"].as_f64().unwrap()).sum();
    assert!((share - 100.0).abs() < 1e-6);
    assert_eq!(profile.iter().filter(|op| op["kind"] == "router").count(), 2);

    let one =
        json(&["bench", text(&lab.artifact), "--seconds", "0.1", "--experts", "1", "--kernel", "scalar", "--json"]);
    assert!(one["rows"].as_array().unwrap().len() == 1 && one["routed"].is_null(), "{one}");
    assert_eq!((&one["isa"], &one["images"]), (&"scalar".into(), &"synthetic".into()));
    assert!(succeeds(&["bench", text(&lab.artifact), "--seconds", "0.1"]).contains("routed: "));
    for (option, value, part) in
        [("--experts", "9", "9 experts"), ("--kernel", "abacus", "scalar"), ("--seconds", "-1", "--seconds")]
    {
        let error = fails(&["bench", text(&lab.artifact), &format!("{option}={value}")], 1);
        assert!(error.contains(part), "{error}");
    }
}

// ---- real images ---------------------------------------------------------------------------------------------------

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
}
