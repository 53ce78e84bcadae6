//! Where the numbers of all cases come from.

use alloc::vec::Vec;

use ride_runtime::op::Limits;

/// Random numbers (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(super) fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(super) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// Zero point and limits of an output: those of a ReLU, of none, and any.
pub(super) fn limits(wide: bool, r: &mut Random) -> Limits {
    let mut draw = || if wide { r.next() as i16 } else { i16::from(r.next() as i8) };
    let (a, b, zero) = (draw(), draw(), draw());
    let (least, most) = if wide { (i16::MIN, i16::MAX) } else { (-128, 127) };
    match r.below(4) {
        0 => Limits { zero: least, min: least, max: most },
        1 => Limits { zero, min: zero, max: most },
        2 => Limits { zero, min: least, max: most },
        _ => Limits { zero, min: a.min(b), max: a.max(b) },
    }
}
