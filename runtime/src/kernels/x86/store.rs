//! From accumulators to outputs: requantization, zero point or residual, limits, and the stores.

// Loops over `0..N` with an index are what unrolls completely, so that all arrays become registers.
#![allow(clippy::needless_range_loop)]

use super::params::Channels;
use super::simd::Simd;
use super::tile::{Accumulators, Tile};
use crate::arith::{add_narrow, add_raw, add_wide, join, split};
use crate::op::{Conv, Limits};
use core::hint::black_box;

/// Activations are kept as unsigned bytes, see [`crate::op::Layout::plane_flip`].
const FLIP: u8 = crate::op::Layout::K8N16.plane_flip();

/// How outputs are stored: whether they are added to the residual, whether they are wide, and whether they or the
/// residual are raw, which only wide ones can be.
trait Form {
    const ACCUMULATE: bool;
    const WIDE: bool;
    const RAW: bool;
}

struct To<const ACCUMULATE: bool, const WIDE: bool, const RAW: bool>;

impl<const ACCUMULATE: bool, const WIDE: bool, const RAW: bool> Form for To<ACCUMULATE, WIDE, RAW> {
    const ACCUMULATE: bool = ACCUMULATE;
    const WIDE: bool = WIDE;
    const RAW: bool = RAW;
}

/// Requantizes and stores all accumulators.
///
/// # Safety
/// The instruction set of `S` is available and `t` is valid for `MR` pixels, `NB` blocks and the block of 8 channels.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd, const MR: usize, const NB: usize, const TAIL: bool>(
    t: Tile<'_>,
    acc: &Accumulators<S, MR, NB>,
) {
    // SAFETY: the tile is valid; vectors are only stored where all pixels and channels exist.
    unsafe {
        if t.place.pixels < MR || t.row.left < 16 * NB + if TAIL { 8 } else { 0 } {
            // In memory, where loops can get at it: the original stays in registers.
            return store_some::<S, MR, NB, TAIL>(t, black_box(&acc.copy()));
        }
        match (t.row.accumulate, t.row.lo.is_null(), t.row.raw) {
            (false, true, _) => store_all::<S, To<false, false, false>, MR, NB, TAIL>(t, acc),
            (false, false, false) => store_all::<S, To<false, true, false>, MR, NB, TAIL>(t, acc),
            (false, false, true) => store_all::<S, To<false, true, true>, MR, NB, TAIL>(t, acc),
            (true, true, _) => store_all::<S, To<true, false, false>, MR, NB, TAIL>(t, acc),
            (true, false, false) => store_all::<S, To<true, true, false>, MR, NB, TAIL>(t, acc),
            (true, false, true) => store_all::<S, To<true, true, true>, MR, NB, TAIL>(t, acc),
        }
    }
}

/// Blocks whose outputs for one pixel fill a cache line: a tile of so many stores pixel by pixel. Only units with four
/// lanes have such tiles.
pub(super) const LINE: usize = 4;

/// Stores a tile of which all pixels and channels exist. What could be loops is written out, because compilers leave
/// loops this large alone, and then the accumulators would not stay in registers.
#[inline(always)]
unsafe fn store_all<S: Simd, F: Form, const MR: usize, const NB: usize, const TAIL: bool>(
    t: Tile<'_>,
    acc: &Accumulators<S, MR, NB>,
) {
    const { assert!(NB == LINE || NB < LINE && MR <= 4 * S::PIXELS) };
    // SAFETY: promised by the caller.
    unsafe {
        if NB == LINE {
            return store_lines::<S, F, MR, NB>(t, acc);
        }
        store_block::<S, F, MR, NB, 0>(t, acc);
        store_block::<S, F, MR, NB, 1>(t, acc);
        store_block::<S, F, MR, NB, 2>(t, acc);
        if TAIL {
            store_tail::<S, F, MR, NB, 0>(t, acc);
            store_tail::<S, F, MR, NB, 1>(t, acc);
            store_tail::<S, F, MR, NB, 2>(t, acc);
            store_tail::<S, F, MR, NB, 3>(t, acc);
        }
    }
}

