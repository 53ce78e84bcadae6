//! Times in counts of a timer, and what is said about them.

use crate::json::Json;

/// Samples, sorted, in memory of the caller.
pub(crate) struct Samples<'a> {
    sorted: &'a mut [u64],
    kept: usize,
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl<'a> Samples<'a> {
    /// Keeps as many samples as `memory` holds; of more, median and quantile are those of the first ones.
    pub(crate) fn new(memory: &'a mut [u64]) -> Self {
        memory.fill(u64::MAX);
        Samples { sorted: memory, kept: 0, count: 0, sum: 0, min: u64::MAX, max: 0 }
    }

    /// Takes a sample, by insertion: there are few.
    pub(crate) fn add(&mut self, sample: u64) {
        self.count += 1;
        self.sum = self.sum.saturating_add(sample);
        self.min = self.min.min(sample);
        self.max = self.max.max(sample);
        if self.kept == self.sorted.len() {
            return;
        }
        self.kept += 1;
        let mut moving = sample;
        for place in self.sorted.iter_mut().take(self.kept) {
            if moving < *place {
                core::mem::swap(&mut moving, place);
            }
        }
    }

    /// The sample that `percent` of the others do not exceed.
    fn quantile(&self, percent: usize) -> u64 {
        let last = self.kept.saturating_sub(1);
        if self.kept == 0 { 0 } else { self.sorted.get((self.kept * percent / 100).min(last)).copied().unwrap_or(0) }
    }

    fn median(&self) -> u64 {
        self.quantile(50)
    }

    /// The fields of the host's report, in microseconds, and the median in counts of the timer.
    pub(crate) fn write<W: FnMut(&str)>(&self, json: &mut Json<W>, per_second: u64) {
        let mean = self.sum.checked_div(self.count).unwrap_or(0);
        let min = if self.count == 0 { 0 } else { self.min };
        // Of fewer than a hundred samples the largest stands for the quantile.
        let p99 = if self.kept < 100 { self.max } else { self.quantile(99) };
        for (name, counts) in [("median_us", self.median()), ("p99_us", p99), ("min_us", min), ("mean_us", mean)] {
            json.decimal(name, scaled(counts, 10_000_000, per_second), 1);
        }
        json.number("median_counts", self.median());
    }

    /// Multiply-accumulates a second at the median.
    pub(crate) fn macs_per_second(&self, macs: u64, per_second: u64) -> u64 {
        scaled(macs, per_second, self.median())
    }
}

/// `value * factor / divisor` without overflow where the product needs more than 64 bits; 0 for a division by zero.
fn scaled(value: u64, factor: u64, divisor: u64) -> u64 {
    match value.checked_mul(factor) {
        Some(product) => product.checked_div(divisor).unwrap_or(0),
        None => value.checked_div((divisor >> 20).max(1)).unwrap_or(0).saturating_mul(factor >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_up() {
        let mut memory = [0; 8];
        let mut samples = Samples::new(&mut memory);
        for sample in [50, 10, 40, 20, 30] {
            samples.add(sample);
        }
        let mut out = String::new();
        samples.write(&mut Json::flat(|text: &str| out += text), 1_000_000);
        assert_eq!(
            out,
            "\"median_us\": 30.0, \"p99_us\": 50.0, \"min_us\": 10.0, \"mean_us\": 30.0, \"median_counts\": 30"
        );
        assert_eq!(samples.macs_per_second(300, 1_000_000), 10_000_000);
        assert_eq!(Samples::new(&mut []).median(), 0);
    }

    #[test]
    fn quantiles_are_those_of_what_is_kept() {
        let mut memory = [0; 200];
        let mut samples = Samples::new(&mut memory);
        for n in (1..=200).rev() {
            samples.add(n * 10);
        }
        // Beyond the memory: counted, but not kept.
        samples.add(5);
        let mut out = String::new();
        samples.write(&mut Json::flat(|text: &str| out += text), 1_000_000);
        assert!(out.starts_with("\"median_us\": 1010.0, \"p99_us\": 1990.0, \"min_us\": 5.0"), "{out}");
    }

    #[test]
    fn large_products_do_not_wrap() {
        let close = |got: u64, want: f64| assert!((got as f64 / want - 1.0).abs() < 0.01, "{got} {want}");
        close(scaled(1 << 40, 1 << 30, 1 << 32), (1u64 << 38) as f64);
        assert_eq!(scaled(5, 7, 0), 0);
    }
}
