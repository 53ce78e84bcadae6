//! Convolutions on every level of vectors against loops in `f64`, forward and backward.

use super::{difference, noise};
use crate::train::ops::conv::Conv;
use crate::train::ops::plane::Plane;
use crate::train::ops::simd::Level;
use crate::train::plan::Convolution;

/// Calls `visit(output pixel and channel, input pixel and channel, weight)` for every product, all as indices into
/// tensors without border: output and input NHWC, weights OIHW.
fn products(shape: &Convolution, height: usize, width: usize, mut visit: impl FnMut(usize, usize, usize)) {
    let Convolution { input, output, kernel, stride, padding, groups } = *shape;
    let (rows, columns) = (shape.side(height).unwrap(), shape.side(width).unwrap());
    let (inputs, outputs) = (input / groups, output / groups);
    for at in 0..rows * columns * output {
        let (row, column, channel) = (at / output / columns, at / output % columns, at % output);
        for k in 0..inputs * kernel * kernel {
            let (from, ky, kx) = (k / kernel / kernel, k / kernel % kernel, k % kernel);
            let (y, x) = (row * stride + ky, column * stride + kx);
            if y < padding || x < padding || y - padding >= height || x - padding >= width {
                continue;
            }
            let pixel = (y - padding) * width + x - padding;
            let group = channel / outputs;
            visit(
                at,
                pixel * input + group * inputs + from,
                (channel * inputs + from) * kernel * kernel + ky * kernel + kx,
            );
        }
    }
}

/// Values without border into the interior of a plane with one.
fn bordered(dense: &[f32], plane: Plane, len: usize) -> Vec<f32> {
    let mut data = vec![0.0; len];
    for (row, from) in dense.chunks_exact(plane.row()).enumerate() {
        data[plane.range(row)].copy_from_slice(from);
    }
    data
}

fn check(shape: Convolution, [height, width]: [usize; 2], extra_border: usize, level: Level) {
    let what = format!("{shape:?} on {height} x {width}, {level:?}");
    let plane = Plane { height, width, channels: shape.input, border: shape.padding + extra_border };
    let mut conv = Conv::new(shape, plane, level).unwrap();
    let (x, weight) = (noise(1, plane.dense().len()), noise(2, shape.weights()));
    let grad = noise(3, conv.output().len());
    conv.pack(&weight);
    conv.pack_backward(&weight);

    let (mut y, mut dx, mut dw) = (vec![0.0; grad.len()], vec![0.0; x.len()], vec![0.0; weight.len()]);
    products(&shape, height, width, |o, i, w| {
        y[o] += f64::from(x[i]) * f64::from(weight[w]);
        dx[i] += f64::from(grad[o]) * f64::from(weight[w]);
        dw[w] += f64::from(grad[o]) * f64::from(x[i]);
    });
    let single = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect::<Vec<f32>>();

    let input = bordered(&x, plane, plane.len());
    let mut output = vec![f32::NAN; grad.len()];
    conv.forward(&input, &mut output);
    assert!(difference(&output, &single(y)) < 1e-5, "{what}: forward");

    let bordered_grad = bordered(&grad, conv.grad(), conv.grad_len());
    let mut input_grad = vec![f32::NAN; x.len()];
    conv.input_grad(&bordered_grad, &mut input_grad, false);
    let expected = single(dx);
    assert!(difference(&input_grad, &expected) < 1e-5, "{what}: gradient of the input");
    conv.input_grad(&bordered_grad, &mut input_grad, true);
    let twice: Vec<f32> = expected.iter().map(|value| 2.0 * value).collect();
    assert!(difference(&input_grad, &twice) < 1e-5, "{what}: accumulated gradient of the input");

    let mut sums = vec![0.0; conv.sums_len()];
    conv.weight_grad(&input, &bordered_grad, &mut sums);
    let expected = single(dw);
    assert!(difference(&conv.unpack(&sums), &expected) < 1e-5, "{what}: gradient of the weights");
    conv.weight_grad(&input, &bordered_grad, &mut sums);
    let twice: Vec<f32> = expected.iter().map(|value| 2.0 * value).collect();
    assert!(difference(&conv.unpack(&sums), &twice) < 1e-5, "{what}: accumulated gradient of the weights");
}

#[test]
fn convolutions_match_loops() {
    let conv = |input, output, kernel, stride, groups| Convolution {
        input,
        output,
        kernel,
        stride,
        padding: kernel / 2,
        groups,
    };
    for level in Level::available() {
        for (input, output) in [(3, 16), (16, 16), (16, 24), (24, 48), (5, 7), (1, 1), (33, 65), (8, 130)] {
            for (kernel, stride) in [(3, 1), (3, 2), (1, 1), (1, 2), (7, 2)] {
                check(conv(input, output, kernel, stride, 1), [6, 9], 0, level);
            }
        }
        for (kernel, stride) in [(3, 1), (3, 2), (5, 3)] {
            check(conv(8, 16, kernel, stride, 4), [7, 8], 1, level);
            check(conv(6, 6, kernel, stride, 6), [8, 7], 0, level);
            check(conv(4, 40, kernel, stride, 2), [5, 5], 2, level);
            check(conv(16, 16, kernel, stride, 1), [1, 1], 0, level);
            check(conv(16, 16, kernel, stride, 1), [2, 11], 0, level);
        }
    }
}
