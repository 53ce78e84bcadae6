//! What a machine is: one data file each (`targets/data/*.toml`), and their schema.

use anyhow::{Context, Result, bail};
use ride_runtime::op::Layout;
use serde::Deserialize;

/// The data files that are built in.
const FILES: &[(&str, &str)] = &[
    ("portable.toml", include_str!("../data/portable.toml")),
    ("x86-64.toml", include_str!("../data/x86-64.toml")),
    ("aarch64.toml", include_str!("../data/aarch64.toml")),
    ("cortex-a53.toml", include_str!("../data/cortex-a53.toml")),
    ("cortex-a76.toml", include_str!("../data/cortex-a76.toml")),
    ("cortex-a710.toml", include_str!("../data/cortex-a710.toml")),
];

/// A machine that artifacts can be built for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    name: String,
    summary: String,
    triples: Vec<String>,
    layout: String,
    residual_bits: u8,
}

impl Target {
    /// Name as `--target` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One line about the machine.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Rust target triples that it covers.
    pub fn triples(&self) -> &[String] {
        &self.triples
    }

    /// Layout of the packed weights.
    pub fn layout(&self) -> Layout {
        // Checked by `parse`.
        layout_named(&self.layout).unwrap_or(Layout::Ohwi)
    }

    /// Bits of the residual stream that the machine can afford: 8 or 16.
    pub fn residual_bits(&self) -> u8 {
        self.residual_bits
    }

    /// Reads one data file.
    ///
    /// # Errors
    /// Names the field that is missing, unknown or out of range.
    pub fn parse(text: &str) -> Result<Self> {
        let target: Target = toml::from_str(text)?;
        if layout_named(&target.layout).is_none() {
            let known: Vec<_> = Layout::ALL.iter().map(|l| l.name()).collect();
            bail!("target {}: unknown layout {:?}; known are {}", target.name, target.layout, known.join(", "));
        }
        if !matches!(target.residual_bits, 8 | 16) {
            bail!("target {}: residual_bits must be 8 or 16, not {}", target.name, target.residual_bits);
        }
        Ok(target)
    }
}

fn layout_named(name: &str) -> Option<Layout> {
    Layout::ALL.into_iter().find(|l| l.name() == name)
}

/// All targets.
///
/// # Errors
/// A built-in data file is broken (the tests make sure that none is).
pub fn all() -> Result<Vec<Target>> {
    FILES.iter().map(|(file, text)| Target::parse(text).with_context(|| format!("targets/data/{file}"))).collect()
}

/// The target called `name`; `host` is the machine that this program runs on.
///
/// # Errors
/// There is no such target; the message lists those that exist.
pub fn find(name: &str) -> Result<Target> {
    let wanted = if name == "host" { host() } else { name };
    let targets = all()?;
    let known: Vec<_> = targets.iter().map(|t| t.name().to_owned()).collect();
    match targets.into_iter().find(|t| t.name() == wanted) {
        Some(target) => Ok(target),
        None => bail!("unknown target {name:?}; known targets are host, {}", known.join(", ")),
    }
}

/// Name of the target that describes this machine.
pub fn host() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "x86-64"
    } else if cfg!(target_arch = "aarch64") {
        "aarch64"
    } else {
        "portable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_data_file_is_valid_and_named_after_its_target() {
        for (target, (file, _)) in all().unwrap().iter().zip(FILES) {
            assert_eq!(format!("{}.toml", target.name()), *file);
            assert!(!target.summary().is_empty());
        }
    }

    #[test]
    fn host_exists_and_unknown_names_list_what_is_known() {
        assert_eq!(find("host").unwrap().name(), host());
        let message = find("toaster").unwrap_err().to_string();
        assert!(message.contains("toaster") && message.contains("x86-64"), "{message}");
    }

    #[test]
    fn broken_files_are_explained() {
        let good = FILES[0].1;
        assert!(Target::parse(&good.replace("\"ohwi\"", "\"nchw\"")).unwrap_err().to_string().contains("nchw"));
        assert!(Target::parse(&good.replace("residual_bits = 16", "residual_bits = 12")).is_err());
        assert!(Target::parse(&format!("{good}\ncolour = 1")).is_err());
    }
}
