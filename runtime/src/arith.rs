//! The arithmetic law: every kernel on every target computes exactly these functions.
//!
//! * Activations are int8, affine per tensor: `real = scale * (q - zero_point)`. Weights are int8, symmetric, one scale
//!   for each output channel. Accumulation is exact in int32 (the compiler proves that no accumulator overflows).
//! * Requantization rounds once: `acc * multiplier * 2^-right_shift`, half up, in 64 bits ([`requantize`]).
//! * A *wide* activation has 16 bits, kept as two byte planes `value = 256 * hi + lo`. The `hi` plane by itself is an
//!   ordinary int8 activation with 256 times the scale; convolutions read only it. The compiler chooses the 16-bit zero
//!   point as `256 * z + 128`, so that cutting off `lo` is rounding to nearest. What that leaves, `lo - 128`, is an int8
//!   activation as well, with zero point 0: a convolution that needs all 16 bits is two, with the same weights, of which
//!   one reads `hi` and adds to what the other makes of `lo` ([`crate::op::Source::Low`]).
//! * What leaves an accumulator is requantized to 16 bits with saturation and added, again with saturation, to the zero
//!   point or to the residual; then the activation's own limits apply ([`add_narrow`], [`add_wide`]). A wide output is
//!   requantized in steps of two and added twice, because the distance from its zero point to its largest value takes 17
//!   bits: a single convolution must be able to cross all of it.
//! * Where a projection is added to the main branch, the first of the two keeps its requantized values *raw*: 16 bits in
//!   those steps of two, without zero point. The other one adds to them, with saturation, before the zero point
//!   ([`add_raw`]): neither branch has to fit the output's range, only their sum has.
//! * Max pooling compares the values themselves, 16-bit ones as a whole; nothing is rescaled.
//! * Classifier and router leave integers at the last moment: IEEE-754 binary32, one operation at a time, in the order
//!   written in [`crate::op`]; no fused multiply-add, no mathematical library.

/// Smallest total right shift that the format allows.
pub const MIN_RIGHT_SHIFT: u8 = 24;
/// Largest total right shift that the format allows.
pub const MAX_RIGHT_SHIFT: u8 = 62;

/// `acc * multiplier * 2^-right_shift`, rounded half up, saturated to 16 bits.
///
/// `multiplier` is in `[2^30, 2^31)` (or 0), `right_shift` in [`MIN_RIGHT_SHIFT`]`..=`[`MAX_RIGHT_SHIFT`]: the factor
/// of gemmlowp's and TFLite's form `multiplier * 2^(shift - 31)` with `right_shift = 31 - shift`, but with a single
/// rounding.
#[inline(always)]
pub fn requantize(acc: i32, multiplier: i32, right_shift: u8) -> i16 {
    // |acc| <= 2^31 and multiplier < 2^31: the product and the rounding term fit in 64 bits.
    let product = i64::from(acc) * i64::from(multiplier);
    let rounding = 1i64 << (right_shift - 1);
    sat16_wide((product + rounding) >> right_shift)
}

#[inline(always)]
fn sat16_wide(v: i64) -> i16 {
    v.clamp(i64::from(i16::MIN), i64::from(i16::MAX)) as i16
}

/// Adds a requantized value to the zero point or residual of a narrow output.
#[inline(always)]
pub fn add_narrow(base: i16, value: i16) -> i16 {
    base.saturating_add(value)
}

/// Adds a requantized value, which counts steps of two, to the zero point or residual of a wide output.
#[inline(always)]
pub fn add_wide(base: i16, value: i16) -> i16 {
    base.saturating_add(value).saturating_add(value)
}

/// Adds a requantized value to a raw one; both count steps of two of a wide output with this zero point.
#[inline(always)]
pub fn add_raw(zero: i16, raw: i16, value: i16) -> i16 {
    add_wide(zero, raw.saturating_add(value))
}

/// Joins the two planes of a wide activation.
#[inline(always)]
pub fn join(hi: u8, lo: u8) -> i16 {
    i16::from_le_bytes([lo, hi])
}

/// Splits a wide value into its planes `(hi, lo)`.
#[inline(always)]
pub fn split(value: i16) -> (u8, u8) {
    let [lo, hi] = value.to_le_bytes();
    (hi, lo)
}

