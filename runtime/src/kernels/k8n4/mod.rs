//! The weight layout `k8n4`: 8 inputs by 4 output channels, for 64-bit Arm.
//!
//! The taps of one output pixel are cut into *steps* of eight activation bytes: eight channels of one window place, in
//! the order window row, group of eight channels, window column; for images with fewer than eight channels, eight
//! consecutive bytes of the whole window. Each group of 4 output channels keeps its own stream of steps, 32 bytes each:
//! 4 channels × inputs 0..4, then 4 channels × inputs 4..8. Then
//!
//! * `sdot` takes 4 channels × 4 inputs as they lie there, times 4 activation bytes picked by lane;
//! * `smmla` takes 2 channels × 8 inputs, which is one `zip` of the two halves;
//! * plain NEON takes a table look-up for 4 channels × 1 input.
//!
//! Output channels of a convolution with groups see their own group's inputs only: "channels" above are those of a group
//! then, and a stream's four channels may belong to different groups.
//!
//! Channels are padded to a multiple of 8. Biases are folded for signed activations.

pub mod ring;
pub mod winograd;

use super::{Params, packing};
use crate::op::{ConvShape, Layout};

/// Bytes of a step of activations.
pub const STEP: usize = 8;
/// Channels that share a stream.
pub const GROUP: usize = 4;
/// Bytes of a step of weights of one group of channels.
pub const GROUP_STEP: usize = STEP * GROUP;

/// Output channels, padding included.
pub fn channels(out_c: u16) -> usize {
    usize::from(out_c).next_multiple_of(2 * GROUP)
}

/// Whether steps are cut from the whole window because pixels are smaller than a step.
pub fn whole_window(shape: &ConvShape) -> bool {
    shape.group_in() < STEP
}

/// Groups of 8 input channels; of 8 bytes of the window, where pixels are small.
pub fn groups(shape: &ConvShape) -> usize {
    if whole_window(shape) { shape.taps().div_ceil(STEP) } else { shape.group_in().div_ceil(STEP) }
}

/// Steps of one output pixel.
pub fn steps(shape: &ConvShape) -> usize {
    let kernel = usize::from(shape.kernel);
    if whole_window(shape) { groups(shape) } else { kernel * kernel * groups(shape) }
}

/// Bytes of a layer's packed weights.
pub fn weights_len(shape: &ConvShape) -> usize {
    channels(shape.out_c) / GROUP * steps(shape) * GROUP_STEP
}

/// Bytes of scratch memory that an artifact has to reserve for the kernels of this layout.
pub fn scratch_len(shape: &ConvShape) -> usize {
    if shape.groups > 1 {
        return 0;
    }
    let direct = ring::Ring::new(shape).len();
    Channels::table_len(shape.out_c) + winograd::Plan::new(shape).map_or(0, |p| p.len()).max(direct)
}

/// Window row, window column and channel of byte `k` of step `s`; `None` for padding.
pub fn tap(shape: &ConvShape, s: usize, k: usize) -> Option<(usize, usize, usize)> {
    let (kernel, channels) = (usize::from(shape.kernel), shape.group_in());
    let (row, column, channel) = if whole_window(shape) {
        let at = s * STEP + k;
        (at / channels / kernel, at / channels % kernel, at % channels)
    } else {
        let groups = groups(shape);
        (s / kernel / groups, s % kernel, s / kernel % groups * STEP + k)
    };
    (row < kernel && channel < channels).then_some((row, column, channel))
}

/// Offset of the weight of output channel `c`, step `s`, byte `k`.
pub fn weight_at(shape: &ConvShape, c: usize, s: usize, k: usize) -> usize {
    c / GROUP * steps(shape) * GROUP_STEP + c % GROUP * 4 + weight_place(s, k)
}

/// Bytes from a channel's first weight to that of step `s`, byte `k`.
pub fn weight_place(s: usize, k: usize) -> usize {
    s * GROUP_STEP + k / 4 * 16 + k % 4
}

/// Step, and byte in it, of the weight at a window place for input `i` of a group: what [`tap`] undoes.
pub fn step_of(shape: &ConvShape, (row, column): (usize, usize), i: usize) -> (usize, usize) {
    let (kernel, inputs) = (usize::from(shape.kernel), shape.group_in());
    if whole_window(shape) {
        let tap = (row * kernel + column) * inputs + i;
        (tap / STEP, tap % STEP)
    } else {
        ((row * groups(shape) + i / STEP) * kernel + column, i % STEP)
    }
}

/// Most bytes of a pixel that vector kernels can pick from for 8 channels of a convolution with groups.
pub const GROUP_REACH: usize = 64;

/// Bytes of a pixel from the first input to the last that 8 output channels from a multiple of 8 on see, at most.
pub fn group_reach(shape: &ConvShape) -> usize {
    let (out_c, group_out) = (usize::from(shape.out_c), shape.group_out().max(1));
    let groups = |first: usize| (first + 7).min(out_c - 1) / group_out - first / group_out + 1;
    (0..out_c).step_by(8).map(groups).max().unwrap_or(0) * shape.group_in()
}

/// Calls `visit` for every weight with its number in OHWI order and its offset.
pub fn places(shape: &ConvShape, mut visit: impl FnMut(usize, usize)) {
    let (kernel, inputs, taps) = (usize::from(shape.kernel), shape.group_in(), shape.taps());
    for c in 0..usize::from(shape.out_c) {
        for (place, i) in (0..kernel * kernel).flat_map(|place| (0..inputs).map(move |i| (place, i))) {
            let (s, k) = step_of(shape, (place / kernel, place % kernel), i);
            visit(c * taps + place * inputs + i, weight_at(shape, c, s, k));
        }
    }
}

/// Packs OHWI weights into `out` (of [`weights_len`] bytes); padding becomes zero.
pub fn pack(shape: &ConvShape, ohwi: &[i8], out: &mut [u8]) {
    packing::pack(shape, Layout::K8N4, ohwi, out);
}

/// Parameters of 8 channels as vector kernels load them.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
pub struct Channels {
    /// Biases.
    pub bias: [i32; 8],
    /// Multipliers.
    pub multiplier: [i32; 8],
    /// What is left of the right shift after the doubled high half of a product (31 bits), as a negative left shift.
    pub shift: [i32; 8],
}

impl Channels {
    /// Bytes of the table of `out_c` channels, with room to align it.
    pub fn table_len(out_c: u16) -> usize {
        align_of::<Channels>() + channels(out_c) / 8 * size_of::<Channels>()
    }

    /// The table of parameters in `memory` of [`Channels::table_len`] bytes.
    #[inline(always)]
    pub fn fill_table<'a>(memory: &'a mut [u8], params: &Params<'_>, channels: usize, pre_shift: u8) -> &'a [Channels] {
        // SAFETY: every bit pattern is a valid value of `Channels`, which is nothing but arrays of i32.
        let (_, table, _) = unsafe { memory.align_to_mut::<Channels>() };
        let table = &mut table[..channels / 8];
        for (i, entry) in table.iter_mut().enumerate() {
            *entry = Channels::new(params, 8 * i, pre_shift);
        }
        table
    }

    /// The parameters of channels `first..first + 8`, for accumulators that are moved left by `pre_shift`.
    pub fn new(params: &Params<'_>, first: usize, pre_shift: u8) -> Self {
        let shift = |c: usize| 31 - i32::from(params.right_shift[first + c]) - i32::from(pre_shift);
        Channels {
            bias: core::array::from_fn(|c| params.bias(first + c)),
            multiplier: core::array::from_fn(|c| params.multiplier(first + c)),
            shift: core::array::from_fn(shift),
        }
    }
}
