//! Shortcuts: as many pixels as are stored together, by 16 or 8 channels.

use super::params::Channels;
use super::simd::Simd;
use super::store::byte_limits;
use crate::kernels::{ShortcutCall, scalar};
use crate::op::Shortcut;

/// Runs a shortcut.
///
/// # Safety
/// The instruction set of `S` is available.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(call: &mut ShortcutCall<'_>) {
    let s = *call.shortcut;
    let wide = !call.out_lo.is_empty();
    let planes = if wide { s.input_len()..=call.in_lo.len() } else { 0..=0 };
    let complete = call.in_hi.len() >= s.input_len()
        && call.out_hi.len() >= s.output_len()
        && (!wide || call.out_lo.len() >= s.output_len())
        && !planes.is_empty()
        && usize::from(s.before) + usize::from(s.in_c) <= usize::from(s.out_c);
    let whole = s.in_c.is_multiple_of(8) && s.out_w().is_multiple_of(S::PIXELS) && (24..=62).contains(&s.right_shift);
    if !(complete && whole) {
        return scalar::shortcut::body(call);
    }
    // SAFETY: the planes are complete, and rows and pixels consist of whole groups.
    unsafe { run_whole::<S>(call, &s, wide) }
}

/// # Safety
/// The instruction set of `S` is available; the planes hold the shapes of `s`, whose input channels are a multiple of 8
/// and whose output columns are one of `PIXELS`.
#[inline(always)]
unsafe fn run_whole<S: Simd>(call: &mut ShortcutCall<'_>, s: &Shortcut, wide: bool) {
    let (in_c, out_c, before) = (usize::from(s.in_c), usize::from(s.out_c), usize::from(s.before));
    let zero = s.limits.zero.max(s.limits.min).min(s.limits.max);
    let [zero_lo, zero_hi] = zero.to_le_bytes();
    call.out_hi.fill(if wide { zero_hi } else { zero_lo } ^ call.flip);
    call.out_lo.fill(zero_lo);
    // A difference of two 16-bit values has room to be moved left by these 9 bits at most.
    let pre_shift = 33u8.saturating_sub(s.right_shift);
    // Narrow activations are read as the unsigned bytes that they are stored as.
    let zeros = [-i32::from(s.in_zero) - if wide { 0 } else { 128 }; 16];
    let scale = Scale { s, wide, channels: Channels::new(zeros, [s.multiplier; 16], [s.right_shift; 16], pre_shift) };
    let (out_h, out_w, step) = (s.out_h(), s.out_w(), usize::from(s.stride) * in_c);
    for y in 0..out_h {
        for x in (0..out_w).step_by(S::PIXELS) {
            let from = y * usize::from(s.stride) * usize::from(s.in_w) * in_c + x * step;
            let to = (y * out_w + x) * out_c + before;
            let ins = [call.in_hi.as_ptr().wrapping_add(from), call.in_lo.as_ptr().wrapping_add(from)];
            let outs = [call.out_hi.as_mut_ptr().wrapping_add(to), call.out_lo.as_mut_ptr().wrapping_add(to)];
            // SAFETY: PIXELS pixels `step` and `out_c` bytes apart exist, and each has `in_c` channels from there on.
            unsafe {
                for c in (0..in_c - in_c % 16).step_by(16) {
                    scale.convert::<S, false>(ins.map(|p| p.wrapping_add(c)), step, outs.map(|p| p.wrapping_add(c)));
                }
                if in_c % 16 > 0 {
                    let c = in_c - 8;
                    scale.convert::<S, true>(ins.map(|p| p.wrapping_add(c)), step, outs.map(|p| p.wrapping_add(c)));
                }
            }
        }
    }
}

struct Scale<'a> {
    s: &'a Shortcut,
    wide: bool,
    channels: Channels,
}

impl Scale<'_> {
    /// Converts 16 (or, with `HALF`, 8) channels of `PIXELS` pixels.
    ///
    /// # Safety
    /// The instruction set of `S` is available; the planes have those pixels, `step` and `out_c` bytes apart.
    #[inline(always)]
    unsafe fn convert<S: Simd, const HALF: bool>(
        &self,
        [in_hi, in_lo]: [*const u8; 2],
        step: usize,
        [out_hi, out_lo]: [*mut u8; 2],
    ) {
        let (limits, out_c) = (self.s.limits, usize::from(self.s.out_c));
        // SAFETY: promised by the caller.
        unsafe {
            let words = if self.wide {
                S::join(load::<S, HALF>(in_hi, step), load::<S, HALF>(in_lo, step))
            } else {
                // (2 x + 1) >> 1
                let [a, b] = S::doubled(load::<S, HALF>(in_hi, step));
                [S::halve(a), S::halve(b)]
            };
            let mut values = S::widen(words);
            for v in values.iter_mut().take(S::PIXELS) {
                let difference = S::offset(*v, &self.channels);
                let scaled = S::scale(S::pre_shift(difference, &self.channels), &self.channels);
                *v = S::round(scaled, &self.channels);
            }
            let [a, b] = S::block_words(values);
            let zero = S::splat(if self.wide { limits.zero } else { limits.zero + 128 });
            let (sum_a, sum_b) = (S::add(zero, a), S::add(zero, b));
            if self.wide {
                let (min, max) = (S::splat(limits.min), S::splat(limits.max));
                let sums = [S::clamp(S::add(sum_a, a), min, max), S::clamp(S::add(sum_b, b), min, max)];
                let (hi, lo) = S::split(sums);
                store::<S, HALF>(out_hi, out_c, hi);
                store::<S, HALF>(out_lo, out_c, lo);
            } else {
                let [min, max] = byte_limits(limits);
                store::<S, HALF>(out_hi, out_c, S::narrow([sum_a, sum_b], min, max));
            }
        }
    }
}

#[inline(always)]
unsafe fn load<S: Simd, const HALF: bool>(from: *const u8, stride: usize) -> S::Lanes {
    // SAFETY: promised by the caller.
    unsafe { if HALF { S::load_half(from, stride, S::PIXELS) } else { S::load(from, stride, S::PIXELS) } }
}

#[inline(always)]
unsafe fn store<S: Simd, const HALF: bool>(to: *mut u8, stride: usize, v: S::Lanes) {
    // SAFETY: promised by the caller.
    unsafe { if HALF { S::store_half(to, stride, S::PIXELS, v) } else { S::store(to, stride, S::PIXELS, v) } }
}
