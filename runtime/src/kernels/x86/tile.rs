//! The microkernel: `MR` pixels of one row by `NB` blocks of 16 channels and, with `TAIL`, a block of 8.
//!
//! Accumulators start from the bias, stay in registers over all steps of the window and leave them as finished int8
//! or 16-bit outputs. Nothing else of an output pixel ever touches memory.

use super::simd::Simd;
use crate::arith::{add_narrow, add_wide, join, split};
use crate::kernels::k8n16::{BLOCK_STEP, TAIL_STEP};
use crate::op::Limits;

/// Largest window height and width ([`crate::model`] refuses larger ones).
pub(super) const MAX_KERNEL: usize = 15;

/// Compiled tiles for some blocks of channels.
pub(super) struct Kind {
    /// Blocks of 16 channels.
    pub(super) blocks: usize,
    /// Whether the block of 8 channels comes with them.
    pub(super) tail: bool,
    /// Widest first.
    pub(super) widths: &'static [Width],
}

/// A compiled tile.
pub(super) struct Width {
    pub(super) pixels: usize,
    /// Runs it; needs the instruction set and a valid [`Tile`].
    pub(super) run: unsafe fn(&Tile),
}

/// Parameters of a block, spread over 16 lanes so that tiles only load them.
///
/// With `acc` moved left by the layer's `pre_shift` and `hi = floor(acc * multiplier / 2^32)`, the requantized value is
/// `(hi + rounding) >> shift`, which is the law's single rounding ([`crate::arith::requantize`]) as long as the total
/// right shift is at least 33. In a block of 8 channels each bias is followed by a zero (even and odd lanes are added
/// at the end) and the other arrays hold the eight channels twice.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Channels {
    pub(super) bias: [i32; 16],
    pub(super) multiplier: [i32; 16],
    /// `multiplier` with odd lanes moved to even ones.
    pub(super) multiplier_odd: [i32; 16],
    pub(super) pre_shift: [i32; 16],
    pub(super) rounding: [i32; 16],
    pub(super) shift: [i32; 16],
}

impl Channels {
    #[inline(always)]
    pub(super) fn new(bias: [i32; 16], multiplier: [i32; 16], right_shift: [u8; 16], pre_shift: u8) -> Self {
        // Beyond 31 the result is 0 for every `hi`, as it is for 31.
        let shift = right_shift.map(|r| (i32::from(r) + i32::from(pre_shift) - 32).clamp(1, 31));
        Channels {
            bias,
            multiplier,
            multiplier_odd: core::array::from_fn(|i| multiplier[i | 1]),
            pre_shift: [i32::from(pre_shift); 16],
            rounding: shift.map(|n| 1 << (n - 1)),
            shift,
        }
    }
}

/// Where and what to compute.
///
/// A valid tile satisfies, for a kernel with `MR` pixels and `NB` blocks on a unit with `UNIT` bytes a step:
/// * each of `rows` may be read from `start` on for `(MR - 1) * distance` bytes and the sum of `steps` times
///   `UNIT` bytes;
/// * `weights` may be read for as many steps in each of `NB` blocks `block_stride` apart, `tail_weights` likewise;
/// * `channels` points to `NB` (plus one) entries;
/// * `out_hi`, and `out_lo` of a wide output, may be read and written for `pixels` pixels of `out_c` bytes, of which
///   `left` may be written.
pub(super) struct Tile {
    /// Ring rows of the window.
    pub(super) rows: [*const u8; MAX_KERNEL],
    pub(super) row_count: usize,
    /// Bytes from the beginning of a row to the window of the tile's first pixel.
    pub(super) start: usize,
    /// Bytes from a pixel's window to the next one's.
    pub(super) distance: usize,
    /// Steps of each window row: those that the first pixel can leave out, because they read a border of zeros, then
    /// those for all pixels, then those that the last pixel can leave out.
    pub(super) steps: [usize; 3],
    /// Weights of the first block for the first of `rows`.
    pub(super) weights: *const u8,
    pub(super) block_stride: usize,
    /// Weights of the block of 8 channels for the first of `rows`.
    pub(super) tail_weights: *const u8,
    pub(super) channels: *const Channels,
    pub(super) out_hi: *mut u8,
    /// Null for a narrow output.
    pub(super) out_lo: *mut u8,
    pub(super) out_c: usize,
    /// Channels from the first block on.
    pub(super) left: usize,
    /// Pixels to store; those beyond are computed from whatever follows in the ring.
    pub(super) pixels: usize,
    pub(super) accumulate: bool,
    pub(super) limits: Limits,
}

struct Accumulators<S: Simd, const MR: usize, const NB: usize> {
    blocks: [[S::Acc; NB]; MR],
    tail: [S::Acc; MR],
}

/// What moves on with every step.
struct Cursor {
    /// Every fourth pixel's activations.
    inputs: [*const u8; 4],
    weights: *const u8,
    tail_weights: *const u8,
}

