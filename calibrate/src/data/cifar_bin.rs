//! The binary versions of CIFAR-100 and CIFAR-10: fixed-size records of label bytes and planar pixels.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::{Images, Packed, Records, Split, interleave, reserve};

/// Rows and columns of a CIFAR image.
const SIDE: usize = 32;
/// Bytes of the three planes of one image.
const PIXELS: usize = 3 * SIDE * SIDE;

/// What tells the two versions apart.
pub(super) struct Layout {
    /// Label bytes in front of the pixels; the last one is the class.
    label_bytes: usize,
    /// Number of classes.
    classes: u8,
    /// File of class names that the official archive carries, one a line.
    names: &'static str,
}

/// A coarse and a fine label; the fine one is the class.
pub(super) const CIFAR_100: Layout = Layout { label_bytes: 2, classes: 100, names: "fine_label_names.txt" };
/// One label.
pub(super) const CIFAR_10: Layout = Layout { label_bytes: 1, classes: 10, names: "batches.meta.txt" };

impl Layout {
    /// Bytes of one record.
    pub(super) fn record(&self) -> usize {
        self.label_bytes + PIXELS
    }

    /// Whether a file of `length` bytes that starts with `first` can have this layout.
    pub(super) fn suits(&self, length: u64, first: &[u8]) -> bool {
        let label = first.get(self.label_bytes - 1);
        length > 0 && length.is_multiple_of(self.record() as u64) && label.is_some_and(|&l| l < self.classes)
    }
}

/// Reads one `.bin` file, or the file of the asked-for half of a folder of them.
pub(super) fn load(path: &Path, layout: &Layout, split: Split) -> Result<Records> {
    let file = if path.is_dir() { file_of(path, split)? } else { path.to_path_buf() };
    let length = super::detect::regular_file(&file)?;
    let record = layout.record();
    ensure!(length > 0, "{} is empty", file.display());
    ensure!(
        length.is_multiple_of(record as u64),
        "{} has {length} bytes, which is not a multiple of the record of {record} bytes ({} of labels, {PIXELS} of \
         pixels); the file is cut off or of another format",
        file.display(),
        layout.label_bytes
    );
    let count = usize::try_from(length / record as u64)?;
    let mut reader = BufReader::with_capacity(1 << 20, File::open(&file)?);
    let mut labels = Vec::with_capacity(count);
    let mut pixels = reserve(count * PIXELS)?;
    let mut bytes = vec![0; record];
    for index in 0..count {
        reader.read_exact(&mut bytes).with_context(|| format!("cannot read record {index} of {}", file.display()))?;
        let label = bytes[layout.label_bytes - 1];
        ensure!(
            label < layout.classes,
            "record {index} of {} has label {label}, but there are only {} classes; the file is damaged or of another \
             format",
            file.display(),
            layout.classes
        );
        labels.push(u32::from(label));
        interleave(&bytes[layout.label_bytes..], SIDE * SIDE, &mut pixels);
    }
    let images = Images::Packed(Packed { height: SIDE, width: SIDE, channels: 3, pixels });
    Ok(Records { labels, class_names: names_beside(&file, layout), images })
}

/// `train.bin` for training; `test.bin` or `val.bin` otherwise (CIFAR-10: `test_batch.bin`).
fn file_of(folder: &Path, split: Split) -> Result<PathBuf> {
    let names: &[&str] = match split {
        Split::Train => &["train.bin"],
        Split::Test => &["test.bin", "val.bin", "test_batch.bin"],
    };
    let found = names.iter().map(|name| folder.join(name)).find(|file| file.is_file());
    match found {
        Some(file) => Ok(file),
        None => bail!("{} has no {}; pass the .bin file itself", folder.display(), names.join(" or ")),
    }
}

/// Class names from the file that the official archive puts beside the records, if it is there and complete.
fn names_beside(file: &Path, layout: &Layout) -> Option<Vec<String>> {
    let path = file.with_file_name(layout.names);
    let length = std::fs::metadata(&path).ok()?.len();
    let text = (length < 64 * 1024).then(|| std::fs::read_to_string(&path).ok())??;
    let names: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
    (names.len() == usize::from(layout.classes)).then_some(names)
}
