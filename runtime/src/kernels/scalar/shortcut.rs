//! Option-A shortcut: subsampling, zero channels and rescaling in one pass.

use crate::arith::{add_narrow, add_wide, join, requantize, split};
use crate::kernels::ShortcutCall;

/// Runs a shortcut.
pub fn run(call: &mut ShortcutCall<'_>) {
    body(call);
}

/// The portable body; vector backends compile it again for their instruction set.
#[inline(always)]
pub(crate) fn body(call: &mut ShortcutCall<'_>) {
    let s = *call.shortcut;
    let (in_c, out_c, before) = (usize::from(s.in_c), usize::from(s.out_c), usize::from(s.before));
    let (stride, width) = (usize::from(s.stride), usize::from(s.in_w));
    let zero = s.limits.zero.max(s.limits.min).min(s.limits.max);
    let wide = !call.out_lo.is_empty();
    let flip = call.flip;
    let convert = |v: i16| {
        let value = requantize(i32::from(v) - i32::from(s.in_zero), s.multiplier, s.right_shift);
        let sum = if wide { add_wide(s.limits.zero, value) } else { add_narrow(s.limits.zero, value) };
        sum.max(s.limits.min).min(s.limits.max)
    };
    let (zero_hi, zero_lo) = if wide { split(zero) } else { (zero as u8, 0) };
    call.out_hi.fill(zero_hi ^ flip);
    call.out_lo.fill(zero_lo);
    for pixel in 0..s.out_h() * s.out_w() {
        let (y, x) = (pixel / s.out_w() * stride, pixel % s.out_w() * stride);
        let (from, to) = ((y * width + x) * in_c, pixel * out_c + before);
        if wide {
            let ins = call.in_hi[from..from + in_c].iter().zip(&call.in_lo[from..from + in_c]);
            let outs = call.out_hi[to..to + in_c].iter_mut().zip(&mut call.out_lo[to..to + in_c]);
            for ((&hi, &lo), (out_hi, out_lo)) in ins.zip(outs) {
                let (hi, lo) = split(convert(join(hi ^ flip, lo)));
                (*out_hi, *out_lo) = (hi ^ flip, lo);
            }
        } else {
            let ins = &call.in_hi[from..from + in_c];
            for (&v, out) in ins.iter().zip(&mut call.out_hi[to..to + in_c]) {
                *out = convert(i16::from((v ^ flip) as i8)) as u8 ^ flip;
            }
        }
    }
}