/// Computes a tile.
///
/// # Safety
/// The instruction set of `S` is available and `t` is valid.
#[inline(always)]
pub(super) unsafe fn body<S: Simd, const MR: usize, const NB: usize, const TAIL: bool>(t: &Tile) {
    // SAFETY: `t` is valid: its channels have NB + TAIL entries, and each loop takes as many steps as it may.
    unsafe {
        let mut acc = start::<S, MR, NB, TAIL>(t);
        let mut at = Cursor { inputs: [t.rows[0]; 4], weights: t.weights, tail_weights: t.tail_weights };
        for &row in t.rows.iter().take(t.row_count) {
            for (i, inputs) in at.inputs.iter_mut().enumerate().take(MR.div_ceil(4)) {
                *inputs = row.add(t.start + 4 * i * t.distance);
            }
            steps::<S, MR, NB, TAIL, 1, 0>(t, &mut acc, &mut at, t.steps[0]);
            steps::<S, MR, NB, TAIL, 0, 0>(t, &mut acc, &mut at, t.steps[1]);
            steps::<S, MR, NB, TAIL, 0, 1>(t, &mut acc, &mut at, t.steps[2]);
        }
        finish::<S, MR, NB, TAIL>(t, &acc);
    }
}

#[inline(always)]
unsafe fn start<S: Simd, const MR: usize, const NB: usize, const TAIL: bool>(t: &Tile) -> Accumulators<S, MR, NB> {
    // SAFETY: the tile has NB entries of channels, and one more with TAIL (without it, entry 0 is read once more).
    unsafe {
        let tail = S::acc((*t.channels.add(if TAIL { NB } else { 0 })).bias.as_ptr());
        let mut blocks = [[tail; NB]; MR];
        for b in 0..NB {
            let bias = S::acc((*t.channels.add(b)).bias.as_ptr());
            for row in &mut blocks {
                row[b] = bias;
            }
        }
        Accumulators { blocks, tail: [tail; MR] }
    }
}

/// `count` steps of all pixels but the first `FROM` and the last `OMIT` ones.
#[inline(always)]
unsafe fn steps<S: Simd, const MR: usize, const NB: usize, const TAIL: bool, const FROM: usize, const OMIT: usize>(
    t: &Tile,
    acc: &mut Accumulators<S, MR, NB>,
    at: &mut Cursor,
    count: usize,
) {
    let places = [0, t.distance, 2 * t.distance, 3 * t.distance];
    for _ in 0..count {
        // SAFETY: pixel p < MR reads the ring at p * distance, inside of what the tile may read; so does each block.
        unsafe {
            let mut w: [S::Weights; NB] = [S::weights(if NB > 0 { at.weights } else { at.tail_weights }); NB];
            for b in 1..NB {
                w[b] = S::weights(at.weights.add(b * t.block_stride));
            }
            for p in FROM..MR - OMIT {
                let x = S::low(at.inputs[p / 4].add(places[p % 4]));
                for b in 0..NB {
                    acc.blocks[p][b] = S::dot(acc.blocks[p][b], x, w[b]);
                }
            }
            for b in 0..NB {
                w[b] = S::weights(at.weights.add(b * t.block_stride + BLOCK_STEP / 2));
            }
            for p in FROM..MR - OMIT {
                let x = S::high(at.inputs[p / 4].add(places[p % 4]));
                for b in 0..NB {
                    acc.blocks[p][b] = S::dot(acc.blocks[p][b], x, w[b]);
                }
            }
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
                *inputs = inputs.add(S::UNIT);
            }
        }
    }
}

/// Requantizes and stores all accumulators.
#[inline(always)]
unsafe fn finish<S: Simd, const MR: usize, const NB: usize, const TAIL: bool>(t: &Tile, acc: &Accumulators<S, MR, NB>) {
    // SAFETY: as in `start`; `store_block` and `store_tail` look at the tile's `pixels` and `left` themselves.
    unsafe {
        for b in 0..NB {
            let channels = &*t.channels.add(b);
            for first in (0..MR).step_by(S::PIXELS) {
                let mut values = [acc.blocks[first][b]; 4];
                for i in 0..S::PIXELS {
                    values[i] = S::requantize(acc.blocks[first + i][b], channels);
                }
                store_block::<S>(t, first, 16 * b, S::block_words(values));
            }
        }
        if TAIL {
            let channels = &*t.channels.add(NB);
            for first in (0..MR).step_by(S::PIXELS) {
                let mut pairs = [acc.tail[first]; 2];
                for i in 0..S::PIXELS / 2 {
                    let sums = S::fold(acc.tail[first + 2 * i], acc.tail[first + 2 * i + 1]);
                    pairs[i] = S::requantize(sums, channels);
                }
                store_tail::<S>(t, first, 16 * NB, S::tail_words(pairs));
            }
        }
    }
}

