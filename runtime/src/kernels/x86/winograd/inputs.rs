//! Activations in: `Bᵀ d B`.

// Loops over `0..N` with an index are what unrolls completely, so that all arrays become registers.
#![allow(clippy::needless_range_loop)]

use crate::kernels::k8n16::winograd::{Grid, LINE, NARROW_LACKS, POINTS, Place, Plan};
use crate::op::ConvShape;
use core::arch::x86_64::*;
use core::ops::Range;

/// The input, and where transformed tiles go: for each place, for each part of the channels, a line for each tile.
pub(super) struct Inputs<'a> {
    pub(super) plan: &'a Plan,
    pub(super) grid: &'a Grid,
    pub(super) shape: &'a ConvShape,
    /// Output row at which the first tile begins.
    pub(super) first_row: usize,
    pub(super) input: &'a [u8],
    /// A pixel beyond the border.
    pub(super) border: &'a [u8],
    pub(super) to: &'a mut [u8],
}

impl Inputs<'_> {
    /// Transforms some tiles, a batch of them at most.
    ///
    /// # Safety
    /// AVX-512 F and BW are available, and slices are as long as shape and plan say.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn transform(&mut self, tiles: Range<usize>) {
        let pitch = self.plan.input_pitch();
        for (tile, place) in tiles.map(|n| self.grid.tile(n)).enumerate() {
            let transform = match place.narrow {
                (false, false) => transform::<false, false>,
                (false, true) => transform::<false, true>,
                (true, false) => transform::<true, false>,
                (true, true) => transform::<true, true>,
            };
            let pixels = self.pixels(place);
            for n in 0..self.plan.parts() / 2 {
                let channels = (4 * self.plan.quads - LINE * n).min(LINE);
                let chunk = Chunk { pixels: &pixels, at: LINE * n, mask: u64::MAX >> (LINE - channels) };
                let part = |half| ((2 * n + half) * self.plan.batch + tile) * LINE;
                // SAFETY: each pixel has so many bytes from 64 n on, and each place of `to` a line for each part of each
                // tile.
                unsafe {
                    let to = self.to.as_mut_ptr();
                    transform(chunk, [to.add(part(0)), to.add(part(1))], pitch);
                }
            }
        }
    }

    /// The pixels that a tile sees.
    #[inline(always)]
    fn pixels(&self, tile: Place) -> Pixels {
        let (width, height) = (usize::from(self.shape.in_w), usize::from(self.shape.in_h));
        let (padding, pixel) = (usize::from(self.shape.padding), usize::from(self.shape.in_c));
        // Before the input, these are larger than any size.
        let top = (self.first_row + tile.y).wrapping_sub(padding);
        let left = tile.x.wrapping_sub(padding);
        let mut pixels = [[self.border.as_ptr(); POINTS]; POINTS];
        for (i, pixels) in pixels.iter_mut().enumerate() {
            let y = top.wrapping_add(i);
            let line = self.input.as_ptr().wrapping_add(y.wrapping_mul(width).wrapping_mul(pixel));
            for (j, at) in pixels.iter_mut().enumerate() {
                let x = left.wrapping_add(j);
                let inside = (y < height) & (x < width);
                *at = core::hint::select_unpredictable(inside, line.wrapping_add(x.wrapping_mul(pixel)), *at);
            }
        }
        pixels
    }
}

/// Where each pixel that a tile sees begins.
type Pixels = [[*const u8; POINTS]; POINTS];

/// Up to 64 channels of a tile.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    pixels: &'a Pixels,
    /// The first of these channels.
    at: usize,
    /// Those that exist.
    mask: u64,
}

