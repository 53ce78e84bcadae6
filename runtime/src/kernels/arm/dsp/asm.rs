//! The instructions of the DSP extension, and the two loops that must be written in them as a whole. Naked functions name
//! the architecture themselves: the assembler reads them without the compiler's `-Ctarget-cpu`, and Armv8-M alone has no DSP.

use core::arch::{asm, naked_asm};

/// Sign-extends bytes 0 and 2 to halfwords.
#[inline(always)]
pub(super) fn sxtb16(x: u32) -> u32 {
    let out: u32;
    // SAFETY: the Cargo feature `dsp` promises the extension; registers only.
    unsafe { asm!("sxtb16 {}, {}", lateout(reg) out, in(reg) x, options(pure, nomem, nostack, preserves_flags)) };
    out
}

/// Sign-extends bytes 1 and 3 to halfwords.
#[inline(always)]
pub(super) fn sxtb16_odd(x: u32) -> u32 {
    let out: u32;
    // SAFETY: the Cargo feature `dsp` promises the extension; registers only.
    unsafe {
        asm!("sxtb16 {}, {}, ror #8", lateout(reg) out, in(reg) x, options(pure, nomem, nostack, preserves_flags))
    };
    out
}

/// Adds bytes 0 and 2 of `x` to two halfword sums.
#[inline(always)]
pub(super) fn sxtab16(sums: u32, x: u32) -> u32 {
    let out: u32;
    // SAFETY: the Cargo feature `dsp` promises the extension; registers only.
    unsafe {
        asm!("sxtab16 {}, {}, {}", lateout(reg) out, in(reg) sums, in(reg) x,
            options(pure, nomem, nostack, preserves_flags))
    };
    out
}

/// Adds bytes 1 and 3 of `x` to two halfword sums.
#[inline(always)]
pub(super) fn sxtab16_odd(sums: u32, x: u32) -> u32 {
    let out: u32;
    // SAFETY: the Cargo feature `dsp` promises the extension; registers only.
    unsafe {
        asm!("sxtab16 {}, {}, {}, ror #8", lateout(reg) out, in(reg) sums, in(reg) x,
            options(pure, nomem, nostack, preserves_flags))
    };
    out
}

/// `acc + x.low * y.low + x.high * y.high` on halfwords. (The Q flag that it may set is nobody's.)
#[inline(always)]
pub(super) fn smlad(x: u32, y: u32, acc: i32) -> i32 {
    let out: i32;
    // SAFETY: the Cargo feature `dsp` promises the extension; registers and the Q flag only.
    unsafe {
        asm!("smlad {}, {}, {}, {}", lateout(reg) out, in(reg) x, in(reg) y, in(reg) acc,
            options(pure, nomem, nostack, preserves_flags))
    };
    out
}

/// `add + (a * b >> 32)`: with half of what is shifted out afterwards as `add`, the law's rounding.
#[inline(always)]
pub(super) fn smmla(a: i32, b: i32, add: i32) -> i32 {
    let out: i32;
    // SAFETY: the Cargo feature `dsp` promises the extension; registers only.
    unsafe {
        asm!("smmla {}, {}, {}, {}", lateout(reg) out, in(reg) a, in(reg) b, in(reg) add,
            options(pure, nomem, nostack, preserves_flags))
    };
    out
}

/// Saturates to a signed byte.
#[inline(always)]
pub(super) fn ssat8(x: i32) -> i32 {
    let out: i32;
    // SAFETY: registers and the Q flag only.
    unsafe { asm!("ssat {}, #8, {}", lateout(reg) out, in(reg) x, options(pure, nomem, nostack, preserves_flags)) };
    out
}

/// Spreads `words` words of four bytes from `from` to pairs of halfwords, `sxtb16` then `sxtb16 …, ror #8`, every
/// 24 bytes from `to` on (one of three pixels that lie side by side); returns where the next pair belongs.
///
/// # Safety
/// `4 * words` bytes can be read, and 8 bytes written at each of the places; `to` is aligned to words.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn spread(from: *const u8, words: usize, to: *mut u8) -> *mut u8 {
    naked_asm!(
        ".arch armv7e-m",
        "subs r1, #4",
        "blo 3f",
        "2:",
        "ldr r3, [r0], #4",
        "sxtb16 r12, r3",
        "sxtb16 r3, r3, ror #8",
        "strd r12, r3, [r2], #24",
        "ldr r3, [r0], #4",
        "sxtb16 r12, r3",
        "sxtb16 r3, r3, ror #8",
        "strd r12, r3, [r2], #24",
        "ldr r3, [r0], #4",
        "sxtb16 r12, r3",
        "sxtb16 r3, r3, ror #8",
        "strd r12, r3, [r2], #24",
        "ldr r3, [r0], #4",
        "sxtb16 r12, r3",
        "sxtb16 r3, r3, ror #8",
        "strd r12, r3, [r2], #24",
        "subs r1, #4",
        "bhs 2b",
        "3:",
        "adds r1, #4",
        "beq 5f",
        "4:",
        "ldr r3, [r0], #4",
        "sxtb16 r12, r3",
        "sxtb16 r3, r3, ror #8",
        "strd r12, r3, [r2], #24",
        "subs r1, #1",
        "bne 4b",
        "5:",
        "mov r0, r2",
        "bx lr",
    )
}

/// Accumulators of 3 pixels by 2 channels: reads the two biases from `sums[0..2]`, leaves `[pixel][channel]` there.
///
/// Six sums, four words of weights, two of activations and two pointers are all fourteen registers, so the end of the
/// loop waits on the stack. Two steps take 43 instructions for 48 multiplications.
///
/// # Safety
/// From `windows` to `end` there are whole double steps of 48 bytes (at least one), and in `weights` 16 bytes for each;
/// all pointers are aligned to words.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn tile_3x2(sums: *mut [i32; 6], weights: *const u8, windows: *const u8, end: *const u8) {
    naked_asm!(
        ".arch armv7e-m",
        "push {{r0, r3-r11, lr}}",
        "ldrd r6, r7, [r0]",
        "mov r0, r2",
        "mov r2, r6",
        "mov r3, r7",
        "mov r4, r6",
        "mov r5, r7",
        "2:",
        ".rept 2",
        "ldrd r8, r9, [r1], #8",
        "ldrd r12, lr, [r0], #8",
        "sxtb16 r10, r8",
        "sxtb16 r11, r9",
        "smlad r2, r10, r12, r2",
        "smlad r3, r11, r12, r3",
        "sxtb16 r8, r8, ror #8",
        "sxtb16 r9, r9, ror #8",
        "smlad r2, r8, lr, r2",
        "smlad r3, r9, lr, r3",
        "ldrd r12, lr, [r0], #8",
        "smlad r4, r10, r12, r4",
        "smlad r5, r11, r12, r5",
        "smlad r4, r8, lr, r4",
        "smlad r5, r9, lr, r5",
        "ldrd r12, lr, [r0], #8",
        "smlad r6, r10, r12, r6",
        "smlad r7, r11, r12, r7",
        "smlad r6, r8, lr, r6",
        "smlad r7, r9, lr, r7",
        ".endr",
        "ldr r12, [sp, #4]",
        "cmp r0, r12",
        "bne 2b",
        "ldr r0, [sp]",
        "stm r0, {{r2-r7}}",
        "pop {{r0, r3-r11, pc}}",
    )
}
