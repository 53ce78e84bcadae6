//! Sessions in the caller's memory.

use core::ops::Range;

use ride_runtime::op::Criterion;
use ride_runtime::{Session, confidence};

use crate::memory::{Out, bytes, bytes_mut, check, extent, overlap};
use crate::model::{RideModel, opened};
use crate::policy::{Policy, wanted};
use crate::profile::{Profiler, Watch};
use crate::status::{done, explain};
use crate::{Detail, Status, Text};

/// Words of a `ride_session`; more than it uses, so that it may grow.
pub const SESSION_WORDS: usize = 16;

/// A model with an arena to run in: memory of the caller's, whose content is private. It must not be moved or copied
/// (a copy is refused as not initialised). One thread at a time may use it; sessions of one model are independent. It
/// needs no end: forget it when the arena is needed for something else.
#[repr(C)]
#[derive(Debug)]
pub struct RideSession {
    /// Private.
    pub words: [usize; SESSION_WORDS],
}

/// What lies in a [`RideSession`].
#[repr(C)]
struct Live {
    /// [`READY`] or [`BUSY`], XORed with the address.
    state: usize,
    session: Session<'static, 'static>,
    arena: Range<usize>,
    /// Complement of [`READY`], XORed with the address.
    end: usize,
}

const _: () = assert!(size_of::<Live>() <= size_of::<RideSession>());
const _: () = assert!(align_of::<Live>() <= align_of::<RideSession>());

/// Tells a session from other memory.
const READY: usize = 0x5344_4952;
/// The same while a call runs.
const BUSY: usize = 0x5359_5342;

/// The answer for one sample.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Class with the largest logit.
    pub class_index: u32,
    /// Experts that ran.
    pub experts: u32,
    /// Softmax probability of that class, by the same operations on every machine. Networks are often surer than right:
    /// calibrate before you rely on it.
    pub confidence: f32,
    /// Number of logits.
    pub classes: u32,
    /// Mean of the logits of the experts that ran, one for each class. They lie in the arena until the next call on the
    /// session.
    pub logits: *const f32,
}

/// The kernels that a session uses.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// Name of the convolution, which takes most of the time.
    pub kernel: Text,
    /// Instruction set.
    pub isa: Text,
}

/// A session that was found to be one.
pub(crate) struct Found(*mut Live);

impl Found {
    /// Looks at the seals.
    ///
    /// # Safety
    /// If `pointer` is not null and aligned, there is a `RideSession`'s memory.
    pub(crate) unsafe fn at(pointer: *const RideSession) -> Result<Self, Status> {
        check(pointer)?;
        let live = pointer.cast_mut().cast::<Live>();
        // SAFETY: a `Live` fits into the caller's memory, and words have no invalid bits. Volatile, because the function
        // that set the state may have been interrupted by the caller of this one.
        let (state, end) = unsafe { ((&raw const (*live).state).read_volatile(), (&raw const (*live).end).read()) };
        let address = pointer.addr();
        match (state ^ address, !end ^ address) {
            (READY, READY) => Ok(Found(live)),
            (BUSY, READY) => Err(Status::Busy),
            _ => Err(Status::NotInitialised),
        }
    }

    /// The session, for reading.
    pub(crate) fn session(&self) -> &Session<'static, 'static> {
        // SAFETY: the seals say that `ride_session_init` wrote it, and that no call runs that could change it.
        unsafe { &(*self.0).session }
    }

    /// Runs `work` with the session; meanwhile it is marked as busy.
    pub(crate) fn run<R>(&self, work: impl FnOnce(&mut Session<'static, 'static>) -> R) -> R {
        let state = |word: usize| {
            // SAFETY: as above; volatile, so that it is seen by whoever interrupts `work`.
            unsafe { (&raw mut (*self.0).state).write_volatile(word ^ self.0.addr()) }
        };
        state(BUSY);
        // SAFETY: as above; whoever comes meanwhile is turned away by the state.
        let result = work(unsafe { &mut (*self.0).session });
        state(READY);
        result
    }

    /// Checks that `extent` touches neither the session nor its arena.
    pub(crate) fn apart(&self, extent: &Range<usize>) -> Result<(), Status> {
        // SAFETY: as above.
        let arena = unsafe { &(*self.0).arena };
        let own = self.0.addr()..self.0.addr() + size_of::<RideSession>();
        if overlap(extent, arena) || overlap(extent, &own) { Err(Status::Overlap) } else { Ok(()) }
    }

    /// Where a result is to be put, apart from the session.
    ///
    /// # Safety
    /// As [`Out::new`].
    pub(crate) unsafe fn out<T>(&self, pointer: *mut T) -> Result<Out<T>, Status> {
        self.apart(&extent(pointer, size_of::<T>())?)?;
        // SAFETY: the caller's promise.
        unsafe { Out::new(pointer) }
    }

    /// An image to read.
    ///
    /// # Safety
    /// As [`bytes`].
    pub(crate) unsafe fn image<'a>(&self, image: *const u8, length: usize) -> Result<&'a [u8], Status> {
        self.apart(&extent(image, length)?)?;
        // SAFETY: the caller's promise.
        unsafe { bytes(image, length) }
    }
}

/// The outcome of `session` as C sees it.
pub(crate) fn outcome(session: &Session<'_, '_>) -> Result<Outcome, Status> {
    let outcome = session.outcome()?;
    // SAFETY: every f32 is four valid bytes, and bytes need no alignment.
    let (_, bits, _) = unsafe { outcome.logits.align_to::<[u8; 4]>() };
    Ok(Outcome {
        class_index: outcome.class as u32,
        experts: outcome.experts as u32,
        confidence: confidence::score(Criterion::MaxProbability, bits),
        classes: outcome.logits.len() as u32,
        logits: outcome.logits.as_ptr(),
    })
}

