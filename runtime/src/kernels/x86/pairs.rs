//! Tiles for layers with a single block of 16 channels, with two accumulators for a pixel.
//!
//! The ordinary tile multiplies four inputs of a pixel, in all lanes, with their weights for 16 channels: with one block of
//! channels, every product loads inputs of its own, and the load units are as busy as the multipliers. Here eight inputs, in
//! all 64-bit lanes, meet their weights for 8 channels, twice, and once more for the block of 8 channels behind: one load for
//! two or three products. What that costs is two instructions a step that interleave the weights (of the first four inputs
//! and of the last four), and three a pixel that add even and odd lanes at the end.
//!
//! Whether that pays depends on the processor. On AMD's Zen 5, which multiplies 512 bits twice a cycle and loads as often,
//! layers of 24 channels take a tenth less time, those of 16 channels 3 % (example `layers`). Zen 4 multiplies once a cycle:
//! loads cost nothing there, additional instructions do.

// Loops over `0..N` with an index are what unrolls completely, so that all arrays become registers.
#![allow(clippy::needless_range_loop)]

use super::avx512::Avx512;
use super::simd::Simd;
use super::store::finish;
use super::tile::{Accumulators, Tile, opaque};
use crate::kernels::k8n16::{BLOCK_STEP, STEP, TAIL_STEP};
use core::arch::x86_64::*;

/// Whether this processor gains by it: AMD's from family 1Ah on.
pub(super) fn pay() -> bool {
    #[allow(unused_unsafe, reason = "safe in newer versions of Rust")]
    // SAFETY: every x86-64 processor has the instruction and these leaves.
    let (vendor, version) = unsafe { (__cpuid(0), __cpuid(1).eax) };
    let amd = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD";
    let (family, more) = (version >> 8 & 15, version >> 20 & 255);
    amd && family == 15 && family + more >= 0x1a
}

/// Sums of a tile's pixels: of two times 8 channels, and of the 8 channels behind.
struct Sums<const MR: usize> {
    pairs: [[__m512i; 2]; MR],
    tail: [__m512i; MR],
}

/// What moves on with every step.
struct Cursor {
    /// Every fourth pixel's activations.
    inputs: [*const u8; 4],
    weights: *const u8,
    tail_weights: *const u8,
}

/// Computes a tile of `MR` pixels and a block of 16 channels, with `TAIL` one of 8, too.
///
/// # Safety
/// AVX-512 F, BW, VL and VNNI are available, and `t` is valid, without half steps.
#[inline(always)]
pub(super) unsafe fn body<const MR: usize, const TAIL: bool>(t: Tile<'_>) {
    // SAFETY: `t` is valid: its channels have 1 + TAIL entries, and each loop takes as many steps as it may.
    unsafe {
        let mut sums = start::<MR, TAIL>(t);
        let mut at = Cursor { inputs: [t.row.base; 4], weights: t.row.weights, tail_weights: t.row.tail_weights };
        for &row in t.row.rows.iter().take(t.row.row_count) {
            for (i, inputs) in at.inputs.iter_mut().enumerate().take(MR.div_ceil(4)) {
                // Before the input, if the first pixel's first column is left out.
                *inputs = opaque(t.row.base.wrapping_add(t.place.start + row + 4 * i * t.row.distance));
            }
            steps::<MR, TAIL, 1, 0>(t, &mut sums, &mut at, t.place.steps[0]);
            steps::<MR, TAIL, 0, 0>(t, &mut sums, &mut at, t.place.steps[1]);
            steps::<MR, TAIL, 0, 1>(t, &mut sums, &mut at, t.place.steps[2]);
        }
        let mut acc = Accumulators::<Avx512, MR, 1> { blocks: [[sums.tail[0]]; MR], tail: sums.tail };
        for p in 0..MR {
            acc.blocks[p][0] = add_lanes(sums.pairs[p]);
        }
        finish::<Avx512, MR, 1, TAIL>(t, &acc);
    }
}

/// # Safety
/// As for [`body`].
#[inline(always)]
unsafe fn start<const MR: usize, const TAIL: bool>(t: Tile<'_>) -> Sums<MR> {
    // SAFETY: the tile has an entry of channels, and one more with TAIL (without it, entry 0 is read once more).
    unsafe {
        let bias = Avx512::acc((*t.row.channels).bias.as_ptr());
        let tail = Avx512::acc((*t.row.channels.add(usize::from(TAIL))).bias.as_ptr());
        Sums { pairs: [interleave([bias, _mm512_setzero_si512()]); MR], tail: [tail; MR] }
    }
}

/// Lanes of both in turn: of channels 0, 1, 4, 5, ... and of channels 2, 3, 6, 7, ...
///
/// # Safety
/// AVX-512 F is available.
#[inline(always)]
unsafe fn interleave([even, odd]: [__m512i; 2]) -> [__m512i; 2] {
    // SAFETY: promised by the caller.
    unsafe { [_mm512_unpacklo_epi32(even, odd), _mm512_unpackhi_epi32(even, odd)] }
}

/// Adds the lanes that [`interleave`] has put side by side: sums of 16 channels, in order.
///
/// # Safety
/// AVX-512 F is available.
#[inline(always)]
unsafe fn add_lanes(pair: [__m512i; 2]) -> __m512i {
    // SAFETY: promised by the caller.
    unsafe {
        let [a, b] = pair.map(|v| _mm512_castsi512_ps(v));
        let (even, odd) = (_mm512_shuffle_ps::<0b10_00_10_00>(a, b), _mm512_shuffle_ps::<0b11_01_11_01>(a, b));
        _mm512_add_epi32(_mm512_castps_si512(even), _mm512_castps_si512(odd))
    }
}

/// `count` steps of all pixels but the first `FROM` and the last `OMIT` ones.
///
/// # Safety
/// As for [`body`]; the tile has so many steps left, which these pixels may read.
#[inline(always)]
unsafe fn steps<const MR: usize, const TAIL: bool, const FROM: usize, const OMIT: usize>(
    t: Tile<'_>,
    sums: &mut Sums<MR>,
    at: &mut Cursor,
    count: usize,
) {
    let places = [0, t.row.distance, 2 * t.row.distance, 3 * t.row.distance];
    for _ in 0..count {
        // SAFETY: pixel p < MR reads its window at p * distance, inside of what the tile may read; weights go on for as many
        // steps.
        unsafe {
            let halves = [0, BLOCK_STEP / 2].map(|half| Avx512::weights(at.weights.add(half)));
            let weights = interleave(halves);
            let tail = Avx512::weights(if TAIL { at.tail_weights } else { at.weights });
            for p in FROM..MR - OMIT {
                let inputs = Avx512::whole(at.inputs[p / 4].add(places[p % 4]));
                for half in 0..2 {
                    sums.pairs[p][half] = Avx512::dot(sums.pairs[p][half], inputs, weights[half]);
                }
                if TAIL {
                    sums.tail[p] = Avx512::dot(sums.tail[p], inputs, tail);
                }
            }
            at.weights = at.weights.add(BLOCK_STEP);
            at.tail_weights = at.tail_weights.wrapping_add(if TAIL { TAIL_STEP } else { 0 });
            for inputs in at.inputs.iter_mut().take(MR.div_ceil(4)) {
                *inputs = opaque(inputs.add(STEP));
            }
        }
    }
}
