//! The schema of a data file.

use anyhow::{Context, Result, bail, ensure};
use ride_runtime::kernels::Isa;
use ride_runtime::op::Layout;
use serde::Deserialize;

use crate::gpu::GpuModel;
use crate::size::parse_size;

/// A machine that artifacts can be built for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    name: String,
    summary: String,
    core: String,
    triples: Vec<String>,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    rustflags: Vec<String>,
    isa: Option<String>,
    layout: String,
    residual_bits: u8,
    flash: Option<Size>,
    ram: Option<Size>,
    clock_hz: Option<u64>,
    latency: Option<LatencyModel>,
    gpu: Option<GpuModel>,
}

/// A number of bytes, or text such as `256K`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

impl Size {
    fn bytes(&self) -> Result<u64> {
        match self {
            Size::Bytes(bytes) => Ok(*bytes),
            Size::Text(text) => parse_size(text),
        }
    }
}

/// What a multiply-accumulate costs on average, everything around it included: a model, not a measurement of the
/// artifact at hand.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatencyModel {
    /// Cycles of one multiply-accumulate.
    pub cycles_per_mac: f64,
    /// Where the number comes from: what was counted or measured, on what, and what was assumed.
    pub source: String,
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

    /// The processor core, as compilers name it.
    pub fn core(&self) -> &str {
        &self.core
    }

    /// Rust target triples that it covers, the usual one first.
    pub fn triples(&self) -> &[String] {
        &self.triples
    }

    /// Cargo features of `ride-runtime` that bring its kernels. `std` among them is for triples with an operating
    /// system; without it the choice of kernels is made at compile time, by [`Target::rustflags`].
    pub fn features(&self) -> &[String] {
        &self.features
    }

    /// Compiler flags for programs on this machine.
    pub fn rustflags(&self) -> &[String] {
        &self.rustflags
    }

    /// The instruction set that its kernels use; `None` where they are chosen at run time, or where the machines that it
    /// stands for may have vector units that the runtime knows nothing of.
    pub fn isa(&self) -> Option<Isa> {
        // Checked by `parse`.
        self.isa.as_deref().and_then(Isa::named)
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

    /// Bytes of flash of a typical part; `None` where programs come from elsewhere.
    pub fn flash(&self) -> Option<u64> {
        // Checked by `parse`.
        self.flash.as_ref().and_then(|size| size.bytes().ok())
    }

    /// Bytes of RAM of a typical part; `None` where there is plenty.
    pub fn ram(&self) -> Option<u64> {
        self.ram.as_ref().and_then(|size| size.bytes().ok())
    }

    /// Clock of a typical part.
    pub fn clock_hz(&self) -> Option<u64> {
        self.clock_hz
    }

    /// The latency model, if there is one.
    pub fn latency(&self) -> Option<&LatencyModel> {
        self.latency.as_ref()
    }

    /// The latency model of its GPU, on which artifacts are meant to run, if it has one.
    pub fn gpu(&self) -> Option<&GpuModel> {
        self.gpu.as_ref()
    }

    /// Reads one data file.
    ///
    /// # Errors
    /// Names the field that is missing, unknown or out of range.
    pub fn parse(text: &str) -> Result<Self> {
        let target: Target = toml::from_str(text)?;
        target.check().with_context(|| format!("target {}", target.name))?;
        Ok(target)
    }

    fn check(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        // The artifact keeps 32 bytes for it.
        ensure!(
            !self.name.is_empty() && self.name.len() <= 32 && self.name.chars().all(plain),
            "name must be 1 to 32 letters, digits, dots, dashes or underscores"
        );
        ensure!(self.name != "host", "the name host is taken: it means the machine at hand");
        if layout_named(&self.layout).is_none() {
            let known: Vec<_> = Layout::ALL.iter().map(|l| l.name()).collect();
            bail!("unknown layout {:?}; known are {}", self.layout, known.join(", "));
        }
        if let Some(isa) = self.isa.as_deref().filter(|name| Isa::named(name).is_none()) {
            let known: Vec<_> = Isa::ALL.iter().map(|isa| isa.name()).collect();
            bail!("unknown instruction set {isa:?}; known are {}", known.join(", "));
        }
        ensure!(matches!(self.residual_bits, 8 | 16), "residual_bits must be 8 or 16, not {}", self.residual_bits);
        for (field, size) in [("flash", &self.flash), ("ram", &self.ram)] {
            size.as_ref().map(Size::bytes).transpose().with_context(|| format!("field {field}"))?;
        }
        ensure!(self.clock_hz.is_none_or(|hz| (1..=1_000_000_000_000).contains(&hz)), "clock_hz is out of range");
        if let Some(model) = &self.latency {
            ensure!(
                model.cycles_per_mac.is_finite() && model.cycles_per_mac > 0.0,
                "latency.cycles_per_mac must be a positive number"
            );
            ensure!(!model.source.trim().is_empty(), "latency.source must say where the number comes from");
        }
        ensure!(
            self.latency.is_none() || self.gpu.is_none(),
            "there can be a latency model of the core or one of the GPU"
        );
        self.gpu.as_ref().map_or(Ok(()), GpuModel::check)?;
        Ok(())
    }
}

fn layout_named(name: &str) -> Option<Layout> {
    Layout::ALL.into_iter().find(|l| l.name() == name)
}
