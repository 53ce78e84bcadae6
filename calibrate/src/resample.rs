//! Bilinear resizing with antialiasing, in integers.
//!
//! The filter is the triangle whose support grows with the reduction factor, separable, 22 fractional bits, each pass
//! rounded to 8 bits, columns before rows: what Pillow's `Image.resize(..., BILINEAR)` does and what
//! `torchvision.transforms.Resize` therefore does to an image file. The weights are computed as exact fractions and
//! not in floating point. Results equal those of Pillow 11; later versions resize the rows of tall images first,
//! which changes single values by one.

use crate::raster::View;

/// Fractional bits of a weight: 32 bits less 8 for the sample and 2 for headroom.
const WEIGHT_BITS: u32 = 22;

/// A resize of a whole image, of which only a window is computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resize {
    /// Rows and columns of the whole result.
    pub(crate) height: usize,
    /// See `height`.
    pub(crate) width: usize,
    /// First row and column of the window.
    pub(crate) top: usize,
    /// See `top`.
    pub(crate) left: usize,
    /// Rows of the window.
    pub(crate) window_height: usize,
    /// Columns of the window.
    pub(crate) window_width: usize,
}

/// The source samples that make one sample of the result.
struct Taps {
    /// First source sample.
    first: usize,
    /// Fixed-point weights of the samples from `first` on.
    weights: Vec<i64>,
}

impl Taps {
    /// Taps of sample `index` when `from` samples become `to`.
    ///
    /// The centre of the result's sample lies at `(2 index + 1) from / (2 to)` and that of source sample `j` at
    /// `(2 j + 1) / 2`; with the triangle `max(0, 1 - |distance| / max(1, from / to))` everything has the denominator
    /// `2 max(from, to)`, which cancels in the normalisation.
    fn new(from: usize, to: usize, index: usize) -> Self {
        let (from, to, index) = (from as i128, to as i128, index as i128);
        let peak = 2 * from.max(to);
        let centre = (2 * index + 1) * from;
        let weight = |j: i128| peak - ((2 * j + 1) * to - centre).abs();
        // The smallest j with (2 j + 1) to > centre - peak; the samples with a positive weight are contiguous.
        let first = ((centre - peak).div_euclid(to) + 1).div_euclid(2).max(0);
        let raw: Vec<i128> = (first..from).map(weight).take_while(|&w| w > 0).collect();
        let sum: i128 = raw.iter().sum();
        let scaled = |w: i128| ((w << (WEIGHT_BITS + 1)) + sum) / (2 * sum);
        Self { first: first as usize, weights: raw.into_iter().map(|w| scaled(w) as i64).collect() }
    }

    /// Weighted sum of the samples that `sample(j)` gives for `j` from `first` on, rounded to 8 bits.
    fn apply(&self, sample: impl Fn(usize) -> u8) -> u8 {
        let half = 1i64 << (WEIGHT_BITS - 1);
        let terms = self.weights.iter().enumerate().map(|(j, w)| w * i64::from(sample(self.first + j)));
        ((half + terms.sum::<i64>()) >> WEIGHT_BITS).clamp(0, 255) as u8
    }

    fn end(&self) -> usize {
        self.first + self.weights.len()
    }
}

/// The window of the resized image, HWC. All sides must be positive and the window must lie inside the result.
pub(crate) fn resize_window(source: View<'_>, resize: Resize) -> Vec<u8> {
    let channels = source.channels;
    let columns: Vec<Taps> =
        (0..resize.window_width).map(|x| Taps::new(source.width, resize.width, resize.left + x)).collect();
    let rows: Vec<Taps> =
        (0..resize.window_height).map(|y| Taps::new(source.height, resize.height, resize.top + y)).collect();
    // Only the source rows that the window touches go through the horizontal pass.
    let (top, bottom) = (rows.first().map_or(0, |t| t.first), rows.last().map_or(0, Taps::end));
    let row_bytes = resize.window_width * channels;
    let mut narrow = Vec::with_capacity((bottom - top) * row_bytes);
    for y in top..bottom {
        let row = &source.pixels[y * source.width * channels..][..source.width * channels];
        for taps in &columns {
            narrow.extend((0..channels).map(|c| taps.apply(|x| row[x * channels + c])));
        }
    }
    let mut out = Vec::with_capacity(resize.window_height * row_bytes);
    for taps in &rows {
        out.extend((0..row_bytes).map(|i| taps.apply(|y| narrow[(y - top) * row_bytes + i])));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(height: usize, width: usize) -> Resize {
        Resize { height, width, top: 0, left: 0, window_height: height, window_width: width }
    }

    /// Deterministic noise that any language can repeat.
    fn noise(count: usize) -> Vec<u8> {
        let mut state = 12_345u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn same_size_is_the_identity() {
        let pixels = noise(7 * 5 * 3);
        let view = View { height: 7, width: 5, channels: 3, pixels: &pixels };
        assert_eq!(resize_window(view, whole(7, 5)), pixels);
    }

    /// Hash of Fowler, Noll and Vo, 64 bits, variant 1a.
    fn hash(bytes: &[u8]) -> u64 {
        let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        bytes.iter().fold(0xCBF2_9CE4_8422_2325, step)
    }

    #[test]
    fn results_equal_those_of_pillow() {
        // `Image.fromarray(noise).resize((width, height), Image.BILINEAR)` of Pillow 11.3.
        let cases = [
            ((40, 31), (23, 57), 0x5f9d_9d8e_373d_5dc5),
            ((7, 5), (30, 2), 0x281f_ed80_099f_c6d7),
            ((100, 64), (32, 20), 0x7c48_c814_3a80_4e78),
            ((33, 48), (33, 64), 0xc843_8d9a_f464_4d8a),
            ((1, 9), (4, 36), 0x415b_185b_4688_1d75),
        ];
        for ((height, width), (to_height, to_width), expected) in cases {
            let pixels = noise(height * width * 3);
            let resized =
                resize_window(View { height, width, channels: 3, pixels: &pixels }, whole(to_height, to_width));
            assert_eq!(hash(&resized), expected, "{height} x {width} to {to_height} x {to_width}");
        }
    }

    #[test]
    fn a_flat_image_stays_flat() {
        for (from, to) in [((3, 50), (17, 2)), ((640, 1), (1, 33)), ((1, 1), (9, 9)), ((31, 29), (30, 30))] {
            let pixels = vec![201; from.0 * from.1];
            let view = View { height: from.0, width: from.1, channels: 1, pixels: &pixels };
            assert_eq!(resize_window(view, whole(to.0, to.1)), vec![201; to.0 * to.1]);
        }
    }

    #[test]
    fn a_window_equals_that_part_of_the_whole() {
        let pixels = noise(40 * 31 * 3);
        let view = View { height: 40, width: 31, channels: 3, pixels: &pixels };
        let all = resize_window(view, whole(23, 57));
        let window = Resize { top: 4, left: 9, window_height: 11, window_width: 30, ..whole(23, 57) };
        let part = resize_window(view, window);
        for y in 0..11 {
            assert_eq!(part[y * 90..][..90], all[((y + 4) * 57 + 9) * 3..][..90], "row {y}");
        }
    }
}
