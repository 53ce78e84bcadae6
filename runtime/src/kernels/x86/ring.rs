//! The row ring: the input rows of the current window, as the microkernel wants them.
//!
//! Activations become unsigned (`int8 ^ 0x80`), columns beyond the border are filled in, and the eight activations of
//! a step lie together, so that the steps of a window row follow each other from the window's first byte on. Input row
//! `r` lives in slot `r % kernel` until row `r + kernel` replaces it.
//!
//! With 8 bytes a step a row is nearly a copy: pixels of whole groups of 8 channels (padded if need be), or plain bytes
//! where images have fewer channels than that. With 16 bytes a step (units without byte products) each step holds its
//! four even inputs as words, then its four odd ones; images with few channels are cut into steps once for each output
//! pixel, because windows do not start at multiples of a step.

use super::tile::MAX_KERNEL;
use crate::kernels::k8n16::{self, STEP};
use crate::op::ConvShape;

/// Where things lie in the ring of a shape, for a unit with `unit` bytes a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    shape: ConvShape,
    unit: usize,
    /// Bytes of a pixel.
    pixel: usize,
    /// Bytes of a slot.
    pub(super) pitch: usize,
    /// Bytes from the window of an output pixel to that of the next.
    pub(super) distance: usize,
    /// Bytes of a padded row before it is cut into steps, if it has to be.
    staging: usize,
    /// Whether steps are cut from window rows of small pixels.
    window_rows: bool,
}

/// What rows are made from.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) input: &'a [u8],
    /// Turns input bytes into unsigned activations.
    pub(super) flip: u8,
    /// Unsigned activations beyond the border, by channel modulo 4.
    pub(super) border: [u8; 4],
}

impl Ring {
    pub(super) fn new(shape: &ConvShape, unit: usize) -> Self {
        let width = usize::from(shape.in_w) + 2 * usize::from(shape.padding);
        let (channels, stride) = (usize::from(shape.in_c), usize::from(shape.stride));
        let window_rows = k8n16::window_rows(shape);
        let cut = window_rows && unit != STEP;
        let pixel = if window_rows { channels } else { channels.div_ceil(STEP) * unit };
        let row = if cut { shape.out_w() * k8n16::row_steps(shape) * unit } else { width * pixel };
        Ring {
            shape: *shape,
            unit,
            pixel,
            pitch: row.next_multiple_of(64),
            distance: if cut { k8n16::row_steps(shape) * unit } else { stride * pixel },
            staging: if cut { (width * channels + STEP).next_multiple_of(64) } else { 0 },
            window_rows,
        }
    }

    /// Bytes of the ring. A tile of `pixels` may start at any output pixel and read on to its end.
    pub(super) fn len(&self, pixels: usize) -> usize {
        let beyond = (pixels - 1) * self.distance + k8n16::row_steps(&self.shape) * self.unit;
        self.staging + usize::from(self.shape.kernel) * self.pitch + beyond
    }

    /// Offset of input row `y` (from `-padding` on).
    pub(super) fn slot(&self, y: isize) -> usize {
        let kernel = usize::from(self.shape.kernel);
        // Padding is smaller than the window, so the sum is positive.
        self.staging + y.wrapping_add_unsigned(kernel) as usize % kernel * self.pitch
    }

    /// Fills in the columns beyond the border, which rows leave alone.
    pub(super) fn fill_border(&self, ring: &mut [u8], rows: &Rows<'_>) {
        let (padding, width) = (usize::from(self.shape.padding), usize::from(self.shape.in_w));
        let columns = (0..padding).chain(width + padding..width + 2 * padding);
        if self.staging > 0 {
            let pixels = ring[..self.staging].chunks_exact_mut(self.pixel);
            for pixel in pick(pixels, columns) {
                self.fill_pixel(pixel, rows.border);
            }
            return;
        }
        for slot in ring.chunks_exact_mut(self.pitch).take(usize::from(self.shape.kernel)) {
            for pixel in pick(slot.chunks_exact_mut(self.pixel), columns.clone()) {
                self.fill_pixel(pixel, rows.border);
            }
        }
    }

    /// Makes row `y` of the input, or a row beyond its border.
    pub(super) fn fill_row(&self, ring: &mut [u8], rows: &Rows<'_>, y: isize) {
        let slot = self.slot(y);
        let (staging, slots) = ring.split_at_mut(self.staging);
        let slot = &mut slots[slot - staging.len()..][..self.pitch];
        let row = if staging.is_empty() { &mut *slot } else { &mut *staging };
        let start = usize::from(self.shape.padding) * self.pixel;
        let row_inside = &mut row[start..][..usize::from(self.shape.in_w) * self.pixel];
        let len = usize::from(self.shape.in_w) * usize::from(self.shape.in_c);
        match usize::try_from(y).ok().filter(|&y| y < usize::from(self.shape.in_h)) {
            Some(y) => self.fill_inside(row_inside, &rows.input[y * len..][..len], rows.flip),
            None => {
                for pixel in row_inside.chunks_exact_mut(self.pixel) {
                    self.fill_pixel(pixel, rows.border);
                }
            }
        }
        if !staging.is_empty() {
            self.cut(staging, slot);
        }
    }

    fn fill_inside(&self, row: &mut [u8], input: &[u8], flip: u8) {
        let channels = usize::from(self.shape.in_c);
        if self.window_rows || (channels % STEP == 0 && self.unit == STEP) {
            for (to, from) in row.iter_mut().zip(input) {
                *to = from ^ flip;
            }
        } else if channels % STEP == 0 {
            for (to, from) in row.as_chunks_mut().0.iter_mut().zip(input.as_chunks().0) {
                *to = widen(u64::from_le_bytes(*from) ^ u64::from_ne_bytes([flip; 8]));
            }
        } else {
            for (pixel, from) in row.chunks_exact_mut(self.pixel).zip(input.chunks_exact(channels)) {
                for (to, from) in pixel.chunks_exact_mut(self.unit).zip(from.chunks(STEP)) {
                    let mut step = [0; STEP];
                    for (to, from) in step.iter_mut().zip(from) {
                        *to = from ^ flip;
                    }
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
    fn cut(&self, row: &[u8], slot: &mut [u8]) {
        let step = usize::from(self.shape.stride) * self.pixel;
        for (x, windows) in slot.chunks_exact_mut(self.distance).enumerate().take(self.shape.out_w()) {
            for (to, from) in windows.as_chunks_mut().0.iter_mut().zip(row[x * step..].as_chunks().0) {
                *to = widen(u64::from_le_bytes(*from));
            }
        }
    }
}

/// The pixels at `columns`, which ascend.
fn pick<'a>(
    mut pixels: core::slice::ChunksExactMut<'a, u8>,
    columns: impl Iterator<Item = usize>,
) -> impl Iterator<Item = &'a mut [u8]> {
    let mut next = 0;
    columns.map_while(move |column| {
        let pixel = pixels.nth(column - next);
        next = column + 1;
        pixel
    })
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
