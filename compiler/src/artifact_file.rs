//! Artifacts as files: mapping or reading with bounds, checking, writing whole or not at all.
//!
//! Large artifacts are mapped, not copied: what an inference does not need of them costs no memory of its own, and
//! programs that open the same one share its pages. The price is that somebody who cuts the file short *in place* while it
//! is open ends this process (SIGBUS). Nothing of ours does so: artifacts are written to a temporary name and renamed,
//! which leaves those who have the old file open with the old file. Whoever fears others copies the artifact to a place of
//! its own first.

use std::fs::{self, File};
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use memmap2::{Mmap, MmapOptions};
use ride_calibrate::atomic_file;
use ride_runtime::format::MAGIC;
use ride_runtime::{Model, Session, Team};

use crate::memory::AlignedBytes;

/// Largest artifact that is read, in bytes; those of the largest models of the family have some 100 MB.
pub const MAX_BYTES: u64 = 1 << 30;
/// Largest arena that is allocated for an artifact, in bytes.
pub const MAX_ARENA: usize = 1 << 30;

/// Artifacts from this size on, in bytes, are mapped; a smaller one is copied faster than its pages are arranged. Windows
/// copies them all: it lets nobody replace a file that is mapped, which building again and `thresholds --set` do.
const MAPPED: u64 = if cfg!(windows) { u64::MAX } else { 1 << 20 };

/// An artifact's bytes, at the alignment that kernels want.
#[derive(Debug)]
pub struct ArtifactFile {
    bytes: Bytes,
    shown: String,
}

/// Where they are.
#[derive(Debug)]
enum Bytes {
    Read(AlignedBytes),
    /// Pages begin at multiples of more than kernels want.
    Mapped(Mmap),
}

impl Bytes {
    /// The first `len` bytes of `file`.
    fn of(mut file: &File, len: u64) -> std::io::Result<Self> {
        if len >= MAPPED {
            // SAFETY: the file is only read through the map, which this value owns. That nobody changes the file in
            // place meanwhile is what this module's documentation asks for. Whoever does it all the same can at most
            // make the checked model differ from what it was: kernels check every slice that they are given once more.
            return unsafe { MmapOptions::new().len(len as usize).populate().map(file) }.map(Bytes::Mapped);
        }
        let mut bytes = AlignedBytes::zeroed(len as usize);
        file.read_exact(&mut bytes)?;
        Ok(Bytes::Read(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Read(bytes) => bytes,
            Bytes::Mapped(bytes) => bytes,
        }
    }
}

impl ArtifactFile {
    /// Opens the file at `path`, mapped if it is large; [`ArtifactFile::model`] checks what is in it.
    ///
    /// # Errors
    /// Names the file where it cannot be read, is no regular file, is larger than [`MAX_BYTES`] or does not begin as an
    /// artifact does.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let cannot_open = || format!("cannot open the artifact {shown}");
        // Asked before it is opened: opening a pipe would wait for somebody to write.
        let kind = fs::metadata(path).with_context(cannot_open)?;
        ensure!(kind.is_file(), "{shown} is not a file; expected an artifact (*.ride) that `ride-compile build` wrote");
        let file = File::open(path).with_context(cannot_open)?;
        // Of the file that was opened, which another one may have replaced by now.
        let len = file.metadata().with_context(cannot_open)?.len();
        ensure!(len <= MAX_BYTES, "{shown} has {len} bytes; an artifact may have {MAX_BYTES}");
        let bytes = Bytes::of(&file, len).with_context(|| format!("cannot read the artifact {shown}"))?;
        ensure!(!bytes.is_empty(), "{shown} is empty; expected an artifact (*.ride) that `ride-compile build` wrote");
        let magic = bytes.get(..MAGIC.len()).unwrap_or(&bytes[..]);
        ensure!(
            MAGIC.starts_with(magic),
            "{shown} is not an artifact: it starts with \"{}\"; `ride-compile build` makes one from a checkpoint",
            magic.escape_ascii()
        );
        Ok(ArtifactFile { bytes, shown })
    }

    /// The validated model.
    ///
    /// # Errors
    /// Names the file and the first thing that is wrong in it, bytes behind the artifact's end included.
    pub fn model(&self) -> Result<Model<'_>> {
        let model = Model::parse(&self.bytes).with_context(|| format!("cannot use the artifact {}", self.shown))?;
        let extra = self.bytes.len() - model.bytes().len();
        if extra > 0 {
            bail!(
                "{}: {extra} bytes follow behind the artifact's end at byte {}; the file is damaged or something was \
                 appended to it; build it again",
                self.shown,
                model.bytes().len()
            );
        }
        Ok(model)
    }
}

/// Whether the file at `path` begins as an artifact does; false for folders.
///
/// # Errors
/// Names the file if it cannot be read, or is a pipe or a device, which would block or never end.
pub fn is_artifact(path: &Path) -> Result<bool> {
    let what = || format!("cannot open {}", path.display());
    let kind = fs::metadata(path).with_context(what)?;
    if kind.is_dir() {
        return Ok(false);
    }
    ensure!(kind.is_file(), "{} is neither a file nor a folder", path.display());
    let mut start = Vec::new();
    File::open(path).with_context(what)?.take(MAGIC.len() as u64).read_to_end(&mut start).with_context(what)?;
    Ok(start == MAGIC)
}

