//! How deep the stack has been.

use core::arch::asm;

/// Bytes that are watched.
const DEPTH: usize = 32 << 10;
/// Left alone, because the painter itself stands there.
const OWN: usize = 256;
const PAINT: u32 = 0xA5C3_5A3C;

fn pointer() -> usize {
    let sp: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp & !3
}

/// Paints the unused stack and returns where it begins.
#[inline(never)]
pub fn paint() -> usize {
    let top = pointer();
    for at in (top - DEPTH..top - OWN).step_by(4) {
        // SAFETY: below everything that is in use, and far above the end of the RAM's statics.
        unsafe { (at as *mut u32).write_volatile(PAINT) };
    }
    top
}

/// Bytes below `top` that have been written since [`paint`]; at least what the painter left alone.
pub fn depth(top: usize) -> usize {
    // SAFETY: painted memory.
    let untouched = |&at: &usize| unsafe { (at as *const u32).read_volatile() } == PAINT;
    DEPTH - 4 * (top - DEPTH..top - OWN).step_by(4).take_while(untouched).count()
}
