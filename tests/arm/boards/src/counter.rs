//! Marks regions for the instruction counter, `tests/arm/icount.c`: hints that do nothing on real cores.

/// Number of regions that can be told apart.
pub const REGIONS: usize = 16;

macro_rules! hint {
    ($n:expr) => {
        // SAFETY: a hint without meaning. Memory accesses do not move across it.
        unsafe { core::arch::asm!(".inst.w {}", const 0xF3AF_8060u32 + $n, options(nostack, preserves_flags)) }
    };
}

macro_rules! regions {
    ($name:ident, $offset:literal, $($k:literal)*) => {
        /// One end of region `k`; regions from [`REGIONS`] on do not exist.
        #[inline(always)]
        pub fn $name(k: usize) {
            match k {
                $($k => hint!(2 * $k + $offset),)*
                _ => {}
            }
        }
    };
}

regions!(start, 0, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
regions!(stop, 1, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
