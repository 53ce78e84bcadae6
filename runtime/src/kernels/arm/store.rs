//! Finishes a sum as the law is written, for outputs without a fast way.

use crate::arith::{add_narrow, add_raw, add_wide, join, requantize, split};
use crate::kernels::Params;
use crate::op::Limits;

/// Where results go.
pub(super) struct Out {
    pub(super) limits: Limits,
    pub(super) accumulate: bool,
    /// See [`crate::op::Conv::raw`].
    pub(super) raw: bool,
    pub(super) hi: *mut u8,
    /// Null where the output is narrow.
    pub(super) lo: *mut u8,
    /// Channels of a pixel.
    pub(super) channels: usize,
}

impl Out {
    /// Requantizes `acc` and stores it as channel `c` of pixel `p`.
    ///
    /// # Safety
    /// The output exists in every plane.
    pub(super) unsafe fn store(&self, params: &Params<'_>, acc: i32, p: usize, c: usize) {
        let value = requantize(acc, params.multiplier(c), params.right_shift(c));
        let (wide, at) = (!self.lo.is_null(), p * self.channels + c);
        // SAFETY: promised by the caller.
        unsafe {
            let (hi, lo) = (self.hi.add(at), self.lo.wrapping_add(at));
            let base = match (self.accumulate, wide) {
                (false, _) => self.limits.zero,
                (true, true) => join(*hi, *lo),
                (true, false) => i16::from(*hi as i8),
            };
            let sum = match (self.raw, wide) {
                (true, _) if self.accumulate => add_raw(self.limits.zero, base, value),
                (true, _) => value,
                (false, true) => add_wide(base, value),
                (false, false) => add_narrow(base, value),
            };
            let out = sum.max(self.limits.min).min(self.limits.max);
            if wide {
                (*hi, *lo) = split(out);
            } else {
                *hi = out as u8;
            }
        }
    }

    /// Whether saturated bytes are all that the layer asks for: limits of a byte, a narrow output, and right shifts for
    /// which the high half of the product is enough.
    pub(super) fn plain_bytes(&self, params: &Params<'_>) -> bool {
        let full = self.limits.min <= i16::from(i8::MIN) && self.limits.max >= i16::from(i8::MAX);
        full && self.lo.is_null() && params.right_shift.iter().all(|&r| r >= 33)
    }
}
