//! Portable convolutions over all weight layouts.

use crate::arith::{add_narrow, add_wide, join, requantize, split};
use crate::kernels::{ConvCall, k4n2, k8n4, k8n16};
use crate::op::ConvShape;

/// One input pixel's channels of a window, or the border.
struct Window<'a> {
    shape: ConvShape,
    input: &'a [u8],
    flip: u8,
    border: [u8; 4],
}

impl Window<'_> {
    /// The int8 input at window position (`row`, `column`) of output pixel (`y`, `x`), channel `c`.
    fn at(&self, (y, x): (usize, usize), (row, column): (usize, usize), c: usize) -> i8 {
        let s = &self.shape;
        let padding = usize::from(s.padding);
        let place = |out: usize, tap: usize, size: u16| {
            (out * usize::from(s.stride) + tap).checked_sub(padding).filter(|&i| i < usize::from(size))
        };
        match (place(y, row, s.in_h), place(x, column, s.in_w)) {
            (Some(i), Some(j)) => {
                let at = (i * usize::from(s.in_w) + j) * usize::from(s.in_c) + c;
                self.input.get(at).map_or(0, |&b| (b ^ self.flip) as i8)
            }
            _ => self.border[c % 4] as i8,
        }
    }
}

fn window<'a>(call: &ConvCall<'a>) -> Window<'a> {
    Window { shape: call.conv.shape, input: call.input, flip: call.input_flip(), border: call.conv.border }
}

/// Requantizes one accumulator and stores it, adding the zero point or the residual: the law's last step.
fn store(call: &mut ConvCall<'_>, at: usize, acc: i32, multiplier: i32, right_shift: u8) {
    let (limits, accumulate) = (call.conv.limits, call.conv.accumulate);
    let value = requantize(acc, multiplier, right_shift);
    let wide = !call.out_lo.is_empty();
    let flip = call.conv.layout.plane_flip();
    let base = match (accumulate, wide) {
        (false, _) => limits.zero,
        (true, true) => join(call.out_hi[at] ^ flip, call.out_lo[at]),
        (true, false) => i16::from((call.out_hi[at] ^ flip) as i8),
    };
    let sum = if wide { add_wide(base, value) } else { add_narrow(base, value) };
    let out = sum.max(limits.min).min(limits.max);
    if wide {
        (call.out_hi[at], call.out_lo[at]) = split(out);
    } else {
        call.out_hi[at] = out as u8;
    }
    call.out_hi[at] ^= flip;
}

/// Brings the int8 window of output pixel `pixel` to the scratch memory, in OHWI order.
fn gather(call: &mut ConvCall<'_>, window: &Window<'_>, pixel: usize) {
    let shape = call.conv.shape;
    let (kernel, channels) = (usize::from(shape.kernel), usize::from(shape.in_c));
    let place = (pixel / shape.out_w(), pixel % shape.out_w());
    let mut to = call.scratch.iter_mut();
    for tap in 0..kernel * kernel {
        for (c, to) in to.by_ref().take(channels).enumerate() {
            *to = window.at(place, (tap / kernel, tap % kernel), c) as u8;
        }
    }
}

/// Product of bytes.
fn dot(acc: i32, x: &[u8], w: &[u8]) -> i32 {
    x.iter().zip(w).fold(acc, |acc, (&x, &w)| acc.wrapping_add(i32::from(x as i8) * i32::from(w as i8)))
}

/// [`crate::op::Layout::Ohwi`].
pub fn ohwi(call: &mut ConvCall<'_>) {
    let shape = call.conv.shape;
    let (taps, out_c) = (shape.taps(), usize::from(shape.out_c));
    let window = window(call);
    for pixel in 0..shape.out_h() * shape.out_w() {
        gather(call, &window, pixel);
        for (c, row) in call.weights.chunks_exact(taps).take(out_c).enumerate() {
            let params = call.channel_params();
            let acc = dot(params.bias(c), &call.scratch[..taps], row);
            let (multiplier, right_shift) = (params.multiplier(c), params.right_shift[c]);
            store(call, pixel * out_c + c, acc, multiplier, right_shift);
        }
    }
}

/// [`crate::op::Layout::K4N2`].
pub fn k4n2(call: &mut ConvCall<'_>) {
    let shape = call.conv.shape;
    let (taps, padded, out_c) = (shape.taps(), k4n2::padded_taps(&shape), usize::from(shape.out_c));
    let window = window(call);
    for pixel in 0..shape.out_h() * shape.out_w() {
        gather(call, &window, pixel);
        call.scratch[taps..padded].fill(0);
        for (pair, steps) in call.weights.chunks_exact(2 * padded).enumerate() {
            let params = call.channel_params();
            let mut acc = [params.bias(2 * pair), params.bias(2 * pair + 1)];
            let steps = steps.as_chunks::<{ 2 * k4n2::STEP }>().0;
            for (w, x) in steps.iter().zip(call.scratch.as_chunks::<{ k4n2::STEP }>().0) {
                let (first, second) = w.split_at(k4n2::STEP);
                acc = [dot(acc[0], x, first), dot(acc[1], x, second)];
            }
            for (c, acc) in (2 * pair..out_c).zip(acc) {
                let params = call.channel_params();
                let (multiplier, right_shift) = (params.multiplier(c), params.right_shift[c]);
                store(call, pixel * out_c + c, acc, multiplier, right_shift);
            }
        }
    }
}

