//! Chooses the board's memory map, finds the artifact's module and draws the images that are embedded.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Name, clock at reset in Hz, and whether it is an emulated board. QEMU's clocks are those of its SysTick.
const BOARDS: &[(&str, u32, bool)] = &[
    ("an386", 25_000_000, true),
    ("an500", 25_000_000, true),
    ("an505", 20_000_000, true),
    ("an547", 32_000_000, true),
    ("nrf52840", 64_000_000, false),
    ("stm32h743", 64_000_000, false),
    ("stm32u585", 4_000_000, false),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=RIDE_BOARD");
    println!("cargo:rerun-if-env-changed=RIDE_MODEL");
    println!("cargo:rerun-if-env-changed=RIDE_IMAGES");
    println!("cargo:rerun-if-env-changed=RIDE_ROUNDS");
    println!("cargo:rustc-check-cfg=cfg(armv6m)");
    if env::var("TARGET").is_ok_and(|target| target.starts_with("thumbv6m")) {
        println!("cargo:rustc-cfg=armv6m");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    board(&out);
    let module = model();
    let count = number("RIDE_IMAGES", 4);
    let size = ["HEIGHT", "WIDTH", "CHANNELS"].map(|name| constant(&module, name));
    let images: Vec<u8> = (1..=count).flat_map(|seed| image(seed, size)).collect();
    fs::write(out.join("images.bin"), images).expect("images can be written");
}

/// An environment variable that holds a positive number.
fn number(name: &str, default: u32) -> u32 {
    let Ok(text) = env::var(name) else { return default };
    match text.parse() {
        Ok(n) if n > 0 => n,
        _ => panic!("{name}={text}: expected a positive number"),
    }
}

fn board(out: &Path) {
    let name = env::var("RIDE_BOARD").unwrap_or_else(|_| "an386".to_owned());
    let Some((_, clock, emulated)) = BOARDS.iter().find(|board| board.0 == name) else {
        let known: Vec<&str> = BOARDS.iter().map(|board| board.0).collect();
        panic!("RIDE_BOARD={name}: no such board; there are {} (boards/, build.rs)", known.join(", "));
    };
    let map = format!("boards/{name}.x");
    fs::copy(&map, out.join("memory.x")).unwrap_or_else(|error| panic!("{map}: {error}"));
    let constants = format!(
        "pub const NAME: &str = {name:?};\npub const CLOCK_HZ: u32 = {clock};\npub const EMULATED: bool = {emulated};\n\
         pub const ROUNDS: usize = {};\n",
        number("RIDE_ROUNDS", 1)
    );
    fs::write(out.join("board.rs"), constants).expect("board.rs can be written");
    println!("cargo:rerun-if-changed={map}");
    println!("cargo:rustc-link-search={}", out.display());
    for argument in ["--nmagic", "-Tlink.x"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}

/// Finds the module and returns its text.
fn model() -> String {
    let path = env::var("RIDE_MODEL").unwrap_or_else(|_| "model/model.rs".to_owned());
    let path = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR")).join(path);
    assert!(
        path.is_file(),
        "{} does not exist: make it with `ride-compile build MODEL --target cortex-m4 --emit rust -o model/model.ride`, \
         or name another in RIDE_MODEL",
        path.display()
    );
    println!("cargo:rerun-if-changed={}", path.display());
    println!("cargo:rustc-env=RIDE_MODEL_RS={}", path.display());
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A constant of the module.
fn constant(module: &str, name: &str) -> usize {
    let start = format!("pub const {name}: usize = ");
    let value = module.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix(';')?.parse().ok());
    value.unwrap_or_else(|| panic!("the module of RIDE_MODEL has no constant {name}; build it again"))
}

/// The synthetic image of a seed, the same on every machine.
fn image(seed: u32, [height, width, channels]: [usize; 3]) -> Vec<u8> {
    let mut pixels = vec![0; height * width * channels];
    ride_runtime::golden::image(seed, (width, channels), &mut pixels);
    pixels
}