/// Stores the lines of all pixels; written out like the above.
#[inline(always)]
unsafe fn store_lines<S: Simd, F: Form, const MR: usize, const NB: usize>(t: Tile<'_>, acc: &Accumulators<S, MR, NB>) {
    const { assert!(NB < LINE || MR <= 7 && S::PIXELS == LINE) };
    // SAFETY: promised by the caller.
    unsafe {
        store_line::<S, F, MR, NB, 0>(t, acc);
        store_line::<S, F, MR, NB, 1>(t, acc);
        store_line::<S, F, MR, NB, 2>(t, acc);
        store_line::<S, F, MR, NB, 3>(t, acc);
        store_line::<S, F, MR, NB, 4>(t, acc);
        store_line::<S, F, MR, NB, 5>(t, acc);
        store_line::<S, F, MR, NB, 6>(t, acc);
    }
}

/// Stores four blocks of pixel `P`, if there are so many pixels: blocks are to them what pixels are to
/// [`store_pixels`].
#[inline(always)]
unsafe fn store_line<S: Simd, F: Form, const MR: usize, const NB: usize, const P: usize>(
    t: Tile<'_>,
    acc: &Accumulators<S, MR, NB>,
) {
    if P >= MR {
        return;
    }
    // SAFETY: pixel P exists with 64 channels (`finish` has looked), and the tile has four entries of channels.
    unsafe {
        let mut sums = [acc.blocks[P][0]; 4];
        for b in 0..4 {
            let sum = [acc.blocks[P][if b < NB { b } else { 0 }]];
            sums[b] = requantize::<S, 1>(t, sum, &*t.row.channels.add(b), 1, F::WIDE)[0];
        }
        store_words::<S, F>(t, S::block_words(sums), t.place.at + P * t.row.out_c, 16, S::PIXELS);
    }
}

#[inline(always)]
unsafe fn store_block<S: Simd, F: Form, const MR: usize, const NB: usize, const B: usize>(
    t: Tile<'_>,
    acc: &Accumulators<S, MR, NB>,
) {
    // SAFETY: promised by the caller.
    unsafe {
        store_pixels::<S, F, MR, NB, B, 0>(t, acc);
        store_pixels::<S, F, MR, NB, B, 1>(t, acc);
        store_pixels::<S, F, MR, NB, B, 2>(t, acc);
        store_pixels::<S, F, MR, NB, B, 3>(t, acc);
    }
}

/// Words of sixteens of one kind: rounded results of the law's requantization, or twice them, not rounded yet, for
/// narrow outputs.
#[inline(always)]
unsafe fn requantize<S: Simd, const N: usize>(
    t: Tile<'_>,
    mut acc: [S::Acc; N],
    channels: &Channels,
    used: usize,
    rounded: bool,
) -> [S::Acc; N] {
    // SAFETY: only the instruction set is asked for.
    unsafe {
        if t.row.pre_shift {
            for i in 0..used {
                acc[i] = S::pre_shift(acc[i], channels);
            }
        }
        for i in 0..used {
            let scaled = S::scale(acc[i], channels);
            acc[i] = if rounded { S::round(scaled, channels) } else { S::twice(scaled, channels) };
        }
        acc
    }
}

/// Words of block `b` for `PIXELS` pixels from `first` on: channels 0..8 and 8..16.
#[inline(always)]
unsafe fn block_words<S: Simd, const MR: usize, const NB: usize>(
    t: Tile<'_>,
    acc: &Accumulators<S, MR, NB>,
    (first, b): (usize, usize),
    rounded: bool,
) -> [S::Lanes; 2] {
    // SAFETY: the tile has more than `b` entries of channels.
    unsafe {
        let mut sums = [acc.blocks[first][b]; 4];
        for i in 1..S::PIXELS {
            sums[i] = acc.blocks[if first + i < MR { first + i } else { MR - 1 }][b];
        }
        S::block_words(requantize::<S, 4>(t, sums, &*t.row.channels.add(b), S::PIXELS, rounded))
    }
}

/// Words of the block of 8 channels for `PIXELS` pixels from `first` on.
#[inline(always)]
unsafe fn tail_words<S: Simd, const MR: usize, const NB: usize>(
    t: Tile<'_>,
    acc: &Accumulators<S, MR, NB>,
    first: usize,
    rounded: bool,
) -> S::Lanes {
    // SAFETY: the tile has an entry of channels behind those of its blocks.
    unsafe {
        let mut pairs = [acc.tail[first]; 2];
        for i in 0..S::PIXELS / 2 {
            let at = |p: usize| if p < MR { p } else { MR - 1 };
            pairs[i] = S::fold(acc.tail[at(first + 2 * i)], acc.tail[at(first + 2 * i + 1)]);
        }
        S::tail_words(requantize::<S, 2>(t, pairs, &*t.row.channels.add(NB), S::PIXELS / 2, rounded))
    }
}

