//! Time of every operation, for the caller's clock.

use core::ffi::c_void;

use ride_runtime::exec::{Output, Probe};
use ride_runtime::op::Step;
use ride_runtime::{Model, PartId};

use crate::memory::read;
use crate::{Status, Text};

/// A piece of the artifact.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The shared stem.
    Stem = 0,
    /// An expert.
    Expert = 1,
    /// The router behind an expert.
    Router = 2,
}

/// An operation or router that has run.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OpEvent {
    /// The piece of the artifact that it belongs to.
    pub part: Part,
    /// Number of the expert (for a router: of the one before it).
    pub part_index: u32,
    /// Number of the operation within its part.
    pub index: u32,
    /// For a router: 1 if it wants the next expert, else 0.
    pub proceed: u32,
    /// For a router: its score.
    pub score: f32,
    /// Name, as in `expert0.layer2.0.conv1`.
    pub name: Text,
    /// Kind, as in `conv`.
    pub kind: Text,
    /// Multiply-accumulates (0 for a router).
    pub macs: u64,
    /// Difference of `ride_profiler.now` after and before it.
    pub counts: u64,
}

/// Who is told about operations. The functions run in the middle of a call: they must return normally, and what they ask
/// of the same session is refused as busy.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Profiler {
    /// Passed to both functions.
    pub user: *mut c_void,
    /// The clock, in whatever unit; null if there is none.
    pub now: Option<unsafe extern "C" fn(user: *mut c_void) -> u64>,
    /// Is told; must not be null. The event is gone when it returns, its texts are not.
    pub op: Option<unsafe extern "C" fn(user: *mut c_void, event: *const OpEvent)>,
}

/// A probe that tells a profiler.
pub(crate) struct Watch {
    user: *mut c_void,
    now: Option<unsafe extern "C" fn(*mut c_void) -> u64>,
    op: unsafe extern "C" fn(*mut c_void, *const OpEvent),
    model: Model<'static>,
    start: u64,
}

impl Watch {
    /// A probe for `profiler`.
    ///
    /// # Safety
    /// As [`read`], and its functions can be called with its `user` until the probe is dropped.
    pub(crate) unsafe fn new(profiler: *const Profiler, model: Model<'static>) -> Result<Self, Status> {
        // SAFETY: the caller's promise; null functions are valid.
        let p = unsafe { read(profiler) }?;
        Ok(Watch { user: p.user, now: p.now, op: p.op.ok_or(Status::NullPointer)?, model, start: 0 })
    }

    fn now(&self) -> u64 {
        // SAFETY: the promise of `new`.
        self.now.map_or(0, |now| unsafe { now(self.user) })
    }

    fn tell(&self, event: OpEvent) {
        // SAFETY: the promise of `new`.
        unsafe { (self.op)(self.user, &event) }
    }
}

impl Probe for Watch {
    fn before(&mut self, _: PartId, _: usize, _: &Step) {
        self.start = self.now();
    }

    fn after(&mut self, part: PartId, index: usize, step: &Step, _: Output<'_>) {
        let counts = self.now().wrapping_sub(self.start);
        let (part, part_index) = match part {
            PartId::Stem => (Part::Stem, 0),
            PartId::Expert(i) => (Part::Expert, i.into()),
            PartId::Router(i) => (Part::Router, i.into()),
        };
        self.tell(OpEvent {
            part,
            part_index,
            index: index as u32,
            proceed: 0,
            score: 0.0,
            name: self.model.name(step).into(),
            kind: step.op.kind().into(),
            macs: step.op.macs(),
            counts,
        });
    }

    fn before_router(&mut self, _: usize) {
        self.start = self.now();
    }

    fn routed(&mut self, router: usize, score: f32, proceed: bool) {
        let counts = self.now().wrapping_sub(self.start);
        self.tell(OpEvent {
            part: Part::Router,
            part_index: router as u32,
            index: 0,
            proceed: proceed.into(),
            score,
            name: "router".into(),
            kind: "router".into(),
            macs: 0,
            counts,
        });
    }
}
