//! The naive oracle: a convolution as the arithmetic law defines it, on plain weights. Every kernel is compared with it.

use crate::arith::{add_narrow, add_raw, add_wide, requantize};
use crate::op::{ConvShape, Limits};

/// A convolution on plain tensors; all activations are int8 or 16-bit values, not planes.
#[derive(Clone, Copy, Debug)]
pub struct Conv<'a> {
    /// Geometry.
    pub shape: ConvShape,
    /// NHWC input.
    pub input: &'a [i8],
    /// What lies beyond the border, by channel modulo 4.
    pub border: [i8; 4],
    /// OHWI weights.
    pub weights: &'a [i8],
    /// Bias of each channel for signed activations.
    pub bias: &'a [i32],
    /// Multiplier of each channel.
    pub multiplier: &'a [i32],
    /// Right shift of each channel.
    pub right_shift: &'a [u8],
    /// Zero point and limits of the output.
    pub limits: Limits,
    /// Whether the output is wide.
    pub wide: bool,
    /// Whether the residual is raw, or the output where there is none.
    pub raw: bool,
}

impl Conv<'_> {
    /// The accumulator of output (`y`, `x`, `c`).
    pub fn acc(&self, y: usize, x: usize, c: usize) -> i32 {
        let s = self.shape;
        let (kernel, channels, all) = (usize::from(s.kernel), s.group_in(), usize::from(s.in_c));
        let first = c / s.group_out() * channels;
        let mut acc = self.bias[c];
        for (tap, w) in self.weights[c * s.taps()..(c + 1) * s.taps()].iter().enumerate() {
            let (row, column, i) = (tap / channels / kernel, tap / channels % kernel, first + tap % channels);
            let from =
                |out: usize, tap: usize| (out * usize::from(s.stride) + tap) as isize - isize::from(s.padding as i8);
            let (iy, ix) = (from(y, row), from(x, column));
            let inside = (0..s.in_h as isize).contains(&iy) && (0..s.in_w as isize).contains(&ix);
            let v = if inside {
                self.input[(iy as usize * usize::from(s.in_w) + ix as usize) * all + i]
            } else {
                self.border[i % 4]
            };
            acc = acc.wrapping_add(i32::from(v) * i32::from(*w));
        }
        acc
    }

    /// The output (`y`, `x`, `c`), added to `residual` or else to the zero point.
    pub fn output(&self, y: usize, x: usize, c: usize, residual: Option<i16>) -> i16 {
        let value = requantize(self.acc(y, x, c), self.multiplier[c], self.right_shift[c]);
        let base = residual.unwrap_or(self.limits.zero);
        let sum = match (self.raw, residual) {
            (true, Some(raw)) => add_raw(self.limits.zero, raw, value),
            (true, None) => value,
            (false, _) if self.wide => add_wide(base, value),
            (false, _) => add_narrow(base, value),
        };
        sum.clamp(self.limits.min, self.limits.max)
    }
}
