//! The clock: the cycle counter where the core has one that runs, SysTick otherwise.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::peripheral::{DCB, DWT, Peripherals, SYST};
use cortex_m_rt::exception;
use ride_report::{Machine, Timer};

use crate::{board, semihosting, stack};

/// SysTick counts 24 bits down.
const SYSTICK_PERIOD: u32 = 1 << 24;
/// Instructions a second under QEMU's `-icount shift=0`: each takes a nanosecond.
const EMULATED_PER_SECOND: u64 = 1_000_000_000;

static WRAPS: AtomicU32 = AtomicU32::new(0);

#[exception]
fn SysTick() {
    // Not `fetch_add`: the smallest cores cannot, and only this function writes.
    WRAPS.store(WRAPS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// The board.
pub struct Board {
    cycles: bool,
}

impl Board {
    /// Starts the clocks.
    pub fn new() -> Self {
        // SAFETY: `main` calls this once, and nothing else uses the peripherals.
        let Peripherals { mut SYST, mut DCB, mut DWT, .. } = unsafe { Peripherals::steal() };
        SYST.set_clock_source(SystClkSource::Core);
        SYST.set_reload(SYSTICK_PERIOD - 1);
        SYST.clear_current();
        SYST.enable_interrupt();
        SYST.enable_counter();
        Board { cycles: start_cycles(&mut DCB, &mut DWT) }
    }

    /// What the clock counts.
    pub fn timer(&self) -> Timer {
        match (self.cycles, board::EMULATED) {
            (true, _) => Timer { name: "dwt", counts: "cycles", per_second: u64::from(board::CLOCK_HZ) },
            (false, false) => Timer { name: "systick", counts: "cycles", per_second: u64::from(board::CLOCK_HZ) },
            (false, true) => Timer { name: "systick", counts: "instructions", per_second: u64::from(board::CLOCK_HZ) },
        }
    }

    /// 64 bits of SysTick.
    fn systick(&self) -> u64 {
        loop {
            let wraps = WRAPS.load(Ordering::Relaxed);
            let count = SYST::get_current();
            if wraps == WRAPS.load(Ordering::Relaxed) {
                let ticks = u64::from(wraps) * u64::from(SYSTICK_PERIOD) + u64::from(SYSTICK_PERIOD - 1 - count);
                return if board::EMULATED {
                    ticks * (EMULATED_PER_SECOND / u64::from(board::CLOCK_HZ))
                } else {
                    ticks
                };
            }
        }
    }
}

/// Whether there is a cycle counter that counts: QEMU has one that does not, Cortex-M0+ has none.
#[cfg(not(armv6m))]
fn start_cycles(dcb: &mut DCB, dwt: &mut DWT) -> bool {
    dcb.enable_trace();
    if !DWT::has_cycle_counter() {
        return false;
    }
    dwt.enable_cycle_counter();
    let start = DWT::cycle_count();
    cortex_m::asm::delay(64);
    DWT::cycle_count() != start
}

#[cfg(armv6m)]
fn start_cycles(_: &mut DCB, _: &mut DWT) -> bool {
    false
}

impl Machine for Board {
    fn now(&mut self) -> u64 {
        if self.cycles { u64::from(DWT::cycle_count()) } else { self.systick() }
    }

    fn write(&mut self, text: &str) {
        semihosting::write(text);
    }

    fn before_stack(&mut self) {
        stack::paint();
    }

    fn stack_bytes(&mut self) -> Option<u64> {
        Some(stack::used() as u64)
    }
}
