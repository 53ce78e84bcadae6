//! Weights: out of the artifact's layout into the order in which a numeric path reads them.

use ride_runtime::kernels::{self, Params, dense, packing};
use ride_runtime::model::Part;
use ride_runtime::op::{Conv, ConvShape, Dense, Layout};

use crate::Path;

/// A convolution's constants for signed activations.
pub(super) struct Plain {
    /// OHWI.
    pub(super) weights: Vec<i8>,
    /// Bias, multiplier, right shift of each channel.
    pub(super) params: Vec<(i32, i32, u8)>,
}

/// Unpacks a convolution.
pub(super) fn unpack(part: &Part<'_>, conv: &Conv) -> Plain {
    let shape = conv.shape;
    let mut weights = vec![0; usize::from(shape.out_c) * shape.taps()];
    packing::unpack(&shape, conv.layout, part.constants(conv.weights), &mut weights);
    let arrays = Params::new(part.constants(conv.params), kernels::padded_channels(&shape, conv.layout));
    let params = (0..usize::from(shape.out_c)).map(|c| {
        let at = kernels::param_at(&shape, conv.layout, c);
        // That layout's biases are folded for activations moved up by 128.
        let moved = match conv.layout {
            Layout::K8N16 => {
                128 * weights[c * shape.taps()..][..shape.taps()].iter().map(|&w| i32::from(w)).sum::<i32>()
            }
            _ => 0,
        };
        (arrays.bias(at).wrapping_add(moved), arrays.multiplier(at), arrays.right_shift(at))
    });
    Plain { params: params.collect(), weights }
}

/// How a path reads a convolution's weights: words of four inputs by output channels, both padded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    path: Path,
    shape: ConvShape,
    /// Words of the four channels of one window place.
    place_words: usize,
    /// Words of a window, padded.
    pub(super) words: usize,
    /// Output channels of a group, padded.
    pub(super) columns: usize,
}

impl Order {
    pub(super) fn new(path: Path, shape: ConvShape) -> Self {
        let (word_step, column_step) = match path {
            Path::F32 | Path::Dp4a => (1, 1),
            Path::Wmma => (4, 16),
            Path::Mma => (8, 8),
        };
        let place_words = shape.group_in().div_ceil(4);
        let words = usize::from(shape.kernel).pow(2) * place_words;
        let columns = shape.group_out().next_multiple_of(column_step);
        Order { path, shape, place_words, words: words.next_multiple_of(word_step), columns }
    }

    /// The table of the window's places: two bytes of distance, the number of channels, a byte offset.
    pub(super) fn taps(&self, out: &mut Vec<u8>) {
        let (kernel, channels) = (usize::from(self.shape.kernel), self.shape.group_in());
        for word in 0..self.words {
            let (place, quad) = (word / self.place_words, word % self.place_words);
            let (dy, dx) = (place / kernel, place % kernel);
            // Padding has zero weights: it may read any place, and takes the first.
            if dy >= kernel {
                out.extend_from_slice(&[0; 8]);
                continue;
            }
            let count = (channels - 4 * quad).min(4);
            let at = (dy * usize::from(self.shape.in_w) + dx) * usize::from(self.shape.in_c) + 4 * quad;
            out.extend_from_slice(&[dy as u8, dx as u8, count as u8, 0]);
            out.extend_from_slice(&(at as i32).to_le_bytes());
        }
    }

    /// Where the word `k` of output channel `column` of a group lies, counted in words.
    fn place(&self, group: usize, column: usize, k: usize) -> usize {
        let groups = usize::from(self.shape.groups);
        match self.path {
            Path::F32 | Path::Dp4a => (k * groups + group) * self.columns + column,
            Path::Wmma => {
                let tile = group * self.columns / 16 + column / 16;
                (tile * (self.words / 4) + k / 4) * 64 + column % 16 * 4 + k % 4
            }
            Path::Mma => {
                let tile = group * self.columns / 8 + column / 8;
                let lane = column % 8 * 4 + k % 4;
                ((tile * (self.words / 8) + k / 8) * 32 + lane) * 2 + k % 8 / 4
            }
        }
    }

    /// The weights in the path's order; padding is 0.
    pub(super) fn weights(&self, plain: &Plain) -> Vec<u8> {
        let shape = self.shape;
        let (taps, channels, group_out) = (shape.taps(), shape.group_in(), shape.group_out());
        let mut out = vec![0u8; 4 * self.words * self.columns * usize::from(shape.groups)];
        for (c, row) in plain.weights.chunks_exact(taps).enumerate() {
            let (group, column) = (c / group_out, c % group_out);
            for (place, inputs) in row.chunks_exact(channels).enumerate() {
                for (quad, word) in inputs.chunks(4).enumerate() {
                    let at = 4 * self.place(group, column, place * self.place_words + quad);
                    out[at..].iter_mut().zip(word).for_each(|(out, &w)| *out = w as u8);
                }
            }
        }
        out
    }

    /// Parameters of each column: bias, multiplier, right shift, nothing.
    pub(super) fn params(&self, plain: &Plain) -> Vec<u8> {
        let group_out = self.shape.group_out();
        let mut out = Vec::with_capacity(16 * self.columns * usize::from(self.shape.groups));
        for group in plain.params.chunks(group_out) {
            for column in 0..self.columns {
                let (bias, multiplier, shift) = group.get(column).copied().unwrap_or((0, 0, 62));
                for word in [bias, multiplier, i32::from(shift), 0] {
                    out.extend_from_slice(&word.to_le_bytes());
                }
            }
        }
        out
    }
}

/// A dense layer's weights: rows padded to a multiple of four.
pub(super) fn dense_rows(part: &Part<'_>, layer: &Dense) -> Vec<u8> {
    let (features, packed) = (usize::from(layer.features), part.constants(layer.weights));
    let row = features.next_multiple_of(4);
    let mut out = vec![0; usize::from(layer.outputs) * row];
    for j in 0..usize::from(layer.outputs) {
        for k in 0..features {
            out[j * row + k] = packed[dense::weight_at(layer, j, k)];
        }
    }
    out
}
