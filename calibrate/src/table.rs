//! The calibration table: the ranges that a model's activations take, as a JSON file of its own.
//!
//! The table is what `calibrate` writes and `build --calibration` reads. It is text with one line for each value, so
//! that two of them can be compared with `diff`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::observer::{Observer, Range, TensorStats};

/// Version of the file's layout that this code writes and reads.
pub const VERSION: u32 = 1;
/// Largest file that is read; a hundred values with a few hundred channels have 100 kB.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Ranges and means of a model's activations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationTable {
    /// Layout of the file, [`VERSION`].
    pub version: u32,
    /// Fingerprint of the model whose activations these are.
    pub model: String,
    /// How the ranges were chosen.
    pub observer: Observer,
    /// Number of images that ran.
    pub images: u64,
    /// Seed of the choice of images.
    pub seed: u64,
    /// Training images of each class, as counted in the data set that the images came from; empty where unknown.
    #[serde(default)]
    pub class_counts: Vec<u32>,
    /// Names of the classes, where the data set has them; else empty.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// Statistics of each named value.
    pub values: BTreeMap<String, ValueStats>,
}

/// What the table says about one value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValueStats {
    /// Lower end of the range, at most zero.
    pub min: f32,
    /// Upper end of the range, at least zero.
    pub max: f32,
    /// Mean of each channel, to six significant digits.
    pub mean: Vec<f32>,
}

impl ValueStats {
    /// Range and means of what was observed.
    ///
    /// # Errors
    /// If nothing was observed.
    pub fn new(stats: &TensorStats, observer: Observer) -> Result<Self> {
        let Range { min, max } = stats.range(observer)?;
        Ok(Self { min, max, mean: stats.channel_mean().into_iter().map(six_digits).collect() })
    }

    /// The range alone.
    pub fn range(&self) -> Range {
        Range { min: self.min, max: self.max }
    }
}

/// What the ranges of a table were made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// Fingerprint of the model.
    pub model: String,
    /// How ranges are chosen.
    pub observer: Observer,
    /// Number of images that ran.
    pub images: u64,
    /// Seed of the choice of images.
    pub seed: u64,
}

impl CalibrationTable {
    /// A table without values.
    pub fn new(origin: Origin) -> Self {
        let Origin { model, observer, images, seed } = origin;
        let (class_counts, class_names) = (Vec::new(), Vec::new());
        Self { version: VERSION, model, observer, images, seed, class_counts, class_names, values: BTreeMap::new() }
    }

    /// Adds the statistics of the value `name`.
    ///
    /// # Errors
    /// Names the value if nothing was observed or there already is one of that name.
    pub fn insert(&mut self, name: &str, stats: &TensorStats) -> Result<()> {
        let stats = ValueStats::new(stats, self.observer).with_context(|| format!("the value {name}"))?;
        let old = self.values.insert(name.to_owned(), stats);
        ensure!(old.is_none(), "there are two values of the name {name}");
        Ok(())
    }

    /// Statistics of the value `name`.
    ///
    /// # Errors
    /// If the table lacks it.
    pub fn get(&self, name: &str) -> Result<&ValueStats> {
        self.values.get(name).with_context(|| {
            format!(
                "the calibration table lacks the value {name}; make the table anew from this model with `calibrate`"
            )
        })
    }

