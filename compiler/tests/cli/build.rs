//! `build` and `calibrate`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    CLASSES, IMAGES, build, command, copy_of_model, fails, json, lab, model, names, picture, png, run, succeeds, text,
    write_class_folders, write_safetensors,
};

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
