//! What values an activation takes, and which range of them to quantize.
//!
//! One pass collects everything: extremes, the mean of each channel and a histogram whose bins double in width
//! whenever a value does not fit. All of it is exact arithmetic on integers and powers of two, so merged statistics
//! do not depend on how the images were split over threads.

mod histogram;
mod range;

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use histogram::Histogram;

/// Values beyond this magnitude (2^60) come from a network that diverges, and would not fit the sums.
const MAX_MAGNITUDE: f32 = 1_152_921_504_606_846_976.0;
/// One, in the fixed-point sums of the channels: their resolution is 2^-56.
const FIXED_ONE: f64 = 72_057_594_037_927_936.0;

/// How a range is chosen from what was observed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Observer {
    /// Smallest to largest value.
    MinMax,
    /// The share of values, in percent, that lie below the upper end; as many lie above the lower end. 50 to 100.
    Percentile(f64),
    /// The range with the smallest expected squared error of 8-bit affine quantization.
    Mse,
}

/// Range of values that the quantized integers span; always contains zero, which padding needs exactly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// At most zero.
    pub min: f32,
    /// At least zero.
    pub max: f32,
}

/// Statistics of one activation tensor over many images.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorStats {
    count: u64,
    min: f32,
    max: f32,
    /// Sum of each channel in units of `1 / FIXED_ONE`.
    channel_sums: Vec<i128>,
    histogram: Histogram,
}

impl TensorStats {
    /// Nothing observed yet, for a tensor of `channels` channels (at least one), the innermost dimension.
    pub fn new(channels: usize) -> Self {
        Self {
            count: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            channel_sums: vec![0; channels.max(1)],
            histogram: Histogram::default(),
        }
    }

    /// Adds one image's activation, `[height][width][channels]`.
    ///
    /// The sum of a channel within one call is rounded once, so a tensor must be given whole and not in pieces where
    /// results are to be the same to the last bit.
    ///
    /// # Errors
    /// If the length is not a multiple of the channels or a value is not finite or beyond 2^60; nothing is added then.
    pub fn observe(&mut self, values: &[f32]) -> Result<()> {
        let channels = self.channel_sums.len();
        ensure!(
            values.len().is_multiple_of(channels),
            "an activation of {} values does not consist of {channels} channels",
            values.len()
        );
        if values.is_empty() {
            return Ok(());
        }
        // Without the early end of a search this runs many values at a time.
        if !values.iter().fold(true, |fine, v| fine & (v.abs() <= MAX_MAGNITUDE)) {
            let bad = values.iter().find(|v| v.is_nan() || v.abs() > MAX_MAGNITUDE).copied().unwrap_or(f32::NAN);
            anyhow::bail!("an activation has the value {bad}: the network diverges on this image");
        }
        let (min, max) = extremes(values);
        self.min = self.min.min(min);
        self.max = self.max.max(max);
        let mut sums = vec![0f64; channels];
        for pixel in values.chunks_exact(channels) {
            for (sum, &value) in sums.iter_mut().zip(pixel) {
                *sum += f64::from(value);
            }
        }
        for (total, sum) in self.channel_sums.iter_mut().zip(sums) {
            // 2^60 times 2^32 values times 2^56 would overflow; no activation comes near, and it saturates.
            *total = total.saturating_add((sum * FIXED_ONE) as i128);
        }
        self.histogram.add(values, max.max(-min));
        self.count += values.len() as u64;
        Ok(())
    }

    /// Adds what was observed elsewhere; the result is the same in any order and grouping.
    ///
    /// # Errors
    /// If the other tensor has another number of channels.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        ensure!(
            self.channel_sums.len() == other.channel_sums.len(),
            "statistics of {} and {} channels cannot belong to one tensor",
            self.channel_sums.len(),
            other.channel_sums.len()
        );
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        for (total, sum) in self.channel_sums.iter_mut().zip(&other.channel_sums) {
            *total = total.saturating_add(*sum);
        }
        self.histogram.merge(&other.histogram);
        Ok(())
    }

    /// Number of values observed.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Smallest and largest value observed; `None` before the first one.
    pub fn extremes(&self) -> Option<(f32, f32)> {
        (self.count > 0).then_some((self.min, self.max))
    }

    /// Mean of each channel; zeros before the first value.
    pub fn channel_mean(&self) -> Vec<f32> {
        let channels = self.channel_sums.len() as u64;
        let each = (self.count / channels).max(1) as f64;
        self.channel_sums.iter().map(|&sum| (sum as f64 / FIXED_ONE / each) as f32).collect()
    }

    /// The range to quantize, zero included.
    ///
    /// # Errors
    /// If nothing was observed.
    pub fn range(&self, observer: Observer) -> Result<Range> {
        let (min, max) = self.extremes().context("no values were observed; calibrate with at least one image")?;
        let full = Range { min: min.min(0.0), max: max.max(0.0) };
        Ok(match observer {
            Observer::MinMax => full,
            Observer::Percentile(percent) => range::percentile(&self.histogram, full, percent),
            Observer::Mse => range::least_squares(&self.histogram, full),
        })
    }
}