/// [`crate::op::Layout::K8N16`].
pub fn k8n16(call: &mut ConvCall<'_>) {
    let shape = call.conv.shape;
    let blocks = k8n16::Blocks::of(shape.out_c);
    for pixel in 0..shape.out_h() * shape.out_w() {
        for block in 0..blocks.full {
            let acc = block_sums(call, pixel, block);
            store_block(call, pixel, 16 * block, &acc);
        }
        if blocks.tail {
            let acc = tail_sums(call, pixel, blocks.full);
            store_block(call, pixel, 16 * blocks.full, &acc);
        }
    }
}

/// Calls `f` with each step's eight unsigned activations of output pixel `pixel`.
fn for_steps(call: &ConvCall<'_>, pixel: usize, mut f: impl FnMut(usize, [i32; 8])) {
    let shape = call.conv.shape;
    let window = window(call);
    let place = (pixel / shape.out_w(), pixel % shape.out_w());
    let row_steps = k8n16::row_steps(&shape);
    for row in 0..usize::from(shape.kernel) {
        for s in 0..row_steps {
            let x = core::array::from_fn(|k| {
                k8n16::tap(&shape, s, k).map_or(0, |(column, c)| i32::from(window.at(place, (row, column), c)) + 128)
            });
            f(row * row_steps + s, x);
        }
    }
}

fn block_sums(call: &ConvCall<'_>, pixel: usize, block: usize) -> [i32; 16] {
    let params = call.channel_params();
    let mut acc: [i32; 16] = core::array::from_fn(|n| params.bias(16 * block + n));
    let first = block * k8n16::steps(&call.conv.shape);
    for_steps(call, pixel, |s, x| {
        let w = &call.weights[(first + s) * k8n16::BLOCK_STEP..][..k8n16::BLOCK_STEP];
        for (n, acc) in acc.iter_mut().enumerate() {
            for (k, &x) in x.iter().enumerate() {
                *acc = acc.wrapping_add(x * i32::from(w[k / 4 * 64 + n * 4 + k % 4] as i8));
            }
        }
    });
    acc
}

fn tail_sums(call: &ConvCall<'_>, pixel: usize, full: usize) -> [i32; 8] {
    let params = call.channel_params();
    let mut acc: [i32; 8] = core::array::from_fn(|n| params.bias(16 * full + n));
    let first = full * k8n16::steps(&call.conv.shape) * k8n16::BLOCK_STEP;
    for_steps(call, pixel, |s, x| {
        let w = &call.weights[first + s * k8n16::TAIL_STEP..][..k8n16::TAIL_STEP];
        for (n, acc) in acc.iter_mut().enumerate() {
            for (k, &x) in x.iter().enumerate() {
                *acc = acc.wrapping_add(x * i32::from(w[n * 8 + k] as i8));
            }
        }
    });
    acc
}

/// [`crate::op::Layout::K8N4`].
pub fn k8n4(call: &mut ConvCall<'_>) {
    let shape = call.conv.shape;
    for pixel in 0..shape.out_h() * shape.out_w() {
        for first in (0..usize::from(shape.out_c)).step_by(k8n4::GROUP) {
            let acc = group_sums(call, pixel, first);
            store_block(call, pixel, first, &acc);
        }
    }
}

/// Sums of a group of channels that starts at channel `first`.
fn group_sums(call: &ConvCall<'_>, pixel: usize, first: usize) -> [i32; k8n4::GROUP] {
    let (shape, params, window) = (call.conv.shape, call.channel_params(), window(call));
    let place = (pixel / shape.out_w(), pixel % shape.out_w());
    let mut acc: [i32; k8n4::GROUP] = core::array::from_fn(|n| params.bias(first + n));
    for s in 0..k8n4::steps(&shape) {
        let w = &call.weights[k8n4::weight_at(&shape, first, s, 0)..][..k8n4::GROUP_STEP];
        for k in 0..k8n4::STEP {
            let Some((row, column, c)) = k8n4::tap(&shape, s, k) else { continue };
            let x = i32::from(window.at(place, (row, column), c));
            for (n, acc) in acc.iter_mut().enumerate() {
                *acc = acc.wrapping_add(x * i32::from(w[k / 4 * 16 + n * 4 + k % 4] as i8));
            }
        }
    }
    acc
}

/// Stores the real channels of a block that starts at channel `first`.
fn store_block(call: &mut ConvCall<'_>, pixel: usize, first: usize, acc: &[i32]) {
    let out_c = usize::from(call.conv.shape.out_c);
    for (n, &acc) in acc.iter().enumerate().take(out_c - first) {
        let params = call.channel_params();
        let (multiplier, right_shift) = (params.multiplier(first + n), params.right_shift[first + n]);
        store(call, pixel * out_c + first + n, acc, multiplier, right_shift);
    }
}
