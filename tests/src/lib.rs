//! What the tests that cross a crate share; the tests themselves are in `tests/tests`.
//!
//! * [`synthetic`]: small routed networks with random weights, and pictures for them.
//! * [`built`]: compiling networks, the real model of `examples/models`, data sets where they are present.
//! * [`forge`]: taking artifacts apart and putting them together again with valid checksums.
//! * [`exercise`]: everything that a session can do, with guarded memory.
//! * [`law`]: what the compiler promises beyond what parsing checks.
//! * [`naive`]: a plain evaluation of a whole artifact, operation by operation, with the runtime's oracle.

pub mod built;
pub mod exercise;
pub mod forge;
pub mod law;
pub mod naive;
pub mod synthetic;
