//! PyTorch's zip archive: `NAME/data.pkl`, `NAME/data/KEY` for each storage, `NAME/byteorder`.

use std::io::{Read, Seek};

use anyhow::{Context, Result, bail, ensure};
use ride_calibrate::pickle::Pickle;
use zip::ZipArchive;
use zip::read::ZipFile;

use super::Contents;
use super::budget::Budget;
use super::state::{self, Storages};

/// Largest `data.pkl`, in bytes. It holds names and shapes, no weights: 50 KB for a RIDE of three experts.
const MAX_PICKLE: u64 = 64 << 20;

pub(super) fn read<R: Read + Seek>(reader: R, length: u64, want_config: bool) -> Result<Contents> {
    let mut archive = ZipArchive::new(reader).context("the zip archive is damaged or cut off")?;
    let pickle_name = find_pickle(&archive)?;
    let prefix = pickle_name.trim_end_matches("data.pkl").to_string();
    check_byte_order(&mut archive, &prefix)?;
    let mut budget = Budget::of_file(length);
    let bytes = read_pickle(&mut archive, &pickle_name, &mut budget)?;
    let pickle = Pickle::read(&bytes).with_context(|| format!("{pickle_name} in the archive is damaged"))?;
    state::load(&pickle, &mut Archive { archive, prefix }, &mut budget, want_config)
}

/// The name of the entry `data.pkl`; the folder it is in has any name.
fn find_pickle<R: Read + Seek>(archive: &ZipArchive<R>) -> Result<String> {
    let names = || archive.file_names_raw().filter_map(|name| str::from_utf8(name).ok());
    let is_pickle = |name: &&str| *name == "data.pkl" || name.ends_with("/data.pkl");
    let Some(name) = names().filter(is_pickle).min_by_key(|name| name.len()) else {
        bail!("there is no data.pkl in the zip archive: it was not written by torch.save");
    };
    ensure!(
        !names().any(|name| name.ends_with("/constants.pkl")),
        "this is a TorchScript archive (torch.jit.save); save the model's state_dict with torch.save instead"
    );
    Ok(name.to_string())
}

fn check_byte_order<R: Read + Seek>(archive: &mut ZipArchive<R>, prefix: &str) -> Result<()> {
    // Only newer versions of PyTorch write this entry.
    let Some(index) = archive.index_for_name_raw(format!("{prefix}byteorder").as_bytes()) else { return Ok(()) };
    let mut order = Vec::new();
    archive.by_index(index)?.take(16).read_to_end(&mut order).context("the entry byteorder is damaged")?;
    ensure!(order == b"little", "the byte order is \"{}\"; only little-endian files are read", order.escape_ascii());
    Ok(())
}

fn read_pickle<R: Read + Seek>(archive: &mut ZipArchive<R>, name: &str, budget: &mut Budget) -> Result<Vec<u8>> {
    let entry = entry(archive, name)?;
    let size = entry.size();
    ensure!(size <= MAX_PICKLE, "{name} in the archive has {size} bytes; at most {MAX_PICKLE} are read");
    budget.take(size).with_context(|| format!("cannot read {name}"))?;
    read_entry(entry, size as usize).with_context(|| format!("{name} in the archive is damaged"))
}

struct Archive<R> {
    archive: ZipArchive<R>,
    prefix: String,
}

impl<R: Read + Seek> Storages for Archive<R> {
    fn read(&mut self, key: &str, bytes: usize) -> Result<Vec<u8>> {
        let name = format!("{}data/{key}", self.prefix);
        let entry = entry(&mut self.archive, &name)?;
        ensure!(
            entry.size() == bytes as u64,
            "its storage {name} has {} bytes, expected {bytes}; the file is damaged",
            entry.size()
        );
        read_entry(entry, bytes).with_context(|| format!("its storage {name} is damaged"))
    }
}

fn entry<'a, R: Read + Seek>(archive: &'a mut ZipArchive<R>, name: &str) -> Result<ZipFile<'a, R>> {
    let index = archive.index_for_name_raw(name.as_bytes());
    let index = index.with_context(|| format!("there is no {name} in the zip archive"))?;
    archive.by_index(index).with_context(|| format!("cannot read {name} in the zip archive"))
}

/// Exactly `size` bytes and then the end, at which the zip reader compares the checksum.
fn read_entry(entry: impl Read, size: usize) -> Result<Vec<u8>> {
    // A stored size may be a lie: room is made as bytes arrive.
    let mut bytes = Vec::with_capacity(size.min(1 << 20));
    entry.take(size as u64 + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() == size, "it has {} bytes, expected {size}", bytes.len());
    Ok(bytes)
}
