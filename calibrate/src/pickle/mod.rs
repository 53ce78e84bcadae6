//! A restricted reader of Python pickles: it builds data and executes nothing.
//!
//! Reads the opcodes of protocols 0 to 5 (listed in CPython's `pickletools`) that PyTorch, NumPy and Python 2 and 3
//! write. Whatever a pickle would import or call becomes an inert [`Kind::Class`] or [`Kind::Object`] that only
//! records names and arguments, so `os.system` in a pickle is a harmless pair of strings.
//!
//! Made for hostile input:
//! - All values live in one arena and refer to each other by index. Sharing through the memo costs nothing, cycles
//!   are released like everything else, and neither reading nor dropping recurses.
//! - Text and bytes are borrowed from the input, except protocol-0 literals, which have to be unescaped.
//! - The number of values is limited ([`MAX_VALUES`]), and so is the number of references between them
//!   ([`MAX_REFERENCES`]).
//! - Every error gives the byte position and the reason.

use std::fmt;

mod cursor;
mod machine;
mod text;
mod value;

#[cfg(test)]
mod tests;

pub use machine::{MAX_REFERENCES, MAX_VALUES};
pub use value::{Kind, Value};

/// Index of a node in the arena.
type Id = u32;

/// A pickle that has been read: an arena of values that borrow from the input.
#[derive(Clone, Debug)]
pub struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Id,
}

/// One value of the arena.
#[derive(Clone, Debug)]
enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond `i64`: its bytes as pickled, little-endian two's complement or decimal digits.
    BigInt(&'a [u8]),
    Float(f64),
    Str(std::borrow::Cow<'a, str>),
    Bytes(std::borrow::Cow<'a, [u8]>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Set(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// Module and name, both text.
    Class(Id, Id),
    Object(Box<Object>),
    Persistent(Id),
}

/// What a pickle would have built by calling `callable(*args)`.
#[derive(Clone, Debug)]
struct Object {
    callable: Id,
    args: Id,
    state: Option<Id>,
    items: Vec<Id>,
    entries: Vec<(Id, Id)>,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle that fills `bytes` exactly.
    ///
    /// # Errors
    /// The byte position and the reason: a truncated or malformed pickle, an unsupported opcode, more values than
    /// [`MAX_VALUES`], or bytes left over behind the pickle.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let (pickle, length) = Self::read_prefix(bytes)?;
        if length != bytes.len() {
            let reason = format!("{} bytes left over behind the end of the pickle", bytes.len() - length);
            return Err(Error { position: length, reason, truncated: false });
        }
        Ok(pickle)
    }

    /// Reads the pickle at the start of `bytes`; also returns its length in bytes.
    ///
    /// # Errors
    /// As [`Pickle::read`], except that bytes may be left over.
    pub fn read_prefix(bytes: &'a [u8]) -> Result<(Self, usize), Error> {
        machine::run(bytes)
    }

    /// The pickled value.
    pub fn root(&self) -> Value<'_> {
        Value::new(self, self.root)
    }

    /// The ids of all persistent references in the pickle, in the order in which they were read. PyTorch refers to
    /// tensor storages this way.
    pub fn persistent_ids(&self) -> impl Iterator<Item = Value<'_>> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Persistent(id) => Some(Value::new(self, *id)),
            _ => None,
        })
    }
}

/// Why a pickle could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    position: usize,
    reason: String,
    truncated: bool,
}

impl Error {
    /// Position in bytes from the start of the pickle.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Whether the input ended in the middle of the pickle, so that more bytes might have made it readable.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pickle, byte {}: {}", self.position, self.reason)
    }
}

impl std::error::Error for Error {}
