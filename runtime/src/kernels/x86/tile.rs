//! The microkernel: `MR` pixels of one row by `NB` blocks of 16 channels and, with `TAIL`, a block of 8.
//!
//! Accumulators start from the bias, stay in registers over all steps of the window and leave them as finished int8
//! or 16-bit outputs. Nothing else of an output pixel ever touches memory.

// Loops over `0..N` with an index are what unrolls completely, so that all arrays become registers.
#![allow(clippy::needless_range_loop)]

use super::params::Channels;
use super::simd::Simd;
use super::store::{finish, is_limited};
use crate::kernels::k8n16::{BLOCK_STEP, TAIL_STEP};
use crate::op::{Conv, Limits};
use core::arch::asm;
use core::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T1, _mm_prefetch};
use core::ptr;

/// Largest window height and width ([`crate::model`] refuses larger ones).
pub(super) const MAX_KERNEL: usize = 15;

/// Bytes that a step of a large tile fetches ahead.
pub(super) const FETCHED: usize = 64;

/// Compiled tiles for some blocks of channels.
pub(super) struct Kind {
    /// Blocks of 16 channels.
    pub(super) blocks: usize,
    /// Whether the block of 8 channels comes with them.
    pub(super) tail: bool,
    /// Whether they fetch ahead.
    pub(super) fetch: bool,
    /// Whether they are those of [`super::pairs`].
    pub(super) pairs: bool,
    /// Widest first.
    pub(super) widths: &'static [Width],
}

/// A compiled tile.
pub(super) struct Width {
    pub(super) pixels: usize,
    /// Runs it; needs the instruction set and a valid [`Tile`].
    pub(super) run: unsafe fn(Tile<'_>),
}

/// What to compute: pixels of an output row, all from the same window rows and for the same blocks of channels.
pub(super) struct Row {
    /// The row ring; or the input, less the padding of a row, where that can be read in place.
    pub(super) base: *const u8,
    /// Bytes from `base` to the rows of the window.
    pub(super) rows: [usize; MAX_KERNEL],
    pub(super) row_count: usize,
    /// Bytes from a pixel's window to the next one's.
    pub(super) distance: usize,
    /// Weights of the first block for the first of `rows`.
    pub(super) weights: *const u8,
    pub(super) block_stride: usize,
    /// Weights of the block of 8 channels for the first of `rows`.
    pub(super) tail_weights: *const u8,
    pub(super) channels: *const Channels,
    /// For convolutions with groups: fours of inputs of a group.
    pub(super) quads: usize,
    /// Likewise: bytes of a pixel in the ring.
    pub(super) pixel: usize,
    /// Weights that will be needed next, which large tiles fetch a cache line a step. Nothing is read from there.
    pub(super) ahead: *const u8,
    /// The row's first output of the first block.
    pub(super) hi: *mut u8,
    /// Null for a narrow output.
    pub(super) lo: *mut u8,
    /// Bytes from an output pixel to the next one.
    pub(super) out_c: usize,
    /// Channels of the part from the first block on.
    pub(super) left: usize,
    /// Steps at the end of each window row of whose inputs only the first four exist: 0 or 1.
    pub(super) half_steps: usize,
    /// Whether accumulators have to be moved left.
    pub(super) pre_shift: bool,
    pub(super) accumulate: bool,
    /// See [`crate::op::Conv::raw`].
    pub(super) raw: bool,
    pub(super) limits: Limits,
    /// See [`super::store::is_limited`].
    pub(super) limited: bool,
}

impl Row {
    /// What a layer's rows have in common: whether and where their windows and outputs lie is still to be said, and so is
    /// what only some kinds of layers have. Windows lie `distance` bytes apart, output pixels `out_c`.
    #[inline(always)]
    pub(super) fn new(conv: &Conv, (distance, out_c): (usize, usize), pre_shift: u8) -> Self {
        Row {
            base: ptr::null(),
            rows: [0; MAX_KERNEL],
            row_count: 0,
            distance,
            weights: ptr::null(),
            block_stride: 0,
            tail_weights: ptr::null(),
            channels: ptr::null(),
            quads: 0,
            pixel: 0,
            ahead: ptr::null(),
            hi: ptr::null_mut(),
            lo: ptr::null_mut(),
            out_c,
            left: 0,
            half_steps: 0,
            pre_shift: pre_shift > 0,
            accumulate: conv.accumulate,
            raw: conv.raw,
            limits: conv.limits,
            limited: is_limited(conv),
        }
    }
}

/// Where a tile lies in its row.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) run: unsafe fn(Tile<'_>),
    /// Bytes from the beginning of a row to the window of the first pixel.
    pub(super) start: usize,
    /// Steps of each window row: those that the first pixel can leave out, because they read a border of zeros, then
    /// whole ones for all pixels, then those that the last pixel can leave out.
    pub(super) steps: [usize; 3],
    /// Bytes from the row's first output to that of the first pixel.
    pub(super) at: usize,
    /// Pixels to store; those beyond are computed from whatever follows in the ring.
    pub(super) pixels: usize,
}

