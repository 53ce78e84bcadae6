//! Winograd's algorithm on AVX-512 with VNNI: [`crate::kernels::k8n16::winograd`] has its algebra.
//!
//! `weights` and `inputs` transform into pairs of 16-bit words, `products` multiplies them with `vpdpwssd`, 32
//! multiply-accumulates an instruction, and `outputs` transforms back and finishes pixels as the direct kernel does.
//! Products are half as many to an instruction as those of `vpdpbusd`, but there is only a quarter of them.
//!
//! The packed weights keep four inputs of a channel in 32 bits. Shifts of 16-bit words take those apart into the inputs 0 and
//! 2, and 1 and 3, and the activations of a pixel likewise: pairs of the same inputs meet although nothing is shuffled.

mod inputs;
mod outputs;
mod products;
mod weights;

use super::avx512::Avx512;
use super::conv::{is_complete, scratch_len as direct_scratch_len};
use super::params::{Channels, fill_channels};
use crate::kernels::k8n16::scratch::winograd_len;
use crate::kernels::k8n16::winograd::{FACTOR, Grid, PLACES, Plan, SHIFT};
use crate::kernels::k8n16::{BLOCK, Blocks};
use crate::kernels::{ConvCall, Params};
use crate::op::ConvShape;
use core::ops::Range;
use inputs::Inputs;
use outputs::Outputs;
use products::Products;
use weights::Weights;

/// Which layers are computed this way.
pub(super) type Choice = fn(&ConvShape) -> Option<Plan>;

/// Bytes of scratch memory for either algorithm.
pub(super) fn scratch_len(shape: &ConvShape, choice: Choice) -> usize {
    let direct = direct_scratch_len::<Avx512>(shape);
    choice(shape).map_or(direct, |plan| direct.max(winograd_len(&plan)))
}

/// Runs a convolution, if this is the algorithm for it and exact; says whether it was.
///
/// # Safety
/// AVX-512 F, BW, VL and VNNI are available.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn run(call: &mut ConvCall<'_>, choice: Choice) -> bool {
    let Some(plan) = choice(&call.conv.shape) else { return false };
    if !Plan::is_exact(call.conv, call.channel_params().right_shift) || !is_complete(call, winograd_len(&plan)) {
        return false;
    }
    // SAFETY: the instruction set is there, and all slices have been checked against the shape.
    unsafe { run_checked(call, &plan) };
    true
}

/// # Safety
/// The instruction set is available, `plan` is that of the shape, and `is_complete`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn run_checked(call: &mut ConvCall<'_>, plan: &Plan) {
    let shape = call.conv.shape;
    let blocks = call.channels.start / BLOCK..call.channels.end.div_ceil(BLOCK);
    let params = Params::new(call.params, BLOCK * plan.blocks).part(BLOCK * blocks.start, BLOCK * blocks.len());
    let planes = call.outputs();
    let (table, rest) = Channels::split(call.scratch, plan.blocks);
    fill_channels(&mut table[blocks.clone()], &params, Blocks { full: blocks.len(), tail: false }, SHIFT);
    let (border, rest) = rest.split_at_mut(plan.border_len());
    for (to, from) in border.iter_mut().zip(call.conv.border.iter().cycle()) {
        *to = from ^ 0x80;
    }
    let (inputs, rest) = rest.split_at_mut(plan.inputs_len());
    let (weights, rest) = rest.split_at_mut(plan.held * plan.weights_len());
    let products = &mut rest[..plan.products_len()];

    let rows = call.rows.clone();
    let grid = Grid::of(rows.len(), shape.out_w());
    let tiles = grid.len();
    let mut inputs =
        Inputs { plan, grid: &grid, shape: &shape, first_row: rows.start, input: call.input, border, to: inputs };
    let mut weights = Weights { plan, packed: call.weights, to: weights };
    let mut outputs = Outputs::new(call.conv, plan, (&grid, rows.len()), planes);
    for first in blocks.clone().step_by(plan.held) {
        let held = first..blocks.end.min(first + plan.held);
        for block in held.clone() {
            // SAFETY: the instruction set is there; slices are as long as the plan says, and there is such a block.
            unsafe { weights.transform(block, block - first) };
        }
        for batch in groups(0..tiles, plan.batch) {
            if first == blocks.start || tiles > plan.batch {
                // SAFETY: likewise; there are such tiles, a batch of them at most.
                unsafe { inputs.transform(batch.clone()) };
            }
            for block in held.clone() {
                let job = Products {
                    plan,
                    grid: &grid,
                    inputs: inputs.to,
                    weights: &weights.to[(block - first) * plan.weights_len()..],
                    bias: &table[block].bias.map(|b| b.wrapping_mul(FACTOR)),
                    ahead: weights.behind(block),
                    // Weights that are held together are few.
                    lines_ahead: if plan.held == 1 { weights.lines().div_ceil(PLACES) } else { 0 },
                };
                for group in groups(batch.clone(), plan.group()) {
                    // SAFETY: likewise; the group's tiles are some of the batch.
                    unsafe {
                        job.multiply(batch.start, group.clone(), products);
                        outputs.store(&table[block], block, group, products);
                    }
                }
            }
        }
    }
}

/// Cuts tiles into as few groups as possible, of the same size as far as possible.
fn groups(tiles: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = tiles.len().div_ceil(most);
    let cut = move |n: usize| tiles.start + n * tiles.len() / count;
    (0..count).map(move |n| cut(n)..cut(n + 1))
}
