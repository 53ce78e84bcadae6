//! The loops that must be written in Helium's instructions. Low-overhead loops with tail predication (`dlstp`, `letp`) take
//! any number of taps and touch nothing beyond them. Naked functions name the core themselves, because the assembler reads
//! them without the compiler's `-Ctarget-cpu`.

use core::arch::naked_asm;

/// What [`gather`] copies.
#[repr(C)]
pub(super) struct Rows {
    /// First byte of the first row.
    pub(super) from: *const u8,
    /// Bytes from one row to the next.
    pub(super) from_step: usize,
    /// The same, where they go.
    pub(super) to_step: usize,
    /// Bytes of a row.
    pub(super) len: usize,
    /// Number of rows, at least one.
    pub(super) count: usize,
    /// What every byte is XORed with.
    pub(super) flip: u32,
}

/// Copies rows of a window.
///
/// # Safety
/// All bytes of all rows can be read, and written at `to`.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn gather(to: *mut u8, rows: &Rows) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r8, lr}}",
        "ldrd r2, r3, [r1]",
        "ldrd r4, r5, [r1, #8]",
        "ldrd r6, r7, [r1, #16]",
        "vdup.8 q1, r7",
        "2:",
        "mov r7, r2",
        "mov r8, r0",
        "wlstp.8 lr, r5, 4f",
        "3:",
        "vldrb.8 q0, [r7], #16",
        "veor q0, q0, q1",
        "vstrb.8 q0, [r8], #16",
        "letp lr, 3b",
        "4:",
        "add r2, r3",
        "add r0, r4",
        "subs r6, #1",
        "bne 2b",
        "pop {{r4-r8, pc}}",
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

/// Four channels at a time over three windows: what [`quads`] and [`quads_add`] work through, advancing all pointers but
/// that of the windows.
#[repr(C)]
pub(super) struct Quads {
    /// Three windows of `taps` bytes.
    pub(super) windows: *const u8,
    /// Rows of `taps` weights.
    pub(super) weights: *const u8,
    /// Bytes of a window, at least one.
    pub(super) taps: usize,
    /// Biases.
    pub(super) bias: *const u8,
    /// Multipliers.
    pub(super) multiplier: *const u8,
    /// Right shifts, each at least 33.
    pub(super) right_shift: *const u8,
    /// Bytes of the first pixel.
    pub(super) out: *mut u8,
    /// Bytes of an output pixel.
    pub(super) out_c: usize,
    /// Zero point of the output.
    pub(super) zero: i32,
    /// Pixels that are stored, 1..=3.
    pub(super) held: usize,
    /// Groups of four channels, at least one.
    pub(super) count: usize,
}

macro_rules! quads {
    ($(#[$doc:meta])* $name:ident, $load:literal, $add:literal) => {
        $(#[$doc])*
        ///
        /// Two pairs of channels as [`tile_3x2`], their sums on the stack, then `vqdmulh` and a rounding shift, which are the
        /// law, and saturation to bytes.
        ///
        /// # Safety
        /// All that [`Quads`] names exists; biases and multipliers are aligned to words.
        #[unsafe(naked)]
        pub(super) unsafe extern "C" fn $name(quads: &mut Quads) {
            naked_asm!(
                ".cpu cortex-m55",
                "push {{r0, r4-r11, lr}}",
                "sub sp, #48",
                "1:",
                ".set pair, 0",
                ".rept 2",
                "ldr r11, [sp, #48]",
                "ldrd r5, r1, [r11]",
                "ldrd r12, r9, [r11, #8]",
                "ldrd r0, r2, [r9], #8",
                "add r3, r1, r12",
                "add r4, r3, r12",
                "str r4, [r11, #4]",
                "str r9, [r11, #12]",
                "add r7, r5, r12",
                "add r9, r7, r12",
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
                "strd r0, r2, [sp, #pair]",
                "strd r4, r6, [sp, #pair + 16]",
                "strd r8, r10, [sp, #pair + 32]",
                ".set pair, 8",
                ".endr",
                "ldrd r4, r5, [r11, #16]",
                "vldrw.32 q1, [r4], #16",
                "vldrb.u32 q2, [r5], #4",
                "strd r4, r5, [r11, #16]",
                "vneg.s32 q2, q2",
                "movs r0, #31",
                "vadd.i32 q2, q2, r0",
                "ldrd r2, r3, [r11, #24]",
                "ldrd r12, r1, [r11, #32]",
                "adds r4, r2, #4",
                "str r4, [r11, #24]",
                "mov r6, sp",
                "dls lr, r1",
                "2:",
                "vldrw.32 q0, [r6], #16",
                "vqdmulh.s32 q0, q0, q1",
                $load,
                "vrshl.s32 q0, q0, q2",
                $add,
                "vqmovnb.s32 q0, q0",
                "vqmovnb.s16 q0, q0",
                "vstrb.32 q0, [r2]",
                "add r2, r3",
                "le lr, 2b",
                "ldr r0, [r11, #40]",
                "subs r0, #1",
                "str r0, [r11, #40]",
                "bne 1b",
                "add sp, #48",
                "pop {{r0, r4-r11, pc}}",
            )
        }
    };
}

quads!(
    /// Stores sums plus the zero point.
    quads,
    "",
    "vadd.i32 q0, q0, r12"
);
quads!(
    /// Adds sums to the bytes that are there.
    quads_add,
    "vldrb.s32 q3, [r2]",
    "vadd.i32 q0, q0, q3"
);

/// A requantization of bytes.
#[repr(C)]
pub(super) struct Rescale {
    /// Zero point of the input, negated.
    pub(super) minus_in_zero: i32,
    /// Moves differences up.
    pub(super) up: u32,
    /// Multiplier.
    pub(super) multiplier: i32,
    /// 31 less the right shift, which is at least 33.
    pub(super) minus_shift: i32,
    /// Zero point of the output.
    pub(super) zero: i32,
}

/// Requantizes `n` bytes to saturated bytes.
///
/// # Safety
/// They can be read and written.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn rescale(to: *mut u8, from: *const u8, n: usize, how: &Rescale) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4-r8, lr}}",
        "ldrd r4, r5, [r3]",
        "ldrd r6, r7, [r3, #8]",
        "ldr r8, [r3, #16]",
        "wlstp.32 lr, r2, 3f",
        "2:",
        "vldrb.s32 q0, [r1], #4",
        "vadd.i32 q0, q0, r4",
        "vshl.s32 q0, r5",
        "vqdmulh.s32 q0, q0, r6",
        "vrshl.s32 q0, r7",
        "vadd.i32 q0, q0, r8",
        "vqmovnb.s32 q0, q0",
        "vqmovnb.s16 q0, q0",
        "vstrb.32 q0, [r0], #4",
        "letp lr, 2b",
        "3:",
        "pop {{r4-r8, pc}}",
    )
}

/// Product of `n` int8 weights and 16-bit features.
///
/// # Safety
/// They can be read; features are aligned to halfwords; `n` is at least one.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn dot(weights: *const u8, features: *const u8, n: usize) -> i32 {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r7, lr}}",
        "mov r12, #0",
        "dlstp.16 lr, r2",
        "2:",
        "vldrb.s16 q0, [r0], #8",
        "vldrh.u16 q1, [r1], #16",
        "vmladava.s16 r12, q0, q1",
        "letp lr, 2b",
        "mov r0, r12",
        "pop {{r7, pc}}",
    )
}
