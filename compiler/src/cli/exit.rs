//! Exit codes, and the one place where errors are printed.

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;

use super::ui::Closed;

/// Anything that the user can mend: a wrong path, a damaged file, an unknown target.
pub(crate) const ERROR: u8 = 1;
/// The result does not fit or a verification failed.
const FAILED: u8 = 2;

/// A verdict rather than an error: everything worked, but what came out is not good enough.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// Ctrl-C came while there was something to be saved, and it was.
#[derive(Debug)]
pub(crate) struct Stopped(pub(crate) String);

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Stopped {}

/// Prints the error, if it is one, and says how the process ends.
pub(crate) fn code(result: &Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.is::<Closed>() {
        // Whoever read the output has seen enough: not an error.
        return ExitCode::SUCCESS;
    }
    if let Some(stopped) = error.downcast_ref::<Stopped>() {
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("stopped: {stopped}\n"));
        return ExitCode::from(super::interrupt::INTERRUPTED);
    }
    // Standard error may be closed as well; there is nobody left to tell.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("error: {error:#}\n"));
    ExitCode::from(if error.is::<Failed>() { FAILED } else { ERROR })
}
