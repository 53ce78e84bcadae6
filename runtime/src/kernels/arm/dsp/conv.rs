//! Convolution: three windows spread to halfwords, then all channels over them, two at a time.

use super::super::store::Out;
use super::{Factor, asm};
use crate::kernels::k4n2::{self, PIXELS, STEP};
use crate::kernels::{ConvCall, Params, params_len, scalar};
use crate::op::{Conv, Layout};

/// Bytes of a step of all pixels' windows.
const ROW: usize = 2 * STEP * PIXELS;

/// Whether every slice is as long as the shape asks; always so for a validated model.
fn is_complete(call: &ConvCall<'_>) -> bool {
    let shape = &call.conv.shape;
    let outputs = shape.output_len();
    shape.padding < shape.kernel
        && shape.in_c > 0
        && outputs > 0
        && call.input.len() >= shape.input_len()
        && call.weights.len() >= k4n2::weights_len(shape)
        && call.weights.as_ptr().addr().is_multiple_of(4)
        && call.params.len() >= params_len(shape, Layout::K4N2)
        && call.out_hi.len() >= outputs
        && (call.out_lo.is_empty() || call.out_lo.len() >= outputs)
        && call.scratch.len() >= k4n2::scratch_len(shape)
}

/// Runs a convolution.
///
/// # Safety
/// The core has the DSP extension.
pub(super) unsafe fn run(call: &mut ConvCall<'_>) {
    if call.conv.shape.groups > 1 {
        return scalar::conv::k4n2(call);
    }
    if !is_complete(call) {
        debug_assert!(false, "a slice is shorter than the shape asks, or weights are not aligned to words");
        return;
    }
    let conv = call.conv;
    let scratch = call.scratch.as_mut_ptr();
    let padded = k4n2::padded_taps(&conv.shape);
    // SAFETY: `scratch_len` has room for halfwords of three windows, bytes of one, and for the alignment.
    let windows = unsafe { scratch.add(scratch.addr().wrapping_neg() & 3) };
    let spreader = Spreader {
        conv,
        input: call.input.as_ptr(),
        flip: call.input_flip(),
        words: usize::from(conv.shape.in_c) / STEP,
        // SAFETY: as above: 6 bytes a tap, then one window.
        bytes: unsafe { windows.add(2 * PIXELS * padded) },
        padded,
    };
    let tiles = Tiles {
        weights: call.weights.as_ptr(),
        windows,
        pair_len: 2 * padded,
        out_c: usize::from(conv.shape.out_c),
        params: Params::new(call.params, k4n2::padded_channels(conv.shape.out_c)),
        out: Out {
            limits: conv.limits,
            accumulate: conv.accumulate,
            raw: conv.raw,
            hi: call.out_hi.as_mut_ptr(),
            lo: if call.out_lo.is_empty() { core::ptr::null_mut() } else { call.out_lo.as_mut_ptr() },
            channels: usize::from(conv.shape.out_c),
        },
    };
    let finish = tiles.finisher();
    let (out_h, out_w) = (conv.shape.out_h(), conv.shape.out_w());
    let (mut held, mut done) = (0, 0);
    for y in 0..out_h {
        for x in 0..out_w {
            // SAFETY: `held` is below PIXELS, so the window lies in the scratch memory.
            unsafe { spreader.spread(y, x, windows.add(held * 2 * STEP)) };
            held += 1;
            if held == PIXELS || (y + 1 == out_h && x + 1 == out_w) {
                // SAFETY: `held` windows have been spread, those of the outputs from pixel `done` on.
                unsafe { tiles.run(done, held, finish) };
                done += held;
                held = 0;
            }
        }
    }
}

/// Brings windows from the input to the scratch memory.
struct Spreader<'a> {
    conv: &'a Conv,
    input: *const u8,
    flip: u8,
    /// Words of a pixel, where pixels are whole words.
    words: usize,
    /// Room for the bytes of one window.
    bytes: *mut u8,
    padded: usize,
}