/// Where and what to compute.
///
/// A valid tile satisfies, for a kernel with `MR` pixels and `NB` blocks on a unit with `UNIT` bytes a step:
/// * in each of `rows`, MR windows `distance` bytes apart from `start` on may be read for as many times `UNIT` bytes as
///   `steps` and `half_steps` say, but for the steps that the first or last pixel leaves out;
/// * `weights` may be read for as many steps in each of `NB` blocks `block_stride` apart, `tail_weights` likewise;
/// * `channels` points to `NB` (plus one) entries;
/// * `hi`, and `lo` of a wide output, may be read and written from `at` on for `pixels` pixels, `out_c` bytes apart, of
///   `left` bytes.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) row: &'a Row,
    pub(super) place: &'a Place,
}

pub(super) struct Accumulators<S: Simd, const MR: usize, const NB: usize> {
    pub(super) blocks: [[S::Acc; NB]; MR],
    pub(super) tail: [S::Acc; MR],
}

impl<S: Simd, const MR: usize, const NB: usize> Accumulators<S, MR, NB> {
    #[inline(always)]
    pub(super) fn copy(&self) -> Self {
        Accumulators { blocks: self.blocks, tail: self.tail }
    }
}

/// What moves on with every step.
struct Cursor {
    ahead: *const u8,
    /// Every fourth pixel's activations.
    inputs: [*const u8; 4],
    weights: *const u8,
    tail_weights: *const u8,
}

/// Computes a tile. With `FETCH` its steps ask for weights and its beginning for outputs that may be far away; what small
/// networks compute stays in the first caches, where hints would only cost time.
///
/// # Safety
/// The instruction set of `S` is available and `t` is valid.
#[inline(always)]
pub(super) unsafe fn body<S: Simd, const MR: usize, const NB: usize, const TAIL: bool, const FETCH: bool>(t: Tile<'_>) {
    // SAFETY: `t` is valid: its channels have NB + TAIL entries, and each loop takes as many steps as it may.
    unsafe {
        let mut acc = start::<S, MR, NB, TAIL>(t);
        fetch_outputs::<MR, FETCH>(t);
        let (weights, tail_weights) = (t.row.weights, t.row.tail_weights);
        let mut at = Cursor { inputs: [t.row.base; 4], weights, tail_weights, ahead: t.row.ahead };
        for &row in t.row.rows.iter().take(t.row.row_count) {
            for (i, inputs) in at.inputs.iter_mut().enumerate().take(MR.div_ceil(4)) {
                // Before the input, if the first pixel's first column is left out.
                *inputs = opaque(t.row.base.wrapping_add(t.place.start + row + 4 * i * t.row.distance));
            }
            steps::<S, MR, NB, TAIL, FETCH, 1, 0>(t, &mut acc, &mut at, t.place.steps[0]);
            steps::<S, MR, NB, TAIL, FETCH, 0, 0>(t, &mut acc, &mut at, t.place.steps[1]);
            steps::<S, MR, NB, TAIL, FETCH, 0, 1>(t, &mut acc, &mut at, t.place.steps[2]);
            half_step::<S, MR, NB, TAIL>(t, &mut acc, &mut at);
        }
        finish::<S, MR, NB, TAIL>(t, &acc);
    }
}

#[inline(always)]
pub(super) unsafe fn start<S: Simd, const MR: usize, const NB: usize, const TAIL: bool>(
    t: Tile<'_>,
) -> Accumulators<S, MR, NB> {
    // SAFETY: the tile has NB entries of channels, and one more with TAIL (without it, entry 0 is read once more).
    unsafe {
        let tail = S::acc((*t.row.channels.add(if TAIL { NB } else { 0 })).bias.as_ptr());
        let mut blocks = [[tail; NB]; MR];
        for b in 0..NB {
            let bias = S::acc((*t.row.channels.add(b)).bias.as_ptr());
            for row in &mut blocks {
                row[b] = bias;
            }
        }
        Accumulators { blocks, tail: [tail; MR] }
    }
}

/// Asks for the cache lines of the tile's outputs, which hold the residual or will be written.
#[inline(always)]
fn fetch_outputs<const MR: usize, const FETCH: bool>(t: Tile<'_>) {
    if !FETCH {
        return;
    }
    for p in 0..MR {
        let at = t.place.at + p * t.row.out_c;
        hint::<_MM_HINT_ET0>(t.row.hi.wrapping_add(at));
        if !t.row.lo.is_null() {
            hint::<_MM_HINT_ET0>(t.row.lo.wrapping_add(at));
        }
    }
}

