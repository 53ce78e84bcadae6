//! Writes the artifacts of all synthetic networks for a target into a folder, to be replayed on a processor that this
//! machine only emulates:
//!
//! ```text
//! cargo run -p ride-tests --example networks -- aarch64 FOLDER
//! ```

use std::path::PathBuf;

use anyhow::{Context, Result};
use ride_tests::built;
use ride_tests::synthetic::Recipe;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (target, folder) = args.next().zip(args.next()).context("usage: networks TARGET FOLDER")?;
    let folder = PathBuf::from(folder);
    let bits = ride_targets::find(&target)?.residual_bits();
    for (name, recipe) in Recipe::all() {
        let path = folder.join(name.replace(' ', "-")).with_extension("ride");
        std::fs::write(&path, &*built::synthetic(&recipe, &target, bits))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
