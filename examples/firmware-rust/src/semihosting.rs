//! Text and exit codes through the debugger: Arm's semihosting, which probe-rs, OpenOCD and QEMU answer.

use core::arch::asm;

const SYS_WRITE0: u32 = 0x04;
const SYS_EXIT_EXTENDED: u32 = 0x20;
const ADP_STOPPED_APPLICATION_EXIT: u32 = 0x20026;
/// Bytes of a piece of text, its final zero included.
const PIECE: usize = 64;

/// One operation. Without a debugger the breakpoint is a fault.
///
/// # Safety
/// `argument` is what the operation wants, for most of them an address of readable memory.
unsafe fn call(operation: u32, argument: *const u32) {
    // SAFETY: the debugger reads what `argument` points to and changes r0 only.
    unsafe { asm!("bkpt 0xab", inout("r0") operation => _, in("r1") argument, options(nostack, preserves_flags)) }
}

/// Writes text, in zero-terminated pieces.
pub fn write(text: &str) {
    for part in text.as_bytes().chunks(PIECE - 1) {
        let mut piece = [0u8; PIECE];
        for (to, from) in piece.iter_mut().zip(part) {
            *to = *from;
        }
        // SAFETY: the piece ends with at least one zero.
        unsafe { call(SYS_WRITE0, piece.as_ptr().cast()) }
    }
}

/// Ends the program; where nobody listens, waits for ever.
pub fn exit(code: u32) -> ! {
    let block = [ADP_STOPPED_APPLICATION_EXIT, code];
    // SAFETY: the operation reads two words.
    unsafe { call(SYS_EXIT_EXTENDED, block.as_ptr()) }
    loop {
        cortex_m::asm::wfi();
    }
}
