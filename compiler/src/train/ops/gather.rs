//! Sums over windows times weights: the forward convolution and the gradient of its input.
//!
//! A result is `sum over runs r, elements k of input[start + runs[r] + k] * weight[r][k][channel]`. Vectors run along
//! channels, tiles along pixels; a tile's sums stay in registers.

use super::simd::{Kernel, Level, Simd};

/// Most vectors of channels in one tile.
const BLOCK: usize = 4;

/// Where windows lie and where their results go.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Windows {
    /// For each pixel, where its window starts in the input.
    starts: Vec<u32>,
    /// For each pixel, where its result is in the output.
    targets: Vec<u32>,
    /// Where the contiguous pieces of a window lie, relative to its start.
    runs: Vec<u32>,
    /// Length of each piece.
    run_len: usize,
    /// What the input must have at least.
    input_len: usize,
    /// The largest target.
    last: usize,
}

impl Windows {
    pub(super) fn new(places: impl Iterator<Item = (usize, usize)>, runs: Vec<usize>, run_len: usize) -> Self {
        let narrow = |place: usize| u32::try_from(place).expect("one image has fewer than 2^32 values");
        let (starts, targets): (Vec<u32>, Vec<u32>) = places.map(|(s, t)| (narrow(s), narrow(t))).unzip();
        let runs: Vec<u32> = runs.into_iter().map(narrow).collect();
        let largest = |values: &[u32]| values.iter().copied().max().unwrap_or(0) as usize;
        let input_len = largest(&starts) + largest(&runs) + run_len;
        let last = largest(&targets);
        Self { starts, targets, runs, run_len, input_len, last }
    }

    /// Whether no window has any element.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty() || self.run_len == 0
    }

    /// Rows of the weights.
    pub(super) fn rows(&self) -> usize {
        self.runs.len() * self.run_len
    }

    /// Where the pieces of a window lie, and their length.
    pub(super) fn runs(&self) -> (&[u32], usize) {
        (&self.runs, self.run_len)
    }
}

/// Weights in the order in which tiles read them: for each block of vectors of channels, all rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Packed {
    channels: usize,
    rows: usize,
    wide: bool,
    lanes: usize,
    data: Vec<f32>,
}

impl Packed {
    /// Packs `weight(row, channel)`, reusing the memory.
    pub(super) fn fill(&mut self, level: Level, rows: usize, channels: usize, weight: impl Fn(usize, usize) -> f32) {
        let [wide, narrow] = level.lanes();
        self.wide = channels.next_multiple_of(wide) == channels.next_multiple_of(narrow) && channels > wide;
        self.lanes = if self.wide { wide } else { narrow };
        (self.channels, self.rows) = (channels, rows);
        let vectors = channels.div_ceil(self.lanes);
        self.data.clear();
        self.data.resize(rows * vectors * self.lanes, 0.0);
        let mut rest = &mut self.data[..];
        for (first, count) in blocks(vectors) {
            let (block, after) = rest.split_at_mut(rows * count * self.lanes);
            rest = after;
            for (row, values) in block.chunks_exact_mut(count * self.lanes).enumerate() {
                let from = first * self.lanes;
                for (channel, value) in (from..channels).zip(values) {
                    *value = weight(row, channel);
                }
            }
        }
    }
}

/// Blocks of vectors: the first one and how many.
fn blocks(vectors: usize) -> impl Iterator<Item = (usize, usize)> {
    let most = if vectors.is_multiple_of(3) || !vectors.is_multiple_of(BLOCK) { 3 } else { BLOCK };
    (0..vectors).step_by(most).map(move |first| (first, most.min(vectors - first)))
}

/// One image's convolution.
pub(super) struct Gather<'a> {
    pub(super) windows: &'a Windows,
    pub(super) weights: &'a Packed,
    pub(super) input: &'a [f32],
    pub(super) output: &'a mut [f32],
    /// Whether results are added to the output.
    pub(super) accumulate: bool,
}

impl Gather<'_> {
    /// # Panics
    /// If input, output or weights are shorter than the windows need.
    pub(super) fn run(self, level: Level) {
        let Self { windows, weights, input, output, .. } = &self;
        if windows.starts.is_empty() {
            return;
        }
        assert!(input.len() >= windows.input_len, "the input is too short for its windows");
        assert!(output.len() >= windows.last + weights.channels, "the output is too short for its pixels");
        assert_eq!(weights.rows, windows.rows(), "the weights have other rows than the windows");
        let [wide, narrow] = level.lanes();
        assert_eq!(weights.lanes, if weights.wide { wide } else { narrow }, "the weights are packed for other vectors");
        level.run(self);
    }
}

impl Kernel for Gather<'_> {
    #[inline(always)]
    unsafe fn run<Wide: Simd, Narrow: Simd>(mut self) {
        // SAFETY, for both: the caller vouches for the features.
        if self.weights.wide {
            // SAFETY: see above.
            unsafe { self.all::<Wide>() }
        } else {
            // SAFETY: see above.
            unsafe { self.all::<Narrow>() }
        }
    }
}

