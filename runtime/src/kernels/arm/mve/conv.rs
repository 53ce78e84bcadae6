//! Convolution: three windows gathered as bytes, then all channels over them, four at a time.

use super::super::store::Out;
use super::asm;
use crate::kernels::{ConvCall, Params, ohwi_scratch_len, params_len, scalar};
use crate::op::{Conv, Layout};

const PIXELS: usize = 3;

/// Whether every slice is as long as the shape asks; always so for a validated model.
fn is_complete(call: &ConvCall<'_>) -> bool {
    let shape = &call.conv.shape;
    let outputs = shape.output_len();
    shape.padding < shape.kernel
        && shape.in_c > 0
        && outputs > 0
        && call.input.len() >= shape.input_len()
        && call.weights.len() >= usize::from(shape.out_c) * shape.taps()
        && call.params.len() >= params_len(shape, Layout::Ohwi)
        && call.out_hi.len() >= outputs
        && (call.out_lo.is_empty() || call.out_lo.len() >= outputs)
        && call.scratch.len() >= ohwi_scratch_len(shape)
}

/// Runs a convolution.
///
/// # Safety
/// The core has MVE with integers.
pub(super) unsafe fn run(call: &mut ConvCall<'_>) {
    if call.conv.shape.groups > 1 {
        return scalar::conv::ohwi(call);
    }
    if !is_complete(call) {
        debug_assert!(false, "a slice is shorter than the shape asks");
        return;
    }
    let conv = call.conv;
    let windows = call.scratch.as_mut_ptr();
    let gather = Gather { conv, input: call.input.as_ptr(), flip: call.input_flip() };
    let channels = usize::from(conv.shape.out_c);
    let params = Params::new(call.params, channels);
    let out = Out {
        limits: conv.limits,
        accumulate: conv.accumulate,
        raw: conv.raw,
        hi: call.out_hi.as_mut_ptr(),
        lo: if call.out_lo.is_empty() { core::ptr::null_mut() } else { call.out_lo.as_mut_ptr() },
        channels,
    };
    let aligned = call.params.as_ptr().addr().is_multiple_of(4);
    let fast = aligned && channels.is_multiple_of(4) && out.plain_bytes(&params);
    let tiles = Tiles { weights: call.weights.as_ptr(), windows, taps: conv.shape.taps(), params, out, fast };
    let (out_h, out_w) = (conv.shape.out_h(), conv.shape.out_w());
    let (mut held, mut done) = (0, 0);
    for y in 0..out_h {
        for x in 0..out_w {
            // SAFETY: `held` is below PIXELS, so the window lies in the scratch memory.
            unsafe { gather.window(y, x, windows.add(held * tiles.taps)) };
            held += 1;
            if held == PIXELS || (y + 1 == out_h && x + 1 == out_w) {
                // SAFETY: `held` windows have been gathered, those of the outputs from pixel `done` on.
                unsafe { tiles.run(done, held) };
                done += held;
                held = 0;
            }
        }
    }
}

/// Brings windows from the input to the scratch memory.
struct Gather<'a> {
    conv: &'a Conv,
    input: *const u8,
    flip: u8,
}

impl Gather<'_> {
    /// First input index of a window, taps before it and taps inside.
    #[inline(always)]
    fn inside(&self, out: usize, size: u16) -> (usize, usize, usize) {
        let (kernel, padding) = (usize::from(self.conv.shape.kernel), usize::from(self.conv.shape.padding));
        let start = out * usize::from(self.conv.shape.stride);
        let before = padding.saturating_sub(start).min(kernel);
        let first = (start + before).saturating_sub(padding);
        (first, before, (kernel - before).min(usize::from(size).saturating_sub(first)))
    }

    /// # Safety
    /// The slices are complete, the output exists, and there is room for a window at `to`.
    unsafe fn window(&self, y: usize, x: usize, to: *mut u8) {
        let shape = &self.conv.shape;
        let (kernel, width, channels) = (usize::from(shape.kernel), usize::from(shape.in_w), usize::from(shape.in_c));
        let (row, above, rows) = self.inside(y, shape.in_h);
        let (column, left, columns) = self.inside(x, shape.in_w);
        let line = kernel * channels;
        // SAFETY: rows and columns inside exist, and so do their places in a window of `kernel` lines.
        unsafe {
            if rows < kernel || columns < kernel {
                self.border(kernel * line, to);
            }
            if rows > 0 && columns > 0 {
                let inside = asm::Rows {
                    from: self.input.add((row * width + column) * channels),
                    from_step: width * channels,
                    to_step: line,
                    len: columns * channels,
                    count: rows,
                    flip: u32::from(self.flip),
                };
                asm::gather(to.add(above * line + left * channels), &inside);
            }
        }
    }

    /// Writes `n` bytes of border, starting with channel 0.
    ///
    /// # Safety
    /// They can be written.
    unsafe fn border(&self, n: usize, to: *mut u8) {
        let channels = usize::from(self.conv.shape.in_c);
        if channels > 4 {
            // SAFETY: promised by the caller.
            unsafe { to.write_bytes(self.conv.border[0], n) };
        } else {
            let mut c = 0;
            for i in 0..n {
                // SAFETY: promised by the caller.
                unsafe { *to.add(i) = self.conv.border[c & 3] };
                c = if c + 1 == channels { 0 } else { c + 1 };
            }
        }
    }
}