    /// Checks that this table belongs to the model with this fingerprint and has all of its values, given by name and
    /// number of channels.
    ///
    /// # Errors
    /// Says whether the model is another one, and names values that are missing or have another number of channels.
    pub fn check<'a>(&self, model: &str, values: impl IntoIterator<Item = (&'a str, usize)>) -> Result<()> {
        ensure!(
            self.model == model,
            "the calibration table was made from another model (fingerprint {}, this one has {model}); make it anew \
             with `calibrate`",
            self.model
        );
        let (mut known, mut missing) = (0, Vec::new());
        for (name, channels) in values {
            match self.values.get(name) {
                None => missing.push(name),
                Some(stats) => ensure!(
                    stats.mean.len() == channels,
                    "the calibration table has {} channel means for {name}, which has {channels} channels",
                    stats.mean.len()
                ),
            }
            known += 1;
        }
        let shown = missing.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        ensure!(
            missing.is_empty(),
            "the calibration table lacks {} of the model's {known} values: {shown}{}; make it anew with `calibrate`",
            missing.len(),
            if missing.len() > 5 { ", ..." } else { "" }
        );
        Ok(())
    }

    /// Reads a table and checks every number in it.
    ///
    /// # Errors
    /// Names the file and the value where it cannot be read, is of another version, or holds a range that is not
    /// finite or does not contain zero.
    pub fn read(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let kind = std::fs::metadata(path)?;
            ensure!(kind.is_file(), "it is not a regular file");
            ensure!(kind.len() <= MAX_BYTES, "{} bytes are more than a table has", kind.len());
            Self::from_json(&std::fs::read_to_string(path)?)
        };
        read().with_context(|| format!("cannot read the calibration table {}", path.display()))
    }

    /// Parses the text of a table; see [`CalibrationTable::read`].
    ///
    /// # Errors
    /// As there, without the file's name.
    pub fn from_json(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_str(text).context("this is not a calibration table")?;
        ensure!(version == VERSION, "the table has version {version}; this program reads version {VERSION}");
        let table: Self = serde_json::from_str(text).context("this is not a calibration table")?;
        table.validate()?;
        Ok(table)
    }

    fn validate(&self) -> Result<()> {
        for (name, stats) in &self.values {
            ensure!(
                stats.min.is_finite() && stats.max.is_finite() && stats.min <= 0.0 && stats.max >= 0.0,
                "the range {}..{} of the value {name} must be finite and contain zero",
                stats.min,
                stats.max
            );
            ensure!(
                !stats.mean.is_empty() && stats.mean.iter().all(|m| m.is_finite()),
                "the channel means of the value {name} must be finite numbers, at least one"
            );
        }
        Ok(())
    }

    /// The table as text, one line for each value; equal tables give equal bytes.
    ///
    /// # Errors
    /// If a number is not finite or a range does not contain zero.
    pub fn to_json(&self) -> Result<String> {
        self.validate()?;
        let mut text = String::from("{\n");
        let mut field = |name: &str, value: String| writeln!(text, "  \"{name}\": {value},");
        field("version", self.version.to_string())?;
        field("model", serde_json::to_string(&self.model)?)?;
        field("observer", serde_json::to_string(&self.observer)?)?;
        field("images", self.images.to_string())?;
        field("seed", self.seed.to_string())?;
        if !self.class_counts.is_empty() {
            field("class_counts", serde_json::to_string(&self.class_counts)?)?;
        }
        if !self.class_names.is_empty() {
            field("class_names", serde_json::to_string(&self.class_names)?)?;
        }
        text.push_str("  \"values\": {");
        for (i, (name, stats)) in self.values.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(text, "{comma}\n    {}: {}", serde_json::to_string(name)?, serde_json::to_string(stats)?)?;
        }
        text.push_str("\n  }\n}\n");
        Ok(text)
    }

    /// Writes the table to a temporary file beside `path` and renames it, so that nothing half-written is left.
    ///
    /// # Errors
    /// Names the file where it cannot be written; see also [`CalibrationTable::to_json`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = self.to_json().and_then(|text| atomic_file::write(path, text.as_bytes()));
        text.with_context(|| format!("cannot write the calibration table {}", path.display()))
    }
}

