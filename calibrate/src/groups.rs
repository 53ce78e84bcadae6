//! Class groups of the long tail: many-shot, medium-shot and few-shot classes by their number of training images.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// Largest file of class counts that is read; a number a line leaves room for a million classes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Group of a class by its number of training images; the limits are those of Liu et al., "Large-Scale Long-Tailed
/// Recognition in an Open World", CVPR 2019, which RIDE reports by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// More than 100 training images.
    ManyShot,
    /// 20 to 100 training images.
    MediumShot,
    /// Fewer than 20 training images.
    FewShot,
}

impl Group {
    /// All groups, most images first.
    pub const ALL: [Group; 3] = [Group::ManyShot, Group::MediumShot, Group::FewShot];

    /// Group of a class with `count` training images.
    pub fn of_count(count: u32) -> Self {
        match count {
            101.. => Group::ManyShot,
            20..=100 => Group::MediumShot,
            0..20 => Group::FewShot,
        }
    }

    /// Place in [`Group::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Group::ManyShot => "many_shot",
            Group::MediumShot => "medium_shot",
            Group::FewShot => "few_shot",
        })
    }
}

/// Training images of each class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassGroups {
    /// Training images of each class, class 0 first.
    pub counts: Vec<u32>,
}

impl ClassGroups {
    /// Groups by these training counts.
    pub fn new(counts: Vec<u32>) -> Self {
        Self { counts }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.counts.len()
    }

    /// Group of `class`; a class beyond the counts has no training images.
    pub fn group(&self, class: usize) -> Group {
        Group::of_count(self.counts.get(class).copied().unwrap_or(0))
    }

    /// Number of classes in each group, in the order of [`Group::ALL`].
    pub fn sizes(&self) -> [usize; 3] {
        let mut sizes = [0; 3];
        for &count in &self.counts {
            sizes[Group::of_count(count).index()] += 1;
        }
        sizes
    }
}

/// Reads training counts from a text file, one integer a line, class 0 first; blank lines at the end are ignored.
///
/// # Errors
/// Names the file, and the line that is not an integer of 0..=4294967295.
pub fn read_class_counts(path: &Path) -> Result<Vec<u32>> {
    let kind = std::fs::metadata(path).with_context(|| format!("cannot open the class counts {}", path.display()))?;
    ensure!(kind.is_file(), "the class counts {} are not a regular file", path.display());
    ensure!(
        kind.len() <= MAX_BYTES,
        "the class counts {} have {} bytes; {MAX_BYTES} are possible",
        path.display(),
        kind.len()
    );
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("cannot read the class counts {}", path.display()))?;
    let count = |(number, line): (usize, &str)| {
        line.trim().parse().map_err(|_| {
            let shown: String = line.chars().take(40).collect();
            anyhow::anyhow!(
                "line {} of the class counts {} is {shown:?}; expected the number of training images of class {number}",
                number + 1,
                path.display()
            )
        })
    };
    let counts: Vec<u32> = text.trim_end().lines().enumerate().map(count).collect::<Result<_>>()?;
    ensure!(!counts.is_empty(), "the class counts {} are empty; expected one integer a line", path.display());
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_belong_to_medium() {
        let groups = ClassGroups::new(vec![0, 19, 20, 100, 101, u32::MAX]);
        let expected =
            [Group::FewShot, Group::FewShot, Group::MediumShot, Group::MediumShot, Group::ManyShot, Group::ManyShot];
        for (class, group) in expected.into_iter().enumerate() {
            assert_eq!(groups.group(class), group, "class {class}");
        }
        assert_eq!(groups.group(6), Group::FewShot);
        assert_eq!(groups.sizes(), [2, 2, 2]);
        assert_eq!(Group::ALL.map(Group::index), [0, 1, 2]);
    }

    #[test]
    fn counts_are_read_and_bad_lines_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("counts.txt");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_class_counts(&path)
        };
        assert_eq!(read("500\r\n 20 \n0\n\n").unwrap(), [500, 20, 0]);
        for (text, part) in [
            ("5\nfive\n", "line 2"),
            ("5\n-1", "line 2"),
            ("1 2\n", "line 1"),
            ("4\n\n5\n", "line 2"),
            ("\n", "empty"),
            ("4294967296", "line 1"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(part) && error.contains("counts.txt"), "{text:?}: {error}");
        }
        std::fs::write(&path, [0xFF, 0xFE]).unwrap();
        assert!(read_class_counts(&path).is_err());
        assert!(read_class_counts(folder.path()).unwrap_err().to_string().contains("regular file"));
    }
}
