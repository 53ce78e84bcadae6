//! Drives the microkernel over a layer: prepares parameters, fills the row ring, picks tiles.

use super::ring::{Ring, Rows, border_steps};
use super::simd::Simd;
use super::store::Channels;
use super::tile::{Kind, MAX_KERNEL, Place, Row, Tile, Width};
use crate::kernels::k8n16::STEP;
use crate::kernels::{ConvCall, Params, k8n16, params_len, scalar};
use crate::op::{ConvShape, Layout};
use core::ptr;

/// Pixels of the widest tile.
const fn widest(kinds: &[Kind]) -> usize {
    let (mut most, mut i) = (1, 0);
    while i < kinds.len() {
        if kinds[i].widths[0].pixels > most {
            most = kinds[i].widths[0].pixels;
        }
        i += 1;
    }
    most
}

/// Entries of the table of parameters.
fn entries(blocks: k8n16::Blocks) -> usize {
    blocks.full + usize::from(blocks.tail)
}

/// Bytes of scratch memory: room to align, the parameters, the ring.
pub(super) fn scratch_len<S: Simd>(shape: &ConvShape) -> usize {
    needed::<S>(shape, &Ring::new(shape, S::UNIT))
}

#[inline(always)]
fn needed<S: Simd>(shape: &ConvShape, ring: &Ring) -> usize {
    let table = entries(k8n16::Blocks::of(shape.out_c)) * size_of::<Channels>();
    align_of::<Channels>() + table + ring.len(const { widest(S::KINDS) })
}

/// Whether every slice is as long as the shape asks; always so for a validated model.
#[inline(always)]
fn is_complete<S: Simd>(call: &ConvCall<'_>, ring: &Ring) -> bool {
    let shape = &call.conv.shape;
    let outputs = shape.output_len();
    (1..=MAX_KERNEL).contains(&usize::from(shape.kernel))
        && shape.padding < shape.kernel
        && shape.in_c > 0
        && outputs > 0
        && call.input.len() >= shape.input_len()
        && call.weights.len() >= k8n16::weights_len(shape)
        && call.params.len() >= params_len(shape, Layout::K8N16)
        && call.out_hi.len() >= outputs
        && (call.out_lo.is_empty() || call.out_lo.len() >= outputs)
        && call.scratch.len() >= needed::<S>(shape, ring)
}

/// Bits by which accumulators can and must be moved left so that every total right shift is at least 33; `None` if
/// there is no such number.
#[inline(always)]
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
    if call.conv.raw || call.conv.shape.groups > 1 {
        return scalar::conv::k8n16(call);
    }
    let ring = Ring::new(&call.conv.shape, S::UNIT);
    if !is_complete::<S>(call, &ring) {
        debug_assert!(false, "a slice is shorter than the shape asks");
        return;
    }
    let Some(pre_shift) = pre_shift(call) else {
        // Shifts and accumulators beyond what 32-bit lanes hold: the law itself. The compiler writes no such layer.
        return scalar::conv::k8n16(call);
    };
    // SAFETY: as promised by the caller; the slices have been checked.
    unsafe { run_checked::<S>(call, ring, pre_shift) }
}