/// The number nearest to `value` with six significant decimal digits.
fn six_digits(value: f32) -> f32 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> CalibrationTable {
        let origin = Origin { model: "abc \"1\"".into(), observer: Observer::Percentile(99.9), images: 512, seed: 7 };
        let mut table = CalibrationTable::new(origin);
        for (name, scale) in [("stem.conv1", 1.0), ("expert0.add", 1e-3)] {
            let mut stats = TensorStats::new(3);
            stats.observe(&[1.0 / 3.0, -2.0 / 7.0, 0.0].map(|v| v * scale)).unwrap();
            table.insert(name, &stats).unwrap();
        }
        table
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.json");
        table().write(&path).unwrap();
        assert_eq!(CalibrationTable::read(&path).unwrap(), table());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, table().to_json().unwrap());
        assert_eq!(text.lines().count(), 7 + 2 + 2);
        assert!(text.contains(r#""mean":[0.333333,-0.285714,0.0]"#), "{text}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let empty = CalibrationTable { values: BTreeMap::new(), ..table() };
        assert_eq!(CalibrationTable::from_json(&empty.to_json().unwrap()).unwrap(), empty);
    }

    #[test]
    fn a_table_of_another_model_is_refused() {
        let table = table();
        let values = [("stem.conv1", 3), ("expert0.add", 3)];
        table.check("abc \"1\"", values).unwrap();
        let error =
            |model: &str, values: &[(&str, usize)]| table.check(model, values.iter().copied()).unwrap_err().to_string();
        assert!(error("def", &values).contains("another model"));
        assert!(error("abc \"1\"", &[("stem.conv1", 4)]).contains("3 channel means"));
        let missing = error("abc \"1\"", &[("stem.conv1", 3), ("expert1.add", 3)]);
        assert!(missing.contains("1 of the model's 2 values: expert1.add"), "{missing}");
        assert!(table.get("nobody").unwrap_err().to_string().contains("nobody"));
        assert_eq!(table.get("stem.conv1").unwrap().mean.len(), 3);
    }

    #[test]
    fn damaged_tables_are_refused() {
        let good = table().to_json().unwrap();
        let cases = [
            (good.replace("\"version\": 1", "\"version\": 9"), "version 9"),
            (good.replace("\"version\": 1", "\"version\": \"1\""), "not a calibration table"),
            (good.replacen("\"min\":-0.2857143", "\"min\":-1e39", 1), "line 9"),
            (good.replacen("\"min\":-0.2857143", "\"min\":0.1", 1), "contain zero"),
            (good.replacen("\"min\":-0.2857143", "\"min\":null", 1), "null"),
            (good.replacen("\"min\":-0.2857143,", "", 1), "min"),
            (good.replacen("[0.333333,-0.285714,0.0]", "[]", 1), "channel means"),
            (good.replace("percentile:99.9", "kl"), "no observer"),
            (good.replace("\"seed\"", "\"sead\""), "sead"),
            (String::new(), "not a calibration table"),
        ];
        for (text, part) in cases {
            assert_ne!(text, good);
            let error = format!("{:#}", CalibrationTable::from_json(&text).unwrap_err());
            assert!(error.contains(part), "{part:?}: {error}");
        }
        for length in (0..good.len() - 2).filter(|&n| good.is_char_boundary(n)) {
            assert!(CalibrationTable::from_json(&good[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn numbers_out_of_range_are_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut table = table();
        table.values.get_mut("stem.conv1").unwrap().max = f32::NAN;
        let error = format!("{:#}", table.write(&folder.path().join("t.json")).unwrap_err());
        assert!(error.contains("t.json") && error.contains("stem.conv1"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn ranges_survive_the_file_to_the_last_bit() {
        let mut state = 1u32;
        for _ in 0..50_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Any finite positive number.
            let max = f32::from_bits(state % 0x7F80_0000);
            let stats = ValueStats { min: -max, max, mean: vec![] };
            let read: ValueStats = serde_json::from_str(&serde_json::to_string(&stats).unwrap()).unwrap();
            assert_eq!((read.min.to_bits(), read.max.to_bits()), ((-max).to_bits(), max.to_bits()));
        }
    }

    #[test]
    fn six_digits_suffice() {
        assert_eq!([1.0 / 3.0, -1234567.9, 0.0, 1e-42].map(six_digits), [0.333333, -1234570.0, 0.0, 1e-42]);
    }
}
