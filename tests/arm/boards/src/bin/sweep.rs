//! The kernels against the oracle, on the core itself.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "../../../../../runtime/tests/sweep/mod.rs"]
mod sweep;

use boards::{say, semihosting};
use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use ride_runtime::kernels::BACKENDS;
use sweep::{Random, Sweep};

/// Bytes for the tensors of a case.
const HEAP: usize = 3 << 20;

/// Gives out memory upwards, and starts again at the bottom when everything has come back.
struct Bump {
    memory: Cell<[u64; HEAP / 8]>,
    used: Cell<usize>,
    alive: Cell<usize>,
}

// SAFETY: one core, no interrupts.
unsafe impl Sync for Bump {}

#[global_allocator]
static ALLOCATOR: Bump = Bump { memory: Cell::new([0; HEAP / 8]), used: Cell::new(0), alive: Cell::new(0) };

// SAFETY: pieces do not overlap: `used` only grows while any of them is alive.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let at = self.used.get().next_multiple_of(layout.align().max(8));
        if at + layout.size() > HEAP {
            return core::ptr::null_mut();
        }
        self.used.set(at + layout.size());
        self.alive.set(self.alive.get() + 1);
        // SAFETY: within the memory.
        unsafe { self.memory.as_ptr().cast::<u8>().add(at) }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {
        self.alive.set(self.alive.get() - 1);
        if self.alive.get() == 0 {
            self.used.set(0);
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let every = option_env!("SWEEP_EVERY").and_then(|n| n.parse().ok()).unwrap_or(7);
    for backend in BACKENDS {
        say!("{} {}", backend.isa.name(), backend.conv.name);
    }
    let mut cases = 0;
    // Layers of ImageNet size do not fit the memory of boards.
    type Walk = fn(&mut Sweep);
    let walks: [(&str, Walk); 10] = [
        ("layers_of_the_network", Sweep::layers_of_the_network),
        ("output_channels", Sweep::output_channels),
        ("widths", Sweep::widths),
        ("windows", Sweep::windows),
        ("input_channels", Sweep::input_channels),
        ("dense_layers", Sweep::dense_layers),
        ("pools", Sweep::pools),
        ("shortcuts", Sweep::shortcuts),
        ("groups", Sweep::groups),
        ("max_pools", Sweep::max_pools),
    ];
    for (seed, (name, walk)) in walks.into_iter().enumerate() {
        let mut sweep = Sweep { backends: BACKENDS, r: Random(seed as u64 + 1), every, seen: 0 };
        walk(&mut sweep);
        cases += sweep.seen / every;
        match sweep.seen {
            0 => say!("{name}: all pass"),
            n => say!("{name}: {} convolutions of {n} pass", n / every),
        }
    }
    assert!(cases > 50, "only {cases} convolutions have been run");
    semihosting::exit(0)
}
