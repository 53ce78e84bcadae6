//! Option-A shortcut: subsampling, zero channels and rescaling in one pass.

use crate::arith::{add_narrow, add_wide, join, requantize, split};
use crate::kernels::ShortcutCall;

/// Runs a shortcut.
pub fn run(call: &mut ShortcutCall<'_>) {
    body(call);
}

/// The portable body; vector backends compile it again for their instruction set. Slices that are too short, which those of
/// a validated model are not, stay as they are and never cause a panic: firmware links no path to one.
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
    for y in 0..s.out_h() {
        for x in 0..s.out_w() {
            let from = (y * stride * width + x * stride) * in_c;
            let to = (y * s.out_w() + x) * out_c + before;
            let (from, to) = (from..from + in_c, to..to + in_c);
            let ins = call.in_hi.get(from.clone()).unwrap_or_default();
            let outs = call.out_hi.get_mut(to.clone()).unwrap_or_default();
            if wide {
                let ins = ins.iter().zip(call.in_lo.get(from).unwrap_or_default());
                let outs = outs.iter_mut().zip(call.out_lo.get_mut(to).unwrap_or_default());
                for ((&hi, &lo), (out_hi, out_lo)) in ins.zip(outs) {
                    let (hi, lo) = split(convert(join(hi ^ flip, lo)));
                    (*out_hi, *out_lo) = (hi ^ flip, lo);
                }
            } else {
                for (&v, out) in ins.iter().zip(outs) {
                    *out = convert(i16::from((v ^ flip) as i8)) as u8 ^ flip;
                }
            }
        }
    }
}
