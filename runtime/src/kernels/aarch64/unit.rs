//! What a vector unit has to offer: products of 8 inputs of two pixels and 4 channels.

use core::arch::aarch64::*;
use core::arch::asm;

/// Sums of two pixels by 4 channels, in the unit's own order.
pub(super) type Sums = [int32x4_t; 2];

/// A vector unit. All functions need its instruction set; they are inlined into functions that enable it.
pub(super) trait Unit: 'static {
    /// Weights of 4 channels and 8 inputs, ready to be multiplied.
    type Weights: Copy;
    /// Activations of two pixels and 8 inputs, ready to be multiplied.
    type Inputs: Copy;

    /// Whether registers hold the sums of 8 pixels besides what is multiplied; of 4 otherwise.
    const EIGHT: bool;

    /// Loads the 32 bytes of weights at `from`.
    unsafe fn weights(from: *const u8) -> Self::Weights;
    /// Loads the 16 bytes of activations at `from`.
    unsafe fn inputs(from: *const u8) -> Self::Inputs;
    /// Sums that start with the same 4 values for both pixels.
    unsafe fn start(bias: int32x4_t) -> Sums;
    /// Adds all products.
    unsafe fn multiply(sums: Sums, inputs: Self::Inputs, weights: Self::Weights) -> Sums;
    /// Sums in order: 4 channels of the first pixel, 4 of the second.
    unsafe fn ordered(sums: Sums) -> Sums;
}

/// `sdot`: one vector is 4 channels of a pixel.
pub(super) struct Dotprod;
/// `smmla`: one vector is 2 channels of two pixels.
pub(super) struct I8mm;
/// `smlal` on 16-bit copies: one vector is 4 channels of a pixel.
pub(super) struct Neon;

