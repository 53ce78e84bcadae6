//! The microkernel: up to 8 pixels of one row by 8 channels.
//!
//! Sums start from the bias, stay in registers over all steps of the window and leave them as finished int8 or 16-bit
//! outputs. Nothing else of an output pixel ever touches memory.

// Loops over `0..N` with an index are what unrolls completely, so that all arrays become registers.
#![allow(clippy::needless_range_loop)]

use super::store;
use super::unit::{Sums, Unit};
use crate::kernels::k8n4::{Channels, GROUP_STEP, STEP};
use crate::op::Limits;
use core::arch::aarch64::*;

/// Largest window height and width ([`crate::model`] refuses larger ones).
pub(super) const MAX_KERNEL: usize = 15;
/// Pixels of the widest tile.
pub(super) const WIDEST: usize = 8;

/// What to compute: 8 channels of the pixels of an output row.
pub(super) struct Row {
    /// Ring slots of the window's rows.
    pub(super) rows: [*const u8; MAX_KERNEL],
    pub(super) row_count: usize,
    /// Groups of input channels, and bytes from one to the next in a slot.
    pub(super) groups: usize,
    pub(super) plane: usize,
    /// Window columns, and the bytes from a pixel's first cell to that of each.
    pub(super) columns: usize,
    pub(super) column: [usize; MAX_KERNEL],
    /// Weights of the first 4 channels for the first of `rows`.
    pub(super) weights: *const u8,
    /// Bytes from there to those of the other 4 channels.
    pub(super) stream: usize,
    pub(super) out: Output,
}

/// Where 8 channels of the pixels of an output row go, and how.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) channels: *const Channels,
    /// The first pixel's first channel.
    pub(super) hi: *mut u8,
    /// Null for a narrow output.
    pub(super) lo: *mut u8,
    pub(super) out_c: usize,
    /// Channels that exist, from the first one on.
    pub(super) left: usize,
    /// Bits by which sums have to be moved left first.
    pub(super) pre_shift: u8,
    pub(super) accumulate: bool,
    /// See [`crate::op::Conv::raw`].
    pub(super) raw: bool,
    pub(super) limits: Limits,
}

/// Sums of a tile: pairs of pixels by two groups of 4 channels.
pub(super) type Tile<const PAIRS: usize> = [[Sums; 2]; PAIRS];

/// What moves on with every step.
struct Cursor {
    inputs: *const u8,
    weights: [*const u8; 2],
}

/// Computes `count` pixels from `first` on, at most `2 * PAIRS`.
///
/// # Safety
/// The instruction set of `U` is available. For each of its rows, groups and columns the ring may be read for
/// `2 * PAIRS` pixels from `first` on, and the weights hold as many steps for both groups of channels. `channels` points
/// to an entry, and the planes hold `count` pixels, `out_c` bytes apart, of `left` channels (8 of which count).
#[inline(always)]
pub(super) unsafe fn run<U: Unit, const PAIRS: usize>(row: &Row, first: usize, count: usize) {
    // SAFETY: promised by the caller; each step moves on in the weights by what it has read.
    unsafe {
        let bias = &(*row.out.channels).bias;
        let start = [U::start(vld1q_s32(bias.as_ptr())), U::start(vld1q_s32(bias.as_ptr().add(4)))];
        let mut tile = [start; PAIRS];
        let mut at = Cursor { inputs: row.weights, weights: [row.weights, row.weights.add(row.stream)] };
        for rows in row.rows.iter().take(row.row_count) {
            at.inputs = rows.add(first * STEP);
            for _ in 0..row.groups {
                if row.columns == 3 {
                    step::<U, PAIRS>(&mut tile, &mut at, 0);
                    step::<U, PAIRS>(&mut tile, &mut at, row.column[1]);
                    step::<U, PAIRS>(&mut tile, &mut at, row.column[2]);
                } else {
                    for &column in row.column.iter().take(row.columns) {
                        step::<U, PAIRS>(&mut tile, &mut at, column);
                    }
                }
                at.inputs = at.inputs.wrapping_add(row.plane);
            }
        }
        store::finish::<U, PAIRS>(&row.out, &tile, first, count);
    }
}

/// One step of all pixels and channels.
#[inline(always)]
unsafe fn step<U: Unit, const PAIRS: usize>(tile: &mut Tile<PAIRS>, at: &mut Cursor, column: usize) {
    // SAFETY: promised by the caller of `run`.
    unsafe {
        let inputs = at.inputs.add(column);
        let mut x = [U::inputs(inputs); PAIRS];
        for p in 1..PAIRS {
            x[p] = U::inputs(inputs.add(2 * STEP * p));
        }
        for c in 0..2 {
            let w = U::weights(at.weights[c]);
            for p in 0..PAIRS {
                tile[p][c] = U::multiply(tile[p][c], x[p], w);
            }
            at.weights[c] = at.weights[c].add(GROUP_STEP);
        }
    }
}
