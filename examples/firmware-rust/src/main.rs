//! Classifies embedded images with an embedded artifact, tests it, and reports latency against the number of experts as
//! JSON through the debugger (semihosting).
#![no_std]
#![no_main]

#[cfg(not(armv6m))]
mod cycles;
#[cfg(armv6m)]
#[path = "no_cycles.rs"]
mod cycles;
mod machine;
mod semihosting;
mod stack;

use core::ptr::addr_of_mut;

use cortex_m_rt::entry;
use ride_report::{Memory, Setup};
use ride_runtime::{Error, Model, Session};

use machine::Board;

/// The artifact, made by `ride-compile build --emit rust`.
mod model {
    include!(env!("RIDE_MODEL_RS"));
}

/// The board, chosen by `RIDE_BOARD`.
mod board {
    include!(concat!(env!("OUT_DIR"), "/board.rs"));
}

/// Times that are kept for a median.
const SAMPLES: usize = 64;

/// Images, as a camera would give them: raw pixels.
static IMAGES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/images.bin"));

static mut ARENA: model::Arena = model::Aligned([0; model::ARENA_BYTES]);
static mut PIXELS: [u8; model::IMAGE_BYTES] = [0; model::IMAGE_BYTES];

#[entry]
fn main() -> ! {
    // SAFETY: `main` runs once, and nothing else names these two.
    let (arena, pixels) = unsafe { (&mut (*addr_of_mut!(ARENA)).0, &mut *addr_of_mut!(PIXELS)) };
    match report(arena, pixels) {
        Ok(()) => semihosting::exit(0),
        Err(error) => {
            semihosting::write("error: ");
            semihosting::write(words(&error));
            semihosting::write("\n");
            semihosting::exit(1)
        }
    }
}

fn report(arena: &mut [u8], pixels: &mut [u8]) -> Result<(), Error> {
    let mut session = Session::new(Model::parse(model::artifact())?, arena)?;
    let mut machine = Board::new();
    let setup =
        Setup { cpu: board::NAME, timer: machine.timer(), images: IMAGES, source: "embedded", rounds: board::ROUNDS };
    let mut samples = [0; SAMPLES];
    ride_report::run(&mut machine, &mut session, Memory { pixels, samples: &mut samples }, &setup)
}

/// Constant words: `Display` would link the formatting machinery, which is larger than the runtime.
fn words(error: &Error) -> &'static str {
    match error {
        Error::SelfTest { .. } => "self-test failed",
        Error::InputLength { .. } => "the embedded images do not fit the artifact's input",
        Error::NoKernel { .. } => {
            "no kernel of this build reads the artifact: build ride-runtime with its target's features"
        }
        Error::Checksum { section, .. } | Error::Invalid { section, .. } => section,
        _ => "the artifact cannot be used",
    }
}

/// Required by the compiler; nothing calls it, and the linker leaves it out.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    semihosting::exit(2)
}
