//! Batch normalisation, ReLU and the sum of a residual block, of one image at a time, in both directions.
//!
//! Coefficients come as whole rows, `[width][channels]`, so that every loop is a plain one over a row.

use super::plane::Plane;
use super::simd::{Kernel, Level, Simd};

/// `y * scale + shift`: a convolution's output, normalised. `y` has no border; the others are one row.
#[derive(Clone, Copy)]
pub(in crate::train) struct Term<'a> {
    pub(in crate::train) y: &'a [f32],
    pub(in crate::train) scale: &'a [f32],
    pub(in crate::train) shift: &'a [f32],
}

/// What is added before ReLU.
#[derive(Clone, Copy)]
pub(in crate::train) enum Added<'a> {
    None,
    /// An activation of the same shape.
    Same(&'a [f32], Plane),
    /// Every `stride`-th pixel of one, its channels from `pad` on.
    OptionA {
        x: &'a [f32],
        plane: Plane,
        stride: usize,
        pad: usize,
    },
    /// Another convolution.
    Term(Term<'a>),
}

/// `max(term + added, 0)` into the interior of an activation.
pub(in crate::train) struct Join<'a> {
    pub(in crate::train) term: Term<'a>,
    pub(in crate::train) added: Added<'a>,
    pub(in crate::train) plane: Plane,
    pub(in crate::train) output: &'a mut [f32],
}

impl Join<'_> {
    pub(in crate::train) fn run(self, level: Level) {
        level.run(self);
    }
}

impl Kernel for Join<'_> {
    #[inline(always)]
    unsafe fn run<Wide: Simd, Narrow: Simd>(self) {
        let Self { term, added, plane, output } = self;
        for row in 0..plane.height {
            let dense = row * plane.row()..(row + 1) * plane.row();
            let out = &mut output[plane.range(row)];
            let terms = term.y[dense.clone()].iter().zip(term.scale.iter().zip(term.shift));
            for (out, (&y, (&scale, &shift))) in out.iter_mut().zip(terms) {
                *out = y * scale + shift;
            }
            match added {
                Added::None => {}
                Added::Same(x, from) => {
                    for (out, &x) in out.iter_mut().zip(&x[from.range(row)]) {
                        *out += x;
                    }
                }
                Added::OptionA { x, plane: from, stride, pad } => {
                    for (column, out) in out.chunks_exact_mut(plane.channels).enumerate() {
                        let at = from.at(row * stride, column * stride);
                        for (out, &x) in out[pad..].iter_mut().zip(&x[at..at + from.channels]) {
                            *out += x;
                        }
                    }
                }
                Added::Term(Term { y, scale, shift }) => {
                    let terms = y[dense].iter().zip(scale.iter().zip(shift));
                    for (out, (&y, (&scale, &shift))) in out.iter_mut().zip(terms) {
                        *out += y * scale + shift;
                    }
                }
            }
            for out in out {
                *out = out.max(0.0);
            }
        }
    }
}

/// Mean and sum of squared deviations of every channel of one image without border.
pub(in crate::train) struct Moments<'a> {
    pub(in crate::train) plane: Plane,
    pub(in crate::train) y: &'a [f32],
    /// `[2][channels]`.
    pub(in crate::train) output: &'a mut [f32],
}

impl Moments<'_> {
    pub(in crate::train) fn run(self, level: Level) {
        level.run(self);
    }
}

impl Kernel for Moments<'_> {
    #[inline(always)]
    unsafe fn run<Wide: Simd, Narrow: Simd>(self) {
        let Self { plane, y, output } = self;
        let (means, squares) = output.split_at_mut(plane.channels);
        let mut sums = vec![0.0f32; plane.row()];
        for row in y.chunks_exact(plane.row()) {
            for (sum, &y) in sums.iter_mut().zip(row) {
                *sum += y;
            }
        }
        fold(&sums, means);
        means.iter_mut().for_each(|mean| *mean /= plane.pixels() as f32);
        let centre = means.repeat(plane.width);
        sums.fill(0.0);
        for row in y.chunks_exact(plane.row()) {
            for ((sum, &y), &mean) in sums.iter_mut().zip(row).zip(&centre) {
                let deviation = y - mean;
                *sum += deviation * deviation;
            }
        }
        fold(&sums, squares);
    }
}

