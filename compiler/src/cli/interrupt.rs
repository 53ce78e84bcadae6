//! Ctrl-C ends the program between writes, never within one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// Exit code after an interrupt: 128 + SIGINT, as shells have it.
pub(super) const INTERRUPTED: u8 = 130;

/// Held while a file is written and renamed.
static WRITING: Mutex<()> = Mutex::new(());

/// Whether the first Ctrl-C is left to [`requested`].
static PATIENT: AtomicBool = AtomicBool::new(false);
/// Whether it has come.
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Whether the first Ctrl-C only asks the program to stop, which the second one ends then.
pub(crate) fn patient(patient: bool) {
    PATIENT.store(patient, Ordering::SeqCst);
}

/// Whether the program has been asked to stop.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// Lets Ctrl-C wait for a write that is under way, so that neither half a file nor a temporary one is left.
pub(crate) fn install() -> Result<()> {
    let handler = || {
        if PATIENT.load(Ordering::SeqCst) && !REQUESTED.swap(true, Ordering::SeqCst) {
            return;
        }
        let _idle = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        std::process::exit(i32::from(INTERRUPTED));
    };
    ctrlc::set_handler(handler).context("cannot listen for Ctrl-C")
}

/// Runs `write` without being interrupted.
pub(crate) fn uninterrupted<T>(write: impl FnOnce() -> T) -> T {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    write()
}
