//! The numbers that golden files were computed of: made again here, so that only results are stored.

use ride_calibrate::sampling::SplitMix64;

/// Numbers in -1..1 that depend on nothing but the name: `SplitMix64` from the name's FNV-1a hash on, upper 24 bits. The
/// scripts that make golden files do the same.
pub(crate) fn uniform(name: &str, count: usize) -> Vec<f64> {
    let hash = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    let mut numbers = SplitMix64::new(name.bytes().fold(0xCBF2_9CE4_8422_2325, hash));
    (0..count).map(|_| (numbers.draw() >> 40) as f64 / f64::from(1u32 << 23) - 1.0).collect()
}
