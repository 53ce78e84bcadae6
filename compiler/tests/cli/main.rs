//! The `ride-compile` binary as a user runs it: every verb, JSON shapes, bad input, exit codes, nothing left behind.

mod bench;
mod build;
mod inspect;
mod listings;
mod mobile;
#[path = "../npz/mod.rs"]
mod npz;
mod run;
mod support;
mod verify;