/// Memory for a session of `model`.
///
/// # Errors
/// If the model wants more than [`MAX_ARENA`].
pub fn arena(model: Model<'_>) -> Result<AlignedBytes> {
    check_arena(model)?;
    Ok(AlignedBytes::zeroed(model.arena_len()))
}

/// Checks that there can be memory for sessions of `model`.
///
/// # Errors
/// If the model wants more than [`MAX_ARENA`].
pub fn check_arena(model: Model<'_>) -> Result<()> {
    let needed = model.arena_len();
    ensure!(needed <= MAX_ARENA, "the artifact asks for an arena of {needed} bytes; {MAX_ARENA} are possible");
    Ok(())
}

/// Most threads of a [`team`].
pub const MAX_THREADS: usize = 256;

/// Threads that share the operations of an inference, the calling one included.
///
/// # Errors
/// If there are none or more than [`MAX_THREADS`], or the system does not grant them.
pub fn team(threads: usize) -> Result<Team> {
    ensure!((1..=MAX_THREADS).contains(&threads), "1 to {MAX_THREADS} threads are possible, not {threads}");
    Team::new(threads).with_context(|| format!("cannot start {threads} threads"))
}

/// Runs the golden vectors of a finished artifact and returns their number.
///
/// # Errors
/// If the bytes are not a valid artifact or a vector gives other results.
pub fn self_test(bytes: &[u8]) -> Result<usize> {
    let bytes = AlignedBytes::copy_of(bytes);
    let model = Model::parse(&bytes)?;
    let mut arena = arena(model)?;
    let mut pixels = vec![0; model.input_len()];
    Ok(Session::new(model, &mut arena)?.self_test(&mut pixels)?)
}

/// Checks that an artifact can be written to `path` before the work that leads to it is done.
///
/// # Errors
/// Names the folder that is missing or cannot be written to, or says that `path` is a folder.
pub fn check_destination(path: &Path) -> Result<()> {
    ensure!(!path.is_dir(), "{} is a folder; pass the name of a file to write", path.display());
    let name = path.file_name().with_context(|| format!("{} is not a file name", path.display()))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    ensure!(folder.is_dir(), "cannot write {}: there is no folder {}; make it first", path.display(), folder.display());
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    let probe = tempfile::Builder::new().prefix(&prefix).suffix(".tmp").tempfile_in(folder);
    probe.map(drop).with_context(|| format!("cannot write to the folder {}", folder.display()))
}

/// Writes an artifact: first to a temporary file in the same folder, which is synced and then renamed.
///
/// # Errors
/// Names the file; where anything fails, an old file stays as it was and no temporary file is left.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    atomic_file::write(path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_artifact_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.ride");
        for (bytes, part) in [(&b""[..], "empty"), (b"PK\x03\x04....", "PK\\x03\\x04")] {
            fs::write(&path, bytes).unwrap();
            assert!(!is_artifact(&path).unwrap());
            let error = format!("{:#}", ArtifactFile::read(&path).unwrap_err());
            assert!(error.contains(part) && error.contains("x.ride"), "{error}");
        }
        fs::write(&path, &MAGIC[..5]).unwrap();
        let error = format!("{:#}", ArtifactFile::read(&path).unwrap().model().unwrap_err());
        assert!(error.contains("truncated"), "{error}");
        assert!(!is_artifact(folder.path()).unwrap());
        assert!(ArtifactFile::read(folder.path()).is_err());
        assert!(is_artifact(&folder.path().join("absent")).is_err());
        #[cfg(unix)]
        assert!(is_artifact(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn huge_files_are_refused_unread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("huge.ride");
        File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(ArtifactFile::read(&path).unwrap_err().to_string().contains("bytes"));
    }

    /// Mapped and read files are checked alike, and replacing a file leaves those alone who have it open.
    #[test]
    fn large_files_are_mapped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.ride");
        let mut large = MAGIC.to_vec();
        large.resize(MAPPED as usize + 3, 7);
        write(&path, &large).unwrap();
        let file = ArtifactFile::read(&path).unwrap();
        assert!(matches!(file.bytes, Bytes::Mapped(_)));
        assert!(file.bytes.as_ptr().addr().is_multiple_of(ride_runtime::format::ARENA_ALIGN));
        write(&path, &MAGIC).unwrap();
        assert!(file.bytes[..] == large);
        assert!(file.model().is_err());
        assert!(matches!(ArtifactFile::read(&path).unwrap().bytes, Bytes::Read(_)));
        fs::write(&path, vec![0; MAPPED as usize]).unwrap();
        let error = ArtifactFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("is not an artifact"), "{error}");
    }

    #[test]
    fn destinations_are_checked_without_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        check_destination(&folder.path().join("a.ride")).unwrap();
        check_destination(Path::new("a.ride")).unwrap();
        for path in [folder.path().to_path_buf(), folder.path().join("absent/a.ride"), "/".into()] {
            assert!(check_destination(&path).is_err(), "{}", path.display());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
