//! Weights in: `G g`, and what `products` need to multiply by Gᵀ.
//!
//! Of a row of `G g`, a, b and c, are kept 4 (a + c), a + 4c and 2b: each value of `G g Gᵀ` is two additions of those, or three.

// Loops over `0..N` with an index are what unrolls completely, so that all arrays become registers.
#![allow(clippy::needless_range_loop)]

use crate::kernels::k8n16::winograd::{LINE, POINTS, Plan, WEIGHT_LINES};
use crate::kernels::k8n16::{BLOCK_STEP, STEP};
use core::arch::x86_64::*;

/// Packed weights, and where transformed ones go: for each held block, for each row, three lines for each pair of
/// inputs.
pub(super) struct Weights<'a> {
    pub(super) plan: &'a Plan,
    pub(super) packed: &'a [u8],
    pub(super) to: &'a mut [u8],
}

impl Weights<'_> {
    /// Lines of a packed block.
    pub(super) fn lines(&self) -> usize {
        9 * self.plan.quads
    }

    /// Where the packed block behind `block` begins; behind the last one, what artifacts keep there: the next operation's.
    pub(super) fn behind(&self, block: usize) -> *const u8 {
        self.packed.as_ptr().wrapping_add((block + 1) * self.lines() * LINE)
    }

    /// Transforms `block` to become held block `at`.
    ///
    /// # Safety
    /// AVX-512 F and BW are available, `packed` holds block `block` and `to` has room for block `at`.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn transform(&mut self, block: usize, at: usize) {
        let plan = self.plan;
        let groups = 4 * plan.quads / STEP;
        let (column, pitch) = (groups * BLOCK_STEP, plan.weight_pitch());
        let from = &self.packed[block * 9 * column..][..9 * column];
        let to = &mut self.to[at * plan.weights_len()..][..plan.weights_len()];
        for quad in 0..plan.quads {
            // Of each 64 channels, a line for each first pair comes before those of the second pairs.
            let (chunk, place) = (quad / 16, quad % 16);
            let in_chunk = (plan.quads - 16 * chunk).min(16);
            let first = WEIGHT_LINES * (32 * chunk + place) * LINE;
            // SAFETY: a block has 9 columns of `groups` steps, two lines each; pair 2 · quads - 1 of a row is the last.
            unsafe {
                let window = from.as_ptr().add(quad * LINE);
                let to = to.as_mut_ptr().add(first);
                one_pair::<0>(window, column, to, pitch);
                one_pair::<1>(window, column, to.add(WEIGHT_LINES * in_chunk * LINE), pitch);
            }
        }
    }
}

/// Transforms one pair of inputs for 16 channels: inputs 0 and 2 of four, or 1 and 3.
///
/// # Safety
/// A line may be read at nine places `column` bytes apart from `window` on, and three lines written at six places
/// `pitch` bytes apart from `to` on.
#[inline(always)]
unsafe fn one_pair<const HALF: usize>(window: *const u8, column: usize, to: *mut u8, pitch: usize) {
    // SAFETY: promised by the caller.
    unsafe {
        let mut rows = [[_mm512_setzero_si512(); 3]; POINTS];
        for j in 0..3 {
            let mut weights = [_mm512_setzero_si512(); 3];
            for i in 0..3 {
                let four = _mm512_loadu_si512(window.add((3 * i + j) * column).cast());
                weights[i] = _mm512_srai_epi16::<8>(if HALF == 0 { _mm512_slli_epi16::<8>(four) } else { four });
            }
            let column = points(weights);
            for i in 0..POINTS {
                rows[i][j] = column[i];
            }
        }
        for i in 0..POINTS {
            let [a, b, c] = rows[i];
            let far = _mm512_add_epi16(a, _mm512_slli_epi16::<2>(c));
            let lines = [_mm512_slli_epi16::<2>(_mm512_add_epi16(a, c)), far, _mm512_add_epi16(b, b)];
            for n in 0..WEIGHT_LINES {
                _mm512_storeu_si512(to.add(i * pitch + n * LINE).cast(), lines[n]);
            }
        }
    }
}

/// Rows of G, times 24 (the last one times 6), the second and third with the other sign.
#[inline(always)]
unsafe fn points([a, b, c]: [__m512i; 3]) -> [__m512i; POINTS] {
    // SAFETY: the callers have AVX-512 F and BW.
    unsafe {
        let six = |v| _mm512_mullo_epi16(v, _mm512_set1_epi16(6));
        let (ends, double) = (_mm512_add_epi16(a, c), _mm512_add_epi16(b, b));
        let far = _mm512_add_epi16(a, _mm512_slli_epi16::<2>(c));
        [
            six(a),
            _mm512_slli_epi16::<2>(_mm512_add_epi16(ends, b)),
            _mm512_slli_epi16::<2>(_mm512_sub_epi16(ends, b)),
            _mm512_add_epi16(far, double),
            _mm512_sub_epi16(far, double),
            six(c),
        ]
    }
}
