//! Budgets: what an artifact may cost on its device, and what it costs there.

use anyhow::{Context, Result, bail, ensure};
use ride_runtime::Model;
use ride_targets::{Target, parse_size};
use serde::Serialize;

use crate::bench;

mod gpu;

/// Limits; `None` for what does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Bytes of flash for the artifact; the program's code comes on top.
    pub flash: Option<u64>,
    /// Bytes of RAM for arena and image; stack and everything else of the program come on top.
    pub ram: Option<u64>,
    /// Milliseconds of a sample that needs all experts.
    pub latency_ms: Option<f64>,
}

impl Budget {
    /// Reads `flash=1M,ram=256K,latency=20ms`, any of the three.
    ///
    /// # Errors
    /// Names what cannot be read.
    pub fn parse(text: &str) -> Result<Self> {
        let mut budget = Budget::default();
        for item in text.split(',') {
            let (what, value) = item
                .split_once('=')
                .with_context(|| format!("{item:?} is no limit; write flash=1M, ram=256K or latency=20ms"))?;
            let twice = match what.trim() {
                "flash" => budget.flash.replace(parse_size(value)?).is_some(),
                "ram" => budget.ram.replace(parse_size(value)?).is_some(),
                "latency" => budget.latency_ms.replace(parse_time(value)?).is_some(),
                other => bail!("{other:?} cannot be limited; flash, ram and latency can"),
            };
            ensure!(!twice, "{} is limited twice", what.trim());
        }
        Ok(budget)
    }
}

/// Milliseconds of `20ms`, `500us` or `1.5s`.
///
/// # Errors
/// Shows how a time is written.
pub fn parse_time(text: &str) -> Result<f64> {
    let text = text.trim();
    let units = [("ms", 1.0), ("us", 1e-3), ("µs", 1e-3), ("s", 1e3)];
    let (number, unit) = units
        .iter()
        .find_map(|&(unit, ms)| Some((text.strip_suffix(unit)?, ms)))
        .with_context(|| format!("{text:?} is no time; write 20ms, 500us or 1.5s"))?;
    let ms = number.trim().parse::<f64>().map(|n| n * unit).unwrap_or(f64::NAN);
    ensure!(ms.is_finite() && ms > 0.0, "{text:?} is no time; write 20ms, 500us or 1.5s");
    Ok(ms)
}

/// Latency by the target's model, nothing measured: multiply-accumulates times cycles on processors, operation by operation
/// on GPUs ([`ride_targets::GpuModel`]).
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// Milliseconds of a sample with 1, 2, ... experts.
    pub latency_ms: Vec<f64>,
    /// Cycles of a multiply-accumulate; `None` for the model of a GPU, which has no such number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycles_per_mac: Option<f64>,
    /// Where that comes from.
    pub source: String,
    /// The clock.
    pub clock_hz: u64,
}

impl Estimate {
    /// The estimate for `model`, if `target` has a model and a clock, or `clock` states one.
    pub fn of(model: Model<'_>, target: &Target, clock: Option<u64>) -> Option<Self> {
        if let Some(model_of_gpu) = target.gpu() {
            let clock_hz = clock.unwrap_or(model_of_gpu.clock_hz);
            let latency_ms = gpu::latency_ms(model, model_of_gpu, clock_hz);
            let source = model_of_gpu.source.trim().to_owned();
            return Some(Estimate { latency_ms, cycles_per_mac: None, source, clock_hz });
        }
        let (latency, clock_hz) = (target.latency()?, clock.or(target.clock_hz())?);
        let ms = |experts| bench::macs(model, experts) as f64 * latency.cycles_per_mac / clock_hz as f64 * 1e3;
        Some(Estimate {
            latency_ms: (1..=model.experts()).map(ms).collect(),
            cycles_per_mac: Some(latency.cycles_per_mac),
            source: latency.source.trim().to_owned(),
            clock_hz,
        })
    }
}

/// What one limit says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// `flash`, `ram` or `latency`.
    pub what: &'static str,
    /// What the artifact needs: bytes or milliseconds.
    pub needs: f64,
    /// What it may need.
    pub limit: f64,
}

impl Line {
    /// Whether the artifact keeps the limit.
    pub fn fits(&self) -> bool {
        self.needs <= self.limit
    }
}

/// Bytes of RAM that `model` needs: arena and image.
pub fn ram(model: Model<'_>) -> u64 {
    (model.arena_len() + model.input_len()) as u64
}

/// Compares `model` with `budget`, limit by limit.
///
/// # Errors
/// If latency is limited and cannot be estimated.
pub fn compare(model: Model<'_>, budget: &Budget, estimate: Option<&Estimate>) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    let bytes = |what, needs: u64, limit: u64| Line { what, needs: needs as f64, limit: limit as f64 };
    lines.extend(budget.flash.map(|limit| bytes("flash", model.bytes().len() as u64, limit)));
    lines.extend(budget.ram.map(|limit| bytes("ram", ram(model), limit)));
    if let Some(limit) = budget.latency_ms {
        let estimate = estimate.context(
            "latency cannot be limited for this target: its data file has no latency model, or no clock is known \
             (--clock states one)",
        )?;
        let needs = estimate.latency_ms.last().copied().unwrap_or_default();
        lines.push(Line { what: "latency", needs, limit });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read() {
        let budget = Budget::parse("flash=1M, ram=256K,latency=20ms").unwrap();
        assert_eq!(budget, Budget { flash: Some(1 << 20), ram: Some(256 << 10), latency_ms: Some(20.0) });
        assert_eq!(Budget::parse("latency=500us").unwrap().latency_ms, Some(0.5));
        assert_eq!(Budget::parse("latency=1.5 s").unwrap().latency_ms, Some(1500.0));
        for text in [
            "",
            "flash",
            "flash=",
            "flash=big",
            "heap=1K",
            "ram=1K,ram=2K",
            "latency=20",
            "latency=-1ms",
            "latency=infs",
        ] {
            assert!(Budget::parse(text).is_err(), "{text}");
        }
    }
}
