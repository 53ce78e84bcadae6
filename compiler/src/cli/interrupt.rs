//! Ctrl-C ends the program between writes, never within one.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// Exit code after an interrupt: 128 + SIGINT, as shells have it.
const INTERRUPTED: i32 = 130;

/// Held while a file is written and renamed.
static WRITING: Mutex<()> = Mutex::new(());

/// Lets Ctrl-C wait for a write that is under way, so that neither half a file nor a temporary one is left.
pub(crate) fn install() -> Result<()> {
    let handler = || {
        let _idle = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        std::process::exit(INTERRUPTED);
    };
    ctrlc::set_handler(handler).context("cannot listen for Ctrl-C")
}

/// Runs `write` without being interrupted.
pub(crate) fn uninterrupted<T>(write: impl FnOnce() -> T) -> T {
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    write()
}
