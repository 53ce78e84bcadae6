//! Outputs: `Aᵀ m A`, and what the direct kernel does with accumulators.

// Loops over `0..N` with an index are what unrolls completely, so that all arrays become registers.
#![allow(clippy::needless_range_loop)]

use super::super::avx512::Avx512;
use super::super::params::Channels;
use super::super::store::finish;
use super::super::tile::{Accumulators, Place, Row, Tile};
use crate::kernels::k8n16::winograd::{Grid, INVERSE_OF_9, LINE, NARROW_LACKS, POINTS, Plan, SIDE};
use crate::op::Conv;
use core::arch::x86_64::*;
use core::ops::Range;
use core::ptr;

/// Where outputs go.
pub(super) struct Outputs<'a> {
    grid: &'a Grid,
    /// Output rows of the call, and columns.
    size: (usize, usize),
    row: Row,
    /// Bytes from a place of the products to the next one.
    pitch: usize,
    /// Output planes; the second one is null for a narrow output.
    planes: [*mut u8; 2],
}

impl<'a> Outputs<'a> {
    pub(super) fn new(conv: &Conv, plan: &Plan, (grid, rows): (&'a Grid, usize), planes: [*mut u8; 2]) -> Self {
        // The transform has moved accumulators already.
        let row = Row::new(conv, (0, usize::from(conv.shape.out_c)), 0);
        Outputs { grid, size: (rows, conv.shape.out_w()), row, pitch: plan.product_pitch(), planes }
    }

    /// Stores what has been multiplied: a block of channels of some tiles.
    ///
    /// # Safety
    /// AVX-512 F, BW, VL and VNNI are available; the output has these channels and tiles, and `products` a line for each
    /// place and tile.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn store(&mut self, channels: &Channels, block: usize, tiles: Range<usize>, products: &[u8]) {
        self.row.channels = channels;
        self.row.left = self.row.out_c - 16 * block;
        // Offsets stay inside of the planes.
        self.row.hi = self.planes[0].wrapping_add(16 * block);
        self.row.lo = if self.planes[1].is_null() { ptr::null_mut() } else { self.planes[1].wrapping_add(16 * block) };
        for (n, tile) in tiles.enumerate() {
            let tile = self.grid.tile(tile);
            let left = (self.size.0 - tile.y, self.size.1 - tile.x);
            let at = (tile.y * self.size.1 + tile.x) * self.row.out_c;
            // SAFETY: promised by the caller; a narrow tile has one or two outputs left in that direction, others three or
            // more.
            unsafe {
                let from = products.as_ptr().add(n * LINE);
                match tile.narrow {
                    (false, false) => self.store_tile::<4, 4>(from, at, left),
                    (false, true) => self.store_tile::<4, 2>(from, at, left),
                    (true, false) => self.store_tile::<2, 4>(from, at, left),
                    (true, true) => self.store_tile::<2, 2>(from, at, left),
                }
            }
        }
    }

    /// Transforms and stores a tile of `H` by `W` outputs, of which `left` or more exist, from `at` on.
    ///
    /// # Safety
    /// As [`Outputs::store`]; `H` and `W` are 2 in directions in which the tile is narrow, and 4 in others.
    #[inline(always)]
    unsafe fn store_tile<const H: usize, const W: usize>(&self, from: *const u8, at: usize, left: (usize, usize)) {
        let nothing: unsafe fn(Tile<'_>) = |_| ();
        let mut place = Place { run: nothing, start: 0, steps: [0; 3], at, pixels: left.1.min(W) };
        // SAFETY: promised by the caller; nothing else of `row` and `place` is asked for than where outputs go.
        unsafe {
            let mut rows = [[_mm512_setzero_si512(); POINTS]; H];
            for j in 0..POINTS {
                if W == 2 && NARROW_LACKS.contains(&j) {
                    continue;
                }
                let mut column = [_mm512_setzero_si512(); POINTS];
                for i in 0..POINTS {
                    if !(H == 2 && NARROW_LACKS.contains(&i)) {
                        column[i] = _mm512_loadu_si512(from.add((POINTS * i + j) * self.pitch).cast());
                    }
                }
                let values = outputs::<H>(column);
                for i in 0..H {
                    rows[i][j] = values[i];
                }
            }
            for row in rows.iter().take(left.0) {
                let (values, inverse) = (outputs::<W>(*row), _mm512_set1_epi32(INVERSE_OF_9 as i32));
                let mut blocks = [[inverse]; W];
                for j in 0..W {
                    blocks[j] = [_mm512_mullo_epi32(values[j], inverse)];
                }
                let acc = Accumulators::<Avx512, W, 1> { blocks, tail: [inverse; W] };
                finish::<Avx512, W, 1, false>(Tile { row: &self.row, place: &place }, &acc);
                place.at += self.size.1 * self.row.out_c;
            }
        }
    }
}

/// Rows of Aᵀ: of four outputs, the second and third column with the other sign, the last one times 4; of two outputs of a
/// narrow tile, whose inputs have been transformed to suit.
#[inline(always)]
unsafe fn outputs<const N: usize>([a, b, c, d, e, f]: [__m512i; POINTS]) -> [__m512i; N] {
    const { assert!(N == 2 || N == SIDE) };
    // SAFETY: the callers have AVX-512 F.
    unsafe {
        let mut all = [a; N];
        let (sum_1, difference_1) = (_mm512_add_epi32(b, c), _mm512_sub_epi32(b, c));
        all[0] = _mm512_sub_epi32(a, sum_1);
        if N == 2 {
            all[1] = _mm512_sub_epi32(f, difference_1);
            return all;
        }
        let (sum_2, difference_2) = (_mm512_add_epi32(d, e), _mm512_sub_epi32(d, e));
        let twice = _mm512_add_epi32(difference_2, difference_2);
        all[0] = _mm512_add_epi32(all[0], sum_2);
        all[1] = _mm512_sub_epi32(twice, difference_1);
        all[N - 2] = _mm512_sub_epi32(_mm512_slli_epi32::<2>(sum_2), sum_1);
        all[N - 1] = _mm512_sub_epi32(_mm512_slli_epi32::<2>(_mm512_add_epi32(twice, f)), difference_1);
        all
    }
}
