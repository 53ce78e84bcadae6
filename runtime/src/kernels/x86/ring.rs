//! The row ring: the input rows of the current window, as the microkernel wants them.
//!
//! Columns beyond the border are filled in, and the eight activations of a step lie together, so that the steps of a window row follow each other from the window's first byte on. Input row
//! `r` lives in slot `r % kernel` until row `r + kernel` replaces it.
//!
//! With 8 bytes a step a row is nearly a copy: pixels of whole groups of 8 channels (padded if need be), or plain bytes
//! where images have fewer channels than that. With 16 bytes a step (units without byte products) each step holds its
//! four even inputs as words, then its four odd ones; images with few channels are cut into steps once for each output
//! pixel, because windows do not start at multiples of a step.

use super::tile::MAX_KERNEL;
use crate::kernels::k8n16::STEP;
pub(super) use crate::kernels::k8n16::ring::Ring;
use crate::op::ConvShape;

/// What rows are made from.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// Unsigned activations, or an image's bytes, from the part's first channel on.
    pub(super) input: &'a [u8],
    /// Unsigned activations beyond the border, by channel modulo 4.
    pub(super) border: [u8; 4],
}

impl Ring {
    /// Number of the slot of input row `y` (from `-padding` on).
    pub(super) fn slot(&self, y: isize) -> usize {
        let kernel = usize::from(self.shape.kernel);
        // Padding is smaller than the window, so the sum is positive.
        y.wrapping_add_unsigned(kernel) as usize % kernel
    }

    /// Number of the slot after `slot`.
    #[inline(always)]
    pub(super) fn next(&self, slot: usize) -> usize {
        if slot + 1 == usize::from(self.shape.kernel) { 0 } else { slot + 1 }
    }

    /// Offset of the row in a slot.
    #[inline(always)]
    pub(super) fn offset(&self, slot: usize) -> usize {
        self.staging + slot * self.pitch + self.lead
    }

    /// Fills in the columns beyond the border, which rows leave alone.
    #[inline(always)]
    pub(super) fn fill_border(&self, ring: &mut [u8], rows: &Rows<'_>) {
        if self.staging > 0 {
            return self.fill_columns(&mut ring[..self.staging], rows.border);
        }
        for slot in 0..usize::from(self.shape.kernel) {
            self.fill_columns(&mut ring[slot * self.pitch + self.lead..][..self.pitch - self.lead], rows.border);
        }
    }

    #[inline(always)]
    fn fill_columns(&self, row: &mut [u8], border: [u8; 4]) {
        let padding = usize::from(self.shape.padding) * self.pixel;
        let inside = usize::from(self.shape.in_w) * self.pixel;
        self.fill_pixels(&mut row[..padding], border);
        self.fill_pixels(&mut row[padding + inside..][..padding], border);
    }

    fn fill_pixels(&self, pixels: &mut [u8], border: [u8; 4]) {
        if border == [0; 4] {
            return pixels.fill(0);
        }
        let Some(first) = pixels.get_mut(..self.pixel) else { return };
        self.fill_pixel(first, border);
        // Twice as many each time: single pixels are too small to be copied one by one.
        let mut filled = self.pixel;
        while filled < pixels.len() {
            let count = filled.min(pixels.len() - filled);
            pixels.copy_within(..count, filled);
            filled += count;
        }
    }

    /// Makes row `y` of the input, or a row beyond its border, in its `slot`.
    #[inline(always)]
    pub(super) fn fill_row(&self, ring: &mut [u8], rows: &Rows<'_>, y: isize, slot: usize) {
        let (staging, slots) = ring.split_at_mut(self.staging);
        let slot = &mut slots[slot * self.pitch + self.lead..][..self.pitch - self.lead];
        let row = if staging.is_empty() { &mut *slot } else { &mut *staging };
        let start = usize::from(self.shape.padding) * self.pixel;
        let row_inside = &mut row[start..][..usize::from(self.shape.in_w) * self.pixel];
        match usize::try_from(y).ok().filter(|&y| y < usize::from(self.shape.in_h)) {
            Some(y) => {
                let after = self.input_pixel - usize::from(self.shape.in_c);
                self.fill_inside(row_inside, &rows.input[y * self.input_row..][..self.input_row - after]);
            }
            None => self.fill_pixels(row_inside, rows.border),
        }
        if !staging.is_empty() {
            self.cut(staging, slot);
        }
    }

