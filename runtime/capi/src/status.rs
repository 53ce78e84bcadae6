//! What went wrong, as numbers that never change.

use core::ffi::{CStr, c_char};

use ride_runtime::Error;

use crate::Text;
use crate::memory::Out;

/// What became of a call. Numbers keep their meaning for ever; new ones may be added.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// A pointer that must not be null is.
    NullPointer = 1,
    /// A pointer is not aligned to its type (or the artifact to words, where kernels want that).
    Misaligned = 2,
    /// More bytes than there are addresses behind the pointer.
    InvalidLength = 3,
    /// Buffers overlap that must not.
    Overlap = 4,
    /// Not a model that `ride_model_open` made, or not a session that `ride_session_init` made, at this address.
    NotInitialised = 5,
    /// The session is in use: by a callback's caller, an interrupted function or another thread.
    Busy = 6,
    /// A number is out of its range: a class, a policy.
    OutOfRange = 7,
    /// The bytes end before the artifact does.
    Truncated = 16,
    /// The bytes are not a RIDE artifact.
    NotAnArtifact = 17,
    /// The artifact's format is of another version: build it with the ride-compile of this release.
    Version = 18,
    /// A checksum does not match: the artifact is damaged.
    Checksum = 19,
    /// The artifact contradicts itself.
    Invalid = 20,
    /// No kernel of this build reads the artifact's weights: build the library with the features of the artifact's
    /// target, or the artifact for this target.
    NoKernel = 21,
    /// The arena is smaller than `ride_info.arena_bytes`.
    ArenaTooSmall = 32,
    /// The arena is not at a multiple of `RIDE_ALIGN`.
    ArenaMisaligned = 33,
    /// The image (or the memory for one) does not have `ride_info.image_bytes` bytes.
    ImageLength = 34,
    /// No experts were asked for, or more than the artifact has.
    Experts = 35,
    /// The policy needs routers, and the artifact has none.
    NoRouter = 36,
    /// A step before `ride_start` or after the last expert; an outcome before the first.
    OutOfOrder = 37,
    /// A golden vector of the artifact gives other results on this machine.
    SelfTest = 38,
}

/// What is known about a failure beyond its status. What does not apply is 0 or empty.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Detail {
    /// The status that the call returned.
    pub status: Status,
    /// Bytes (or experts, or a multiple of an address, or a version) that would be right.
    pub needed: usize,
    /// What was found instead.
    pub found: usize,
    /// The piece of the artifact.
    pub section: Text,
    /// What is wrong with it.
    pub reason: Text,
    /// Where in it: number of an operation, part, golden vector, or a byte.
    pub index: usize,
}

/// Names of all statuses. Names and texts are two tables, so that firmware links what it uses.
static NAMES: [(Status, &CStr); 21] = [
    (Status::Ok, c"RIDE_STATUS_OK"),
    (Status::NullPointer, c"RIDE_STATUS_NULL_POINTER"),
    (Status::Misaligned, c"RIDE_STATUS_MISALIGNED"),
    (Status::InvalidLength, c"RIDE_STATUS_INVALID_LENGTH"),
    (Status::Overlap, c"RIDE_STATUS_OVERLAP"),
    (Status::NotInitialised, c"RIDE_STATUS_NOT_INITIALISED"),
    (Status::Busy, c"RIDE_STATUS_BUSY"),
    (Status::OutOfRange, c"RIDE_STATUS_OUT_OF_RANGE"),
    (Status::Truncated, c"RIDE_STATUS_TRUNCATED"),
    (Status::NotAnArtifact, c"RIDE_STATUS_NOT_AN_ARTIFACT"),
    (Status::Version, c"RIDE_STATUS_VERSION"),
    (Status::Checksum, c"RIDE_STATUS_CHECKSUM"),
    (Status::Invalid, c"RIDE_STATUS_INVALID"),
    (Status::NoKernel, c"RIDE_STATUS_NO_KERNEL"),
    (Status::ArenaTooSmall, c"RIDE_STATUS_ARENA_TOO_SMALL"),
    (Status::ArenaMisaligned, c"RIDE_STATUS_ARENA_MISALIGNED"),
    (Status::ImageLength, c"RIDE_STATUS_IMAGE_LENGTH"),
    (Status::Experts, c"RIDE_STATUS_EXPERTS"),
    (Status::NoRouter, c"RIDE_STATUS_NO_ROUTER"),
    (Status::OutOfOrder, c"RIDE_STATUS_OUT_OF_ORDER"),
    (Status::SelfTest, c"RIDE_STATUS_SELF_TEST"),
];

