//! 3x3 convolutions whose groups are a few fours of channels ([`Grouped`]).
//!
//! An accumulator's four inputs are picked from the pixel by its own lane, so a product instruction wastes nothing. A
//! picked column serves all the pixels whose windows it lies in: with stride 1, three products for each permutation.
//! Rows always come from the ring, whose borders make all columns alike.

// Loops over `0..N` with an index are what unrolls completely, so that all arrays become registers.
#![allow(clippy::needless_range_loop)]

use super::conv::{prepare, visible};
use super::params::{Channels, fill_grouped};
use super::plan::{Geometry, Plan};
use super::ring::{Ring, Rows};
use super::simd::Simd;
use super::store::finish;
use super::tile::{Accumulators, Row, Tile, start};
use crate::kernels::k8n16::{Grouped, scratch};
use crate::kernels::{ConvCall, Params};
use crate::op::ConvShape;
use core::ops::Range;

const KERNEL: usize = Grouped::KERNEL;
/// Runs a convolution.
///
/// # Safety
/// The instruction set of `S` is available.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(call: &mut ConvCall<'_>, form: &Grouped) {
    let Some(pre_shift) = prepare(call, scratch::grouped_len(&call.conv.shape, form)) else { return };
    // SAFETY: as promised by the caller; the slices have been checked.
    unsafe { run_checked::<S>(call, form, pre_shift) }
}

/// # Safety
/// The instruction set of `S` is available and `is_complete`.
#[inline(always)]
unsafe fn run_checked<S: Simd>(call: &mut ConvCall<'_>, form: &Grouped, pre_shift: u8) {
    let (conv, shape) = (call.conv, call.conv.shape);
    let params = Params::new(call.params, 16 * form.blocks);
    let out = call.outputs();
    let (table, slots) = Channels::split(call.scratch, form.blocks);
    fill_grouped(table, &params, form, pre_shift);

    let ring = Ring::of_pixels(&shape);
    let border = conv.border.map(|b| b ^ 0x80);
    let layer = Layer {
        shape,
        form,
        rows: call.rows.clone(),
        skip_rows: border == [0; 4],
        distance: ring.distance,
        weights: call.weights,
        channels: table,
        out,
    };
    let mut row = Row {
        quads: form.quads,
        pixel: usize::from(shape.in_c),
        ..Row::new(conv, (ring.distance, usize::from(shape.out_c)), pre_shift)
    };
    // SAFETY: the instruction set is there, and the slices fit the shape.
    unsafe { layer.run::<S>(&mut row, &ring, slots, Rows { input: call.input, border }) }
}

/// What stays the same for all rows.
struct Layer<'a> {
    shape: ConvShape,
    form: &'a Grouped,
    /// Output rows to compute.
    rows: Range<usize>,
    /// Whether window rows that only read the border can be left out.
    skip_rows: bool,
    /// Bytes from a pixel's window to the next one's.
    distance: usize,
    weights: &'a [u8],
    channels: &'a [Channels],
    /// The output's planes; the second one is null for a narrow output.
    out: [*mut u8; 2],
}

