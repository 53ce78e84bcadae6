//! Runs PTX without a GPU: the very text that `ride-cuda` ships, with blocks, threads and barriers.
//!
//! Only the instructions that its device code uses are known; any other is an error, never a guess. All of them follow
//! the PTX ISA: binary32 in IEEE-754 order, tensor-core fragments as documented for `mma.sync` (and in an arbitrary order
//! for `wmma`, whose fragments are opaque). On top of that the machine checks what hardware does not say:
//!
//! * every access lies in an allocation and is aligned;
//! * with [`Machine::check_races`], accesses of different threads to the same byte, one of them a write, are ordered by
//!   barriers or by fences and atomics (vector clocks of blocks, see `clock.rs`);
//! * all lanes of a warp take part in warp-wide instructions, and no launch waits forever.
//!
//! [`driver`] dresses the machine up as a CUDA driver.

mod access;
mod clock;
mod decode;
pub mod driver;
mod exec;
mod fragment;
mod machine;
mod memory;
mod parse;
mod warp;

pub use machine::{Launch, Machine, Statistics};
pub use memory::Memory;

use std::fmt;
use std::sync::Arc;

/// What is wrong with a module or happened during a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Line of the PTX text; 0 where none is to blame.
    pub line: u32,
    /// Block and thread, where one is to blame.
    pub thread: Option<(u32, u32)>,
    /// What it is.
    pub what: String,
}

impl Error {
    fn syntax(line: u32, what: impl Into<String>) -> Self {
        Error { line, thread: None, what: what.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)?;
        self.thread.map_or(Ok(()), |(block, thread)| write!(f, " (block {block}, thread {thread})"))
    }
}

impl std::error::Error for Error {}

/// Kernels, decoded and ready to run.
#[derive(Clone, Debug)]
pub struct Module {
    pub(crate) kernels: Vec<Arc<decode::Kernel>>,
    target: u32,
}

impl Module {
    /// Reads PTX text.
    ///
    /// # Errors
    /// Names the line and the instruction that is unknown or malformed.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let parsed = parse::parse(text)?;
        let kernels = parsed.kernels.iter().map(|k| decode::kernel(k).map(Arc::new)).collect::<Result<_, _>>()?;
        Ok(Module { kernels, target: parsed.target })
    }

    /// Compute capability that the text is for, as 10 * major + minor.
    pub fn target(&self) -> u32 {
        self.target
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<Arc<Kernel>> {
        self.kernels.iter().find(|k| k.name == name).cloned()
    }
}

pub use decode::Kernel;
