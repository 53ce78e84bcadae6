//! Exact integer Winograd convolution for plain NEON, see [`crate::kernels::k8n4::winograd`]: a quarter of the products.

// Loops over `0..N` with an index are what unrolls completely, so that all arrays become registers.
#![allow(clippy::needless_range_loop)]

use super::store;
use super::tile::Output;
use super::unit::BY_INPUT;
use crate::kernels::k8n4::ring::Rows;
use crate::kernels::k8n4::winograd::{PLACES, Plan, TILES};
use crate::kernels::k8n4::{Channels, GROUP_STEP, STEP, steps};
use crate::op::ConvShape;
use core::arch::aarch64::*;

/// Inverse of 9 modulo 2^32.
const NINTH: i32 = 0x38e3_8e39;

/// A layer.
pub(super) struct Layer<'a> {
    pub(super) shape: ConvShape,
    pub(super) plan: Plan,
    pub(super) rows: Rows<'a>,
    pub(super) weights: &'a [u8],
    /// Parameters for accumulators times 64.
    pub(super) table: &'a [Channels],
    /// Where the image's first channel goes; what depends on channels is filled in here.
    pub(super) out: Output,
}

/// Runs the layer.
///
/// # Safety
/// NEON is available, slices are as long as the shape asks, the planes of `out` hold the whole output, and `scratch` has
/// the length of the plan.
#[inline(always)]
pub(super) unsafe fn run(layer: &Layer<'_>, scratch: &mut [u8]) {
    let plan = &layer.plan;
    let (inputs, rest) = scratch.split_at_mut(plan.inputs);
    let (weights, rest) = rest.split_at_mut(plan.weights);
    let (products, ring) = rest.split_at_mut(plan.products);
    let out_w = layer.shape.out_w();
    // SAFETY: promised by the caller; offsets below stay inside of what the plan says.
    unsafe {
        transform_inputs(layer, inputs.as_mut_ptr(), ring);
        for (block, channels) in layer.table.iter().enumerate() {
            transform_weights(layer, block, weights.as_mut_ptr());
            let mut out = layer.out;
            out.channels = channels;
            out.left = out.out_c - 8 * block;
            out.hi = out.hi.wrapping_add(8 * block);
            out.lo = if out.lo.is_null() { out.lo } else { out.lo.wrapping_add(8 * block) };
            for first in (0..plan.tiles.0 * plan.tiles.1).step_by(TILES) {
                let from = inputs.as_ptr().add(first * 2 * STEP);
                multiply(plan, channels, from, weights.as_ptr(), products.as_mut_ptr().cast());
                for tile in 0..TILES.min(plan.tiles.0 * plan.tiles.1 - first) {
                    let (y, x) = ((first + tile) / plan.tiles.1 * 4, (first + tile) % plan.tiles.1 * 4);
                    let values = transform_outputs(products.as_ptr().cast::<i32>().add(8 * tile));
                    let row_len = out_w * out.out_c;
                    if y + 4 <= layer.shape.out_h() && x + 4 <= out_w && out.left >= 8 {
                        store::store_square(&out, &values, y * out_w + x, row_len);
                        continue;
                    }
                    for row in 0..4.min(layer.shape.out_h() - y) {
                        let mut out = out;
                        let at = (y + row) * row_len;
                        out.hi = out.hi.wrapping_add(at);
                        out.lo = if out.lo.is_null() { out.lo } else { out.lo.wrapping_add(at) };
                        let v = &values[4 * row..][..4];
                        store::store::<2>(&out, &[[v[0], v[1]], [v[2], v[3]]], x, 4.min(out_w - x));
                    }
                }
            }
        }
    }
}

