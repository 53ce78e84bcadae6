//! Choosing the ends of a range from a histogram.

use super::Range;
use super::histogram::{Bin, Histogram};

/// Steps of an 8-bit integer between its smallest and largest value.
const STEPS: f64 = 255.0;
/// Fractions of an end that the coarse search tries; the fine one divides the step around the best of them again.
const COARSE: u32 = 40;
/// See [`COARSE`].
const FINE: u32 = 10;

/// Cuts off the share of values above the `percent`-th percentile, and as large a share below zero.
pub(super) fn percentile(histogram: &Histogram, full: Range, percent: f64) -> Range {
    let bins = histogram.bins();
    let total: u64 = bins.iter().map(|bin| bin.count).sum();
    // A count up to 2^53 is exact; the nearest whole number of values may be cut off on either side.
    let cut = ((total as f64) * (100.0 - percent) / 100.0) as u64;
    let half = histogram.half_width();
    let upper = kept(bins.iter().rev(), cut).map_or(0.0, |bin| bin.centre + half);
    let lower = kept(bins.iter(), cut).map_or(0.0, |bin| bin.centre - half);
    // An end on the far side of zero, or at the zeros, which have no width, means that nothing is needed there.
    let upper = if upper > half { upper } else { 0.0 };
    let lower = if lower < -half { lower } else { 0.0 };
    Range { min: (lower as f32).clamp(full.min, 0.0), max: (upper as f32).clamp(0.0, full.max) }
}

/// The first bin that is not cut off as a whole when `cut` values are dropped from the front.
fn kept<'a>(mut bins: impl Iterator<Item = &'a Bin>, cut: u64) -> Option<&'a Bin> {
    let mut dropped = 0;
    bins.find(|bin| {
        dropped += bin.count;
        dropped > cut
    })
}

/// The range within `full` with the smallest squared error of 8-bit affine quantization.
///
/// The ends are searched one after the other, each over the whole way from zero to its extreme. A one-sided tensor,
/// such as the output of a ReLU, has only one end; of a two-sided one the error depends on the two ends together, and
/// the search goes round twice.
pub(super) fn least_squares(histogram: &Histogram, full: Range) -> Range {
    let bins = histogram.bins();
    let mut best = Choice { min: f64::from(full.min), max: f64::from(full.max), error: f64::INFINITY };
    best.error = squared_error(&bins, best.min, best.max);
    let rounds = if full.min < 0.0 && full.max > 0.0 { 2 } else { 1 };
    for _ in 0..rounds {
        best = search(&bins, best, |choice, part| Choice { max: f64::from(full.max) * part, ..choice });
        best = search(&bins, best, |choice, part| Choice { min: f64::from(full.min) * part, ..choice });
    }
    Range { min: best.min as f32, max: best.max as f32 }
}

/// A range and its error.
#[derive(Clone, Copy)]
struct Choice {
    min: f64,
    max: f64,
    error: f64,
}

/// Moves one end, which `set` puts at a fraction of its extreme, to where the error is smallest.
fn search(bins: &[Bin], start: Choice, set: impl Fn(Choice, f64) -> Choice) -> Choice {
    let mut best = start;
    let mut best_step = COARSE * FINE;
    let attempt = |step: u32, best: &mut Choice, best_step: &mut u32| {
        let mut choice = set(start, f64::from(step) / f64::from(COARSE * FINE));
        choice.error = squared_error(bins, choice.min, choice.max);
        if choice.error < best.error {
            (*best, *best_step) = (choice, step);
        }
    };
    for coarse in 1..=COARSE {
        attempt(coarse * FINE, &mut best, &mut best_step);
    }
    let around = best_step;
    for step in around.saturating_sub(FINE - 1).max(1)..(around + FINE).min(COARSE * FINE) {
        attempt(step, &mut best, &mut best_step);
    }
    best
}