/// The pooled feature of one channel: `sum * 2^-shift`, rounded half up, saturated to 16 bits.
#[inline(always)]
pub fn pool(sum: i32, shift: u8) -> i16 {
    let rounding = if shift == 0 { 0 } else { 1i64 << (shift - 1) };
    sat16_wide((i64::from(sum) + rounding) >> shift)
}

/// `1 / sqrt(sum_of_squares)` of an integer feature, as binary32; 0 for a zero feature.
///
/// The root is an integer root of the sum moved up by an even number of bits, so that at least 31 of its bits are
/// significant; conversion and division round once each (IEEE-754). No mathematical library is involved.
pub fn inverse_norm(sum_of_squares: u64) -> f32 {
    if sum_of_squares == 0 {
        return 0.0;
    }
    let up = sum_of_squares.leading_zeros() & !1;
    let root = root(sum_of_squares << up) as f32;
    // An exact power of two: 2^(up / 2), at most 2^31.
    let scale = (1u64 << (up / 2)) as f32;
    scale / root
}

/// The largest integer whose square is not above `n`, a bit at a time: a core without division of 64 bits takes some hundred
/// instructions, and half a kilobyte of flash less than by Newton's method.
fn root(n: u64) -> u64 {
    let (mut rest, mut root, mut bit) = (n, 0, 1 << 62);
    while bit != 0 {
        let next = root >> 1;
        if rest >= root + bit {
            rest -= root + bit;
            root = next + bit;
        } else {
            root = next;
        }
        bit >>= 2;
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_exact() {
        let mut n = 1u64;
        for _ in 0..10_000 {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (high, low) = (n | 1 << 62, n >> (n & 63));
            for n in [high, low, high.isqrt().pow(2), high.isqrt().pow(2) - 1] {
                assert_eq!(root(n), n.isqrt(), "{n}");
            }
        }
        assert_eq!([0, 1, 3, 4, u64::MAX].map(root), [0, 1, 1, 2, u64::from(u32::MAX)]);
    }

    #[test]
    fn requantize_rounds_half_up() {
        let half = 1 << 30; // 0.5 with a right shift of 31
        for (acc, want) in [(1, 1), (3, 2), (-1, 0), (-3, -1), (0, 0), (-2, -1), (5, 3)] {
            assert_eq!(requantize(acc, half, 31), want, "{acc}");
        }
        assert_eq!(requantize(i32::MAX, i32::MAX, 24), i16::MAX);
        assert_eq!(requantize(i32::MIN, i32::MAX, 24), i16::MIN);
        assert_eq!(requantize(i32::MIN, i32::MAX, 62), -1);
        assert_eq!(requantize(i32::MAX, 1 << 30, 62), 0);
    }

    /// High half of the product, then a rounding shift: what vector units do. Both are the same function, because
    /// floor(floor(x) + n) / m = floor((x + n) / m) for integers n, m.
    #[test]
    fn high_half_form_is_the_same_function() {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u32
        };
        for _ in 0..200_000 {
            let (acc, m, r) = (
                (next() << 1) as i32 >> (next() % 24),
                (next() % (1 << 30) + (1 << 30)) as i32,
                33 + (next() % 30) as u8,
            );
            let high = ((i64::from(acc) * i64::from(m)) >> 32) as i32;
            let n = r - 32;
            let two_steps = (i64::from(high) + (1 << (n - 1))) >> n;
            assert_eq!(i64::from(requantize(acc, m, r)), two_steps.clamp(-32768, 32767));
        }
    }

    #[test]
    fn raw_sums_cross_the_range_of_the_output() {
        let zero = -32640;
        assert_eq!(add_raw(zero, -20_000, 20_003), zero + 6);
        assert_eq!(add_raw(zero, 30_000, 30_000), i16::MAX);
        assert_eq!(add_raw(zero, i16::MIN, -1), i16::MIN);
        assert_eq!(add_raw(zero, 32_700, 0), 32_760);
    }

    #[test]
    fn inverse_norm_is_close_and_total() {
        assert_eq!(inverse_norm(0), 0.0);
        for n in [1u64, 2, 3, 4, 9, 1 << 20, (1 << 62) + 12345, u64::MAX, 0x7fff_ffff] {
            let want = 1.0 / (n as f64).sqrt();
            assert!((f64::from(inverse_norm(n)) / want - 1.0).abs() < 2e-7, "{n}");
        }
    }
}
