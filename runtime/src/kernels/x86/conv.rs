//! Drives the microkernel over a layer: prepares parameters, fills the row ring, picks tiles.

use super::ring::{Ring, Rows, border_steps};
use super::simd::Simd;
use super::tile::{Channels, MAX_KERNEL, Tile, TileShape};
use crate::kernels::{ConvCall, k8n16, padded_channels, params_len, scalar, weights_len};
use crate::op::{ConvShape, Layout};

/// The parameters begin at a multiple of this.
const ALIGN: usize = align_of::<Channels>();

fn widest<S: Simd>() -> usize {
    S::SHAPES.iter().map(|s| s.pixels).max().unwrap_or(1)
}

/// Bytes of scratch memory: room to align, the parameters, the ring.
pub(super) fn scratch_len<S: Simd>(shape: &ConvShape) -> usize {
    let blocks = k8n16::Blocks::of(shape.out_c);
    let entries = blocks.full + usize::from(blocks.tail);
    ALIGN + entries * size_of::<Channels>() + Ring::new(shape, S::UNIT).len(widest::<S>())
}

/// Whether every slice is as long as the shape asks; always so for a validated model.
fn is_complete<S: Simd>(call: &ConvCall<'_>) -> bool {
    let shape = &call.conv.shape;
    (1..=MAX_KERNEL).contains(&usize::from(shape.kernel))
        && shape.padding < shape.kernel
        && shape.in_c > 0
        && shape.output_len() > 0
        && call.input.len() >= shape.input_len()
        && call.weights.len() >= weights_len(shape, Layout::K8N16)
        && call.params.len() >= params_len(shape.out_c, Layout::K8N16)
        && call.out_hi.len() >= shape.output_len()
        && (call.out_lo.is_empty() || call.out_lo.len() >= shape.output_len())
        && call.scratch.len() >= scratch_len::<S>(shape)
}

/// Bits by which accumulators can and must be moved left so that every total right shift is at least 33; `None` if
/// there is no such number.
fn pre_shift(call: &ConvCall<'_>) -> Option<u8> {
    let smallest = call.channel_params().right_shift.iter().copied().min()?;
    let bits = 33u8.saturating_sub(smallest);
    (bits == 0 || bits + call.conv.acc_bits <= 31).then_some(bits)
}

/// Blocks of output channels that are computed together.
#[derive(Clone, Copy)]
struct Group {
    /// First block of 16 channels.
    block: usize,
    blocks: usize,
    tail: bool,
}

impl Group {
    /// The group after `done` blocks: as many as a tile has, and the block of 8 channels with the last of them.
    fn next<S: Simd>(done: usize, blocks: k8n16::Blocks) -> Option<Self> {
        let left = blocks.full - done;
        let shape = S::SHAPES
            .iter()
            .filter(|s| s.blocks <= left && (!s.tail || (blocks.tail && s.blocks == left)))
            .max_by_key(|s| (s.tail && s.blocks > 0, s.blocks, s.tail))?;
        Some(Group { block: done, blocks: shape.blocks, tail: shape.tail })
    }
}

/// The tile for the next of `left` pixels: the widest one that leaves nothing or enough for another tile.
fn pick<S: Simd>(group: Group, left: usize) -> Option<&'static TileShape> {
    let fitting = || S::SHAPES.iter().filter(|s| s.blocks == group.blocks && s.tail == group.tail);
    let least = fitting().map(|s| s.pixels).min()?;
    fitting()
        .find(|s| s.pixels == left || s.pixels + least <= left)
        .or_else(|| fitting().find(|s| s.pixels <= left))
        .or_else(|| fitting().last())
}

/// Runs a convolution.
///
/// # Safety
/// The instruction set of `S` is available.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(call: &mut ConvCall<'_>) {
    if !is_complete::<S>(call) {
        debug_assert!(false, "a slice is shorter than the shape asks");
        return;
    }
    let Some(pre_shift) = pre_shift(call) else {
        // Shifts and accumulators beyond what 32-bit lanes hold: the law itself. `ride-compile` writes no such layer.
        return scalar::conv::k8n16(call);
    };
    // SAFETY: all slices have been checked.
    unsafe { run_checked::<S>(call, pre_shift) }
}

/// # Safety
/// The instruction set of `S` is available and `is_complete`.
#[inline(always)]
unsafe fn run_checked<S: Simd>(call: &mut ConvCall<'_>, pre_shift: u8) {
    let shape = call.conv.shape;
    let blocks = k8n16::Blocks::of(shape.out_c);
    let entries = blocks.full + usize::from(blocks.tail);
    let rows = Rows { input: call.input, flip: call.input_flip() ^ 0x80, border: call.conv.border.map(|b| b ^ 0x80) };
    let ring = Ring::new(&shape, S::UNIT);

    let align = call.scratch.as_ptr().align_offset(ALIGN).min(ALIGN);
    let (table, slots) = call.scratch[align..].split_at_mut(entries * size_of::<Channels>());
    let table = table.as_mut_ptr().cast::<Channels>();
    // SAFETY: `table` is aligned and has room for `entries`.
    unsafe { fill_channels(table, params(call.params, &shape), blocks, pre_shift) };
    ring.fill_border(slots, &rows);

    let layer = Layer {
        shape,
        blocks,
        ring,
        zero_border: rows.border == [0; 4],
        weights: call.weights.as_ptr(),
        table,
        accumulate: call.conv.accumulate,
    };
    todo!()
}
