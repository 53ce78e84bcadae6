//! A convolution at a fixed size of image: where windows lie in both directions, and its weights packed for them.

use super::gather::{Gather, Packed, Windows};
use super::plane::Plane;
use super::simd::{Level, MAX_LANES};
use super::weight::{self, Walk, WeightGrad};
use crate::train::plan::Convolution;

/// Forward convolution, gradient of the input and gradient of the weights, of one image at a time.
#[derive(Clone, Debug)]
pub(in crate::train) struct Conv {
    shape: Convolution,
    level: Level,
    /// The input, with a border of at least the padding.
    input: Plane,
    /// The output, without border.
    output: Plane,
    /// The output's gradient, with the border that the input's gradient needs.
    grad: Plane,
    windows: Windows,
    /// For each remainder of rows and columns by the stride, the input pixels that it has.
    phases: Vec<Phase>,
    /// Weights of each group for `windows`.
    forward: Vec<Packed>,
}

/// Input pixels whose gradient comes from the same elements of the window.
#[derive(Clone, Debug)]
struct Phase {
    windows: Windows,
    /// First row and column of the window that the pixels meet.
    first: [usize; 2],
    /// Columns of the window that they meet.
    columns: usize,
    /// Weights of each group for `windows`, transposed.
    weights: Vec<Packed>,
}

impl Conv {
    /// `input` has a border of at least the padding. Weights are still to be packed.
    pub(in crate::train) fn new(shape: Convolution, input: Plane, level: Level) -> Option<Self> {
        let (height, width) = (shape.side(input.height)?, shape.side(input.width)?);
        let output = Plane { height, width, channels: shape.output, border: 0 };
        let border = grad_border(&shape, input.height, height).max(grad_border(&shape, input.width, width));
        let grad = Plane { border, ..output };
        let (runs, run_len) = window_runs(&shape, &input);
        let corner = input.border - shape.padding;
        let places = pixels(height, width).map(|(row, column)| {
            let start = input.at_padded(row * shape.stride + corner, column * shape.stride + corner);
            (start, output.at(row, column))
        });
        let windows = Windows::new(places, runs, run_len);
        let groups = vec![Packed::default(); shape.groups];
        let mut conv = Self { shape, level, input, output, grad, windows, phases: Vec::new(), forward: groups };
        let remainders = pixels(shape.stride, shape.stride);
        conv.phases = remainders.map(|(row, column)| conv.phase([row, column])).collect();
        Some(conv)
    }

    /// The input pixels `(y, x)` with `(y + padding) % stride` and `(x + padding) % stride` as given. Pixel `y` meets
    /// rows `first + stride * t` of the windows of output rows `(y + padding) / stride - t`.
    fn phase(&self, first: [usize; 2]) -> Phase {
        let Convolution { kernel, stride, padding, groups, .. } = self.shape;
        let taps = |first: usize| kernel.saturating_sub(first).div_ceil(stride);
        let (rows, columns) = (taps(first[0]), taps(first[1]));
        let depth = self.shape.output / groups;
        let meets = |at: usize, first: usize| (at + padding) % stride == first;
        // The window's upper left corner in the padded gradient.
        let corner = |at: usize, taps: usize| (at + padding) / stride + self.grad.border + 1 - taps.max(1);
        let all = pixels(self.input.height, self.input.width);
        let dense = Plane { border: 0, ..self.input };
        let own = all.filter(|&(row, column)| meets(row, first[0]) && meets(column, first[1]));
        let places = own.map(|(row, column)| {
            (self.grad.at_padded(corner(row, rows), corner(column, columns)), dense.at(row, column))
        });
        let (runs, run_len) = match (rows * columns, groups) {
            (0, _) => (Vec::new(), 0),
            (_, 1) => ((0..rows).map(|row| self.grad.at_padded(row, 0)).collect(), columns * depth),
            _ => (pixels(rows, columns).map(|(row, column)| self.grad.at_padded(row, column)).collect(), depth),
        };
        let windows = Windows::new(places, runs, run_len);
        Phase { windows, first, columns, weights: vec![Packed::default(); groups] }
    }

    pub(in crate::train) fn shape(&self) -> &Convolution {
        &self.shape
    }

    /// The output, without border.
    pub(in crate::train) fn output(&self) -> Plane {
        self.output
    }

    /// The output's gradient, whose border must be zero.
    pub(in crate::train) fn grad(&self) -> Plane {
        self.grad
    }

    /// Elements of a buffer for the output's gradient of one image.
    pub(in crate::train) fn grad_len(&self) -> usize {
        self.grad.len() + MAX_LANES
    }

    /// Elements of a buffer for the weights' gradient.
    pub(in crate::train) fn sums_len(&self) -> usize {
        self.shape.groups * self.windows.rows() * weight::padded(self.shape.output / self.shape.groups)
    }

    /// Packs `weight`, `[output][input / groups][kernel][kernel]`, for the forward direction.
    pub(in crate::train) fn pack(&mut self, weight: &[f32]) {
        let (inputs, outputs) = self.group();
        let window = self.shape.kernel * self.shape.kernel;
        // Rows are window rows, window columns and input channels.
        for (group, packed) in self.forward.iter_mut().enumerate() {
            packed.fill(self.level, window * inputs, outputs, |row, channel| {
                weight[((group * outputs + channel) * inputs + row % inputs) * window + row / inputs]
            });
        }
    }

