//! What a machine is: one data file each (`targets/data/*.toml`), and their schema.

mod gpu;
mod size;
mod target;

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

pub use gpu::{GpuModel, Tile};
pub use size::{parse_frequency, parse_size};
pub use target::{LatencyModel, Target};

/// Longest data file that is read.
const MAX_FILE: u64 = 64 << 10;

macro_rules! data_files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../data/", $name, ".toml")))),*]
    };
}

/// The data files that are built in, as listings show them.
const FILES: &[(&str, &str)] = data_files![
    "x86-64",
    "aarch64",
    "cortex-a53",
    "cortex-a72",
    "cortex-a76",
    "neoverse-n1",
    "cortex-a710",
    "armv7",
    "cortex-m0plus",
    "cortex-m3",
    "cortex-m4",
    "cortex-m7",
    "cortex-m33",
    "cortex-m55",
    "jetson-nano",
    "jetson-tx2",
    "jetson-xavier",
    "jetson-orin",
    "portable",
];

/// All targets.
///
/// # Errors
/// A built-in data file is broken (the tests make sure that none is).
pub fn all() -> Result<Vec<Target>> {
    FILES.iter().map(|(file, text)| Target::parse(text).with_context(|| format!("targets/data/{file}.toml"))).collect()
}

/// The target called `name`: a built-in one, `host` for the machine that this program runs on, or the path of a data
/// file that ends in `.toml`.
///
/// # Errors
/// There is no such target, and the message lists those that exist; or the file cannot be read or is broken.
pub fn find(name: &str) -> Result<Target> {
    if name.ends_with(".toml") {
        return read(Path::new(name)).with_context(|| format!("cannot read the target file {name}"));
    }
    let wanted = if name == "host" { host() } else { name };
    let targets = all()?;
    let known: Vec<_> = targets.iter().map(|t| t.name().to_owned()).collect();
    match targets.into_iter().find(|t| t.name() == wanted) {
        Some(target) => Ok(target),
        None => bail!(
            "unknown target {name:?}; known targets are host, {}; a file of your own must end in .toml",
            known.join(", ")
        ),
    }
}

/// Reads a data file.
fn read(path: &Path) -> Result<Target> {
    let kind = fs::metadata(path)?;
    ensure!(kind.is_file(), "not a file");
    let mut text = String::new();
    let read = File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    ensure!(read as u64 <= MAX_FILE, "more than {MAX_FILE} bytes");
    Target::parse(&text)
}

