//! A folder with one folder of images for each class; a class is its folder's place in sorted order.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::{Images, Records};

/// Lists the images of all class folders, classes and files in sorted order.
pub(super) fn load(path: &Path) -> Result<Records> {
    ensure!(path.is_dir(), "{} is not a folder", path.display());
    let folders = class_folders(path)?;
    if folders.is_empty() {
        bail!(
            "{} has no class folders; put the images of each class into a folder of its own, as in \
             {0}/CLASS/image.png",
            path.display()
        );
    }
    let mut labels = Vec::new();
    let mut files = Vec::new();
    for (class, folder) in folders.iter().enumerate() {
        let images = images_of(folder)?;
        labels.resize(labels.len() + images.len(), u32::try_from(class)?);
        files.extend(images);
    }
    if files.is_empty() {
        let nested = folders.iter().find(|f| class_folders(f).is_ok_and(|inner| !inner.is_empty()));
        match nested {
            Some(folder) => bail!(
                "the class folders of {} hold no PNG or JPEG files but folders; did you mean {}?",
                path.display(),
                folder.display()
            ),
            None => bail!("the class folders of {} hold no PNG or JPEG files", path.display()),
        }
    }
    let name = |folder: &PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Records { labels, class_names: Some(folders.iter().map(name).collect()), images: Images::Files(files) })
}

/// The folders in `path`, hidden ones aside, sorted by name (by code point, as Python's `sorted` does).
pub(super) fn class_folders(path: &Path) -> Result<Vec<PathBuf>> {
    sorted(path, Path::is_dir)
}

/// The PNG and JPEG files in a class folder, told by their extension.
fn images_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let known = |e: &std::ffi::OsStr| ["png", "jpg", "jpeg"].iter().any(|k| e.eq_ignore_ascii_case(k));
    sorted(folder, |path| path.extension().is_some_and(known) && path.is_file())
}

/// The visible entries of a folder that `keep` takes, sorted by name.
fn sorted(folder: &Path, keep: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        let entries: std::io::Result<Vec<_>> = fs::read_dir(folder)?.collect();
        let visible = entries?.into_iter().filter(|e| !e.file_name().as_encoded_bytes().starts_with(b"."));
        let mut paths: Vec<PathBuf> = visible.map(|e| e.path()).filter(|p| keep(p)).collect();
        paths.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
        Ok(paths)
    };
    read().with_context(|| format!("cannot read the folder {}", folder.display()))
}
