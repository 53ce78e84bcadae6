//! Classifying images: one call for a whole sample, or one expert at a time.

use crate::Error;
use crate::exec::{self, Context, Probe};
use crate::format::ARENA_ALIGN;
use crate::kernels::{self, Backend};
use crate::model::{Model, PartId};
use crate::op::Op;
use crate::team::Team;

/// How many experts a sample gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// The routers decide, with the thresholds in the artifact; without routers all experts run.
    Routed,
    /// The routers decide, with this threshold on the score instead (see [`crate::op::Router::proceeds`]).
    Threshold(f32),
    /// Exactly this many experts.
    Exactly(usize),
    /// All experts.
    All,
}

/// The answer for one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome<'a> {
    /// Class with the largest logit.
    pub class: usize,
    /// Mean of the logits of the experts that ran.
    pub logits: &'a [f32],
    /// Experts that ran.
    pub experts: usize,
}

/// What one expert more has brought; see [`Session::step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Experts that have run for this sample.
    pub experts: usize,
    /// The router's score, if there is a router behind the expert that ran last.
    pub score: Option<f32>,
    /// Whether the router wants another expert; without routers, whether there is another one.
    pub proceed: bool,
}

/// An artifact with memory to run in. Nothing is allocated; nothing is kept between samples but the arena.
#[derive(Debug)]
pub struct Session<'m, 'a> {
    model: Model<'m>,
    backend: &'static Backend,
    arena: &'a mut [u8],
    /// Experts that have run for the current sample; `None` before the stem.
    experts: Option<usize>,
    /// Threads that share operations.
    pub(crate) team: Option<&'a Team>,
}

impl<'m, 'a> Session<'m, 'a> {
    /// A session with the fastest kernels that this machine has. `arena` needs [`Model::arena_len`] bytes at a multiple
    /// of [`ARENA_ALIGN`]; it need not be initialised to anything.
    ///
    /// # Errors
    /// The arena is too small or misaligned, the artifact is misaligned for the kernels, or no kernel of this build reads its
    /// weight layout.
    pub fn new(model: Model<'m>, arena: &'a mut [u8]) -> Result<Self, Error> {
        let layout = model.layout();
        let backend = kernels::best(layout).ok_or(Error::NoKernel { layout: layout.name() })?;
        Self::with_backend(model, arena, backend)
    }

    /// A session with chosen kernels.
    ///
    /// # Errors
    /// As [`Session::new`]; also if the machine cannot run the backend or the artifact left it too little scratch memory.
    pub fn with_backend(model: Model<'m>, arena: &'a mut [u8], backend: &'static Backend) -> Result<Self, Error> {
        if backend.layout != model.layout() || !backend.isa.available() {
            return Err(Error::NoKernel { layout: model.layout().name() });
        }
        let (needed, found) = (model.arena_len(), arena.len());
        let arena = arena.get_mut(..needed).ok_or(Error::ArenaTooSmall { needed, found })?;
        if !arena.as_ptr().addr().is_multiple_of(ARENA_ALIGN) {
            return Err(Error::ArenaMisaligned);
        }
        let align = backend.isa.artifact_align();
        if !model.bytes().as_ptr().addr().is_multiple_of(align) {
            return Err(Error::ArtifactMisaligned { needed: align });
        }
        check_scratch(model, backend)?;
        Ok(Session { model, backend, arena, experts: None, team: None })
    }

