//! Reports of devices: the JSON that firmware, the device example and `bench --json` write, read back and checked against
//! an artifact.
//!
//! A report may come from a build of the same float model for another target: results are bit-identical for equal
//! artifacts only, but multiply-accumulates and the number of experts are the network's, so latencies can stand side by
//! side. Whoever wrote a report may be broken or hostile: nothing in it is trusted.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ride_runtime::Model;
use serde::{Deserialize, Serialize};

use crate::bench;

/// Largest report that is read, in bytes; those of the examples have two thousand.
const MAX_BYTES: u64 = 1 << 20;
/// Longest name in a report, in bytes.
const MAX_NAME: usize = 200;
/// Most answers that are kept.
const MAX_ANSWERS: usize = 4096;
/// Longest time that is believed, in microseconds: a day.
const MAX_US: f64 = 86_400e6;

/// What times were counted in.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Timer {
    /// The counter, as in `dwt`.
    pub name: String,
    /// `cycles`, `instructions` or `nanoseconds`.
    pub counts: String,
    /// Counts of a second.
    pub per_second: u64,
}

impl Timer {
    /// Whether instructions were counted, which are no time.
    pub fn instructions(&self) -> bool {
        self.counts == "instructions"
    }
}

/// Times in microseconds.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Times {
    /// Half of the runs take less.
    pub median_us: f64,
    /// 99 of 100 runs take less.
    pub p99_us: f64,
    /// The fastest run.
    pub min_us: f64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// The median in counts of the timer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_counts: Option<u64>,
}

/// Latency with a fixed number of experts.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Row {
    /// Number of experts.
    pub experts: usize,
    /// How long it takes.
    #[serde(flatten)]
    pub times: Times,
    /// Multiply-accumulates.
    pub macs: u64,
}

/// Latency where the routers decide.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Routed {
    /// Images that were routed.
    pub images: usize,
    /// Mean number of experts over them.
    pub expected_experts: f64,
    /// How long a sample takes.
    #[serde(flatten)]
    pub times: Times,
    /// Shares of the images that used 1, 2, ... experts.
    pub experts: Vec<f64>,
}

/// The answer for one image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Answer {
    /// Class.
    pub class: usize,
    /// Experts that ran.
    pub experts: usize,
    /// CRC-32 of the logits' bits.
    pub logits_crc32: String,
}

/// A report. Fields that it has beyond these are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Device {
    /// The processor or board.
    pub cpu: String,
    /// Target that the device's artifact was built for.
    pub target: String,
    /// Convolution kernel.
    pub kernel: String,
    /// Instruction set.
    pub isa: String,
    /// Where the images came from.
    pub images: String,
    /// Fingerprint of the float model.
    pub fingerprint: String,
    /// Checksum of the device's artifact.
    pub checksum: String,
    /// `None` for the host, which counts nanoseconds.
    pub timer: Option<Timer>,
    /// Bytes of the arena.
    pub arena_bytes: Option<u64>,
    /// Bytes of stack that `classify` used.
    pub stack_bytes: Option<u64>,
    /// One for each number of experts that was measured.
    pub rows: Vec<Row>,
    /// `None` where routing was not measured.
    pub routed: Option<Routed>,
    /// Answers, in the order of the images.
    #[serde(default)]
    pub answers: Vec<Answer>,
}

