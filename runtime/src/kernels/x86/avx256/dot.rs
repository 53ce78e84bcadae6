//! The dot products of the 256-bit units.

use super::super::depthwise;
use super::super::tile::Kind;
use super::tiles;
use core::arch::x86_64::*;
use core::marker::PhantomData;

/// What differs between the 256-bit units. The functions are those of `Simd`.
pub(in crate::kernels::x86) trait Dot: 'static {
    type Weights: Copy;
    type Inputs: Copy;
    const UNIT: usize;
    const KINDS: &'static [Kind];
    unsafe fn weights(from: *const u8) -> Self::Weights;
    unsafe fn low(from: *const u8) -> Self::Inputs;
    unsafe fn high(from: *const u8) -> Self::Inputs;
    unsafe fn whole(from: *const u8) -> Self::Inputs;
    unsafe fn dot(acc: [__m256i; 2], inputs: Self::Inputs, weights: Self::Weights) -> [__m256i; 2];
    /// `Simd::GROUPED`.
    const GROUPED: [&'static Kind; 2];
    /// `Simd::DEPTHWISE`.
    const DEPTHWISE: [&'static Kind; 2];
    /// `Simd::dot_picked`: bytes for each half of the accumulators.
    unsafe fn dot_picked(acc: [__m256i; 2], inputs: [__m256i; 2], weights: Self::Weights) -> [__m256i; 2];
}

/// `vpdpbusd` on 256 bits, in one of its encodings.
pub(in crate::kernels::x86) struct Vnni<E>(PhantomData<E>);

/// How `vpdpbusd` is encoded, which is a matter of instruction sets.
pub(in crate::kernels::x86) trait Encoding: 'static {
    /// `Simd::KINDS`.
    const KINDS: &'static [Kind];
    /// `Simd::GROUPED`.
    const GROUPED: [&'static Kind; 2];
    /// `Simd::DEPTHWISE`.
    const DEPTHWISE: [&'static Kind; 2];
    /// Adds four products of unsigned inputs and signed weights to each lane.
    unsafe fn dpbusd(acc: __m256i, inputs: __m256i, weights: __m256i) -> __m256i;
}

/// VEX: AVX-VNNI.
pub(in crate::kernels::x86) struct Vex;
/// EVEX: AVX-512 VL and VNNI. The AVX-VNNI kernel for machines that only have AVX-512.
pub(in crate::kernels::x86) struct Evex;

/// `vpmaddwd` on words: activations are widened in the ring, weights are split into even and odd inputs on loading.
/// (`vpmaddubsw` saturates and is of no use.)
pub(in crate::kernels::x86) struct Avx2;

/// # Safety
/// AVX2 is available, and there are 64 bytes.
#[inline(always)]
pub(super) unsafe fn load_pair(from: *const u8) -> [__m256i; 2] {
    // SAFETY: the caller has AVX2 and 64 bytes.
    unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
}

#[inline(always)]
unsafe fn splat4(from: *const u8) -> __m256i {
    // SAFETY: the caller has AVX2 and 4 bytes.
    unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
}

#[inline(always)]
unsafe fn splat8(from: *const u8) -> __m256i {
    // SAFETY: the caller has AVX2 and 8 bytes.
    unsafe { _mm256_set1_epi64x(from.cast::<i64>().read_unaligned()) }
}

// SAFETY (for all blocks below): the instruction set is promised by the trait, and so are the bytes behind pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<E: Encoding> Dot for Vnni<E> {
    type Weights = [__m256i; 2];
    type Inputs = __m256i;
    const UNIT: usize = 8;
    const KINDS: &'static [Kind] = E::KINDS;
    const GROUPED: [&'static Kind; 2] = E::GROUPED;
    const DEPTHWISE: [&'static Kind; 2] = E::DEPTHWISE;

    #[inline(always)]
    unsafe fn dot_picked([a, b]: [__m256i; 2], x: [__m256i; 2], w: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [E::dpbusd(a, x[0], w[0]), E::dpbusd(b, x[1], w[1])] }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> [__m256i; 2] {
        unsafe { load_pair(from) }
    }

    #[inline(always)]
    unsafe fn low(from: *const u8) -> __m256i {
        unsafe { splat4(from) }
    }

    #[inline(always)]
    unsafe fn high(from: *const u8) -> __m256i {
        unsafe { splat4(from.add(4)) }
    }

    #[inline(always)]
    unsafe fn whole(from: *const u8) -> __m256i {
        unsafe { splat8(from) }
    }

    #[inline(always)]
    unsafe fn dot([a, b]: [__m256i; 2], x: __m256i, w: [__m256i; 2]) -> [__m256i; 2] {
        unsafe { [E::dpbusd(a, x, w[0]), E::dpbusd(b, x, w[1])] }
    }
}

impl Encoding for Vex {
    const DEPTHWISE: [&'static Kind; 2] = depthwise::tiles::AVXVNNI;
    const KINDS: &'static [Kind] = tiles::AVXVNNI;
    const GROUPED: [&'static Kind; 2] = tiles::GROUPED_AVXVNNI;

    #[inline(always)]
    unsafe fn dpbusd(acc: __m256i, inputs: __m256i, weights: __m256i) -> __m256i {
        // SAFETY: the caller has AVX-VNNI.
        unsafe { _mm256_dpbusd_avx_epi32(acc, inputs, weights) }
    }
}

impl Encoding for Evex {
    const DEPTHWISE: [&'static Kind; 2] = depthwise::tiles::AVX512VL;
    const KINDS: &'static [Kind] = tiles::AVX512VL;
    const GROUPED: [&'static Kind; 2] = tiles::GROUPED_AVX512VL;

    #[inline(always)]
    unsafe fn dpbusd(acc: __m256i, inputs: __m256i, weights: __m256i) -> __m256i {
        // SAFETY: the caller has AVX-512 VL and VNNI.
        unsafe { _mm256_dpbusd_epi32(acc, inputs, weights) }
    }
}

// SAFETY (for all blocks below): the instruction set is promised by the trait, and so are the bytes behind pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Dot for Avx2 {
    const DEPTHWISE: [&'static Kind; 2] = depthwise::tiles::AVX2;
    /// Even inputs, odd inputs.
    type Weights = [[__m256i; 2]; 2];
    type Inputs = [__m256i; 2];
    const UNIT: usize = 16;
    const KINDS: &'static [Kind] = tiles::AVX2;
    const GROUPED: [&'static Kind; 2] = tiles::GROUPED_AVX2;

    #[inline(always)]
    unsafe fn dot_picked(acc: [__m256i; 2], x: [__m256i; 2], w: [[__m256i; 2]; 2]) -> [__m256i; 2] {
        unsafe {
            let bytes = _mm256_set1_epi16(0xff);
            let mut sums = acc;
            for i in 0..2 {
                let (even, odd) = (_mm256_and_si256(x[i], bytes), _mm256_srli_epi16::<8>(x[i]));
                sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(even, w[0][i]));
                sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(odd, w[1][i]));
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> [[__m256i; 2]; 2] {
        unsafe {
            let [a, b] = load_pair(from);
            let (up_a, up_b) = (_mm256_slli_epi16::<8>(a), _mm256_slli_epi16::<8>(b));
            [
                [_mm256_srai_epi16::<8>(up_a), _mm256_srai_epi16::<8>(up_b)],
                [_mm256_srai_epi16::<8>(a), _mm256_srai_epi16::<8>(b)],
            ]
        }
    }

    #[inline(always)]
    unsafe fn low(from: *const u8) -> [__m256i; 2] {
        unsafe { [splat4(from), splat4(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn high(from: *const u8) -> [__m256i; 2] {
        unsafe { [splat4(from.add(4)), splat4(from.add(12))] }
    }

    #[inline(always)]
    unsafe fn whole(from: *const u8) -> [__m256i; 2] {
        unsafe { [splat8(from), splat8(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn dot(acc: [__m256i; 2], x: [__m256i; 2], w: [[__m256i; 2]; 2]) -> [__m256i; 2] {
        unsafe {
            // Products of a byte and a signed byte in words: two of them never leave 32 bits.
            let mut sums = acc;
            for i in 0..2 {
                sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(x[0], w[0][i]));
                sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(x[1], w[1][i]));
            }
            sums
        }
    }
}