    /// The model.
    pub fn model(&self) -> Model<'m> {
        self.model
    }

    /// The kernels in use.
    pub fn backend(&self) -> &'static Backend {
        self.backend
    }

    /// Classifies one image: raw unsigned pixels, height × width × channels.
    ///
    /// # Errors
    /// The image has the wrong length, or the policy asks for experts that are not there.
    pub fn classify(&mut self, image: &[u8], policy: Policy) -> Result<Outcome<'_>, Error> {
        self.classify_probed(image, policy, &mut ())
    }

    /// As [`Session::classify`], watched by `probe`.
    ///
    /// # Errors
    /// As [`Session::classify`].
    pub fn classify_probed<P: Probe>(
        &mut self,
        image: &[u8],
        policy: Policy,
        probe: &mut P,
    ) -> Result<Outcome<'_>, Error> {
        let (limit, threshold) = self.limits(policy)?;
        self.start_probed(image, probe)?;
        for n in 0..limit {
            self.expert(n, probe)?;
            let Some(threshold) = threshold else { continue };
            if n + 1 < limit && !self.route(n, threshold, probe)?.1 {
                break;
            }
        }
        self.outcome()
    }

    /// Starts a sample: runs the stem.
    ///
    /// # Errors
    /// The image has the wrong length.
    pub fn start(&mut self, image: &[u8]) -> Result<(), Error> {
        self.start_probed(image, &mut ())
    }

    /// Runs the next expert and asks its router. Stop whenever you like: [`Session::outcome`] is the best answer so far.
    ///
    /// # Errors
    /// No sample has been started, or all experts have run.
    pub fn step(&mut self) -> Result<Progress, Error> {
        let n = self.experts.ok_or(Error::OutOfOrder)?;
        if n >= self.model.experts() {
            return Err(Error::OutOfOrder);
        }
        self.expert(n, &mut ())?;
        let experts = n + 1;
        let more = experts < self.model.experts();
        if !more || !self.model.routed() {
            return Ok(Progress { experts, score: None, proceed: more });
        }
        let threshold = self.model.router(n).map_or(0.0, |r| r.threshold);
        let (score, proceed) = self.route(n, Threshold::Fixed(threshold), &mut ())?;
        Ok(Progress { experts, score: Some(score), proceed })
    }

    /// The answer of the experts that have run for the current sample.
    ///
    /// # Errors
    /// No expert has run yet.
    pub fn outcome(&self) -> Result<Outcome<'_>, Error> {
        let experts = self.experts.filter(|&n| n > 0).ok_or(Error::OutOfOrder)?;
        let bytes = self.arena.get(self.model.logits()).unwrap_or_default();
        // SAFETY: every bit pattern is a valid f32. `align_to` returns the bytes that are not aligned in the other two
        // slices; there are none, because the arena is aligned to 64 and the region to 4 bytes.
        let (_, logits, _) = unsafe { bytes.align_to::<f32>() };
        Ok(Outcome { class: exec::best_class(bytes), logits, experts })
    }

    /// Runs the artifact's golden vectors and compares every bit of the results.
    ///
    /// # Errors
    /// [`Error::SelfTest`] names the first vector that differs.
    pub fn self_test(&mut self, image: &mut [u8]) -> Result<usize, Error> {
        crate::golden::run(self, image)
    }

    /// Largest number of experts under `policy`, and the threshold if routers are asked.
    fn limits(&self, policy: Policy) -> Result<(usize, Option<Threshold>), Error> {
        let available = self.model.experts();
        match policy {
            Policy::All => Ok((available, None)),
            Policy::Exactly(requested) if (1..=available).contains(&requested) => Ok((requested, None)),
            Policy::Exactly(requested) => Err(Error::Experts { requested, available }),
            Policy::Routed if !self.model.routed() => Ok((available, None)),
            Policy::Routed => Ok((available, Some(Threshold::Artifact))),
            Policy::Threshold(_) if !self.model.routed() => Err(Error::NoRouter),
            Policy::Threshold(t) => Ok((available, Some(Threshold::Fixed(t)))),
        }
    }

    fn start_probed<P: Probe>(&mut self, image: &[u8], probe: &mut P) -> Result<(), Error> {
        self.experts = None;
        let needed = self.model.input_len();
        if image.len() != needed {
            return Err(Error::InputLength { needed, found: image.len() });
        }
        let part = self.model.part(PartId::Stem).ok_or(Error::OutOfOrder)?;
        exec::run_part(self.context(image), &part, self.arena, probe)?;
        self.experts = Some(0);
        Ok(())
    }

    fn expert<P: Probe>(&mut self, n: usize, probe: &mut P) -> Result<(), Error> {
        let part = self.model.part(PartId::Expert(n as u16)).ok_or(Error::OutOfOrder)?;
        exec::run_part(self.context(&[]), &part, self.arena, probe)?;
        exec::combine(self.model, &part, self.arena, n + 1).ok_or(Error::OutOfOrder)?;
        self.experts = Some(n + 1);
        Ok(())
    }

    fn route<P: Probe>(&mut self, n: usize, threshold: Threshold, probe: &mut P) -> Result<(f32, bool), Error> {
        let router = self.model.router(n).ok_or(Error::NoRouter)?;
        probe.before_router(n);
        let score = exec::score(self.context(&[]), n, &router, self.arena).ok_or(Error::NoRouter)?;
        let limit = match threshold {
            Threshold::Artifact => router.threshold,
            Threshold::Fixed(t) => t,
        };
        let proceed = router.proceeds(score, limit);
        probe.routed(n, score, proceed);
        Ok((score, proceed))
    }

    fn context<'i>(&self, image: &'i [u8]) -> Context<'m, 'i>
    where
        'a: 'i,
    {
        Context { model: self.model, backend: self.backend, image, team: self.team }
    }
}

#[derive(Clone, Copy)]
enum Threshold {
    Artifact,
    Fixed(f32),
}

fn check_scratch(model: Model<'_>, backend: &Backend) -> Result<(), Error> {
    let found = model.scratch().len();
    for part in model.parts() {
        for (at, step) in part.steps().enumerate() {
            if let Op::Conv(c) = &step.op
                && (backend.conv.scratch_len)(&c.shape) > found
            {
                return Err(Error::Invalid {
                    section: "model",
                    reason: "scratch memory is too small for this kernel",
                    at,
                });
            }
        }
    }
    Ok(())
}
