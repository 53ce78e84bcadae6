//! The `crc32` instructions, which have this polynomial: eight bytes each.

use super::slices;
use core::arch::aarch64::{__crc32b, __crc32d};

pub(super) fn update(c: u32, bytes: &[u8]) -> u32 {
    if std::arch::is_aarch64_feature_detected!("crc") {
        // SAFETY: the processor has the instructions.
        unsafe { whole(c, bytes) }
    } else {
        slices::update(c, bytes)
    }
}

#[target_feature(enable = "crc")]
fn whole(mut c: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks();
    for word in words {
        c = __crc32d(c, u64::from_le_bytes(*word));
    }
    for &b in rest {
        c = __crc32b(c, b);
    }
    c
}
