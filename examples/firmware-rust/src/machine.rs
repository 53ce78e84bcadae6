//! The clock: the cycle counter where the core has one that runs, SysTick otherwise.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::peripheral::{Peripherals, SYST};
use cortex_m_rt::exception;
use ride_report::{Machine, Timer};

use crate::{board, cycles, semihosting, stack};

/// SysTick counts 24 bits down.
const SYSTICK_PERIOD: u32 = 1 << 24;
/// Instructions a second under QEMU's `-icount shift=0`: each takes a nanosecond.
const EMULATED_PER_SECOND: u64 = 1_000_000_000;

/// Instructions of the loop that shows whether they are counted.
const PROBE: u32 = 1 << 18;

static WRAPS: AtomicU32 = AtomicU32::new(0);

#[exception]
fn SysTick() {
    // Not `fetch_add`: the smallest cores cannot, and only this function writes.
    WRAPS.store(WRAPS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// The board.
pub struct Board {
    cycles: bool,
    /// The cycle counter made 64 bits wide, as of the last look at it. Looks are less than 2^32 cycles apart: every
    /// inference begins and ends with one.
    seen: u64,
    /// Whether an emulator counts instructions.
    counted: bool,
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
        let mut board = Board { cycles: cycles::start(&mut DCB, &mut DWT), seen: 0, counted: false };
        board.counted = board::EMULATED && board.counts_instructions();
        board
    }

    /// What the clock counts.
    pub fn timer(&self) -> Timer {
        let per_second = u64::from(board::CLOCK_HZ);
        match (self.cycles, board::EMULATED, self.counted) {
            (true, ..) => Timer { name: "dwt", counts: "cycles", per_second },
            (false, false, _) => Timer { name: "systick", counts: "cycles", per_second },
            (false, true, true) => Timer { name: "icount", counts: "instructions", per_second },
            // The emulator's clock follows that of its host, which says nothing about a board.
            (false, true, false) => Timer { name: "host", counts: "nanoseconds", per_second: EMULATED_PER_SECOND },
        }
    }

    /// Whether a loop of known length takes a nanosecond for each of its instructions: QEMU runs with `-icount shift=0`.
    fn counts_instructions(&self) -> bool {
        let start = self.systick();
        // SAFETY: registers and flags only.
        unsafe { asm!("2:", "subs {n}, #1", "bne 2b", n = inout(reg) PROBE / 2 => _, options(nomem, nostack)) };
        let took = self.systick().wrapping_sub(start);
        took.abs_diff(u64::from(PROBE)) < u64::from(PROBE / 64)
    }

    /// 64 bits of SysTick.
    fn systick(&self) -> u64 {
        loop {
            let wraps = WRAPS.load(Ordering::Relaxed);
            let count = SYST::get_current();
            if wraps == WRAPS.load(Ordering::Relaxed) {
                // It counts from the period's last value down to 0, where the exception comes.
                let since = (SYSTICK_PERIOD - count) % SYSTICK_PERIOD;
                let ticks = u64::from(wraps) * u64::from(SYSTICK_PERIOD) + u64::from(since);
                return if board::EMULATED {
                    ticks * (EMULATED_PER_SECOND / u64::from(board::CLOCK_HZ))
                } else {
                    ticks
                };
            }
        }
    }
}

impl Machine for Board {
    fn now(&mut self) -> u64 {
        if !self.cycles {
            return self.systick();
        }
        self.seen += u64::from(cycles::now().wrapping_sub(self.seen as u32));
        self.seen
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