impl Chunk<'_> {
    /// The channels of column `j`: 0 and 2 of each four, or 1 and 3.
    ///
    /// # Safety
    /// AVX-512 F and BW are available, and each pixel's channels may be read.
    #[inline(always)]
    unsafe fn column<const HALF: usize>(&self, j: usize) -> [__m512i; POINTS] {
        // SAFETY: promised by the caller.
        unsafe {
            let mut words = [_mm512_setzero_si512(); POINTS];
            for i in 0..POINTS {
                let bytes = _mm512_maskz_loadu_epi8(self.mask, self.pixels[i][j].add(self.at).cast());
                words[i] = if HALF == 0 {
                    _mm512_and_si512(bytes, _mm512_set1_epi16(0xff))
                } else {
                    _mm512_srli_epi16::<8>(bytes)
                };
            }
            words
        }
    }

    /// Transforms one of each two pairs and stores it at 36 places `pitch` bytes apart, but for those that a narrow tile
    /// lacks.
    ///
    /// Three rows at a time: what is between the two directions then stays in registers.
    ///
    /// # Safety
    /// As [`Chunk::column`], and lines may be written there.
    #[inline(always)]
    unsafe fn transform<const HALF: usize, const LOW: bool, const SLIM: bool>(&self, to: *mut u8, pitch: usize) {
        // SAFETY: promised by the caller.
        unsafe {
            let mut rows = [[_mm512_setzero_si512(); POINTS]; 3];
            for j in 0..POINTS {
                let column = inner::<LOW>(self.column::<HALF>(j));
                for i in 0..3 {
                    rows[i][j] = column[i];
                }
            }
            for i in 0..3 {
                store::<SLIM>(rows[i], to.add(POINTS * i * pitch), pitch);
            }
            for j in 0..POINTS {
                let column = outer::<LOW>(self.column::<HALF>(j));
                for i in 0..3 {
                    rows[i][j] = column[i];
                }
            }
            for i in 0..3 {
                if !(LOW && NARROW_LACKS.contains(&(3 + i))) {
                    store::<SLIM>(rows[i], to.add(POINTS * (3 + i) * pitch), pitch);
                }
            }
        }
    }
}

/// Transforms a chunk: lines of one of each two pairs, and of the other.
///
/// # Safety
/// AVX-512 F and BW are available, and as [`Chunk::transform`] for both.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn transform<const LOW: bool, const SLIM: bool>(chunk: Chunk<'_>, to: [*mut u8; 2], pitch: usize) {
    // SAFETY: promised by the caller.
    unsafe {
        chunk.transform::<0, LOW, SLIM>(to[0], pitch);
        chunk.transform::<1, LOW, SLIM>(to[1], pitch);
    }
}

/// Transforms a row and stores it.
///
/// # Safety
/// AVX-512 F and BW are available. Six lines `pitch` bytes apart may be written from `to` on.
#[inline(always)]
unsafe fn store<const NARROW: bool>(row: [__m512i; POINTS], to: *mut u8, pitch: usize) {
    // SAFETY: promised by the caller.
    unsafe {
        let (low, high) = (inner::<NARROW>(row), outer::<NARROW>(row));
        for j in 0..3 {
            _mm512_storeu_si512(to.add(j * pitch).cast(), low[j]);
        }
        for j in 0..3 {
            if !(NARROW && NARROW_LACKS.contains(&(3 + j))) {
                _mm512_storeu_si512(to.add((3 + j) * pitch).cast(), high[j]);
            }
        }
    }
}

/// Rows of Bᵀ for the points 0, 1 and -1.
#[inline(always)]
unsafe fn inner<const NARROW: bool>([a, b, c, d, e, _]: [__m512i; POINTS]) -> [__m512i; 3] {
    // SAFETY: the callers have AVX-512 F and BW.
    unsafe {
        let (four_b, four_c) = (_mm512_slli_epi16::<2>(b), _mm512_slli_epi16::<2>(c));
        if NARROW {
            // 4 (a - c), -3 (b + c) and 3 (b - c).
            let (three_b, three_c) = (_mm512_sub_epi16(four_b, b), _mm512_sub_epi16(four_c, c));
            let minus = _mm512_sub_epi16(_mm512_setzero_si512(), three_b);
            let first = _mm512_slli_epi16::<2>(_mm512_sub_epi16(a, c));
            return [first, _mm512_sub_epi16(minus, three_c), _mm512_sub_epi16(three_b, three_c)];
        }
        let (even, odd) = (_mm512_sub_epi16(e, four_c), _mm512_sub_epi16(d, four_b));
        let first = _mm512_slli_epi16::<2>(_mm512_sub_epi16(a, c));
        let first = _mm512_add_epi16(first, _mm512_sub_epi16(e, c));
        [first, _mm512_add_epi16(even, odd), _mm512_sub_epi16(even, odd)]
    }
}

/// Rows of Bᵀ for the points 2, -2 and ∞; narrow tiles only have the last one.
#[inline(always)]
unsafe fn outer<const NARROW: bool>([_, b, c, d, e, f]: [__m512i; POINTS]) -> [__m512i; 3] {
    // SAFETY: the callers have AVX-512 F and BW.
    unsafe {
        let (even, odd) = (_mm512_sub_epi16(e, c), _mm512_sub_epi16(d, b));
        let twice = _mm512_add_epi16(odd, odd);
        let four = _mm512_add_epi16(twice, twice);
        let last = if NARROW { four } else { _mm512_sub_epi16(_mm512_sub_epi16(f, d), four) };
        [_mm512_add_epi16(even, twice), _mm512_sub_epi16(even, twice), last]
    }
}
