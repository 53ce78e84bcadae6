//! C interface of `ride-runtime`: a static library and the header `include/ride.h`, which is generated from this crate's
//! sources (`tests/header.rs`).
//!
//! On hosts the feature `std` chooses kernels at run time; for a microcontroller (`target_os = "none"`) the library
//! brings its own panic handler, which nothing should reach, and `dsp` or `mve` choose the kernels as the target's data
//! file says:
//!
//! ```sh
//! cargo build --release -p ride-capi --features std                                        # this machine
//! cargo build --release -p ride-capi --features dsp --target thumbv7em-none-eabihf         # Cortex-M4, M7
//! ```
//!
//! # Conventions of the header
//!
//! ```text
#![doc = include_str!("../conventions.txt")]
//! ```
#![cfg_attr(target_os = "none", no_std)]

mod classes;
mod memory;
mod model;
#[cfg(target_os = "none")]
mod panic;
mod policy;
mod profile;
mod session;
mod status;
mod steps;

pub use classes::{Group, ride_model_class_group, ride_model_class_name, ride_model_train_count};
pub use memory::Text;
pub use model::{Info, MODEL_WORDS, RideModel, ride_model_info, ride_model_macs, ride_model_open};
pub use policy::{POLICY_ALL, POLICY_EXACTLY, POLICY_ROUTED, POLICY_THRESHOLD, Policy};
pub use profile::{OpEvent, Part, Profiler};
pub use session::{
    Kernels, Outcome, RideSession, SESSION_WORDS, ride_classify, ride_classify_profiled, ride_self_test,
    ride_session_init, ride_session_kernels,
};
pub use status::{Detail, Status, ride_status_name, ride_status_text};
pub use steps::{Progress, ride_outcome_so_far, ride_start, ride_step};

/// Version of this interface: it changes when a structure, a number or the meaning of a function does. Compare it with
/// `ride_abi_version()` where library and header could come from different releases.
pub const ABI_VERSION: u32 = 1;

/// What the address of an arena must be a multiple of, in bytes. Artifacts want it too: kernels for some cores read
/// weights by words, and aligned vectors are faster.
pub const ALIGN: usize = 64;

const _: () = assert!(ALIGN == ride_runtime::format::ARENA_ALIGN);

/// `RIDE_ABI_VERSION` of the library.
#[unsafe(no_mangle)]
pub extern "C" fn ride_abi_version() -> u32 {
    ABI_VERSION
}