/// Sum of the squared errors when every value, taken at its bin's centre, is quantized with 256 levels from `min` to
/// `max` of which one is exactly zero.
fn squared_error(bins: &[Bin], min: f64, max: f64) -> f64 {
    let scale = (max - min) / STEPS;
    if scale <= 0.0 {
        return bins.iter().map(|bin| bin.count as f64 * bin.centre * bin.centre).sum();
    }
    // Levels are counted from zero: the zero point is the rounded position of zero.
    let lowest = (min / scale).round();
    let highest = lowest + STEPS;
    let inverse = 1.0 / scale;
    let term = |bin: &Bin| {
        let level = (bin.centre * inverse + 0.5).floor().clamp(lowest, highest);
        let error = bin.centre - level * scale;
        bin.count as f64 * error * error
    };
    bins.iter().map(term).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[f32]) -> (Histogram, Range) {
        let mut histogram = Histogram::default();
        histogram.add(values, values.iter().fold(0.0, |largest, v| largest.max(v.abs())));
        let fold = |f: fn(f32, f32) -> f32| values.iter().copied().fold(0.0, f);
        (histogram, Range { min: fold(f32::min), max: fold(f32::max) })
    }

    /// Sums of uniform numbers: close to a normal distribution of deviation 1.
    fn bell(count: usize) -> Vec<f32> {
        let mut state = 99u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24) - 0.5
        };
        (0..count).map(|_| (0..12).map(|_| next()).sum::<f64>() as f32).collect()
    }

    /// Squared error of the values themselves.
    fn true_error(values: &[f32], range: Range) -> f64 {
        let bins: Vec<Bin> = values.iter().map(|&v| Bin { centre: f64::from(v), count: 1 }).collect();
        squared_error(&bins, f64::from(range.min), f64::from(range.max))
    }

    #[test]
    fn percentiles_cut_both_tails() {
        let values: Vec<f32> = (0..=1000).map(|i| i as f32 - 500.0).collect();
        let (histogram, full) = histogram(&values);
        let range = percentile(&histogram, full, 99.0);
        assert!((range.max - 490.0).abs() <= 0.25 && (range.min + 490.0).abs() <= 0.25, "{range:?}");
        assert_eq!(percentile(&histogram, full, 100.0), full);
    }

    #[test]
    fn percentiles_count_zeros_and_stay_one_sided() {
        let mut values = vec![0.0; 900];
        values.extend((1..=100).map(|i| i as f32));
        let (counts, full) = histogram(&values);
        let range = percentile(&counts, full, 99.0);
        assert!(range.min == 0.0 && (range.max - 90.0).abs() < 0.1, "{range:?}");
        assert_eq!(percentile(&counts, full, 85.0), Range { min: 0.0, max: 0.0 });
    }

    #[test]
    fn an_outlier_is_clipped_where_that_pays() {
        let mut values: Vec<f32> = bell(20_000).into_iter().map(f32::abs).collect();
        values.extend([0.0; 5000]);
        values.push(40.0);
        let (histogram, full) = histogram(&values);
        let range = least_squares(&histogram, full);
        assert_eq!(range.min, 0.0);
        // Clipping one value at c costs (40 - c)^2, which the finer steps for the other 20,000 cannot repay in full.
        assert!(range.max < full.max, "{range:?}");
        assert!(true_error(&values, range) < true_error(&values, full));
    }

    #[test]
    fn the_search_comes_close_to_trying_everything() {
        // Long tails of different length on the two sides.
        let tails = |v: f32| if v < 0.0 { v.exp_m1() * v * v } else { 0.2 * v.powi(4) };
        let values: Vec<f32> = bell(200_000).into_iter().map(tails).collect();
        let (histogram, full) = histogram(&values);
        let error = |range: Range| squared_error(&histogram.bins(), f64::from(range.min), f64::from(range.max));
        let range = least_squares(&histogram, full);
        let grid = (1..=40).flat_map(|i| (1..=40).map(move |j| (i as f32 / 40.0, j as f32 / 40.0)));
        let best = grid.map(|(low, high)| error(Range { min: full.min * low, max: full.max * high }));
        let best = best.fold(f64::INFINITY, f64::min);
        assert!(error(range) <= best * 1.01, "found {}, best of the grid {best}", error(range));
        assert!(range.max < full.max, "{range:?} of {full:?}");
        assert!(true_error(&values, range) < 0.98 * true_error(&values, full));
    }

    #[test]
    fn only_zeros_need_no_range() {
        let (histogram, full) = histogram(&[0.0, 0.0]);
        assert_eq!(least_squares(&histogram, full), Range { min: 0.0, max: 0.0 });
        assert_eq!(percentile(&histogram, full, 99.0), Range { min: 0.0, max: 0.0 });
    }
}