impl Spreader<'_> {
    /// Spreads the window of output (`y`, `x`) to every 24th doubleword from `to` on.
    ///
    /// # Safety
    /// The slices are complete, the output exists, and there is room for a padded window at `to`.
    #[inline(always)]
    unsafe fn spread(&self, y: usize, x: usize, to: *mut u8) {
        let whole_words = usize::from(self.conv.shape.in_c).is_multiple_of(STEP) && self.flip == 0;
        // SAFETY: as promised by the caller.
        unsafe { if whole_words { self.spread_words(y, x, to) } else { self.spread_bytes(y, x, to) } }
    }

    /// Rows and columns of a window that lie in the input: first input index, taps before it, taps inside.
    #[inline(always)]
    fn inside(&self, out: usize, size: u16) -> (usize, usize, usize) {
        let (kernel, padding) = (usize::from(self.conv.shape.kernel), usize::from(self.conv.shape.padding));
        let start = out * usize::from(self.conv.shape.stride);
        let before = padding.saturating_sub(start).min(kernel);
        let first = (start + before).saturating_sub(padding);
        (first, before, (kernel - before).min(usize::from(size).saturating_sub(first)))
    }

    /// # Safety
    /// As [`Spreader::spread`]; pixels are whole words of int8.
    unsafe fn spread_words(&self, y: usize, x: usize, mut to: *mut u8) {
        let shape = &self.conv.shape;
        let (kernel, width, words) = (usize::from(shape.kernel), usize::from(shape.in_w), self.words);
        let (row, above, rows) = self.inside(y, shape.in_h);
        let (column, left, columns) = self.inside(x, shape.in_w);
        let right = kernel - left - columns;
        let border = u32::from_le_bytes(self.conv.border);
        // SAFETY: rows and columns inside exist; all parts of a window together are `taps / 4` words, and what is missing
        // to `padded / 4` follows.
        unsafe {
            to = fill(border, above * kernel * words, to);
            let mut from = self.input.add((row * width + column) * words * STEP);
            for _ in 0..rows {
                to = fill(border, left * words, to);
                to = asm::spread(from, columns * words, to);
                to = fill(border, right * words, to);
                from = from.add(width * words * STEP);
            }
            to = fill(border, (kernel - above - rows) * kernel * words, to);
            fill(0, self.padded / STEP - kernel * kernel * words, to);
        }
    }

    /// Pixels of any size: gathers the window as bytes first.
    ///
    /// # Safety
    /// As [`Spreader::spread`].
    unsafe fn spread_bytes(&self, y: usize, x: usize, to: *mut u8) {
        let shape = &self.conv.shape;
        let (kernel, width, channels) = (usize::from(shape.kernel), usize::from(shape.in_w), usize::from(shape.in_c));
        let (row, above, rows) = self.inside(y, shape.in_h);
        let (column, left, columns) = self.inside(x, shape.in_w);
        let line = kernel * channels;
        // SAFETY: rows and columns inside exist; the parts of a window together are `taps` bytes, and `bytes` has room for
        // `padded` of them.
        unsafe {
            let mut at = self.border(above * line, self.bytes);
            let mut from = self.input.add((row * width + column) * channels);
            for _ in 0..rows {
                at = self.border(left * channels, at);
                for i in 0..columns * channels {
                    *at.add(i) = *from.add(i) ^ self.flip;
                }
                at = self.border((kernel - left - columns) * channels, at.add(columns * channels));
                from = from.add(width * channels);
            }
            at = self.border((kernel - above - rows) * line, at);
            at.write_bytes(0, self.padded - kernel * line);
            asm::spread(self.bytes, self.padded / STEP, to);
        }
    }

    /// Writes `n` bytes of border, starting with channel 0.
    ///
    /// # Safety
    /// They can be written.
    unsafe fn border(&self, n: usize, to: *mut u8) -> *mut u8 {
        let channels = usize::from(self.conv.shape.in_c);
        let mut c = 0;
        for i in 0..n {
            // SAFETY: promised by the caller.
            unsafe { *to.add(i) = self.conv.border[c & 3] };
            c = if c + 1 == channels { 0 } else { c + 1 };
        }
        // SAFETY: the end of what was written.
        unsafe { to.add(n) }
    }
}

