//! Depthwise 3x3 convolutions ([`k8n16::Depthwise`]).
//!
//! The three rows of a column of pixels are stacked to the inputs of one product for each channel: three products for
//! each stacked column with stride 1. Rows always come from the ring, whose borders make all windows alike.

// Loops over `0..N` with an index are what unrolls completely, so that all arrays become registers.
#![allow(clippy::needless_range_loop)]

pub(super) mod tiles;

use super::conv::prepare;
use super::params::{Channels, fill_channels};
use super::plan::{Geometry, Plan};
use super::ring::{Ring, Rows};
use super::simd::Simd;
use super::store::finish;
use super::tile::{Row, Tile, start};
use crate::kernels::k8n16::{self, Blocks, Depthwise, scratch};
use crate::kernels::{ConvCall, Params};
use crate::op::ConvShape;
use core::ops::Range;

const KERNEL: usize = Depthwise::KERNEL;
/// Runs a convolution.
///
/// # Safety
/// The instruction set of `S` is available.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(call: &mut ConvCall<'_>, form: &Depthwise) {
    let Some(pre_shift) = prepare(call, scratch::depthwise_len(&call.conv.shape, form)) else { return };
    // SAFETY: as promised by the caller; the slices have been checked.
    unsafe { run_checked::<S>(call, form, pre_shift) }
}

/// # Safety
/// The instruction set of `S` is available and `is_complete`.
#[inline(always)]
unsafe fn run_checked<S: Simd>(call: &mut ConvCall<'_>, form: &Depthwise, pre_shift: u8) {
    let (conv, shape) = (call.conv, call.conv.shape);
    let params = Params::new(call.params, 16 * form.blocks);
    let out = call.outputs();
    let (table, slots) = Channels::split(call.scratch, form.blocks);
    fill_channels(table, &params, Blocks { full: form.blocks, tail: false }, pre_shift);

    let ring = Ring::of_pixels(&shape);
    let layer =
        Layer { shape, rows: call.rows.clone(), distance: ring.distance, weights: call.weights, channels: table, out };
    let mut row = Row {
        row_count: KERNEL,
        pixel: ring.distance / usize::from(shape.stride),
        ..Row::new(conv, (ring.distance, usize::from(shape.out_c)), pre_shift)
    };
    let rows = Rows { input: call.input, border: conv.border.map(|b| b ^ 0x80) };
    // SAFETY: the instruction set is there, and the slices fit the shape.
    unsafe { layer.run::<S>(&mut row, &ring, slots, rows) }
}

/// What stays the same for all rows.
struct Layer<'a> {
    shape: ConvShape,
    /// Output rows to compute.
    rows: Range<usize>,
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
            let mut slot = ring.slot(top);
            for (to, line) in row.rows.iter_mut().zip(top..top + KERNEL as isize) {
                if line >= filled {
                    ring.fill_row(slots, &rows, line, slot);
                }
                *to = ring.offset(slot);
                slot = ring.next(slot);
            }
            filled = top + KERNEL as isize;
            for block in 0..self.channels.len() {
                row.base = slots.as_ptr().wrapping_add(16 * block);
                // SAFETY: rows are slots of the ring, behind which there is room for what tiles read in vain.
                unsafe { self.run_block::<S>(row, &mut plan, block, y) };
            }
        }
    }

    /// Computes a block of channels of output row `y`.
    ///
    /// # Safety
    /// As [`Layer::run`]; `row` says where the window's rows are.
    #[inline(always)]
    unsafe fn run_block<S: Simd>(&self, row: &mut Row, plan: &mut Plan, block: usize, y: usize) {
        let (out_w, out_c) = (self.shape.out_w(), usize::from(self.shape.out_c));
        // Offsets stay inside of the weights, of the table and of the planes.
        row.weights = self.weights.as_ptr().wrapping_add(block * Depthwise::BLOCK);
        row.channels = self.channels[block..].as_ptr();
        row.left = out_c - 16 * block;
        let at = (y - self.rows.start) * out_w * out_c + 16 * block;
        row.hi = self.out[0].wrapping_add(at);
        row.lo = if self.out[1].is_null() { self.out[1] } else { self.out[1].wrapping_add(at) };
        let kind = S::DEPTHWISE[usize::from(self.shape.stride) - 1];
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
        let row_steps = k8n16::row_steps(&self.shape);
        Geometry { shape: &self.shape, out_w, distance, out_pixel, row_steps, skip_columns: false }
    }
}

/// Computes a tile of `MR` pixels by a block of 16 channels.
///
/// # Safety
/// The instruction set of `S` is available. In each of the row's three `rows`, `(MR - 1) * STRIDE + 3` pixels from `start`
/// on, `pixel` bytes apart, may be read for [`scratch::DEPTHWISE_REACH`] bytes; weights are those of the block; outputs as
/// for any [`Tile`].
#[inline(always)]
pub(super) unsafe fn body<S: Simd, const MR: usize, const STRIDE: usize>(t: Tile<'_>) {
    const { assert!(MR <= scratch::WIDEST) };
    // SAFETY: promised by the caller.
    unsafe {
        let mut acc = start::<S, MR, 1, false>(t);
        let mut w = [S::weights(t.row.weights); KERNEL];
        for k in 1..KERNEL {
            w[k] = S::weights(t.row.weights.add(k * Depthwise::STEP));
        }
        let first = t.row.base.add(t.place.start);
        let mut from = [first.add(t.row.rows[0]), first.add(t.row.rows[1]), first.add(t.row.rows[2])];
        // A column or two at a time: loops this small are what unrolls.
        for first in 0..MR + 2 {
            for s in 0..STRIDE {
                let column = first * STRIDE + s;
                if column < (MR - 1) * STRIDE + KERNEL {
                    let x = S::stack(from);
                    for k in 0..KERNEL {
                        if column >= k && (column - k).is_multiple_of(STRIDE) && (column - k) / STRIDE < MR {
                            let p = (column - k) / STRIDE;
                            acc.blocks[p][0] = S::dot_picked(acc.blocks[p][0], x, w[k]);
                        }
                    }
                    for row in &mut from {
                        *row = row.wrapping_add(t.row.pixel);
                    }
                }
            }
        }
        finish::<S, MR, 1, false>(t, &acc);
    }
}
