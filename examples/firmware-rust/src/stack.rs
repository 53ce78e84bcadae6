//! How deep the stack grows: what lies below it is painted, and later looked at.

use core::arch::asm;

/// Bytes below the stack pointer that are painted.
const DEPTH: usize = 16 << 10;
const PAINT: u32 = 0x5AFE_57AC;

unsafe extern "C" {
    /// End of the static variables (from the linker script): the stack must not grow below it.
    static __sheap: u32;
}

/// Words between the static variables and the stack pointer, [`DEPTH`] bytes at most.
#[inline(always)]
fn below() -> (*mut u32, usize) {
    let pointer: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, sp", out(reg) pointer, options(nomem, nostack, preserves_flags)) };
    let floor = (&raw const __sheap).addr().max(pointer.saturating_sub(DEPTH));
    (core::ptr::with_exposed_provenance_mut(floor), pointer.saturating_sub(floor) / 4)
}

/// Paints.
#[inline(always)]
pub fn paint() {
    let (floor, words) = below();
    for n in 0..words {
        // SAFETY: between the static variables and the stack pointer there is RAM that nothing uses; an interrupt's
        // frame, pushed in between, is popped before the next word is written.
        unsafe { floor.add(n).write_volatile(PAINT) }
    }
}

/// Bytes below the caller's stack pointer that have lost their paint.
#[inline(always)]
pub fn used() -> usize {
    let (floor, words) = below();
    // SAFETY: as above; any bits make a u32.
    let untouched = (0..words).take_while(|&n| unsafe { floor.add(n).read_volatile() } == PAINT).count();
    4 * (words - untouched)
}
