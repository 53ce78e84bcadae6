//! From what the user names to the files to read.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The files of one checkpoint.
pub(super) struct Located {
    pub(super) weights: PathBuf,
    /// `config.json`, if it is there.
    pub(super) config: Option<PathBuf>,
    /// Where `config.json` is or should be.
    pub(super) expected_config: PathBuf,
    pub(super) notes: Vec<String>,
}

/// Finds weights and configuration for a file or folder.
pub(super) fn locate(path: &Path) -> Result<Located> {
    let kind = fs::metadata(path).with_context(|| format!("cannot find the checkpoint {}", path.display()))?;
    let (weights, notes) = if kind.is_dir() { choose(path)? } else { (path.to_path_buf(), Vec::new()) };
    let expected_config = weights.with_file_name("config.json");
    let config = expected_config.is_file().then(|| expected_config.clone());
    Ok(Located { weights, config, expected_config, notes })
}

/// The weights file of a folder, with a note if there was a choice.
fn choose(folder: &Path) -> Result<(PathBuf, Vec<String>)> {
    for extension in ["pth", "pt", "pth.tar", "safetensors"] {
        let mut names = names(folder, extension)?;
        names.sort_by(|a, b| natural(a, b));
        let preferred = ["checkpoint", "model_best"].map(|stem| format!("{stem}.{extension}"));
        let named = preferred.iter().find(|name| names.contains(name));
        let Some(name) = named.or(names.last()) else { continue };
        let others = names.len() - 1;
        let note = format!("{} of {} was taken; name the file to take another of its {others}", name, folder.display());
        return Ok((folder.join(name), if others > 0 { vec![note] } else { Vec::new() }));
    }
    bail!("there is no checkpoint in the folder {}: expected a .pth or .safetensors file", folder.display())
}

fn names(folder: &Path, extension: &str) -> Result<Vec<String>> {
    let what = || format!("cannot list the folder {}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(what)? {
        let path = entry.with_context(what)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let stem = name.strip_suffix(extension).and_then(|stem| stem.strip_suffix('.'));
        if stem.is_some_and(|stem| !stem.is_empty()) && path.is_file() {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Orders names with their numbers counted: `checkpoint-epoch9` before `checkpoint-epoch10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (Some(x), Some(y)) = (a.chars().next(), b.chars().next()) else { return a.len().cmp(&b.len()) };
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (number_a, number_b) = (take_number(&mut a), take_number(&mut b));
            number_a.len().cmp(&number_b.len()).then(number_a.cmp(number_b))
        } else {
            (a, b) = (&a[x.len_utf8()..], &b[y.len_utf8()..]);
            x.cmp(&y)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// The leading digits, without leading zeros.
fn take_number<'a>(text: &mut &'a str) -> &'a str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    number.trim_start_matches('0')
}
