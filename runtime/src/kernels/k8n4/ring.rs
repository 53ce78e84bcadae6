//! The row ring of `k8n4`: the input rows of the current window in cells of 8 bytes, one for each step's activations.
//!
//! A row is kept group by group (8 channels each), and within a group column by column, those of one phase of the
//! stride together. So the cells that neighbouring output pixels need for a step are neighbours, and one 16-byte load
//! gives two pixels by eight channels, whatever the stride. Input row `r` lives in slot `r % kernel` until row
//! `r + kernel` replaces it.
//!
//! Images with fewer than eight channels are padded byte by byte into *stages* first; then the whole window of each
//! output pixel is cut into cells, and the ring is a single row of them.

use super::{STEP, groups, whole_window};
use crate::op::ConvShape;

/// Pixels that a kernel may compute beyond the last one of a row.
pub const SLACK: usize = 8;
/// Largest window height and width ([`crate::model`] refuses larger ones).
pub const MAX_KERNEL: usize = 15;
/// Bytes copied at a time from stages to windows, which may go beyond both.
const CHUNK: usize = 16;

/// Where things lie in the ring of a shape.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    shape: ConvShape,
    /// Groups of a row.
    pub groups: usize,
    /// Bytes of the cells of one phase of the stride.
    pub phase: usize,
    /// Bytes of a group.
    pub plane: usize,
    /// Bytes of a slot.
    pub pitch: usize,
    /// Window columns; one if the window has been cut already.
    pub columns: usize,
    /// Window rows; likewise.
    pub rows: usize,
    /// Bytes of a stage, if there are stages, which lie behind the slots.
    stage: usize,
}

/// What rows are made from.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Input plane or image.
    pub input: &'a [u8],
    /// Turns input bytes into activations.
    pub flip: u8,
    /// Activations beyond the border, by channel modulo 4.
    pub border: [u8; 4],
}

impl Ring {
    /// The ring of a shape.
    #[inline(always)]
    pub fn new(shape: &ConvShape) -> Self {
        let (kernel, stride) = (usize::from(shape.kernel), usize::from(shape.stride));
        let width = usize::from(shape.in_w) + 2 * usize::from(shape.padding);
        let whole = whole_window(shape);
        let phase = STEP * if whole { shape.out_w() } else { width.div_ceil(stride) };
        let plane = phase * if whole { 1 } else { stride.min(kernel) };
        let groups = groups(shape);
        Ring {
            shape: *shape,
            groups,
            phase,
            plane,
            pitch: groups * plane,
            columns: if whole { 1 } else { kernel },
            rows: if whole { 1 } else { kernel },
            stage: if whole { width * usize::from(shape.in_c) + CHUNK } else { 0 },
        }
    }

    /// Bytes of the ring.
    #[inline(always)]
    pub fn len(&self) -> usize {
        let window = if self.stage > 0 { self.groups * STEP + CHUNK } else { 0 };
        self.slots_len() + usize::from(self.shape.kernel) * self.stage + window
    }

