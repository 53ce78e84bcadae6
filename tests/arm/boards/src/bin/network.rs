//! A whole artifact on the core: its golden vectors, instructions by kind of layer, and the stack.
//!
//! Reads `artifact.ride` from the emulator's folder. Regions of the counter: 0 is `classify` with all experts, 1 the same
//! with one, the others are the layers of RIDE's ResNet-32, see [`region`].
#![no_std]
#![no_main]

use boards::{counter, say, semihosting, stack};
use core::cell::UnsafeCell;
use ride_runtime::exec::{Output, Probe};
use ride_runtime::model::PartId;
use ride_runtime::op::{Op, Step};
use ride_runtime::{Error, Model, Policy, Session, golden};

/// Memory of fixed size, taken once.
#[repr(align(64))]
struct Memory<const N: usize>(UnsafeCell<[u8; N]>);

// SAFETY: one core, no interrupts, and `take` is called once for each.
unsafe impl<const N: usize> Sync for Memory<N> {}

impl<const N: usize> Memory<N> {
    const fn new() -> Self {
        Memory(UnsafeCell::new([0; N]))
    }

    #[allow(clippy::mut_from_ref, reason = "taken once: there is nobody else to borrow from")]
    fn take(&'static self) -> &'static mut [u8] {
        // SAFETY: called once.
        unsafe { &mut *self.0.get() }
    }
}

/// Most bytes of stack that `classify` may take.
const STACK: usize = 4096;

static ARTIFACT: Memory<{ 2 << 20 }> = Memory::new();
static ARENA: Memory<{ 256 << 10 }> = Memory::new();
static IMAGE: Memory<{ 64 << 10 }> = Memory::new();

/// Region of an operation: input channels decide, and whether a residual is added.
fn region(op: &Op) -> usize {
    match op {
        Op::Conv(c) => {
            let (i, o) = (c.shape.in_c, c.shape.out_c);
            let add = usize::from(c.accumulate);
            match i {
                3 => 2,
                16 if o == i => 3 + add,
                16 => 5,
                24 if o == i => 6 + add,
                24 => 8,
                _ => 9 + add,
            }
        }
        Op::Shortcut(s) if s.in_c == 16 => 11,
        Op::Shortcut(_) => 12,
        Op::Pool(_) => 13,
        Op::Head(_) => 14,
        #[allow(unreachable_patterns)]
        _ => 15,
    }
}

struct Marks;

impl Probe for Marks {
    #[inline(always)]
    fn before(&mut self, _: PartId, _: usize, step: &Step) {
        counter::start(region(&step.op));
    }

    #[inline(always)]
    fn after(&mut self, _: PartId, _: usize, step: &Step, _: Output<'_>) {
        counter::stop(region(&step.op));
    }
}

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    let memory = ARTIFACT.take();
    let Some(bytes) = semihosting::read("artifact.ride\0", memory) else {
        say!("artifact.ride cannot be read");
        semihosting::exit(1)
    };
    let model = match Model::parse(bytes) {
        Ok(model) => model,
        Err(e) => {
            say!("artifact.ride: {e}");
            semihosting::exit(1)
        }
    };
    let (height, width, channels) = model.input();
    let image = &mut IMAGE.take()[..height * width * channels];
    let arena = ARENA.take();
    let mut session = match Session::new(model, arena) {
        Ok(session) => session,
        Err(e) => {
            say!("{e}");
            semihosting::exit(1)
        }
    };
    say!("kernels {}", session.backend().conv.name);
    say!("arena {}", model.arena_len());
    if option_env!("COUNT_ONLY").is_none() {
        match session.self_test(image) {
            Ok(n) => say!("self-test {n} vectors"),
            Err(e) => {
                say!("{e}");
                semihosting::exit(1)
            }
        }
    }
    golden::image(1, (width, channels), image);
    let top = stack::paint();
    counter::start(0);
    let all = session.classify(image, Policy::All).map(|o| o.class);
    counter::stop(0);
    let depth = stack::depth(top);
    say!("stack {depth}");
    assert!(depth <= STACK, "classify takes {depth} bytes of stack, more than {STACK}");
    counter::start(1);
    let one = session.classify(image, Policy::Exactly(1)).map(|o| o.class);
    counter::stop(1);
    let probed = session.classify_probed(image, Policy::All, &mut Marks).map(|o| o.class);
    let class = |r| if let Ok(c) = r { c } else { semihosting::exit(1) };
    say!("class {} with all experts, {} with one", class(all), class(one));
    if class(all) != class(probed) {
        semihosting::exit(1);
    }
    misaligned(&mut memory[1..], arena, image);
    semihosting::exit(0)
}

/// An artifact at an odd address is refused, or gives the same bits.
fn misaligned(memory: &mut [u8], arena: &mut [u8], image: &mut [u8]) {
    let Some(Ok(model)) = semihosting::read("artifact.ride\0", memory).map(Model::parse) else { semihosting::exit(1) };
    match Session::new(model, arena).and_then(|mut session| session.self_test(image)) {
        Ok(_) => say!("an artifact at an odd address runs"),
        Err(e @ Error::ArtifactMisaligned { .. }) => say!("an artifact at an odd address is refused: {e}"),
        Err(e) => {
            say!("an artifact at an odd address: {e}");
            semihosting::exit(1)
        }
    }
}
