//! AVX2 with FMA, and AVX-512 with vectors of 16 and of 8.

use std::arch::x86_64::{
    __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
};

use super::{Kernel, Level, Simd};

pub(super) fn available() -> impl Iterator<Item = Level> {
    [Level::Avx2, Level::Avx512].into_iter().filter(|&level| has(level))
}

fn has(level: Level) -> bool {
    let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    match level {
        Level::Portable => true,
        Level::Avx2 => avx2(),
        Level::Avx512 => avx2() && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl"),
    }
}

pub(super) fn lanes(level: Level) -> [usize; 2] {
    if level == Level::Avx512 { [Zmm::LANES, Ymm32::LANES] } else { [Ymm::LANES; 2] }
}

pub(super) fn run<K: Kernel>(level: Level, kernel: K) {
    assert!(has(level), "this machine has no {level:?}");
    match level {
        // SAFETY: the assertion has seen the features.
        Level::Avx512 => unsafe { avx512(kernel) },
        // SAFETY: the assertion has seen the features.
        _ => unsafe { avx2(kernel) },
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
fn avx512<K: Kernel>(kernel: K) {
    // SAFETY: this function's features are those of both types.
    unsafe { kernel.run::<Zmm, Ymm32>() }
}

#[target_feature(enable = "avx2,fma")]
fn avx2<K: Kernel>(kernel: K) {
    // SAFETY: this function's features are those of the type.
    unsafe { kernel.run::<Ymm, Ymm>() }
}

/// A vector of AVX-512.
struct Zmm;
/// A vector of AVX2.
struct Ymm;
/// The same where AVX-512 gives 32 registers.
struct Ymm32;

impl Simd for Zmm {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    type Vector = __m512;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: the caller vouches for AVX-512 and 16 elements.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: __m512) {
        // SAFETY: the caller vouches for AVX-512 and 16 elements.
        unsafe { _mm512_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the caller vouches for AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
}

impl Simd for Ymm {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    type Vector = __m256;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: the caller vouches for AVX2.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: the caller vouches for AVX2 and 8 elements.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: __m256) {
        // SAFETY: the caller vouches for AVX2 and 8 elements.
        unsafe { _mm256_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: the caller vouches for FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
}

impl Simd for Ymm32 {
    const LANES: usize = 8;
    const REGISTERS: usize = 32;
    type Vector = __m256;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: as in `Ymm`; so below.
        unsafe { Ymm::splat(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: see above.
        unsafe { Ymm::load(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: __m256) {
        // SAFETY: see above.
        unsafe { Ymm::store(to, vector) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { Ymm::fma(a, b, c) }
    }
}