/// Makes a session for `model` in `*session`, with the fastest kernels of this build that this machine has. `arena` is
/// `ride_info.arena_bytes` bytes (or more, which stay untouched) at a multiple of `RIDE_ALIGN`, initialised to anything; it
/// is the session's as long as that is used. `model` may be forgotten afterwards, the artifact may not.
///
/// What `*session` held before is not looked at: it must not be a session that is in the middle of a call. `detail` (or null)
/// is told more about a failure.
///
/// # Safety
/// As [`crate::ride_model_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_session_init(
    session: *mut RideSession,
    model: *const RideModel,
    arena: *mut u8,
    arena_bytes: usize,
    detail: *mut Detail,
) -> Status {
    // SAFETY: the caller's promise.
    unsafe { explain(init(session, model, (arena, arena_bytes)), detail) }
}

unsafe fn init(
    session: *mut RideSession,
    model: *const RideModel,
    (arena, length): (*mut u8, usize),
) -> Result<(), Detail> {
    check(session)?;
    // SAFETY: the caller's promise.
    let model = *unsafe { opened(model) }?;
    let (own, artifact) = (extent(session, size_of::<RideSession>())?, model.bytes());
    let (lent, artifact) = (extent(arena, length)?, extent(artifact.as_ptr(), artifact.len())?);
    if overlap(&own, &lent) || overlap(&own, &artifact) || overlap(&lent, &artifact) {
        return Err(Status::Overlap.into());
    }
    // A failure must not leave the session that was here before.
    // SAFETY: the caller's memory, checked above; a `RideSession` is words, all of whose bits are valid.
    unsafe { (*session).words = [0; SESSION_WORDS] };
    // SAFETY: the caller's promise; "as long as it is used" is what 'static stands for.
    let arena: &'static mut [u8] = unsafe { bytes_mut(arena, length) }?;
    let address = session.addr();
    let inner = Session::new(model, arena)?;
    let live = Live { state: READY ^ address, session: inner, arena: lent, end: !(READY ^ address) };
    // SAFETY: as above; a `Live` fits.
    unsafe { session.cast::<Live>().write(live) };
    Ok(())
}

/// Tells which kernels the session uses.
///
/// # Safety
/// As [`crate::ride_model_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_session_kernels(session: *const RideSession, kernels: *mut Kernels) -> Status {
    // SAFETY: the caller's promise.
    done((|| unsafe {
        let found = Found::at(session)?;
        let backend = found.session().backend();
        found.out(kernels)?.put(Kernels { kernel: backend.conv.name.into(), isa: backend.isa.name().into() });
        Ok(())
    })())
}

/// Classifies one image: `image_bytes` raw unsigned pixels as `ride_info.image_bytes` describes them, which are only read.
/// `policy` may be null.
///
/// # Safety
/// As [`crate::ride_model_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_classify(
    session: *mut RideSession,
    image: *const u8,
    image_bytes: usize,
    policy: *const Policy,
    result: *mut Outcome,
) -> Status {
    // SAFETY: the caller's promise.
    done((|| unsafe {
        let found = Found::at(session)?;
        let (out, image) = (found.out(result)?, found.image(image, image_bytes)?);
        let policy = wanted(policy)?;
        out.put(found.run(|session| {
            session.classify(image, policy)?;
            outcome(session)
        })?);
        Ok(())
    })())
}

/// As `ride_classify`, and tells `profiler` about every operation and router that ran.
///
/// # Safety
/// As [`crate::ride_model_open`]. The profiler's functions must return normally (no exception, no `longjmp`).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_classify_profiled(
    session: *mut RideSession,
    image: *const u8,
    image_bytes: usize,
    policy: *const Policy,
    profiler: *const Profiler,
    result: *mut Outcome,
) -> Status {
    // SAFETY: the caller's promise.
    done((|| unsafe {
        let found = Found::at(session)?;
        let (out, image) = (found.out(result)?, found.image(image, image_bytes)?);
        let policy = wanted(policy)?;
        let mut watch = Watch::new(profiler, found.session().model())?;
        out.put(found.run(|session| {
            session.classify_probed(image, policy, &mut watch)?;
            outcome(session)
        })?);
        Ok(())
    })())
}

/// Runs the artifact's golden vectors and compares every bit of the results and every route. `image` is memory for one
/// image, which is overwritten. `vectors` (or null) becomes the number of vectors that were right, also where the next one
/// was not.
///
/// # Safety
/// As [`crate::ride_model_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_self_test(
    session: *mut RideSession,
    image: *mut u8,
    image_bytes: usize,
    vectors: *mut u32,
) -> Status {
    // SAFETY: the caller's promise.
    done((|| unsafe {
        let found = Found::at(session)?;
        let out = if vectors.is_null() { None } else { Some(found.out(vectors)?) };
        let (pixels, artifact) = (extent(image, image_bytes)?, found.session().model().bytes());
        found.apart(&pixels)?;
        if overlap(&pixels, &extent(artifact.as_ptr(), artifact.len())?) {
            return Err(Status::Overlap);
        }
        let image = bytes_mut(image, image_bytes)?;
        let right = found.run(|session| session.self_test(image));
        if let Some(out) = out {
            out.put(match right {
                Ok(count) => count as u32,
                Err(ride_runtime::Error::SelfTest { vector }) => vector as u32,
                Err(_) => 0,
            });
        }
        right?;
        Ok(())
    })())
}
