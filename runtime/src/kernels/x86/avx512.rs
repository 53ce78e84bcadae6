//! AVX-512 with VNNI: 64 multiply-accumulates an instruction, four pixels to a 64-byte store.

use super::params::Channels;
use super::simd::Simd;
use super::tile::{self, Kind, Tile, Width};
use super::{conv, dense, depthwise, grouped, max_pool, pairs, shortcut, winograd};
use crate::kernels::k8n16::{self, BLOCK, winograd::Plan};
use crate::kernels::{Backend, ConvCall, ConvKernel, Isa, MaxPoolCall, PoolCall, ShortcutCall, scalar};
use crate::op::Layout;
use core::arch::x86_64::*;

/// AVX-512 F, BW, VL and VNNI.
pub(super) struct Avx512;

pub(in crate::kernels) const BACKEND: Backend = Backend {
    isa: Isa::Avx512Vnni,
    layout: Layout::K8N16,
    conv: ConvKernel {
        name: "qs8_conv_16x16_k8n16_avx512vnni",
        tile: (16, 16),
        scratch_len: |shape| winograd::scratch_len(shape, Plan::that_pays),
        splits: true,
        channel_step: BLOCK,
        run: run::<false, false>,
    },
    pays: || true,
    shortcut: run_shortcut,
    max_pool: run_max_pool,
    pool: run_pool,
    dense: dense::run,
};

/// The same with pairs of accumulators, where there is only one block of channels: see [`pairs`].
pub(in crate::kernels) const PAIRS: Backend = Backend {
    conv: ConvKernel {
        name: "qs8_conv_8x16c8_k8n16_avx512vnni",
        tile: (8, 16),
        run: run::<false, true>,
        ..BACKEND.conv
    },
    pays: pairs::pay,
    ..BACKEND
};

/// The first one with Winograd's algorithm wherever it is possible.
pub(in crate::kernels) const WINOGRAD: Backend = Backend {
    conv: ConvKernel {
        name: k8n16::winograd::NAME,
        scratch_len: |shape| winograd::scratch_len(shape, Plan::new),
        run: run::<true, false>,
        ..BACKEND.conv
    },
    ..BACKEND
};

/// With Winograd's algorithm where it pays, or, with `ALWAYS`, where it is possible; other layers with `PAIRS` or without.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn run<const ALWAYS: bool, const PAIRS: bool>(call: &mut ConvCall<'_>) {
    // SAFETY: this function has the instruction set that `Avx512` asks for.
    unsafe {
        if !winograd::run(call, if ALWAYS { Plan::new } else { Plan::that_pays }) {
            conv::run::<Avx512>(call, PAIRS)
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn run_shortcut(call: &mut ShortcutCall<'_>) {
    // SAFETY: this function has the instruction set that `Avx512` asks for.
    unsafe { shortcut::run::<Avx512>(call) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn run_max_pool(call: &mut MaxPoolCall<'_>) {
    max_pool::run(call);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn run_pool(call: &mut PoolCall<'_>) {
    scalar::pool::body(call);
}

/// # Safety
/// AVX-512 F, BW, VL and VNNI are available and the tile is valid.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn run_tile<const MR: usize, const NB: usize, const TAIL: bool, const FETCH: bool>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { tile::body::<Avx512, MR, NB, TAIL, FETCH>(t) }
}

/// # Safety
/// AVX-512 F, BW, VL and VNNI are available and the tile is valid for [`grouped::body`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn run_grouped<const MR: usize, const STRIDE: usize>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { grouped::body::<Avx512, MR, STRIDE>(t) }
}

const fn grouped<const MR: usize, const STRIDE: usize>() -> Width {
    Width { pixels: MR, run: run_grouped::<MR, STRIDE> }
}

/// # Safety
/// AVX-512 F, BW, VL and VNNI are available and the tile is valid for [`pairs::body`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn run_pairs<const MR: usize, const TAIL: bool>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { pairs::body::<MR, TAIL>(t) }
}

const fn paired<const MR: usize, const TAIL: bool>() -> Width {
    Width { pixels: MR, run: run_pairs::<MR, TAIL> }
}

const fn width<const MR: usize, const NB: usize, const TAIL: bool>() -> Width {
    Width { pixels: MR, run: run_tile::<MR, NB, TAIL, false> }
}

/// A tile that fetches ahead.
const fn fetching<const MR: usize, const NB: usize>() -> Width {
    Width { pixels: MR, run: run_tile::<MR, NB, false, true> }
}

/// Odd lanes, each also in the even lane below.
const ODD: i32 = 0b11_11_01_01;

#[inline(always)]
unsafe fn lanes(v: &[i32; 16]) -> __m512i {
    // SAFETY: the caller has AVX-512 F; the array has 64 bytes.
    unsafe { _mm512_loadu_si512(v.as_ptr().cast()) }
}

#[inline(always)]
unsafe fn pixel(a: __m128i, b: __m128i) -> __m512i {
    // SAFETY: the caller has AVX-512 F.
    unsafe { _mm512_cvtepi16_epi32(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b)) }
}

#[inline(always)]
unsafe fn four(a: __m128i, b: __m128i, c: __m128i, d: __m128i) -> __m512i {
    // SAFETY: the caller has AVX-512 F.
    unsafe {
        let ab = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
        let cd = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(ab), cd)
    }
}

