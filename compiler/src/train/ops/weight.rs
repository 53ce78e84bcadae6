//! Gradients of convolution weights: sums over all pixels of a window's element times the output's gradient.

use super::simd::{Kernel, Level, MAX_LANES, Simd};

/// Rows of the image as seen by one window element and by the output's gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Walk {
    /// Rows and columns of the output.
    pub(super) height: usize,
    pub(super) width: usize,
    /// Steps in the input from one output row, or column, to the next.
    pub(super) input_row: usize,
    pub(super) input_pixel: usize,
    /// The same in the gradient.
    pub(super) grad_row: usize,
    pub(super) grad_pixel: usize,
}

/// Adds one image's share to `sums`, `[runs * run_len][padded channels]`.
pub(super) struct WeightGrad<'a> {
    pub(super) walk: Walk,
    /// The input from where the first pixel's window starts.
    pub(super) input: &'a [f32],
    /// Where the contiguous pieces of a window lie, relative to its start.
    pub(super) runs: &'a [u32],
    pub(super) run_len: usize,
    /// The output's gradient from the first pixel on; [`MAX_LANES`] more elements than it needs can be read.
    pub(super) grad: &'a [f32],
    /// Output channels.
    pub(super) channels: usize,
    pub(super) sums: &'a mut [f32],
}

/// Columns of `sums` for a number of channels; those that are padding hold anything.
pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(MAX_LANES)
}

impl WeightGrad<'_> {
    /// # Panics
    /// If one of the slices is too short.
    pub(super) fn run(self, level: Level) {
        let Walk { height, width, input_row, input_pixel, grad_row, grad_pixel } = self.walk;
        if height == 0 || width == 0 || self.runs.is_empty() {
            return;
        }
        let last_run = self.runs.iter().copied().max().unwrap_or(0) as usize;
        let input = (height - 1) * input_row + (width - 1) * input_pixel + last_run + self.run_len;
        assert!(self.input.len() >= input, "the input is too short for its windows");
        let grad = (height - 1) * grad_row + (width - 1) * grad_pixel + padded(self.channels);
        assert!(self.grad.len() >= grad, "the gradient is too short for its pixels");
        let sums = self.runs.len() * self.run_len * padded(self.channels);
        assert!(self.sums.len() >= sums, "there are fewer sums than weights");
        level.run(self);
    }
}

impl Kernel for WeightGrad<'_> {
    #[inline(always)]
    unsafe fn run<Wide: Simd, Narrow: Simd>(mut self) {
        // As in the forward direction: narrow vectors where wide ones would be half empty, and for few channels.
        let wide = self.channels.next_multiple_of(Wide::LANES) == self.channels.next_multiple_of(Narrow::LANES)
            && self.channels > Wide::LANES;
        // SAFETY, for both: the caller vouches for the features.
        if wide {
            // SAFETY: see above.
            unsafe { self.all::<Wide>() }
        } else {
            // SAFETY: see above.
            unsafe { self.all::<Narrow>() }
        }
    }
}

impl WeightGrad<'_> {
    #[inline(always)]
    unsafe fn all<S: Simd>(&mut self) {
        let vectors = self.channels.div_ceil(S::LANES);
        let mut first = 0;
        while first < vectors {
            let count = (vectors - first).min(3);
            for (run, &offset) in self.runs.iter().enumerate() {
                let place = Place { input: offset as usize, row: run * self.run_len, channel: first * S::LANES };
                // SAFETY: the caller vouches for the features; the first of `count` vectors is `first`.
                unsafe {
                    match count {
                        1 => self.run_of::<S, 1>(place),
                        2 => self.run_of::<S, 2>(place),
                        _ => self.run_of::<S, 3>(place),
                    }
                }
            }
            first += count;
        }
    }

    /// All elements of a run, in tiles.
    #[inline(always)]
    unsafe fn run_of<S: Simd, const V: usize>(&mut self, place: Place) {
        let mut k = 0;
        while k < self.run_len {
            let at = Place { input: place.input + k, row: place.row + k, ..place };
            let left = self.run_len - k;
            // SAFETY: the caller vouches for the features, and every tile has at most `left` elements.
            k += unsafe {
                if S::REGISTERS == 32 && left >= 8 {
                    self.tile::<S, V, 8>(at)
                } else if left >= 4 {
                    self.tile::<S, V, 4>(at)
                } else {
                    self.tile::<S, V, 1>(at)
                }
            };
        }
    }

    /// `K` window elements by `V` vectors of channels over all pixels; returns `K`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const V: usize, const K: usize>(&mut self, place: Place) -> usize {
        let Walk { height, width, input_row, input_pixel, grad_row, grad_pixel } = self.walk;
        // SAFETY: the caller vouches for the features. `run` has compared the lengths of input, gradient and sums with
        // the last pixel, the last run and all channels, padded to whole vectors.
        unsafe {
            let mut sums = [[S::splat(0.0); V]; K];
            for row in 0..height {
                let mut input = self.input.as_ptr().add(row * input_row + place.input);
                let mut grad = self.grad.as_ptr().add(row * grad_row + place.channel);
                for _ in 0..width {
                    let mut g = [S::splat(0.0); V];
                    for v in 0..V {
                        g[v] = S::load(grad.add(v * S::LANES));
                    }
                    for k in 0..K {
                        let x = S::splat(*input.add(k));
                        for v in 0..V {
                            sums[k][v] = S::fma(x, g[v], sums[k][v]);
                        }
                    }
                    // Behind the last pixel these may point anywhere; nothing is read there.
                    input = input.wrapping_add(input_pixel);
                    grad = grad.wrapping_add(grad_pixel);
                }
            }
            let columns = padded(self.channels);
            let one = S::splat(1.0);
            for (k, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    let to = self.sums.as_mut_ptr().add((place.row + k) * columns + place.channel + v * S::LANES);
                    S::store(to, S::fma(one, S::load(to), sum));
                }
            }
        }
        K
    }
}

/// Where a tile is: in the input, in the rows of the sums and in their columns.
#[derive(Clone, Copy)]
struct Place {
    input: usize,
    row: usize,
    channel: usize,
}
