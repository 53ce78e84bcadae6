//! The loops that must be written in Helium's instructions. Low-overhead loops with tail predication (`dlstp`, `letp`) take
//! any number of taps and touch nothing beyond them. Naked functions name the core themselves, because the assembler reads
//! them without the compiler's `-Ctarget-cpu`.

use core::arch::naked_asm;

/// Copies `n` bytes.
///
/// # Safety
/// They can be read and written.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn copy(to: *mut u8, from: *const u8, n: usize) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r7, lr}}",
        "wlstp.8 lr, r2, 3f",
        "2:",
        "vldrb.8 q0, [r1], #16",
        "vstrb.8 q0, [r0], #16",
        "letp lr, 2b",
        "3:",
        "pop {{r7, pc}}",
    )
}

/// Accumulators of 3 pixels by 2 channels: reads the two biases from `sums[0..2]`, leaves pixel `p` at `sums[4 * p..]`.
///
/// Sixteen taps take 12 instructions for 96 multiplications; accumulators must be even registers.
///
/// # Safety
/// There are `taps` bytes (at least one) at `windows` and each `taps` later for three windows, and the same at `weights`
/// for two channels; `sums` holds ten words.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn tile_3x2(windows: *const u8, weights: *const u8, taps: usize, sums: *mut i32) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r11, lr}}",
        "mov r12, r2",
        "mov r11, r3",
        "mov r5, r0",
        "add r7, r5, r12",
        "add r9, r7, r12",
        "add r3, r1, r12",
        "ldrd r0, r2, [r11]",
        "mov r4, r0",
        "mov r6, r2",
        "mov r8, r0",
        "mov r10, r2",
        "dlstp.8 lr, r12",
        "2:",
        "vldrb.8 q0, [r1], #16",
        "vldrb.8 q2, [r5], #16",
        "vmladava.s8 r0, q0, q2",
        "vldrb.8 q1, [r3], #16",
        "vmladava.s8 r2, q1, q2",
        "vldrb.8 q3, [r7], #16",
        "vmladava.s8 r4, q0, q3",
        "vmladava.s8 r6, q1, q3",
        "vldrb.8 q2, [r9], #16",
        "vmladava.s8 r8, q0, q2",
        "vmladava.s8 r10, q1, q2",
        "letp lr, 2b",
        "strd r0, r2, [r11]",
        "strd r4, r6, [r11, #16]",
        "strd r8, r10, [r11, #32]",
        "pop {{r4-r11, pc}}",
    )
}

/// What [`finish_bytes`] and [`finish_residual`] need for four channels.
#[repr(C)]
pub(super) struct Group {
    /// Four multipliers.
    pub(super) multiplier: *const u8,
    /// Four right shifts, each at least 33.
    pub(super) right_shift: *const u8,
    /// Bytes of an output pixel.
    pub(super) out_c: usize,
    /// Zero point of the output.
    pub(super) zero: i32,
}

/// Requantizes four channels of `held` pixels (`vqdmulh` and a rounding shift are the law) and stores saturated bytes.
///
/// # Safety
/// `sums` holds four words a pixel, `out` and every `out_c`th byte after it are four bytes of output; `held` is 1..=3.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn finish_bytes(sums: *const i32, group: &Group, out: *mut u8, held: usize) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4, r5, r7, lr}}",
        "ldrd r4, r5, [r1]",
        "vldrw.32 q1, [r4]",
        "vldrb.u32 q2, [r5]",
        "vneg.s32 q2, q2",
        "mov r4, #31",
        "vadd.i32 q2, q2, r4",
        "ldrd r4, r12, [r1, #8]",
        "dls lr, r3",
        "2:",
        "vldrw.32 q0, [r0], #16",
        "vqdmulh.s32 q0, q0, q1",
        "vrshl.s32 q0, q0, q2",
        "vadd.i32 q0, q0, r12",
        "vqmovnb.s32 q0, q0",
        "vqmovnb.s16 q0, q0",
        "vstrb.32 q0, [r2]",
        "add r2, r4",
        "le lr, 2b",
        "pop {{r4, r5, r7, pc}}",
    )
}

/// The same, added to the bytes that are there.
///
/// # Safety
/// As [`finish_bytes`].
#[unsafe(naked)]
pub(super) unsafe extern "C" fn finish_residual(sums: *const i32, group: &Group, out: *mut u8, held: usize) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4, r5, r7, lr}}",
        "ldrd r4, r5, [r1]",
        "vldrw.32 q1, [r4]",
        "vldrb.u32 q2, [r5]",
        "vneg.s32 q2, q2",
        "mov r4, #31",
        "vadd.i32 q2, q2, r4",
        "ldr r4, [r1, #8]",
        "dls lr, r3",
        "2:",
        "vldrw.32 q0, [r0], #16",
        "vqdmulh.s32 q0, q0, q1",
        "vldrb.s32 q3, [r2]",
        "vrshl.s32 q0, q0, q2",
        "vadd.i32 q0, q0, q3",
        "vqmovnb.s32 q0, q0",
        "vqmovnb.s16 q0, q0",
        "vstrb.32 q0, [r2]",
        "add r2, r4",
        "le lr, 2b",
        "pop {{r4, r5, r7, pc}}",
    )
}