#[inline(always)]
unsafe fn lanes_of(v: __m512i) -> [__m128i; 4] {
    // SAFETY: the caller has AVX-512 F.
    unsafe {
        [
            _mm512_castsi512_si128(v),
            _mm512_extracti32x4_epi32::<1>(v),
            _mm512_extracti32x4_epi32::<2>(v),
            _mm512_extracti32x4_epi32::<3>(v),
        ]
    }
}

// SAFETY (for all blocks below): the instruction set is promised by the trait, and so are the bytes behind pointers.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512 {
    type Acc = __m512i;
    type Weights = __m512i;
    type Inputs = __m512i;
    type Quads = __m512i;
    type Picked = __m512i;
    type Lanes = __m512i;
    const PIXELS: usize = 4;
    const UNIT: usize = 8;
    // 32 registers: at most 24 accumulators, next to 3 or 4 of weights and the inputs.
    const KINDS: &'static [Kind] = &[
        Kind {
            blocks: 1,
            tail: true,
            fetch: false,
            pairs: true,
            widths: &[paired::<8, true>(), paired::<7, true>(), paired::<4, true>()],
        },
        Kind {
            blocks: 1,
            tail: false,
            fetch: false,
            pairs: true,
            widths: &[paired::<8, false>(), paired::<7, false>(), paired::<4, false>()],
        },
        Kind {
            blocks: 1,
            tail: true,
            fetch: false,
            pairs: false,
            widths: &[width::<8, 1, true>(), width::<7, 1, true>(), width::<4, 1, true>()],
        },
        // 64 channels are a cache line, which is loaded and stored as a whole.
        Kind {
            blocks: 4,
            tail: false,
            fetch: true,
            pairs: false,
            widths: &[fetching::<6, 4>(), fetching::<5, 4>(), fetching::<4, 4>(), fetching::<3, 4>()],
        },
        Kind {
            blocks: 3,
            tail: false,
            fetch: true,
            pairs: false,
            widths: &[fetching::<8, 3>(), fetching::<7, 3>(), fetching::<4, 3>()],
        },
        Kind {
            blocks: 3,
            tail: false,
            fetch: false,
            pairs: false,
            widths: &[width::<8, 3, false>(), width::<7, 3, false>(), width::<4, 3, false>()],
        },
        Kind {
            blocks: 2,
            tail: false,
            fetch: false,
            pairs: false,
            widths: &[width::<8, 2, false>(), width::<7, 2, false>(), width::<4, 2, false>()],
        },
        Kind {
            blocks: 1,
            tail: false,
            fetch: false,
            pairs: false,
            widths: &[width::<16, 1, false>(), width::<8, 1, false>(), width::<7, 1, false>(), width::<4, 1, false>()],
        },
        Kind {
            blocks: 0,
            tail: true,
            fetch: false,
            pairs: false,
            widths: &[width::<16, 0, true>(), width::<8, 0, true>(), width::<7, 0, true>(), width::<4, 0, true>()],
        },
    ];

    const GROUPED: [&'static Kind; 2] = [
        &Kind {
            blocks: 1,
            tail: false,
            fetch: false,
            pairs: false,
            widths: &[grouped::<8, 1>(), grouped::<7, 1>(), grouped::<4, 1>()],
        },
        &Kind {
            blocks: 1,
            tail: false,
            fetch: false,
            pairs: false,
            widths: &[grouped::<8, 2>(), grouped::<7, 2>(), grouped::<4, 2>()],
        },
    ];

    const DEPTHWISE: [&'static Kind; 2] = depthwise::tiles::AVX512;

    #[inline(always)]
    unsafe fn stack(rows: [*const u8; 3]) -> __m512i {
        unsafe {
            let [a, b, c] = rows.map(|row| _mm512_cvtepu8_epi32(_mm_loadu_si128(row.cast())));
            _mm512_or_si512(_mm512_or_si512(a, _mm512_slli_epi32::<8>(b)), _mm512_slli_epi32::<16>(c))
        }
    }

    #[inline(always)]
    unsafe fn lanes(channels: &Channels) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(channels.quads.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn pick(from: *const u8, lanes: __m512i) -> __m512i {
        unsafe { _mm512_permutexvar_epi32(lanes, _mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    unsafe fn dot_picked(acc: __m512i, inputs: __m512i, weights: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(acc, inputs, weights) }
    }

    #[inline(always)]
    unsafe fn acc(from: *const i32) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn low(from: *const u8) -> __m512i {
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn high(from: *const u8) -> __m512i {
        unsafe { _mm512_set1_epi32(from.add(4).cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn whole(from: *const u8) -> __m512i {
        unsafe { _mm512_set1_epi64(from.cast::<i64>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn dot(acc: __m512i, inputs: __m512i, weights: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(acc, inputs, weights) }
    }

    #[inline(always)]
    unsafe fn offset(acc: __m512i, ch: &Channels) -> __m512i {
        unsafe { _mm512_add_epi32(acc, lanes(&ch.bias)) }
    }

    #[inline(always)]
    unsafe fn widen([a, b]: [__m512i; 2]) -> [__m512i; 4] {
        unsafe {
            [
                pixel(_mm512_castsi512_si128(a), _mm512_castsi512_si128(b)),
                pixel(_mm512_extracti32x4_epi32::<1>(a), _mm512_extracti32x4_epi32::<1>(b)),
                pixel(_mm512_extracti32x4_epi32::<2>(a), _mm512_extracti32x4_epi32::<2>(b)),
                pixel(_mm512_extracti32x4_epi32::<3>(a), _mm512_extracti32x4_epi32::<3>(b)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn pre_shift(acc: __m512i, ch: &Channels) -> __m512i {
        unsafe { _mm512_sllv_epi32(acc, lanes(&ch.pre_shift)) }
    }

    #[inline(always)]
    unsafe fn scale(acc: __m512i, ch: &Channels) -> __m512i {
        unsafe {
            let even = _mm512_mul_epi32(acc, lanes(&ch.multiplier));
            let odd = _mm512_mul_epi32(_mm512_shuffle_epi32::<ODD>(acc), lanes(&ch.multiplier_odd));
            // Odd lanes hold the high halves; even ones get theirs from the odd lanes of the other product.
            _mm512_mask_shuffle_epi32::<ODD>(odd, ch.even, even)
        }
    }

    #[inline(always)]
    unsafe fn round(scaled: __m512i, ch: &Channels) -> __m512i {
        unsafe { _mm512_srav_epi32(_mm512_add_epi32(scaled, lanes(&ch.rounding)), lanes(&ch.shift)) }
    }

    #[inline(always)]
    unsafe fn twice(scaled: __m512i, ch: &Channels) -> __m512i {
        unsafe { _mm512_srav_epi32(scaled, lanes(&ch.shift_less)) }
    }

    #[inline(always)]
    unsafe fn block_words([a, b, c, d]: [__m512i; 4]) -> [__m512i; 2] {
        unsafe {
            // 128-bit lane i holds channels 4i..4i+4 of both pixels.
            let (ab, cd) = (_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
            let low = _mm512_setr_epi64(0, 2, 1, 3, 8, 10, 9, 11);
            let high = _mm512_setr_epi64(4, 6, 5, 7, 12, 14, 13, 15);
            [_mm512_permutex2var_epi64(ab, low, cd), _mm512_permutex2var_epi64(ab, high, cd)]
        }
    }

    #[inline(always)]
    unsafe fn fold(a: __m512i, b: __m512i) -> __m512i {
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            _mm512_add_epi32(_mm512_permutex2var_epi32(a, even, b), _mm512_permutex2var_epi32(a, odd, b))
        }
    }

    #[inline(always)]
    unsafe fn tail_words([ab, cd]: [__m512i; 2]) -> __m512i {
        unsafe {
            // 64-bit parts: a0 c0 a1 c1 b0 d0 b1 d1.
            let packed = _mm512_packs_epi32(ab, cd);
            _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), packed)
        }
    }

    #[inline(always)]
    unsafe fn splat(word: i16) -> __m512i {
        unsafe { _mm512_set1_epi16(word) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_adds_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn clamp(v: __m512i, min: __m512i, max: __m512i) -> __m512i {
        unsafe { _mm512_min_epi16(_mm512_max_epi16(v, min), max) }
    }

    #[inline(always)]
    unsafe fn halve(words: __m512i) -> __m512i {
        unsafe { _mm512_mulhrs_epi16(words, _mm512_set1_epi16(1 << 14)) }
    }

    #[inline(always)]
    unsafe fn join(hi: __m512i, lo: __m512i) -> [__m512i; 2] {
        unsafe {
            let hi = _mm512_xor_si512(hi, _mm512_set1_epi8(i8::MIN));
            [_mm512_unpacklo_epi8(lo, hi), _mm512_unpackhi_epi8(lo, hi)]
        }
    }

    #[inline(always)]
    unsafe fn doubled(bytes: __m512i) -> [__m512i; 2] {
        unsafe {
            let zero = _mm512_setzero_si512();
            [
                _mm512_srli_epi16::<7>(_mm512_unpacklo_epi8(zero, bytes)),
                _mm512_srli_epi16::<7>(_mm512_unpackhi_epi8(zero, bytes)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn raise(v: __m512i, min: __m512i) -> __m512i {
        unsafe { _mm512_max_epi16(v, min) }
    }

    #[inline(always)]
    unsafe fn bytes([a, b]: [__m512i; 2]) -> __m512i {
        unsafe { _mm512_packus_epi16(a, b) }
    }

    #[inline(always)]
    unsafe fn narrow([a, b]: [__m512i; 2], min: u8, max: u8) -> __m512i {
        unsafe {
            let bytes = _mm512_packus_epi16(a, b);
            _mm512_min_epu8(_mm512_max_epu8(bytes, _mm512_set1_epi8(min as i8)), _mm512_set1_epi8(max as i8))
        }
    }

    #[inline(always)]
    unsafe fn split([a, b]: [__m512i; 2]) -> (__m512i, __m512i) {
        unsafe {
            let order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
            let (a, b) = (_mm512_shuffle_epi8(a, order), _mm512_shuffle_epi8(b, order));
            let hi = _mm512_unpackhi_epi64(a, b);
            (_mm512_xor_si512(hi, _mm512_set1_epi8(i8::MIN)), _mm512_unpacklo_epi64(a, b))
        }
    }

    #[inline(always)]
    unsafe fn load(from: *const u8, stride: usize, count: usize) -> __m512i {
        unsafe {
            if stride == 16 && count == 4 {
                return _mm512_loadu_si512(from.cast());
            }
            let lane = |i: usize| _mm_loadu_si128(from.add(i.min(count - 1) * stride).cast());
            four(lane(0), lane(1), lane(2), lane(3))
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, stride: usize, count: usize, v: __m512i) {
        unsafe {
            if stride == 16 && count == 4 {
                return _mm512_storeu_si512(to.cast(), v);
            }
            for (i, lane) in lanes_of(v).into_iter().enumerate() {
                if i < count {
                    _mm_storeu_si128(to.add(i * stride).cast(), lane);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u8, stride: usize, count: usize) -> __m512i {
        unsafe {
            let lane = |i: usize| _mm_loadl_epi64(from.add(i.min(count - 1) * stride).cast());
            four(lane(0), lane(1), lane(2), lane(3))
        }
    }

    #[inline(always)]
    unsafe fn store_half(to: *mut u8, stride: usize, count: usize, v: __m512i) {
        unsafe {
            for (i, lane) in lanes_of(v).into_iter().enumerate() {
                if i < count {
                    _mm_storel_epi64(to.add(i * stride).cast(), lane);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn spill(to: &mut [i16; 32], v: __m512i) {
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), v) }
    }
}
