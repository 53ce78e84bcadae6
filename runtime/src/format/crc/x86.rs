//! Carry-less products (`pclmulqdq`): 64 bytes a step, some ten times as fast as tables.
//!
//! A message is a polynomial over two elements, its first bit the highest coefficient, and the checksum its remainder by
//! the generator P. Sixteen bytes A that lie D bits before sixteen others B can be moved onto them: A x^D + B has the
//! remainder of both. With A = L x^64 + H (L is the low half of the register: bits are reflected) that is
//! `L (x^(D+64) mod P) + H (x^D mod P) + B`, two products of 64 by 32 bits, which fit 128 bits. As a product of two
//! reflected halves comes out one bit too low, the constants have one power of x less.
//!
//! Four registers move 512 bits at a time, then onto each other; the sixteen bytes that are left have the remainder of
//! the whole message, and the tables finish them.

use super::{next_bit, slices};
use core::arch::x86_64::*;

/// What the four registers hold.
const STRIDE: usize = 64;

/// x^`n` mod P, reflected, in the high half of 64 bits: coefficients of x^0 are bits 63.
const fn power(n: u32) -> i64 {
    let (mut c, mut i) = (1 << 31, 0);
    while i < n {
        c = next_bit(c);
        i += 1;
    }
    ((c as u64) << 32) as i64
}

/// Constants that move sixteen bytes by `bits`: for the high half, for the low one.
const fn moving(bits: u32) -> [i64; 2] {
    [power(bits - 1), power(bits + 63)]
}

const FAR: [i64; 2] = moving(8 * STRIDE as u32);
const NEAR: [i64; 2] = moving(128);

pub(super) fn update(c: u32, bytes: &[u8]) -> u32 {
    let has = std::arch::is_x86_feature_detected!("pclmulqdq");
    match bytes.as_chunks::<STRIDE>() {
        ([first, chunks @ ..], rest) if has => {
            // SAFETY: the processor has the instruction; SSE2 belongs to x86-64.
            let c = unsafe { fold(c, first, chunks) };
            slices::update(c, rest)
        }
        _ => slices::update(c, bytes),
    }
}

/// Sixteen bytes moved by as many bits as the constants say, onto `onto`.
#[inline]
#[target_feature(enable = "pclmulqdq")]
fn moved(x: __m128i, [high, low]: [i64; 2], onto: __m128i) -> __m128i {
    let k = _mm_set_epi64x(high, low);
    let sum = _mm_xor_si128(_mm_clmulepi64_si128::<0x00>(x, k), _mm_clmulepi64_si128::<0x11>(x, k));
    _mm_xor_si128(sum, onto)
}

#[inline]
#[target_feature(enable = "sse2")]
fn load(chunk: &[u8; STRIDE]) -> [__m128i; 4] {
    // SAFETY: four times 16 bytes of 64; unaligned loads.
    core::array::from_fn(|i| unsafe { _mm_loadu_si128(chunk.as_ptr().add(16 * i).cast()) })
}

/// The register after `first` and `chunks`.
#[target_feature(enable = "pclmulqdq")]
fn fold(c: u32, first: &[u8; STRIDE], chunks: &[[u8; STRIDE]]) -> u32 {
    let mut x = load(first);
    // The register is added to the message's first four bytes, as tables do it.
    x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128(c as i32));
    for chunk in chunks {
        let next = load(chunk);
        for i in 0..4 {
            x[i] = moved(x[i], FAR, next[i]);
        }
    }
    let sum = moved(moved(moved(x[0], NEAR, x[1]), NEAR, x[2]), NEAR, x[3]);
    let mut last = [0; 16];
    // SAFETY: 16 bytes; an unaligned store.
    unsafe { _mm_storeu_si128(last.as_mut_ptr().cast(), sum) };
    slices::update(0, &last)
}
