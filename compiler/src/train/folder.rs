//! The folder that a training writes to.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use ride_calibrate::atomic_file;
use ride_calibrate::table::CalibrationTable;
use serde::Serialize;

use super::state::State;
use crate::checkpoint::safetensors;

/// The state that training goes on from.
pub const STATE: &str = "train.state";
/// What happened, one JSON object a line.
pub const LOG: &str = "log.jsonl";
/// The trained network.
pub const MODEL: &str = "model.safetensors";
/// Its configuration.
pub const CONFIG: &str = "config.json";
/// Training images of each class, where `build` looks for them.
pub const COUNTS: &str = "class_counts.txt";
/// Ranges of a network that was trained for int8, where `build` looks for them.
pub const CALIBRATION: &str = "calibration.json";
/// Names of the classes, where `build` looks for them.
pub const NAMES: &str = "class_names.txt";

/// A folder that no other training writes to as long as this exists.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Locked; the system unlocks it however the process ends.
    log: File,
}

impl Folder {
    /// A folder for a new training; it is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be written to, another training is using it, or it holds a model or a training already.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        let folder = Self::lock(path)?;
        ensure!(
            !path.join(STATE).exists(),
            "{} holds a training already; go on with it (--resume), or choose another folder",
            path.display()
        );
        let entries = fs::read_dir(path).with_context(|| format!("cannot list the folder {}", path.display()))?;
        for entry in entries {
            let name = entry.with_context(|| format!("cannot list the folder {}", path.display()))?.file_name();
            let name = name.to_string_lossy();
            let model = [".pth", ".pt", ".pth.tar", ".safetensors", ".onnx"].iter().any(|end| name.ends_with(end));
            ensure!(
                !model && name != CONFIG,
                "{} holds a model already ({name}); choose another folder",
                path.display()
            );
        }
        folder.log.set_len(0).with_context(|| format!("cannot write {}", path.join(LOG).display()))?;
        Ok(folder)
    }

    /// The folder of a training that is to go on, and its state.
    ///
    /// # Errors
    /// If there is none, it cannot be read, or another training is using the folder.
    pub fn resume(path: &Path) -> Result<(Self, State)> {
        ensure!(
            path.join(STATE).is_file(),
            "there is no training to go on with in {}: {STATE} is missing",
            path.display()
        );
        let folder = Self::lock(path)?;
        folder.drop_remains().with_context(|| format!("cannot clean up {}", path.display()))?;
        folder.drop_broken_line().with_context(|| format!("cannot write {}", path.join(LOG).display()))?;
        let state = State::read(&folder.state())?;
        Ok((folder, state))
    }

    fn lock(path: &Path) -> Result<Self> {
        let file = path.join(LOG);
        let log = OpenOptions::new().create(true).append(true).read(true).open(&file);
        let log = log.with_context(|| format!("cannot write {}", file.display()))?;
        match log.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("another training is writing to {}; wait for it, or choose another folder", path.display())
            }
            // Some network file systems have no locks; there it is up to the user.
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", file.display()));
            }
        }
        Ok(Self { path: path.to_path_buf(), log })
    }

    /// A process that was killed may have left temporary files of [`atomic_file`]; nobody else writes here.
    fn drop_remains(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let ours = [STATE, MODEL, CONFIG, COUNTS, NAMES, CALIBRATION]
                .iter()
                .any(|file| name.starts_with(&format!(".{file}.")));
            if ours && name.ends_with(".tmp") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// A process that was killed may have left half a line.
    fn drop_broken_line(&self) -> std::io::Result<()> {
        let text = fs::read(self.path.join(LOG))?;
        let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if whole < text.len() { self.log.set_len(whole as u64) } else { Ok(()) }
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the state is.
    pub fn state(&self) -> PathBuf {
        self.path.join(STATE)
    }

    /// Adds a line to the log.
    ///
    /// # Errors
    /// If the disk is full. No part of the line is left then.
    pub fn log<T: Serialize>(&self, line: &T) -> Result<()> {
        let what = || format!("cannot write {}", self.path.join(LOG).display());
        let mut text = serde_json::to_string(line).with_context(what)?;
        text.push('\n');
        let mut log = &self.log;
        let before = log.seek(SeekFrom::End(0)).with_context(what)?;
        log.write_all(text.as_bytes())
            .inspect_err(|_| {
                // The first error is the one to report.
                let _ = self.log.set_len(before);
            })
            .with_context(what)
    }

    /// Writes what `build` reads: weights, configuration, and what is known about classes and ranges.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn export(&self, state: &State, ranges: Option<&CalibrationTable>) -> Result<()> {
        let config = serde_json::to_string_pretty(&state.settings.config)? + "\n";
        let counts: String = state.settings.inputs.class_counts.iter().map(|count| format!("{count}\n")).collect();
        let names: String = state.settings.inputs.class_names.iter().map(|name| format!("{name}\n")).collect();
        for (name, text) in [(COUNTS, counts), (NAMES, names), (CONFIG, config)] {
            if !text.is_empty() {
                atomic_file::write(&self.path.join(name), text.as_bytes())?;
            }
        }
        if let Some(ranges) = ranges {
            ranges.write(&self.path.join(CALIBRATION))?;
        }
        atomic_file::write(&self.path.join(MODEL), &safetensors::encode(&state.model, None)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_training_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        let folder = Folder::create(&path).unwrap();
        let error = Folder::create(&path).unwrap_err().to_string();
        assert!(error.contains("another training"), "{error}");
        drop(folder);
        drop(Folder::create(&path).unwrap());
        let error = Folder::resume(&path).unwrap_err().to_string();
        assert!(error.contains(STATE), "{error}");
        fs::write(path.join(STATE), b"damaged").unwrap();
        assert!(Folder::create(&path).unwrap_err().to_string().contains("--resume"));
        assert!(format!("{:#}", Folder::resume(&path).unwrap_err()).contains(STATE));
    }

    #[test]
    fn a_folder_with_a_model_is_left_alone() {
        for name in ["model.safetensors", "checkpoint.pth", "config.json"] {
            let place = tempfile::tempdir().unwrap();
            fs::write(place.path().join(name), b"precious").unwrap();
            let error = Folder::create(place.path()).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            assert_eq!(fs::read(place.path().join(name)).unwrap(), b"precious");
        }
    }

    #[test]
    fn remains_of_a_killed_process_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::create(place.path()).unwrap();
        for name in [".train.state.17.0.tmp", ".model.safetensors.17.3.tmp", ".mine.tmp", "train.state.tmp"] {
            fs::write(place.path().join(name), b"half").unwrap();
        }
        folder.drop_remains().unwrap();
        let mut left: Vec<_> = fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".mine.tmp", "log.jsonl", "train.state.tmp"]);
    }

    #[test]
    fn half_a_line_of_the_log_is_dropped() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::create(place.path()).unwrap();
        folder.log(&[1, 2]).unwrap();
        fs::write(place.path().join(LOG), b"[1,2]\n[3,").unwrap();
        folder.drop_broken_line().unwrap();
        folder.log(&[4]).unwrap();
        assert_eq!(fs::read_to_string(place.path().join(LOG)).unwrap(), "[1,2]\n[4]\n");
    }
}
