//! Eight bytes a step, from tables of 8 KiB: where memory is plentiful.

use super::byte_table;

/// Registers after a byte and `n` zero bytes behind it.
static TABLES: [[u32; 256]; 8] = {
    let mut t = [byte_table(); 8];
    let mut n = 1;
    while n < 8 {
        let mut i = 0;
        while i < 256 {
            let c = t[n - 1][i];
            t[n][i] = c >> 8 ^ t[0][(c & 255) as usize];
            i += 1;
        }
        n += 1;
    }
    t
};

pub(super) fn update(mut c: u32, bytes: &[u8]) -> u32 {
    let (chunks, rest) = bytes.as_chunks::<8>();
    for b in chunks {
        let low = c ^ u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        c = TABLES[7][(low & 255) as usize]
            ^ TABLES[6][(low >> 8 & 255) as usize]
            ^ TABLES[5][(low >> 16 & 255) as usize]
            ^ TABLES[4][(low >> 24) as usize]
            ^ TABLES[3][usize::from(b[4])]
            ^ TABLES[2][usize::from(b[5])]
            ^ TABLES[1][usize::from(b[6])]
            ^ TABLES[0][usize::from(b[7])];
    }
    for &b in rest {
        c = c >> 8 ^ TABLES[0][usize::from(c as u8 ^ b)];
    }
    c
}