impl Layer<'_> {
    /// # Safety
    /// The instruction set of `S` is available, and the slices fit the shape.
    #[inline(always)]
    unsafe fn run<S: Simd>(&self, row: &mut Row, ring: &Ring, slots: &mut [u8], rows: Rows<'_>) {
        let mut plan = Plan::new();
        let mut filled = isize::MIN;
        ring.fill_border(slots, &rows);
        for y in self.rows.clone() {
            let top = (y * usize::from(self.shape.stride)) as isize - isize::from(self.shape.padding as i8);
            let window = visible(&self.shape, top, self.skip_rows);
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
            for block in 0..self.form.blocks {
                // The block's first inputs; tiles go on from there.
                row.base = slots.as_ptr().wrapping_add(4 * self.form.quad(16 * block));
                let skipped = (window.start - top) as usize;
                // SAFETY: rows are slots of the ring, behind which there is room for what tiles read in vain.
                unsafe { self.run_block::<S>(row, &mut plan, block, (y, skipped)) };
            }
        }
    }

    /// Computes a block of channels of output row `y`, whose window begins at row `skipped`.
    ///
    /// # Safety
    /// As [`Layer::run`]; `row` says where the window's rows are.
    #[inline(always)]
    unsafe fn run_block<S: Simd>(&self, row: &mut Row, plan: &mut Plan, block: usize, (y, skipped): (usize, usize)) {
        let (out_w, out_c) = (self.shape.out_w(), usize::from(self.shape.out_c));
        // Offsets stay inside of the weights, of the table and of the planes.
        row.weights = self.weights.as_ptr().wrapping_add((block * KERNEL + skipped) * self.form.row_len());
        row.channels = self.channels[block..].as_ptr();
        row.left = out_c - 16 * block;
        let at = (y - self.rows.start) * out_w * out_c + 16 * block;
        row.hi = self.out[0].wrapping_add(at);
        row.lo = if self.out[1].is_null() { self.out[1] } else { self.out[1].wrapping_add(at) };
        let kind = S::GROUPED[usize::from(self.shape.stride) - 1];
        let mut x = 0;
        while x < out_w {
            let (tiles, end) = plan.tiles(x, kind, || self.geometry());
            for place in tiles {
                // SAFETY: the tile's pixels are some of the row, and the block exists.
                unsafe { (place.run)(Tile { row, place }) };
            }
            x = end;
        }
    }

    fn geometry(&self) -> Geometry<'_> {
        let (out_w, out_pixel) = (self.shape.out_w(), usize::from(self.shape.out_c));
        let distance = self.distance;
        Geometry { shape: &self.shape, out_w, distance, out_pixel, row_steps: 0, skip_columns: false }
    }
}

/// Computes a tile of `MR` pixels by a block of 16 channels.
///
/// # Safety
/// The instruction set of `S` is available. In each of the row's `rows`, windows of `MR` pixels from `start` on, `STRIDE`
/// times `pixel` bytes apart, may be read up to [`scratch::GROUPED_REACH`] bytes behind each four of inputs; weights are
/// those of the block from the first of the rows on; outputs as for any [`Tile`].
#[inline(always)]
pub(super) unsafe fn body<S: Simd, const MR: usize, const STRIDE: usize>(t: Tile<'_>) {
    const { assert!(MR <= scratch::WIDEST) };
    // SAFETY: promised by the caller.
    unsafe {
        let mut acc = start::<S, MR, 1, false>(t);
        let lanes = S::lanes(&*t.row.channels);
        let mut weights = t.row.weights;
        for &row in t.row.rows.iter().take(t.row.row_count) {
            let mut from = t.row.base.add(t.place.start + row);
            for _ in 0..t.row.quads {
                columns::<S, MR, STRIDE>(&mut acc, (from, t.row.pixel), lanes, weights);
                from = from.add(4);
                weights = weights.add(KERNEL * Grouped::STEP);
            }
        }
        finish::<S, MR, 1, false>(t, &acc);
    }
}

/// One four of each group's inputs, in all columns of a window row.
#[inline(always)]
unsafe fn columns<S: Simd, const MR: usize, const STRIDE: usize>(
    acc: &mut Accumulators<S, MR, 1>,
    (mut from, pixel): (*const u8, usize),
    lanes: S::Quads,
    weights: *const u8,
) {
    // SAFETY: promised by the caller of `body`: (MR - 1) * STRIDE + KERNEL columns may be read.
    unsafe {
        let mut w = [S::weights(weights); KERNEL];
        for k in 1..KERNEL {
            w[k] = S::weights(weights.add(k * Grouped::STEP));
        }
        // A column or two at a time: loops this small are what unrolls.
        for first in 0..MR + 2 {
            for s in 0..STRIDE {
                let column = first * STRIDE + s;
                if column < (MR - 1) * STRIDE + KERNEL {
                    let x = S::pick(from, lanes);
                    for k in 0..KERNEL {
                        if column >= k && (column - k).is_multiple_of(STRIDE) && (column - k) / STRIDE < MR {
                            let p = (column - k) / STRIDE;
                            acc.blocks[p][0] = S::dot_picked(acc.blocks[p][0], x, w[k]);
                        }
                    }
                    from = from.add(pixel);
                }
            }
        }
    }
}
