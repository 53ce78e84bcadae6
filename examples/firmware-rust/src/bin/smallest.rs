//! The smallest firmware: checks the embedded artifact, tests it and classifies one image.
//!
//! What it links besides the artifact, its image and the start-up code is the runtime, so its size is the runtime's size.
#![no_std]
#![no_main]

use core::ptr::addr_of_mut;
use core::sync::atomic::{AtomicUsize, Ordering};

use cortex_m_rt::entry;
use ride_runtime::{Error, Model, Policy, Session};

/// The artifact, made by `ride-compile build --emit rust`.
mod model {
    include!(env!("RIDE_MODEL_RS"));
}

/// The class of the image, for a debugger to read; `usize::MAX` before there is one and after an error.
#[unsafe(no_mangle)]
pub static RIDE_CLASS: AtomicUsize = AtomicUsize::new(usize::MAX);

static mut ARENA: model::Arena = model::Aligned([0; model::ARENA_BYTES]);
static mut PIXELS: [u8; model::IMAGE_BYTES] = [0; model::IMAGE_BYTES];

#[entry]
fn main() -> ! {
    // SAFETY: `main` runs once, and nothing else names these two.
    let (arena, pixels) = unsafe { (&mut (*addr_of_mut!(ARENA)).0, &mut *addr_of_mut!(PIXELS)) };
    RIDE_CLASS.store(classify(arena, pixels).unwrap_or(usize::MAX), Ordering::Relaxed);
    loop {
        cortex_m::asm::wfi();
    }
}

/// The self-test leaves the image of its last vector in `pixels`, which is then classified.
fn classify(arena: &mut [u8], pixels: &mut [u8]) -> Result<usize, Error> {
    let mut session = Session::new(Model::parse(model::artifact())?, arena)?;
    session.self_test(pixels)?;
    Ok(session.classify(pixels, Policy::Routed)?.class)
}

/// Required by the compiler; nothing calls it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
