//! The pool itself; that networks give the same bits is tested where artifacts are.

use super::*;
use std::collections::HashSet;
use std::sync::atomic::AtomicU64;

/// Every number below `count` once, whoever comes.
fn numbers(team: &Team, count: u64) -> u64 {
    let (next, sum) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = |_: usize, _: &mut [u8]| {
        while let n = next.fetch_add(1, Ordering::Relaxed)
            && n < count
        {
            sum.fetch_add(n + 1, Ordering::Relaxed);
        }
    };
    team.run(0, &work, &mut []);
    sum.load(Ordering::Relaxed)
}

#[test]
fn everything_is_done_once_when_a_job_returns() {
    for threads in 0..=5 {
        let team = Team::new(threads).expect("threads");
        assert_eq!(team.threads(), threads.max(1));
        for job in 0..3000 {
            assert_eq!(numbers(&team, job % 40), (job % 40) * (job % 40 + 1) / 2);
            if job % 500 == 499 {
                // Long enough for workers to fall asleep.
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Waits until `done`, and fails if that takes forever.
fn until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "no other thread came");
        thread::yield_now();
    }
}

#[test]
fn other_threads_take_part_with_memory_of_their_own() {
    let team = Team::new(4).expect("threads");
    for len in [100, 7, 4096] {
        let (seen, own) = (Mutex::new(HashSet::new()), &mut [0; 5000][..len]);
        let work = |_: usize, scratch: &mut [u8]| {
            assert_eq!(scratch.len(), len);
            let new = seen.lock().unwrap().insert((thread::current().id(), scratch.as_ptr().addr()));
            assert!(new, "a thread joined twice");
            until(|| seen.lock().unwrap().len() == 4);
        };
        team.run(len, &work, own);
        let seen = seen.into_inner().unwrap();
        let memory: HashSet<usize> = seen.iter().map(|s| s.1).collect();
        assert_eq!((seen.len(), memory.len()), (4, 4));
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_panic_in_a_worker_is_the_callers() {
    let team = Team::new(2).expect("threads");
    let (caller, came) = (thread::current().id(), AtomicBool::new(false));
    let work = |_: usize, _: &mut [u8]| {
        if thread::current().id() != caller {
            came.store(true, Ordering::Relaxed);
            panic!("on purpose");
        }
        until(|| came.load(Ordering::Relaxed));
    };
    assert!(catch_unwind(AssertUnwindSafe(|| team.run(0, &work, &mut []))).is_err());
    // The caller's own panic waits for the others, too, and the team goes on.
    let alive = AtomicUsize::new(0);
    let work = |_: usize, _: &mut [u8]| {
        alive.fetch_add(1, Ordering::Relaxed);
        until(|| alive.load(Ordering::Relaxed) == 2);
        assert_ne!(thread::current().id(), caller, "on purpose");
    };
    assert!(catch_unwind(AssertUnwindSafe(|| team.run(0, &work, &mut []))).is_err());
    assert_eq!(numbers(&team, 100), 5050);
}

#[test]
fn a_busy_team_leaves_others_to_themselves() {
    let team = Team::new(3).expect("threads");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope
                .spawn(|| (0..2000).for_each(|job| assert_eq!(numbers(&team, job % 9), (job % 9) * (job % 9 + 1) / 2)));
        }
    });
}

#[test]
fn teams_end_at_any_moment() {
    for threads in 1..=5 {
        for jobs in 0..20 {
            let team = Team::new(threads).expect("threads");
            (0..jobs).for_each(|_| team.wake());
        }
    }
}
