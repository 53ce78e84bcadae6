//! Writing a file so that it is there whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Names that are tried for the temporary file before a folder full of old ones is given up.
const ATTEMPTS: u32 = 64;

/// Writes `bytes` to a temporary file in the folder of `path` and renames it to `path`.
///
/// An existing file is replaced; where anything fails it stays as it was and the temporary file is removed.
///
/// # Errors
/// Names the file where the folder is missing or not writable, the disk is full, or `path` is a folder.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    ensure!(!path.is_dir(), "{} is a folder; a file name is expected", path.display());
    let (mut file, temporary) = create_beside(path)?;
    // Without the sync a full disk may only show after the rename.
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    drop(file);
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    renamed.with_context(|| format!("cannot write {}", path.display()))
}

/// A new file in the same folder, which a rename can therefore put in place, and its path.
fn create_beside(path: &Path) -> Result<(File, PathBuf)> {
    let name = path.file_name().with_context(|| format!("{} is not a file name", path.display()))?;
    for attempt in 0..ATTEMPTS {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.{attempt}.tmp", std::process::id()));
        let temporary = path.with_file_name(hidden);
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((file, temporary)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot write {}", path.display())),
        }
    }
    anyhow::bail!("cannot write {}: its folder is full of temporary files", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<OsString> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect()
    }

    #[test]
    fn replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write(&path, b"one").unwrap();
        write(&path, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().to_path_buf(), folder.path().join("absent/a.bin"), PathBuf::from("/")] {
            let error = format!("{:#}", write(&path, b"x").unwrap_err());
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn threads_do_not_share_a_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        std::thread::scope(|scope| {
            for i in 0..8u8 {
                let path = &path;
                scope.spawn(move || write(path, &[i; 10_000]).unwrap());
            }
        });
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 10_000 && bytes.iter().all(|&b| b == bytes[0]));
        assert_eq!(names(folder.path()), ["a.bin"]);
    }
}
