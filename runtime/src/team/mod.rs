//! Threads that share the operations of one inference.
//!
//! A [`Team`] is lent to a session with [`Session::with_team`]; results are the same bits with any number of threads, because
//! each output is computed by the same kernel from the same numbers, whoever does it. What pays to share and what
//! stays with the calling thread is decided by what a piece costs. To run many images at once, one thread for each of them is better:
//! see [`crate::batch`].
//!
//! Handing work over costs well below a microsecond while the threads are awake: for some ten microseconds after each
//! job they watch for the next one, and then they sleep. Nobody waits for a thread that is late, be it asleep or
//! held up by the machine's other work: it finds that nothing is left, and the others have done its share.

mod cut;
mod pieces;
#[cfg(test)]
mod tests;

pub(crate) use pieces::{convolve, max_pool};

use crate::Session;
use crate::format::ARENA_ALIGN;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{hint, io, mem};

/// How often an idle thread looks for a job before it sleeps, and how often the caller looks whether the others are done
/// before it lets other programs run: 20 to 100 microseconds, which is longer than what lies between two shared
/// operations of a network and shorter than what a sleeping thread takes to wake up.
const SPINS: u32 = 2000;

/// A share of a job: called with its number and scratch memory by each thread that joins in. The caller's number is 0.
type Work<'w> = dyn Fn(usize, &mut [u8]) + Sync + 'w;

/// Threads for one inference at a time; see [the module](self).
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the session whose operation is running.
    turn: Mutex<()>,
    /// See [`Team::with_least_work`].
    least: u64,
}

/// What caller and workers see.
#[derive(Default)]
struct Shared {
    /// The job that workers may join.
    job: Mutex<Option<Job>>,
    /// Changes with each job, for those who watch.
    epoch: AtomicUsize,
    /// Workers that have joined the job and are not done.
    joined: AtomicUsize,
    /// Whether one of them panicked.
    panicked: AtomicBool,
    stop: AtomicBool,
}

#[derive(Clone, Copy)]
struct Job {
    /// Lives until the job has been taken back and everybody who joined is done, see [`Posted`].
    work: &'static Work<'static>,
    /// Bytes of scratch memory that each thread needs.
    scratch: usize,
}

impl Team {
    /// A team of `threads`, the calling one included; 0 counts as 1.
    ///
    /// # Errors
    /// If the system does not grant so many threads.
    pub fn new(threads: usize) -> io::Result<Self> {
        let mut team = Team { shared: Arc::default(), workers: Vec::new(), turn: Mutex::new(()), least: cut::LEAST };
        for n in 1..threads {
            let shared = Arc::clone(&team.shared);
            let worker = thread::Builder::new().name(format!("ride-{n}")).spawn(move || work_for(&shared, n))?;
            team.workers.push(worker);
        }
        Ok(team)
    }

