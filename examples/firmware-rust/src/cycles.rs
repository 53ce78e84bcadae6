//! The cycle counter of Armv7-M and Armv8-M.

use cortex_m::peripheral::{DCB, DWT};

/// Starts the counter and says whether it counts: QEMU has one that does not, and some cores have none.
pub fn start(dcb: &mut DCB, dwt: &mut DWT) -> bool {
    dcb.enable_trace();
    if !DWT::has_cycle_counter() {
        return false;
    }
    dwt.enable_cycle_counter();
    let start = DWT::cycle_count();
    cortex_m::asm::delay(64);
    DWT::cycle_count() != start
}

/// Cycles, modulo 2^32.
pub fn now() -> u32 {
    DWT::cycle_count()
}