/// Multiplies and stores.
struct Tiles<'a> {
    weights: *const u8,
    windows: *const u8,
    taps: usize,
    params: Params<'a>,
    out: Out,
    fast: bool,
}

impl Tiles<'_> {
    /// All channels of `held` pixels from `pixel` on.
    ///
    /// # Safety
    /// Their windows have been gathered, and the slices are complete.
    unsafe fn run(&self, pixel: usize, held: usize) {
        let channels = self.out.channels;
        if self.fast {
            // SAFETY: as promised; whole groups of four channels.
            return unsafe { self.quads(pixel, held) };
        }
        let mut sums = [0i32; 4 * PIXELS];
        for first in (0..channels).step_by(4) {
            let here = (channels - first).min(4);
            for half in (0..here).step_by(2) {
                // An odd last channel is computed twice: with the row before it, or alone where there is no other.
                let c = (first + half).min(channels.saturating_sub(2));
                let taps = self.taps;
                if channels == 1 {
                    // SAFETY: as promised.
                    return unsafe { self.only_channel(pixel, held) };
                }
                // SAFETY: rows `c` and `c + 1` exist; `sums` holds ten words from here on.
                unsafe {
                    let at = sums.as_mut_ptr().add(half);
                    (*at, *at.add(1)) = (self.params.bias(c), self.params.bias(c + 1));
                    asm::tile_3x2(self.windows, self.weights.add(c * taps), taps, at);
                    if c != first + half {
                        (0..PIXELS).for_each(|p| *at.add(4 * p) = *at.add(4 * p + 1));
                    }
                }
            }
            // SAFETY: the sums of `here` channels from `first` on.
            unsafe { self.finish(&sums, pixel, held, first, here) };
        }
    }

    /// The sums of one channel, without vectors.
    ///
    /// # Safety
    /// As [`Tiles::run`].
    #[cold]
    unsafe fn only_channel(&self, pixel: usize, held: usize) {
        for p in 0..held {
            let mut acc = self.params.bias(0);
            for i in 0..self.taps {
                // SAFETY: taps of a gathered window and of the only row.
                let (x, w) = unsafe { (*self.windows.add(p * self.taps + i) as i8, *self.weights.add(i) as i8) };
                acc = acc.wrapping_add(i32::from(x) * i32::from(w));
            }
            // SAFETY: the output exists.
            unsafe { self.out.store(&self.params, acc, pixel + p, 0) };
        }
    }

    /// Stores `here` channels from `first` on.
    ///
    /// # Safety
    /// They exist, for `held` pixels from `pixel` on.
    unsafe fn finish(&self, sums: &[i32; 4 * PIXELS], pixel: usize, held: usize, first: usize, here: usize) {
        for (i, &acc) in sums.iter().enumerate().take(4 * held) {
            if i % 4 < here {
                // SAFETY: the output exists.
                unsafe { self.out.store(&self.params, acc, pixel + i / 4, first + i % 4) };
            }
        }
    }

    /// All channels, where they are whole groups of four and saturated bytes.
    ///
    /// # Safety
    /// As [`Tiles::run`].
    #[inline(always)]
    unsafe fn quads(&self, pixel: usize, held: usize) {
        let mut quads = asm::Quads {
            windows: self.windows,
            weights: self.weights,
            taps: self.taps,
            bias: self.params.bias.as_ptr(),
            multiplier: self.params.multiplier.as_ptr(),
            right_shift: self.params.right_shift.as_ptr(),
            out: self.out.hi.wrapping_add(pixel * self.out.channels),
            out_c: self.out.channels,
            zero: i32::from(self.out.limits.zero),
            held,
            count: self.out.channels / 4,
        };
        // SAFETY: weights, parameters and outputs of all channels exist.
        unsafe { if self.out.accumulate { asm::quads_add(&mut quads) } else { asm::quads(&mut quads) } }
    }
}
