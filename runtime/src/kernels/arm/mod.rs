//! Cortex-M kernels: `dsp` for Cortex-M4, M7 and M33 (`smlad`), `mve` for Cortex-M55 and M85 (Helium).
//!
//! Stable Rust shows neither extension to `cfg`, so Cargo features of the same names choose them: the firmware's author
//! says what the core has (the target's data file knows). Their instructions are written as assembly, in one file `asm` for
//! each extension, because their intrinsics are not stable either.

#[cfg(feature = "dsp")]
pub mod dsp;
#[cfg(feature = "mve")]
pub mod mve;
mod store;
