//! Vectors that the compiler makes of arrays.

use super::Simd;

/// Eight elements.
pub(super) struct Eight;

impl Simd for Eight {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    type Vector = [f32; 8];

    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; 8] {
        [value; 8]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 8] {
        // SAFETY: the caller vouches for eight elements; an array of them has no other alignment than one has.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: [f32; 8]) {
        // SAFETY: the caller vouches for eight elements.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(vector) }
    }

    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], mut c: [f32; 8]) -> [f32; 8] {
        // Two roundings: without an instruction for one, it would be a call for each lane.
        for lane in 0..8 {
            c[lane] += a[lane] * b[lane];
        }
        c
    }
}
