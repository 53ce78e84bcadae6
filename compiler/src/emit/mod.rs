//! Files for firmware beside the artifact: a Rust module or a C header and source.
//!
//! They hold the artifact as a constant at the alignment that it wants and, as constants, what a program must know at
//! compile time: the arena's length above all. Equal artifacts give equal files.

mod c;
mod rust;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ride_calibrate::atomic_file;
use ride_runtime::Model;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The artifact itself.
    Ride,
    /// A Rust module that includes the artifact.
    Rust,
    /// A C header and source.
    C,
}

/// Writes the artifact to `output` and, beside it, files of the other kinds with the same stem; returns their paths.
/// Each is written to a temporary file and renamed.
///
/// # Errors
/// Names the file that cannot be written; or the name of `output` makes no identifier for the generated code.
pub fn write(output: &Path, kinds: &[Kind], model: Model<'_>) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for (path, content) in files(output, kinds, model)? {
        atomic_file::write(&path, &content)?;
        written.push(path);
    }
    Ok(written)
}

/// Checks that [`write()`] can make names from `output`.
///
/// # Errors
/// As [`write()`].
pub fn check(output: &Path, kinds: &[Kind]) -> Result<()> {
    if kinds.iter().any(|kind| *kind != Kind::Ride) {
        name_of(output)?;
        let extension = output.extension().and_then(|e| e.to_str()).unwrap_or_default();
        ensure!(
            !["rs", "c", "h"].contains(&extension),
            "{} is the name of a file that --emit writes beside the artifact; give the artifact another extension",
            output.display()
        );
    }
    Ok(())
}

/// What [`write()`] writes.
///
/// # Errors
/// As [`write()`].
pub fn files(output: &Path, kinds: &[Kind], model: Model<'_>) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    check(output, kinds)?;
    let mut files = Vec::new();
    // The Rust module includes the artifact's file.
    if kinds.contains(&Kind::Ride) || kinds.contains(&Kind::Rust) {
        files.push((output.to_path_buf(), model.bytes().to_vec()));
    }
    if kinds.contains(&Kind::Rust) {
        let file = output.file_name().and_then(|name| name.to_str()).context("the artifact's name is not UTF-8")?;
        files.push((output.with_extension("rs"), rust::module(model, file).into_bytes()));
    }
    if kinds.contains(&Kind::C) {
        let name = name_of(output)?;
        let header = output.with_extension("h");
        let file = header.file_name().and_then(|name| name.to_str()).context("the artifact's name is not UTF-8")?;
        let source = c::source(model, &name, file).into_bytes();
        files.push((header, c::header(model, &name).into_bytes()));
        files.push((output.with_extension("c"), source));
    }
    Ok(files)
}

/// An identifier made from the stem of the artifact's file name.
fn name_of(output: &Path) -> Result<String> {
    let stem = output.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    ensure!(
        name.starts_with(|c: char| c.is_ascii_alphabetic()),
        "{} makes no name for generated code; let the artifact's name begin with a letter of A..Z",
        output.display()
    );
    Ok(name)
}

/// One line about where a file comes from.
fn origin(model: Model<'_>) -> String {
    format!(
        "Made by ride-compile {} from an artifact for {} ({}, model {}): build it again instead of editing it.",
        env!("CARGO_PKG_VERSION"),
        printable(model.target()),
        printable(model.arch()),
        printable(model.fingerprint())
    )
}

/// Text that is safe within comments and string literals of both languages.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || " -_.".contains(c) { c } else { '?' }).collect()
}

/// A string literal of both languages: printable ASCII as it is, all else by `escape`.
fn literal(text: &str, escape: impl Fn(u8) -> String) -> String {
    let mut out = String::from("\"");
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            // A question mark could begin a trigraph.
            b' '..=b'~' if byte != b'?' => out.push(char::from(byte)),
            _ => out += &escape(byte),
        }
    }
    out.push('"');
    out
}
