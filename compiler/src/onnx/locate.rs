//! From what the user names to the files of an ONNX model.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

/// Most experts of a split model.
const MAX_EXPERTS: usize = 64;

/// The files of a model.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Located {
    Whole(PathBuf),
    Split { stem: PathBuf, experts: Vec<PathBuf>, routers: Vec<PathBuf> },
}

/// Whether a path is an ONNX file, or a folder that holds ONNX files and no checkpoint.
pub fn is_onnx(path: &Path) -> bool {
    if !path.is_dir() {
        return path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"));
    }
    let has =
        |extension: &str| names(path).iter().any(|name| Path::new(name).extension().is_some_and(|e| e == extension));
    has("onnx") && !["pth", "pt", "safetensors"].iter().any(|extension| has(extension))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Finds the files. The parts of a split model are `stem`, `expert_N` and `router_N` (also `expertN`, `expert-N`).
pub(super) fn locate(path: &Path) -> Result<Located> {
    if !path.is_dir() {
        ensure!(path.exists(), "cannot find the model {}", path.display());
        return Ok(Located::Whole(path.to_path_buf()));
    }
    let names: Vec<String> = names(path).into_iter().filter(|name| name.ends_with(".onnx")).collect();
    let stem = path.join("stem.onnx");
    if !stem.is_file() {
        return match &names[..] {
            [name] => Ok(Located::Whole(path.join(name))),
            [] => bail!("there is no ONNX file in the folder {}", path.display()),
            _ => bail!(
                "the folder {} holds {} ONNX files but no stem.onnx: name one file, or call the parts of a split model \
                 stem.onnx, expert_0.onnx, expert_1.onnx, ..., router_0.onnx, ...",
                path.display(),
                names.len()
            ),
        };
    }
    let experts = numbered(path, &names, "expert")?;
    let routers = numbered(path, &names, "router")?;
    ensure!(!experts.is_empty(), "{} lies there, but no expert_0.onnx beside it", stem.display());
    ensure!(experts.len() <= MAX_EXPERTS, "{} experts; at most {MAX_EXPERTS} are possible", experts.len());
    ensure!(
        routers.is_empty() || routers.len() + 1 == experts.len(),
        "{} holds {} experts and {} routers; expected one router for each expert but the last, or none",
        path.display(),
        experts.len(),
        routers.len()
    );
    Ok(Located::Split { stem, experts, routers })
}

/// The files `kind_0`, `kind_1`, ... without a gap.
fn numbered(folder: &Path, names: &[String], kind: &str) -> Result<Vec<PathBuf>> {
    let number = |name: &String| {
        let rest = name.strip_prefix(kind)?.strip_suffix(".onnx")?;
        rest.trim_start_matches(['_', '-', '.']).parse::<usize>().ok()
    };
    let mut found: Vec<(usize, &String)> = names.iter().filter_map(|name| Some((number(name)?, name))).collect();
    found.sort();
    for (place, (number, name)) in found.iter().enumerate() {
        ensure!(place == *number, "{}: expected {kind} {place} before or instead of it", folder.join(name).display());
    }
    Ok(found.into_iter().map(|(_, name)| folder.join(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| std::fs::write(folder.path().join(name), "").unwrap());
        folder
    }

    #[test]
    fn finds_the_parts() {
        let names = ["expert_1.onnx", "stem.onnx", "expert_0.onnx", "router_0.onnx", "notes.txt"];
        let dir = folder(&names);
        assert!(is_onnx(dir.path()));
        let at = |name: &str| dir.path().join(name);
        let expected = Located::Split {
            stem: at("stem.onnx"),
            experts: vec![at("expert_0.onnx"), at("expert_1.onnx")],
            routers: vec![at("router_0.onnx")],
        };
        assert_eq!(locate(dir.path()).unwrap(), expected);
    }

    #[test]
    fn says_what_is_missing() {
        let fails = |names: &[&str], what: &str| {
            let error = locate(folder(names).path()).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        fails(&[], "no ONNX file");
        fails(&["a.onnx", "b.onnx"], "no stem.onnx");
        fails(&["stem.onnx"], "no expert_0.onnx");
        fails(&["stem.onnx", "expert_0.onnx", "expert_2.onnx"], "expected expert 1");
        fails(
            &["stem.onnx", "expert_0.onnx", "expert_1.onnx", "expert_2.onnx", "router_0.onnx"],
            "3 experts and 1 routers",
        );
        let checkpoint = folder(&["checkpoint.pth", "export.onnx"]);
        assert!(!is_onnx(checkpoint.path()));
        assert!(is_onnx(Path::new("a/b.ONNX")) && !is_onnx(Path::new("a/b.pth")));
    }
}
