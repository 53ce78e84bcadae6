//! How sure logits are: the scores of routers without trained layers.
//!
//! The exponential and the logarithm are part of the arithmetic law: IEEE-754 binary32 operations in exactly the order
//! written here, no fused multiply-add, no mathematical library, so that routes are the same on every machine. The
//! exponential's relative error is below `2 * 10⁻⁷ * (1 + |x|)`, the logarithm's below 10⁻⁶ (the tests compare them with
//! double precision): far finer than thresholds are chosen.

use crate::op::Criterion;

/// The score of mean logits (binary32, little-endian):
///
/// * maximum probability: `1 / s` with `s = Σ exp(l[j] - m)`, summed in order, `m` being the largest logit;
/// * margin: the largest logit minus the second largest;
/// * entropy in nats: `ln(s) - (Σ exp(l[j] - m) * (l[j] - m)) / s`.
pub fn score(criterion: Criterion, logits: &[[u8; 4]]) -> f32 {
    let (largest, second) = two_largest(logits);
    if criterion == Criterion::Margin {
        return largest - second;
    }
    let (mut sum, mut weighted) = (0.0f32, 0.0f32);
    for logit in logits {
        let below = f32::from_le_bytes(*logit) - largest;
        let e = exp(below);
        sum += e;
        weighted += if e > 0.0 { e * below } else { 0.0 };
    }
    if criterion == Criterion::Entropy { ln(sum) - weighted / sum } else { 1.0 / sum }
}

/// The two largest logits; a lone one counts twice.
fn two_largest(logits: &[[u8; 4]]) -> (f32, f32) {
    let (mut largest, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for logit in logits {
        let logit = f32::from_le_bytes(*logit);
        if logit > largest {
            (largest, second) = (logit, largest);
        } else if logit > second {
            second = logit;
        }
    }
    (largest, if logits.len() < 2 { largest } else { second })
}

/// Taylor coefficients of `2^r`: `ln(2)^i / i!`, from the sixth power down to the first. For `|r| <= 1/2` the next term is
/// below 1.2 * 10⁻⁷.
const EXP2: [f32; 6] = [1.540_353e-4, 1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 2.402_265e-1, 6.931_472e-1];

/// `exp(x)` for `x <= 0`; 0 where the result would be subnormal.
fn exp(x: f32) -> f32 {
    let y = x * core::f32::consts::LOG2_E;
    // To the nearest integer: conversion cuts towards zero, and saturates.
    let whole = (y - 0.5) as i32;
    if whole < -126 {
        return 0.0;
    }
    let r = y - whole as f32;
    let power = EXP2.iter().fold(0.0f32, |sum, c| (sum + c) * r) + 1.0;
    power * f32::from_bits(((whole + 127).clamp(1, 254) as u32) << 23)
}

/// `ln(x)` for a normal `x >= 1`: `x = 2^e * m` with `m` in `[sqrt(1/2), sqrt(2))`, then the series of
/// `2 * artanh((m - 1) / (m + 1))`, whose first term left out is below 10⁻⁹.
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let (mut e, mut m) = ((bits >> 23) as i32 - 127, f32::from_bits(bits & 0x007f_ffff | 0x3f80_0000));
    if m > core::f32::consts::SQRT_2 {
        (e, m) = (e + 1, m * 0.5);
    }
    let t = (m - 1.0) / (m + 1.0);
    let square = t * t;
    let series = [1.0f32 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0].iter().fold(0.0f32, |sum, c| (sum + c) * square);
    e as f32 * core::f32::consts::LN_2 + 2.0 * t * (series + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(logits: &[f32]) -> Vec<[u8; 4]> {
        logits.iter().map(|l| l.to_le_bytes()).collect()
    }

    #[test]
    fn exponential_and_logarithm_are_close() {
        for i in 0..200_000 {
            let x = -(i as f32) * 4.3e-4;
            let want = f64::from(x).exp();
            let bound = 2e-7 * (1.0 - f64::from(x));
            assert!((f64::from(exp(x)) / want - 1.0).abs() < bound, "exp({x})");
            let y = 1.0 + (i as f32) * 0.37;
            let error = (f64::from(ln(y)) - f64::from(y).ln()).abs();
            assert!(error < 1e-6 * f64::from(y).ln().max(1.0), "ln({y})");
        }
        assert_eq!((exp(0.0), exp(-1e9), exp(f32::NEG_INFINITY), ln(1.0)), (1.0, 0.0, 0.0, 0.0));
    }

    #[test]
    fn scores_are_what_they_are_called() {
        for logits in [vec![1.0f32, 2.0, 4.5, -30.0], vec![0.0; 100], vec![-200.0, 3.0], vec![7.0]] {
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let e: Vec<f64> = logits.iter().map(|l| f64::from(l - largest).exp()).collect();
            let sum: f64 = e.iter().sum();
            let entropy: f64 = e.iter().map(|e| e / sum).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
            let near = |got: f32, want: f64| assert!((f64::from(got) - want).abs() < 1e-5, "{got} {want} {logits:?}");
            near(score(Criterion::MaxProbability, &bytes(&logits)), 1.0 / sum);
            near(score(Criterion::Entropy, &bytes(&logits)), entropy);
        }
        assert_eq!(score(Criterion::Margin, &bytes(&[1.0, 4.0, 2.5])), 1.5);
        assert_eq!(score(Criterion::Margin, &bytes(&[3.0, 3.0])), 0.0);
        assert_eq!(score(Criterion::Margin, &bytes(&[3.0])), 0.0);
    }

    /// The bits, so that no target and no compiler can differ unnoticed.
    #[test]
    fn bits_are_pinned() {
        let logits: Vec<f32> = (0..100).map(|i| ((i * 37 % 101) as f32) * 0.11 - 5.0).collect();
        let bits = Criterion::ALL.map(|c| score(c, &bytes(&logits)).to_bits());
        assert_eq!(bits, BITS, "{bits:x?}");
    }

    const BITS: [u32; 3] = [0x3dd5_c264, 0x3de1_4780, 0x404c_c674];

    /// Crafted artifacts can make any logits; nothing may panic.
    #[test]
    fn any_logits_give_some_score() {
        let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, -0.0, 1e-45];
        for a in strange {
            for b in strange {
                for criterion in Criterion::ALL {
                    let score = score(criterion, &bytes(&[a, b, 1.0]));
                    assert!(score.is_nan() || score >= 0.0 || criterion != Criterion::Margin, "{a} {b} {score}");
                }
            }
        }
        assert!(score(Criterion::Entropy, &[]).is_nan());
    }
}
