//! `build --emit` and `--budget`: the files compile where firmware includes them, hold the artifact byte for byte, and
//! nothing is written where something does not fit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ride_compiler::memory::AlignedBytes;
use ride_runtime::Model;
use serde_json::Value;

/// Bytes of RAM that a microcontroller may have to spare for arena and image of the model.
const RAM: usize = 48 << 10;

fn model() -> String {
    format!("{}/../examples/models/ride-resnet32-cifar100lt", env!("CARGO_MANIFEST_DIR"))
}

fn build(target: &str, output: &Path, more: &[&str]) -> Output {
    let model = model();
    let arguments = ["build", &model, "--quiet", "--target", target, "-o", output.to_str().unwrap()];
    let mut command = Command::new(env!("CARGO_BIN_EXE_ride-compile"));
    command.args(arguments).args(more).stdin(Stdio::null()).output().unwrap()
}

fn builds(target: &str, output: &Path, more: &[&str]) -> Value {
    let output = build(target, output, &[more, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Standard error of a build that must fail with `code`.
fn fails(target: &str, output: &Path, more: &[&str], code: i32) -> String {
    let output = build(target, output, more);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{more:?}: {error}");
    assert!(error.starts_with("error: ") && !error.contains("panicked"), "{error}");
    error
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs a tool in `folder`; it must succeed.
fn tool(folder: &Path, program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).current_dir(folder).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A C compiler; the crates this one depends on need one as well.
fn cc() -> String {
    std::env::var("CC").unwrap_or_else(|_| "cc".to_owned())
}

#[test]
fn c_files_hold_the_artifact() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my-model.ride");
    let report = builds("cortex-m7", &path, &["--emit", "ride,c"]);
    assert_eq!(names(folder.path()), ["my-model.c", "my-model.h", "my-model.ride"]);
    let files: Vec<&str> = report["files"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    assert_eq!(files.len(), 3);
    let main = r#"
#include "my-model.h"
#include <stdio.h>
int main(void) {
    if ((uintptr_t)my_model_artifact % MY_MODEL_ALIGN != 0) return 1;
    if (sizeof my_model_artifact != MY_MODEL_BYTES) return 2;
    if (MY_MODEL_IMAGE_BYTES != MY_MODEL_HEIGHT * MY_MODEL_WIDTH * MY_MODEL_CHANNELS) return 3;
    fprintf(stderr, "%u %u %u %08lx %s\n", MY_MODEL_ARENA_BYTES, MY_MODEL_CLASSES, MY_MODEL_EXPERTS,
            (unsigned long)MY_MODEL_CHECKSUM, my_model_class_names[MY_MODEL_CLASSES - 1]);
    return fwrite(my_model_artifact, 1, sizeof my_model_artifact, stdout) == MY_MODEL_BYTES ? 0 : 4;
}
"#;
    fs::write(folder.path().join("main.c"), main).unwrap();
    let strict = ["-Wall", "-Wextra", "-Werror", "-pedantic"];
    let section = "-DRIDE_ARTIFACT_SECTION=\".model\"";
    for more in [&["-std=c99"][..], &["-std=c11", section]] {
        let sources = ["my-model.c", "main.c", "-o", "main"];
        tool(folder.path(), &cc(), &[&strict[..], more, &sources].concat());
        let printed = tool(folder.path(), "./main", &[]);
        assert!(printed == fs::read(&path).unwrap(), "the C source holds other bytes than the artifact");
    }
    // C++ takes the header, and the constants that it needs from the linker.
    let cxx = "#include \"my-model.h\"\nint main() { return my_model_artifact[0] == 'R' ? 0 : MY_MODEL_EXPERTS; }\n";
    fs::write(folder.path().join("main.cpp"), cxx).unwrap();
    tool(folder.path(), &cc(), &[&strict[..], &["-x", "c++", "-fsyntax-only", "main.cpp"]].concat());

    let bytes = AlignedBytes::copy_of(&fs::read(&path).unwrap());
    let model = Model::parse(&bytes).unwrap();
    let header = fs::read_to_string(folder.path().join("my-model.h")).unwrap();
    for line in [
        format!("#define MY_MODEL_ARENA_BYTES {}u ", model.arena_len()),
        format!("#define MY_MODEL_CHECKSUM 0x{:08x}u ", model.checksum()),
        format!("#define MY_MODEL_EXPERTS {}u ", model.experts()),
    ] {
        assert!(header.contains(&line), "{line} is not in\n{header}");
    }
}

#[test]
fn the_rust_module_compiles_and_holds_the_artifact() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.ride");
    builds("cortex-m4", &path, &["--emit", "rust"]);
    assert_eq!(names(folder.path()), ["net.ride", "net.rs"]);
    let main = r#"
#![deny(warnings)]
mod net;
static ARENA: net::Arena = net::Aligned([0; net::ARENA_BYTES]);
fn main() {
    assert!(net::artifact().as_ptr().addr() % 64 == 0 && ARENA.0.as_ptr().addr() % 64 == 0);
    assert_eq!(net::IMAGE_BYTES, net::HEIGHT * net::WIDTH * net::CHANNELS);
    assert_eq!(net::CLASS_NAMES.len(), net::CLASSES);
    std::io::Write::write_all(&mut std::io::stdout(), net::artifact()).unwrap();
    eprintln!("{} {:08x}", net::EXPERTS, net::CHECKSUM);
}
"#;
    fs::write(folder.path().join("main.rs"), main).unwrap();
    tool(folder.path(), "rustc", &["--edition=2024", "main.rs", "-o", "main"]);
    let printed = tool(folder.path(), "./main", &[]);
    assert!(printed == fs::read(&path).unwrap(), "the module holds other bytes than the artifact");
}

#[test]
fn equal_builds_give_equal_files() {
    let folder = tempfile::tempdir().unwrap();
    let contents = |name: &str| {
        let sub = folder.path().join(name);
        fs::create_dir(&sub).unwrap();
        builds("cortex-m33", &sub.join("a.ride"), &["--emit", "ride,rust,c"]);
        names(&sub).into_iter().map(|file| (file.clone(), fs::read(sub.join(file)).unwrap())).collect::<Vec<_>>()
    };
    let (first, second) = (contents("x"), contents("y"));
    assert_eq!(first.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a.c", "a.h", "a.ride", "a.rs"]);
    assert!(first == second);
}

#[test]
fn what_breaks_a_budget_is_listed_and_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ride");
    let error = fails("cortex-m4", &path, &["--emit", "ride,rust,c", "--budget", "flash=512K,ram=16K"], 2);
    for part in ["does not fit its budget; nothing was written", "524,288 bytes", "16,384 bytes", "expert2", "image"] {
        assert!(error.contains(part), "{part:?} is not in\n{error}");
    }
    assert!(names(folder.path()).is_empty());

    // One of two limits: only that one is explained.
    let error = fails("cortex-m4", &path, &["--budget", "flash=1M,ram=16K"], 2);
    assert!(error.contains("fits") && error.contains("RAM, by region") && !error.contains("by section"), "{error}");

    // An artifact that was there stays as it was.
    fs::write(&path, "old").unwrap();
    fails("cortex-m4", &path, &["--emit", "ride,c", "--budget", "flash=1K"], 2);
    assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(folder.path())), ("old", vec!["a.ride".to_owned()]));
}

#[test]
fn bad_budgets_and_names_are_errors_of_the_user() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ride");
    for (budget, part) in [("heap=1K", "heap"), ("ram=lots", "lots"), ("latency=20", "20ms"), ("ram", "ram=256K")] {
        let output = build("cortex-m4", &path, &["--budget", budget]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && error.contains(part), "{budget}: {error}");
    }
    for (name, emit) in [("1.ride", "c"), ("a.h", "c"), ("b.rs", "rust")] {
        fails("cortex-m4", &folder.path().join(name), &["--emit", emit], 1);
    }
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_limit_on_latency_uses_the_targets_model_and_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    let (path, target) = (folder.path().join("a.ride"), folder.path().join("board.toml"));
    let data = format!("{}/../targets/data/cortex-m4.toml", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(data).unwrap().replace("name = \"cortex-m4\"", "name = \"board\"");
    let text: String =
        text.lines().filter(|line| !line.starts_with("latency")).map(|line| format!("{line}\n")).collect();
    fs::write(&target, &text).unwrap();
    let name = target.to_str().unwrap();
    let error = fails(name, &path, &["--budget", "latency=5s"], 1);
    assert!(error.contains("latency model"), "{error}");
    fs::write(&target, text + "latency = { cycles_per_mac = 2.0, source = \"a guess for this test\" }\n").unwrap();
    // 100 million multiply-accumulates at 2 cycles each.
    let report = builds(name, &path, &["--budget", "latency=5s", "--clock", "100M"]);
    let needs = report["budget"][0]["needs"].as_f64().unwrap();
    assert!((1900.0..2100.0).contains(&needs), "{needs} ms");
    fs::remove_file(&path).unwrap();
    let error = fails(name, &path, &["--budget", "latency=1s", "--clock", "100M"], 2);
    assert!(error.contains("a guess for this test") && error.contains("3 experts"), "{error}");
    assert_eq!(names(folder.path()), ["board.toml"]);
}

/// The RAM that firmware needs besides its stack, for cores without vectors, with DSP and with Helium.
#[test]
fn the_model_fits_the_memory_of_a_microcontroller() {
    let folder = tempfile::tempdir().unwrap();
    let budget = format!("ram={RAM}");
    for target in ["cortex-m0plus", "cortex-m4", "cortex-m55"] {
        let path: PathBuf = folder.path().join(format!("{target}.ride"));
        let report = builds(target, &path, &["--budget", &budget]);
        let bytes = AlignedBytes::copy_of(&fs::read(&path).unwrap());
        let model = Model::parse(&bytes).unwrap();
        assert_eq!(model.experts(), 3);
        assert!(model.arena_len() + model.input_len() <= RAM, "{target}: {} bytes", model.arena_len());
        assert_eq!(report["arena_bytes"].as_u64(), Some(model.arena_len() as u64));
    }
}
