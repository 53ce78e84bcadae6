//! Drives the microkernel over a layer: prepares parameters, fills the row ring, picks tiles.

use super::ring::{Ring, Rows, border_steps};
use super::simd::Simd;
use super::tile::{Channels, Kind, MAX_KERNEL, Tile, Width};
use crate::kernels::{ConvCall, Params, k8n16, params_len, scalar, weights_len};
use crate::op::{ConvShape, Layout};
use core::ptr;

/// Pixels of the widest tile.
fn widest<S: Simd>() -> usize {
    S::KINDS.iter().flat_map(|k| k.widths).map(|w| w.pixels).max().unwrap_or(1)
}

/// Entries of the table of parameters.
fn entries(blocks: k8n16::Blocks) -> usize {
    blocks.full + usize::from(blocks.tail)
}

/// Bytes of scratch memory: room to align, the parameters, the ring.
pub(super) fn scratch_len<S: Simd>(shape: &ConvShape) -> usize {
    let table = entries(k8n16::Blocks::of(shape.out_c)) * size_of::<Channels>();
    align_of::<Channels>() + table + Ring::new(shape, S::UNIT).len(widest::<S>())
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
        // Shifts and accumulators beyond what 32-bit lanes hold: the law itself. The compiler writes no such layer.
        return scalar::conv::k8n16(call);
    };
    // SAFETY: as promised by the caller; the slices have been checked.
    unsafe { run_checked::<S>(call, pre_shift) }
}

/// # Safety
/// The instruction set of `S` is available and `is_complete`.
#[inline(always)]
unsafe fn run_checked<S: Simd>(call: &mut ConvCall<'_>, pre_shift: u8) {
    let conv = call.conv;
    let (shape, flip) = (conv.shape, call.input_flip() ^ 0x80);
    let blocks = k8n16::Blocks::of(shape.out_c);
    let params = Params::new(call.params, blocks.channels());

    let pad = call.scratch.as_ptr().align_offset(align_of::<Channels>());
    let (head, slots) = call.scratch.split_at_mut(pad + entries(blocks) * size_of::<Channels>());
    // SAFETY: every bit pattern is a valid value of `Channels`, which is nothing but arrays of i32.
    let (_, table, _) = unsafe { head.align_to_mut::<Channels>() };
    fill_channels(table, &params, blocks, pre_shift);

    let ring = Ring::new(&shape, S::UNIT);
    let rows = Rows { input: call.input, flip, border: conv.border.map(|b| b ^ 0x80) };
    ring.fill_border(slots, &rows);

    let row_steps = k8n16::row_steps(&shape);
    let layer = Layer {
        shape,
        blocks,
        row_steps,
        // Window columns of small pixels do not fall on steps.
        skip_columns: rows.border == [0; 4] && !k8n16::window_rows(&shape),
        weights: call.weights,
        channels: table,
    };
    let mut tile = Tile {
        rows: [ptr::null(); MAX_KERNEL],
        row_count: 0,
        start: 0,
        distance: ring.distance,
        steps: [0, row_steps, 0],
        weights: ptr::null(),
        block_stride: k8n16::steps(&shape) * k8n16::BLOCK_STEP,
        tail_weights: ptr::null(),
        channels: ptr::null(),
        out_hi: ptr::null_mut(),
        out_lo: ptr::null_mut(),
        out_c: usize::from(shape.out_c),
        left: 0,
        pixels: 0,
        accumulate: conv.accumulate,
        limits: conv.limits,
    };
    let (out_hi, out_lo) = (call.out_hi.as_mut_ptr(), call.out_lo.as_mut_ptr());
    let wide = !call.out_lo.is_empty();
    let mut filled = isize::MIN;
    for y in 0..shape.out_h() {
        let top = (y * usize::from(shape.stride)) as isize - isize::from(shape.padding as i8);
        let window = visible(&shape, top, rows.border == [0; 4]);
        for row in window.clone().filter(|&row| row >= filled) {
            ring.fill_row(slots, &rows, row);
        }
        filled = window.end;
        let (ring_start, first) = (slots.as_ptr(), (window.start - top) as usize);
        tile.row_count = 0;
        for (to, row) in tile.rows.iter_mut().zip(window) {
            *to = ring_start.wrapping_add(ring.slot(row));
            tile.row_count += 1;
        }
        let at = y * shape.out_w() * tile.out_c;
        let hi = out_hi.wrapping_add(at);
        let lo = if wide { out_lo.wrapping_add(at) } else { ptr::null_mut() };
        // SAFETY: the instruction set is there. Rows are slots of the ring, which goes on far enough behind the last
        // one; the planes hold row `y` of the output; weights and parameters have been checked against the shape.
        unsafe { layer.run_row::<S>(&mut tile, first, hi, lo) };
    }
}

/// Input rows of the window that starts at row `top`; only those that exist, if the border is nothing but zeros.
fn visible(shape: &ConvShape, top: isize, skip: bool) -> core::ops::Range<isize> {
    let bottom = top + isize::from(shape.kernel as i8);
    if skip { top.max(0)..bottom.min(shape.in_h as isize) } else { top..bottom }
}

