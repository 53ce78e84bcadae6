//! What the generic convolution asks of a vector unit.

use super::params::Channels;
use super::tile::Kind;

/// A vector unit. One value of [`Simd::Lanes`] has one 128-bit lane for each of [`Simd::PIXELS`] pixels; accumulators
/// always come in sixteens.
///
/// # Safety
/// Every function needs the unit's instruction set; the ones that take pointers name the bytes they touch. Nothing
/// needs to be aligned.
pub(super) trait Simd: 'static {
    /// 16 i32 accumulators.
    type Acc: Copy;
    /// 64 bytes of packed weights, ready to be multiplied.
    type Weights: Copy;
    /// Activations of one pixel in all lanes.
    type Inputs: Copy;
    /// Where accumulators find their inputs in a pixel.
    type Quads: Copy;
    /// Four activations for each accumulator.
    type Picked: Copy;
    /// `PIXELS` 128-bit lanes of bytes or 16-bit words.
    type Lanes: Copy;
    /// Pixels whose outputs are stored together: 4 or 2.
    const PIXELS: usize;
    /// Bytes in the ring for a step of eight activations: 8, or 16 where they are widened to words.
    const UNIT: usize;
    /// Tiles that are compiled for this unit: the first kind that fits is the best.
    const KINDS: &'static [Kind];
    /// Tiles of a block of 16 channels of 3x3 convolutions with groups, for strides of 1 and 2.
    const GROUPED: [&'static Kind; 2];
    /// Tiles of a block of 16 channels of depthwise 3x3 convolutions, for strides of 1 and 2.
    const DEPTHWISE: [&'static Kind; 2];

    /// Reads 16 i32 values.
    unsafe fn acc(from: *const i32) -> Self::Acc;
    /// Reads 64 bytes of weights.
    unsafe fn weights(from: *const u8) -> Self::Weights;
    /// Inputs 0..4 of the unit at `from` in every 32-bit lane.
    unsafe fn low(from: *const u8) -> Self::Inputs;
    /// Inputs 4..8 of the unit at `from` in every 32-bit lane.
    unsafe fn high(from: *const u8) -> Self::Inputs;
    /// Inputs 0..8 of the unit at `from` in every 64-bit lane.
    unsafe fn whole(from: *const u8) -> Self::Inputs;
    /// Adds four products to each accumulator, exactly.
    unsafe fn dot(acc: Self::Acc, inputs: Self::Inputs, weights: Self::Weights) -> Self::Acc;

    /// Reads [`Channels::quads`].
    unsafe fn lanes(channels: &Channels) -> Self::Quads;
    /// Four inputs for each accumulator: those that `lanes` says, in fours from `from` on. Reads [`GROUPED_REACH`](crate::kernels::k8n16::scratch::GROUPED_REACH) bytes.
    unsafe fn pick(from: *const u8, lanes: Self::Quads) -> Self::Picked;
    /// The next 16 bytes of each of three rows as the first three inputs of each accumulator, the fourth of which is zero.
    unsafe fn stack(rows: [*const u8; 3]) -> Self::Picked;
    /// Adds the products of each accumulator's own four inputs, exactly.
    unsafe fn dot_picked(acc: Self::Acc, inputs: Self::Picked, weights: Self::Weights) -> Self::Acc;

    /// Adds `bias`.
    unsafe fn offset(acc: Self::Acc, channels: &Channels) -> Self::Acc;
    /// What [`Simd::block_words`] undoes.
    unsafe fn widen(words: [Self::Lanes; 2]) -> [Self::Acc; 4];
    /// Moves accumulators left by `pre_shift`.
    unsafe fn pre_shift(acc: Self::Acc, channels: &Channels) -> Self::Acc;
    /// `floor(acc * multiplier / 2^32)`.
    unsafe fn scale(acc: Self::Acc, channels: &Channels) -> Self::Acc;
    /// `(scaled + rounding) >> shift`.
    unsafe fn round(scaled: Self::Acc, channels: &Channels) -> Self::Acc;
    /// `scaled >> (shift - 1)`: twice the result, not rounded yet.
    unsafe fn twice(scaled: Self::Acc, channels: &Channels) -> Self::Acc;
    /// Saturates the first `PIXELS` values of `pixels` (16 channels each) to words: channels 0..8 and 8..16.
    unsafe fn block_words(pixels: [Self::Acc; 4]) -> [Self::Lanes; 2];
    /// Adds even and odd lanes of two pixels: 8 channels of `a`, then 8 channels of `b`.
    unsafe fn fold(a: Self::Acc, b: Self::Acc) -> Self::Acc;
    /// Saturates the first `PIXELS / 2` results of [`Simd::fold`] to words.
    unsafe fn tail_words(pairs: [Self::Acc; 2]) -> Self::Lanes;

    /// One word in all lanes.
    unsafe fn splat(word: i16) -> Self::Lanes;
    /// Sum of words, saturated.
    unsafe fn add(a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Words limited to `min..=max`.
    unsafe fn clamp(v: Self::Lanes, min: Self::Lanes, max: Self::Lanes) -> Self::Lanes;
    /// Words of at least `min`.
    unsafe fn raise(v: Self::Lanes, min: Self::Lanes) -> Self::Lanes;
    /// Words halved, half up.
    unsafe fn halve(words: Self::Lanes) -> Self::Lanes;
    /// Signed words of the low and of the high eight bytes of each lane; those of `hi` are moved by +128.
    unsafe fn join(hi: Self::Lanes, lo: Self::Lanes) -> [Self::Lanes; 2];
    /// The low and the high eight bytes of each lane as words, doubled.
    unsafe fn doubled(bytes: Self::Lanes) -> [Self::Lanes; 2];
    /// Words saturated to unsigned bytes: low and high eight bytes of each lane.
    unsafe fn bytes(words: [Self::Lanes; 2]) -> Self::Lanes;
    /// Words saturated to unsigned bytes and limited to `min..=max`: low and high eight bytes of each lane.
    unsafe fn narrow(words: [Self::Lanes; 2], min: u8, max: u8) -> Self::Lanes;
    /// High and low bytes of words: what [`Simd::join`] undoes.
    unsafe fn split(words: [Self::Lanes; 2]) -> (Self::Lanes, Self::Lanes);

    /// Reads 16 bytes for each of the first `count` lanes, `stride` bytes apart; `count` is at least 1.
    unsafe fn load(from: *const u8, stride: usize, count: usize) -> Self::Lanes;
    /// Writes 16 bytes of each of the first `count` lanes, `stride` bytes apart.
    unsafe fn store(to: *mut u8, stride: usize, count: usize, v: Self::Lanes);
    /// Reads 8 bytes into the low half of each of the first `count` lanes, `stride` bytes apart; `count` is at least 1.
    unsafe fn load_half(from: *const u8, stride: usize, count: usize) -> Self::Lanes;
    /// Writes the low 8 bytes of each of the first `count` lanes, `stride` bytes apart.
    unsafe fn store_half(to: *mut u8, stride: usize, count: usize, v: Self::Lanes);
    /// Writes all lanes, one behind the other.
    unsafe fn spill(to: &mut [i16; 32], v: Self::Lanes);
}