/// Adds a block of 16 channels to the zero point or the residual, applies the limits and stores the outputs.
#[inline(always)]
unsafe fn store_block<S: Simd>(t: &Tile, pixel: usize, channel: usize, words: [S::Lanes; 2]) {
    if pixel + S::PIXELS > t.pixels || channel + 16 > t.left {
        let mut buffers = [[0; 32]; 2];
        // SAFETY: only the instruction set is asked for.
        unsafe {
            S::spill(&mut buffers[0], words[0]);
            S::spill(&mut buffers[1], words[1]);
        }
        // SAFETY: the tile is valid.
        return unsafe { store_some(t, (pixel, S::PIXELS), channel, &buffers) };
    }
    let at = pixel * t.out_c + channel;
    // SAFETY: the tile's planes hold `pixels` pixels of `out_c` bytes, of which `left` are its channels: PIXELS pixels
    // from `pixel` on and 16 channels from `channel` on are inside, as was just seen.
    unsafe {
        let (hi, lo) = (t.out_hi.add(at), t.out_lo.wrapping_add(at));
        let (min, max, zero) = (S::splat(t.limits.min), S::splat(t.limits.max), S::splat(t.limits.zero));
        let base = match (t.accumulate, t.out_lo.is_null()) {
            (false, _) => [zero, zero],
            (true, true) => S::extend(S::load(hi, t.out_c)),
            (true, false) => S::join(S::load(hi, t.out_c), S::load(lo, t.out_c)),
        };
        let sums = [S::add(base[0], words[0]), S::add(base[1], words[1])];
        if t.out_lo.is_null() {
            S::store(hi, t.out_c, S::narrow([S::clamp(sums[0], min, max), S::clamp(sums[1], min, max)]));
        } else {
            let sums = [S::add(sums[0], words[0]), S::add(sums[1], words[1])];
            let (high, low) = S::split([S::clamp(sums[0], min, max), S::clamp(sums[1], min, max)]);
            S::store(hi, t.out_c, high);
            S::store(lo, t.out_c, low);
        }
    }
}

/// [`store_block`] for a block of 8 channels.
#[inline(always)]
unsafe fn store_tail<S: Simd>(t: &Tile, pixel: usize, channel: usize, words: S::Lanes) {
    if pixel + S::PIXELS > t.pixels || channel + 8 > t.left {
        let mut buffers = [[0; 32]; 2];
        // SAFETY: only the instruction set is asked for.
        unsafe { S::spill(&mut buffers[0], words) };
        // SAFETY: the tile is valid.
        return unsafe { store_some(t, (pixel, S::PIXELS), channel, &buffers[..1]) };
    }
    let at = pixel * t.out_c + channel;
    // SAFETY: as in `store_block`, with 8 channels.
    unsafe {
        let (hi, lo) = (t.out_hi.add(at), t.out_lo.wrapping_add(at));
        let (min, max, zero) = (S::splat(t.limits.min), S::splat(t.limits.max), S::splat(t.limits.zero));
        let [base, _] = match (t.accumulate, t.out_lo.is_null()) {
            (false, _) => [zero, zero],
            (true, true) => S::extend(S::load_half(hi, t.out_c)),
            (true, false) => S::join(S::load_half(hi, t.out_c), S::load_half(lo, t.out_c)),
        };
        let sum = S::add(base, words);
        if t.out_lo.is_null() {
            let sum = S::clamp(sum, min, max);
            S::store_half(hi, t.out_c, S::narrow([sum, sum]));
        } else {
            let sum = S::clamp(S::add(sum, words), min, max);
            let (high, low) = S::split([sum, sum]);
            S::store_half(hi, t.out_c, high);
            S::store_half(lo, t.out_c, low);
        }
    }
}

/// The same for the last pixels of a row and for blocks that are not full: one output at a time. Each buffer holds
/// eight channels of each of `count` pixels from `first` on.
///
/// # Safety
/// The tile is valid.
#[cold]
#[inline(never)]
unsafe fn store_some(t: &Tile, (first, count): (usize, usize), channel: usize, buffers: &[[i16; 32]]) {
    let pixels = count.min(t.pixels.saturating_sub(first));
    for (half, buffer) in buffers.iter().enumerate() {
        let channel = channel + 8 * half;
        let channels = 8.min(t.left.saturating_sub(channel));
        for (p, values) in buffer.chunks_exact(8).enumerate().take(pixels) {
            for (c, &value) in values.iter().enumerate().take(channels) {
                let at = (first + p) * t.out_c + channel + c;
                // SAFETY: pixel first + p < t.pixels and channel + c < t.left <= out_c.
                unsafe { store_one(t, at, value) };
            }
        }
    }
}

/// # Safety
/// The tile's planes hold more than `at` bytes.
unsafe fn store_one(t: &Tile, at: usize, value: i16) {
    let limits = t.limits;
    let wide = !t.out_lo.is_null();
    // SAFETY: promised by the caller; a wide output has both planes.
    unsafe {
        let hi = t.out_hi.add(at);
        let base = match (t.accumulate, wide) {
            (false, _) => limits.zero,
            (true, true) => join(*hi, *t.out_lo.add(at)),
            (true, false) => i16::from(*hi as i8),
        };
        let sum = if wide { add_wide(base, value) } else { add_narrow(base, value) };
        let sum = sum.max(limits.min).min(limits.max);
        if wide {
            (*hi, *t.out_lo.add(at)) = split(sum);
        } else {
            *hi = sum as u8;
        }
    }
}
