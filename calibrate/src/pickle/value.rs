//! Looking at what a pickle holds.

use std::borrow::Cow;
use std::fmt;

use super::{Id, Node, Object, Pickle};

/// A value of a [`Pickle`]: a cheap handle.
///
/// Values may be shared and may even contain themselves, so code that walks them needs a limit of its own.
#[derive(Clone, Copy)]
pub struct Value<'p> {
    pickle: &'p Pickle<'p>,
    id: Id,
}

/// What a [`Value`] is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'p> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer in the range of `i64`.
    Int(i64),
    /// Any other integer, as pickled: little-endian two's complement or decimal digits.
    BigInt(&'p [u8]),
    /// A float.
    Float(f64),
    /// Text.
    Str(&'p str),
    /// Bytes, or a Python 2 string.
    Bytes(&'p [u8]),
    /// A list; see [`Value::items`].
    List,
    /// A tuple; see [`Value::items`].
    Tuple,
    /// A set or frozenset; see [`Value::items`].
    Set,
    /// A dict; see [`Value::entries`].
    Dict,
    /// A class or function, by name only; see [`Value::class`].
    Class,
    /// The result of a call that was not made; see [`Value::class`], [`Value::args`] and [`Value::state`].
    Object,
    /// A reference that the pickle's writer resolves; see [`Value::persistent_id`].
    Persistent,
}

impl<'p> Value<'p> {
    pub(super) fn new(pickle: &'p Pickle<'p>, id: Id) -> Self {
        Self { pickle, id }
    }

    fn node(self) -> &'p Node<'p> {
        &self.pickle.nodes[self.id as usize]
    }

    fn object(self) -> Option<&'p Object> {
        match self.node() {
            Node::Object(object) => Some(object),
            _ => None,
        }
    }

    fn sibling(self, id: Id) -> Value<'p> {
        Value { id, ..self }
    }

    /// What the value is.
    pub fn kind(self) -> Kind<'p> {
        match self.node() {
            Node::None => Kind::None,
            Node::Bool(value) => Kind::Bool(*value),
            Node::Int(value) => Kind::Int(*value),
            Node::BigInt(bytes) => Kind::BigInt(bytes),
            Node::Float(value) => Kind::Float(*value),
            Node::Str(text) => Kind::Str(text),
            Node::Bytes(bytes) => Kind::Bytes(bytes),
            Node::List(_) => Kind::List,
            Node::Tuple(_) => Kind::Tuple,
            Node::Set(_) => Kind::Set,
            Node::Dict(_) => Kind::Dict,
            Node::Class(..) => Kind::Class,
            Node::Object(_) => Kind::Object,
            Node::Persistent(_) => Kind::Persistent,
        }
    }

    /// The integer, if the value is one in the range of `i64`.
    pub fn as_i64(self) -> Option<i64> {
        match self.kind() {
            Kind::Int(value) => Some(value),
            _ => None,
        }
    }

    /// The integer, if the value is one that fits `usize`.
    pub fn as_usize(self) -> Option<usize> {
        self.as_i64()?.try_into().ok()
    }

    /// The text, if the value is text or a Python 2 string that is valid UTF-8.
    pub fn as_str(self) -> Option<&'p str> {
        match self.kind() {
            Kind::Str(text) => Some(text),
            Kind::Bytes(bytes) => str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The bytes, if the value is bytes in one of the forms that Python pickles them in: as they are, as
    /// `_codecs.encode(text, "latin1")` (Python 3 writing protocol 0 to 2), or as a `bytearray` of either.
    pub fn as_bytes(self) -> Option<Cow<'p, [u8]>> {
        if let Kind::Bytes(bytes) = self.kind() {
            return Some(Cow::Borrowed(bytes));
        }
        let (class, args) = (self.class()?, self.args()?);
        match (class, args.at(0)) {
            (("_codecs", "encode"), _) => latin1(args),
            ((_, "bytes" | "bytearray"), None) => Some(Cow::Borrowed(&[])),
            ((_, "bytes" | "bytearray"), Some(content)) => match content.kind() {
                Kind::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
                Kind::Str(_) => latin1(args),
                _ if content.class() == Some(("_codecs", "encode")) => latin1(content.args()?),
                _ => None,
            },
            _ => None,
        }
    }

    /// The elements of a list, tuple or set, or those that were appended to an object; else nothing.
    pub fn items(self) -> impl ExactSizeIterator<Item = Value<'p>> {
        let ids: &'p [Id] = match self.node() {
            Node::List(items) | Node::Tuple(items) | Node::Set(items) => items,
            Node::Object(object) => &object.items,
            _ => &[],
        };
        ids.iter().map(move |&id| self.sibling(id))
    }

    /// Number of [`Value::items`].
    #[expect(clippy::len_without_is_empty, reason = "most values are no containers")]
    pub fn len(self) -> usize {
        self.items().len()
    }

    /// The element number `index` of [`Value::items`].
    pub fn at(self, index: usize) -> Option<Value<'p>> {
        self.items().nth(index)
    }

    /// The keys and values of a dict, or those that were set on an object such as an `OrderedDict`, in order; a key
    /// may occur more than once, and then the last one counts.
    pub fn entries(self) -> impl Iterator<Item = (Value<'p>, Value<'p>)> {
        let entries: &'p [(Id, Id)] = match self.node() {
            Node::Dict(entries) => entries,
            Node::Object(object) => &object.entries,
            _ => &[],
        };
        let later = entries.iter().map(move |&(key, value)| (self.sibling(key), self.sibling(value)));
        self.initial_pairs().chain(later)
    }

    /// Python 2 pickles an `OrderedDict` as a call with a list of pairs.
    fn initial_pairs(self) -> impl Iterator<Item = (Value<'p>, Value<'p>)> {
        let ordered = self.class() == Some(("collections", "OrderedDict"));
        let list = self.args().filter(|_| ordered).and_then(|args| args.at(0));
        let pairs = list.into_iter().flat_map(|list| list.items());
        pairs.filter(|pair| pair.len() == 2).filter_map(|pair| Some((pair.at(0)?, pair.at(1)?)))
    }

    /// The value for a text key of [`Value::entries`].
    pub fn get(self, key: &str) -> Option<Value<'p>> {
        self.entries().filter(|(name, _)| name.as_str() == Some(key)).last().map(|(_, value)| value)
    }

    /// Module and name of a class or function, or of the one that an object would have been made by.
    pub fn class(self) -> Option<(&'p str, &'p str)> {
        let Some(object) = self.object() else { return self.class_name() };
        match self.sibling(object.callable).class_name() {
            // Protocols 0 and 1 make objects with a helper that takes the class as its first argument.
            Some(("copy_reg" | "copyreg", "_reconstructor")) => self.sibling(object.args).at(0)?.class_name(),
            name => name,
        }
    }

    fn class_name(self) -> Option<(&'p str, &'p str)> {
        match self.node() {
            Node::Class(module, name) => Some((self.sibling(*module).as_str()?, self.sibling(*name).as_str()?)),
            _ => None,
        }
    }

    /// The arguments of the call that would have made the object; usually a tuple.
    pub fn args(self) -> Option<Value<'p>> {
        Some(self.sibling(self.object()?.args))
    }

    /// The state that was set on the object (`__dict__` or what `__setstate__` takes).
    pub fn state(self) -> Option<Value<'p>> {
        self.object()?.state.map(|id| self.sibling(id))
    }

    /// The id of a persistent reference.
    pub fn persistent_id(self) -> Option<Value<'p>> {
        match self.node() {
            Node::Persistent(id) => Some(self.sibling(*id)),
            _ => None,
        }
    }
}

