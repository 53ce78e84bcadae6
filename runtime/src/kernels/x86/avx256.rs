//! 256-bit units: AVX-VNNI, the same with EVEX encoding, and AVX2. Sixteen accumulators are two registers, two pixels
//! are stored together; only the dot product differs.

mod dot;
mod tiles;

pub(super) use dot::{Avx2, Evex, Vex, Vnni};

use super::params::Channels;
use super::simd::Simd;
use super::tile::Kind;
use super::{conv, dense, max_pool, shortcut};
use crate::kernels::k8n16::BLOCK;
use crate::kernels::{Backend, ConvCall, ConvKernel, Isa, MaxPoolCall, PoolCall, ShortcutCall, scalar};
use crate::op::Layout;
use core::arch::x86_64::*;
use core::marker::PhantomData;
use dot::{Dot, load_pair};

/// A unit with 256-bit registers and the dot product `D`.
pub(super) struct Wide256<D>(PhantomData<D>);

const fn kernel<D: Dot>(name: &'static str, pixels: usize, run: unsafe fn(&mut ConvCall<'_>)) -> ConvKernel {
    ConvKernel {
        name,
        tile: (pixels, 16),
        scratch_len: conv::scratch_len::<Wide256<D>>,
        splits: true,
        channel_step: BLOCK,
        run,
    }
}

pub(in crate::kernels) const AVX2: Backend = Backend {
    isa: Isa::Avx2,
    layout: Layout::K8N16,
    conv: kernel::<Avx2>("qs8_conv_4x16_k8n16_avx2", 4, run_avx2),
    pays: || true,
    shortcut: run_shortcut,
    max_pool: run_max_pool,
    pool: run_pool,
    dense: dense::run,
};

pub(in crate::kernels) const AVXVNNI: Backend = Backend {
    isa: Isa::AvxVnni,
    layout: Layout::K8N16,
    conv: kernel::<Vnni<Vex>>("qs8_conv_6x16_k8n16_avxvnni", 6, run_avxvnni),
    pays: || true,
    shortcut: run_shortcut,
    max_pool: run_max_pool,
    pool: run_pool,
    dense: dense::run,
};

pub(in crate::kernels) const AVX512VL: Backend = Backend {
    isa: Isa::Avx512Vnni,
    layout: Layout::K8N16,
    conv: kernel::<Vnni<Evex>>("qs8_conv_6x16_k8n16_avx512vl", 6, run_avx512vl),
    pays: || true,
    shortcut: run_shortcut,
    max_pool: run_max_pool,
    pool: run_pool,
    dense: dense::run,
};

#[target_feature(enable = "avx2")]
unsafe fn run_avx2(call: &mut ConvCall<'_>) {
    // SAFETY: this function has the instruction set that the unit asks for.
    unsafe { conv::run::<Wide256<Avx2>>(call, false) }
}

#[target_feature(enable = "avx2,avxvnni")]
unsafe fn run_avxvnni(call: &mut ConvCall<'_>) {
    // SAFETY: this function has the instruction set that the unit asks for.
    unsafe { conv::run::<Wide256<Vnni<Vex>>>(call, false) }
}

#[target_feature(enable = "avx2,avx512vl,avx512vnni")]
unsafe fn run_avx512vl(call: &mut ConvCall<'_>) {
    // SAFETY: this function has the instruction set that the unit asks for.
    unsafe { conv::run::<Wide256<Vnni<Evex>>>(call, false) }
}

#[target_feature(enable = "avx2")]
unsafe fn run_shortcut(call: &mut ShortcutCall<'_>) {
    // SAFETY: this function has AVX2; shortcuts need no dot product.
    unsafe { shortcut::run::<Wide256<Avx2>>(call) }
}

#[target_feature(enable = "avx2")]
unsafe fn run_max_pool(call: &mut MaxPoolCall<'_>) {
    max_pool::run(call);
}

#[target_feature(enable = "avx2")]
unsafe fn run_pool(call: &mut PoolCall<'_>) {
    scalar::pool::body(call);
}

#[inline(always)]
unsafe fn eight(v: &[i32; 16], half: usize) -> __m256i {
    // SAFETY: the caller has AVX2; `half` is 0 or 1, so eight lanes are left.
    unsafe { _mm256_loadu_si256(v.as_ptr().add(8 * half).cast()) }
}

#[inline(always)]
unsafe fn scale(acc: __m256i, ch: &Channels, half: usize) -> __m256i {
    // SAFETY: the caller has AVX2; `half` is 0 or 1.
    unsafe {
        let even = _mm256_mul_epi32(acc, eight(&ch.multiplier, half));
        let odd = _mm256_mul_epi32(_mm256_srli_epi64::<32>(acc), eight(&ch.multiplier_odd, half));
        _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd)
    }
}

#[inline(always)]
unsafe fn round(scaled: __m256i, ch: &Channels, half: usize) -> __m256i {
    // SAFETY: the caller has AVX2; `half` is 0 or 1.
    unsafe { _mm256_srav_epi32(_mm256_add_epi32(scaled, eight(&ch.rounding, half)), eight(&ch.shift, half)) }
}

