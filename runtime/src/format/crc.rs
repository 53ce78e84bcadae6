//! CRC-32 (IEEE 802.3, reflected polynomial 0xEDB88320) of sections and header: finds every burst of up to 32 bits.

const POLYNOMIAL: u32 = 0xEDB8_8320;

const fn tables<const N: usize>() -> [[u32; 256]; N] {
    let mut t = [[0u32; 256]; N];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 { c >> 1 ^ POLYNOMIAL } else { c >> 1 };
            bit += 1;
        }
        t[0][i] = c;
        i += 1;
    }
    let mut n = 1;
    while n < N {
        let mut i = 0;
        while i < 256 {
            let c = t[n - 1][i];
            t[n][i] = c >> 8 ^ t[0][(c & 255) as usize];
            i += 1;
        }
        n += 1;
    }
    t
}

/// Eight bytes a step where memory is plentiful.
#[cfg(any(test, feature = "std"))]
static TABLES: [[u32; 256]; 8] = tables();

/// CRC-32 of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    !update(!0, bytes)
}

/// CRC-32 of several pieces taken as one.
pub fn crc32_of(pieces: &[&[u8]]) -> u32 {
    !pieces.iter().fold(!0, |c, piece| update(c, piece))
}

#[cfg(any(test, feature = "std"))]
fn update(mut c: u32, bytes: &[u8]) -> u32 {
    let mut chunks = bytes.chunks_exact(8);
    for b in &mut chunks {
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
    for &b in chunks.remainder() {
        c = c >> 8 ^ TABLES[0][usize::from(c as u8 ^ b)];
    }
    c
}

/// Half a byte a step: a table of 64 bytes of flash.
#[cfg(not(any(test, feature = "std")))]
static NIBBLES: [u32; 16] = {
    let t = tables::<1>();
    let mut n = [0; 16];
    let mut i = 0;
    while i < 16 {
        n[i] = t[0][i << 4];
        i += 1;
    }
    n
};

#[cfg(not(any(test, feature = "std")))]
fn update(mut c: u32, bytes: &[u8]) -> u32 {
    for &b in bytes {
        c ^= u32::from(b);
        c = c >> 4 ^ NIBBLES[(c & 15) as usize];
        c = c >> 4 ^ NIBBLES[(c & 15) as usize];
    }
    c
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

    #[test]
    fn nibble_table_is_the_byte_table_thinned() {
        let t = tables::<1>();
        for b in 0..=255u32 {
            let mut c = b;
            for _ in 0..2 {
                c = c >> 4 ^ t[0][((c & 15) << 4) as usize];
            }
            assert_eq!(c, t[0][b as usize]);
        }
    }
}
