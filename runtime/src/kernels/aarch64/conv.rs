//! Drives the microkernel over a layer: prepares parameters, fills the row ring, picks tiles.

use super::grouped;
use super::tile::{self, MAX_KERNEL, Output, Row, WIDEST};
use super::unit::Unit;
use super::winograd;
use crate::kernels::k8n4::ring::{Ring, Rows};
use crate::kernels::k8n4::winograd::{self as winograd_plan, Plan};
use crate::kernels::k8n4::{self, Channels, GROUP_STEP};
use crate::kernels::{ConvCall, Params, params_len, scalar};
use crate::op::Layout;
use core::ptr;

/// Whether every slice is as long as the shape asks; always so for a validated model.
#[inline(always)]
pub(super) fn is_complete(call: &ConvCall<'_>) -> bool {
    let shape = &call.conv.shape;
    let Some(outputs) = call.output_len() else { return false };
    (1..=MAX_KERNEL).contains(&usize::from(shape.kernel))
        && shape.padding < shape.kernel
        && shape.in_c > 0
        && (1..=shape.in_c.min(shape.out_c)).contains(&shape.groups)
        && call.input.len() >= shape.input_len()
        && call.weights.len() >= k8n4::weights_len(shape)
        && call.params.len() >= params_len(shape, Layout::K8N4)
        && call.out_hi.len() >= outputs
        && (call.out_lo.is_empty() || call.out_lo.len() >= outputs)
        && call.scratch.len() >= k8n4::scratch_len(shape)
}

/// Bits by which accumulators can and must be moved left so that every total right shift is at least 32; `None` if
/// there is no such number.
#[inline(always)]
pub(super) fn pre_shift(call: &ConvCall<'_>) -> Option<u8> {
    let smallest = call.channel_params().right_shift.iter().copied().min()?;
    let bits = 32u8.saturating_sub(smallest);
    (bits == 0 || bits + call.conv.acc_bits <= 31).then_some(bits)
}

/// Runs a convolution.
///
/// # Safety
/// The instruction set of `U` is available.
#[inline(always)]
pub(super) unsafe fn run<U: Unit>(call: &mut ConvCall<'_>) {
    if call.conv.shape.groups > 1 {
        // SAFETY: as promised by the caller.
        if !unsafe { grouped::run(call) } {
            scalar::conv::k8n4(call);
        }
        return;
    }
    if !is_complete(call) {
        debug_assert!(false, "a slice is shorter than the shape asks");
        return;
    }
    let Some(pre_shift) = pre_shift(call) else {
        // Shifts and accumulators beyond what 32-bit lanes hold: the law itself. The compiler writes no such layer.
        return scalar::conv::k8n4(call);
    };
    // SAFETY: as promised by the caller; the slices have been checked.
    unsafe { run_checked::<U>(call, pre_shift) }
}

/// Runs a convolution by Winograd's algorithm, if that is exact and possible.
///
/// # Safety
/// NEON is available.
#[inline(always)]
pub(super) unsafe fn run_winograd(call: &mut ConvCall<'_>) -> bool {
    let (conv, shape) = (call.conv, call.conv.shape);
    let Some(plan) = Plan::new(&shape) else { return false };
    let exact = conv.acc_bits <= winograd_plan::ACC_BITS
        && call.channel_params().right_shift.iter().all(|&r| r >= winograd_plan::MIN_SHIFT);
    if !exact || !call.is_whole() || !is_complete(call) {
        return false;
    }
    let channels = k8n4::channels(shape.out_c);
    let rows = Rows { input: call.input, flip: call.input_flip(), border: conv.border };
    let params = Params::new(call.params, channels);
    let wide = !call.out_lo.is_empty();
    let (head, rest) = call.scratch.split_at_mut(Channels::table_len(shape.out_c));
    let table = Channels::fill_table(head, &params, channels, 6);
    let out = Output {
        channels: ptr::null(),
        hi: call.out_hi.as_mut_ptr(),
        lo: if wide { call.out_lo.as_mut_ptr() } else { ptr::null_mut() },
        out_c: usize::from(shape.out_c),
        left: 0,
        pre_shift: 0,
        accumulate: conv.accumulate,
        raw: conv.raw,
        limits: conv.limits,
    };
    let layer = winograd::Layer { shape, plan, rows, weights: call.weights, table, out };
    // SAFETY: NEON is promised by the caller, and `is_complete` has looked at all slices.
    unsafe { winograd::run(&layer, rest) };
    true
}