/// What they mean.
static TEXTS: [(Status, &CStr); 21] = [
    (Status::Ok, c"done"),
    (Status::NullPointer, c"a pointer is null that must not be"),
    (Status::Misaligned, c"a pointer is not aligned"),
    (Status::InvalidLength, c"more bytes than there are addresses behind the pointer"),
    (Status::Overlap, c"buffers overlap that must not"),
    (Status::NotInitialised, c"no model or session has been made at this address"),
    (Status::Busy, c"the session is in use"),
    (Status::OutOfRange, c"a number is out of its range"),
    (Status::Truncated, c"the artifact is cut off: hand over all of its bytes"),
    (Status::NotAnArtifact, c"the bytes are not a RIDE artifact"),
    (Status::Version, c"the artifact has another format version: build it with the matching ride-compile"),
    (Status::Checksum, c"the artifact is damaged: a checksum does not match"),
    (Status::Invalid, c"the artifact contradicts itself"),
    (Status::NoKernel, c"no kernel of this build reads the artifact: build the library with its target's features"),
    (Status::ArenaTooSmall, c"the arena is too small: ride_info.arena_bytes are needed"),
    (Status::ArenaMisaligned, c"the arena must start at a multiple of RIDE_ALIGN bytes"),
    (Status::ImageLength, c"an image must have ride_info.image_bytes bytes"),
    (Status::Experts, c"experts must be between 1 and ride_info.experts"),
    (Status::NoRouter, c"the artifact has no routers: run a fixed number of experts"),
    (Status::OutOfOrder, c"step out of order: start a sample first; after the last expert there is none"),
    (Status::SelfTest, c"self-test failed: this machine gives other results than the artifact says"),
];

fn find(table: &'static [(Status, &'static CStr)], status: i32) -> *const c_char {
    table.iter().find(|entry| entry.0 as i32 == status).map_or(c"unknown status", |entry| entry.1).as_ptr()
}

/// Name of a status as this header writes it, ended by a zero; of any other number `"unknown status"`.
#[unsafe(no_mangle)]
pub extern "C" fn ride_status_name(status: i32) -> *const c_char {
    find(&NAMES, status)
}

/// What a status means, in words for a log, ended by a zero.
#[unsafe(no_mangle)]
pub extern "C" fn ride_status_text(status: i32) -> *const c_char {
    find(&TEXTS, status)
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::Truncated { .. } => Status::Truncated,
            Error::NotAnArtifact => Status::NotAnArtifact,
            Error::Version { .. } => Status::Version,
            Error::Checksum { .. } => Status::Checksum,
            Error::Invalid { .. } => Status::Invalid,
            Error::ArenaTooSmall { .. } => Status::ArenaTooSmall,
            Error::ArenaMisaligned => Status::ArenaMisaligned,
            Error::ArtifactMisaligned { .. } => Status::Misaligned,
            Error::InputLength { .. } => Status::ImageLength,
            Error::Experts { .. } => Status::Experts,
            Error::NoRouter => Status::NoRouter,
            Error::OutOfOrder => Status::OutOfOrder,
            Error::NoKernel { .. } => Status::NoKernel,
            Error::SelfTest { .. } => Status::SelfTest,
        }
    }
}

impl From<Status> for Detail {
    fn from(status: Status) -> Self {
        Detail { status, needed: 0, found: 0, section: "".into(), reason: "".into(), index: 0 }
    }
}

impl From<Error> for Detail {
    fn from(error: Error) -> Self {
        let plain = Detail::from(Status::from(error));
        match error {
            Error::Truncated { what, needed, found } => Detail { section: what.into(), needed, found, ..plain },
            Error::Version { found, supported } => {
                Detail { needed: usize::from(supported), found: usize::from(found), ..plain }
            }
            Error::Checksum { section, index } => Detail { section: section.into(), index: index.into(), ..plain },
            Error::Invalid { section, reason, at } => {
                Detail { section: section.into(), reason: reason.into(), index: at, ..plain }
            }
            Error::ArenaTooSmall { needed, found } | Error::InputLength { needed, found } => {
                Detail { needed, found, ..plain }
            }
            Error::ArenaMisaligned => Detail { needed: crate::ALIGN, ..plain },
            Error::ArtifactMisaligned { needed } => Detail { needed, section: "artifact".into(), ..plain },
            Error::Experts { requested, available } => Detail { needed: available, found: requested, ..plain },
            Error::NoKernel { layout } => Detail { reason: layout.into(), ..plain },
            Error::SelfTest { vector } => Detail { index: vector, ..plain },
            Error::NotAnArtifact | Error::NoRouter | Error::OutOfOrder => plain,
        }
    }
}

/// Status of a call; tells more in `*detail`, unless that is null.
///
/// # Safety
/// As [`Out::new`], or null.
pub(crate) unsafe fn explain(result: Result<(), Detail>, detail: *mut Detail) -> Status {
    let told = result.map_or_else(|detail| detail, |()| Status::Ok.into());
    if detail.is_null() {
        return told.status;
    }
    // SAFETY: the caller's promise.
    match unsafe { Out::new(detail) } {
        Ok(out) => out.put(told),
        Err(status) if told.status == Status::Ok => return status,
        Err(_) => {}
    }
    told.status
}

/// Status of a call.
pub(crate) fn done(result: Result<(), Status>) -> Status {
    result.err().unwrap_or(Status::Ok)
}
