//! Heap-free int8 runtime for *routed programs*: a stem shared by all experts, experts that run one after the other,
//! and a small router after each expert that decides, per sample, whether the next one is worth running (RIDE, Wang et
//! al., ICLR 2021).
//!
//! The crate is `no_std`, never allocates (but for threads and the module `memory`, with the feature `std`), and has no dependencies. An artifact (`*.ride`, written by `ride-compile`)
//! is validated once by [`Model::parse`]; afterwards nothing panics and nothing reads out of bounds, whatever the bytes
//! were. All results are defined by one arithmetic law ([`arith`]), so logits and routes are the same bits on every
//! kernel and every machine.
//!
//! **Stack.** [`Session::classify`] took at most 1.3 KB on every core that was measured (painted memory, RIDE ResNet-32
//! with three experts and all routers, optimised for size, Cortex-M0+ to M55: `tests/arm/firmware.sh`); it has no recursion and
//! no buffers whose size depends on the network. 2 KiB are a safe reservation for it.
//!
//! **Panics.** With the kernels for microcontrollers, programs link no path to one. (So says the same script of its binaries.)
//!
//! ```no_run
//! # fn main() -> Result<(), ride_runtime::Error> {
//! # let bytes: &[u8] = &[]; let pixels: &[u8] = &[];
//! let model = ride_runtime::Model::parse(bytes)?;
//! # #[repr(align(64))] struct Arena([u8; 65536]);
//! let mut arena = Arena([0; 65536]);
//! let mut session = ride_runtime::Session::new(model, &mut arena.0)?;
//! let outcome = session.classify(pixels, ride_runtime::Policy::Routed)?;
//! let (class, experts_used) = (outcome.class, outcome.experts);
//! # Ok(()) }
//! ```
#![cfg_attr(not(any(test, feature = "std")), no_std)]

pub mod arith;
#[cfg(feature = "std")]
pub mod batch;
pub mod confidence;
mod error;
pub mod exec;
pub mod format;
pub mod golden;
pub mod kernels;
mod lifetimes;
#[cfg(feature = "std")]
pub mod memory;
pub mod model;
pub mod op;
pub mod oracle;
pub mod session;
#[cfg(feature = "std")]
pub mod team;
#[cfg(not(feature = "std"))]
#[path = "alone.rs"]
mod team;

pub use error::Error;
pub use model::{Model, PartId};
pub use session::{Outcome, Policy, Progress, Session};
#[cfg(feature = "std")]
pub use team::Team;
