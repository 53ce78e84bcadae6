//! Vectors and reset: gives the floating-point and vector units to the program, then calls its `main`.

use crate::semihosting::{exit, print};
use core::arch::naked_asm;

/// Reset, NMI, hard fault and the faults of Armv7-M and Armv8-M behind the initial stack pointer.
#[used]
#[unsafe(link_section = ".vectors")]
static VECTORS: [unsafe extern "C" fn() -> !; 7] = [reset, fault, fault, fault, fault, fault, fault];

/// # Safety
/// For the processor only.
#[cfg(target_abi = "eabihf")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn reset() -> ! {
    naked_asm!(
        "ldr r0, =0xE000ED88", // CPACR: access to coprocessors 10 and 11
        "ldr r1, [r0]",
        "orr r1, r1, #0xF00000",
        "str r1, [r0]",
        "dsb",
        "isb",
        "bl main",
        "udf #0",
        ".ltorg",
    )
}

/// # Safety
/// For the processor only.
#[cfg(not(target_abi = "eabihf"))]
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn reset() -> ! {
    naked_asm!("bl main", "udf #0")
}

unsafe extern "C" fn fault() -> ! {
    print("fault\n\0");
    exit(3)
}