/// All tiles of the input, by place, group and tile.
#[inline(always)]
unsafe fn transform_inputs(layer: &Layer<'_>, to: *mut u8, ring_bytes: &mut [u8]) {
    let (plan, ring) = (&layer.plan, &layer.plan.ring);
    let mut filled = isize::MIN;
    for ty in 0..plan.tiles.0 {
        let top = 4 * ty as isize - isize::from(layer.shape.padding as i8);
        for y in top.max(filled)..top + 6 {
            ring.fill_row(ring_bytes, &layer.rows, y);
        }
        filled = top + 6;
        for group in 0..plan.groups {
            for tx in 0..plan.tiles.1 {
                let at = group * plan.group_len + (ty * plan.tiles.1 + tx) * 2 * STEP;
                // SAFETY: six cells of six rows, at most three of them behind the row, where the ring has slack; the
                // tile has a place in each of 36 parts of `groups * group_len` bytes.
                unsafe {
                    let mut d = [vdupq_n_s16(0); PLACES];
                    for r in 0..6 {
                        let cells = ring_bytes.as_ptr().add(ring.slot(top + r as isize) * ring.pitch);
                        let cells = cells.add(group * ring.plane + 4 * tx * STEP);
                        let (a, b) = (vld1q_s8(cells.cast()), vld1q_s8(cells.add(16).cast()));
                        let c = vld1q_s8(cells.add(32).cast());
                        let v = input_line([
                            vmovl_s8(vget_low_s8(a)),
                            vmovl_high_s8(a),
                            vmovl_s8(vget_low_s8(b)),
                            vmovl_high_s8(b),
                            vmovl_s8(vget_low_s8(c)),
                            vmovl_high_s8(c),
                        ]);
                        for c in 0..6 {
                            d[6 * r + c] = v[c];
                        }
                    }
                    for c in 0..6 {
                        let v = input_line([d[c], d[6 + c], d[12 + c], d[18 + c], d[24 + c], d[30 + c]]);
                        for r in 0..6 {
                            let place = to.add(at + (6 * r + c) * plan.groups * plan.group_len);
                            vst1q_s16(place.cast(), v[r]);
                        }
                    }
                }
            }
        }
    }
}

/// One line of the transform of activations.
#[inline(always)]
unsafe fn input_line(d: [int16x8_t; 6]) -> [int16x8_t; 6] {
    // SAFETY: NEON is promised by the caller.
    unsafe {
        let c = vsubq_s16(d[4], d[2]);
        let e = vsubq_s16(d[3], d[1]);
        let a = vmlsq_n_s16(d[4], d[2], 4);
        let b = vmlsq_n_s16(d[3], d[1], 4);
        let twice = vaddq_s16(e, e);
        [
            vmlaq_n_s16(c, vsubq_s16(d[0], d[2]), 4),
            vaddq_s16(a, b),
            vsubq_s16(a, b),
            vaddq_s16(c, twice),
            vsubq_s16(c, twice),
            vmlsq_n_s16(vsubq_s16(d[5], d[3]), e, 4),
        ]
    }
}

/// The weights of 8 channels, by place, group, pair of inputs and 4 channels.
#[inline(always)]
unsafe fn transform_weights(layer: &Layer<'_>, block: usize, to: *mut u8) {
    let groups = layer.plan.groups;
    let stream = steps(&layer.shape) * GROUP_STEP;
    for group in 0..groups {
        for part in 0..4 {
            // Bytes 16 * half of each step of 4 channels.
            let (four, half) = (part / 2, part % 2);
            // SAFETY: the weights hold all steps of both groups of 4 channels of each block.
            unsafe {
                let order = vld1q_u8(BY_INPUT.as_ptr());
                let from = layer.weights.as_ptr().add((2 * block + four) * stream + 16 * half);
                let mut low = [vdupq_n_s16(0); 9];
                let mut high = low;
                for tap in 0..9 {
                    let step = (tap / 3 * groups + group) * 3 + tap % 3;
                    let w = vqtbl1q_s8(vld1q_s8(from.add(step * GROUP_STEP).cast()), order);
                    (low[tap], high[tap]) = (vmovl_s8(vget_low_s8(w)), vmovl_high_s8(w));
                }
                let to = to.add(group * 128 + 64 * half + 16 * four);
                transform_taps(low, to, groups * 128);
                transform_taps(high, to.add(32), groups * 128);
            }
        }
    }
}

/// Transforms 3×3 taps and stores the results `distance` bytes apart.
#[inline(always)]
unsafe fn transform_taps(g: [int16x8_t; 9], to: *mut u8, distance: usize) {
    // SAFETY: the caller has 36 places.
    unsafe {
        let mut lines = [[g[0]; 6]; 3];
        for c in 0..3 {
            lines[c] = weight_line(g[c], g[3 + c], g[6 + c]);
        }
        for r in 0..6 {
            let v = weight_line(lines[0][r], lines[1][r], lines[2][r]);
            for c in 0..6 {
                vst1q_s16(to.add((6 * r + c) * distance).cast(), v[c]);
            }
        }
    }
}

/// One line of the transform of weights.
#[inline(always)]
unsafe fn weight_line(g0: int16x8_t, g1: int16x8_t, g2: int16x8_t) -> [int16x8_t; 6] {
    // SAFETY: NEON is promised by the caller.
    unsafe {
        let (s, p, q) = (vaddq_s16(g0, g2), vmlaq_n_s16(g0, g2, 4), vaddq_s16(g1, g1));
        [
            vmulq_n_s16(g0, 6),
            vmulq_n_s16(vaddq_s16(s, g1), -4),
            vmulq_n_s16(vsubq_s16(s, g1), -4),
            vaddq_s16(p, q),
            vsubq_s16(p, q),
            vmulq_n_s16(g2, 6),
        ]
    }
}

