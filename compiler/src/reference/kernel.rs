//! The inner loop of the float convolution, compiled once for every vector extension.
//!
//! One output element is always `fma(x_k, w_k, ... fma(x_0, w_0, bias))` with `k` running through the window rows, the
//! window columns and then the channels. Vectors run along output channels and tiles along pixels, so neither the vector
//! width nor the tile shape changes the order of one element's sum: every machine computes the same bits. (Without a
//! fused multiply-add in hardware the standard library emulates it, which is exact and slow.)

#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

/// Output channels that one vector of weights holds; packed weights are padded to a multiple of it.
pub(super) const LANES: usize = 16;

/// Vectors of a block of output channels at most.
pub(super) const BLOCK: usize = 4;

/// One row of packed weights: what one input element contributes to `LANES` output channels.
pub(super) type Panel = [f32; LANES];

/// A convolution's input as the kernel reads it: zero-padded, with the places of all windows in it.
pub(super) struct Windows<'a> {
    /// The padded input, NHWC.
    pub(super) input: &'a [f32],
    /// Where each output pixel's window starts.
    pub(super) starts: &'a [usize],
    /// Where the contiguous runs of a window lie, relative to its start.
    pub(super) runs: &'a [usize],
    /// Length of each run.
    pub(super) run_len: usize,
}

/// Up to [`BLOCK`] vectors of output channels.
pub(super) struct Block<'a> {
    /// Distance of this block's inputs from the window's start (where its group begins).
    pub(super) offset: usize,
    /// `[runs][run_len][vectors]`.
    pub(super) weights: &'a [Panel],
    /// One vector for each vector of output channels.
    pub(super) bias: &'a [Panel],
    /// First output channel.
    pub(super) first: usize,
    /// Output channels of this block; the remaining lanes are padding.
    pub(super) channels: usize,
}

/// Where results go: `[pixels][channels]`.
pub(super) struct Output<'a> {
    /// All pixels.
    pub(super) data: &'a mut [f32],
    /// Channels of one pixel.
    pub(super) channels: usize,
}

/// Computes one block of output channels at all pixels.
pub(super) type Kernel = fn(&Windows<'_>, &Block<'_>, &mut Output<'_>);

/// The sums of `V` vectors of output channels at `P` pixels.
type Sums<const V: usize, const P: usize> = [[Panel; V]; P];

/// Computes one block of output channels at all pixels with the widest vectors this machine has.
pub(super) fn run(windows: &Windows<'_>, block: &Block<'_>, output: &mut Output<'_>) {
    static BEST: LazyLock<Kernel> = LazyLock::new(|| *available().last().expect("the portable kernel is always there"));
    BEST(windows, block, output);
}

/// The kernels that this machine can run, slowest first.
pub(super) fn available() -> Vec<Kernel> {
    #[cfg(target_arch = "x86_64")]
    let vectors = x86::available();
    #[cfg(not(target_arch = "x86_64"))]
    let vectors = [];
    std::iter::once(portable as Kernel).chain(vectors).collect()
}

fn portable(windows: &Windows<'_>, block: &Block<'_>, output: &mut Output<'_>) {
    for vector in 0..block.bias.len() {
        pixels(windows, block, vector, output, portable_tile::<4>);
    }
}

fn portable_tile<const P: usize>(
    windows: &Windows<'_>,
    starts: &[usize; P],
    block: &Block<'_>,
    vector: usize,
) -> Sums<1, P> {
    let (stride, len) = (block.bias.len(), windows.run_len);
    let mut sums = [[block.bias[vector]]; P];
    for (&run, weights) in windows.runs.iter().zip(block.weights.chunks_exact(len * stride)) {
        for (k, weights) in weights.chunks_exact(stride).enumerate() {
            for p in 0..P {
                let x = windows.input[starts[p] + run + k];
                for lane in 0..LANES {
                    sums[p][0][lane] = x.mul_add(weights[vector][lane], sums[p][0][lane]);
                }
            }
        }
    }
    sums
}

/// Walks over all pixels in tiles of `P` and stores the sums of `V` vectors of output channels, `vector` being the first.
fn pixels<const V: usize, const P: usize>(
    windows: &Windows<'_>,
    block: &Block<'_>,
    vector: usize,
    output: &mut Output<'_>,
    tile: impl Fn(&Windows<'_>, &[usize; P], &Block<'_>, usize) -> Sums<V, P>,
) {
    let channels = (block.channels - vector * LANES).min(V * LANES);
    let first = block.first + vector * LANES;
    let count = windows.starts.len();
    for pixel in (0..count).step_by(P) {
        // A last tile that is not full repeats the last pixel and stores it once.
        let starts: [usize; P] = std::array::from_fn(|p| windows.starts[(pixel + p).min(count - 1)] + block.offset);
        let sums = tile(windows, &starts, block, vector);
        for (p, sums) in sums.iter().enumerate().take(count - pixel) {
            let to = (pixel + p) * output.channels + first;
            output.data[to..to + channels].copy_from_slice(&sums.as_flattened()[..channels]);
        }
    }
}
