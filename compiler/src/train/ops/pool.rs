//! Max pooling (3 x 3, stride 2, border 1) and the mean over all pixels, of one image at a time, in both directions.

use super::plane::Plane;

/// Rows or columns after max pooling.
pub(in crate::train) fn pooled(side: usize) -> usize {
    side.div_ceil(2)
}

/// Maxima of windows. The input is the output of ReLU: its border of zeros never exceeds what is inside.
pub(in crate::train) fn max(input: &[f32], from: Plane, output: &mut [f32], to: Plane) {
    for row in 0..to.height {
        for column in 0..to.width {
            let at = to.at(row, column);
            let best = &mut output[at..at + to.channels];
            best.fill(0.0);
            for pixel in window(from, row, column) {
                for (best, &x) in best.iter_mut().zip(&input[pixel..pixel + from.channels]) {
                    *best = best.max(x);
                }
            }
        }
    }
}

/// Adds the gradient of each maximum to the first pixel of its window that has it. `pooled` are the maxima; `grad` and
/// `input_grad` have no border.
pub(in crate::train) fn max_grad(
    (input, from): (&[f32], Plane),
    (pooled, to): (&[f32], Plane),
    grad: &[f32],
    input_grad: &mut [f32],
) {
    let mut taken = vec![false; to.channels];
    for row in 0..to.height {
        for column in 0..to.width {
            taken.fill(false);
            let best = &pooled[to.at(row, column)..];
            let grad = &grad[to.dense().at(row, column)..];
            for pixel in window(from, row, column) {
                let target = dense_of(from, pixel);
                for channel in 0..to.channels {
                    if !taken[channel] && input[pixel + channel] == best[channel] {
                        taken[channel] = true;
                        input_grad[target + channel] += grad[channel];
                    }
                }
            }
        }
    }
}

/// Where the pixels of a window are, without those in the border.
fn window(from: Plane, row: usize, column: usize) -> impl Iterator<Item = usize> {
    let side = |at: usize, length: usize| (2 * at).saturating_sub(1)..(2 * at + 2).min(length);
    side(row, from.height).flat_map(move |y| side(column, from.width).map(move |x| from.at(y, x)))
}

/// Where a pixel of a bordered image is without the border.
fn dense_of(from: Plane, at: usize) -> usize {
    let (row, rest) = (at / from.pitch() - from.border, at % from.pitch());
    row * from.row() + rest - from.border * from.channels
}

/// Sum of every channel over all pixels.
pub(in crate::train) fn sum(input: &[f32], plane: Plane, output: &mut [f32]) {
    output.fill(0.0);
    for row in 0..plane.height {
        for pixel in input[plane.range(row)].chunks_exact(plane.channels) {
            for (sum, &x) in output.iter_mut().zip(pixel) {
                *sum += x;
            }
        }
    }
}

/// The gradient of every pixel, without border, of that of the mean.
pub(in crate::train) fn mean_grad(grad: &[f32], plane: Plane, output: &mut [f32]) {
    let share = 1.0 / plane.pixels() as f32;
    for pixel in output.chunks_exact_mut(plane.channels) {
        for (out, &grad) in pixel.iter_mut().zip(grad) {
            *out = grad * share;
        }
    }
}