impl Device {
    /// Reads the report at `path` and checks it against `model`.
    ///
    /// # Errors
    /// Names the file, and what is wrong with it or which other model it is about.
    pub fn read(path: &Path, model: Model<'_>) -> Result<Self> {
        let shown = path.display();
        let kind = fs::metadata(path).with_context(|| format!("cannot open the device report {shown}"))?;
        ensure!(kind.is_file(), "{shown} is not a file; expected a device report (JSON)");
        let mut text = Vec::new();
        let file = File::open(path).with_context(|| format!("cannot open the device report {shown}"))?;
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut text)
            .with_context(|| format!("cannot read the device report {shown}"))?;
        ensure!(text.len() as u64 <= MAX_BYTES, "{shown} has more than {MAX_BYTES} bytes, which no device report has");
        Self::parse(&text, model).with_context(|| format!("cannot use the device report {shown}"))
    }

    /// As [`Device::read`], from memory.
    ///
    /// # Errors
    /// As [`Device::read`], without the file's name.
    pub fn parse(text: &[u8], model: Model<'_>) -> Result<Self> {
        let device: Device = serde_json::from_slice(text).context(
            "it is no report of a device: firmware, the device example and `ride-compile bench --json` write them",
        )?;
        device.check(model)?;
        Ok(device)
    }

    fn check(&self, model: Model<'_>) -> Result<()> {
        let timer = self.timer.as_ref();
        let names = [&self.cpu, &self.target, &self.kernel, &self.isa, &self.images, &self.fingerprint, &self.checksum];
        let names = names.into_iter().chain(timer.map(|t| &t.name)).chain(timer.map(|t| &t.counts));
        for name in names.chain(self.answers.iter().map(|a| &a.logits_crc32)) {
            ensure!(
                !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control),
                "a name is empty, longer than {MAX_NAME} bytes or not printable: {:?}",
                name.chars().take(40).collect::<String>()
            );
        }
        ensure!(
            self.fingerprint == model.fingerprint(),
            "it is about another model: its artifact for {} carries the fingerprint {}, this one {}; build both from the \
             same checkpoint",
            self.target,
            self.fingerprint,
            model.fingerprint()
        );
        ensure!(timer.is_none_or(|t| t.per_second > 0), "its timer stands still");
        ensure!(self.answers.len() <= MAX_ANSWERS, "{} answers are more than {MAX_ANSWERS}", self.answers.len());
        self.check_rows(model)?;
        self.routed.as_ref().map_or(Ok(()), |routed| check_routed(routed, model))
    }

    fn check_rows(&self, model: Model<'_>) -> Result<()> {
        ensure!(!self.rows.is_empty(), "it has no rows");
        for (n, row) in self.rows.iter().enumerate() {
            let (experts, available) = (row.experts, model.experts());
            ensure!((1..=available).contains(&experts), "a row has {experts} experts, the model {available}");
            ensure!(!self.rows[..n].iter().any(|other| other.experts == experts), "{experts} experts have two rows");
            let macs = bench::macs(model, experts);
            ensure!(
                row.macs == macs,
                "{experts} experts take {} multiply-accumulates there and {macs} here: the networks differ",
                row.macs
            );
            row.times.check().with_context(|| format!("the row of {experts} experts"))?;
        }
        Ok(())
    }

    /// The row of a number of experts, if it was measured.
    pub fn row(&self, experts: usize) -> Option<&Row> {
        self.rows.iter().find(|row| row.experts == experts)
    }

    /// Whether the device ran exactly `model`.
    pub fn runs(&self, model: Model<'_>) -> bool {
        self.checksum == format!("{:08x}", model.checksum())
    }

    /// Whether an emulator's clock was read that counts no instructions: such times are those of its host.
    pub fn is_emulated_time(&self) -> bool {
        self.timer.as_ref().is_some_and(|t| t.name == "host")
    }
}

impl Times {
    fn check(&self) -> Result<()> {
        let Times { median_us, p99_us, min_us, mean_us, .. } = *self;
        for (name, us) in [("median_us", median_us), ("p99_us", p99_us), ("min_us", min_us), ("mean_us", mean_us)] {
            ensure!((0.0..=MAX_US).contains(&us), "{name} is {us}, which is no time");
        }
        ensure!(min_us <= median_us && median_us <= p99_us, "median_us does not lie between min_us and p99_us");
        Ok(())
    }
}

fn check_routed(routed: &Routed, model: Model<'_>) -> Result<()> {
    let available = model.experts();
    ensure!(routed.experts.len() == available, "shares of {} experts, the model has {available}", routed.experts.len());
    ensure!(routed.experts.iter().all(|share| (0.0..=1.0).contains(share)), "a share of experts is no share");
    ensure!((1.0..=available as f64).contains(&routed.expected_experts), "expected_experts is out of range");
    routed.times.check().context("the routed row")
}

/// Devices that ran the same artifact on the same embedded images must have answered the same: that is the arithmetic law.
///
/// # Errors
/// Names two devices that differ, and the image.
pub fn check_answers(devices: &[Device]) -> Result<()> {
    for (n, a) in devices.iter().enumerate() {
        for b in &devices[..n] {
            let comparable = a.checksum == b.checksum && generated(a) && generated(b);
            let differs = |i: &usize| a.answers[*i] != b.answers[*i];
            let first = (0..a.answers.len().min(b.answers.len())).find(differs);
            if let Some(i) = first.filter(|_| comparable) {
                let say = |d: &Device| {
                    let answer = &d.answers[i];
                    format!("{} class {}, {} experts, {}", d.cpu, answer.class, answer.experts, answer.logits_crc32)
                };
                bail!("the same artifact gives different answers for image {}: {}; {}", i + 1, say(b), say(a));
            }
        }
    }
    Ok(())
}

/// Whether the images are those that every device makes from the same seeds.
fn generated(device: &Device) -> bool {
    matches!(device.images.as_str(), "embedded" | "synthetic")
}