/// [`Simd::Quads`].
#[derive(Clone, Copy)]
pub(super) struct Lanes {
    /// Fours of inputs, for each half counted from that of its first lane.
    order: [__m256i; 2],
    /// Bytes from the inputs of the first lane to those of the ninth.
    high: usize,
}

/// Order of 64-bit parts that undoes what 128-bit lanes do to a pack.
const UNZIP: i32 = 0b11_01_10_00;

// SAFETY (for all blocks below): the instruction set is promised by the trait, and so are the bytes behind pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<D: Dot> Simd for Wide256<D> {
    type Acc = [__m256i; 2];
    type Weights = D::Weights;
    type Inputs = D::Inputs;
    type Quads = Lanes;
    type Picked = [__m256i; 2];
    type Lanes = __m256i;
    const PIXELS: usize = 2;
    const UNIT: usize = D::UNIT;
    const KINDS: &'static [Kind] = D::KINDS;
    const GROUPED: [&'static Kind; 2] = D::GROUPED;
    const DEPTHWISE: [&'static Kind; 2] = D::DEPTHWISE;

    #[inline(always)]
    unsafe fn lanes(channels: &Channels) -> Lanes {
        unsafe {
            let quads = |half: usize| _mm256_cvtepu8_epi32(_mm_loadl_epi64(channels.quads[8 * half..].as_ptr().cast()));
            // What eight lanes pick lies within 32 bytes, counted from the first lane's inputs.
            let first = channels.quads[8];
            let high = _mm256_sub_epi32(quads(1), _mm256_set1_epi32(i32::from(first)));
            Lanes { order: [quads(0), high], high: 4 * usize::from(first) }
        }
    }

    #[inline(always)]
    unsafe fn pick(from: *const u8, lanes: Lanes) -> [__m256i; 2] {
        unsafe {
            let (low, high) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(lanes.high).cast()));
            [_mm256_permutevar8x32_epi32(low, lanes.order[0]), _mm256_permutevar8x32_epi32(high, lanes.order[1])]
        }
    }

    #[inline(always)]
    unsafe fn stack(rows: [*const u8; 3]) -> [__m256i; 2] {
        unsafe {
            let half = |at: usize| {
                let [a, b, c] = rows.map(|row| _mm256_cvtepu8_epi32(_mm_loadl_epi64(row.add(at).cast())));
                _mm256_or_si256(_mm256_or_si256(a, _mm256_slli_epi32::<8>(b)), _mm256_slli_epi32::<16>(c))
            };
            [half(0), half(8)]
        }
    }

    #[inline(always)]
    unsafe fn dot_picked(acc: [__m256i; 2], inputs: [__m256i; 2], weights: D::Weights) -> [__m256i; 2] {
        unsafe { D::dot_picked(acc, inputs, weights) }
    }

    #[inline(always)]
    unsafe fn acc(from: *const i32) -> [__m256i; 2] {
        unsafe { load_pair(from.cast()) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> D::Weights {
        unsafe { D::weights(from) }
    }

    #[inline(always)]
    unsafe fn low(from: *const u8) -> D::Inputs {
        unsafe { D::low(from) }
    }

    #[inline(always)]
    unsafe fn high(from: *const u8) -> D::Inputs {
        unsafe { D::high(from) }
    }

    #[inline(always)]
    unsafe fn whole(from: *const u8) -> D::Inputs {
        unsafe { D::whole(from) }
    }

    #[inline(always)]
    unsafe fn dot(acc: [__m256i; 2], inputs: D::Inputs, weights: D::Weights) -> [__m256i; 2] {
        unsafe { D::dot(acc, inputs, weights) }
    }

    #[inline(always)]
    unsafe fn offset([a, b]: [__m256i; 2], ch: &Channels) -> [__m256i; 2] {
        unsafe { [_mm256_add_epi32(a, eight(&ch.bias, 0)), _mm256_add_epi32(b, eight(&ch.bias, 1))] }
    }

    #[inline(always)]
    unsafe fn widen([a, b]: [__m256i; 2]) -> [[__m256i; 2]; 4] {
        unsafe {
            let first =
                [_mm256_cvtepi16_epi32(_mm256_castsi256_si128(a)), _mm256_cvtepi16_epi32(_mm256_castsi256_si128(b))];
            let second = [
                _mm256_cvtepi16_epi32(_mm256_extracti128_si256::<1>(a)),
                _mm256_cvtepi16_epi32(_mm256_extracti128_si256::<1>(b)),
            ];
            [first, second, first, second]
        }
    }

    #[inline(always)]
    unsafe fn pre_shift([a, b]: [__m256i; 2], ch: &Channels) -> [__m256i; 2] {
        unsafe { [_mm256_sllv_epi32(a, eight(&ch.pre_shift, 0)), _mm256_sllv_epi32(b, eight(&ch.pre_shift, 1))] }
    }

    #[inline(always)]
    unsafe fn scale([a, b]: [__m256i; 2], ch: &Channels) -> [__m256i; 2] {
        unsafe { [scale(a, ch, 0), scale(b, ch, 1)] }
    }

    #[inline(always)]
    unsafe fn round([a, b]: [__m256i; 2], ch: &Channels) -> [__m256i; 2] {
        unsafe { [round(a, ch, 0), round(b, ch, 1)] }
    }

    #[inline(always)]
    unsafe fn twice([a, b]: [__m256i; 2], ch: &Channels) -> [__m256i; 2] {
        unsafe { [_mm256_srav_epi32(a, eight(&ch.shift_less, 0)), _mm256_srav_epi32(b, eight(&ch.shift_less, 1))] }
    }

    #[inline(always)]
    unsafe fn block_words([a, b, _, _]: [[__m256i; 2]; 4]) -> [__m256i; 2] {
        unsafe {
            [
                _mm256_permute4x64_epi64::<UNZIP>(_mm256_packs_epi32(a[0], b[0])),
                _mm256_permute4x64_epi64::<UNZIP>(_mm256_packs_epi32(a[1], b[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn fold(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        unsafe {
            [
                _mm256_permute4x64_epi64::<UNZIP>(_mm256_hadd_epi32(a[0], a[1])),
                _mm256_permute4x64_epi64::<UNZIP>(_mm256_hadd_epi32(b[0], b[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn tail_words([[a, b], _]: [[__m256i; 2]; 2]) -> __m256i {
        unsafe { _mm256_permute4x64_epi64::<UNZIP>(_mm256_packs_epi32(a, b)) }
    }

    #[inline(always)]
    unsafe fn splat(word: i16) -> __m256i {
        unsafe { _mm256_set1_epi16(word) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_adds_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn clamp(v: __m256i, min: __m256i, max: __m256i) -> __m256i {
        unsafe { _mm256_min_epi16(_mm256_max_epi16(v, min), max) }
    }

    #[inline(always)]
    unsafe fn halve(words: __m256i) -> __m256i {
        unsafe { _mm256_mulhrs_epi16(words, _mm256_set1_epi16(1 << 14)) }
    }

    #[inline(always)]
    unsafe fn join(hi: __m256i, lo: __m256i) -> [__m256i; 2] {
        unsafe {
            let hi = _mm256_xor_si256(hi, _mm256_set1_epi8(i8::MIN));
            [_mm256_unpacklo_epi8(lo, hi), _mm256_unpackhi_epi8(lo, hi)]
        }
    }

    #[inline(always)]
    unsafe fn doubled(bytes: __m256i) -> [__m256i; 2] {
        unsafe {
            let zero = _mm256_setzero_si256();
            [
                _mm256_srli_epi16::<7>(_mm256_unpacklo_epi8(zero, bytes)),
                _mm256_srli_epi16::<7>(_mm256_unpackhi_epi8(zero, bytes)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn raise(v: __m256i, min: __m256i) -> __m256i {
        unsafe { _mm256_max_epi16(v, min) }
    }

    #[inline(always)]
    unsafe fn bytes([a, b]: [__m256i; 2]) -> __m256i {
        unsafe { _mm256_packus_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn narrow([a, b]: [__m256i; 2], min: u8, max: u8) -> __m256i {
        unsafe {
            let bytes = _mm256_packus_epi16(a, b);
            _mm256_min_epu8(_mm256_max_epu8(bytes, _mm256_set1_epi8(min as i8)), _mm256_set1_epi8(max as i8))
        }
    }

    #[inline(always)]
    unsafe fn split([a, b]: [__m256i; 2]) -> (__m256i, __m256i) {
        unsafe {
            let order =
                _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
            let (a, b) = (_mm256_shuffle_epi8(a, order), _mm256_shuffle_epi8(b, order));
            let hi = _mm256_unpackhi_epi64(a, b);
            (_mm256_xor_si256(hi, _mm256_set1_epi8(i8::MIN)), _mm256_unpacklo_epi64(a, b))
        }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8, stride: usize, count: usize) -> __m256i {
        unsafe {
            let a = _mm256_castsi128_si256(_mm_loadu_si128(from.cast()));
            _mm256_inserti128_si256::<1>(a, _mm_loadu_si128(from.add((count - 1) * stride).cast()))
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, stride: usize, count: usize, v: __m256i) {
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(v));
            if count > 1 {
                _mm_storeu_si128(to.add(stride).cast(), _mm256_extracti128_si256::<1>(v));
            }
        }
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u8, stride: usize, count: usize) -> __m256i {
        unsafe {
            let a = _mm256_castsi128_si256(_mm_loadl_epi64(from.cast()));
            _mm256_inserti128_si256::<1>(a, _mm_loadl_epi64(from.add((count - 1) * stride).cast()))
        }
    }

    #[inline(always)]
    unsafe fn store_half(to: *mut u8, stride: usize, count: usize, v: __m256i) {
        unsafe {
            _mm_storel_epi64(to.cast(), _mm256_castsi256_si128(v));
            if count > 1 {
                _mm_storel_epi64(to.add(stride).cast(), _mm256_extracti128_si256::<1>(v));
            }
        }
    }

    #[inline(always)]
    unsafe fn spill(to: &mut [i16; 32], v: __m256i) {
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), v) }
    }
}