/// A hint that faults nowhere, wherever it points.
#[inline(always)]
pub(super) fn hint<const HOW: i32>(at: *const u8) {
    // SAFETY: nothing is read, and all x86-64 processors have the instruction.
    unsafe { _mm_prefetch::<HOW>(at.cast()) }
}

/// The same pointer, but compilers do not see that. They would keep one pointer for each pixel otherwise, more than
/// there are registers, instead of adding the pixel's distance in the address.
#[inline(always)]
pub(super) fn opaque(mut p: *const u8) -> *const u8 {
    // SAFETY: no instruction at all, so no memory is touched either.
    #[allow(clippy::pointers_in_nomem_asm_block)]
    unsafe {
        asm!("/* {0} */", inout(reg) p, options(pure, nomem, nostack, preserves_flags))
    };
    p
}

/// `count` steps of all pixels but the first `FROM` and the last `OMIT` ones.
#[inline(always)]
unsafe fn steps<
    S: Simd,
    const MR: usize,
    const NB: usize,
    const TAIL: bool,
    const FETCH: bool,
    const FROM: usize,
    const OMIT: usize,
>(
    t: Tile<'_>,
    acc: &mut Accumulators<S, MR, NB>,
    at: &mut Cursor,
    count: usize,
) {
    for _ in 0..count {
        // SAFETY: pixel p < MR reads its window at p * distance, inside of what the tile may read; so does each block.
        unsafe {
            dot_blocks::<S, MR, NB, FROM, OMIT, 0>(t, acc, at);
            dot_blocks::<S, MR, NB, FROM, OMIT, 1>(t, acc, at);
            finish_step::<S, MR, NB, TAIL, FROM, OMIT>(t, acc, at);
            if FETCH {
                hint::<_MM_HINT_T1>(at.ahead);
                at.ahead = at.ahead.wrapping_add(FETCHED);
            }
        }
    }
}

/// The step at the end of a window row of whose inputs only the first four exist, if there is one.
#[inline(always)]
unsafe fn half_step<S: Simd, const MR: usize, const NB: usize, const TAIL: bool>(
    t: Tile<'_>,
    acc: &mut Accumulators<S, MR, NB>,
    at: &mut Cursor,
) {
    for _ in 0..t.row.half_steps {
        // SAFETY: as in `steps`.
        unsafe {
            dot_blocks::<S, MR, NB, 0, 0, 0>(t, acc, at);
            finish_step::<S, MR, NB, TAIL, 0, 0>(t, acc, at);
        }
    }
}

/// Bytes from the first of four pixels to each of them.
#[inline(always)]
fn places(t: Tile<'_>) -> [usize; 4] {
    [0, t.row.distance, 2 * t.row.distance, 3 * t.row.distance]
}

/// Half `HALF` of a step's inputs, for all blocks of 16 channels.
#[inline(always)]
unsafe fn dot_blocks<
    S: Simd,
    const MR: usize,
    const NB: usize,
    const FROM: usize,
    const OMIT: usize,
    const HALF: usize,
>(
    t: Tile<'_>,
    acc: &mut Accumulators<S, MR, NB>,
    at: &Cursor,
) {
    let places = places(t);
    // SAFETY: see `steps`.
    unsafe {
        let mut w: [S::Weights; NB] = [S::weights(if NB > 0 { at.weights } else { at.tail_weights }); NB];
        for b in 0..NB {
            w[b] = S::weights(at.weights.add(b * t.row.block_stride + HALF * BLOCK_STEP / 2));
        }
        for p in FROM..MR - OMIT {
            let from = at.inputs[p / 4].add(places[p % 4]);
            let x = if HALF == 0 { S::low(from) } else { S::high(from) };
            for b in 0..NB {
                acc.blocks[p][b] = S::dot(acc.blocks[p][b], x, w[b]);
            }
        }
    }
}

/// The block of 8 channels, which takes a step at once, and on to the next step.
#[inline(always)]
unsafe fn finish_step<
    S: Simd,
    const MR: usize,
    const NB: usize,
    const TAIL: bool,
    const FROM: usize,
    const OMIT: usize,
>(
    t: Tile<'_>,
    acc: &mut Accumulators<S, MR, NB>,
    at: &mut Cursor,
) {
    let places = places(t);
    // SAFETY: see `steps`.
    unsafe {
        at.weights = at.weights.add(if NB > 0 { BLOCK_STEP } else { 0 });
        if TAIL {
            let w = S::weights(at.tail_weights);
            for p in FROM..MR - OMIT {
                let x = S::whole(at.inputs[p / 4].add(places[p % 4]));
                acc.tail[p] = S::dot(acc.tail[p], x, w);
            }
            at.tail_weights = at.tail_weights.add(TAIL_STEP);
        }
        for inputs in at.inputs.iter_mut().take(MR.div_ceil(4)) {
            *inputs = opaque(inputs.add(S::UNIT));
        }
    }
}
