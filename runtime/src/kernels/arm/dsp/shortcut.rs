//! Option-A shortcut on bytes.

use super::{Factor, asm};
use crate::kernels::{ShortcutCall, scalar};

/// Runs a shortcut.
///
/// # Safety
/// The core has the DSP extension.
pub(super) unsafe fn run(call: &mut ShortcutCall<'_>) {
    let s = *call.shortcut;
    let (in_c, out_c, before) = (usize::from(s.in_c), usize::from(s.out_c), usize::from(s.before));
    let complete = call.in_hi.len() >= s.input_len() && call.out_hi.len() >= s.output_len();
    if !call.out_lo.is_empty() || !complete || before + in_c > out_c {
        // Wide activations.
        return scalar::shortcut::run(call);
    }
    // Moving a difference of bytes (9 bits) up by at most 9 costs nothing and makes the right shift at least 33.
    let up = 33u8.saturating_sub(s.right_shift);
    let factor = Factor::new(s.multiplier, s.right_shift + up);
    let (in_zero, zero) = (i32::from(s.in_zero), i32::from(s.limits.zero));
    let (min, max) = (i32::from(s.limits.min), i32::from(s.limits.max));
    let padding = zero.max(min).min(max) as u8;
    let mut out = call.out_hi.as_mut_ptr();
    let row = usize::from(s.stride) * usize::from(s.in_w) * in_c;
    for y in 0..s.out_h() {
        for x in 0..s.out_w() {
            // SAFETY: the pixel exists in the input, and `out` is its place in the output: channels before, the input's,
            // and the rest.
            unsafe {
                let from = call.in_hi.as_ptr().add(y * row + x * usize::from(s.stride) * in_c).cast::<i8>();
                out.write_bytes(padding, before);
                out = out.add(before);
                for i in 0..in_c {
                    let difference = i32::from(*from.add(i)) - in_zero;
                    let value = asm::ssat8(factor.apply(difference << up) + zero);
                    *out.add(i) = value.max(min).min(max) as u8;
                }
                out = out.add(in_c);
                out.write_bytes(padding, out_c - before - in_c);
                out = out.add(out_c - before - in_c);
            }
        }
    }
}