    /// Whether the ring is empty, which it is for no shape that has outputs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn slots_len(&self) -> usize {
        // A tile begins at a pixel of the row and reads the columns of its window, all within the phase, and then the
        // pixels that do not exist.
        self.rows * self.pitch + SLACK * STEP
    }

    /// Number of the slot of input row `y` (from `-padding` on).
    #[inline(always)]
    pub fn slot(&self, y: isize) -> usize {
        let kernel = usize::from(self.shape.kernel);
        // Padding is smaller than the window, so the sum is positive.
        y.wrapping_add_unsigned(kernel) as usize % kernel
    }

    /// Bytes from a pixel's cell for window column 0 to that for `column`.
    #[inline(always)]
    pub fn column(&self, column: usize) -> usize {
        let stride = usize::from(self.shape.stride);
        column % stride * self.phase + column / stride * STEP
    }

    /// Makes row `y` of the input, or a row beyond its border, in its slot (or stage).
    #[inline(always)]
    pub fn fill_row(&self, ring: &mut [u8], rows: &Rows<'_>, y: isize) {
        let slot = self.slot(y);
        let inside = usize::try_from(y).ok().filter(|&y| y < usize::from(self.shape.in_h));
        let row_len = usize::from(self.shape.in_w) * usize::from(self.shape.in_c);
        let from = inside.map(|y| &rows.input[y * row_len..][..row_len]);
        if self.stage > 0 {
            let stage = &mut ring[self.slots_len() + slot * self.stage..][..self.stage];
            return self.fill_stage(stage, rows, from);
        }
        let slot = &mut ring[slot * self.pitch..][..self.pitch];
        let border = u64::from_ne_bytes([rows.border[0]; 8]);
        let Some(from) = from else { return fill_cells(slot, border) };
        for (group, plane) in slot.chunks_exact_mut(self.plane).enumerate() {
            for (phase, cells) in plane.chunks_exact_mut(self.phase).enumerate() {
                self.fill_phase(cells, from, (group, phase), (rows.flip, border));
            }
        }
    }

    /// Fills the cells of columns `phase`, `phase + stride`... of one group.
    #[inline(always)]
    fn fill_phase(&self, cells: &mut [u8], from: &[u8], (group, phase): (usize, usize), (flip, border): (u8, u64)) {
        let (padding, width) = (usize::from(self.shape.padding), usize::from(self.shape.in_w));
        let (channels, stride) = (usize::from(self.shape.in_c), usize::from(self.shape.stride));
        let valid = STEP.min(channels - group * STEP);
        // Cell i stands for input column i * stride + phase - padding.
        let first = padding.saturating_sub(phase).div_ceil(stride);
        let end = (width + padding).saturating_sub(phase).div_ceil(stride).max(first);
        let (before, rest) = cells.split_at_mut(first * STEP);
        let (inside, after) = rest.split_at_mut((end - first) * STEP);
        fill_cells(before, border);
        fill_cells(after, border);
        if inside.is_empty() {
            return;
        }
        let from = &from[(first * stride + phase - padding) * channels + group * STEP..];
        let flip = u64::from_ne_bytes([flip; 8]);
        let cells = inside.as_chunks_mut::<STEP>().0;
        match (valid, stride * channels) {
            (STEP, 16) => copy_cells::<16>(cells, from, flip),
            (STEP, 24) => copy_cells::<24>(cells, from, flip),
            (STEP, 32) => copy_cells::<32>(cells, from, flip),
            (STEP, 48) => copy_cells::<48>(cells, from, flip),
            (STEP, 64) => copy_cells::<64>(cells, from, flip),
            (_, distance) => {
                for (cell, pixel) in cells.iter_mut().zip(from.chunks(distance)) {
                    let bytes = match pixel.first_chunk() {
                        Some(bytes) if valid == STEP => u64::from_le_bytes(*bytes),
                        _ => ragged(&pixel[..valid]),
                    };
                    *cell = (bytes ^ flip).to_le_bytes();
                }
            }
        }
    }

    /// Pads an image row.
    fn fill_stage(&self, stage: &mut [u8], rows: &Rows<'_>, from: Option<&[u8]>) {
        let channels = usize::from(self.shape.in_c);
        let padding = usize::from(self.shape.padding) * channels;
        let border = |bytes: &mut [u8]| {
            for pixel in bytes.chunks_mut(channels) {
                for (c, byte) in pixel.iter_mut().enumerate() {
                    *byte = rows.border[c % 4];
                }
            }
        };
        let Some(from) = from else { return border(stage) };
        let (before, rest) = stage.split_at_mut(padding);
        let (inside, after) = rest.split_at_mut(from.len());
        border(before);
        border(after);
        for (to, from) in inside.iter_mut().zip(from) {
            *to = from ^ rows.flip;
        }
    }

    /// Cuts the windows of an output row whose first window row is input row `top`, if rows are staged.
    #[inline(always)]
    pub fn cut(&self, ring: &mut [u8], top: isize) {
        if self.stage == 0 {
            return;
        }
        let kernel = usize::from(self.shape.kernel);
        let channels = usize::from(self.shape.in_c);
        let (slots, rest) = ring.split_at_mut(self.slots_len());
        let (stages, window) = rest.split_at_mut(kernel * self.stage);
        let (len, step) = (kernel * channels, usize::from(self.shape.stride) * channels);
        let mut rows: [&[u8]; MAX_KERNEL] = [&[]; MAX_KERNEL];
        for (row, to) in rows.iter_mut().enumerate().take(kernel) {
            *to = &stages[self.slot(top + row as isize) * self.stage..][..self.stage];
        }
        for x in 0..self.shape.out_w() {
            let mut to = 0;
            for row in &rows[..kernel] {
                // Each row overwrites what the one before copied too much.
                let mut at = 0;
                while at < len {
                    copy_chunk(&mut window[to + at..], &row[x * step + at..]);
                    at += CHUNK;
                }
                to += len;
            }
            let mut at = STEP * x;
            for from in window.as_chunks::<STEP>().0.iter().take(self.groups) {
                if let Some(cell) = slots.get_mut(at..at + STEP) {
                    cell.copy_from_slice(from);
                }
                at += self.plane;
            }
        }
    }
}

/// Fills cells from the first bytes of pixels that are `D` bytes apart; the last pixel may end after its cell.
#[inline(always)]
fn copy_cells<const D: usize>(cells: &mut [[u8; STEP]], from: &[u8], flip: u64) {
    let (pixels, rest) = from.as_chunks::<D>();
    let copy = |cell: &mut [u8; STEP], pixel: &[u8]| {
        if let Some(bytes) = pixel.first_chunk() {
            *cell = (u64::from_le_bytes(*bytes) ^ flip).to_le_bytes();
        }
    };
    for (cell, pixel) in cells.iter_mut().zip(pixels) {
        copy(cell, pixel);
    }
    if let Some(cell) = cells.get_mut(pixels.len()) {
        copy(cell, rest);
    }
}

#[inline(always)]
fn copy_chunk(to: &mut [u8], from: &[u8]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<CHUNK>(), from.first_chunk::<CHUNK>()) {
        *to = *from;
    }
}

fn fill_cells(cells: &mut [u8], cell: u64) {
    for to in cells.as_chunks_mut::<STEP>().0 {
        *to = cell.to_ne_bytes();
    }
}

/// The bytes of a group that is not whole; what it would have of the next pixel becomes zero.
#[cold]
fn ragged(pixel: &[u8]) -> u64 {
    pixel.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte))
}
