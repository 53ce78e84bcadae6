//! Running the binary, and what it is run on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use ride_runtime::format::crc::crc32;
use ride_runtime::golden;
use serde_json::Value;

use crate::npz;

pub(crate) const CLASSES: usize = 100;
pub(crate) const IMAGES: usize = 24;

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ride-compile"));
    command.args(args).stdin(Stdio::null());
    command
}

pub(crate) fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// Standard output of a run that must succeed.
pub(crate) fn succeeds(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn json(args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(args)).unwrap()
}

/// Standard error of a run that must fail with `code`: one line that begins with `error: `.
pub(crate) fn fails(args: &[&str], code: i32) -> String {
    let output = run(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    let lines = error.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(lines, 1, "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Names of everything in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/models/ride-resnet32-cifar100lt")
}

pub(crate) fn picture(seed: u32) -> Vec<u8> {
    picture_of(seed, 32)
}

fn picture_of(seed: u32, side: usize) -> Vec<u8> {
    let mut pixels = vec![0; side * side * 3];
    golden::image(seed, (side, 3), &mut pixels);
    pixels
}

pub(crate) fn label(image: usize) -> usize {
    image * 37 % CLASSES
}

/// Training images of a class: there are classes of every group.
pub(crate) fn train_count(class: usize) -> usize {
    [500, 50, 5][class % 3]
}

/// Writes a NumPy archive of synthetic pictures with 32 rows and columns, of all classes.
pub(crate) fn write_npz(path: &Path, images: usize) {
    write_npz_of(path, images, (32, CLASSES));
}

/// The same with other sizes and classes.
pub(crate) fn write_npz_of(path: &Path, images: usize, (side, classes): (usize, usize)) {
    let pixels: Vec<u8> = (0..images).flat_map(|i| picture_of(i as u32, side)).collect();
    let labels: Vec<usize> = (0..images).map(|i| label(i) % classes).collect();
    npz::write(path, (side, side), &pixels, &labels);
}

/// An RGB picture as PNG (W3C, third edition), deflated with stored blocks (RFC 1950, RFC 1951).
pub(crate) fn png(width: usize, height: usize, pixels: &[u8]) -> Vec<u8> {
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
pub(crate) fn write_class_folders(root: &Path, images: usize) {
    for class in 0..CLASSES {
        fs::create_dir_all(root.join(format!("kind{class:03}"))).unwrap();
    }
    for i in 0..images {
        let path = root.join(format!("kind{:03}/{i}.png", label(i)));
        fs::write(path, png(32, 32, &picture(i as u32))).unwrap();
    }
}

/// What most tests start from.
pub(crate) struct Lab {
    pub(crate) npz: PathBuf,
    pub(crate) artifact: PathBuf,
    pub(crate) counts: PathBuf,
}

/// A data set and an artifact, made once.
pub(crate) fn lab() -> &'static Lab {
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
pub(crate) fn build(lab: &Lab, output: &Path, more: &[&str]) -> Value {
    let model = model();
    let mut args = vec!["build", text(&model), "--data", text(&lab.npz), "--images", "8", "-o", text(output), "--json"];
    args.extend(["--class-counts", text(&lab.counts)]);
    args.extend(more);
    json(&args)
}

/// Copies the model so that it can be changed.
pub(crate) fn copy_of_model(folder: &Path) {
    for name in ["checkpoint.pth", "config.json"] {
        fs::copy(model().join(name), folder.join(name)).unwrap();
    }
}

/// Writes the model's tensors as safetensors, after `change`.
pub(crate) fn write_safetensors(
    path: &Path,
    change: impl FnOnce(&mut BTreeMap<String, ride_compiler::checkpoint::Tensor>),
) {
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