impl Gather<'_> {
    #[inline(always)]
    unsafe fn all<S: Simd>(&mut self) {
        let mut at = 0;
        for (first, count) in blocks(self.weights.channels.div_ceil(S::LANES)) {
            let place = Place { first: first * S::LANES, weights: at };
            at += self.weights.rows * count * S::LANES;
            // SAFETY: the caller vouches for the features; blocks have one to four vectors, and `at` walks over the
            // packed data as `Packed::fill` laid them out.
            unsafe {
                match (count, S::REGISTERS) {
                    (1, _) => self.block::<S, 1, 8>(place),
                    (2, 32) => self.block::<S, 2, 8>(place),
                    (2, _) => self.block::<S, 2, 4>(place),
                    (3, 32) => self.block::<S, 3, 8>(place),
                    (3, _) => self.block::<S, 3, 4>(place),
                    (_, 32) => self.block::<S, 4, 6>(place),
                    (_, _) => self.block::<S, 4, 3>(place),
                }
            }
        }
    }

    /// All pixels of one block of channels.
    #[inline(always)]
    unsafe fn block<S: Simd, const V: usize, const P: usize>(&mut self, place: Place) {
        let windows = self.windows;
        let count = windows.starts.len();
        let channels = (self.weights.channels - place.first).min(V * S::LANES);
        let output = self.output.as_mut_ptr();
        let mut pixel = 0;
        while pixel < count {
            // SAFETY: the caller vouches for the features. A window's elements lie within the input, whose length `run`
            // has compared with the largest start and run; `place.weights` is the start of `rows * V * LANES`
            // elements. A tile that is not full repeats the last pixel.
            let sums = unsafe {
                let mut starts = [std::ptr::null(); P];
                for p in 0..P {
                    let start = *windows.starts.get_unchecked((pixel + p).min(count - 1));
                    starts[p] = self.input.as_ptr().add(start as usize);
                }
                tile::<S, V, P>(windows, starts, self.weights.data.as_ptr().add(place.weights))
            };
            for (p, sums) in sums.iter().enumerate().take(count - pixel) {
                // SAFETY: `run` has compared the output's length with the largest target; `store` writes `channels`
                // elements, and those of this block end before `weights.channels`.
                unsafe {
                    let to = output.add(*windows.targets.get_unchecked(pixel + p) as usize + place.first);
                    store::<S, V>(to, sums, channels, self.accumulate);
                }
            }
            pixel += P;
        }
    }
}

/// Where a block is.
#[derive(Clone, Copy)]
struct Place {
    /// Its first channel.
    first: usize,
    /// Where its weights start.
    weights: usize,
}

/// # Safety
/// The features of `S`; every start plus every run plus the run's length lies within one allocation, as do
/// `rows * V * LANES` weights.
#[inline(always)]
unsafe fn tile<S: Simd, const V: usize, const P: usize>(
    windows: &Windows,
    starts: [*const f32; P],
    weights: *const f32,
) -> [[S::Vector; V]; P] {
    // SAFETY: the caller vouches for the features and for all reads below: `weights` advances by one row for each
    // element of each run.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; P];
        let mut weights = weights;
        for &run in &windows.runs {
            let mut from = starts;
            for p in 0..P {
                from[p] = from[p].add(run as usize);
            }
            for k in 0..windows.run_len {
                let mut w = [S::splat(0.0); V];
                for v in 0..V {
                    w[v] = S::load(weights.add(v * S::LANES));
                }
                weights = weights.add(V * S::LANES);
                for p in 0..P {
                    let x = S::splat(*from[p].add(k));
                    for v in 0..V {
                        sums[p][v] = S::fma(x, w[v], sums[p][v]);
                    }
                }
            }
        }
        sums
    }
}

/// # Safety
/// The features of `S`; `channels` elements can be written, at most `V * LANES`.
#[inline(always)]
unsafe fn store<S: Simd, const V: usize>(to: *mut f32, sums: &[S::Vector; V], channels: usize, accumulate: bool) {
    // SAFETY: whole vectors are written only where `channels` covers them, the rest element by element.
    unsafe {
        let one = S::splat(1.0);
        for (v, &sum) in sums.iter().enumerate() {
            let to = to.add(v * S::LANES);
            let left = channels - v * S::LANES;
            if left >= S::LANES {
                S::store(to, if accumulate { S::fma(one, S::load(to), sum) } else { sum });
            } else {
                let mut part = [0.0; super::simd::MAX_LANES];
                S::store(part.as_mut_ptr(), sum);
                for (lane, &value) in part.iter().enumerate().take(left) {
                    let to = to.add(lane);
                    *to = if accumulate { *to + value } else { value };
                }
            }
        }
    }
}
