//! Which format a path has.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::{Format, cifar_bin, folder, list};

/// Bytes of a file that are looked at.
const LOOK: u64 = 8192;

/// The format of the data set at `path`, told from its content and, where that is not enough, from its name.
pub(super) fn format(path: &Path) -> Result<Format> {
    let kind = std::fs::metadata(path).with_context(|| format!("cannot open the data set {}", path.display()))?;
    let found = if kind.is_dir() { folder_format(path)? } else { file_format(path)? };
    found.with_context(|| {
        format!(
            "cannot tell the format of the data set {}: it is none of CIFAR .bin, cifar-100-python, a folder of class \
             folders with PNG or JPEG files, .npz with x and y, or a list of `path label` lines; --data-format forces \
             one of {}",
            path.display(),
            Format::names()
        )
    })
}

fn folder_format(path: &Path) -> Result<Option<Format>> {
    let has = |name: &str| path.join(name).is_file();
    if has("meta") && (has("train") || has("test")) {
        return Ok(Some(Format::Cifar100Python));
    }
    if has("test_batch.bin") {
        return Ok(Some(Format::Cifar10Bin));
    }
    if has("train.bin") || has("test.bin") || has("val.bin") {
        return Ok(Some(Format::Cifar100Bin));
    }
    Ok((!folder::class_folders(path)?.is_empty()).then_some(Format::Folder))
}

fn file_format(path: &Path) -> Result<Option<Format>> {
    let length = regular_file(path)?;
    let mut start = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open the data set {}", path.display()))?;
    file.take(LOOK).read_to_end(&mut start).with_context(|| format!("cannot read {}", path.display()))?;
    if start.is_empty() {
        bail!("the data set {} is an empty file", path.display());
    }
    // Local file header, or the end record of an archive without members.
    if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
        return Ok(Some(Format::Npz));
    }
    let named = |extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
    if named("bin") || cifar_bin::CIFAR_100.suits(length, &start) || cifar_bin::CIFAR_10.suits(length, &start) {
        // A `.bin` that suits neither is a damaged CIFAR-100 file, and its reader says what is wrong.
        let ten = cifar_bin::CIFAR_10.suits(length, &start) && !cifar_bin::CIFAR_100.suits(length, &start);
        return Ok(Some(if ten { Format::Cifar10Bin } else { Format::Cifar100Bin }));
    }
    // The protocol opcode of a pickle; the official files use protocol 2.
    if start.len() > 1 && start[0] == 0x80 && start[1] <= 5 {
        return Ok(Some(Format::Cifar100Python));
    }
    Ok((named("txt") || list::looks_like(&start)).then_some(Format::List))
}

/// The length in bytes of a regular file.
///
/// # Errors
/// If there is none, or if it is a folder, a pipe or a device, which would block or never end.
pub(super) fn regular_file(path: &Path) -> Result<u64> {
    let kind = std::fs::metadata(path).with_context(|| format!("cannot open {}", path.display()))?;
    ensure!(kind.is_file(), "{} is not a regular file", path.display());
    Ok(kind.len())
}
