//! A histogram whose bins are powers of two wide and start at zero, so that coarsening and merging are exact.

/// Bins on each side of zero. The larger side always fills more than half of them: more than 16 bins for each of
/// the 127 steps of a signed byte.
const BINS: usize = 4096;

/// Counts of zeros and of values in bins `[k, k + 1) * width` on either side of zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram {
    zeros: u64,
    /// All magnitudes lie below `2^exponent`; meaningless while there are no bins.
    exponent: i32,
    /// Bin `k` of the values above zero at `2 k`, that of those below zero at `2 k + 1`; empty while all are zero.
    counts: Vec<u64>,
}

/// One bin that is not empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bin {
    /// Its middle; exactly zero for the zeros.
    pub(super) centre: f64,
    /// Number of values in it, at least one.
    pub(super) count: u64,
}

impl Histogram {
    /// Counts values, all of them finite and of magnitudes up to `largest`, which one of them has.
    pub(super) fn add(&mut self, values: &[f32], largest: f32) {
        if largest == 0.0 {
            self.zeros += values.len() as u64;
            return;
        }
        self.cover(exponent_above(largest));
        let zeros = values.iter().filter(|&&v| v == 0.0).count() as u64;
        let scale = power_of_two(-self.exponent) * BINS as f64;
        let counts = &mut self.counts[..2 * BINS];
        for &value in values {
            // Scaling by a power of two is exact, and the cast rounds down (to i32 it is one instruction). A
            // branch on the sign would be mispredicted for every other value.
            let bin = (f64::from(value.abs()) * scale) as i32 as usize;
            let negative = usize::from(value < 0.0);
            counts[(2 * bin + negative) % (2 * BINS)] += 1;
        }
        // Zeros went to the first bin above zero.
        self.counts[0] -= zeros;
        self.zeros += zeros;
    }

    /// Adds the counts of another histogram.
    pub(super) fn merge(&mut self, other: &Self) {
        self.zeros += other.zeros;
        if other.counts.is_empty() {
            return;
        }
        self.cover(other.exponent);
        let shift = (self.exponent - other.exponent).unsigned_abs();
        for (index, &count) in other.counts.iter().enumerate() {
            self.counts[coarser(index, shift)] += count;
        }
    }

    /// The bins that are not empty, from the smallest to the largest value.
    pub(super) fn bins(&self) -> Vec<Bin> {
        let width = power_of_two(self.exponent) / BINS as f64;
        let side = |negative: usize, sign: f64| {
            let counts = self.counts.iter().skip(negative).step_by(2).enumerate();
            counts.map(move |(bin, &count)| Bin { centre: sign * (bin as f64 + 0.5) * width, count })
        };
        let zeros = Bin { centre: 0.0, count: self.zeros };
        side(1, -1.0).rev().chain([zeros]).chain(side(0, 1.0)).filter(|bin| bin.count > 0).collect()
    }

    /// Half of a bin's width; zero where all values are zero.
    pub(super) fn half_width(&self) -> f64 {
        if self.counts.is_empty() { 0.0 } else { power_of_two(self.exponent) / (2 * BINS) as f64 }
    }

    /// Widens the bins until they cover magnitudes below `2^exponent`.
    fn cover(&mut self, exponent: i32) {
        if self.counts.is_empty() {
            self.counts.resize(2 * BINS, 0);
            self.exponent = exponent;
        }
        let shift = (exponent - self.exponent).max(0).unsigned_abs();
        if shift == 0 {
            return;
        }
        for index in 0..self.counts.len() {
            let count = std::mem::take(&mut self.counts[index]);
            self.counts[coarser(index, shift)] += count;
        }
        self.exponent = exponent;
    }
}

/// Where the bin at `index` goes when the width doubles `shift` times: `k` becomes `k / 2^shift` on the same side.
fn coarser(index: usize, shift: u32) -> usize {
    2 * (index / 2).checked_shr(shift).unwrap_or(0) + index % 2
}

/// The smallest `e` for normal numbers with `value < 2^e`; `value` is positive and finite.
fn exponent_above(value: f32) -> i32 {
    // Subnormal numbers have the field 0 and lie below 2^-126.
    let field = (value.to_bits() >> 23) as i32;
    field - 126
}

/// `2^exponent` for exponents of normal `f64` numbers, which those of `f32` are.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(histogram: &mut Histogram, values: &[f32]) {
        histogram.add(values, values.iter().fold(0.0, |largest, v| largest.max(v.abs())));
    }

    #[test]
    fn exponents_bound_their_values() {
        for value in [f32::MIN_POSITIVE, 1e-45, 0.99, 1.0, 1.5, 4095.0, 4096.0, f32::MAX] {
            let exponent = exponent_above(value);
            assert!(f64::from(value) < power_of_two(exponent), "{value}");
            let tight = f64::from(value) >= power_of_two(exponent - 1) || value < f32::MIN_POSITIVE;
            assert!(tight, "{value}");
        }
    }

    #[test]
    fn growing_equals_starting_wide() {
        let values: Vec<f32> = (1..2000).map(|i| (i as f32 - 700.0) * 0.013).collect();
        let mut grown = Histogram::default();
        for magnitude in [1e-6, 1e-3, 1.0, 30.0] {
            for value in &values {
                add(&mut grown, &[value * magnitude, 0.0]);
            }
        }
        let mut wide = Histogram::default();
        let all: Vec<f32> =
            [30.0, 1.0, 1e-3, 1e-6].iter().flat_map(|m| values.iter().flat_map(move |v| [v * m, 0.0])).collect();
        add(&mut wide, &all);
        assert_eq!(grown, wide);
        assert_eq!(grown.bins().iter().map(|b| b.count).sum::<u64>(), all.len() as u64);
    }

    #[test]
    fn values_lie_in_their_bins() {
        let mut histogram = Histogram::default();
        add(&mut histogram, &[-3.0, 0.0, 0.0, 1.0]);
        let half = histogram.half_width();
        assert_eq!(half, 4.0 / 4096.0 / 2.0);
        let expected = [(-3.0 - half, 1), (0.0, 2), (1.0 + half, 1)];
        assert_eq!(histogram.bins(), expected.map(|(centre, count)| Bin { centre, count }));
    }

    #[test]
    fn merging_with_nothing_changes_nothing() {
        let mut histogram = Histogram::default();
        add(&mut histogram, &[0.25, -7.0]);
        let before = histogram.clone();
        histogram.merge(&Histogram::default());
        assert_eq!(histogram, before);
        let mut empty = Histogram::default();
        empty.merge(&before);
        assert_eq!(empty, before);
    }
}
