//! From sums to outputs: requantization, zero point or residual, limits, and the stores.
//!
//! `SQDMULH` and `SRSHL` are the law's single rounding ([`crate::arith::requantize`]) where the total right shift is at
//! least 32, and `SQXTN` its saturation to 16 bits.

// Loops over `0..N` with an index are what unrolls completely, so that all arrays become registers.
#![allow(clippy::needless_range_loop)]

use super::tile::{Output, Tile};
use super::unit::Unit;
use crate::arith::{add_narrow, add_raw, add_wide, join, split};
use crate::kernels::k8n4::Channels;
use core::arch::aarch64::*;

/// Multipliers and shifts of 8 channels in registers.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    multiplier: [int32x4_t; 2],
    shift: [int32x4_t; 2],
}

impl Scale {
    #[inline(always)]
    pub(super) unsafe fn load(channels: &Channels) -> Self {
        let (m, s) = (channels.multiplier.as_ptr(), channels.shift.as_ptr());
        // SAFETY: both arrays hold 8 numbers.
        unsafe { Scale { multiplier: [vld1q_s32(m), vld1q_s32(m.add(4))], shift: [vld1q_s32(s), vld1q_s32(s.add(4))] } }
    }

    /// Requantizes the 8 channels of a pixel to 16 bits.
    #[inline(always)]
    pub(super) unsafe fn requantize(&self, sums: [int32x4_t; 2]) -> int16x8_t {
        // SAFETY: NEON is promised by the caller.
        unsafe {
            let a = vrshlq_s32(vqdmulhq_s32(sums[0], self.multiplier[0]), self.shift[0]);
            let b = vrshlq_s32(vqdmulhq_s32(sums[1], self.multiplier[1]), self.shift[1]);
            vqmovn_high_s32(vqmovn_s32(a), b)
        }
    }
}

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

/// Requantizes and stores all sums of a tile.
///
/// # Safety
/// As [`super::tile::run`].
#[inline(always)]
pub(super) unsafe fn finish<U: Unit, const PAIRS: usize>(out: &Output, tile: &Tile<PAIRS>, first: usize, count: usize) {
    // SAFETY: promised by the caller.
    unsafe {
        let mut pixels = [[[vdupq_n_s32(0); 2]; 2]; PAIRS];
        for p in 0..PAIRS {
            let sums = [U::ordered(tile[p][0]), U::ordered(tile[p][1])];
            pixels[p] = [[sums[0][0], sums[1][0]], [sums[0][1], sums[1][1]]];
        }
        if out.pre_shift > 0 {
            let left = vdupq_n_s32(i32::from(out.pre_shift));
            for p in 0..PAIRS {
                for i in 0..2 {
                    pixels[p][i] = [vshlq_s32(pixels[p][i][0], left), vshlq_s32(pixels[p][i][1], left)];
                }
            }
        }
        store::<PAIRS>(out, &pixels, first, count);
    }
}

/// Requantizes and stores pairs of pixels of 8 channels, moved left already.
///
/// # Safety
/// NEON is available; the output's planes hold `count` pixels from `first` on.
#[inline(always)]
pub(super) unsafe fn store<const PAIRS: usize>(
    out: &Output,
    pixels: &[[[int32x4_t; 2]; 2]; PAIRS],
    first: usize,
    count: usize,
) {
    // SAFETY: promised by the caller.
    unsafe {
        let scale = Scale::load(&*out.channels);
        if count < 2 * PAIRS || out.left < 8 {
            for p in 0..PAIRS {
                let words = [scale.requantize(pixels[p][0]), scale.requantize(pixels[p][1])];
                store_some(out, words, first + 2 * p, count.saturating_sub(2 * p));
            }
            return;
        }
        let at = first * out.out_c;
        match (out.accumulate, out.lo.is_null(), out.raw) {
            (false, true, _) => store_all::<To<false, false, false>, PAIRS>(out, pixels, &scale, at),
            (false, false, false) => store_all::<To<false, true, false>, PAIRS>(out, pixels, &scale, at),
            (false, false, true) => store_all::<To<false, true, true>, PAIRS>(out, pixels, &scale, at),
            (true, true, _) => store_all::<To<true, false, false>, PAIRS>(out, pixels, &scale, at),
            (true, false, false) => store_all::<To<true, true, false>, PAIRS>(out, pixels, &scale, at),
            (true, false, true) => store_all::<To<true, true, true>, PAIRS>(out, pixels, &scale, at),
        }
    }
}

/// Stores 4 whole rows, `row_len` bytes apart, of 4 pixels from `first` on, moved left already.
///
/// # Safety
/// NEON is available; the output's planes hold those pixels, and 8 channels exist.
#[inline(always)]
pub(super) unsafe fn store_square(out: &Output, pixels: &[[int32x4_t; 2]; 16], first: usize, row_len: usize) {
    let at = first * out.out_c;
    // SAFETY: promised by the caller.
    unsafe {
        match (out.accumulate, out.lo.is_null(), out.raw) {
            (false, true, _) => store_rows::<To<false, false, false>>(out, pixels, at, row_len),
            (false, false, false) => store_rows::<To<false, true, false>>(out, pixels, at, row_len),
            (false, false, true) => store_rows::<To<false, true, true>>(out, pixels, at, row_len),
            (true, true, _) => store_rows::<To<true, false, false>>(out, pixels, at, row_len),
            (true, false, false) => store_rows::<To<true, true, false>>(out, pixels, at, row_len),
            (true, false, true) => store_rows::<To<true, true, true>>(out, pixels, at, row_len),
        }
    }
}

