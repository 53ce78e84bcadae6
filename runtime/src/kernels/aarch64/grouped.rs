//! Convolutions with groups, depthwise ones among them: 8 channels of 4 pixels at a time, one input of each group after
//! the other.
//!
//! What the 8 channels see of a pixel fits a few registers; a table look-up brings each of them the same input of its own
//! group, and a widening multiplication adds it up. Any window, any stride.

// Loops over `0..N` with an index are what unrolls completely, so that all arrays become registers.
#![allow(clippy::needless_range_loop)]

use super::conv::{is_complete, pre_shift};
use super::store;
use super::tile::Output;
use crate::kernels::k8n4::{self, Channels};
use crate::kernels::{ConvCall, Params};
use crate::op::ConvShape;
use core::arch::aarch64::*;
use core::ptr;

/// Pixels that share a weight.
const PIXELS: usize = 4;
/// Bytes of a pixel that 8 channels may need: four registers.
const REACH: usize = k8n4::GROUP_REACH;

/// Runs a convolution with groups, if there is a way.
///
/// # Safety
/// NEON is available.
#[inline(always)]
pub(super) unsafe fn run(call: &mut ConvCall<'_>) -> bool {
    let reach = k8n4::group_reach(&call.conv.shape);
    let Some(pre_shift) = pre_shift(call) else { return false };
    if reach > REACH || !is_complete(call) {
        return false;
    }
    // SAFETY: promised by the caller; all slices have been checked.
    unsafe {
        match reach {
            0..=16 => run_checked::<1>(call, pre_shift),
            17..=32 => run_checked::<2>(call, pre_shift),
            _ => run_checked::<4>(call, pre_shift),
        }
    }
    true
}

/// 8 channels of a layer.
struct Block<'a> {
    shape: ConvShape,
    input: &'a [u8],
    /// What bytes of the input are XORed with.
    flip: u8,
    /// What lies beyond the border, moved like the input, from the first channel's first input on.
    border: [u8; REACH],
    /// The first input of the first channel's group.
    first: usize,
    /// The first input of each channel's group, counted from there.
    order: [u8; 8],
    /// Weights of the first four channels and of the other four.
    weights: [&'a [u8]; 2],
}

/// # Safety
/// NEON is available, `is_complete`, and 8 channels reach no farther than `16 * TABLES` bytes.
#[inline(always)]
unsafe fn run_checked<const TABLES: usize>(call: &mut ConvCall<'_>, pre_shift: u8) {
    let (conv, shape) = (call.conv, call.conv.shape);
    let channels = k8n4::channels(shape.out_c);
    let params = Params::new(call.params, channels);
    let (out_w, out_c) = (shape.out_w(), usize::from(shape.out_c));
    let wide = !call.out_lo.is_empty();
    for first in (0..channels).step_by(8) {
        let entry = Channels::new(&params, first, pre_shift);
        let block = Block::new(call, first);
        for (n, y) in call.rows.clone().enumerate() {
            let at = n * out_w * out_c + first;
            let out = Output {
                channels: &entry,
                hi: call.out_hi.as_mut_ptr().wrapping_add(at),
                lo: if wide { call.out_lo.as_mut_ptr().wrapping_add(at) } else { ptr::null_mut() },
                out_c,
                left: out_c - first,
                pre_shift,
                accumulate: conv.accumulate,
                raw: conv.raw,
                limits: conv.limits,
            };
            for x in (0..out_w).step_by(PIXELS) {
                // SAFETY: NEON is promised by the caller; the planes hold row `y`, of which these are pixels.
                unsafe {
                    let sums = block.sums::<TABLES>(&entry, (y, x), pre_shift);
                    store::store::<{ PIXELS / 2 }>(&out, &sums, x, PIXELS.min(out_w - x));
                }
            }
        }
    }
}

impl<'a> Block<'a> {
    fn new(call: &ConvCall<'a>, first: usize) -> Self {
        let (shape, flip) = (call.conv.shape, call.input_flip());
        // Channels that only pad the last block see what the last one does.
        let group = |c: usize| c.min(usize::from(shape.out_c) - 1) / shape.group_out();
        let first_input = group(first) * shape.group_in();
        let stream = |c: usize| &call.weights[k8n4::weight_at(&shape, c, 0, 0)..];
        Block {
            shape,
            input: call.input,
            flip,
            border: core::array::from_fn(|i| call.conv.border[(first_input + i) % 4] ^ flip),
            first: first_input,
            order: core::array::from_fn(|c| (group(first + c) * shape.group_in() - first_input) as u8),
            weights: [stream(first), stream(first + 4)],
        }
    }