/// Products of four tiles and 8 channels at all places: `to[place][tile][channel]`.
#[inline(always)]
unsafe fn multiply(plan: &Plan, channels: &Channels, inputs: *const u8, weights: *const u8, to: *mut i32) {
    for place in 0..PLACES {
        // SAFETY: promised by the caller.
        unsafe {
            let mut acc = [[vdupq_n_s32(0); 2]; TILES];
            if place == 7 {
                // The outputs' transform adds this place to each output once.
                let bias = channels.bias.as_ptr();
                acc = [[vmulq_n_s32(vld1q_s32(bias), 576), vmulq_n_s32(vld1q_s32(bias.add(4)), 576)]; TILES];
            }
            let mut x = inputs.add(place * plan.groups * plan.group_len);
            let mut w = weights.add(place * plan.groups * 128);
            for _ in 0..plan.groups {
                let x4 = [load(x), load(x.add(16)), load(x.add(32)), load(x.add(48))];
                step::<0, 1>(&mut acc, &x4, [load(w), load(w.add(16))]);
                step::<2, 3>(&mut acc, &x4, [load(w.add(32)), load(w.add(48))]);
                step::<4, 5>(&mut acc, &x4, [load(w.add(64)), load(w.add(80))]);
                step::<6, 7>(&mut acc, &x4, [load(w.add(96)), load(w.add(112))]);
                x = x.wrapping_add(plan.group_len);
                w = w.wrapping_add(128);
            }
            for t in 0..TILES {
                let to = to.add(place * TILES * 8 + 8 * t);
                vst1q_s32(to, acc[t][0]);
                vst1q_s32(to.add(4), acc[t][1]);
            }
        }
    }
}

#[inline(always)]
unsafe fn load(from: *const u8) -> int16x8_t {
    // SAFETY: promised by the caller.
    unsafe { vld1q_s16(from.cast()) }
}

/// Adds the products of two inputs of all tiles and channels.
#[inline(always)]
unsafe fn step<const A: i32, const B: i32>(acc: &mut [[int32x4_t; 2]; TILES], x: &[int16x8_t; 4], w: [int16x8_t; 2]) {
    // SAFETY: NEON is promised by the caller.
    unsafe {
        for t in 0..TILES {
            for c in 0..2 {
                acc[t][c] = vmlal_laneq_s16::<A>(acc[t][c], vget_low_s16(w[c]), x[t]);
            }
        }
        for t in 0..TILES {
            for c in 0..2 {
                acc[t][c] = vmlal_high_laneq_s16::<B>(acc[t][c], w[c], x[t]);
            }
        }
    }
}

/// The 16 pixels of a tile by 8 channels, times 64.
#[inline(always)]
unsafe fn transform_outputs(from: *const i32) -> [[int32x4_t; 2]; 16] {
    // SAFETY: the tile has 8 values at each place.
    unsafe {
        let mut out = [[vdupq_n_s32(0); 2]; 16];
        for half in 0..2 {
            let mut lines = [[vdupq_n_s32(0); 6]; 4];
            for c in 0..6 {
                let m = |r: usize| vld1q_s32(from.add((6 * r + c) * TILES * 8 + 4 * half));
                let v = output_line([m(0), m(1), m(2), m(3), m(4), m(5)]);
                for r in 0..4 {
                    lines[r][c] = v[r];
                }
            }
            for r in 0..4 {
                let v = output_line(lines[r]);
                for c in 0..4 {
                    out[4 * r + c][half] = vmulq_n_s32(v[c], NINTH);
                }
            }
        }
        out
    }
}

/// One line of the transform of products, modulo 2^32.
#[inline(always)]
unsafe fn output_line(m: [int32x4_t; 6]) -> [int32x4_t; 4] {
    // SAFETY: NEON is promised by the caller.
    unsafe {
        let (t1, t2) = (vaddq_s32(m[1], m[2]), vsubq_s32(m[1], m[2]));
        let (t3, t4) = (vaddq_s32(m[3], m[4]), vsubq_s32(m[3], m[4]));
        [
            vaddq_s32(vaddq_s32(m[0], t1), t3),
            vmlaq_n_s32(t2, t4, 2),
            vmlaq_n_s32(t1, t3, 4),
            vmlaq_n_s32(vmlaq_n_s32(t2, t4, 8), m[5], 4),
        ]
    }
}
