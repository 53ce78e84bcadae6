//! Outputs: `Aᵀ m A`, and what the direct kernel does with accumulators.

use super::super::avx512::Avx512;
use super::super::params::Channels;
use super::super::store::{finish, is_limited};
use super::super::tile::{Accumulators, MAX_KERNEL, Place, Row, Tile};
use crate::kernels::k8n16::winograd::{INVERSE_OF_9, LINE, POINTS, Plan, SIDE};
use crate::op::Conv;
use core::arch::x86_64::*;
use core::ops::Range;
use core::ptr;

/// Where outputs go.
pub(super) struct Outputs<'a> {
    plan: &'a Plan,
    /// Output rows of the call, of how many columns.
    rows: Range<usize>,
    width: usize,
    row: Row,
    /// Output planes; the second one is null for a narrow output.
    planes: [*mut u8; 2],
}

impl<'a> Outputs<'a> {
    pub(super) fn new(conv: &Conv, plan: &'a Plan, rows: Range<usize>, [hi, lo]: [&mut [u8]; 2]) -> Self {
        let row = Row {
            base: ptr::null(),
            rows: [0; MAX_KERNEL],
            row_count: 0,
            distance: 0,
            weights: ptr::null(),
            block_stride: 0,
            tail_weights: ptr::null(),
            channels: ptr::null(),
            quads: 0,
            pixel: 0,
            ahead: ptr::null(),
            hi: ptr::null_mut(),
            lo: ptr::null_mut(),
            out_c: usize::from(conv.shape.out_c),
            left: 0,
            half_steps: 0,
            // The transform has moved accumulators already.
            pre_shift: false,
            accumulate: conv.accumulate,
            raw: conv.raw,
            limits: conv.limits,
            limited: is_limited(conv),
        };
        let planes = [hi.as_mut_ptr(), if lo.is_empty() { ptr::null_mut() } else { lo.as_mut_ptr() }];
        Outputs { plan, rows, width: conv.shape.out_w(), row, planes }
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
        let columns = self.plan.tiles.1;
        for (n, tile) in tiles.enumerate() {
            let (y, x) = (SIDE * (tile / columns), SIDE * (tile % columns));
            let rows = SIDE.min(self.rows.len() - y);
            // SAFETY: promised by the caller; `rows` by `pixels` of the tile's outputs exist.
            unsafe { self.store_tile(products.as_ptr().add(n * LINE), (y, x), rows) };
        }
    }

    /// # Safety
    /// As [`Outputs::store`] for the tile at row `y` of the call and column `x`, of which `rows` rows exist.
    #[inline(always)]
    unsafe fn store_tile(&self, products: *const u8, (y, x): (usize, usize), rows: usize) {
        let (pitch, out_c) = (self.plan.product_pitch(), self.row.out_c);
        let nothing: unsafe fn(Tile<'_>) = |_| ();
        let mut place = Place { run: nothing, start: 0, steps: [0; 3], at: 0, pixels: SIDE.min(self.width - x) };
        // SAFETY: promised by the caller; the tile asks for nothing else of `row` and `place` than where pixels go.
        unsafe {
            let mut columns = [[_mm512_setzero_si512(); POINTS]; SIDE];
            for j in 0..POINTS {
                let column = [0, 1, 2, 3, 4, 5]
                    .map(|i| _mm512_loadu_si512(products.add((POINTS * i + j) * pitch).cast()));
                let values = pixels(column);
                for i in 0..SIDE {
                    columns[i][j] = values[i];
                }
            }
            for (i, columns) in columns.iter().enumerate().take(rows) {
                place.at = ((y + i) * self.width + x) * out_c;
                let inverse = _mm512_set1_epi32(INVERSE_OF_9 as i32);
                let blocks = pixels(*columns).map(|v| [_mm512_mullo_epi32(v, inverse)]);
                let acc = Accumulators::<Avx512, SIDE, 1> { blocks, tail: [_mm512_setzero_si512(); SIDE] };
                finish::<Avx512, SIDE, 1, false>(Tile { row: &self.row, place: &place }, &acc);
            }
        }
    }
}

/// Rows of Aᵀ, the second and third column with the other sign, the last one times 4.
#[inline(always)]
unsafe fn pixels([a, b, c, d, e, f]: [__m512i; POINTS]) -> [__m512i; SIDE] {
    // SAFETY: the callers have AVX-512 F.
    unsafe {
        let (add, sub) = (|a, b| _mm512_add_epi32(a, b), |a, b| _mm512_sub_epi32(a, b));
        let four = |v| _mm512_slli_epi32::<2>(v);
        let (sum_1, difference_1) = (add(b, c), sub(b, c));
        let (sum_2, difference_2) = (add(d, e), sub(d, e));
        let twice = add(difference_2, difference_2);
        [
            add(sub(a, sum_1), sum_2),
            sub(twice, difference_1),
            sub(four(sum_2), sum_1),
            sub(four(add(twice, f)), difference_1),
        ]
    }
}
