//! Many images, one for each thread at a time: servers and evaluation.
//!
//! Each thread has a session of its own over the shared model, and takes the next image when it is done with one; results
//! come in the order of the images, whatever the number of threads. Where a single answer has to come sooner, threads can
//! share an inference instead: see [`crate::team`].

use crate::kernels::{self, Backend};
use crate::memory::AlignedBytes;
use crate::{Error, Model, Policy, Session};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// How to run many images.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'m> {
    model: Model<'m>,
    threads: usize,
    backend: Option<&'static Backend>,
}

/// The answer for one image; see [`crate::Outcome`].
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Class with the largest logit.
    pub class: usize,
    /// Experts that ran.
    pub experts: usize,
    /// Mean of their logits.
    pub logits: Vec<f32>,
}

impl<'m> Batch<'m> {
    /// Up to `threads` threads, the calling one included, with the fastest kernels that this machine has; 0 counts as 1.
    pub fn new(model: Model<'m>, threads: usize) -> Self {
        Batch { model, threads, backend: None }
    }

    /// The same with chosen kernels.
    #[must_use]
    pub fn with_backend(mut self, backend: &'static Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Classifies `images`, each of which is routed for itself.
    ///
    /// # Errors
    /// That of the first image that fails, as [`Session::new`] and [`Session::classify`].
    pub fn classify<I: AsRef<[u8]> + Sync>(&self, images: &[I], policy: Policy) -> Result<Vec<Answer>, Error> {
        self.run(
            images.len(),
            || (),
            |session, (), n| {
                let outcome = session.classify(images[n].as_ref(), policy)?;
                Ok(Answer { class: outcome.class, experts: outcome.experts, logits: outcome.logits.to_vec() })
            },
        )
    }

    /// Calls `work` for each number below `count` with a thread's session and its state, which `state` makes once for each
    /// thread; gives the results in order.
    ///
    /// # Errors
    /// That of the smallest number that fails, whatever the number of threads; the numbers behind it may not be worked on any
    /// more. [`Session::new`]'s errors, if there is anything to do.
    ///
    /// # Panics
    /// If `work` does.
    pub fn run<S, T: Send, E: From<Error> + Send>(
        &self,
        count: usize,
        state: impl Fn() -> S + Sync,
        work: impl Fn(&mut Session<'m, '_>, &mut S, usize) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>, E> {
        let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let keep = |place, result| results.lock().unwrap_or_else(PoisonError::into_inner).push((place, result));
        let thread = || {
            let mut memory = AlignedBytes::zeroed(self.model.arena_len());
            let (mut session, mut state) = match self.session(&mut memory) {
                Ok(session) => (session, state()),
                Err(error) => return keep(0, Err(error.into())),
            };
            while let place = next.fetch_add(1, Ordering::Relaxed)
                && place < count
            {
                let result = work(&mut session, &mut state, place);
                if result.is_err() {
                    next.store(count, Ordering::Relaxed);
                }
                keep(place, result);
            }
        };
        thread::scope(|scope| {
            // A thread that the system does not grant is one less: this one does all that is left.
            let others =
                (1..self.threads.min(count)).map_while(|_| thread::Builder::new().spawn_scoped(scope, thread).ok());
            let _started = others.count();
            if count > 0 {
                thread();
            }
        });
        // Numbers are given out in order, so all before the first failure are there.
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(place, _)| *place);
        results.into_iter().map(|(_, result)| result).collect()
    }

    fn session<'a>(&self, arena: &'a mut [u8]) -> Result<Session<'m, 'a>, Error> {
        let layout = self.model.layout();
        let best = || kernels::best(layout).ok_or(Error::NoKernel { layout: layout.name() });
        Session::with_backend(self.model, arena, self.backend.map_or_else(best, Ok)?)
    }
}