/// The bytes of the arguments `(text, "latin1")`.
fn latin1<'p>(args: Value<'p>) -> Option<Cow<'p, [u8]>> {
    let (text, codec) = (args.at(0)?.as_str()?, args.at(1)?.as_str()?);
    let bytes = text.chars().map(|character| u8::try_from(character).ok());
    matches!(codec, "latin1" | "latin-1").then(|| bytes.collect::<Option<Vec<u8>>>().map(Cow::Owned)).flatten()
}

/// A short description for messages; never walks into the value.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            Kind::None => write!(f, "None"),
            Kind::Bool(value) => write!(f, "{value}"),
            Kind::Int(value) => write!(f, "{value}"),
            Kind::BigInt(_) => write!(f, "an integer of more than 64 bits"),
            Kind::Float(value) => write!(f, "{value}"),
            Kind::Str(text) => write!(f, "\"{}\"", text.chars().take(60).collect::<String>().escape_debug()),
            Kind::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Kind::List => write!(f, "a list of {}", self.len()),
            Kind::Tuple => write!(f, "a tuple of {}", self.len()),
            Kind::Set => write!(f, "a set of {}", self.len()),
            Kind::Dict => write!(f, "a dict of {}", self.entries().count()),
            Kind::Class | Kind::Object => match self.class() {
                Some((module, name)) if self.kind() == Kind::Class => write!(f, "the class {module}.{name}"),
                Some((module, name)) => write!(f, "an object of {module}.{name}"),
                None => write!(f, "an object of unknown class"),
            },
            Kind::Persistent => write!(f, "a persistent reference"),
        }
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
