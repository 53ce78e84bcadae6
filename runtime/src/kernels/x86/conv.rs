//! Drives the microkernel over a layer: prepares parameters, fills the row ring, picks tiles.

use super::ring::{Ring, Rows, border_steps};
use super::simd::Simd;
use super::store::Channels;
use super::tile::{Kind, MAX_KERNEL, Place, Row, Tile, Width};
use crate::kernels::k8n16::STEP;
use crate::kernels::{ConvCall, Params, k8n16, params_len, scalar};
use crate::op::{ConvShape, Layout};
use core::ops::Range;
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

/// Bytes of activations that a group of rows may have, so that they stay near the core while tiles for one block of
/// channels after the other pass over them: the block's weights are then read from afar once for each group of rows.
const NEAR: usize = 160 << 10;
/// The same where all weights of the layer stay in the first cache next to them.
const NEAREST: usize = 16 << 10;

/// Entries of a part's table of parameters.
fn entries(blocks: k8n16::Blocks) -> usize {
    blocks.full + usize::from(blocks.tail)
}

/// Bytes of scratch memory: room to align, the parameters, the ring.
pub(super) fn scratch_len<S: Simd>(shape: &ConvShape) -> usize {
    let parts = k8n16::Parts::of(shape);
    needed::<S>(&parts, &Ring::new(&parts.shape, S::UNIT, usize::from(shape.in_c)))
}

#[inline(always)]
fn needed<S: Simd>(parts: &k8n16::Parts, ring: &Ring) -> usize {
    let table = parts.count * entries(k8n16::Blocks::of(parts.shape.out_c)) * size_of::<Channels>();
    align_of::<Channels>() + table + ring.len(const { widest(S::KINDS) })
}

/// Whether every slice is as long as the shape asks; always so for a validated model.
#[inline(always)]
fn is_complete<S: Simd>(call: &ConvCall<'_>, parts: &k8n16::Parts, ring: &Ring) -> bool {
    let shape = &call.conv.shape;
    let Some(outputs) = call.output_len() else { return false };
    (1..=MAX_KERNEL).contains(&usize::from(shape.kernel))
        && shape.padding < shape.kernel
        && shape.in_c > 0
        && shape.in_c.is_multiple_of(shape.groups)
        && shape.out_c.is_multiple_of(shape.groups)
        && call.input.len() >= shape.input_len()
        && call.weights.len() >= k8n16::weights_len(shape)
        && call.params.len() >= params_len(shape, Layout::K8N16)
        && call.out_hi.len() >= outputs
        && (call.out_lo.is_empty() || call.out_lo.len() >= outputs)
        && call.scratch.len() >= needed::<S>(parts, ring)
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
    let parts = k8n16::Parts::of(&call.conv.shape);
    let ring = Ring::new(&parts.shape, S::UNIT, usize::from(call.conv.shape.in_c));
    if !is_complete::<S>(call, &parts, &ring) {
        debug_assert!(false, "a slice is shorter than the shape asks");
        return;
    }
    let Some(pre_shift) = pre_shift(call) else {
        // Shifts and accumulators beyond what 32-bit lanes hold: the law itself. The compiler writes no such layer.
        return scalar::conv::k8n16(call);
    };
    // SAFETY: as promised by the caller; the slices have been checked.
    unsafe { run_checked::<S>(call, &parts, ring, pre_shift) }
}