/// # Safety
/// The instruction set of `U` is available and `is_complete`.
#[inline(always)]
unsafe fn run_checked<U: Unit>(call: &mut ConvCall<'_>, pre_shift: u8) {
    let (conv, shape) = (call.conv, call.conv.shape);
    let channels = k8n4::channels(shape.out_c);
    let params = Params::new(call.params, channels);
    let flip = call.input_flip();
    let (head, slots) = call.scratch.split_at_mut(Channels::table_len(shape.out_c));
    let table = Channels::fill_table(head, &params, channels, pre_shift);

    let ring = Ring::new(&shape);
    let rows = Rows { input: call.input, flip, border: conv.border };
    let wide = !call.out_lo.is_empty();
    let steps = k8n4::steps(&shape);
    let mut row = Row {
        rows: [ptr::null(); MAX_KERNEL],
        row_count: ring.rows,
        groups: ring.groups,
        plane: ring.plane,
        columns: ring.columns,
        column: core::array::from_fn(|c| ring.column(c)),
        weights: ptr::null(),
        stream: steps * GROUP_STEP,
        out: Output {
            channels: ptr::null(),
            hi: ptr::null_mut(),
            lo: ptr::null_mut(),
            out_c: usize::from(shape.out_c),
            left: 0,
            pre_shift,
            accumulate: conv.accumulate,
            raw: conv.raw,
            limits: conv.limits,
        },
    };
    let out_w = shape.out_w();
    let mut filled = isize::MIN;
    let mut top = (call.rows.start * usize::from(shape.stride)) as isize - isize::from(shape.padding as i8);
    for y in 0..call.rows.len() {
        let bottom = top + isize::from(shape.kernel as i8);
        for input in top.max(filled)..bottom {
            ring.fill_row(slots, &rows, input);
        }
        filled = bottom;
        ring.cut(slots, top);
        let base = slots.as_ptr();
        for (i, to) in row.rows.iter_mut().enumerate().take(ring.rows) {
            let slot = if ring.rows == 1 { 0 } else { ring.slot(top + i as isize) };
            // SAFETY: there are as many slots as rows.
            *to = unsafe { base.add(slot * ring.pitch) };
        }
        top += isize::from(i16::from(shape.stride));
        for (block, channels) in table.iter().enumerate() {
            let at = y * out_w * row.out.out_c + 8 * block;
            row.weights = call.weights.as_ptr().wrapping_add(2 * block * row.stream);
            row.out.channels = channels;
            row.out.left = row.out.out_c - 8 * block;
            row.out.hi = call.out_hi.as_mut_ptr().wrapping_add(at);
            row.out.lo = if wide { call.out_lo.as_mut_ptr().wrapping_add(at) } else { ptr::null_mut() };
            // SAFETY: the instruction set is there. Rows are slots of the ring, which goes on far enough behind the
            // last one; the planes hold row `y`; weights and parameters have been checked against the shape.
            unsafe { run_row::<U>(&row, out_w) };
        }
    }
}

/// Computes 8 channels of a row of outputs.
///
/// # Safety
/// As [`tile::run`], for all pixels of the row.
#[inline(always)]
unsafe fn run_row<U: Unit>(row: &Row, out_w: usize) {
    let (mut x, widest) = (0, if U::EIGHT { WIDEST } else { WIDEST / 2 });
    while x < out_w {
        let left = (out_w - x).min(widest);
        // SAFETY: promised by the caller.
        unsafe {
            match left {
                0..=2 => tile::run::<U, 1>(row, x, left),
                _ if left <= 4 || !U::EIGHT => tile::run::<U, 2>(row, x, left),
                _ => tile::run::<U, { WIDEST / 2 }>(row, x, left),
            }
        }
        x += left;
    }
}