/// The law's last step for a wide output: the value is added twice to the zero point or the residual; a raw residual
/// has been added to the value before, and a raw output is the value itself.
#[inline(always)]
unsafe fn add_wide_words<S: Simd, F: Form>(t: Tile<'_>, mut base: S::Lanes, mut words: S::Lanes) -> S::Lanes {
    // SAFETY: only the instruction set is asked for.
    unsafe {
        if F::RAW {
            if !F::ACCUMULATE {
                return words;
            }
            words = S::add(base, words);
            base = S::splat(t.row.limits.zero);
        }
        let (sum, min) = (S::add(S::add(base, words), words), S::splat(t.row.limits.min));
        if t.row.limited { S::clamp(sum, min, S::splat(t.row.limits.max)) } else { S::raise(sum, min) }
    }
}

/// Limits of a narrow output as the unsigned bytes that are stored.
#[inline(always)]
pub(super) fn byte_limits(limits: Limits) -> [u8; 2] {
    [limits.min, limits.max].map(|limit| limit as u8 ^ FLIP)
}

/// Whether outputs have limits that saturation does not keep by itself, or, for wide ones, such an upper limit: those of
/// activations that end in a ReLU are usually the type's own.
pub(super) fn is_limited(conv: &Conv) -> bool {
    if conv.out.lo.is_some() { conv.limits.max < i16::MAX } else { byte_limits(conv.limits) != [0, u8::MAX] }
}

/// Words of a narrow output as bytes within its limits.
#[inline(always)]
unsafe fn limit<S: Simd>(t: Tile<'_>, words: [S::Lanes; 2]) -> S::Lanes {
    let [min, max] = byte_limits(t.row.limits);
    // SAFETY: only the instruction set is asked for.
    unsafe { if t.row.limited { S::narrow(words, min, max) } else { S::bytes(words) } }
}

/// Stores block `B` of group `Q` of `PIXELS` pixels, if there are so many of either.
#[inline(always)]
unsafe fn store_pixels<S: Simd, F: Form, const MR: usize, const NB: usize, const B: usize, const Q: usize>(
    t: Tile<'_>,
    acc: &Accumulators<S, MR, NB>,
) {
    let first = Q * S::PIXELS;
    if B >= NB || first >= MR {
        return;
    }
    let at = t.place.at + first * t.row.out_c + 16 * B;
    let (out_c, count) = (t.row.out_c, if MR - first < S::PIXELS { MR - first } else { S::PIXELS });
    // SAFETY: all of the tile's MR pixels and 16 * NB channels exist (`finish` has looked), so each of these `count`
    // pixels has 16 bytes from `at` on in each plane.
    unsafe { store_words::<S, F>(t, block_words::<S, MR, NB>(t, acc, (first, B), F::WIDE), at, out_c, count) }
}

/// Finishes and stores `count` times 16 values, `stride` bytes apart from `at` on.
///
/// # Safety
/// They exist in each plane.
#[inline(always)]
unsafe fn store_words<S: Simd, F: Form>(t: Tile<'_>, [a, b]: [S::Lanes; 2], at: usize, stride: usize, count: usize) {
    // SAFETY: promised by the caller.
    unsafe {
        let (hi, lo) = (t.row.hi.add(at), t.row.lo.wrapping_add(at));
        if F::WIDE {
            let zero = S::splat(t.row.limits.zero);
            let base =
                if F::ACCUMULATE { S::join(S::load(hi, stride, count), S::load(lo, stride, count)) } else { [zero; 2] };
            let (high, low) = S::split([add_wide_words::<S, F>(t, base[0], a), add_wide_words::<S, F>(t, base[1], b)]);
            S::store(hi, stride, count, high);
            S::store(lo, stride, count, low);
        } else {
            let zero = S::splat(2 * (t.row.limits.zero + 128));
            let base = if F::ACCUMULATE { S::doubled(S::load(hi, stride, count)) } else { [zero; 2] };
            let sums = [S::halve(S::add(base[0], a)), S::halve(S::add(base[1], b))];
            S::store(hi, stride, count, limit::<S>(t, sums));
        }
    }
}

