//! What test firmware needs on an emulated board: a start, semihosting, markers of the instruction counter.
#![no_std]

pub mod counter;
pub mod semihosting;
pub mod stack;
mod start;
