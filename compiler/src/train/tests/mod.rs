//! Gradients, losses and whole networks.

mod conv;
mod finite;
mod net;
mod qat;
mod step;
mod teacher;

/// Numbers between -1 and 1 that a seed decides.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Largest difference, relative to the largest expected value.
fn difference(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(1e-6f32, |most, value| most.max(value.abs()));
    let worst = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs());
    assert!(got.iter().all(|value| value.is_finite()));
    worst.fold(0.0, f32::max) / largest
}
