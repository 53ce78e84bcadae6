//! Weights to int8, biases and multipliers to integers.

use anyhow::{Result, ensure};
use ride_runtime::arith::{MAX_RIGHT_SHIFT, MIN_RIGHT_SHIFT};

/// One output channel, quantized: `weight ≈ scale * q`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Channel {
    /// Values in -127..=127.
    pub(crate) q: Vec<i8>,
    /// Real value of one step.
    pub(crate) scale: f64,
}

/// Fractions of the largest magnitude that are tried as the clipping point.
const SHRINK: [f64; 9] = [1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.87, 0.84, 0.8];

/// Quantizes one output channel: of several clipping points the one with the smallest squared error, each with its
/// least-squares scale `<w, q> / <q, q>`. `min_scale` keeps the bias representable.
pub(crate) fn quantize_channel(w: &[f64], min_scale: f64) -> Channel {
    let max = w.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    if max <= 127.0 * min_scale {
        let scale = min_scale.max(f64::MIN_POSITIVE);
        return Channel { q: round_all(w, scale), scale };
    }
    let mut best: Option<(f64, Channel)> = None;
    for shrink in SHRINK {
        let q = round_all(w, max * shrink / 127.0);
        let (dot, norm) = w.iter().zip(&q).fold((0.0, 0.0), |(d, n), (w, &q)| {
            let q = f64::from(q);
            (d + w * q, n + q * q)
        });
        let scale = if norm > 0.0 { (dot / norm).max(min_scale) } else { max / 127.0 };
        let error: f64 = w.iter().zip(&q).map(|(w, &q)| (w - scale * f64::from(q)).powi(2)).sum();
        if best.as_ref().is_none_or(|(e, _)| error < *e) {
            best = Some((error, Channel { q, scale }));
        }
    }
    best.map_or(Channel { q: vec![0; w.len()], scale: min_scale }, |(_, c)| c)
}

fn round_all(w: &[f64], step: f64) -> Vec<i8> {
    w.iter().map(|v| (v / step).round().clamp(-127.0, 127.0) as i8).collect()
}

/// `scale ≈ multiplier * 2^-right_shift` with a multiplier in `[2^30, 2^31)`.
///
/// # Errors
/// The scale is too large for the law; one that is too small becomes the smallest factor, which rounds to zero.
pub(crate) fn multiplier(scale: f64) -> Result<(i32, u8)> {
    ensure!(scale.is_finite() && scale > 0.0, "scale {scale} is not a positive number");
    let exponent = scale.log2().floor() as i32;
    let mut right_shift = 30 - exponent;
    let mut m = (scale * 2f64.powi(right_shift)).round();
    if m >= 2f64.powi(31) {
        m /= 2.0;
        right_shift -= 1;
    }
    if right_shift > i32::from(MAX_RIGHT_SHIFT) {
        return Ok((1 << 30, MAX_RIGHT_SHIFT));
    }
    ensure!(
        right_shift >= i32::from(MIN_RIGHT_SHIFT),
        "the factor {scale:.3e} from accumulator to output is too large for int8 arithmetic: the calibrated range of \
         this output is far too small for its weights; calibrate with more images or another observer"
    );
    Ok((m as i32, right_shift as u8))
}

/// Bits of the largest magnitude that `bias + Σ q (x + offset)` can take for activations `x` in -128..=127.
pub(crate) fn acc_bits(q: &[i8], bias: i64) -> u8 {
    let (positive, negative) =
        q.iter().fold((0i64, 0i64), |(p, n), &w| if w > 0 { (p + i64::from(w), n) } else { (p, n - i64::from(w)) });
    let high = bias + 127 * positive + 128 * negative;
    let low = bias - 128 * positive - 127 * negative;
    let magnitude = high.unsigned_abs().max(low.unsigned_abs());
    (64 - magnitude.leading_zeros()) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplier_is_normalised_and_close() {
        for scale in [1e-9, 1e-4, 0.0123, 0.2499999, 0.25, 0.3, 0.9999999999, 1.0, 3.7, 60.0] {
            let (m, r) = multiplier(scale).unwrap();
            assert!((1 << 30..=i32::MAX).contains(&m));
            let back = f64::from(m) * 2f64.powi(-i32::from(r));
            assert!((back / scale - 1.0).abs() < 1e-9, "{scale} {back}");
        }
        assert!(multiplier(200.0).is_err());
        assert!(multiplier(f64::NAN).is_err() && multiplier(0.0).is_err());
        assert_eq!(multiplier(1e-300).unwrap(), (1 << 30, MAX_RIGHT_SHIFT));
    }

    #[test]
    fn channel_scale_beats_plain_maximum() {
        let w: Vec<f64> =
            (0..144).map(|i| ((i * 37 % 101) as f64 - 50.0) / 50.0 * (1.0 - (i % 7) as f64 / 9.0)).collect();
        let plain = round_all(&w, w.iter().fold(0.0f64, |m, v| m.max(v.abs())) / 127.0);
        let step = w.iter().fold(0.0f64, |m, v| m.max(v.abs())) / 127.0;
        let error = |q: &[i8], s: f64| -> f64 { w.iter().zip(q).map(|(w, &q)| (w - s * f64::from(q)).powi(2)).sum() };
        let channel = quantize_channel(&w, 0.0);
        assert!(error(&channel.q, channel.scale) <= error(&plain, step));
    }

    #[test]
    fn dead_channels_keep_their_bias() {
        let channel = quantize_channel(&[0.0; 9], 1e-3);
        assert_eq!((channel.q, channel.scale), (vec![0; 9], 1e-3));
    }

    #[test]
    fn accumulator_bound_is_reached_and_never_exceeded() {
        let q = [127i8, -127, 3, 0, -5];
        let extreme = |sign: i64| -> i64 {
            q.iter().map(|&w| i64::from(w) * if (w > 0) == (sign > 0) { 127 } else { -128 }).sum::<i64>() + 1000
        };
        let bits = acc_bits(&q, 1000);
        let magnitude = extreme(1).abs().max(extreme(-1).abs());
        assert!(magnitude < 1 << bits && magnitude >= 1 << (bits - 1));
    }
}
