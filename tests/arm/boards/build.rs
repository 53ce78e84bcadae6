//! Links for the board that BOARD names.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=BOARD");
    println!("cargo:rerun-if-changed=memory");
    println!("cargo:rerun-if-changed=link.x");
    // Checked on the host without a board.
    let Ok(board) = env::var("BOARD") else { return };
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    println!("cargo:rustc-link-search={}", here.join("memory").join(board).display());
    println!("cargo:rustc-link-arg-bins=-T{}", here.join("link.x").display());
    println!("cargo:rustc-link-arg-bins=--nmagic");
}
