//! Vectors of the machine behind one trait, and the choice between them.
//!
//! Loops are written once, as a [`Kernel`], and compiled for every vector extension: `run` and everything in it is
//! inlined into a function that has the extension's features. Training makes no promise about bits across machines;
//! on one machine they do not depend on the number of threads.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::LazyLock;

/// Most lanes of a vector: what buffers are padded by, so that reading whole vectors stays inside.
pub(in crate::train) const MAX_LANES: usize = 16;

/// A vector of `f32`.
pub(in crate::train) trait Simd {
    /// Its length.
    const LANES: usize;
    /// How many of them the machine has.
    const REGISTERS: usize;
    /// Its type.
    type Vector: Copy;

    /// All lanes equal to `value`.
    ///
    /// # Safety
    /// The machine has the features that this type stands for; so for all functions here.
    unsafe fn splat(value: f32) -> Self::Vector;
    /// # Safety
    /// `LANES` elements can be read.
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// # Safety
    /// `LANES` elements can be written.
    unsafe fn store(to: *mut f32, vector: Self::Vector);
    /// `a * b + c`, rounded once where the machine can.
    ///
    /// # Safety
    /// See [`Simd::splat`].
    unsafe fn fma(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
}

/// A loop over vectors.
pub(in crate::train) trait Kernel {
    /// Runs it with wide vectors and with narrow ones, which waste less where there are few channels. The
    /// implementation must be `#[inline(always)]`, and so must be what it calls.
    ///
    /// # Safety
    /// The machine has the features of both.
    unsafe fn run<Wide: Simd, Narrow: Simd>(self);
}

/// A set of features to run kernels with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::train) enum Level {
    /// What every machine has.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// What this machine can run, best last.
    pub(in crate::train) fn available() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        let vectors = x86::available();
        #[cfg(not(target_arch = "x86_64"))]
        let vectors = [];
        std::iter::once(Level::Portable).chain(vectors).collect()
    }

    /// The best that this machine can run.
    pub(in crate::train) fn best() -> Self {
        static BEST: LazyLock<Level> = LazyLock::new(|| *Level::available().last().unwrap_or(&Level::Portable));
        *BEST
    }

    /// Lanes of wide and narrow vectors.
    pub(in crate::train) fn lanes(self) -> [usize; 2] {
        match self {
            Level::Portable => [portable::Eight::LANES; 2],
            #[cfg(target_arch = "x86_64")]
            level => x86::lanes(level),
        }
    }

    /// Runs a kernel.
    ///
    /// # Panics
    /// If the machine cannot run this level.
    pub(in crate::train) fn run<K: Kernel>(self, kernel: K) {
        match self {
            // SAFETY: plain Rust needs no features.
            Level::Portable => unsafe { kernel.run::<portable::Eight, portable::Eight>() },
            #[cfg(target_arch = "x86_64")]
            level => x86::run(level, kernel),
        }
    }
}
