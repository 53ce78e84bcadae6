//! How many experts a sample gets.

use ride_runtime::Policy as Wanted;

use crate::Status;
use crate::memory::read;

/// The routers decide, with the artifact's thresholds; without routers all experts run.
pub const POLICY_ROUTED: u32 = 0;
/// The routers decide, with `ride_policy.threshold` instead.
pub const POLICY_THRESHOLD: u32 = 1;
/// Exactly `ride_policy.experts` experts.
pub const POLICY_EXACTLY: u32 = 2;
/// All experts.
pub const POLICY_ALL: u32 = 3;

/// How many experts a sample gets. Where a function takes a pointer to one, null means `RIDE_POLICY_ROUTED`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// One of `RIDE_POLICY_...`.
    pub kind: u32,
    /// For `RIDE_POLICY_EXACTLY`: from 1 to the number of experts.
    pub experts: u32,
    /// For `RIDE_POLICY_THRESHOLD`: what routers compare their score with.
    pub threshold: f32,
}

/// The runtime's policy.
///
/// # Safety
/// As [`read`], or null.
pub(crate) unsafe fn wanted(policy: *const Policy) -> Result<Wanted, Status> {
    if policy.is_null() {
        return Ok(Wanted::Routed);
    }
    // SAFETY: the caller's promise; numbers have no invalid bits.
    let policy = unsafe { read(policy) }?;
    match policy.kind {
        POLICY_ROUTED => Ok(Wanted::Routed),
        POLICY_THRESHOLD => Ok(Wanted::Threshold(policy.threshold)),
        POLICY_EXACTLY => Ok(Wanted::Exactly(policy.experts as usize)),
        POLICY_ALL => Ok(Wanted::All),
        _ => Err(Status::OutOfRange),
    }
}