    /// Sums of the pixels from column `x` of output row `y` on, in pairs, moved left already; those beyond the row's end
    /// are of no use.
    ///
    /// # Safety
    /// NEON is available.
    #[inline(always)]
    unsafe fn sums<const TABLES: usize>(
        &self,
        entry: &Channels,
        (y, x): (usize, usize),
        pre_shift: u8,
    ) -> [[[int32x4_t; 2]; 2]; PIXELS / 2] {
        let (kernel, inputs) = (usize::from(self.shape.kernel), self.shape.group_in());
        // SAFETY: NEON is promised by the caller; all arrays are as long as what is loaded from them.
        unsafe {
            let bias = [vld1q_s32(entry.bias.as_ptr()), vld1q_s32(entry.bias.as_ptr().add(4))];
            let (mut sums, order) = ([bias; PIXELS], vld1_u8(self.order.as_ptr()));
            for (row, column) in (0..kernel).flat_map(|row| (0..kernel).map(move |column| (row, column))) {
                let mut tables = [[vdupq_n_u8(0); TABLES]; PIXELS];
                for p in 0..PIXELS {
                    tables[p] = self.table((y, x + p), (row, column));
                }
                for i in 0..inputs {
                    let w = self.weight((row, column), i);
                    let from = vadd_u8(order, vdup_n_u8(i as u8));
                    for p in 0..PIXELS {
                        let value = vmovl_s8(vreinterpret_s8_u8(look_up(tables[p], from)));
                        sums[p][0] = vmlal_s16(sums[p][0], vget_low_s16(value), vget_low_s16(w));
                        sums[p][1] = vmlal_high_s16(sums[p][1], value, w);
                    }
                }
            }
            let left = vdupq_n_s32(i32::from(pre_shift));
            let moved = |sum: [int32x4_t; 2]| [vshlq_s32(sum[0], left), vshlq_s32(sum[1], left)];
            [[moved(sums[0]), moved(sums[1])], [moved(sums[2]), moved(sums[3])]]
        }
    }

    /// The weights of the 8 channels at a window place for input `i` of their groups.
    ///
    /// # Safety
    /// NEON is available.
    #[inline(always)]
    unsafe fn weight(&self, (row, column): (usize, usize), i: usize) -> int16x8_t {
        let (s, k) = k8n4::step_of(&self.shape, (row, column), i);
        // Four bytes a channel, of which the one that is wanted moves to the top and back down with its sign.
        let at = k8n4::weight_place(s, k / 4 * 4);
        // SAFETY: NEON is promised by the caller; each slice that is loaded from has 16 bytes.
        unsafe {
            let up = vdupq_n_s32(24 - 8 * (k % 4) as i32);
            let four = |weights: &[u8]| {
                let words = vld1q_u8(weights[at..][..16].as_ptr());
                vmovn_s32(vshrq_n_s32::<24>(vshlq_s32(vreinterpretq_s32_u8(words), up)))
            };
            vcombine_s16(four(self.weights[0]), four(self.weights[1]))
        }
    }

    /// What the channels see of the input pixel at a window place, or of the border.
    ///
    /// # Safety
    /// NEON is available.
    #[inline(always)]
    unsafe fn table<const TABLES: usize>(
        &self,
        (y, x): (usize, usize),
        (row, column): (usize, usize),
    ) -> [uint8x16_t; TABLES] {
        let s = &self.shape;
        let place = |out: usize, tap: usize, size: u16| {
            let at = (out * usize::from(s.stride) + tap).checked_sub(usize::from(s.padding));
            at.filter(|&at| at < usize::from(size))
        };
        let bytes = match (place(y, row, s.in_h), place(x, column, s.in_w)) {
            (Some(i), Some(j)) => {
                let at = (i * usize::from(s.in_w) + j) * usize::from(s.in_c) + self.first;
                self.input.get(at..).unwrap_or_default()
            }
            _ => &self.border,
        };
        let mut copy = [0; REACH];
        let bytes = if bytes.len() < 16 * TABLES {
            // At the end of the input, where not all of them exist.
            copy[..bytes.len()].copy_from_slice(bytes);
            &copy
        } else {
            bytes
        };
        // SAFETY: NEON is promised by the caller; there are 16 bytes for each table.
        unsafe {
            let mut tables = [vdupq_n_u8(0); TABLES];
            for (n, table) in tables.iter_mut().enumerate() {
                *table = veorq_u8(vld1q_u8(bytes.as_ptr().add(16 * n)), vdupq_n_u8(self.flip));
            }
            tables
        }
    }
}

/// The bytes of the tables, taken as one, that `from` names.
///
/// # Safety
/// NEON is available.
#[inline(always)]
unsafe fn look_up<const TABLES: usize>(t: [uint8x16_t; TABLES], from: uint8x8_t) -> uint8x8_t {
    let at = |n: usize| t[if n < TABLES { n } else { 0 }];
    // SAFETY: promised by the caller.
    unsafe {
        match TABLES {
            1 => vqtbl1_u8(at(0), from),
            2 => vqtbl2_u8(uint8x16x2_t(at(0), at(1)), from),
            _ => vqtbl4_u8(uint8x16x4_t(at(0), at(1), at(2), at(3)), from),
        }
    }
}
