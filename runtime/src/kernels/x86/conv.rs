//! Drives the microkernel over a layer: prepares parameters, fills the row ring, picks tiles.

use super::params::{Channels, fill_channels};
use super::plan::{Geometry, Plan, Taste, next_kind, picks_fill};
use super::ring::{Ring, Rows};
use super::simd::Simd;
use super::tile::{FETCHED, Kind, MAX_KERNEL, Row, Tile};
use super::{depthwise, grouped};
use crate::kernels::k8n16::scratch::{self, entries};
use crate::kernels::k8n16::{BLOCK, STEP};
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
/// The same where weights take so much of the second cache that they come from farther away each time.
const NEAR_HEAVY: usize = 512 << 10;
/// Bytes of weights that are so many.
const HEAVY: usize = 384 << 10;
/// Pixels of a row that is made of several rows of a 1x1 convolution, at most.
const LONG_ROW: usize = 112;

/// Bytes of scratch memory: room to align, the parameters, the ring.
pub(super) fn scratch_len<S: Simd>(shape: &ConvShape) -> usize {
    if let Some(form) = k8n16::Grouped::of(shape) {
        return scratch::grouped_len(shape, &form);
    }
    if let Some(form) = k8n16::Depthwise::of(shape) {
        return scratch::depthwise_len(shape, &form);
    }
    let parts = k8n16::Parts::of(shape);
    needed::<S>(&parts, &Ring::new(&parts.shape, S::UNIT, usize::from(shape.in_c)))
}

#[inline(always)]
fn needed<S: Simd>(parts: &k8n16::Parts, ring: &Ring) -> usize {
    scratch::dense_len(parts, ring, const { widest(S::KINDS) })
}

/// Whether every slice is as long as the shape asks, and scratch memory has `scratch` bytes; always so for a validated
/// model.
#[inline(always)]
pub(super) fn is_complete(call: &ConvCall<'_>, scratch: usize) -> bool {
    let shape = &call.conv.shape;
    let Some(outputs) = call.output_len() else { return false };
    (1..=MAX_KERNEL).contains(&usize::from(shape.kernel))
        && shape.padding < shape.kernel
        && shape.in_c > 0
        && shape.in_c.is_multiple_of(shape.groups)
        && shape.out_c.is_multiple_of(shape.groups)
        && (call.has_all_channels() || call.has_channels_in_steps_of(BLOCK))
        && call.input.len() >= shape.input_len()
        && call.weights.len() >= k8n16::weights_len(shape)
        && call.params.len() >= params_len(shape, Layout::K8N16)
        && call.out_hi.len() >= outputs
        && (call.out_lo.is_empty() || call.out_lo.len() >= outputs)
        && call.scratch.len() >= scratch
}

/// Bits by which accumulators can and must be moved left so that every total right shift is at least 33; `None` if
/// there is no such number.
#[inline(always)]
fn pre_shift(call: &ConvCall<'_>) -> Option<u8> {
    let smallest = call.channel_params().right_shift.iter().copied().min()?;
    let bits = 33u8.saturating_sub(smallest);
    (bits == 0 || bits + call.conv.acc_bits <= 31).then_some(bits)
}

/// Checks a call before a vector kernel computes it, with [`pre_shift`]; `None` if there is nothing left to compute.
#[inline(always)]
pub(super) fn prepare(call: &mut ConvCall<'_>, scratch: usize) -> Option<u8> {
    if !is_complete(call, scratch) {
        debug_assert!(false, "a slice is shorter than the shape asks");
        return None;
    }
    let bits = pre_shift(call);
    if bits.is_none() {
        // Shifts and accumulators beyond what 32-bit lanes hold: the law itself. The compiler writes no such layer.
        scalar::conv::k8n16(call);
    }
    bits
}

/// Runs a convolution, with [`super::pairs`] if the backend takes them.
///
/// # Safety
/// The instruction set of `S` is available.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(call: &mut ConvCall<'_>, pairs: bool) {
    if let Some(form) = k8n16::Grouped::of(&call.conv.shape) {
        // SAFETY: as promised by the caller.
        return unsafe { grouped::run::<S>(call, &form) };
    }
    if let Some(form) = k8n16::Depthwise::of(&call.conv.shape) {
        // SAFETY: as promised by the caller.
        return unsafe { depthwise::run::<S>(call, &form) };
    }
    let parts = k8n16::Parts::of(&call.conv.shape);
    let ring = Ring::new(&parts.shape, S::UNIT, usize::from(call.conv.shape.in_c));
    let Some(pre_shift) = prepare(call, needed::<S>(&parts, &ring)) else { return };
    // SAFETY: as promised by the caller; the slices have been checked.
    unsafe { run_checked::<S>(call, &parts, ring, (pre_shift, pairs)) }
}