/// # Safety
/// The instruction set of `S` is available and `is_complete`.
#[inline(always)]
unsafe fn run_checked<S: Simd>(call: &mut ConvCall<'_>, parts: &k8n16::Parts, ring: Ring, pre_shift: u8) {
    let conv = call.conv;
    let (shape, rows, input) = piece(parts.shape, call);
    let blocks = k8n16::Blocks::of(shape.out_c);
    let params = Params::new(call.params, parts.count * blocks.channels());

    let pad = call.scratch.as_ptr().align_offset(align_of::<Channels>());
    let (head, slots) = call.scratch.split_at_mut(pad + parts.count * entries(blocks) * size_of::<Channels>());
    // SAFETY: every bit pattern is a valid value of `Channels`, which is nothing but arrays of i32.
    let (_, table, _) = unsafe { head.align_to_mut::<Channels>() };
    for (n, table) in table.chunks_exact_mut(entries(blocks).max(1)).enumerate() {
        fill_channels(table, &params.part(n * blocks.channels(), blocks.channels()), blocks, pre_shift);
    }

    let border = conv.border.map(|b| b ^ 0x80);
    // The columns of a part's window do not follow each other in the input.
    let in_place = (parts.count == 1 || shape.kernel == 1) && reads_in_place::<S>(&shape, border, blocks);
    let pixel = usize::from(conv.shape.in_c);
    let layer = Layer {
        shape,
        blocks,
        parts: parts.count,
        row_steps: k8n16::row_steps(&shape),
        skip_rows: border == [0; 4],
        // Window columns of small pixels do not fall on steps.
        skip_columns: border == [0; 4] && !k8n16::window_rows(&shape),
        distance: if in_place { usize::from(shape.stride) * pixel } else { ring.distance },
        input_pixel: pixel,
        out_pixel: usize::from(conv.shape.out_c),
        out_w: shape.out_w(),
        rows,
        before: (call.rows.start, conv.shape.out_h()),
        steps: k8n16::steps(&shape),
        part_weights: k8n16::part_weights_len(&shape),
        weights: call.weights,
        channels: table,
        out: [
            call.out_hi.as_mut_ptr(),
            if call.out_lo.is_empty() { ptr::null_mut() } else { call.out_lo.as_mut_ptr() },
        ],
    };
    let mut row = Row {
        base: ptr::null(),
        rows: [0; MAX_KERNEL],
        row_count: 0,
        distance: layer.distance,
        weights: ptr::null(),
        block_stride: layer.steps * k8n16::BLOCK_STEP,
        tail_weights: ptr::null(),
        channels: ptr::null(),
        hi: ptr::null_mut(),
        lo: ptr::null_mut(),
        out_c: layer.out_pixel,
        left: 0,
        half_steps: k8n16::half_steps(&shape),
        pre_shift: pre_shift > 0,
        accumulate: conv.accumulate,
        raw: conv.raw,
        limits: conv.limits,
    };
    // SAFETY: the instruction set is there, and all slices have been checked against the shape.
    unsafe {
        if in_place {
            layer.run_in_place::<S>(&mut row, input);
        } else {
            layer.run_with_ring::<S>(&mut row, &ring, slots, input, border);
        }
    }
}

/// The convolution that computes the call's rows, those of its rows, and its input: of windows that see a single input
/// row, rows are convolutions of their own.
#[inline(always)]
fn piece<'a>(shape: ConvShape, call: &ConvCall<'a>) -> (ConvShape, Range<usize>, &'a [u8]) {
    let rows = call.rows.clone();
    if shape.kernel != 1 || shape.stride != 1 || shape.padding != 0 {
        return (shape, rows, call.input);
    }
    let input_row = usize::from(shape.in_w) * usize::from(call.conv.shape.in_c);
    let input = &call.input[rows.start * input_row..rows.end * input_row];
    (ConvShape { in_h: rows.len() as u16, ..shape }, 0..rows.len(), input)
}

/// Whether tiles can read their windows from the input: pixels lie there as steps, and nothing outside of it is read.
///
/// A border that is nothing but zeros is never read by the tiles' first and last pixels, and no pixel between them
/// touches it where the padding is not larger than the stride: the second window starts at `stride - padding`, and the
/// last but one ends `stride - padding` before the input does, or earlier. What the first pixel leaves out must come
/// before what the last one does, which may be in the same tile. Tiles must end where the row does, because
/// they compute all their pixels.
#[inline(always)]
fn reads_in_place<S: Simd>(shape: &ConvShape, border: [u8; 4], blocks: k8n16::Blocks) -> bool {
    S::UNIT == STEP
        && usize::from(shape.in_c).is_multiple_of(STEP)
        && (shape.padding == 0
            || border == [0; 4] && shape.padding <= shape.stride && 2 * shape.padding <= shape.kernel)
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
fn visible(shape: &ConvShape, top: isize, skip: bool) -> Range<isize> {
    let bottom = top + isize::from(shape.kernel as i8);
    if skip { top.max(0)..bottom.min(shape.in_h as isize) } else { top..bottom }
}

/// What stays the same for all rows.
struct Layer<'a> {
    /// One of the parts.
    shape: ConvShape,
    /// Its blocks.
    blocks: k8n16::Blocks,
    parts: usize,
    row_steps: usize,
    /// Whether window rows that only read the border can be left out.
    skip_rows: bool,
    /// Whether steps that only read the border can be left out.
    skip_columns: bool,
    /// Bytes from a pixel's window to the next one's.
    distance: usize,
    /// Bytes of an input pixel.
    input_pixel: usize,
    /// Bytes from an output pixel to the next one.
    out_pixel: usize,
    /// Output columns.
    out_w: usize,
    /// Output rows to compute; the planes hold these only.
    rows: Range<usize>,
    /// Rows of the layer before them, of how many.
    before: (usize, usize),
    /// Steps of the whole window.
    steps: usize,
    /// Bytes of a part's weights.
    part_weights: usize,
    weights: &'a [u8],
    channels: &'a [Channels],
    /// Planes of the output rows; the second one is null for a narrow output.
    out: [*mut u8; 2],
}