/// # Safety
/// The instruction set of `S` is available and `is_complete`.
#[inline(always)]
unsafe fn run_checked<S: Simd>(call: &mut ConvCall<'_>, ring: Ring, pre_shift: u8) {
    let conv = call.conv;
    let shape = conv.shape;
    let blocks = k8n16::Blocks::of(shape.out_c);
    let params = Params::new(call.params, blocks.channels());

    let pad = call.scratch.as_ptr().align_offset(align_of::<Channels>());
    let (head, slots) = call.scratch.split_at_mut(pad + entries(blocks) * size_of::<Channels>());
    // SAFETY: every bit pattern is a valid value of `Channels`, which is nothing but arrays of i32.
    let (_, table, _) = unsafe { head.align_to_mut::<Channels>() };
    fill_channels(table, &params, blocks, pre_shift);

    let rows = Rows { input: call.input, border: conv.border.map(|b| b ^ 0x80) };
    let in_place = reads_in_place::<S>(&shape, rows.border, blocks);
    if !in_place {
        ring.fill_border(slots, &rows);
    }

    let row_steps = k8n16::row_steps(&shape);
    let layer = Layer {
        shape,
        blocks,
        row_steps,
        // Window columns of small pixels do not fall on steps.
        skip_columns: rows.border == [0; 4] && !k8n16::window_rows(&shape),
        distance: ring.distance,
        out_w: shape.out_w(),
        steps: k8n16::steps(&shape),
        weights: call.weights,
        channels: table,
    };
    let mut output = Row {
        base: ptr::null(),
        rows: [0; MAX_KERNEL],
        row_count: 0,
        distance: ring.distance,
        weights: ptr::null(),
        block_stride: k8n16::steps(&shape) * k8n16::BLOCK_STEP,
        tail_weights: ptr::null(),
        channels: ptr::null(),
        hi: ptr::null_mut(),
        lo: ptr::null_mut(),
        out_c: usize::from(shape.out_c),
        left: 0,
        half_steps: k8n16::half_steps(&shape),
        pre_shift: pre_shift > 0,
        accumulate: conv.accumulate,
        limits: conv.limits,
    };
    let (out_hi, out_lo) = (call.out_hi.as_mut_ptr(), call.out_lo.as_mut_ptr());
    let wide = !call.out_lo.is_empty();
    let mut plan = Plan::new();
    let mut filled = isize::MIN;
    let mut top = -isize::from(shape.padding as i8);
    for y in 0..shape.out_h() {
        let window = visible(&shape, top, rows.border == [0; 4]);
        output.row_count = window.len();
        if in_place {
            output.base = rows.input.as_ptr().wrapping_sub(usize::from(shape.padding) * usize::from(shape.in_c));
            for (to, row) in output.rows.iter_mut().zip(window.clone()) {
                *to = row as usize * ring.input_row;
            }
        } else {
            let mut slot = ring.slot(window.start);
            for (to, row) in output.rows.iter_mut().zip(window.clone()) {
                if row >= filled {
                    ring.fill_row(slots, &rows, row, slot);
                }
                *to = ring.offset(slot);
                slot = ring.next(slot);
            }
            filled = window.end;
            output.base = slots.as_ptr();
        }
        let first = (window.start - top) as usize;
        top += isize::from(i16::from(shape.stride));
        let at = y * layer.out_w * output.out_c;
        let hi = out_hi.wrapping_add(at);
        let lo = if wide { out_lo.wrapping_add(at) } else { ptr::null_mut() };
        // SAFETY: the instruction set is there. Rows are the input's own, which `reads_in_place` has looked at, or slots
        // of the ring, which goes on far enough behind the last one; the planes hold row `y` of the output; weights and parameters have been checked against the shape.
        unsafe { layer.run_row::<S>(&mut output, &mut plan, first, [hi, lo]) };
    }
}

/// Whether tiles can read their windows from the input: pixels lie there as steps, and nothing outside of it is read.
///
/// A border that is nothing but zeros is never read by the tiles' first and last pixels, and no pixel between them
/// touches it where the padding is not larger than the stride: the second window starts at `stride - padding`, and the
/// last but one ends `stride - padding` before the input does, or earlier. Tiles must end where the row does, because
/// they compute all their pixels.
#[inline(always)]
fn reads_in_place<S: Simd>(shape: &ConvShape, border: [u8; 4], blocks: k8n16::Blocks) -> bool {
    S::UNIT == STEP
        && usize::from(shape.in_c).is_multiple_of(STEP)
        && (shape.padding == 0 || border == [0; 4] && shape.padding <= shape.stride)
        && tiles_fit::<S>(blocks, shape.out_w())
}

