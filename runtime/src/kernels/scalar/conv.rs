//! Portable convolutions over all weight layouts.

use crate::arith::{add_narrow, add_raw, add_wide, join, requantize, split};
use crate::kernels::{ConvCall, k4n2, k8n4, k8n16};
use crate::op::ConvShape;
use core::ops::Range;

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

    /// The bytes of the input pixel at a window position from channel `first` on; `None` beyond the border.
    fn pixel(&self, (y, x): (usize, usize), (row, column): (usize, usize), first: usize) -> Option<&[u8]> {
        let s = &self.shape;
        let place = |out: usize, tap: usize, size: u16| {
            let at = (out * usize::from(s.stride) + tap).checked_sub(usize::from(s.padding));
            at.filter(|&i| i < usize::from(size))
        };
        let (i, j) = (place(y, row, s.in_h)?, place(x, column, s.in_w)?);
        let at = (i * usize::from(s.in_w) + j) * usize::from(s.in_c);
        self.input.get(at + first..at + usize::from(s.in_c))
    }
}

fn window<'a>(call: &ConvCall<'a>) -> Window<'a> {
    Window { shape: call.conv.shape, input: call.input, flip: call.input_flip(), border: call.conv.border }
}

/// The output pixels of the call's rows.
fn pixels(call: &ConvCall<'_>) -> Range<usize> {
    let width = call.conv.shape.out_w();
    call.rows.start * width..call.rows.end * width
}

/// Where channel `c` of output pixel `pixel` lies in the call's planes.
fn place(call: &ConvCall<'_>, pixel: usize, c: usize) -> usize {
    (pixel - call.rows.start * call.conv.shape.out_w()) * usize::from(call.conv.shape.out_c) + c
}

/// Requantizes one accumulator and stores it, adding the zero point or the residual: the law's last step.
fn store(call: &mut ConvCall<'_>, at: usize, acc: i32, multiplier: i32, right_shift: u8) {
    let (limits, accumulate) = (call.conv.limits, call.conv.accumulate);
    let value = requantize(acc, multiplier, right_shift);
    let flip = call.conv.layout.plane_flip();
    // Planes of a validated model are as long as the shape asks; no panic is linked for others.
    let Some(hi) = call.out_hi.get_mut(at) else { return };
    match call.out_lo.get_mut(at) {
        Some(lo) => {
            let base = if accumulate { join(*hi ^ flip, *lo) } else { limits.zero };
            let sum = match (call.conv.raw, accumulate) {
                (true, true) => add_raw(limits.zero, base, value),
                (true, false) => value,
                (false, _) => add_wide(base, value),
            };
            (*hi, *lo) = split(sum.max(limits.min).min(limits.max));
        }
        // Raw values are always wide.
        None => {
            let base = if accumulate { i16::from((*hi ^ flip) as i8) } else { limits.zero };
            *hi = add_narrow(base, value).max(limits.min).min(limits.max) as u8;
        }
    }
    *hi ^= flip;
}

/// Brings the int8 window of the output pixel at `place` to the scratch memory, in OHWI order: the channels of one group.
fn gather(call: &mut ConvCall<'_>, window: &Window<'_>, place: (usize, usize), group: usize) {
    let shape = call.conv.shape;
    let (kernel, channels) = (usize::from(shape.kernel), shape.group_in());
    let mut to = call.scratch.iter_mut();
    for row in 0..kernel {
        for column in 0..kernel {
            for (c, to) in to.by_ref().take(channels).enumerate() {
                *to = window.at(place, (row, column), group * channels + c) as u8;
            }
        }
    }
}

/// Product of bytes.
fn dot(acc: i32, x: &[u8], w: &[u8]) -> i32 {
    x.iter().zip(w).fold(acc, |acc, (&x, &w)| acc.wrapping_add(i32::from(x as i8) * i32::from(w as i8)))
}

/// Requantizes and stores the sum of channel `c` of output pixel `pixel`.
fn store_channel(call: &mut ConvCall<'_>, pixel: usize, c: usize, acc: i32) {
    let params = call.channel_params();
    let (multiplier, right_shift) = (params.multiplier(c), params.right_shift(c));
    store(call, place(call, pixel, c), acc, multiplier, right_shift);
}

/// Calls `f` with number and place of every output pixel of `rows`, and every group.
fn for_groups(shape: ConvShape, rows: Range<usize>, mut f: impl FnMut(usize, (usize, usize), usize)) {
    let columns = shape.out_w();
    for place in rows.flat_map(|y| (0..columns).map(move |x| (y, x))) {
        for group in 0..usize::from(shape.groups) {
            f(place.0 * columns + place.1, place, group);
        }
    }
}

/// [`crate::op::Layout::Ohwi`]. Firmware links this one: no path to a panic.
pub fn ohwi(call: &mut ConvCall<'_>) {
    let shape = call.conv.shape;
    let (taps, group_out) = (shape.taps(), shape.group_out());
    let window = window(call);
    for_groups(shape, call.rows.clone(), |pixel, place, group| {
        gather(call, &window, place, group);
        // No shape has windows without taps; saying so keeps the panic of `chunks_exact` out.
        let rows = call.weights.chunks_exact(taps.max(1)).enumerate().skip(group * group_out).take(group_out);
        for (c, row) in rows {
            let acc = dot(call.channel_params().bias(c), call.scratch.get(..taps).unwrap_or_default(), row);
            store_channel(call, pixel, c, acc);
        }
    });
}

