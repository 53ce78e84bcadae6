//! Compiled artifacts: synthetic ones and those of the real model that the repository carries.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use ride_calibrate::observer::Observer;
use ride_calibrate::table::CalibrationTable;
use ride_compiler::calibration::{self, Settings};
use ride_compiler::import::{self, ImportOptions, Imported};
use ride_compiler::lower::{self, ClassInfo, Fine, Request};
use ride_compiler::memory::AlignedBytes;
use ride_compiler::network::Network;
use ride_compiler::{checkpoint, reference};

use crate::synthetic::{Recipe, picture};

/// Pictures that synthetic calibration runs on.
const PICTURES: usize = 12;

/// A calibration table made from pictures instead of a data set.
///
/// # Errors
/// If the network is broken.
pub fn table(network: &Network) -> Result<CalibrationTable> {
    let seeds: Vec<usize> = (1000..1000 + PICTURES).collect();
    let settings = Settings { images: PICTURES, seed: 0, balanced: false, observer: Observer::MinMax };
    let pixels = |seed: usize| Ok(Cow::Owned(picture(network, seed as u32)));
    let statistics = calibration::collect(network, &seeds, pixels, &|_| ())?;
    calibration::tabulate(network, &statistics, PICTURES, &settings)
}

/// Compiles `network` for the target of that name, with invented names and training counts of the classes.
///
/// # Errors
/// As [`lower::compile`].
pub fn compile(network: &Network, table: &CalibrationTable, target: &str, residual_bits: u8) -> Result<AlignedBytes> {
    let counts = (0..network.classes as u32).map(|c| 1 + 200 / (c + 1)).collect();
    let names = (0..network.classes).map(|c| format!("class {c}")).collect();
    compile_for(network, table, (target, residual_bits), &ClassInfo { counts, names })
}

/// Compiles `network` for a target and width of the residual stream.
///
/// # Errors
/// As [`lower::compile`].
pub fn compile_for(
    network: &Network,
    table: &CalibrationTable,
    target: (&str, u8),
    classes: &ClassInfo,
) -> Result<AlignedBytes> {
    with_request(network, table, target, classes, |request| Ok(AlignedBytes::copy_of(&lower::compile(request)?)))
}

/// Hands a request for an ordinary artifact to `run`.
fn with_request<T>(
    network: &Network,
    table: &CalibrationTable,
    (target, residual_bits): (&str, u8),
    classes: &ClassInfo,
    run: impl FnOnce(&Request<'_>) -> Result<T>,
) -> Result<T> {
    let target = ride_targets::find(target)?;
    let fingerprint = calibration::fingerprint(network);
    run(&Request {
        network,
        table,
        target: &target,
        residual_bits,
        classes,
        resize_short: None,
        fingerprint: &fingerprint,
        fine: Fine::NONE,
    })
}

/// Compiles the network of a recipe.
///
/// # Panics
/// If it cannot be compiled.
pub fn synthetic(recipe: &Recipe, target: &str, residual_bits: u8) -> AlignedBytes {
    let network = recipe.network();
    table(&network)
        .and_then(|table| compile(&network, &table, target, residual_bits))
        .unwrap_or_else(|e| panic!("{recipe:?} cannot be compiled for {target}, {residual_bits} bits: {e:#}"))
}

/// Compiles `network` so that every convolution that can reads all 16 bits of its input, and where asked for `heads` have
/// weights of 16 bits; also how many convolutions do.
///
/// # Errors
/// As [`lower::compile`].
pub fn compile_fine(
    network: &Network,
    table: &CalibrationTable,
    target: &str,
    heads: bool,
) -> Result<(AlignedBytes, usize)> {
    with_request(network, table, (target, 16), &ClassInfo::default(), |request| {
        let (sites, _) = lower::reads::fine_sites(request)?;
        let fine = Fine { reads: sites.into_iter().map(|site| site.name).collect(), heads };
        let bytes = lower::compile(&Request { fine: &fine, ..*request })?;
        Ok((AlignedBytes::copy_of(&bytes), fine.reads.len()))
    })
}

/// One target for each weight layout.
pub const TARGETS: [&str; 4] = ["portable", "x86-64", "aarch64", "cortex-m4"];

/// The smallest artifact that has everything.
pub fn tiny(target: &str) -> AlignedBytes {
    synthetic(&Recipe::tiny(), target, 16)
}

/// The real model of `examples/models`, imported once.
///
/// # Panics
/// If it cannot be imported.
pub fn real() -> &'static Imported {
    static REAL: OnceLock<Imported> = OnceLock::new();
    REAL.get_or_init(|| model("ride-resnet32-cifar100lt"))
}

/// A model of `examples/models`.
///
/// # Panics
/// If it cannot be imported.
pub fn model(name: &str) -> Imported {
    let path = repository().join("examples/models").join(name);
    let imported =
        checkpoint::load(&path).and_then(|checkpoint| import::network(&checkpoint, &ImportOptions::default()));
    imported.unwrap_or_else(|e| panic!("{}: {e:#}", path.display()))
}

/// Targets and residual widths of [`real_artifact`]; for each width, the layout that the plain evaluation reads first.
pub const BUILDS: [(&str, u8); 6] =
    [("portable", 16), ("portable", 8), ("x86-64", 16), ("x86-64", 8), ("aarch64", 16), ("cortex-m4", 8)];

/// The real model, calibrated on pictures and compiled for one of [`BUILDS`]; each is built once.
///
/// # Panics
/// If it cannot be compiled or is not one of them.
pub fn real_artifact(target: &str, residual_bits: u8) -> &'static AlignedBytes {
    static TABLE: OnceLock<CalibrationTable> = OnceLock::new();
    static ARTIFACTS: [OnceLock<AlignedBytes>; BUILDS.len()] = [const { OnceLock::new() }; BUILDS.len()];
    let place = BUILDS.iter().position(|b| *b == (target, residual_bits)).expect("one of BUILDS");
    let network = &real().network;
    let table = TABLE.get_or_init(|| table(network).expect("the real model can be calibrated"));
    ARTIFACTS[place]
        .get_or_init(|| compile(network, table, target, residual_bits).expect("the real model can be compiled"))
}

/// The float model of a network.
///
/// # Errors
/// As [`reference::Executor::new`].
pub fn float(network: &Network) -> Result<reference::Executor> {
    reference::Executor::new(network).context("the network is broken")
}

/// The repository's root: where it was when this was built, or the folder that `RIDE_REPOSITORY` names, for tests that run on
/// another machine.
pub fn repository() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let here = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    ROOT.get_or_init(|| std::env::var_os("RIDE_REPOSITORY").map_or_else(here, PathBuf::from))
}

/// A file or folder among the data that may lie beside the repository: in the folder that `RIDE_SHARED` names, else in
/// `../shared`. Without it, prints that the test called `test` is skipped and why.
pub fn shared(test: &str, path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("RIDE_SHARED").map_or_else(|| repository().join("../shared"), PathBuf::from);
    let found = Some(root.join(path)).filter(|p| p.exists());
    if found.is_none() {
        println!("{test}: skipped, there is no {path} in {} (see RIDE_SHARED)", root.display());
    }
    found
}
