//! Activations of the integer network, of one image at a time: whole numbers in `f32`, without zero points.
//!
//! Convolutions of whole numbers are exact in `f32` up to 2^24, which is far beyond what accumulators of trained networks
//! reach; everything after them is done in integers, by the runtime's own functions.

use ride_runtime::arith::{add_narrow, add_raw, add_wide, requantize};
use ride_runtime::op::Limits;

use super::plane::Plane;

/// From accumulators to 16-bit values, for each channel.
#[derive(Clone, Debug, Default)]
pub(in crate::train) struct Requantize {
    channels: Vec<(i32, i32, u8)>,
}

impl Requantize {
    /// Adds a channel: its bias, multiplier and right shift.
    pub(in crate::train) fn push(&mut self, bias: i32, multiplier: i32, right_shift: u8) {
        self.channels.push((bias, multiplier, right_shift));
    }

    fn of(&self, y: f32, channel: usize) -> i16 {
        let (bias, multiplier, right_shift) = self.channels[channel];
        requantize((y as i32).saturating_add(bias), multiplier, right_shift)
    }
}

/// What a convolution's values are added to.
#[derive(Clone, Copy)]
pub(in crate::train) enum Base<'a> {
    /// Zero.
    None,
    /// An activation of the same stream.
    Same(&'a [f32], Plane),
    /// An activation of another stream, through the option-A shortcut.
    OptionA { x: &'a [f32], plane: Plane, stride: usize, pad: usize, factor: (i32, u8), limits: Limits },
    /// A projection.
    Raw(&'a [f32], &'a Requantize),
}

/// Makes an activation.
pub(in crate::train) struct IntegerJoin<'a> {
    /// Accumulators, without border.
    pub(in crate::train) y: &'a [f32],
    pub(in crate::train) requantize: &'a Requantize,
    pub(in crate::train) base: Base<'a>,
    /// Zero point and ends of the result.
    pub(in crate::train) limits: Limits,
    /// Whether it has 16 bits.
    pub(in crate::train) wide: bool,
    pub(in crate::train) plane: Plane,
    pub(in crate::train) output: &'a mut [f32],
}

impl IntegerJoin<'_> {
    pub(in crate::train) fn run(self) {
        let Self { y, requantize, base, limits, wide, plane, output } = self;
        let zero = limits.zero;
        for row in 0..plane.height {
            for column in 0..plane.width {
                let y = &y[plane.dense().at(row, column)..][..plane.channels];
                let out = &mut output[plane.at(row, column)..][..plane.channels];
                for (channel, (&y, out)) in y.iter().zip(out).enumerate() {
                    let value = requantize.of(y, channel);
                    let sum = match base {
                        Base::Raw(other, constants) => {
                            let raw = constants.of(other[plane.dense().at(row, column) + channel], channel);
                            add_raw(zero, raw, value)
                        }
                        _ if wide => add_wide(base.value(zero, (row, column), channel), value),
                        _ => add_narrow(zero, value),
                    };
                    let sum = sum.max(limits.min).min(limits.max);
                    *out = (i32::from(sum) - i32::from(zero)) as f32;
                }
            }
        }
    }
}

impl Base<'_> {
    /// The 16-bit value that is added to, in the result's zero point.
    fn value(&self, zero: i16, (row, column): (usize, usize), channel: usize) -> i16 {
        match *self {
            Base::Same(x, plane) => (x[plane.at(row, column) + channel] as i32 + i32::from(zero)) as i16,
            Base::OptionA { x, plane, stride, pad, factor, limits } => {
                let Some(from) = channel.checked_sub(pad).filter(|&from| from < plane.channels) else {
                    return limits.zero;
                };
                let x = x[plane.at(row * stride, column * stride) + from];
                let value = requantize(x as i32, factor.0, factor.1);
                add_wide(limits.zero, value).max(limits.min).min(limits.max)
            }
            Base::None | Base::Raw(..) => zero,
        }
    }
}

/// What convolutions read of an activation of 16 bits: its upper eight, rounded.
pub(in crate::train) fn codes(x: &[f32], plane: Plane, codes: &mut [f32]) {
    for row in 0..plane.height {
        for (code, &x) in codes[plane.range(row)].iter_mut().zip(&x[plane.range(row)]) {
            *code = ((x as i32 + 128) >> 8) as f32;
        }
    }
}