    /// Packs the same weight for gradients of the input.
    pub(in crate::train) fn pack_backward(&mut self, weight: &[f32]) {
        let (inputs, outputs) = self.group();
        let Convolution { kernel, stride, .. } = self.shape;
        for phase in &mut self.phases {
            let (first, columns) = (phase.first, phase.columns);
            let taps = phase.windows.rows() / outputs;
            for (group, packed) in phase.weights.iter_mut().enumerate() {
                // Rows are window rows, window columns, both from the last, and output channels.
                packed.fill(self.level, taps * outputs, inputs, |row, channel| {
                    let (tap, from) = (taps - 1 - row / outputs, row % outputs);
                    let at = (first[0] + stride * (tap / columns)) * kernel + first[1] + stride * (tap % columns);
                    weight[((group * outputs + from) * inputs + channel) * kernel * kernel + at]
                });
            }
        }
    }

    /// Convolves one image.
    pub(in crate::train) fn forward(&self, input: &[f32], output: &mut [f32]) {
        let (inputs, outputs) = self.group();
        for (group, weights) in self.forward.iter().enumerate() {
            let (input, output) = (&input[group * inputs..], &mut output[group * outputs..]);
            Gather { windows: &self.windows, weights, input, output, accumulate: false }.run(self.level);
        }
    }

    /// The gradient of one image, without border, of that of the output; or adds it to what is there.
    pub(in crate::train) fn input_grad(&self, grad: &[f32], input: &mut [f32], accumulate: bool) {
        let (inputs, outputs) = self.group();
        if !accumulate && self.phases.iter().any(|phase| phase.windows.is_empty()) {
            input.fill(0.0);
        }
        for phase in self.phases.iter().filter(|phase| !phase.windows.is_empty()) {
            for (group, weights) in phase.weights.iter().enumerate() {
                let (from, to) = (&grad[group * outputs..], &mut input[group * inputs..]);
                let gather = Gather { windows: &phase.windows, weights, input: from, output: to, accumulate };
                gather.run(self.level);
            }
        }
    }

    /// Adds one image's share of the weights' gradient to `sums`, of [`Conv::sums_len`].
    pub(in crate::train) fn weight_grad(&self, input: &[f32], grad: &[f32], sums: &mut [f32]) {
        let (inputs, outputs) = self.group();
        let corner = self.input.border - self.shape.padding;
        let (input_start, grad_start) = (self.input.at_padded(corner, corner), self.grad.at(0, 0));
        let walk = Walk {
            height: self.output.height,
            width: self.output.width,
            input_row: self.shape.stride * self.input.pitch(),
            input_pixel: self.shape.stride * self.input.channels,
            grad_row: self.grad.pitch(),
            grad_pixel: self.grad.channels,
        };
        let (runs, run_len) = self.windows.runs();
        for (group, sums) in sums.chunks_exact_mut(self.windows.rows() * weight::padded(outputs)).enumerate() {
            let input = &input[input_start + group * inputs..];
            let grad = &grad[grad_start + group * outputs..];
            WeightGrad { walk, input, runs, run_len, grad, channels: outputs, sums }.run(self.level);
        }
    }

    /// The weights' gradient in the order of the weights.
    pub(in crate::train) fn unpack(&self, sums: &[f32]) -> Vec<f32> {
        let (inputs, outputs) = self.group();
        let window = self.shape.kernel * self.shape.kernel;
        let (rows, columns) = (self.windows.rows(), weight::padded(outputs));
        let mut weight = Vec::with_capacity(self.shape.weights());
        for output in 0..self.shape.output {
            let (group, channel) = (output / outputs, output % outputs);
            for input in 0..inputs {
                let row = |at: usize| group * rows + at * inputs + input;
                weight.extend((0..window).map(|at| sums[row(at) * columns + channel]));
            }
        }
        weight
    }

    /// Input and output channels of a group.
    fn group(&self) -> (usize, usize) {
        (self.shape.input / self.shape.groups, self.shape.output / self.shape.groups)
    }
}

fn pixels(height: usize, width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..height).flat_map(move |row| (0..width).map(move |column| (row, column)))
}

/// Without groups, the channels of a whole window row are contiguous.
fn window_runs(shape: &Convolution, input: &Plane) -> (Vec<usize>, usize) {
    match shape.groups {
        1 => ((0..shape.kernel).map(|row| input.at_padded(row, 0)).collect(), shape.kernel * shape.input),
        groups => {
            let runs = pixels(shape.kernel, shape.kernel).map(|(row, column)| input.at_padded(row, column));
            (runs.collect(), shape.input / groups)
        }
    }
}

/// How far beyond the output's `side` the windows of [`Conv::phase`] reach, for `input` rows or columns.
fn grad_border(shape: &Convolution, input: usize, side: usize) -> usize {
    let Convolution { kernel, stride, padding, .. } = *shape;
    let before = |at: usize| {
        let taps = kernel.saturating_sub((at + padding) % stride).div_ceil(stride).max(1);
        (taps - 1).saturating_sub((at + padding) / stride)
    };
    let after = |at: usize| ((at + padding) / stride).saturating_sub(side - 1);
    (0..input).map(|at| before(at).max(after(at))).max().unwrap_or(0)
}
