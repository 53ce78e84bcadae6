//! CRC-32 (IEEE 802.3, reflected polynomial 0xEDB88320) of sections and header: finds every burst of up to 32 bits.
//!
//! Opening an artifact reads every byte of it once, so what computes the checksum decides how long that takes:
//! carry-less products on x86-64, the `crc32` instructions of 64-bit Arm, tables elsewhere; in firmware, where code is
//! scarce and artifacts are small, a table of 64 bytes.

#[cfg(all(any(test, feature = "std"), target_arch = "aarch64"))]
mod aarch64;
#[cfg(any(test, not(feature = "std")))]
mod nibbles;
#[cfg(any(test, feature = "std"))]
mod slices;
#[cfg(all(any(test, feature = "std"), target_arch = "x86_64"))]
mod x86;

#[cfg(all(any(test, feature = "std"), target_arch = "aarch64"))]
use aarch64::update;
#[cfg(not(any(test, feature = "std")))]
use nibbles::update;
#[cfg(all(any(test, feature = "std"), not(any(target_arch = "aarch64", target_arch = "x86_64"))))]
use slices::update;
#[cfg(all(any(test, feature = "std"), target_arch = "x86_64"))]
use x86::update;

const POLYNOMIAL: u32 = 0xEDB8_8320;

/// A register times x: on to the next bit. Bit 31 is the coefficient of x^0.
const fn next_bit(c: u32) -> u32 {
    if c & 1 == 1 { c >> 1 ^ POLYNOMIAL } else { c >> 1 }
}

/// Registers after a byte, by its value.
const fn byte_table() -> [u32; 256] {
    let mut t = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            c = next_bit(c);
            bit += 1;
        }
        t[i] = c;
        i += 1;
    }
    t
}

/// CRC-32 of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    !update(!0, bytes)
}

/// CRC-32 of several pieces taken as one.
pub fn crc32_of(pieces: &[&[u8]]) -> u32 {
    !pieces.iter().fold(!0, |c, piece| update(c, piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32(b"a"), 0xE8B7_BE43);
    }

    /// Bit by bit, as the checksum is defined.
    fn defined(mut c: u32, bytes: &[u8]) -> u32 {
        for b in bytes {
            c ^= u32::from(*b);
            (0..8).for_each(|_| c = next_bit(c));
        }
        c
    }

    fn noise(len: usize) -> Vec<u8> {
        (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8 ^ i as u8).collect()
    }

    #[test]
    fn every_engine_computes_what_is_defined() {
        let bytes = noise(700);
        for start in [0, 1, 7, 13] {
            for len in (0..300).chain([383, 384, 447, 511, 512, 513, 640, 687]) {
                let piece = &bytes[start..][..len];
                for c in [0, !0, 0x8000_0001, 0x1234_5678] {
                    let want = defined(c, piece);
                    assert_eq!(update(c, piece), want, "{start} {len} {c:x}");
                    assert_eq!(slices::update(c, piece), want, "slices {start} {len} {c:x}");
                    assert_eq!(nibbles::update(c, piece), want, "nibbles {start} {len} {c:x}");
                }
            }
        }
    }

    #[test]
    fn pieces_are_one_message() {
        let bytes = noise(1000);
        for cut in [0, 1, 15, 16, 63, 64, 500, 999, 1000] {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(crc32_of(&[a, b]), crc32(&bytes), "{cut}");
        }
        assert_eq!(crc32_of(&[]), 0);
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let mut bytes = noise(300);
        let before = crc32(&bytes);
        for at in 0..bytes.len() {
            bytes[at] ^= 1 << (at % 8);
            assert_ne!(crc32(&bytes), before, "{at}");
            bytes[at] ^= 1 << (at % 8);
        }
    }
}