/// Whether tiles for all blocks of channels end where a row of `pixels` does.
fn tiles_fit<S: Simd>(blocks: k8n16::Blocks, pixels: usize) -> bool {
    let mut done = 0;
    while let Some(kind) = next_kind::<S>(blocks, done) {
        let mut left = pixels;
        while left > 0 {
            match left.checked_sub(pick(kind.widths, left).pixels) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        done += kind.blocks;
        if kind.tail {
            break;
        }
    }
    true
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
    /// Bytes in the ring from a pixel's window to the next one's.
    distance: usize,
    /// Output columns.
    out_w: usize,
    /// Steps of the whole window.
    steps: usize,
    weights: &'a [u8],
    channels: &'a [Channels],
}

impl Layer<'_> {
    /// Computes one row of outputs.
    ///
    /// # Safety
    /// The instruction set of `S` is available; the fields of `row` that do not depend on channels are valid for all
    /// its pixels; `first` is the first window row that exists; the planes of the row begin at `hi` and `lo`.
    #[inline(always)]
    unsafe fn run_row<S: Simd>(&self, row: &mut Row, plan: &mut Plan, first: usize, [hi, lo]: [*mut u8; 2]) {
        let (weights, steps) = (self.weights.as_ptr(), self.steps);
        let skipped = first * self.row_steps;
        let mut done = 0;
        while let Some(kind) = next_kind::<S>(self.blocks, done) {
            let channel = 16 * done;
            // Offsets stay inside of the weights, whose length is that of all blocks.
            row.weights = weights.wrapping_add((done * steps + skipped) * k8n16::BLOCK_STEP);
            let full = self.blocks.full * steps * k8n16::BLOCK_STEP;
            row.tail_weights = weights.wrapping_add(full + skipped * k8n16::TAIL_STEP);
            row.channels = self.channels[done..].as_ptr();
            row.left = row.out_c - channel;
            row.hi = hi.wrapping_add(channel);
            row.lo = if lo.is_null() { lo } else { lo.wrapping_add(channel) };
            let mut x = 0;
            while x < self.out_w {
                if !(plan.from == x && ptr::eq(plan.kind, kind)) {
                    plan.fill(self, kind, x);
                }
                for place in plan.places.iter().take(plan.count) {
                    // SAFETY: the tile is valid: its pixels are some of the row, and its blocks exist.
                    unsafe { (place.run)(Tile { row, place }) };
                }
                x = plan.to;
            }
            done += kind.blocks;
            if kind.tail {
                break;
            }
        }
    }
}

/// Tiles of pixels `from..to` of a row: the same ones for every row, so that they are usually worked out once.
struct Plan {
    kind: *const Kind,
    from: usize,
    to: usize,
    places: [Place; 8],
    count: usize,
}

impl Plan {
    fn new() -> Self {
        let nowhere = Place { run: |_| (), start: 0, steps: [0; 3], at: 0, pixels: 0 };
        Plan { kind: ptr::null(), from: 0, to: 0, places: [nowhere; 8], count: 0 }
    }

    #[cold]
    fn fill(&mut self, layer: &Layer<'_>, kind: &'static Kind, from: usize) {
        (self.kind, self.from, self.to, self.count) = (kind, from, from, 0);
        for place in &mut self.places {
            let left = layer.out_w - self.to;
            if left == 0 {
                return;
            }
            let width = pick(kind.widths, left);
            *place = Place {
                run: width.run,
                start: self.to * layer.distance,
                steps: if layer.skip_columns && width.pixels <= left {
                    border_steps(&layer.shape, self.to, width.pixels)
                } else {
                    [0, layer.row_steps - k8n16::half_steps(&layer.shape), 0]
                },
                at: self.to * usize::from(layer.shape.out_c),
                pixels: width.pixels.min(left),
            };
            self.to += place.pixels;
            self.count += 1;
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
        let (bias, multiplier) = (words::<32, 8>(bias), words::<32, 8>(multiplier));
        let shift: &[u8; 8] = shift;
        let (mut spread, mut multipliers, mut shifts) = ([0; 16], [0; 16], [0; 16]);
        for i in 0..8 {
            spread[2 * i] = bias[i];
            (multipliers[i], multipliers[i + 8]) = (multiplier[i], multiplier[i]);
            (shifts[i], shifts[i + 8]) = (shift[i], shift[i]);
        }
        *entry = Channels::new(spread, multipliers, shifts, pre_shift);
    }
}

#[inline(always)]
fn words<const BYTES: usize, const N: usize>(bytes: &[u8; BYTES]) -> [i32; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = i32::from_le_bytes(*bytes);
    }
    words
}