#[inline(always)]
unsafe fn store_rows<F: Form>(out: &Output, pixels: &[[int32x4_t; 2]; 16], at: usize, row_len: usize) {
    // SAFETY: promised by the caller.
    unsafe {
        let scale = Scale::load(&*out.channels);
        for row in 0..4 {
            let v = &pixels[4 * row..][..4];
            store_all::<F, 2>(out, &[[v[0], v[1]], [v[2], v[3]]], &scale, at + row * row_len);
        }
    }
}

/// Stores pixels of which all channels exist.
#[inline(always)]
unsafe fn store_all<F: Form, const PAIRS: usize>(
    out: &Output,
    pixels: &[[[int32x4_t; 2]; 2]; PAIRS],
    scale: &Scale,
    mut at: usize,
) {
    // SAFETY: promised by the caller: 8 bytes of each pixel in each plane exist.
    unsafe {
        let zero = vdupq_n_s16(out.limits.zero);
        let (min, max) = (vdupq_n_s16(out.limits.min), vdupq_n_s16(out.limits.max));
        for p in 0..PAIRS {
            let words = [scale.requantize(pixels[p][0]), scale.requantize(pixels[p][1])];
            if F::WIDE {
                for i in 0..2 {
                    let word = words[i];
                    let (hi, lo) = (out.hi.add(at), out.lo.add(at));
                    let base = if F::ACCUMULATE { load_wide(hi, lo) } else { zero };
                    let sum = match (F::RAW, F::ACCUMULATE) {
                        (true, false) => word,
                        (true, true) => add_twice(zero, vqaddq_s16(base, word)),
                        (false, _) => add_twice(base, word),
                    };
                    store_wide(hi, lo, vminq_s16(vmaxq_s16(sum, min), max));
                    at += out.out_c;
                }
            } else {
                let places = [out.hi.add(at), out.hi.add(at + out.out_c)];
                let base = if F::ACCUMULATE {
                    [vmovl_s8(vld1_s8(places[0].cast())), vmovl_s8(vld1_s8(places[1].cast()))]
                } else {
                    [zero; 2]
                };
                let a = vqmovn_s16(vqaddq_s16(base[0], words[0]));
                let both = vqmovn_high_s16(a, vqaddq_s16(base[1], words[1]));
                // Narrow limits are int8 values, and the instruction before has saturated to int8.
                let (min, max) = (vdupq_n_s8(out.limits.min as i8), vdupq_n_s8(out.limits.max as i8));
                let both = vminq_s8(vmaxq_s8(both, min), max);
                vst1_s8(places[0].cast(), vget_low_s8(both));
                vst1_s8(places[1].cast(), vget_high_s8(both));
                at += 2 * out.out_c;
            }
        }
    }
}

/// The law's last step for a wide output.
#[inline(always)]
unsafe fn add_twice(base: int16x8_t, word: int16x8_t) -> int16x8_t {
    // SAFETY: NEON is promised by the caller.
    unsafe { vqaddq_s16(vqaddq_s16(base, word), word) }
}

/// Joins the planes of 8 wide values.
#[inline(always)]
pub(super) unsafe fn load_wide(hi: *const u8, lo: *const u8) -> int16x8_t {
    // SAFETY: promised by the caller.
    unsafe {
        let lo = vcombine_u8(vld1_u8(lo), vdup_n_u8(0));
        let hi = vcombine_u8(vld1_u8(hi), vdup_n_u8(0));
        vreinterpretq_s16_u8(vzip1q_u8(lo, hi))
    }
}

/// Splits 8 wide values into planes.
#[inline(always)]
pub(super) unsafe fn store_wide(hi: *mut u8, lo: *mut u8, values: int16x8_t) {
    // SAFETY: promised by the caller.
    unsafe {
        let values = vreinterpretq_u16_s16(values);
        vst1_u8(hi, vshrn_n_u16::<8>(values));
        vst1_u8(lo, vmovn_u16(values));
    }
}

/// Stores those that exist of two pixels by 8 channels, one output at a time.
///
/// # Safety
/// The planes hold `count` pixels from `first` on, of `left` channels.
#[cold]
#[inline(never)]
#[target_feature(enable = "neon")]
unsafe fn store_some(out: &Output, words: [int16x8_t; 2], first: usize, count: usize) {
    for (p, words) in words.into_iter().enumerate().take(count) {
        let mut values = [0i16; 8];
        // SAFETY: 16 bytes are written to 16 bytes.
        unsafe { vst1q_s16(values.as_mut_ptr(), words) };
        for (c, &value) in values.iter().enumerate().take(out.left) {
            // SAFETY: pixel first + p and channel c exist.
            unsafe { store_one(out, (first + p) * out.out_c + c, value) };
        }
    }
}

/// # Safety
/// The planes hold more than `at` bytes.
unsafe fn store_one(out: &Output, at: usize, value: i16) {
    let (limits, wide) = (out.limits, !out.lo.is_null());
    // SAFETY: promised by the caller; a wide output has both planes.
    unsafe {
        let hi = out.hi.add(at);
        let base = match (out.accumulate, wide) {
            (false, _) => limits.zero,
            (true, true) => join(*hi, *out.lo.add(at)),
            (true, false) => i16::from(*hi as i8),
        };
        let sum = match (out.raw, wide) {
            (true, _) if out.accumulate => add_raw(limits.zero, base, value),
            (true, _) => value,
            (false, true) => add_wide(base, value),
            (false, false) => add_narrow(base, value),
        };
        let sum = sum.max(limits.min).min(limits.max);
        if wide {
            (*hi, *out.lo.add(at)) = split(sum);
        } else {
            *hi = sum as u8;
        }
    }
}
