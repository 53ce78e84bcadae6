//! Products: for each of 36 places, tiles by 16 channels.
//!
//! Weights have been transformed in one direction only. The other one is left to where they are multiplied: it takes one
//! addition to three for a line that serves up to 16 products, and cores have vector units that add while others multiply,
//! whereas storing all 36 places takes longer than working them out.

use super::super::tile::hint;
use crate::kernels::k8n16::winograd::{GROUP, Grid, LINE, PLACES, POINTS, Plan, WEIGHT_LINES};
use core::arch::x86_64::*;
use core::ops::Range;

/// The place to which the point 1 belongs in both directions, which contributes the same to all outputs.
const BIAS_PLACE: usize = POINTS + 1;

/// Products of a block of channels.
pub(super) struct Products<'a> {
    pub(super) plan: &'a Plan,
    pub(super) grid: &'a Grid,
    /// Transformed inputs of a batch of tiles.
    pub(super) inputs: &'a [u8],
    /// Transformed weights of the block.
    pub(super) weights: &'a [u8],
    /// What the outputs' sums have to start from.
    pub(super) bias: &'a [i32; 16],
    /// Packed weights that will be needed next: while these are multiplied, they are fetched. Nothing is read from there.
    pub(super) ahead: *const u8,
    /// Lines of them for each place.
    pub(super) lines_ahead: usize,
}

impl Products<'_> {
    /// Multiplies `tiles` of the batch that begins with tile `batch`, at most a group of them: a line of sums for each
    /// place and tile.
    ///
    /// # Safety
    /// AVX-512 F, BW and VNNI are available, slices are as long as the plan says, and the tiles are some of the batch.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) unsafe fn multiply(&self, batch: usize, tiles: Range<usize>, to: &mut [u8]) {
        let plan = self.plan;
        let (input_pitch, weight_pitch, pitch) = (plan.input_pitch(), plan.weight_pitch(), plan.product_pitch());
        let mut ahead = self.ahead;
        for place in 0..PLACES {
            let having = self.grid.having((place / POINTS, place % POINTS));
            let (first, last) = (having.start.max(tiles.start), having.end.min(tiles.end));
            for _ in 0..self.lines_ahead {
                hint::<_MM_HINT_T1>(ahead);
                ahead = ahead.wrapping_add(LINE);
            }
            if first >= last {
                continue;
            }
            let start = if place == BIAS_PLACE { *self.bias } else { [0; 16] };
            // SAFETY: each place has `parts` lines for each tile of the batch, and each row three lines of weights for
            // each pair; `to` has a line for each tile. The table has an entry for as many tiles as a group has.
            unsafe {
                let job = Place {
                    inputs: self.inputs.as_ptr().add(place * input_pitch + (first - batch) * LINE),
                    part_pitch: plan.batch * LINE,
                    weights: self.weights.as_ptr().add(place / POINTS * weight_pitch),
                    quads: plan.quads,
                    start: _mm512_loadu_si512(start.as_ptr().cast()),
                    to: to.as_mut_ptr().add(place * pitch + (first - tiles.start) * LINE),
                };
                KERNELS[place % POINTS][last - first - 1](&job);
            }
        }
    }
}

/// Products of one place.
struct Place {
    /// First part of the first tile's inputs; tiles follow line by line.
    inputs: *const u8,
    /// Bytes from a part to the next one.
    part_pitch: usize,
    /// Three lines for each pair of channels.
    weights: *const u8,
    /// Fours of input channels.
    quads: usize,
    /// What sums start from.
    start: __m512i,
    /// A line for each tile.
    to: *mut u8,
}

type Kernel = unsafe fn(&Place);

macro_rules! kernels {
    ($($count:literal)*) => { [$(multiply::<$count, J>),*] };
}

/// Kernels of column `J` of a transform for one tile, two...
const fn kernels<const J: usize>() -> [Kernel; GROUP] {
    kernels!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
}

const KERNELS: [[Kernel; GROUP]; POINTS] =
    [kernels::<0>(), kernels::<1>(), kernels::<2>(), kernels::<3>(), kernels::<4>(), kernels::<5>()];

/// # Safety
/// AVX-512 F, BW and VNNI are available, and the place has `T` tiles and is in column `J`.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[allow(clippy::needless_range_loop)] // unrolled, so that sums stay in registers
unsafe fn multiply<const T: usize, const J: usize>(job: &Place) {
    let (mut sums, mut weights, mut part) = ([job.start; T], job.weights, job.inputs);
    // SAFETY: there are two lines of inputs for each 64 channels of a tile, and three lines of weights for each pair: 16
    // pairs of a part, but for the last two parts, which have what is left.
    unsafe {
        for chunk in (0..job.quads).step_by(16) {
            for _ in 0..2 {
                let mut inputs = part;
                for _ in 0..(job.quads - chunk).min(16) {
                    let w = weight::<J>(weights);
                    for t in 0..T {
                        let x = _mm512_set1_epi32(inputs.add(t * LINE).cast::<i32>().read_unaligned());
                        sums[t] = _mm512_dpwssd_epi32(sums[t], x, w);
                    }
                    weights = weights.add(WEIGHT_LINES * LINE);
                    inputs = inputs.add(4);
                }
                part = part.wrapping_add(job.part_pitch);
            }
        }
        for t in 0..T {
            _mm512_storeu_si512(job.to.add(t * LINE).cast(), sums[t]);
        }
    }
}

/// The weights of column `J` from the three lines that [`super::weights`] has left: rows of G, times 24 (the last one times
/// 6), the second and third with the other sign.
///
/// # Safety
/// AVX-512 F and BW are available, and the lines may be read.
#[inline(always)]
unsafe fn weight<const J: usize>(lines: *const u8) -> __m512i {
    // SAFETY: promised by the caller.
    unsafe {
        let near = _mm512_loadu_si512(lines.cast());
        let far = _mm512_loadu_si512(lines.add(LINE).cast());
        let middle = _mm512_loadu_si512(lines.add(2 * LINE).cast());
        match J {
            // 2 (4 (a + c) - (a + 4c)) = 6a
            0 => {
                let three = _mm512_sub_epi16(near, far);
                _mm512_add_epi16(three, three)
            }
            1 => _mm512_add_epi16(_mm512_add_epi16(near, middle), middle),
            2 => _mm512_sub_epi16(_mm512_sub_epi16(near, middle), middle),
            3 => _mm512_add_epi16(far, middle),
            4 => _mm512_sub_epi16(far, middle),
            // 2 (a + 4c) - 4 (a + c) / 2 = 6c
            _ => _mm512_sub_epi16(_mm512_add_epi16(far, far), _mm512_srai_epi16::<1>(near)),
        }
    }
}