/// Blocks of channels of a part that the same tiles compute.
#[derive(Clone, Copy)]
struct Stripe {
    part: usize,
    kind: &'static Kind,
    /// Blocks of the part before them.
    done: usize,
}

impl Layer<'_> {
    /// Rows `from..to` of the window of output row `y`, and how many rows of the window come before them. Only rows that
    /// exist, if the border is nothing but zeros.
    fn window(&self, y: usize) -> (Range<isize>, usize) {
        let top = (y * usize::from(self.shape.stride)) as isize - isize::from(self.shape.padding as i8);
        let window = visible(&self.shape, top, self.skip_rows);
        let skipped = window.start - top;
        (window, skipped as usize)
    }

    /// The stripes of a part, in order.
    fn stripes<S: Simd>(&self, part: usize) -> impl Iterator<Item = Stripe> {
        let (blocks, mut done) = (self.blocks, Some(0));
        core::iter::from_fn(move || {
            let at = done?;
            let kind = next_kind::<S>(blocks, at)?;
            done = (!kind.tail).then_some(at + kind.blocks);
            Some(Stripe { part, kind, done: at })
        })
    }

    /// The stripes of a part, begun with that which lies as far into the weights as the call's rows into the output: threads
    /// that share a layer do not all wait for the same weights, but find in the shared cache what others have fetched.
    fn stripes_in_turn<S: Simd>(&self, part: usize) -> impl Iterator<Item = Stripe> {
        let first = match self.before {
            (0, _) => 0,
            (rows, all) => self.stripes::<S>(part).count() * rows / all,
        };
        self.stripes::<S>(part).skip(first).chain(self.stripes::<S>(part).take(first))
    }

    /// Reads windows where the input lies: groups of rows, for each group one stripe after the other.
    ///
    /// # Safety
    /// The instruction set of `S` is available, the slices fit the shape, and `reads_in_place`.
    #[inline(always)]
    unsafe fn run_in_place<S: Simd>(&self, row: &mut Row, input: &[u8]) {
        let mut plan = Plan::new();
        let input_row = usize::from(self.shape.in_w) * self.input_pixel;
        let planes = if self.out[1].is_null() { 1 } else { 2 };
        let bytes = input_row * usize::from(self.shape.stride) + self.out_w * self.out_pixel * planes;
        let near = if self.weights.len() <= NEAREST { NEAREST } else { NEAR };
        let group = (near / bytes).clamp(1, self.rows.len());
        let padding = usize::from(self.shape.padding) * self.input_pixel;
        for first in self.rows.clone().step_by(group) {
            for part in 0..self.parts {
                // Before the input, where the first column of the window is padding, which is left out.
                row.base = input.as_ptr().wrapping_add(part * usize::from(self.shape.in_c)).wrapping_sub(padding);
                for stripe in self.stripes_in_turn::<S>(part) {
                    for y in first..self.rows.end.min(first + group) {
                        let (window, skipped) = self.window(y);
                        row.row_count = window.len();
                        for (to, line) in row.rows.iter_mut().zip(window) {
                            *to = line as usize * input_row;
                        }
                        // SAFETY: rows are the input's own, and `reads_in_place` has seen that tiles stay inside.
                        unsafe { self.run_row(row, &mut plan, stripe, y, skipped) };
                    }
                }
            }
        }
    }

    /// Reads windows from the ring, row by row.
    ///
    /// # Safety
    /// The instruction set of `S` is available, and the slices fit the shape.
    #[inline(always)]
    unsafe fn run_with_ring<S: Simd>(
        &self,
        row: &mut Row,
        ring: &Ring,
        slots: &mut [u8],
        input: &[u8],
        border: [u8; 4],
    ) {
        let mut plan = Plan::new();
        for part in 0..self.parts {
            let rows = Rows { input: &input[part * usize::from(self.shape.in_c)..], border };
            ring.fill_border(slots, &rows);
            let mut filled = isize::MIN;
            for y in self.rows.clone() {
                let (window, skipped) = self.window(y);
                row.row_count = window.len();
                let mut slot = ring.slot(window.start);
                for (to, line) in row.rows.iter_mut().zip(window.clone()) {
                    if line >= filled {
                        ring.fill_row(slots, &rows, line, slot);
                    }
                    *to = ring.offset(slot);
                    slot = ring.next(slot);
                }
                filled = window.end;
                row.base = slots.as_ptr();
                for stripe in self.stripes::<S>(part) {
                    // SAFETY: rows are slots of the ring, which goes on far enough behind the last one.
                    unsafe { self.run_row(row, &mut plan, stripe, y, skipped) };
                }
            }
        }
    }

    /// Computes row `y` of a stripe's outputs.
    ///
    /// # Safety
    /// The instruction set of the stripe's tiles is available; `row` says where the rows of the window are, the first
    /// `skipped` ones left out, and tiles may read them; slices fit the shape.
    #[inline(always)]
    unsafe fn run_row(&self, row: &mut Row, plan: &mut Plan, stripe: Stripe, y: usize, skipped: usize) {
        let Stripe { part, kind, done } = stripe;
        let skipped = skipped * self.row_steps;
        // Offsets stay inside of the weights, whose length is that of all blocks of all parts.
        let weights = self.weights.as_ptr().wrapping_add(part * self.part_weights);
        row.weights = weights.wrapping_add((done * self.steps + skipped) * k8n16::BLOCK_STEP);
        let full = self.blocks.full * self.steps * k8n16::BLOCK_STEP;
        row.tail_weights = weights.wrapping_add(full + skipped * k8n16::TAIL_STEP);
        row.channels = self.channels[part * entries(self.blocks) + done..].as_ptr();
        row.left = usize::from(self.shape.out_c) - 16 * done;
        let at = (y - self.rows.start) * self.out_w * self.out_pixel + part * usize::from(self.shape.out_c) + 16 * done;
        let [hi, lo] = self.out;
        row.hi = hi.wrapping_add(at);
        row.lo = if lo.is_null() { lo } else { lo.wrapping_add(at) };
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
    }
}

