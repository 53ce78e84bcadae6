//! `ride-compile distill` on tiny made-up data: from scratch, with a teacher, stopped in every way and taken up again.

mod npz;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Rows and columns of an image.
const SIDE: usize = 8;

/// A network of a few thousand parameters.
const TEACHER: &str = r#"
[arch]
type = "ResNet32Model"
[arch.args]
num_classes = 4
num_experts = 3
use_norm = true
layer1_blocks = 1
layer2_blocks = 2
layer3_blocks = 1
layer2_output_dim = 20
layer3_output_dim = 24
[data_loader]
type = "ImbalanceCIFAR100DataLoader"
args = { input_size = [8, 8] }
"#;

/// Fewer experts, fewer blocks, narrower.
const STUDENT: &str = "
[arch.args]
num_experts = 2
layer2_blocks = 1
layer3_output_dim = 22
";

/// Images whose class is the channel and the direction of their gradient, with some noise.
fn write_data(path: &Path, images: usize, (height, width): (usize, usize)) {
    let mut noise = 1u32;
    let mut pixels = Vec::new();
    for image in 0..images {
        let class = label(image);
        for (y, x, c) in (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| (y, x, c)))) {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let along = if class.is_multiple_of(2) { x } else { y };
            let signal = if c == class / 2 { along * 16 } else { 60 };
            pixels.push(u8::try_from(signal + (noise >> 27) as usize).unwrap());
        }
    }
    let labels: Vec<usize> = (0..images).map(label).collect();
    npz::write(path, (height, width), &pixels, &labels);
}

/// Class 0 has half of the images, class 3 a twentieth.
fn label(image: usize) -> usize {
    match image * 7 % 20 {
        0..10 => 0,
        10..16 => 1,
        16..19 => 2,
        _ => 3,
    }
}

/// A folder with data and descriptions.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_data(&folder.path().join("train.npz"), 100, (SIDE, SIDE));
        write_data(&folder.path().join("val.npz"), 60, (SIDE, SIDE));
        fs::write(folder.path().join("teacher.toml"), TEACHER).unwrap();
        fs::write(folder.path().join("student.toml"), STUDENT).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `distill` in the folder, two threads.
    fn distill(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ride-compile"));
        command.current_dir(self.folder.path()).arg("distill").args(args.split_whitespace());
        command.args(["--threads", "2"]).stdin(Stdio::null());
        command
    }

    /// From scratch on the training images.
    fn scratch(&self, args: &str) -> Command {
        self.distill(&format!("--from-scratch --student teacher.toml --data train.npz --batch 32 {args}"))
    }

    fn model(&self, run: &str) -> Vec<u8> {
        fs::read(self.path(run).join("model.safetensors")).unwrap()
    }

    /// Lines of a run's log.
    fn log(&self, run: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(run).join("log.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn names(&self, run: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(run)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn other(&self, args: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ride-compile"));
        command.current_dir(self.folder.path()).args(args.split_whitespace()).output().unwrap()
    }
}