/// Name of the target that describes this machine.
pub fn host() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        "aarch64" => "aarch64",
        "arm" => "armv7",
        _ => "portable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> &'static str {
        FILES.iter().find(|(file, _)| *file == name).unwrap().1
    }

    #[test]
    fn every_data_file_is_valid_and_named_after_its_target() {
        for (target, (file, _)) in all().unwrap().iter().zip(FILES) {
            assert_eq!(target.name(), *file);
            assert!(!target.summary().is_empty() && !target.core().is_empty());
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        assert_eq!(fs::read_dir(folder).unwrap().count(), FILES.len(), "a data file is not built in");
    }

    #[test]
    fn features_are_those_of_the_runtime() {
        let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        for target in all().unwrap() {
            for feature in target.features() {
                assert!(manifest["features"].get(feature).is_some(), "{}: no feature {feature}", target.name());
            }
        }
    }

    #[test]
    fn microcontrollers_know_their_memory() {
        for target in all().unwrap().iter().filter(|t| t.name().starts_with("cortex-m")) {
            assert!(target.flash().is_some() && target.ram().is_some() && target.clock_hz().is_some());
            assert_eq!(target.residual_bits(), 8, "{}", target.name());
            assert!(!target.features().iter().any(|f| f == "std"));
        }
    }

    /// No more multiply-accumulates a cycle than the data sheets' peak: 128 in binary32, 1024 and 2048 on tensor cores.
    #[test]
    fn gpus_stay_below_their_peak() {
        for (name, peak) in
            [("jetson-nano", 128.0), ("jetson-tx2", 128.0), ("jetson-xavier", 1024.0), ("jetson-orin", 2048.0)]
        {
            let target = find(name).unwrap();
            let gpu = target.gpu().expect("a model");
            let rates: Vec<f64> = gpu.tiles.iter().map(|t| t.macs_per_cycle * f64::from(gpu.workers)).collect();
            assert!(rates.is_sorted() && rates.iter().all(|&rate| rate < peak), "{name}: {rates:?}");
        }
    }

    #[test]
    fn broken_gpu_models_are_explained() {
        let good = file("jetson-orin");
        for (from, to, part) in [
            ("bandwidth = 102.4e9", "bandwidth = 0.0", "gpu.bandwidth"),
            ("multiprocessors = 8", "multiprocessors = 0", "gpu.multiprocessors"),
            ("channels = 8", "channels = 0", "gpu.tiles"),
            ("step_us = 2.0", "step_us = -1.0", "gpu.step_us"),
            ("[gpu]", "[latency]\ncycles_per_mac = 1.0\nsource = \"a guess\"\n[gpu]", "latency model"),
        ] {
            assert!(good.contains(from), "{from}");
            let error = format!("{:#}", Target::parse(&good.replace(from, to)).unwrap_err());
            assert!(error.contains(part), "{to}: {error}");
        }
    }

    #[test]
    fn host_exists_and_unknown_names_list_what_is_known() {
        assert_eq!(find("host").unwrap().name(), host());
        let message = find("toaster").unwrap_err().to_string();
        assert!(message.contains("toaster") && message.contains("x86-64"), "{message}");
    }

    #[test]
    fn a_file_of_ones_own_is_a_target_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("board.toml");
        let text =
            file("cortex-m4").replace("name = \"cortex-m4\"", "name = \"my-board\"").replace("\"256K\"", "196608");
        fs::write(&path, text).unwrap();
        let target = find(path.to_str().unwrap()).unwrap();
        assert_eq!((target.name(), target.flash(), target.ram()), ("my-board", Some(1 << 20), Some(192 << 10)));
        for (text, part) in [("", "missing field"), ("name = 3", "name"), ("flash = \"much\"", "flash")] {
            fs::write(&path, format!("{}\n{text}", if text.is_empty() { "" } else { file("portable") })).unwrap();
            let error = format!("{:#}", find(path.to_str().unwrap()).unwrap_err());
            assert!(error.contains(part) && error.contains("board.toml"), "{error}");
        }
        assert!(find("absent.toml").is_err());
        fs::create_dir(folder.path().join("folder.toml")).unwrap();
        assert!(find(folder.path().join("folder.toml").to_str().unwrap()).is_err());
    }

    #[test]
    fn broken_files_are_explained() {
        let good = file("portable");
        assert!(format!("{:#}", Target::parse(&good.replace("\"ohwi\"", "\"nchw\"")).unwrap_err()).contains("nchw"));
        for (from, to) in [
            ("residual_bits = 16", "residual_bits = 12"),
            ("name = \"portable\"", "name = \"host\""),
            ("name = \"portable\"", "name = \"a/b\""),
            ("core = ", "colour = "),
            ("residual_bits", "clock_hz = 0\nresidual_bits"),
            ("residual_bits", "isa = \"sse2\"\nresidual_bits"),
            ("residual_bits", "ram = \"1T\"\nresidual_bits"),
            ("residual_bits", "latency = { cycles_per_mac = -1.0, source = \"guess\" }\nresidual_bits"),
            ("residual_bits", "latency = { cycles_per_mac = 1.0, source = \"\" }\nresidual_bits"),
        ] {
            assert!(good.contains(from) && Target::parse(&good.replace(from, to)).is_err(), "{to}");
        }
    }
}