/// Tiles of pixels `from..to` of a row: the same ones for every row, so that they are usually worked out once.
struct Plan {
    kind: *const Kind,
    from: usize,
    to: usize,
    places: [Place; 16],
    count: usize,
}

impl Plan {
    fn new() -> Self {
        let nowhere = Place { run: |_| (), start: 0, steps: [0; 3], at: 0, pixels: 0 };
        Plan { kind: ptr::null(), from: 0, to: 0, places: [nowhere; 16], count: 0 }
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
                at: self.to * layer.out_pixel,
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
    // Two tiles of two blocks are faster than three and one.
    let most = if left == 4 && !blocks.tail { 2 } else { left };
    S::KINDS.iter().find(|k| if k.tail { blocks.tail && k.blocks == left } else { (1..=most).contains(&k.blocks) })
}

/// The tile for the next of `left` pixels: the widest one such that others fill what it leaves exactly; if there is
/// none, the widest one that leaves enough for another tile.
fn pick(widths: &'static [Width], left: usize) -> &'static Width {
    let least = &widths[widths.len() - 1];
    let good = |w: &&Width| w.pixels <= left && (w.pixels == left || w.pixels + least.pixels <= left);
    let exact = widths.iter().find(|w| w.pixels <= left && fills(widths, left - w.pixels));
    exact.or_else(|| widths.iter().find(good)).or_else(|| widths.iter().find(|w| w.pixels <= left)).unwrap_or(least)
}

/// Whether tiles can fill `pixels` exactly.
fn fills(widths: &[Width], pixels: usize) -> bool {
    if widths.iter().any(|w| pixels.is_multiple_of(w.pixels)) {
        return true;
    }
    // Bit n: n pixels can be filled. What is true of 64 more or fewer pixels is true of any width whose tiles divide 64,
    // and more is not needed to choose well.
    let pixels = if pixels > 127 { 64 + pixels % 64 } else { pixels };
    let mut filled = 1u128;
    for n in 0..pixels {
        if filled >> n & 1 > 0 {
            for width in widths.iter().filter(|w| n + w.pixels <= pixels) {
                filled |= 1 << (n + width.pixels);
            }
        }
    }
    filled >> pixels & 1 > 0
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
