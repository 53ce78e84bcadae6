//! Option-A shortcut on bytes: four channels at a time.

use super::asm;
use crate::kernels::{ShortcutCall, scalar};

/// Runs a shortcut.
///
/// # Safety
/// The core has MVE with integers.
pub(super) unsafe fn run(call: &mut ShortcutCall<'_>) {
    let s = *call.shortcut;
    let (in_c, out_c, before) = (usize::from(s.in_c), usize::from(s.out_c), usize::from(s.before));
    let complete = call.in_hi.len() >= s.input_len() && call.out_hi.len() >= s.output_len();
    let full = s.limits.min <= i16::from(i8::MIN) && s.limits.max >= i16::from(i8::MAX);
    if !call.out_lo.is_empty() || !full || !complete || before + in_c > out_c {
        // Wide activations, and limits of their own, which the compiler gives to no shortcut.
        return scalar::shortcut::run(call);
    }
    // Moving a difference of bytes (9 bits) up by at most 9 costs nothing and makes the right shift at least 33.
    let up = 33u8.saturating_sub(s.right_shift);
    let how = asm::Rescale {
        minus_in_zero: -i32::from(s.in_zero),
        up: u32::from(up),
        multiplier: s.multiplier,
        minus_shift: 31 - i32::from(s.right_shift + up),
        zero: i32::from(s.limits.zero),
    };
    call.out_hi.fill(s.limits.zero as u8);
    let row = usize::from(s.stride) * usize::from(s.in_w) * in_c;
    let mut to = call.out_hi.as_mut_ptr().wrapping_add(before);
    for y in 0..s.out_h() {
        for x in 0..s.out_w() {
            // SAFETY: the pixel exists in input and output, and its channels fit.
            unsafe {
                asm::rescale(to, call.in_hi.as_ptr().add(y * row + x * usize::from(s.stride) * in_c), in_c, &how);
            }
            to = to.wrapping_add(out_c);
        }
    }
}