    /// The same, but operations are shared where a piece has at least `instructions` vector instructions, instead of 8192: some
    /// 2.5 microseconds, several times what [`Team::hand_over`] says.
    #[must_use]
    pub fn with_least_work(mut self, instructions: u64) -> Self {
        self.least = instructions.max(1);
        self
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Wakes the threads, so that they are there when an image arrives within the next microseconds. Without it, the first
    /// operations of an inference after a pause run on fewer threads.
    pub fn wake(&self) {
        self.run(0, &|_, _| (), &mut []);
    }

    /// How long it takes to hand a job to all threads that has nothing to do but to wait for them: what sharing an operation
    /// costs at most, if they are awake.
    pub fn hand_over(&self) -> Duration {
        let (came, start) = (AtomicUsize::new(0), Instant::now());
        let everybody = self.threads();
        let work = |_: usize, _: &mut [u8]| {
            came.fetch_add(1, Ordering::Relaxed);
            while came.load(Ordering::Relaxed) < everybody && start.elapsed() < Duration::from_millis(10) {
                hint::spin_loop();
            }
        };
        self.run(0, &work, &mut []);
        start.elapsed()
    }

    /// Lets every thread that is free run `work` once with `scratch` bytes of memory of its own; the calling thread does, with
    /// `own`. Returns when all that began have finished. A team that is busy with another session leaves the work to
    /// the calling thread.
    ///
    /// # Panics
    /// If `work` does, in whichever thread.
    fn run(&self, scratch: usize, work: &Work<'_>, own: &mut [u8]) {
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return work(0, own),
        };
        let posted = Posted { shared: &self.shared };
        // SAFETY: only the lifetime changes. Workers get the reference from `shared.job` alone, and use it from the moment
        // when they are counted in `joined` until they are no longer. `posted` is dropped before this function returns
        // or unwinds, hence while `work` is still borrowed: it empties `shared.job`, after which nobody can join, and waits
        // until `joined` is 0.
        let work_unbound = unsafe { mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        posted.publish(Job { work: work_unbound, scratch });
        self.workers.iter().for_each(|worker| worker.thread().unpark());
        work(0, own);
        drop(posted);
        if self.shared.panicked.swap(false, Ordering::Relaxed) {
            panic!("a thread of the team panicked");
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // Workers catch panics of jobs; there is nothing else that could fail.
            let _ = worker.join();
        }
    }
}

impl<'m, 'a> Session<'m, 'a> {
    /// The same session, whose operations are shared by the threads of `team`. Several sessions may have the same team; while
    /// one uses it, the others run alone.
    #[must_use]
    pub fn with_team(mut self, team: &'a Team) -> Self {
        self.team = Some(team);
        self
    }
}

/// A job that workers can join until this is dropped; dropping waits for those who did.
struct Posted<'s> {
    shared: &'s Shared,
}

impl Posted<'_> {
    fn publish(&self, job: Job) {
        *self.shared.lock_job() = Some(job);
        // Workers that see the new number see the job.
        self.shared.epoch.fetch_add(1, Ordering::Release);
    }
}

impl Drop for Posted<'_> {
    fn drop(&mut self) {
        *self.shared.lock_job() = None;
        let mut spins = 0;
        // Acquire: what the workers wrote is there when they are done.
        while self.shared.joined.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS {
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}

impl Shared {
    fn lock_job(&self) -> MutexGuard<'_, Option<Job>> {
        // Nothing that can panic runs under the lock.
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job after number `seen`; gives its number, or nothing if the team ends.
    fn wait(&self, seen: usize) -> Option<usize> {
        let mut spins = 0;
        while !self.stop.load(Ordering::Acquire) {
            let epoch = self.epoch.load(Ordering::Acquire);
            if epoch != seen {
                return Some(epoch);
            }
            if spins < SPINS {
                spins += 1;
                hint::spin_loop();
            } else {
                // Whoever posts a job or ends the team unparks afterwards, and parking returns at once if that was before.
                thread::park();
            }
        }
        None
    }

    /// Joins the job, if it is still there.
    fn join(&self) -> Option<(Job, Joined<'_>)> {
        let job = self.lock_job();
        let taken = (*job)?;
        // Under the lock, so that whoever takes the job back sees it.
        self.joined.fetch_add(1, Ordering::Relaxed);
        Some((taken, Joined { shared: self }))
    }
}

/// A worker that takes part.
struct Joined<'s> {
    shared: &'s Shared,
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        // Release: see the drop of `Posted`.
        self.shared.joined.fetch_sub(1, Ordering::Release);
    }
}

/// What worker `member` does all its life.
fn work_for(shared: &Shared, member: usize) {
    let (mut scratch, mut seen) = (Scratch::default(), 0);
    while let Some(epoch) = shared.wait(seen) {
        seen = epoch;
        let Some((job, joined)) = shared.join() else { continue };
        if catch_unwind(AssertUnwindSafe(|| (job.work)(member, scratch.get(job.scratch)))).is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        drop(joined);
    }
}

/// Memory aligned like an arena, which grows to what the largest operation needs and then stays.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
}

impl Scratch {
    fn get(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < len + ARENA_ALIGN {
            self.bytes.resize(len + ARENA_ALIGN, 0);
        }
        let address = self.bytes.as_ptr().addr();
        &mut self.bytes[address.next_multiple_of(ARENA_ALIGN) - address..][..len]
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("epoch", &self.epoch).field("joined", &self.joined).finish_non_exhaustive()
    }
}
