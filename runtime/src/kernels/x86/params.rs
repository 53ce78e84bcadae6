//! Parameters of output channels as tiles load them.

use crate::kernels::k8n16::scratch;
use crate::kernels::{Params, k8n16};

/// Parameters of a block, spread over 16 lanes so that tiles only load them.
///
/// With `acc` moved left by the layer's `pre_shift` and `scaled = floor(acc * multiplier / 2^32)`, the requantized value
/// is `(scaled + rounding) >> shift`, which is the law's single rounding ([`crate::arith::requantize`]) as long as the
/// total right shift is at least 33. A narrow output is not rounded before `t = scaled >> (shift - 1)` has been packed to
/// words: `(t + 2 * base + 1) >> 1` is the law's `base + value`, and where `t` saturates, so do the narrow limits; with 128 in `base`, the sum is the unsigned byte that is stored. In a block of 8 channels each bias is followed by a zero (even and odd lanes are added
/// at the end) and the other arrays hold the eight channels twice.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Channels {
    pub(super) bias: [i32; 16],
    pub(super) multiplier: [i32; 16],
    /// `multiplier` with odd lanes moved to even ones.
    pub(super) multiplier_odd: [i32; 16],
    pub(super) pre_shift: [i32; 16],
    pub(super) rounding: [i32; 16],
    pub(super) shift: [i32; 16],
    /// `shift - 1`.
    pub(super) shift_less: [i32; 16],
    /// A bit for each even lane.
    pub(super) even: u16,
    /// For [`k8n16::Grouped`]: the four inputs of each lane's group that come first, counted from those of lane 0's group.
    pub(super) quads: [u8; 16],
}

const _: () = assert!(size_of::<Channels>() == scratch::ENTRY && align_of::<Channels>() == scratch::ENTRY_ALIGN);

impl Channels {
    /// A table of `entries` at the beginning of scratch memory of at least [`scratch::table_len`] bytes, not filled in
    /// yet, and what is left behind it.
    #[inline(always)]
    pub(super) fn split(scratch: &mut [u8], entries: usize) -> (&mut [Channels], &mut [u8]) {
        let pad = scratch.as_ptr().align_offset(align_of::<Channels>());
        let (head, rest) = scratch.split_at_mut(pad + entries * size_of::<Channels>());
        // SAFETY: every bit pattern is a valid value of `Channels`, which is nothing but arrays of integers.
        let (_, table, _) = unsafe { head.align_to_mut::<Channels>() };
        (table, rest)
    }

    #[inline(always)]
    pub(super) fn new(bias: [i32; 16], multiplier: [i32; 16], right_shift: [u8; 16], pre_shift: u8) -> Self {
        // Beyond 31 the result is 0 for every `hi`, as it is for 31.
        let mut all = Channels {
            bias,
            multiplier,
            multiplier_odd: [0; 16],
            pre_shift: [i32::from(pre_shift); 16],
            rounding: [0; 16],
            shift: [0; 16],
            shift_less: [0; 16],
            even: 0x5555,
            quads: [0; 16],
        };
        for i in 0..16 {
            let shift = (i32::from(right_shift[i]) + i32::from(pre_shift) - 32).clamp(1, 31);
            all.multiplier_odd[i] = multiplier[i | 1];
            all.rounding[i] = 1 << (shift - 1);
            all.shift[i] = shift;
            all.shift_less[i] = shift - 1;
        }
        all
    }
}

/// Spreads the parameters over lanes, see [`Channels`].
#[inline(always)]
pub(super) fn fill_channels(table: &mut [Channels], params: &Params<'_>, blocks: k8n16::Blocks, pre_shift: u8) {
    let full = 16 * blocks.full;
    let (bias, tail_bias) = params.bias.split_at(4 * full);
    let (multiplier, tail_multiplier) = params.multiplier.split_at(4 * full);
    let (shift, tail_shift) = params.right_shift.split_at(full);
    let each = bias.as_chunks::<64>().0.iter().zip(multiplier.as_chunks::<64>().0).zip(shift.as_chunks::<16>().0);
    for (entry, ((bias, multiplier), shift)) in table.iter_mut().zip(each) {
        *entry = Channels::new(words(bias), words(multiplier), *shift, pre_shift);
    }
    if let (Some(entry), Some(bias), Some(multiplier), Some(shift)) =
        (table.get_mut(blocks.full), tail_bias.first_chunk(), tail_multiplier.first_chunk(), tail_shift.first_chunk())
    {
        let (bias, multiplier) = (words::<32, 8>(bias), words::<32, 8>(multiplier));
        let shift: &[u8; 8] = shift;
        let (mut spread, mut multipliers, mut shifts) = ([0; 16], [0; 16], [0; 16]);
        for i in 0..8 {
            spread[2 * i] = bias[i];
            (multipliers[i], multipliers[i + 8]) = (multiplier[i], multiplier[i]);
            (shifts[i], shifts[i + 8]) = (shift[i], shift[i]);
        }
        *entry = Channels::new(spread, multipliers, shifts, pre_shift);
    }
}

#[inline(always)]
fn words<const BYTES: usize, const N: usize>(bytes: &[u8; BYTES]) -> [i32; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = i32::from_le_bytes(*bytes);
    }
    words
}

/// The same for the blocks of a convolution with groups.
#[inline(always)]
pub(super) fn fill_grouped(table: &mut [Channels], params: &Params<'_>, form: &k8n16::Grouped, pre_shift: u8) {
    let blocks = k8n16::Blocks { full: form.blocks, tail: false };
    fill_channels(table, params, blocks, pre_shift);
    for (block, entry) in table.iter_mut().enumerate().take(form.blocks) {
        let first = form.quad(16 * block);
        for (lane, quad) in entry.quads.iter_mut().enumerate() {
            *quad = (form.quad(16 * block + lane) - first) as u8;
        }
    }
}
