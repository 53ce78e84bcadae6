//! Activations in: `Bᵀ d B`.

use crate::kernels::k8n16::winograd::{LINE, POINTS, Plan, SIDE};
use crate::op::ConvShape;
use core::arch::x86_64::*;

/// The input, and where transformed tiles go: for each place, for each part of the channels, a line for each tile.
pub(super) struct Inputs<'a> {
    pub(super) plan: &'a Plan,
    pub(super) shape: &'a ConvShape,
    /// Output row at which the first tile begins.
    pub(super) first_row: usize,
    pub(super) input: &'a [u8],
    /// A pixel beyond the border.
    pub(super) border: &'a [u8],
    pub(super) to: &'a mut [u8],
}

impl Inputs<'_> {
    /// Transforms `count` tiles from tile `first` on.
    ///
    /// # Safety
    /// AVX-512 F and BW are available, slices are as long as shape and plan say, and `count` is at most the plan's batch.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn transform(&mut self, first: usize, count: usize) {
        for tile in 0..count {
            let pixels = self.pixels(first + tile);
            for chunk in 0..self.plan.parts() / 2 {
                let channels = (4 * self.plan.quads - LINE * chunk).min(LINE);
                let mask = u64::MAX >> (LINE - channels);
                let part = |half| ((2 * chunk + half) * self.plan.batch + tile) * LINE;
                // SAFETY: each pixel has `channels` bytes from 64 · chunk on, and each place of `to` a line for each
                // part of each tile.
                unsafe {
                    let to = self.to.as_mut_ptr();
                    one_chunk(&pixels, LINE * chunk, mask, [to.add(part(0)), to.add(part(1))], self.plan.input_pitch());
                }
            }
        }
    }

    /// The pixels that a tile sees.
    fn pixels(&self, tile: usize) -> [[*const u8; POINTS]; POINTS] {
        let (width, padding) = (usize::from(self.shape.in_w), usize::from(self.shape.padding));
        let pixel = usize::from(self.shape.in_c);
        let (row, column) = (tile / self.plan.tiles.1, tile % self.plan.tiles.1);
        let (top, left) = (self.first_row + SIDE * row, SIDE * column);
        let mut pixels = [[self.border.as_ptr(); POINTS]; POINTS];
        for (i, pixels) in pixels.iter_mut().enumerate() {
            let Some(y) = (top + i).checked_sub(padding).filter(|&y| y < usize::from(self.shape.in_h)) else { continue };
            for (j, at) in pixels.iter_mut().enumerate() {
                if let Some(x) = (left + j).checked_sub(padding).filter(|&x| x < width) {
                    *at = self.input[(y * width + x) * pixel..].as_ptr();
                }
            }
        }
        pixels
    }
}

/// Transforms up to 64 channels of a tile.
///
/// # Safety
/// The bytes of `mask` may be read from `at` on of each pixel, and lines written at 36 places `pitch` bytes apart from each of
/// `to` on.
#[inline(always)]
unsafe fn one_chunk(
    pixels: &[[*const u8; POINTS]; POINTS],
    at: usize,
    mask: u64,
    to: [*mut u8; 2],
    pitch: usize,
) {
    // SAFETY: promised by the caller.
    unsafe {
        let zero = _mm512_setzero_si512();
        let mut halves = [[[zero; POINTS]; POINTS]; 2];
        for j in 0..POINTS {
            let bytes = [0, 1, 2, 3, 4, 5].map(|i| _mm512_maskz_loadu_epi8(mask, pixels[i][j].add(at).cast()));
            let even = points(bytes.map(|b| _mm512_and_si512(b, _mm512_set1_epi16(0xff))));
            let odd = points(bytes.map(|b| _mm512_srli_epi16::<8>(b)));
            for i in 0..POINTS {
                halves[0][i][j] = even[i];
                halves[1][i][j] = odd[i];
            }
        }
        for (rows, to) in halves.iter().zip(to) {
            for (i, row) in rows.iter().enumerate() {
                for (j, value) in points(*row).into_iter().enumerate() {
                    _mm512_storeu_si512(to.add((POINTS * i + j) * pitch).cast(), value);
                }
            }
        }
    }
}

/// Rows of Bᵀ.
#[inline(always)]
unsafe fn points([a, b, c, d, e, f]: [__m512i; POINTS]) -> [__m512i; POINTS] {
    // SAFETY: the callers have AVX-512 F and BW.
    unsafe {
        let four = |v| _mm512_slli_epi16::<2>(v);
        let (add, sub) = (|a, b| _mm512_add_epi16(a, b), |a, b| _mm512_sub_epi16(a, b));
        // e - 4c and d - 4b; e - c and 2 (d - b).
        let (even, odd) = (sub(e, four(c)), sub(d, four(b)));
        let (near, step) = (sub(e, c), sub(d, b));
        let twice = add(step, step);
        [
            add(four(sub(a, c)), near),
            add(even, odd),
            sub(even, odd),
            add(near, twice),
            sub(near, twice),
            sub(sub(f, d), add(twice, twice)),
        ]
    }
}