    #[inline(always)]
    fn fill_inside(&self, row: &mut [u8], input: &[u8]) {
        let channels = usize::from(self.shape.in_c);
        let whole = channels % STEP == 0;
        if channels == self.input_pixel && (self.window_rows || whole && self.unit == STEP) {
            row.copy_from_slice(input);
        } else if whole && self.unit == STEP {
            for (pixel, from) in row.chunks_exact_mut(self.pixel).zip(input.chunks(self.input_pixel)) {
                for (to, from) in pixel.as_chunks_mut::<STEP>().0.iter_mut().zip(from.as_chunks().0) {
                    *to = *from;
                }
            }
        } else if whole && channels == self.input_pixel {
            for (to, from) in row.as_chunks_mut().0.iter_mut().zip(input.as_chunks().0) {
                *to = widen(u64::from_le_bytes(*from));
            }
        } else {
            for (pixel, from) in row.chunks_exact_mut(self.pixel).zip(input.chunks(self.input_pixel)) {
                for (to, from) in pixel.chunks_exact_mut(self.unit).zip(from[..channels].chunks(STEP)) {
                    let mut step = [0; STEP];
                    step[..from.len()].copy_from_slice(from);
                    put(to, step);
                }
            }
        }
    }

    /// Fills one pixel with the border.
    fn fill_pixel(&self, pixel: &mut [u8], [a, b, c, d]: [u8; 4]) {
        let step = [a, b, c, d, a, b, c, d];
        if self.window_rows {
            return pixel.copy_from_slice(&step[..pixel.len()]);
        }
        for to in pixel.chunks_exact_mut(self.unit) {
            put(to, step);
        }
    }

    /// Cuts a padded row of bytes into widened steps, output pixel by output pixel.
    #[inline(always)]
    fn cut(&self, row: &[u8], slot: &mut [u8]) {
        let step = usize::from(self.shape.stride) * self.pixel;
        for (x, windows) in slot.chunks_exact_mut(self.distance).enumerate().take(self.shape.out_w()) {
            for (to, from) in windows.as_chunks_mut().0.iter_mut().zip(row[x * step..].as_chunks().0) {
                *to = widen(u64::from_le_bytes(*from));
            }
        }
    }
}

fn put(to: &mut [u8], step: [u8; STEP]) {
    if to.len() == STEP {
        to.copy_from_slice(&step);
    } else {
        to.copy_from_slice(&widen(u64::from_le_bytes(step)));
    }
}

/// Eight bytes as words: the even ones, then the odd ones.
#[inline(always)]
fn widen(bytes: u64) -> [u8; 16] {
    let words = 0x00ff_00ff_00ff_00ff;
    let (even, odd) = (bytes & words, bytes >> 8 & words);
    (u128::from(odd) << 64 | u128::from(even)).to_le_bytes()
}

/// Steps of a window row for a tile at output pixels `from..from + count` whose border activations are zero: those
/// that the first pixel can leave out, those for all, those that the last pixel can leave out.
pub(super) fn border_steps(shape: &ConvShape, from: usize, count: usize) -> [usize; 3] {
    let (kernel, stride) = (usize::from(shape.kernel), usize::from(shape.stride));
    let (padding, width) = (usize::from(shape.padding), usize::from(shape.in_w));
    debug_assert!(kernel <= MAX_KERNEL);
    let groups = usize::from(shape.in_c).div_ceil(STEP);
    let first = padding.saturating_sub(from * stride).min(kernel);
    let inside = (width + padding).saturating_sub((from + count - 1) * stride).clamp(first, kernel);
    [first * groups, (inside - first) * groups, (kernel - inside) * groups]
}