#[track_caller]
fn succeeds(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a run that must fail with code 1 and one message.
#[track_caller]
fn fails(mut command: Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {error}");
    assert_eq!(error.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

/// Waits until a run has logged an epoch.
#[track_caller]
fn wait_for_epoch(bench: &Bench, run: &str, child: &mut Child) {
    let begin = Instant::now();
    loop {
        let log = fs::read_to_string(bench.path(run).join("log.jsonl")).unwrap_or_default();
        if log.contains("\"event\":\"epoch\"") {
            return;
        }
        assert_eq!(child.try_wait().unwrap(), None, "the training ended too early");
        assert!(begin.elapsed() < Duration::from_secs(120), "no epoch in two minutes");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_student_learns_and_is_compiled() {
    let bench = Bench::new();
    let text = succeeds(
        bench.scratch("--epochs 30 --lr 0.05 --augment none --schedule cosine --val val.npz -o teacher --json"),
    );
    let teacher: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(teacher["epochs"], 30.0);
    assert_eq!(teacher["accuracy"]["student"].as_array().unwrap().len(), 3);
    let top1 = |result: &Value, who: &str, expert: usize| result["accuracy"][who][expert]["top1"].as_f64().unwrap();
    // Chance is 25 %, always answering class 0 is 50 %.
    assert!(top1(&teacher, "student", 2) > 65.0, "{teacher}");
    let names = ["class_counts.txt", "config.json", "log.jsonl", "model.safetensors", "train.state"];
    assert_eq!(bench.names("teacher"), names);
    let log = bench.log("teacher");
    assert_eq!(log.iter().filter(|line| line["event"] == "epoch").count(), 30);
    assert_eq!(log[0]["event"], "start");
    assert!(log[1]["images_per_second"].as_f64().unwrap() > 0.0);

    let distill = "--teacher teacher --student student.toml --data train.npz --batch 32 --epochs 15 --lr 0.02 \
                   --augment none --schedule cosine --val val.npz -o small --json";
    let student: Value = serde_json::from_str(&succeeds(bench.distill(distill))).unwrap();
    let macs = |key: &str| student["cost"][key].as_u64().unwrap();
    assert!(macs("macs") < macs("teacher_macs") && macs("macs") > 0, "{student}");
    assert!(top1(&student, "student", 1) > 65.0, "{student}");
    assert_eq!(top1(&student, "teacher", 2), top1(&teacher, "student", 2));
    let start = &bench.log("small")[0];
    assert_eq!(start["inherited"]["layer3s.1.0.conv1.weight"], "layer3s.1.0.conv1.weight");
    assert_eq!(start["random"], Value::Array(vec![]));

    let build = bench.other("build small --data train.npz -o small.ride --json");
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    let verify = bench.other("verify small.ride --model small --data val.npz --json");
    let report: Value = serde_json::from_slice(&verify.stdout).unwrap();
    let agreement = report["agreement"]["top1"].as_f64().unwrap();
    assert!(agreement > 90.0, "{agreement}");
    assert!(bench.other("inspect small").status.success());
}

#[test]
fn training_for_int8_gives_what_is_built() {
    let bench = Bench::new();
    succeeds(bench.scratch("--epochs 30 --lr 0.05 --augment none --schedule cosine -o teacher"));
    let qat = "--teacher teacher --qat --data train.npz --batch 32 --epochs 12 --augment none --schedule cosine";
    succeeds(bench.distill(&format!("{qat} -o int8")));
    assert!(bench.path("int8/calibration.json").exists());
    // The ranges are part of the state.
    let mut child = bench.distill(&format!("{qat} -o killed")).stderr(Stdio::null()).spawn().unwrap();
    wait_for_epoch(&bench, "killed", &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    succeeds(bench.distill("--resume -o killed"));
    assert!(bench.model("int8") == bench.model("killed"), "the weights differ");
    let build = bench.other("build int8 -o int8.ride --json");
    assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    let verify = bench.other("verify int8.ride --model int8 --data val.npz --json");
    let report: Value = serde_json::from_slice(&verify.stdout).unwrap();
    assert!(report["agreement"]["top1"].as_f64().unwrap() > 90.0, "{}", report["agreement"]);
}

#[test]
fn images_of_other_sizes_are_cropped_at_random() {
    let bench = Bench::new();
    write_data(&bench.path("large.npz"), 100, (11, 13));
    let loader = TEACHER
        .replace("ImbalanceCIFAR100DataLoader", "ImageNetLTDataLoader")
        .replace("input_size = [8, 8]", "input_size = [8, 8], resize = 9");
    fs::write(bench.path("large.toml"), loader).unwrap();
    let train = "--from-scratch --student large.toml --data large.npz --val large.npz --batch 32 --epochs 2 --json";
    let result: Value = serde_json::from_str(&succeeds(bench.distill(&format!("{train} -o run")))).unwrap();
    assert_eq!(bench.log("run")[0]["settings"]["augment"], "imagenet");
    assert_eq!(result["accuracy"]["images"], 100);
    // Other variations make another network, equal ones the same.
    succeeds(bench.distill(&format!("{train} -o again")));
    succeeds(bench.distill(&format!("{train} --augment inaturalist -o other")));
    assert!(bench.model("run") == bench.model("again") && bench.model("run") != bench.model("other"));
}

/// What a GPU would run, run here: whole trainings with candle's operations come to what the loops for CPUs come to, but for
/// the order of sums.
#[test]
fn composed_operations_train_like_the_loops() {
    let bench = Bench::new();
    succeeds(bench.scratch("--epochs 2 --lr 0.05 -o teacher"));
    let losses = |run: &str| -> Vec<f64> {
        let log = bench.log(run);
        let epochs = log.iter().filter(|line| line["event"] == "epoch");
        epochs.map(|line| line["loss"].as_f64().expect("a loss")).collect()
    };
    for device in ["cpu", "composed"] {
        succeeds(bench.scratch(&format!("--epochs 3 --lr 0.05 --device {device} -o scratch-{device}")));
        let small = "--teacher teacher --student student.toml --data train.npz --batch 32 --epochs 3 --lr 0.02";
        let output = bench.distill(&format!("{small} --device {device} -o small-{device}")).output().unwrap();
        let notes = String::from_utf8_lossy(&output.stderr);
        // With candle's operations the teacher runs where the student does.
        assert!(output.status.success() && !notes.contains("the teacher runs on the CPU"), "{notes}");
    }
    for run in ["scratch", "small"] {
        let (loops, composed) = (losses(&format!("{run}-cpu")), losses(&format!("{run}-composed")));
        assert_eq!(loops.len(), 3, "{run}");
        assert!(loops[0] != loops[2] && loops != composed, "two ways to compute: {loops:?}");
        for (a, b) in loops.iter().zip(&composed) {
            assert!((a - b).abs() < 1e-3 * a.abs(), "{run}: {loops:?} and {composed:?}");
        }
    }
    let qat = "--teacher teacher --data train.npz --qat --epochs 1 --device composed -o int8";
    assert!(fails(bench.distill(qat)).contains("--device cpu"));
    if !cfg!(feature = "cuda") {
        let error = fails(bench.scratch("--device cuda --epochs 1 -o gpu"));
        assert!(error.contains("--features cuda"), "{error}");
    }
    assert!(!bench.path("gpu").exists());
}

#[test]
fn a_limit_of_time_is_kept() {
    let bench = Bench::new();
    let result: Value = serde_json::from_str(&succeeds(bench.scratch("--minutes 0.05 -o run --json"))).unwrap();
    let seconds = result["seconds"].as_f64().unwrap();
    assert!((3.0..30.0).contains(&seconds), "{seconds}");
    let log = bench.log("run");
    let end = log.iter().find(|line| line["event"] == "end").unwrap();
    assert_eq!((&end["complete"], &end["share"]), (&Value::Bool(true), &Value::from(1.0)));
}

#[test]
fn a_killed_training_goes_on_as_if_nothing_had_happened() {
    let bench = Bench::new();
    succeeds(bench.scratch("--epochs 6 --sampling balanced -o whole"));
    let mut command = bench.scratch("--epochs 6 --sampling balanced -o killed");
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    wait_for_epoch(&bench, "killed", &mut child);
    let error = fails(bench.distill("--resume -o killed"));
    assert!(error.contains("another training"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    if !bench.path("killed/model.safetensors").exists() {
        let error = fails(bench.scratch("-o killed"));
        assert!(error.contains("--resume"), "{error}");
    }
    succeeds(bench.distill("--resume -o killed"));
    assert!(bench.model("whole") == bench.model("killed"), "the weights differ");
    assert!(bench.log("killed").iter().any(|line| line["event"] == "resume"));
    assert!(fs::read_dir(bench.path("killed")).unwrap().count() == 5, "{:?}", bench.names("killed"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_the_batch_and_says_how_to_go_on() {
    let bench = Bench::new();
    succeeds(bench.scratch("--epochs 40 -o whole"));
    let mut command = bench.scratch("--epochs 40 -o stopped");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_for_epoch(&bench, "stopped", &mut child);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(error.contains("stopped: ") && error.contains("--resume -o stopped"), "{error}");
    assert!(!bench.path("stopped/model.safetensors").exists());
    let end = bench.log("stopped").pop().unwrap();
    assert_eq!((&end["event"], &end["complete"]), (&Value::from("end"), &Value::Bool(false)));
    succeeds(bench.distill("--resume -o stopped"));
    assert!(bench.model("whole") == bench.model("stopped"), "the weights differ");
}

#[test]
fn a_training_that_diverges_keeps_its_last_state() {
    let bench = Bench::new();
    let error = fails(bench.scratch("--epochs 4 --warmup 0 --lr 1e30 -o run"));
    for part in ["diverged", "--lr", "--resume -o run", "0 epochs"] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    assert!(!bench.path("run/model.safetensors").exists());
    // The state is that of the beginning, from which a lower rate leads somewhere.
    succeeds(bench.distill("--resume --lr 0.05 -o run"));
    assert!(bench.path("run/model.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn a_full_disk_keeps_the_last_state() {
    let bench = Bench::new();
    let mut child = bench.scratch("--epochs 40 -o run").stderr(Stdio::null()).spawn().unwrap();
    wait_for_epoch(&bench, "run", &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = fs::read(bench.path("run/train.state")).unwrap();
    // A limit on the size of files fails writes as a full disk does, once the signal that comes with it is ignored.
    let program = env!("CARGO_BIN_EXE_ride-compile");
    let script = format!("trap '' XFSZ; ulimit -f 64; exec {program} distill --resume -o run --threads 2");
    let mut limited = Command::new("sh");
    limited.current_dir(bench.folder.path()).args(["-c", &script]);
    let error = fails(limited);
    for part in ["train.state", "epochs", "--resume -o run"] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    assert!(fs::read(bench.path("run/train.state")).unwrap() == before, "the state was touched");
    assert_eq!(bench.names("run"), ["log.jsonl", "train.state"]);
    succeeds(bench.distill("--resume -o run"));
}

#[test]
fn what_cannot_be_is_said_before_anything_is_written() {
    let bench = Bench::new();
    fs::write(bench.path("wide.toml"), "[arch.args]\nlayer3_output_dim = 23\n").unwrap();
    fs::write(bench.path("typo.toml"), "[arch.args]\nlayer2_block = 1\n").unwrap();
    fs::write(bench.path("classes.toml"), TEACHER.replace("num_classes = 4", "num_classes = 3")).unwrap();
    let scratch = |student: &str| bench.distill(&format!("--from-scratch --student {student} --data train.npz -o out"));
    for (command, parts) in [
        (scratch("typo.toml"), &["typo.toml", "layer2_block"][..]),
        (scratch("wide.toml"), &["architecture"]),
        (scratch("absent.toml"), &["absent.toml"]),
        (scratch("classes.toml"), &["label 3", "3 classes"]),
        (bench.scratch("--lr 0 -o out"), &["learning rate"]),
        (bench.scratch("--warmup 1 -o out"), &["warm-up"]),
        (bench.scratch("--minutes 0 -o out"), &["minutes"]),
        (bench.scratch("--augment mixup -o out"), &["mixup", "inaturalist"]),
        (bench.scratch("--val absent -o out"), &["absent"]),
        (bench.distill("--data train.npz -o out"), &["--teacher"]),
        (bench.distill("--resume -o out"), &["train.state"]),
        (bench.distill("--teacher absent --data train.npz -o out"), &["absent"]),
    ] {
        let error = {
            let mut command = command;
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{command:?}");
            String::from_utf8(output.stderr).unwrap()
        };
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
        assert!(!bench.path("out").exists(), "{error}");
    }
}
