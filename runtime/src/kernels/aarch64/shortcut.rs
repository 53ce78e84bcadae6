//! Shortcuts: 8 channels of a pixel at a time.

use super::store::{Scale, load_wide, store_wide};
use crate::kernels::k8n4::Channels;
use crate::kernels::{ShortcutCall, scalar};
use crate::op::Shortcut;
use core::arch::aarch64::*;

/// Runs a shortcut.
///
/// # Safety
/// NEON is available.
#[inline(always)]
pub(super) unsafe fn run(call: &mut ShortcutCall<'_>) {
    let s = *call.shortcut;
    let wide = !call.out_lo.is_empty();
    let complete = call.in_hi.len() >= s.input_len()
        && call.out_hi.len() >= s.output_len()
        && (!wide || (call.out_lo.len() >= s.output_len() && call.in_lo.len() >= s.input_len()))
        && usize::from(s.before) + usize::from(s.in_c) <= usize::from(s.out_c);
    if !(complete && s.in_c.is_multiple_of(8) && (24..=62).contains(&s.right_shift)) {
        return scalar::shortcut::body(call);
    }
    // SAFETY: the planes are complete, and pixels consist of whole groups.
    unsafe { run_whole(call, &s, wide) }
}

/// # Safety
/// NEON is available; the planes hold the shapes of `s`, whose input channels are a multiple of 8.
#[inline(always)]
unsafe fn run_whole(call: &mut ShortcutCall<'_>, s: &Shortcut, wide: bool) {
    let (in_c, out_c, before) = (usize::from(s.in_c), usize::from(s.out_c), usize::from(s.before));
    let zero = s.limits.zero.max(s.limits.min).min(s.limits.max);
    let [zero_lo, zero_hi] = zero.to_le_bytes();
    call.out_hi.fill(if wide { zero_hi } else { zero_lo });
    call.out_lo.fill(zero_lo);
    // A difference of two 16-bit values has room to be moved left by these 8 bits at most.
    let pre_shift = 32u8.saturating_sub(s.right_shift);
    let shift = 31 - i32::from(s.right_shift) - i32::from(pre_shift);
    let channels = Channels { bias: [0; 8], multiplier: [s.multiplier; 8], shift: [shift; 8] };
    let (out_w, step) = (s.out_w(), usize::from(s.stride) * in_c);
    for y in 0..s.out_h() {
        let from = y * usize::from(s.stride) * usize::from(s.in_w) * in_c;
        for x in 0..out_w {
            let (from, to) = (from + x * step, (y * out_w + x) * out_c + before);
            for c in (0..in_c).step_by(8) {
                let ins = [call.in_hi.as_ptr().wrapping_add(from + c), call.in_lo.as_ptr().wrapping_add(from + c)];
                let outs =
                    [call.out_hi.as_mut_ptr().wrapping_add(to + c), call.out_lo.as_mut_ptr().wrapping_add(to + c)];
                // SAFETY: 8 channels of this pixel exist in each plane.
                unsafe { convert(s, &channels, pre_shift, wide, ins, outs) };
            }
        }
    }
}

/// Converts 8 channels of a pixel.
///
/// # Safety
/// NEON is available; the planes have 8 bytes there.
#[inline(always)]
unsafe fn convert(
    s: &Shortcut,
    channels: &Channels,
    pre_shift: u8,
    wide: bool,
    [in_hi, in_lo]: [*const u8; 2],
    [out_hi, out_lo]: [*mut u8; 2],
) {
    // SAFETY: promised by the caller.
    unsafe {
        let words = if wide { load_wide(in_hi, in_lo) } else { vmovl_s8(vld1_s8(in_hi.cast())) };
        let (zero_in, left) = (vdup_n_s16(s.in_zero), vdupq_n_s32(i32::from(pre_shift)));
        let differences = [vsubl_s16(vget_low_s16(words), zero_in), vsubl_s16(vget_high_s16(words), zero_in)];
        let value =
            Scale::load(channels).requantize([vshlq_s32(differences[0], left), vshlq_s32(differences[1], left)]);
        let (min, max) = (vdupq_n_s16(s.limits.min), vdupq_n_s16(s.limits.max));
        let sum = vqaddq_s16(vdupq_n_s16(s.limits.zero), value);
        if wide {
            store_wide(out_hi, out_lo, vminq_s16(vmaxq_s16(vqaddq_s16(sum, value), min), max));
        } else {
            vst1_s8(out_hi.cast(), vmovn_s16(vminq_s16(vmaxq_s16(sum, min), max)));
        }
    }
}