/// Spreads `words` times the same word.
///
/// # Safety
/// As [`asm::spread`].
#[inline(always)]
unsafe fn fill(word: u32, words: usize, mut to: *mut u8) -> *mut u8 {
    let pair = [asm::sxtb16(word), asm::sxtb16_odd(word)];
    for _ in 0..words {
        // SAFETY: promised by the caller.
        unsafe {
            to.cast::<[u32; 2]>().write(pair);
            to = to.add(ROW);
        }
    }
    to
}

/// Multiplies and stores.
struct Tiles<'a> {
    weights: *const u8,
    windows: *const u8,
    /// Bytes of a pair of channels.
    pair_len: usize,
    out_c: usize,
    params: Params<'a>,
    out: Out,
}

/// Stores the sums of channel `c` and its partner for `held` pixels from `pixel` on.
type Finish = unsafe fn(&Tiles<'_>, sums: &[i32; 6], c: usize, pixel: usize, held: usize);

impl Tiles<'_> {
    /// The finish that suits the layer.
    fn finisher(&self) -> Finish {
        match (self.out.plain_bytes(&self.params) && self.out_c.is_multiple_of(2), self.out.accumulate) {
            (true, false) => finish_bytes::<false>,
            (true, true) => finish_bytes::<true>,
            (false, _) => finish_any,
        }
    }

    /// All channels of `held` pixels from `pixel` on.
    ///
    /// # Safety
    /// Their windows have been spread, and the slices are complete.
    unsafe fn run(&self, pixel: usize, held: usize, finish: Finish) {
        let mut sums = [0; 6];
        let mut weights = self.weights;
        // SAFETY: 6 bytes a tap have been reserved.
        let end = unsafe { self.windows.add(PIXELS * self.pair_len) };
        for c in (0..self.out_c).step_by(2) {
            sums[0] = self.params.bias(c);
            sums[1] = self.params.bias(c + 1);
            // SAFETY: windows and weights are padded to whole double steps, and there is at least one; all are aligned.
            unsafe {
                asm::tile_3x2(&mut sums, weights, self.windows, end);
                weights = weights.add(self.pair_len);
                finish(self, &sums, c, pixel, held);
            }
        }
    }
}

/// Bytes with no limits but their own, an even number of channels, right shifts of at least 33.
///
/// # Safety
/// That is so, the slices are complete, and the outputs exist.
unsafe fn finish_bytes<const ADD: bool>(t: &Tiles<'_>, sums: &[i32; 6], c: usize, pixel: usize, held: usize) {
    let (m, r) = (t.params.multiplier.as_ptr(), t.params.right_shift.as_ptr());
    // SAFETY: parameters of `c` and its partner exist; so do the outputs.
    unsafe {
        let factor = |c: usize| Factor::new(m.add(4 * c).cast::<i32>().read_unaligned(), *r.add(c));
        let (first, second) = (factor(c), factor(c + 1));
        let zero = i32::from(t.out.limits.zero);
        let mut at = t.out.hi.add(pixel * t.out_c + c);
        for pair in sums.as_chunks::<2>().0.iter().take(held) {
            let (mut a, mut b) = (first.apply(pair[0]), second.apply(pair[1]));
            if ADD {
                a += i32::from(*at.cast::<i8>());
                b += i32::from(*at.add(1).cast::<i8>());
            } else {
                a += zero;
                b += zero;
            }
            *at = asm::ssat8(a) as u8;
            *at.add(1) = asm::ssat8(b) as u8;
            at = at.add(t.out_c);
        }
    }
}

/// Every kind of output, as the law is written.
///
/// # Safety
/// The slices are complete, and the outputs exist.
unsafe fn finish_any(t: &Tiles<'_>, sums: &[i32; 6], c: usize, pixel: usize, held: usize) {
    for (i, &acc) in sums.iter().enumerate().take(2 * held) {
        if c + i % 2 < t.out_c {
            // SAFETY: the output exists.
            unsafe { t.out.store(&t.params, acc, pixel + i / 2, c + i % 2) };
        }
    }
}