/// What stays the same for all rows.
struct Layer<'a> {
    shape: ConvShape,
    blocks: k8n16::Blocks,
    row_steps: usize,
    /// Whether steps that only read the border can be left out.
    skip_columns: bool,
    weights: &'a [u8],
    channels: &'a [Channels],
}

impl Layer<'_> {
    /// Computes one row of outputs.
    ///
    /// # Safety
    /// The instruction set of `S` is available; the fields of `tile` that do not depend on channels and columns are
    /// valid for the whole row, of which `first` is the first window row; the planes begin at `hi` and `lo`.
    #[inline(always)]
    unsafe fn run_row<S: Simd>(&self, tile: &mut Tile, first: usize, hi: *mut u8, lo: *mut u8) {
        let (weights, steps) = (self.weights.as_ptr(), k8n16::steps(&self.shape));
        let skipped = first * self.row_steps;
        let mut done = 0;
        while let Some(kind) = next_kind::<S>(self.blocks, done) {
            let channel = 16 * done;
            // Offsets stay inside of the weights, whose length is that of all blocks.
            tile.weights = weights.wrapping_add((done * steps + skipped) * k8n16::BLOCK_STEP);
            let full = self.blocks.full * steps * k8n16::BLOCK_STEP;
            tile.tail_weights = weights.wrapping_add(full + skipped * k8n16::TAIL_STEP);
            tile.channels = self.channels[done..].as_ptr();
            tile.left = tile.out_c - channel;
            let mut x = 0;
            while x < self.shape.out_w() {
                let left = self.shape.out_w() - x;
                let width = pick(kind.widths, left);
                tile.pixels = width.pixels.min(left);
                tile.start = x * tile.distance;
                tile.steps = if self.skip_columns && width.pixels <= left {
                    border_steps(&self.shape, x, width.pixels)
                } else {
                    [0, self.row_steps, 0]
                };
                let at = x * tile.out_c + channel;
                tile.out_hi = hi.wrapping_add(at);
                tile.out_lo = if lo.is_null() { lo } else { lo.wrapping_add(at) };
                // SAFETY: the tile is valid: it covers `pixels` pixels of the row and blocks that exist.
                unsafe { (width.run)(tile) };
                x += tile.pixels;
            }
            done += kind.blocks;
            if kind.tail {
                break;
            }
        }
    }
}

/// The kind of tile for the blocks after the first `done` ones.
fn next_kind<S: Simd>(blocks: k8n16::Blocks, done: usize) -> Option<&'static Kind> {
    let left = blocks.full - done;
    S::KINDS.iter().find(|k| if k.tail { blocks.tail && k.blocks == left } else { (1..=left).contains(&k.blocks) })
}

/// The tile for the next of `left` pixels: the widest one that leaves nothing or enough for another tile.
fn pick(widths: &'static [Width], left: usize) -> &'static Width {
    let least = &widths[widths.len() - 1];
    let good = |w: &&Width| w.pixels == left || w.pixels + least.pixels <= left;
    widths.iter().find(good).or_else(|| widths.iter().find(|w| w.pixels <= left)).unwrap_or(least)
}

/// Spreads the parameters over lanes, see [`Channels`].
#[inline(always)]
fn fill_channels(table: &mut [Channels], params: &Params<'_>, blocks: k8n16::Blocks, pre_shift: u8) {
    let full = 16 * blocks.full;
    let (bias, tail_bias) = params.bias.split_at(4 * full);
    let (multiplier, tail_multiplier) = params.multiplier.split_at(4 * full);
    let (shift, tail_shift) = params.right_shift.split_at(full);
    let each = bias.as_chunks::<64>().0.iter().zip(multiplier.as_chunks::<64>().0).zip(shift.as_chunks::<16>().0);
    for (entry, ((bias, multiplier), shift)) in table.iter_mut().zip(each) {
        *entry = Channels::new(words(bias), words(multiplier), *shift, pre_shift);
    }
    if let (Some(entry), Some(bias), Some(multiplier), Some(shift)) =
        (table.get_mut(blocks.full), tail_bias.first_chunk(), tail_multiplier.first_chunk(), tail_shift.first_chunk())
    {
        let (bias, multiplier): ([i32; 8], [i32; 8]) = (words::<32, 8>(bias), words::<32, 8>(multiplier));
        let bias = core::array::from_fn(|i| if i % 2 == 0 { bias[i / 2] } else { 0 });
        let multiplier = core::array::from_fn(|i| multiplier[i % 8]);
        let shift: &[u8; 8] = shift;
        *entry = Channels::new(bias, multiplier, core::array::from_fn(|i| shift[i % 8]), pre_shift);
    }
}

fn words<const BYTES: usize, const N: usize>(bytes: &[u8; BYTES]) -> [i32; N] {
    core::array::from_fn(|i| i32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]))
}
