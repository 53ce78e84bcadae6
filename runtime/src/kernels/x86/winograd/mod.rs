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
use crate::kernels::k8n16::winograd::{FACTOR, LINE, PLACES, Plan, SHIFT};
use crate::kernels::k8n16::{self, Blocks};
use crate::kernels::{ConvCall, Params};
use crate::op::ConvShape;
use inputs::Inputs;
use outputs::Outputs;
use products::Products;
use weights::Weights;

/// Which layers are computed this way.
pub(super) type Choice = fn(&ConvShape) -> Option<Plan>;

/// Bytes of scratch memory for either algorithm.
pub(super) fn scratch_len(shape: &ConvShape, choice: Choice) -> usize {
    let direct = direct_scratch_len::<Avx512>(shape);
    choice(shape).map_or(direct, |plan| direct.max(needed(&plan)))
}

/// Room to align, the parameters, and the plan's.
fn needed(plan: &Plan) -> usize {
    align_of::<Channels>() + plan.blocks * size_of::<Channels>() + plan.scratch_len()
}

/// Runs a convolution, if this is the algorithm for it and exact; says whether it was.
///
/// # Safety
/// AVX-512 F, BW, VL and VNNI are available.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn run(call: &mut ConvCall<'_>, choice: Choice) -> bool {
    let Some(plan) = choice(&call.conv.shape) else { return false };
    if !Plan::is_exact(call.conv, call.channel_params().right_shift) || !is_complete(call, needed(&plan)) {
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
    let blocks = Blocks::of(shape.out_c);
    let pad = call.scratch.as_ptr().align_offset(align_of::<Channels>());
    let (head, rest) = call.scratch.split_at_mut(pad + plan.blocks * size_of::<Channels>());
    // SAFETY: every bit pattern is a valid value of `Channels`, which is nothing but arrays of integers.
    let (_, table, _) = unsafe { head.align_to_mut::<Channels>() };
    fill_channels(table, &Params::new(call.params, blocks.channels()), blocks, SHIFT);
    let (border, rest) = rest.split_at_mut(plan.border_len());
    border.fill(call.conv.border[0] ^ 0x80);
    let (inputs, rest) = rest.split_at_mut(plan.inputs_len());
    let (weights, rest) = rest.split_at_mut(plan.held * plan.weights_len());
    let products = &mut rest[..plan.products_len()];

    let rows = call.rows.clone();
    let tiles = rows.len().div_ceil(k8n16::winograd::SIDE) * plan.tiles.1;
    let mut inputs = Inputs { plan, shape: &shape, first_row: rows.start, input: call.input, border, to: inputs };
    let mut weights = Weights { plan, packed: call.weights, to: weights };
    let mut outputs = Outputs::new(call.conv, plan, rows, [&mut *call.out_hi, &mut *call.out_lo]);
    for first in (0..plan.blocks).step_by(plan.held) {
        let held = first..plan.blocks.min(first + plan.held);
        // SAFETY: the instruction set is there; slices are as long as the plan says, and indices below its counts.
        unsafe {
            for block in held.clone() {
                weights.transform(block, block - first);
            }
            for batch in (0..tiles).step_by(plan.batch) {
                let count = plan.batch.min(tiles - batch);
                if first == 0 || tiles > plan.batch {
                    inputs.transform(batch, count);
                }
                for block in held.clone() {
                    let channels = &table[block];
                    let factors = &weights.to[(block - first) * plan.weights_len()..];
                    let mut done = 0;
                    // Groups of the same size, as far as possible.
                    let groups = count.div_ceil(plan.group());
                    for group in 0..groups {
                        let size = (count - done).div_ceil(groups - group);
                        let bias = channels.bias.map(|b| b.wrapping_mul(FACTOR));
                        let job = Products { plan, inputs: &inputs.to[done * LINE..], weights: factors, bias: &bias };
                        job.multiply(size, products);
                        outputs.store(channels, block, batch + done..batch + done + size, products);
                        done += size;
                    }
                }
            }
        }
    }
}

const _: () = assert!(PLACES == 36 && LINE == 64);
