//! Second moments of what a layer reads: the curvature of its squared output error.
//!
//! Inputs are whole numbers of quantization steps, so all sums are exact and do not depend on the order in which images
//! were added, nor on the number of threads.

use crate::lower::rounding::ConvSite;

/// Largest number of weights of a row whose correlations are kept; longer rows are cut into pieces that are taken as
/// independent of each other, so that memory and time stay bounded.
pub(super) const LARGEST: usize = 1152;
/// Windows that are added up in `f32` before they go into the `f64` sums: with inputs of up to 255 steps,
/// 256 * 255² < 2^24, which is exact.
const PENDING: usize = 256;

/// Sums over the windows that one piece of a row has read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Moments {
    /// First weight of the row that belongs to this piece.
    pub(super) first: usize,
    /// Number of weights.
    pub(super) len: usize,
    /// Number of windows.
    pub(super) count: u64,
    sums: Vec<f64>,
    /// Lower triangle of the sum of products, `[len][len]`.
    products: Vec<f64>,
    recent: Vec<f32>,
    pending: usize,
}

impl Moments {
    /// Nothing yet, for weights `first..first + len`.
    pub(super) fn new(first: usize, len: usize) -> Self {
        let square = len * len;
        let (sums, products, recent) = (vec![0.0; len], vec![0.0; square], vec![0.0; square]);
        Moments { first, len, count: 0, sums, products, recent, pending: 0 }
    }

    /// The pieces of a row of `taps` weights, as equal as possible.
    pub(super) fn pieces(taps: usize) -> Vec<Moments> {
        let count = taps.div_ceil(LARGEST).max(1);
        (0..count).map(|i| (i * taps / count, (i + 1) * taps / count)).map(|(a, b)| Moments::new(a, b - a)).collect()
    }

    /// Bytes of the pieces of a row of `taps` weights.
    pub(super) fn bytes(taps: usize) -> usize {
        let count = taps.div_ceil(LARGEST).max(1);
        count * taps.div_ceil(count).pow(2) * (size_of::<f64>() + size_of::<f32>())
    }

    /// Adds a window of the whole row: whole numbers of magnitudes up to 255.
    pub(super) fn add(&mut self, row: &[f32]) {
        let row = &row[self.first..self.first + self.len];
        for (a, &x) in row.iter().enumerate().filter(|(_, x)| **x != 0.0) {
            self.sums[a] += f64::from(x);
            let products = &mut self.recent[a * self.len..][..=a];
            products.iter_mut().zip(row).for_each(|(sum, &y)| *sum += x * y);
        }
        self.count += 1;
        self.pending += 1;
        if self.pending == PENDING {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.pending > 0 {
            self.products.iter_mut().zip(&mut self.recent).for_each(|(sum, x)| *sum += f64::from(std::mem::take(x)));
            self.pending = 0;
        }
    }

    /// Adds what was seen elsewhere.
    pub(super) fn merge(&mut self, mut other: Moments) {
        self.flush();
        other.flush();
        self.count += other.count;
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, x)| *sum += x);
        self.products.iter_mut().zip(&other.products).for_each(|(sum, x)| *sum += x);
    }

    /// Mean of each input.
    pub(super) fn mean(&self) -> Vec<f64> {
        let count = self.count.max(1) as f64;
        self.sums.iter().map(|sum| sum / count).collect()
    }

    /// Covariance of the inputs, `[len][len]`, symmetric.
    pub(super) fn covariance(mut self) -> Vec<f64> {
        self.flush();
        let (mean, count, len) = (self.mean(), self.count.max(1) as f64, self.len);
        let mut out = self.products;
        for a in 0..len {
            for b in 0..=a {
                let value = out[a * len + b] / count - mean[a] * mean[b];
                (out[a * len + b], out[b * len + a]) = (value, value);
            }
        }
        out
    }
}

/// Reads windows of one convolution's input.
#[derive(Clone, Copy)]
pub(super) struct Windows<'s> {
    site: &'s ConvSite<'s>,
    columns: usize,
    /// Output pixels.
    pub(super) pixels: usize,
}

impl<'s> Windows<'s> {
    pub(super) fn new(site: &'s ConvSite<'s>) -> Self {
        let conv = site.conv;
        let side = |n: usize| (n + 2 * conv.padding).saturating_sub(conv.kernel) / conv.stride + 1;
        let (rows, columns) = (side(site.input.height), side(site.input.width));
        Windows { site, columns, pixels: rows * columns }
    }

    /// The window of output pixel `pixel` and group `group` of the float input `data`, in quantization steps.
    pub(super) fn read(&self, data: &[f32], pixel: usize, group: usize, row: &mut Vec<f32>) {
        let ConvSite { conv, input, steps, limits, .. } = self.site;
        let inputs = conv.in_channels / conv.groups;
        let inside = |out: usize, tap: usize, size: usize| {
            (out * conv.stride + tap).checked_sub(conv.padding).filter(|&at| at < size)
        };
        row.clear();
        for y in 0..conv.kernel {
            for x in 0..conv.kernel {
                let place =
                    inside(pixel / self.columns, y, input.height).zip(inside(pixel % self.columns, x, input.width));
                let Some((y, x)) = place else {
                    row.resize(row.len() + inputs, 0.0);
                    continue;
                };
                let channels = group * inputs..(group + 1) * inputs;
                let pixel = &data[(y * input.width + x) * input.channels..][channels.clone()];
                let quantized =
                    |(&x, step): (&f32, &f64)| (f64::from(x) / step).round().clamp(limits.0, limits.1) as f32;
                row.extend(pixel.iter().zip(&steps[channels]).map(quantized));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small whole numbers without a pattern.
    fn rows(count: usize, len: usize) -> Vec<Vec<f32>> {
        let mut state = 9u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 16) % 511) as f32 - 255.0
        };
        (0..count).map(|_| (0..len).map(|_| next()).collect()).collect()
    }

    #[test]
    fn the_split_changes_nothing_and_sums_are_exact() {
        let rows = rows(700, 5);
        let sum = |rows: &[Vec<f32>]| {
            let mut moments = Moments::new(0, 5);
            rows.iter().for_each(|row| moments.add(row));
            moments
        };
        let mut whole = Moments::new(0, 5);
        whole.merge(sum(&rows));
        let mut parts = Moments::new(0, 5);
        [&rows[300..], &rows[..7], &rows[7..300]].into_iter().for_each(|part| parts.merge(sum(part)));
        assert_eq!(whole, parts);
        let n = rows.len() as f64;
        let mean = |k: usize| rows.iter().map(|row| f64::from(row[k])).sum::<f64>() / n;
        let covariance = whole.covariance();
        for a in 0..5 {
            for b in 0..5 {
                let product = rows.iter().map(|row| f64::from(row[a]) * f64::from(row[b])).sum::<f64>() / n;
                assert_eq!(covariance[a * 5 + b], product - mean(a.max(b)) * mean(a.min(b)));
            }
        }
    }

    #[test]
    fn long_rows_are_cut_into_pieces_that_cover_them() {
        for taps in [1, LARGEST, LARGEST + 1, 4608] {
            let pieces = Moments::pieces(taps);
            let mut next = 0;
            for piece in &pieces {
                assert!(piece.first == next && piece.len <= LARGEST && piece.len > 0);
                next += piece.len;
            }
            assert_eq!(next, taps);
        }
    }
}
