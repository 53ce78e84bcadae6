//! Portable convolutions over both weight layouts.

use crate::arith::{add_narrow, add_raw, add_wide, join, requantize, split};
use crate::kernels::{ConvCall, Params, k8n16};
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
    let sum = match (call.conv.raw, wide) {
        (true, _) if accumulate => add_raw(limits.zero, base, value),
        (true, _) => value,
        (false, true) => add_wide(base, value),
        (false, false) => add_narrow(base, value),
    };
    let out = sum.max(limits.min).min(limits.max);
    if wide {
        (call.out_hi[at], call.out_lo[at]) = split(out);
    } else {
        call.out_hi[at] = out as u8;
    }
    call.out_hi[at] ^= flip;
}

/// [`crate::op::Layout::Ohwi`].
pub fn ohwi(call: &mut ConvCall<'_>) {
    let shape = call.conv.shape;
    let (kernel, out_c) = (usize::from(shape.kernel), usize::from(shape.out_c));
    let (channels, group_out) = (shape.group_in(), shape.group_out());
    let window = window(call);
    let weights = call.weights;
    for pixel in 0..shape.out_h() * shape.out_w() {
        let place = (pixel / shape.out_w(), pixel % shape.out_w());
        for c in 0..out_c {
            let params = Params::new(call.params, out_c);
            let (multiplier, right_shift) = (params.multiplier(c), params.right_shift[c]);
            let mut acc = params.bias(c);
            let mut taps = weights[c * shape.taps()..].iter();
            let first = c / group_out * channels;
            for tap in 0..kernel * kernel {
                for (i, &w) in taps.by_ref().take(channels).enumerate() {
                    let x = window.at(place, (tap / kernel, tap % kernel), first + i);
                    acc = acc.wrapping_add(i32::from(x) * i32::from(w as i8));
                }
            }
            store(call, pixel * out_c + c, acc, multiplier, right_shift);
        }
    }
}

/// [`crate::op::Layout::K8N16`].
pub fn k8n16(call: &mut ConvCall<'_>) {
    let shape = call.conv.shape;
    let parts = k8n16::Parts::of(&shape);
    let blocks = k8n16::Blocks::of(parts.shape.out_c);
    for pixel in 0..shape.out_h() * shape.out_w() {
        for number in 0..parts.count {
            let part = Part { shape: parts.shape, number, blocks };
            for block in 0..blocks.full {
                let acc = block_sums(call, &part, pixel, block);
                store_block(call, &part, (pixel, 16 * block), &acc);
            }
            if blocks.tail {
                let acc = tail_sums(call, &part, pixel);
                store_block(call, &part, (pixel, 16 * blocks.full), &acc);
            }
        }
    }
}

/// One of the convolutions without groups that a layer consists of.
struct Part {
    shape: ConvShape,
    number: usize,
    blocks: k8n16::Blocks,
}

impl Part {
    /// Where the parameters of its channel `c` are.
    fn param(&self, c: usize) -> usize {
        self.number * self.blocks.channels() + c
    }

    /// Its weights.
    fn weights<'a>(&self, all: &'a [u8]) -> &'a [u8] {
        &all[self.number * k8n16::part_weights_len(&self.shape)..]
    }
}

/// Calls `f` with each step's eight unsigned activations of output pixel `pixel`.
fn for_steps(call: &ConvCall<'_>, part: &Part, pixel: usize, mut f: impl FnMut(usize, [i32; 8])) {
    let shape = part.shape;
    let window = window(call);
    let place = (pixel / shape.out_w(), pixel % shape.out_w());
    let first = part.number * usize::from(shape.in_c);
    let row_steps = k8n16::row_steps(&shape);
    for row in 0..usize::from(shape.kernel) {
        for s in 0..row_steps {
            let x = core::array::from_fn(|k| {
                let value = |(column, c)| i32::from(window.at(place, (row, column), first + c)) + 128;
                k8n16::tap(&shape, s, k).map_or(0, value)
            });
            f(row * row_steps + s, x);
        }
    }
}

fn block_sums(call: &ConvCall<'_>, part: &Part, pixel: usize, block: usize) -> [i32; 16] {
    let params = call.channel_params();
    let mut acc: [i32; 16] = core::array::from_fn(|n| params.bias(part.param(16 * block + n)));
    let first = block * k8n16::steps(&part.shape);
    for_steps(call, part, pixel, |s, x| {
        let w = &part.weights(call.weights)[(first + s) * k8n16::BLOCK_STEP..][..k8n16::BLOCK_STEP];
        for (n, acc) in acc.iter_mut().enumerate() {
            for (k, &x) in x.iter().enumerate() {
                *acc = acc.wrapping_add(x * i32::from(w[k / 4 * 64 + n * 4 + k % 4] as i8));
            }
        }
    });
    acc
}

fn tail_sums(call: &ConvCall<'_>, part: &Part, pixel: usize) -> [i32; 8] {
    let (params, full) = (call.channel_params(), part.blocks.full);
    let mut acc: [i32; 8] = core::array::from_fn(|n| params.bias(part.param(16 * full + n)));
    let first = full * k8n16::steps(&part.shape) * k8n16::BLOCK_STEP;
    for_steps(call, part, pixel, |s, x| {
        let w = &part.weights(call.weights)[first + s * k8n16::TAIL_STEP..][..k8n16::TAIL_STEP];
        for (n, acc) in acc.iter_mut().enumerate() {
            for (k, &x) in x.iter().enumerate() {
                *acc = acc.wrapping_add(x * i32::from(w[n * 8 + k] as i8));
            }
        }
    });
    acc
}

/// Stores the real channels of a block that starts at channel `first` of the part.
fn store_block(call: &mut ConvCall<'_>, part: &Part, (pixel, first): (usize, usize), acc: &[i32]) {
    let (out_c, part_out) = (usize::from(call.conv.shape.out_c), usize::from(part.shape.out_c));
    for (n, &acc) in acc.iter().enumerate().take(part_out - first) {
        let (params, at) = (call.channel_params(), part.param(first + n));
        let (multiplier, right_shift) = (params.multiplier(at), params.right_shift[at]);
        store(call, pixel * out_c + part.number * part_out + first + n, acc, multiplier, right_shift);
    }
}