/// Sums over the pixels of a row.
#[inline(always)]
fn fold(row: &[f32], channels: &mut [f32]) {
    channels.fill(0.0);
    for pixel in row.chunks_exact(channels.len()) {
        for (sum, &value) in channels.iter_mut().zip(pixel) {
            *sum += value;
        }
    }
}

/// What one normalised convolution needs of the gradient: sums over the image of the gradient times the deviation.
pub(in crate::train) struct Deviation<'a> {
    /// The convolution's output, without border.
    pub(in crate::train) y: &'a [f32],
    /// The batch's mean, one row.
    pub(in crate::train) mean: &'a [f32],
    /// `[channels]`.
    pub(in crate::train) output: &'a mut [f32],
}

/// Passes the gradient of an activation back through ReLU: where the activation is positive, the gradient takes its
/// place, elsewhere zero.
pub(in crate::train) struct Mask<'a> {
    pub(in crate::train) plane: Plane,
    /// The activation.
    pub(in crate::train) x: &'a mut [f32],
    /// Its gradient, without border.
    pub(in crate::train) grad: &'a [f32],
    /// Where the activation is clipped, which has no gradient either.
    pub(in crate::train) ceiling: f32,
    /// Sums over the image of the gradient behind ReLU, `[channels]`.
    pub(in crate::train) sums: &'a mut [f32],
    /// For each convolution that was added up.
    pub(in crate::train) deviations: Vec<Deviation<'a>>,
}

impl Mask<'_> {
    pub(in crate::train) fn run(self, level: Level) {
        level.run(self);
    }
}

impl Kernel for Mask<'_> {
    #[inline(always)]
    unsafe fn run<Wide: Simd, Narrow: Simd>(self) {
        let Self { plane, x, grad, ceiling, sums: output, deviations } = self;
        let mut sums = vec![0.0f32; plane.row()];
        for row in 0..plane.height {
            let grad = &grad[row * plane.row()..(row + 1) * plane.row()];
            for ((x, &grad), sum) in x[plane.range(row)].iter_mut().zip(grad).zip(&mut sums) {
                *x = if *x > 0.0 && *x < ceiling { grad } else { 0.0 };
                *sum += *x;
            }
        }
        fold(&sums, output);
        for Deviation { y, mean, output } in deviations {
            sums.fill(0.0);
            for row in 0..plane.height {
                let y = &y[row * plane.row()..(row + 1) * plane.row()];
                let terms = x[plane.range(row)].iter().zip(y.iter().zip(mean));
                for (sum, (&grad, (&y, &mean))) in sums.iter_mut().zip(terms) {
                    *sum += grad * (y - mean);
                }
            }
            fold(&sums, output);
        }
    }
}

/// The gradient of a convolution's output from that of its normalised value: `scale * grad + slope * y + shift`, each
/// coefficient one row.
pub(in crate::train) struct Denormalize<'a> {
    /// The normalised value's gradient.
    pub(in crate::train) grad: &'a [f32],
    pub(in crate::train) from: Plane,
    /// The convolution's output, without border.
    pub(in crate::train) y: &'a [f32],
    pub(in crate::train) scale: &'a [f32],
    pub(in crate::train) slope: &'a [f32],
    pub(in crate::train) shift: &'a [f32],
    pub(in crate::train) output: &'a mut [f32],
    pub(in crate::train) to: Plane,
}

impl Denormalize<'_> {
    pub(in crate::train) fn run(self, level: Level) {
        level.run(self);
    }
}

impl Kernel for Denormalize<'_> {
    #[inline(always)]
    unsafe fn run<Wide: Simd, Narrow: Simd>(self) {
        let Self { grad, from, y, scale, slope, shift, output, to } = self;
        for row in 0..to.height {
            let y = &y[row * to.row()..(row + 1) * to.row()];
            let values = grad[from.range(row)].iter().zip(y);
            let coefficients = scale.iter().zip(slope.iter().zip(shift));
            for (out, ((&grad, &y), (&scale, (&slope, &shift)))) in
                output[to.range(row)].iter_mut().zip(values.zip(coefficients))
            {
                *out = scale * grad + (slope * y + shift);
            }
        }
    }
}
