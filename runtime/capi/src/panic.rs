//! Every Rust library without `std` must say what a panic does.

/// Waits for a watchdog or a debugger. Sessions reach it only through a defect of a kernel, and firmware whose kernels
/// have no path to it does not link it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    ride_panicked()
}

/// A name to look for in a binary.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ride_panicked() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