/// Stores the block of 8 channels of group `Q` of `PIXELS` pixels, if there are so many.
#[inline(always)]
unsafe fn store_tail<S: Simd, F: Form, const MR: usize, const NB: usize, const Q: usize>(
    t: Tile<'_>,
    acc: &Accumulators<S, MR, NB>,
) {
    let first = Q * S::PIXELS;
    if first >= MR {
        return;
    }
    let at = t.place.at + first * t.row.out_c + 16 * NB;
    let (out_c, count) = (t.row.out_c, if MR - first < S::PIXELS { MR - first } else { S::PIXELS });
    // SAFETY: as in `store_pixels`, with 8 channels behind the blocks.
    unsafe {
        let words = tail_words::<S, MR, NB>(t, acc, first, F::WIDE);
        let (hi, lo) = (t.row.hi.add(at), t.row.lo.wrapping_add(at));
        if F::WIDE {
            let zero = S::splat(t.row.limits.zero);
            let base = if F::ACCUMULATE {
                S::join(S::load_half(hi, out_c, count), S::load_half(lo, out_c, count))[0]
            } else {
                zero
            };
            let sum = add_wide_words::<S, F>(t, base, words);
            let (high, low) = S::split([sum, sum]);
            S::store_half(hi, out_c, count, high);
            S::store_half(lo, out_c, count, low);
        } else {
            let zero = S::splat(2 * (t.row.limits.zero + 128));
            let base = if F::ACCUMULATE { S::doubled(S::load_half(hi, out_c, count))[0] } else { zero };
            let sum = S::halve(S::add(base, words));
            S::store_half(hi, out_c, count, limit::<S>(t, [sum, sum]));
        }
    }
}

/// Stores what exists of a tile at the end of a row, or of channels that do not fill their block.
#[cold]
#[inline(always)]
unsafe fn store_some<S: Simd, const MR: usize, const NB: usize, const TAIL: bool>(
    t: Tile<'_>,
    acc: &Accumulators<S, MR, NB>,
) {
    let mut first = 0;
    while first < MR {
        let mut buffer = [0; 32];
        // SAFETY: the tile is valid.
        unsafe {
            for b in 0..NB {
                for (half, words) in block_words::<S, MR, NB>(t, acc, (first, b), true).into_iter().enumerate() {
                    S::spill(&mut buffer, words);
                    store_eight(t, first, S::PIXELS, 16 * b + 8 * half, &buffer);
                }
            }
            if TAIL {
                S::spill(&mut buffer, tail_words::<S, MR, NB>(t, acc, first, true));
                store_eight(t, first, S::PIXELS, 16 * NB, &buffer);
            }
        }
        first += S::PIXELS;
    }
}

/// Stores those that exist of eight channels of `count` pixels, one output at a time.
///
/// # Safety
/// The tile is valid.
#[inline(never)]
unsafe fn store_eight(t: Tile<'_>, first: usize, count: usize, channel: usize, words: &[i16; 32]) {
    let pixels = count.min(t.place.pixels.saturating_sub(first));
    let channels = 8.min(t.row.left.saturating_sub(channel));
    for (p, values) in words.chunks_exact(8).enumerate().take(pixels) {
        for (c, &value) in values.iter().enumerate().take(channels) {
            let at = t.place.at + (first + p) * t.row.out_c + channel + c;
            // SAFETY: pixel first + p < t.place.pixels and channel + c < t.row.left <= out_c.
            unsafe { store_one(t, at, value) };
        }
    }
}

/// # Safety
/// The tile's planes hold more than `at` bytes.
unsafe fn store_one(t: Tile<'_>, at: usize, value: i16) {
    let limits = t.row.limits;
    let wide = !t.row.lo.is_null();
    // SAFETY: promised by the caller; a wide output has both planes.
    unsafe {
        let hi = t.row.hi.add(at);
        let base = match (t.row.accumulate, wide) {
            (false, _) => limits.zero,
            (true, true) => join(*hi ^ FLIP, *t.row.lo.add(at)),
            (true, false) => i16::from((*hi ^ FLIP) as i8),
        };
        let sum = match (t.row.raw, wide) {
            (true, _) if t.row.accumulate => add_raw(limits.zero, base, value),
            (true, _) => value,
            (false, true) => add_wide(base, value),
            (false, false) => add_narrow(base, value),
        };
        let sum = sum.max(limits.min).min(limits.max);
        if wide {
            (*hi, *t.row.lo.add(at)) = split(sum);
        } else {
            *hi = sum as u8;
        }
        *hi ^= FLIP;
    }
}
