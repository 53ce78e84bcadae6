//! Activations as the integer network has them, in real numbers.

use super::plane::Plane;
use super::simd::{Kernel, Level, Simd};

/// How an activation behind ReLU is rounded: zero is exact.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::train) struct Rounding {
    /// What convolutions read are multiples of this.
    pub(in crate::train) step: f32,
    /// The largest that they read.
    pub(in crate::train) ceiling: f32,
    /// Step of the activation itself, which shortcuts read; `None` keeps it as it is.
    pub(in crate::train) fine: Option<f32>,
}

/// Rounds an activation, and gives what convolutions read of it.
pub(in crate::train) struct Round<'a> {
    pub(in crate::train) rounding: Rounding,
    pub(in crate::train) plane: Plane,
    pub(in crate::train) x: &'a mut [f32],
    pub(in crate::train) codes: &'a mut [f32],
}

impl Round<'_> {
    pub(in crate::train) fn run(self, level: Level) {
        level.run(self);
    }
}

impl Kernel for Round<'_> {
    #[inline(always)]
    unsafe fn run<Wide: Simd, Narrow: Simd>(self) {
        let Self { rounding: Rounding { step, ceiling, fine }, plane, x, codes } = self;
        for row in 0..plane.height {
            let (x, codes) = (&mut x[plane.range(row)], &mut codes[plane.range(row)]);
            if let Some(fine) = fine {
                // Half a step more than the largest code is where 16 bits end.
                let end = ceiling + 0.5 * step;
                for x in x.iter_mut() {
                    *x = nearest(*x, fine).min(end);
                }
            }
            for (code, &x) in codes.iter_mut().zip(&*x) {
                *code = nearest(x, step).min(ceiling);
            }
        }
    }
}

/// The nearest multiple, the greater of two.
#[inline(always)]
fn nearest(x: f32, step: f32) -> f32 {
    (x / step + 0.5).floor() * step
}