/// [`crate::op::Layout::K4N2`]. Firmware links this one as well, for groups.
pub fn k4n2(call: &mut ConvCall<'_>) {
    let shape = call.conv.shape;
    let (taps, padded, group_out) = (shape.taps(), k4n2::padded_taps(&shape), shape.group_out());
    let window = window(call);
    for_groups(shape, call.rows.clone(), |pixel, place, group| {
        gather(call, &window, place, group);
        if let Some(padding) = call.scratch.get_mut(taps..padded) {
            padding.fill(0);
        }
        for c in group * group_out..(group + 1) * group_out {
            let steps = call.weights.get(k4n2::weight_at(&shape, c, 0)..).unwrap_or_default().chunks(2 * k4n2::STEP);
            let window = call.scratch.get(..padded).unwrap_or_default();
            let steps = steps.zip(window.chunks_exact(k4n2::STEP));
            let acc = steps.fold(call.channel_params().bias(c), |acc, (w, x)| dot(acc, x, w));
            store_channel(call, pixel, c, acc);
        }
    });
}

/// [`crate::op::Layout::K8N16`].
pub fn k8n16(call: &mut ConvCall<'_>) {
    let shape = call.conv.shape;
    if let Some(form) = k8n16::Grouped::of(&shape) {
        return grouped(call, &form);
    }
    if let Some(form) = k8n16::Depthwise::of(&shape) {
        return depthwise(call, &form);
    }
    let parts = k8n16::Parts::of(&shape);
    let blocks = k8n16::Blocks::of(parts.shape.out_c);
    for pixel in pixels(call) {
        for number in 0..parts.count {
            let part = Part { shape: parts.shape, number, blocks };
            let first = number * usize::from(part.shape.out_c);
            let asked = call.channels.clone();
            for block in (0..blocks.full).filter(|block| asked.contains(&(first + 16 * block))) {
                let acc = block_sums(call, &part, pixel, block);
                store_block(call, &part, (pixel, 16 * block), &acc);
            }
            if blocks.tail && asked.contains(&(first + 16 * blocks.full)) {
                let acc = tail_sums(call, &part, pixel);
                store_block(call, &part, (pixel, 16 * blocks.full), &acc);
            }
        }
    }
}

/// [`crate::op::Layout::K8N16`] in its form for groups.
fn grouped(call: &mut ConvCall<'_>, form: &k8n16::Grouped) {
    let shape = call.conv.shape;
    let (window, inputs) = (window(call), shape.group_in());
    for pixel in pixels(call) {
        let at = (pixel / shape.out_w(), pixel % shape.out_w());
        for c in 0..usize::from(shape.out_c) {
            let mut acc = call.channel_params().bias(c);
            for tap in 0..shape.taps() {
                let (place, i) = (tap / inputs, tap % inputs);
                let place = (place / usize::from(shape.kernel), place % usize::from(shape.kernel));
                let x = i32::from(window.at(at, place, 4 * form.quad(c) + i)) + 128;
                acc = acc.wrapping_add(x * i32::from(call.weights[form.weight_at(c, place, i)] as i8));
            }
            store_channel(call, pixel, c, acc);
        }
    }
}

/// [`crate::op::Layout::K8N16`] in its form for depthwise windows.
fn depthwise(call: &mut ConvCall<'_>, form: &k8n16::Depthwise) {
    let (shape, kernel) = (call.conv.shape, k8n16::Depthwise::KERNEL);
    let window = window(call);
    for pixel in pixels(call) {
        let at = (pixel / shape.out_w(), pixel % shape.out_w());
        for c in 0..usize::from(shape.out_c) {
            let mut acc = call.channel_params().bias(c);
            for place in (0..kernel).flat_map(|row| (0..kernel).map(move |column| (row, column))) {
                let x = i32::from(window.at(at, place, c)) + 128;
                acc = acc.wrapping_add(x * i32::from(call.weights[form.weight_at(c, place)] as i8));
            }
            store_channel(call, pixel, c, acc);
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
    let part_out = usize::from(part.shape.out_c);
    for (n, &acc) in acc.iter().enumerate().take(part_out - first) {
        let (params, at) = (call.channel_params(), part.param(first + n));
        let (multiplier, right_shift) = (params.multiplier(at), params.right_shift[at]);
        store(call, place(call, pixel, part.number * part_out + first + n), acc, multiplier, right_shift);
    }
}

/// [`crate::op::Layout::K8N4`].
pub fn k8n4(call: &mut ConvCall<'_>) {
    let shape = call.conv.shape;
    let window = window(call);
    for pixel in pixels(call) {
        for c in 0..usize::from(shape.out_c) {
            let acc = channel_sum(call, &window, pixel, c);
            store_channel(call, pixel, c, acc);
        }
    }
}

/// The sum of channel `c` in [`crate::op::Layout::K8N4`].
fn channel_sum(call: &ConvCall<'_>, window: &Window<'_>, pixel: usize, c: usize) -> i32 {
    let shape = call.conv.shape;
    let place = (pixel / shape.out_w(), pixel % shape.out_w());
    let (kernel, inputs) = (usize::from(shape.kernel), shape.group_in());
    let first = c / shape.group_out() * inputs;
    // Of this channel.
    let weights = &call.weights[k8n4::weight_at(&shape, c, 0, 0)..];
    let mut acc = call.channel_params().bias(c);
    for (row, column) in (0..kernel).flat_map(|row| (0..kernel).map(move |column| (row, column))) {
        let pixel = window.pixel(place, (row, column), first);
        for i in 0..inputs {
            let (s, k) = k8n4::step_of(&shape, (row, column), i);
            let x = pixel.map_or(window.border[(first + i) % 4], |pixel| pixel[i] ^ window.flip) as i8;
            let w = weights[k8n4::weight_place(s, k)] as i8;
            acc = acc.wrapping_add(i32::from(x) * i32::from(w));
        }
    }
    acc
}