/// Smallest and largest of values that are not NaN, of which there is at least one.
fn extremes(values: &[f32]) -> (f32, f32) {
    // Independent lanes, so that the comparisons need not wait for each other.
    const LANES: usize = 8;
    let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for chunk in values.chunks(LANES) {
        for ((min, max), &value) in min.iter_mut().zip(&mut max).zip(chunk) {
            *min = if value < *min { value } else { *min };
            *max = if value > *max { value } else { *max };
        }
    }
    let fold = |lanes: [f32; LANES], start, f: fn(f32, f32) -> f32| lanes.into_iter().fold(start, f);
    // Adding zero turns the negative zero into the positive one, so that the order of values leaves no trace.
    (fold(min, f32::INFINITY, f32::min) + 0.0, fold(max, f32::NEG_INFINITY, f32::max) + 0.0)
}

impl fmt::Display for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Observer::MinMax => f.pad("min-max"),
            Observer::Percentile(percent) => f.pad(&format!("percentile:{percent}")),
            Observer::Mse => f.pad("mse"),
        }
    }
}

impl FromStr for Observer {
    type Err = anyhow::Error;

    /// `min-max`, `mse`, `percentile` (99.99) or `percentile:P` with `P` of 50 to 100.
    fn from_str(text: &str) -> Result<Self> {
        let expected = "one of min-max, mse, percentile or percentile:P with P of 50 to 100, as in percentile:99.9";
        match text.split_once(':').unwrap_or((text, "")) {
            ("min-max" | "minmax", "") => Ok(Observer::MinMax),
            ("mse", "") => Ok(Observer::Mse),
            ("percentile", "") if !text.ends_with(':') => Ok(Observer::Percentile(99.99)),
            ("percentile", percent) => {
                let percent = percent.parse().ok().filter(|p| (50.0..=100.0).contains(p));
                percent
                    .map(Observer::Percentile)
                    .with_context(|| format!("{text:?} is no observer; expected {expected}"))
            }
            _ => anyhow::bail!("there is no observer {text:?}; expected {expected}"),
        }
    }
}

impl TryFrom<String> for Observer {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Observer> for String {
    fn from(observer: Observer) -> Self {
        observer.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from((state >> 16) as u16) / 32_768.0 - 1.0
        };
        (0..count).map(|_| next() * next() * 8.0).collect()
    }

    #[test]
    fn the_split_over_threads_changes_nothing() {
        let images: Vec<Vec<f32>> =
            (0..12).map(|i| noise(60, i).iter().map(|v| v * 1.7f32.powi(i as i32 - 6)).collect()).collect();
        let observe = |chosen: &[usize]| {
            let mut stats = TensorStats::new(3);
            chosen.iter().for_each(|&i| stats.observe(&images[i]).unwrap());
            stats
        };
        let whole = observe(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        for parts in [
            &[&[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0][..]][..],
            &[&[0, 2, 4, 6, 8, 10], &[1, 3, 5, 7, 9, 11]],
            &[&[11], &[], &[0, 5], &[1, 2, 3, 4, 6, 7, 8, 9, 10]],
        ] {
            let mut merged = TensorStats::new(3);
            parts.iter().for_each(|part| merged.merge(&observe(part)).unwrap());
            assert_eq!(merged, whole);
            assert_eq!(merged.range(Observer::Mse).unwrap(), whole.range(Observer::Mse).unwrap());
        }
    }

    #[test]
    fn extremes_and_channel_means() {
        let mut stats = TensorStats::new(2);
        stats.observe(&[1.0, -4.0, 2.0, -8.0]).unwrap();
        stats.observe(&[3.0, 0.0]).unwrap();
        assert_eq!(stats.extremes(), Some((-8.0, 3.0)));
        assert_eq!(stats.channel_mean(), [2.0, -4.0]);
        assert_eq!(stats.range(Observer::MinMax).unwrap(), Range { min: -8.0, max: 3.0 });
        assert_eq!(stats.count(), 6);
    }

    #[test]
    fn every_range_contains_zero() {
        for values in [[0.5f32, 3.0], [-3.0, -0.5], [0.0, 0.0], [1e-30, 2e-30], [-0.0, 0.0]] {
            let mut stats = TensorStats::new(1);
            stats.observe(&values).unwrap();
            for observer in [Observer::MinMax, Observer::Percentile(99.0), Observer::Mse] {
                let Range { min, max } = stats.range(observer).unwrap();
                assert!(min <= 0.0 && max >= 0.0 && min >= -3.0 && max <= 3.0, "{values:?} {observer}: {min} {max}");
            }
        }
    }

    #[test]
    fn what_cannot_be_observed_is_refused() {
        let mut stats = TensorStats::new(2);
        assert!(stats.range(Observer::Mse).unwrap_err().to_string().contains("no values"));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2e18] {
            assert!(stats.observe(&[1.0, bad]).unwrap_err().to_string().contains("diverges"));
        }
        stats.observe(&[]).unwrap();
        assert!(stats.observe(&[1.0]).unwrap_err().to_string().contains("2 channels"));
        assert_eq!(stats, TensorStats::new(2));
        assert!(stats.merge(&TensorStats::new(3)).is_err());
    }

    #[test]
    fn observers_have_names() {
        for observer in [Observer::MinMax, Observer::Mse, Observer::Percentile(99.9)] {
            assert_eq!(observer.to_string().parse::<Observer>().unwrap(), observer);
            let json = serde_json::to_string(&observer).unwrap();
            assert_eq!(serde_json::from_str::<Observer>(&json).unwrap(), observer);
        }
        assert_eq!("percentile".parse::<Observer>().unwrap(), Observer::Percentile(99.99));
        for text in ["", "kl", "percentile:", "percentile:101", "percentile:NaN", "mse:3"] {
            let error = text.parse::<Observer>().unwrap_err().to_string();
            assert!(error.contains("min-max"), "{text:?}: {error}");
        }
    }
}