/// # Safety
/// The instruction set of `S` is available and `is_complete`.
#[inline(always)]
unsafe fn run_checked<S: Simd>(
    call: &mut ConvCall<'_>,
    parts: &k8n16::Parts,
    ring: Ring,
    (pre_shift, pairs): (u8, bool),
) {
    let conv = call.conv;
    let border = conv.border.map(|b| b ^ 0x80);
    // Only a layer of one part is cut along its channels.
    let (whole, first) = (k8n16::part_weights_len(&parts.shape), call.channels.start);
    let out_c = if parts.count == 1 { call.channels.len() as u16 } else { parts.shape.out_c };
    let (shape, rows, input) = piece(ConvShape { out_c, ..parts.shape }, call);
    let taste = Taste::of(&shape, whole, pairs);
    // The columns of a part's window do not follow each other in the input.
    let (long, connected) = (long_rows(shape), parts.count == 1 || shape.kernel == 1);
    let in_place = connected && reads_in_place::<S>(&long, taste, border);
    let (shape, rows) = if in_place && is_pointwise(&shape) { (long, 0..long.out_h()) } else { (shape, rows) };
    let blocks = k8n16::Blocks::of(shape.out_c);
    let params = Params::new(call.params, parts.count * k8n16::Blocks::of(parts.shape.out_c).channels());

    let out = call.outputs().map(|plane| if plane.is_null() { plane } else { plane.wrapping_add(first) });
    let (table, slots) = Channels::split(call.scratch, parts.count * entries(blocks));
    for (n, table) in table.chunks_exact_mut(entries(blocks).max(1)).enumerate() {
        fill_channels(table, &params.part(first + n * blocks.channels(), blocks.channels()), blocks, pre_shift);
    }

    let pixel = usize::from(conv.shape.in_c);
    let layer = Layer {
        shape,
        blocks,
        parts: parts.count,
        taste,
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
        part_weights: whole,
        weights: &call.weights[first / BLOCK * k8n16::steps(&shape) * k8n16::BLOCK_STEP..],
        channels: table,
        out,
    };
    let mut row = Row {
        block_stride: layer.steps * k8n16::BLOCK_STEP,
        half_steps: k8n16::half_steps(&shape),
        ..Row::new(conv, (layer.distance, layer.out_pixel), pre_shift)
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

/// Whether every window is a single pixel of the same number.
#[inline(always)]
fn is_pointwise(shape: &ConvShape) -> bool {
    shape.kernel == 1 && shape.stride == 1 && shape.padding == 0
}

/// The same convolution on fewer and longer rows, which tiles fill better, where rows do not matter.
#[inline(always)]
fn long_rows(shape: ConvShape) -> ConvShape {
    if !is_pointwise(&shape) {
        return shape;
    }
    let longest = (LONG_ROW / usize::from(shape.in_w).max(1)) as u16;
    let rows = (1..=longest.min(shape.in_h)).rev().find(|&n| shape.in_h.is_multiple_of(n)).unwrap_or(1);
    ConvShape { in_h: shape.in_h / rows, in_w: shape.in_w * rows, ..shape }
}

/// The convolution that computes the call's rows, those of its rows, and its input: of windows that see a single input
/// row, rows are convolutions of their own.
#[inline(always)]
fn piece<'a>(shape: ConvShape, call: &ConvCall<'a>) -> (ConvShape, Range<usize>, &'a [u8]) {
    let rows = call.rows.clone();
    if !is_pointwise(&shape) {
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
fn reads_in_place<S: Simd>(shape: &ConvShape, taste: Taste, border: [u8; 4]) -> bool {
    S::UNIT == STEP
        && usize::from(shape.in_c).is_multiple_of(STEP)
        && (shape.padding == 0
            || border == [0; 4] && shape.padding <= shape.stride && 2 * shape.padding <= shape.kernel)
        && tiles_fit::<S>(k8n16::Blocks::of(shape.out_c), taste, shape.out_w())
}

/// Whether tiles for all blocks of channels end where a row of `pixels` does.
fn tiles_fit<S: Simd>(blocks: k8n16::Blocks, taste: Taste, pixels: usize) -> bool {
    let (mut done, mut seen) = (0, ptr::null());
    while let Some(kind) = next_kind::<S>(blocks, done, taste) {
        // Most blocks have the kind of those before them.
        if !ptr::eq(seen, kind) && !picks_fill(kind.widths, pixels) {
            return false;
        }
        (done, seen) = (done + kind.blocks, ptr::from_ref(kind));
        if kind.tail {
            break;
        }
    }
    true
}

/// Input rows of the window that starts at row `top`; only those that exist, if the border is nothing but zeros.
pub(super) fn visible(shape: &ConvShape, top: isize, skip: bool) -> Range<isize> {
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
    taste: Taste,
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
    fn geometry(&self) -> Geometry<'_> {
        Geometry {
            shape: &self.shape,
            out_w: self.out_w,
            distance: self.distance,
            out_pixel: self.out_pixel,
            row_steps: self.row_steps,
            skip_columns: self.skip_columns,
        }
    }

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
        let (blocks, taste, mut done) = (self.blocks, self.taste, Some(0));
        core::iter::from_fn(move || {
            let at = done?;
            let kind = next_kind::<S>(blocks, at, taste)?;
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
        let near = match self.weights.len() {
            0..=NEAREST => NEAREST,
            HEAVY.. => NEAR_HEAVY,
            _ => NEAR,
        };
        // Groups of the same size, as far as possible.
        let group = self.rows.len().div_ceil(self.rows.len().div_ceil((near / bytes).max(1)).max(1)).max(1);
        let padding = usize::from(self.shape.padding) * self.input_pixel;
        for first in self.rows.clone().step_by(group) {
            for part in 0..self.parts {
                // Before the input, where the first column of the window is padding, which is left out.
                row.base = input.as_ptr().wrapping_add(part * usize::from(self.shape.in_c)).wrapping_sub(padding);
                for stripe in self.stripes_in_turn::<S>(part) {
                    let mut fetch = Fetch::behind(self, stripe);
                    for y in first..self.rows.end.min(first + group) {
                        let (window, skipped) = self.window(y);
                        row.row_count = window.len();
                        for (to, line) in row.rows.iter_mut().zip(window) {
                            *to = line as usize * input_row;
                        }
                        // SAFETY: rows are the input's own, and `reads_in_place` has seen that tiles stay inside.
                        unsafe { self.run_row(row, &mut plan, &mut fetch, stripe, (y, skipped)) };
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
                    let mut fetch = Fetch::behind(self, stripe);
                    // SAFETY: rows are slots of the ring, which goes on far enough behind the last one.
                    unsafe { self.run_row(row, &mut plan, &mut fetch, stripe, (y, skipped)) };
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
    unsafe fn run_row(
        &self,
        row: &mut Row,
        plan: &mut Plan,
        fetch: &mut Fetch,
        stripe: Stripe,
        (y, skipped): (usize, usize),
    ) {
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
            let (tiles, end) = plan.tiles(x, kind, || self.geometry());
            for place in tiles {
                row.ahead = fetch.next(row.row_count * self.row_steps);
                // SAFETY: the tile is valid: its pixels are some of the row, and its blocks exist.
                unsafe { (place.run)(Tile { row, place }) };
            }
            x = end;
        }
    }
}

/// The weights behind those of a stripe: the next stripe's or, as artifacts keep the weights of one operation after the
/// other, the next operation's. While tiles of this stripe run, they are fetched from afar.
struct Fetch {
    at: *const u8,
    /// Bytes to go.
    left: usize,
}

impl Fetch {
    #[inline(always)]
    fn behind(layer: &Layer<'_>, stripe: Stripe) -> Self {
        let len = stripe.kind.blocks * layer.steps * k8n16::BLOCK_STEP;
        let before = stripe.part * layer.part_weights + stripe.done * layer.steps * k8n16::BLOCK_STEP;
        Fetch { at: layer.weights.as_ptr().wrapping_add(before + len), left: len }
    }

    /// Where a tile of so many steps fetches.
    #[inline(always)]
    fn next(&mut self, steps: usize) -> *const u8 {
        let (at, len) = (self.at, (steps * FETCHED).min(self.left));
        self.at = at.wrapping_add(len);
        self.left -= len;
        at
    }
}
