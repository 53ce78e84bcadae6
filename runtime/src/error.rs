use core::fmt;

/// Why an artifact was refused or a call could not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The bytes end before the structure that they announce.
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes that would be needed.
        needed: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// The bytes do not start with the artifact's magic number.
    NotAnArtifact,
    /// The artifact's format version is not the one that this runtime reads.
    Version {
        /// Version in the artifact.
        found: u16,
        /// Version that this runtime reads.
        supported: u16,
    },
    /// A checksum does not match: the artifact is damaged.
    Checksum {
        /// The damaged piece.
        section: &'static str,
        /// Its index (the number of the expert, for instance).
        index: u16,
    },
    /// A structure is inconsistent.
    Invalid {
        /// The piece of the artifact.
        section: &'static str,
        /// What is wrong.
        reason: &'static str,
        /// Where: a byte offset or an operation's index.
        at: usize,
    },
    /// The arena that the caller lent is too small.
    ArenaTooSmall {
        /// Bytes that the artifact needs.
        needed: usize,
        /// Bytes that were lent.
        found: usize,
    },
    /// The arena does not start at a multiple of [`crate::format::ARENA_ALIGN`].
    ArenaMisaligned,
    /// The kernels of this build read weights by words, and the artifact does not start at a multiple of that.
    ArtifactMisaligned {
        /// What its address must be a multiple of.
        needed: usize,
    },
    /// The image has the wrong number of bytes.
    InputLength {
        /// Height × width × channels of the artifact's input.
        needed: usize,
        /// Bytes that were passed.
        found: usize,
    },
    /// The requested number of experts is zero or larger than the artifact's.
    Experts {
        /// Experts that were asked for.
        requested: usize,
        /// Experts in the artifact.
        available: usize,
    },
    /// Routed execution was asked of an artifact without routers.
    NoRouter,
    /// A step was asked for before [`crate::Session::start`], or after the last expert.
    OutOfOrder,
    /// No kernel of this build can run the artifact's weight layout on this machine.
    NoKernel {
        /// The layout's name.
        layout: &'static str,
    },
    /// The self-test's results differ from those in the artifact.
    SelfTest {
        /// Index of the golden vector that failed.
        vector: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Truncated { what, needed, found } => {
                write!(f, "artifact is truncated: {what} needs {needed} bytes, {found} are there")
            }
            Error::NotAnArtifact => write!(f, "not a RIDE artifact (wrong magic number)"),
            Error::Version { found, supported } => write!(
                f,
                "artifact has format version {found}, this runtime reads version {supported}: rebuild it with the matching ride-compile"
            ),
            Error::Checksum { section, index } => {
                write!(f, "artifact is damaged: checksum of section {section} {index} does not match")
            }
            Error::Invalid { section, reason, at } => {
                write!(f, "artifact is invalid: section {section}: {reason} (at {at})")
            }
            Error::ArenaTooSmall { needed, found } => {
                write!(f, "arena is too small: {needed} bytes are needed, {found} were lent")
            }
            Error::ArenaMisaligned => write!(f, "arena must start at a multiple of 64 bytes"),
            Error::ArtifactMisaligned { needed } => {
                write!(f, "artifact must start at a multiple of {needed} bytes: align the static that holds it")
            }
            Error::InputLength { needed, found } => {
                write!(f, "image has {found} bytes, the artifact's input needs {needed} (height x width x channels)")
            }
            Error::Experts { requested, available } => {
                write!(f, "{requested} experts were asked for, the artifact has {available}")
            }
            Error::NoRouter => write!(f, "the artifact has no routers: run a fixed number of experts instead"),
            Error::OutOfOrder => {
                write!(f, "step out of order: start a sample first; after the last expert there is none")
            }
            Error::NoKernel { layout } => {
                write!(f, "no kernel of this build runs weight layout {layout} on this machine")
            }
            Error::SelfTest { vector } => write!(f, "self-test failed: golden vector {vector} gives other results"),
        }
    }
}

impl core::error::Error for Error {}
