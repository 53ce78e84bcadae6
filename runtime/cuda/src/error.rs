//! What can go wrong, and what to do about it.

use std::fmt;

use crate::Path;

/// Why a session could not be made, or a call failed.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// There is no NVIDIA driver on this machine.
    NoDriver {
        /// Libraries that were looked for.
        tried: Vec<String>,
        /// What the system said about the last one.
        reason: String,
    },
    /// The driver lacks what this crate needs.
    DriverTooOld {
        /// Its CUDA version, 1000 * major + 10 * minor; 0 where it could not even be asked.
        found: i32,
        /// What is needed: a CUDA version or the name of a function.
        needed: String,
    },
    /// The driver is there, but no such GPU.
    NoDevice {
        /// The number that was asked for.
        ordinal: usize,
        /// Number of GPUs.
        found: usize,
    },
    /// The GPU is older than anything that there is code for.
    Unsupported {
        /// Its name.
        name: String,
        /// Its compute capability, major and minor.
        capability: (u32, u32),
    },
    /// The numeric path that was asked for needs a newer GPU.
    PathUnavailable {
        /// The path.
        path: Path,
        /// Compute capability of the GPU, major and minor.
        capability: (u32, u32),
    },
    /// The GPU has too little memory left.
    OutOfMemory {
        /// Bytes that were asked for.
        needed: usize,
    },
    /// The artifact needs more memory than offsets of 32 bits reach.
    TooLarge,
    /// A kernel failed; the GPU's context cannot be used any more.
    Kernel {
        /// The driver's name for what happened.
        reason: String,
    },
    /// Another call to the driver failed.
    Call {
        /// The function.
        function: &'static str,
        /// The driver's name for what happened.
        reason: String,
    },
    /// The same errors as on a CPU.
    Runtime(ride_runtime::Error),
}

fn version(v: i32) -> String {
    format!("{}.{}", v / 1000, v % 1000 / 10)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoDriver { tried, reason } => write!(
                f,
                "no NVIDIA driver on this machine: cannot load {} ({reason}); on a Jetson it belongs to JetPack, in a container \
                 start with the NVIDIA runtime, or name the library in RIDE_CUDA_LIBRARY",
                tried.join(" or ")
            ),
            Error::DriverTooOld { found: 0, needed } => {
                write!(f, "the NVIDIA driver is too old: it has no {needed}; update it (CUDA 9 or newer)")
            }
            Error::DriverTooOld { found, needed } => {
                write!(f, "the NVIDIA driver is too old: it supports CUDA {}, {needed} is needed", version(*found))
            }
            Error::NoDevice { ordinal, found: 0 } => {
                write!(f, "no GPU {ordinal}: the NVIDIA driver sees no GPU at all")
            }
            Error::NoDevice { ordinal, found } => write!(f, "no GPU {ordinal}: there are {found}, counted from 0"),
            Error::Unsupported { name, capability: (major, minor) } => write!(
                f,
                "{name} has compute capability {major}.{minor}; 5.3 (Jetson Nano) or newer is needed: run on the CPU instead"
            ),
            Error::PathUnavailable { path, capability: (major, minor) } => {
                let (want_major, want_minor) = path.capability();
                write!(
                    f,
                    "the numeric path {} needs compute capability {want_major}.{want_minor}, this GPU has {major}.{minor}",
                    path.name()
                )
            }
            Error::OutOfMemory { needed } => {
                write!(f, "the GPU has no {needed} bytes of memory left: close other programs or build a smaller model")
            }
            Error::TooLarge => write!(f, "the artifact needs more than 4 GiB of constants on the GPU"),
            Error::Kernel { reason } => write!(f, "a kernel failed on the GPU ({reason}): make a new session"),
            Error::Call { function, reason } => write!(f, "{function} failed: {reason}"),
            Error::Runtime(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<ride_runtime::Error> for Error {
    fn from(error: ride_runtime::Error) -> Self {
        Error::Runtime(error)
    }
}
