//! RIDE artifacts on NVIDIA GPUs, Jetson boards above all: one image at a time, the same bits as on a CPU.
//!
//! * Nothing of NVIDIA's is needed to build: the driver's library is looked for when the program runs, and the device code is
//!   PTX text in this crate, which the driver compiles. The PTX comes from `device/*.cu` by `device/generate.sh`.
//! * Four numeric [`Path`]s for what boards can multiply; logits and routes are the CPU's, bit for bit.
//! * Two [`Executor`]s: an operation a launch, to look into; or the whole routed program in a single launch, where routers
//!   decide on the device and an expert that does not run costs nothing but the decision.
//! * Without a GPU the tests run the same PTX in an interpreter (`ride-ptx`).
//!
//! ```no_run
//! # fn main() -> Result<(), ride_cuda::Error> {
//! # let (bytes, pixels): (&[u8], &[u8]) = (&[], &[]);
//! use ride_runtime::{Model, Policy};
//! let model = Model::parse(bytes)?;
//! let mut session = ride_cuda::Session::new(model, &ride_cuda::Device::open(0)?)?;
//! let outcome = session.classify(pixels, Policy::Routed)?;
//! println!("{} with {} experts", outcome.class, outcome.experts);
//! # Ok(()) }
//! ```

pub mod driver;
mod error;
mod path;
mod program;
mod session;

pub use driver::{Api, Device, Facts};
pub use error::Error;
pub use path::Path;
pub use session::{Executor, OpTime, Options, Session};
