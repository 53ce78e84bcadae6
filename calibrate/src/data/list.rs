//! A list file of `relative/path label` lines, as ImageNet-LT and iNaturalist come with.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{Images, Records};

/// Largest list file that is read; ImageNet-LT's has 4 MB.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Reads the list; paths are relative to `root`, else to the list's own folder.
pub(super) fn load(path: &Path, root: Option<&Path>) -> Result<Records> {
    let length = super::detect::regular_file(path)?;
    ensure!(length <= MAX_BYTES, "{} has {length} bytes; a list may have {MAX_BYTES}", path.display());
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the list {}", path.display()))?;
    let root = root.or_else(|| path.parent()).unwrap_or(Path::new(""));
    let mut labels = Vec::new();
    let mut files: Vec<PathBuf> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (file, label) = entry(line).with_context(|| {
            format!(
                "line {} of {} is not `path label` with a label of 0 or more: {:?}",
                number + 1,
                path.display(),
                clip(line)
            )
        })?;
        labels.push(label);
        files.push(root.join(file));
    }
    if let Some(first) = files.first() {
        ensure!(
            first.is_file(),
            "there is no image {}; the paths of the list {} are taken relative to {}, which --data-root changes",
            first.display(),
            path.display(),
            if root.as_os_str().is_empty() { Path::new(".") } else { root }.display()
        );
    }
    Ok(Records { labels, class_names: None, images: Images::Files(files) })
}

/// Path and label of one line; the path may hold spaces.
fn entry(line: &str) -> Option<(&str, u32)> {
    let (file, label) = line.trim().rsplit_once([' ', '\t'])?;
    Some((file.trim_end(), label.parse().ok()?)).filter(|(file, _)| !file.is_empty())
}

/// Whether the first line of a file's `start` reads as an entry.
pub(super) fn looks_like(start: &[u8]) -> bool {
    let line = start.split(|&b| b == b'\n').find(|line| !line.trim_ascii().is_empty());
    line.and_then(|line| std::str::from_utf8(line).ok()).is_some_and(|line| entry(line).is_some())
}

/// The beginning of a line for an error message.
fn clip(line: &str) -> &str {
    line.char_indices().nth(80).map_or(line, |(end, _)| &line[..end])
}
