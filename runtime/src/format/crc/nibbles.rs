//! Half a byte a step: a table of 64 bytes of flash.

use super::byte_table;

static NIBBLES: [u32; 16] = {
    let t = byte_table();
    let mut n = [0; 16];
    let mut i = 0;
    while i < 16 {
        n[i] = t[i << 4];
        i += 1;
    }
    n
};

pub(super) fn update(mut c: u32, bytes: &[u8]) -> u32 {
    for &b in bytes {
        c ^= u32::from(b);
        c = c >> 4 ^ NIBBLES[(c & 15) as usize];
        c = c >> 4 ^ NIBBLES[(c & 15) as usize];
    }
    c
}
