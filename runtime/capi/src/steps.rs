//! One expert at a time, under a deadline.

use crate::Status;
use crate::session::{Found, Outcome, RideSession, outcome};
use crate::status::done;

/// What one expert more has brought.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Experts that have run for this sample.
    pub experts: u32,
    /// 1 if the router wants another expert, or, without routers, if there is another one; else 0.
    pub proceed: u32,
    /// 1 if there is a router behind the expert that ran last, else 0.
    pub scored: u32,
    /// The router's score if `scored`, else 0.
    pub score: f32,
}

/// Starts a sample: runs the stem. The image is not needed afterwards.
///
/// # Safety
/// As [`crate::ride_model_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_start(session: *mut RideSession, image: *const u8, image_bytes: usize) -> Status {
    // SAFETY: the caller's promise.
    done((|| unsafe {
        let found = Found::at(session)?;
        let image = found.image(image, image_bytes)?;
        found.run(|session| session.start(image))?;
        Ok(())
    })())
}

/// Runs the next expert and asks its router. Going on where `proceed` is 0 is allowed; so is stopping where it is 1.
///
/// # Safety
/// As [`crate::ride_model_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_step(session: *mut RideSession, progress: *mut Progress) -> Status {
    // SAFETY: the caller's promise.
    done((|| unsafe {
        let found = Found::at(session)?;
        let out = found.out(progress)?;
        let step = found.run(|session| session.step())?;
        out.put(Progress {
            experts: step.experts as u32,
            proceed: step.proceed.into(),
            scored: step.score.is_some().into(),
            score: step.score.unwrap_or(0.0),
        });
        Ok(())
    })())
}

/// The answer of the experts that have run for the current sample.
///
/// # Safety
/// As [`crate::ride_model_open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ride_outcome_so_far(session: *const RideSession, result: *mut Outcome) -> Status {
    // SAFETY: the caller's promise.
    done((|| unsafe {
        let found = Found::at(session)?;
        found.out(result)?.put(outcome(found.session())?);
        Ok(())
    })())
}
