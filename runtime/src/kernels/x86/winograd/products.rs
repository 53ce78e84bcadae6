//! Products: for each of 36 places, tiles by 16 channels.

use crate::kernels::k8n16::winograd::{GROUP, LINE, PLACES, POINTS, Plan};
use core::arch::x86_64::*;

/// The place to which the point 1 belongs in both directions, which contributes the same to all outputs.
const BIAS_PLACE: usize = POINTS + 1;

/// What is multiplied.
pub(super) struct Products<'a> {
    pub(super) plan: &'a Plan,
    /// Transformed inputs from the first tile's on.
    pub(super) inputs: &'a [u8],
    /// Transformed weights of the block.
    pub(super) weights: &'a [u8],
    /// What the outputs' sums have to start from.
    pub(super) bias: &'a [i32; 16],
}

impl Products<'_> {
    /// Multiplies `count` tiles, `1..=GROUP` of them: a line of sums for each place and tile.
    ///
    /// # Safety
    /// AVX-512 F and VNNI are available, slices are as long as the plan says, and `count` is at most its group.
    #[inline(always)]
    pub(super) unsafe fn multiply(&self, count: usize, to: &mut [u8]) {
        // SAFETY: promised by the caller; the table has an entry for each count.
        unsafe { KERNELS[count - 1](self, to.as_mut_ptr()) }
    }
}

type Kernel = unsafe fn(&Products<'_>, *mut u8);

macro_rules! kernels {
    ($($count:literal)*) => { [$(multiply::<$count>),*] };
}

/// Kernels for one tile, two...
const KERNELS: [Kernel; GROUP] = kernels!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28);

/// # Safety
/// As [`Products::multiply`] with `T` tiles.
#[target_feature(enable = "avx512f,avx512vnni")]
#[allow(clippy::needless_range_loop)] // unrolled, so that sums stay in registers
unsafe fn multiply<const T: usize>(job: &Products<'_>, to: *mut u8) {
    let plan = job.plan;
    let (parts, part_pitch) = (plan.parts(), plan.batch * LINE);
    for place in 0..PLACES {
        // SAFETY: each place has `parts` lines for each tile of the batch, the group's first, and a line of weights for
        // each pair: 16 of a part, but for the last two parts, which have what is left. `to` has a line for each tile.
        unsafe {
            let mut weights = job.weights.as_ptr().add(place * plan.weight_pitch());
            let inputs = job.inputs.as_ptr().add(place * plan.input_pitch());
            let start = if place == BIAS_PLACE {
                _mm512_loadu_si512(job.bias.as_ptr().cast())
            } else {
                _mm512_setzero_si512()
            };
            let mut sums = [start; T];
            for part in 0..parts {
                let mut inputs = inputs.add(part * part_pitch);
                for _ in 0..(plan.quads - part / 2 * 16).min(16) {
                    let w = _mm512_loadu_si512(weights.cast());
                    for t in 0..T {
                        let x = _mm512_set1_epi32(inputs.add(t * LINE).cast::<i32>().read_unaligned());
                        sums[t] = _mm512_dpwssd_epi32(sums[t], x, w);
                    }
                    weights = weights.add(LINE);
                    inputs = inputs.add(4);
                }
            }
            let to = to.add(place * plan.product_pitch());
            for t in 0..T {
                _mm512_storeu_si512(to.add(t * LINE).cast(), sums[t]);
            }
        }
    }
}