/// Adds to each lane the products of its 4 weights and activations `4 * LANE..` (an unstable intrinsic).
#[inline(always)]
unsafe fn sdot<const LANE: u32>(mut acc: int32x4_t, weights: int8x16_t, inputs: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the caller has the instruction.
    unsafe {
        asm!(".arch_extension dotprod", "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            acc = inout(vreg) acc, w = in(vreg) weights, x = in(vreg) inputs, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// Adds the products of 2 × 8 activations and 8 × 2 weights (an unstable intrinsic).
#[inline(always)]
unsafe fn smmla(mut acc: int32x4_t, inputs: int8x16_t, weights: int8x16_t) -> int32x4_t {
    // SAFETY: registers only; the caller has the instruction.
    unsafe {
        asm!(".arch_extension i8mm", "smmla {acc:v}.4s, {x:v}.16b, {w:v}.16b",
            acc = inout(vreg) acc, x = in(vreg) inputs, w = in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

#[inline(always)]
unsafe fn load_pair(from: *const u8) -> [int8x16_t; 2] {
    // SAFETY: the caller has 32 bytes there.
    unsafe { [vld1q_s8(from.cast()), vld1q_s8(from.add(16).cast())] }
}

impl Unit for Dotprod {
    type Weights = [int8x16_t; 2];
    type Inputs = int8x16_t;
    const EIGHT: bool = true;

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Weights {
        // SAFETY: promised by the caller.
        unsafe { load_pair(from) }
    }

    #[inline(always)]
    unsafe fn inputs(from: *const u8) -> Self::Inputs {
        // SAFETY: promised by the caller.
        unsafe { vld1q_s8(from.cast()) }
    }

    #[inline(always)]
    unsafe fn start(bias: int32x4_t) -> Sums {
        [bias; 2]
    }

    #[inline(always)]
    unsafe fn multiply([a, b]: Sums, x: Self::Inputs, [low, high]: Self::Weights) -> Sums {
        // SAFETY: promised by the caller.
        unsafe { [sdot::<1>(sdot::<0>(a, low, x), high, x), sdot::<3>(sdot::<2>(b, low, x), high, x)] }
    }

    #[inline(always)]
    unsafe fn ordered(sums: Sums) -> Sums {
        sums
    }
}

impl Unit for I8mm {
    type Weights = [int8x16_t; 2];
    type Inputs = int8x16_t;
    const EIGHT: bool = true;

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Weights {
        // SAFETY: promised by the caller.
        unsafe {
            let [low, high] = load_pair(from);
            let (low, high) = (vreinterpretq_s32_s8(low), vreinterpretq_s32_s8(high));
            [vreinterpretq_s8_s32(vzip1q_s32(low, high)), vreinterpretq_s8_s32(vzip2q_s32(low, high))]
        }
    }

    #[inline(always)]
    unsafe fn inputs(from: *const u8) -> Self::Inputs {
        // SAFETY: promised by the caller.
        unsafe { vld1q_s8(from.cast()) }
    }

    #[inline(always)]
    unsafe fn start(bias: int32x4_t) -> Sums {
        // SAFETY: promised by the caller.
        unsafe {
            let b = vreinterpretq_s64_s32(bias);
            [vreinterpretq_s32_s64(vzip1q_s64(b, b)), vreinterpretq_s32_s64(vzip2q_s64(b, b))]
        }
    }

    #[inline(always)]
    unsafe fn multiply([a, b]: Sums, x: Self::Inputs, [first, second]: Self::Weights) -> Sums {
        // SAFETY: promised by the caller.
        unsafe { [smmla(a, x, first), smmla(b, x, second)] }
    }

    #[inline(always)]
    unsafe fn ordered([a, b]: Sums) -> Sums {
        // SAFETY: promised by the caller.
        unsafe {
            let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
            [vreinterpretq_s32_s64(vzip1q_s64(a, b)), vreinterpretq_s32_s64(vzip2q_s64(a, b))]
        }
    }
}

/// Bytes of 4 channels × 4 inputs in the order input, channel.
pub(super) static BY_INPUT: [u8; 16] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];

impl Unit for Neon {
    /// Vectors of two inputs by 4 channels.
    type Weights = [int16x8_t; 4];
    /// Vectors of one pixel's 8 inputs.
    type Inputs = [int16x8_t; 2];
    const EIGHT: bool = false;

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> Self::Weights {
        // SAFETY: promised by the caller.
        unsafe {
            let order = vld1q_u8(BY_INPUT.as_ptr());
            let [low, high] = load_pair(from);
            let (low, high) = (vqtbl1q_s8(low, order), vqtbl1q_s8(high, order));
            [vmovl_s8(vget_low_s8(low)), vmovl_high_s8(low), vmovl_s8(vget_low_s8(high)), vmovl_high_s8(high)]
        }
    }

    #[inline(always)]
    unsafe fn inputs(from: *const u8) -> Self::Inputs {
        // SAFETY: promised by the caller.
        unsafe {
            let x = vld1q_s8(from.cast());
            [vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x)]
        }
    }

    #[inline(always)]
    unsafe fn start(bias: int32x4_t) -> Sums {
        [bias; 2]
    }

    #[inline(always)]
    unsafe fn multiply(sums: Sums, x: Self::Inputs, w: Self::Weights) -> Sums {
        // SAFETY: promised by the caller.
        unsafe { [multiply_words(sums[0], x[0], w), multiply_words(sums[1], x[1], w)] }
    }

    #[inline(always)]
    unsafe fn ordered(sums: Sums) -> Sums {
        sums
    }
}

/// Adds the products of 8 inputs and 4 channels.
#[inline(always)]
pub(super) unsafe fn multiply_words(mut acc: int32x4_t, x: int16x8_t, w: [int16x8_t; 4]) -> int32x4_t {
    // SAFETY: promised by the caller.
    unsafe {
        acc = vmlal_laneq_s16::<0>(acc, vget_low_s16(w[0]), x);
        acc = vmlal_high_laneq_s16::<1>(acc, w[0], x);
        acc = vmlal_laneq_s16::<2>(acc, vget_low_s16(w[1]), x);
        acc = vmlal_high_laneq_s16::<3>(acc, w[1], x);
        acc = vmlal_laneq_s16::<4>(acc, vget_low_s16(w[2]), x);
        acc = vmlal_high_laneq_s16::<5>(acc, w[2], x);
        acc = vmlal_laneq_s16::<6>(acc, vget_low_s16(w[3]), x);
        vmlal_high_laneq_s16::<7>(acc, w[3], x)
    }
}
