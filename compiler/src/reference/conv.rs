//! Convolutions prepared for the float kernel: packed weights and the geometry of all windows.

use super::kernel::{self, BLOCK, Block, LANES, Output, Panel, Windows};
use crate::network::{Conv, Shape};
use anyhow::{Result, ensure};

/// A convolution at a fixed input shape.
pub(super) struct PreparedConv {
    input: Shape,
    padded: Shape,
    padding: usize,
    out_channels: usize,
    starts: Vec<usize>,
    runs: Vec<usize>,
    run_len: usize,
    blocks: Vec<PackedBlock>,
}

struct PackedBlock {
    offset: usize,
    first: usize,
    channels: usize,
    weights: Vec<Panel>,
    bias: Vec<Panel>,
}

/// Fails unless the attributes make sense and the tensors have the lengths that they imply.
pub(super) fn check(name: &str, conv: &Conv) -> Result<()> {
    ensure!(
        conv.kernel > 0 && conv.stride > 0 && conv.out_channels > 0 && conv.in_channels > 0,
        "{name}: kernel {}, stride {}, {} input and {} output channels must all be positive",
        conv.kernel,
        conv.stride,
        conv.in_channels,
        conv.out_channels
    );
    ensure!(
        conv.groups > 0
            && conv.in_channels.is_multiple_of(conv.groups)
            && conv.out_channels.is_multiple_of(conv.groups),
        "{name}: {} groups must divide {} input and {} output channels",
        conv.groups,
        conv.in_channels,
        conv.out_channels
    );
    let dims = [conv.out_channels, conv.kernel, conv.kernel, conv.in_channels / conv.groups];
    let expected = dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
    ensure!(
        expected == Some(conv.weight.len()),
        "{name}: the weight has {} elements, expected the shape {dims:?}",
        conv.weight.len()
    );
    ensure!(
        conv.bias.len() == conv.out_channels,
        "{name}: the bias has {} elements, expected {}",
        conv.bias.len(),
        conv.out_channels
    );
    Ok(())
}

impl PreparedConv {
    /// Packs a convolution that [`check`] has accepted and whose output at `input` is `output`.
    pub(super) fn new(conv: &Conv, input: Shape, output: Shape) -> Self {
        let padded = Shape {
            height: input.height + 2 * conv.padding,
            width: input.width + 2 * conv.padding,
            channels: input.channels,
        };
        let at = |row: usize, column: usize| (row * padded.width + column) * padded.channels;
        let starts = (0..output.height)
            .flat_map(|row| (0..output.width).map(move |column| (row, column)))
            .map(|(row, column)| at(row * conv.stride, column * conv.stride))
            .collect();
        // Without groups the channels of a whole window row are contiguous.
        let group_inputs = conv.in_channels / conv.groups;
        let (columns, run_len) = match conv.groups {
            1 => (1, conv.kernel * conv.in_channels),
            _ => (conv.kernel, group_inputs),
        };
        let runs = (0..conv.kernel).flat_map(|row| (0..columns).map(move |column| (row, column)));
        Self {
            input,
            padded,
            padding: conv.padding,
            out_channels: conv.out_channels,
            starts,
            runs: runs.map(|(row, column)| at(row, column)).collect(),
            run_len,
            blocks: pack(conv),
        }
    }

    /// `output` is resized to the output shape; `padded` is scratch memory.
    pub(super) fn run(&self, input: &[f32], padded: &mut Vec<f32>, output: &mut Vec<f32>) {
        output.resize(self.starts.len() * self.out_channels, 0.0);
        let input = match self.padding {
            0 => input,
            _ => {
                self.pad(input, padded);
                padded
            }
        };
        let windows = Windows { input, starts: &self.starts, runs: &self.runs, run_len: self.run_len };
        let mut output = Output { data: output, channels: self.out_channels };
        for block in &self.blocks {
            let block = Block {
                offset: block.offset,
                weights: &block.weights,
                bias: &block.bias,
                first: block.first,
                channels: block.channels,
            };
            kernel::run(&windows, &block, &mut output);
        }
    }

    fn pad(&self, input: &[f32], padded: &mut Vec<f32>) {
        padded.clear();
        padded.resize(self.padded.len(), 0.0);
        let row = self.input.width * self.input.channels;
        let pitch = self.padded.width * self.padded.channels;
        let first = self.padding * (pitch + self.padded.channels);
        for (from, to) in input.chunks_exact(row).zip(padded[first..].chunks_mut(pitch)) {
            to[..row].copy_from_slice(from);
        }
    }
}

/// Splits every group's output channels into blocks as equal as possible and transposes their weights.
fn pack(conv: &Conv) -> Vec<PackedBlock> {
    let group_inputs = conv.in_channels / conv.groups;
    let group_outputs = conv.out_channels / conv.groups;
    let vectors = group_outputs.div_ceil(LANES);
    let width = vectors.div_ceil(vectors.div_ceil(BLOCK)) * LANES;
    let mut blocks = Vec::new();
    for group in 0..conv.groups {
        for start in (0..group_outputs).step_by(width) {
            let channels = width.min(group_outputs - start);
            blocks.push(pack_block(conv, group * group_inputs, group * group_outputs + start, channels));
        }
    }
    blocks
}

fn pack_block(conv: &Conv, offset: usize, first: usize, channels: usize) -> PackedBlock {
    let depth = conv.weight.len() / conv.out_channels;
    let vectors = channels.div_ceil(LANES);
    let mut weights = vec![[0.0; LANES]; depth * vectors];
    let mut bias = vec![[0.0; LANES]; vectors];
    for channel in 0..channels {
        let (vector, lane) = (channel / LANES, channel % LANES);
        bias[vector][lane] = conv.bias[first + channel];
        let row = &conv.weight[(first + channel) * depth..][..depth];
        for (k, &weight) in row.iter().enumerate() {
            weights[k * vectors + vector][lane] = weight;
        }
    }
    PackedBlock { offset, first, channels, weights, bias }
}
