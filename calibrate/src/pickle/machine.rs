//! The stack machine that a pickle is a program for, with everything executable taken out.

use std::borrow::Cow;
use std::collections::HashMap;

use super::cursor::Cursor;
use super::{Error, Id, Node, Object, Pickle, text};

/// Most values that one pickle may hold. A checkpoint of RIDE has about 10,000, CIFAR-100's training file 250,000.
pub const MAX_VALUES: usize = 1 << 21;

/// Most references that one pickle may push: every value, memo access and mark is one.
pub const MAX_REFERENCES: usize = 1 << 24;

/// Newest protocol whose opcodes are known here.
const MAX_PROTOCOL: u8 = 5;

/// Runs the pickle at the start of `bytes`; also returns its length.
pub(super) fn run(bytes: &[u8]) -> Result<(Pickle<'_>, usize), Error> {
    let mut machine = Machine {
        cursor: Cursor::new(bytes),
        opcode_at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        references: 0,
    };
    loop {
        machine.opcode_at = machine.cursor.position();
        let opcode = machine.cursor.u8("the next opcode")?;
        if opcode == b'.' {
            break;
        }
        machine.step(opcode)?;
    }
    let root = machine.pop()?;
    let length = machine.cursor.position();
    Ok((Pickle { nodes: machine.nodes, root }, length))
}

struct Machine<'a> {
    cursor: Cursor<'a>,
    opcode_at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which a mark lies.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    references: usize,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<(), Error> {
        match opcode {
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'I' | b'L' | b'J' | b'K' | b'M' | 0x8a | 0x8b => self.integer(opcode),
            b'F' | b'G' => self.float(opcode),
            b'S' | b'T' | b'U' | b'B' | b'C' | 0x8e | 0x96 => self.bytes(opcode),
            b'V' | b'X' | 0x8c | 0x8d => self.text(opcode),
            b']' | b'l' | b')' | b't' | 0x85..=0x87 | b'}' | b'd' | 0x8f | 0x91 => self.container(opcode),
            b'a' | b'e' | b's' | b'u' | 0x90 => self.fill(opcode),
            b'c' | 0x93 | b'R' | 0x81 | 0x92 | b'i' | b'o' | b'b' => self.object(opcode),
            b'P' | b'Q' => self.persistent(opcode),
            b'p' | b'q' | b'r' | 0x94 | b'g' | b'h' | b'j' => self.memo(opcode),
            b'(' | b'0' | b'1' | b'2' => self.stack(opcode),
            0x80 => self.protocol(),
            // A frame only says how many bytes to prefetch.
            0x95 => self.cursor.array::<8>("a frame's length").map(drop),
            0x82..=0x84 => Err(self.fail("extension codes (copyreg) are not supported")),
            0x97 | 0x98 => Err(self.fail("out-of-band buffers are not supported; they are not part of the file")),
            _ => Err(self.fail(format!("{opcode:#04x} is not a pickle opcode"))),
        }
    }

    fn protocol(&mut self) -> Result<(), Error> {
        let protocol = self.cursor.u8("the protocol")?;
        if protocol > MAX_PROTOCOL {
            return Err(self.fail(format!("protocol {protocol} is not known; 0 to {MAX_PROTOCOL} are")));
        }
        Ok(())
    }

    fn integer(&mut self, opcode: u8) -> Result<(), Error> {
        const WHAT: &str = "an integer";
        let node = match opcode {
            b'J' => Node::Int(i32::from_le_bytes(self.cursor.array(WHAT)?).into()),
            b'K' => Node::Int(self.cursor.u8(WHAT)?.into()),
            b'M' => Node::Int(u16::from_le_bytes(self.cursor.array(WHAT)?).into()),
            0x8a | 0x8b => {
                let length = self.length(if opcode == 0x8a { 1 } else { 4 })?;
                long(self.cursor.take(length, WHAT)?)
            }
            _ => {
                let line = self.cursor.line(WHAT)?;
                text::integer(line).ok_or_else(|| self.fail(format!("{} is no integer", quote(line))))?
            }
        };
        self.push(node)
    }

    fn float(&mut self, opcode: u8) -> Result<(), Error> {
        let value = if opcode == b'G' {
            f64::from_be_bytes(self.cursor.array("a float")?)
        } else {
            let line = self.cursor.line("a float")?;
            text::float(line).ok_or_else(|| self.fail(format!("{} is no number", quote(line))))?
        };
        self.push(Node::Float(value))
    }

    fn bytes(&mut self, opcode: u8) -> Result<(), Error> {
        const WHAT: &str = "a byte string";
        let bytes = if opcode == b'S' {
            let line = self.cursor.line(WHAT)?;
            text::quoted(line).ok_or_else(|| self.fail(format!("{} is no quoted string", quote(line))))?
        } else {
            let width = match opcode {
                b'U' | b'C' => 1,
                b'T' | b'B' => 4,
                _ => 8,
            };
            let length = self.length(width)?;
            Cow::Borrowed(self.cursor.take(length, WHAT)?)
        };
        self.push(Node::Bytes(bytes))
    }

    fn text(&mut self, opcode: u8) -> Result<(), Error> {
        let width = match opcode {
            b'V' => {
                let text = text::raw_unicode(self.cursor.line("a string")?);
                return self.push(Node::Str(text));
            }
            0x8c => 1,
            b'X' => 4,
            _ => 8,
        };
        let length = self.length(width)?;
        let bytes = self.cursor.take(length, "a string")?;
        // Python pickles lone surrogates too; such text stays bytes.
        self.push(match str::from_utf8(bytes) {
            Ok(text) => Node::Str(Cow::Borrowed(text)),
            Err(_) => Node::Bytes(Cow::Borrowed(bytes)),
        })
    }

    /// A little-endian length of `width` bytes.
    fn length(&mut self, width: u64) -> Result<u64, Error> {
        let bytes = self.cursor.take(width, "a length")?;
        Ok(bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    }

    fn container(&mut self, opcode: u8) -> Result<(), Error> {
        let node = match opcode {
            b']' => Node::List(Vec::new()),
            b')' => Node::Tuple(Vec::new()),
            b'}' => Node::Dict(Vec::new()),
            0x8f => Node::Set(Vec::new()),
            b'l' => Node::List(self.pop_to_mark()?),
            b't' => Node::Tuple(self.pop_to_mark()?),
            0x91 => Node::Set(self.pop_to_mark()?),
            b'd' => {
                let flat = self.pop_to_mark()?;
                Node::Dict(self.pairs(&flat)?)
            }
            _ => {
                let count = usize::from(opcode - 0x84);
                Node::Tuple(self.pop_many(count)?)
            }
        };
        self.push(node)
    }

    /// Adds elements to the container below them.
    fn fill(&mut self, opcode: u8) -> Result<(), Error> {
        let elements = match opcode {
            b'a' => vec![self.pop()?],
            b's' => self.pop_many(2)?,
            _ => self.pop_to_mark()?,
        };
        let pairs = if matches!(opcode, b's' | b'u') { self.pairs(&elements)? } else { Vec::new() };
        let target = self.top()?;
        match (&mut self.nodes[target as usize], opcode) {
            (Node::List(items), b'a' | b'e') => items.extend(elements),
            (Node::Set(items), 0x90) => items.extend(elements),
            (Node::Object(object), b'a' | b'e' | 0x90) => object.items.extend(elements),
            (Node::Dict(entries), b's' | b'u') => entries.extend(pairs),
            (Node::Object(object), b's' | b'u') => object.entries.extend(pairs),
            _ => return Err(self.fail("elements are added to something that is no list, set, dict or object")),
        }
        Ok(())
    }

    fn pairs(&self, flat: &[Id]) -> Result<Vec<(Id, Id)>, Error> {
        if !flat.len().is_multiple_of(2) {
            return Err(self.fail("a dict's last key has no value"));
        }
        Ok(flat.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn object(&mut self, opcode: u8) -> Result<(), Error> {
        match opcode {
            b'c' => return self.global(),
            0x93 => {
                self.require(2)?;
                let (name, module) = (self.pop()?, self.pop()?);
                if ![module, name].iter().all(|&id| matches!(self.nodes[id as usize], Node::Str(_) | Node::Bytes(_))) {
                    return Err(self.fail("a class's module and name must be text"));
                }
                return self.push(Node::Class(module, name));
            }
            b'b' => return self.build(),
            _ => {}
        }
        let (callable, args) = match opcode {
            b'R' | 0x81 => {
                self.require(2)?;
                let args = self.pop()?;
                (self.pop()?, args)
            }
            0x92 => {
                self.require(3)?;
                // Keyword arguments: nothing that is read here has any.
                self.pop()?;
                let args = self.pop()?;
                (self.pop()?, args)
            }
            b'i' => {
                let args = self.pop_to_mark()?;
                self.global()?;
                let class = self.pop()?;
                (class, self.add(Node::Tuple(args))?)
            }
            _ => {
                let mut args = self.pop_to_mark()?;
                if args.is_empty() {
                    return Err(self.fail("an object without a class"));
                }
                (args.remove(0), self.add(Node::Tuple(args))?)
            }
        };
        let (items, entries) = (Vec::new(), Vec::new());
        self.push(Node::Object(Box::new(Object { callable, args, state: None, items, entries })))
    }

    fn global(&mut self) -> Result<(), Error> {
        let mut ids = [0; 2];
        for id in &mut ids {
            let line = self.cursor.line("a class's name")?;
            let text = str::from_utf8(line).map_err(|_| self.fail(format!("{} is no class name", quote(line))))?;
            *id = self.add(Node::Str(Cow::Borrowed(text)))?;
        }
        self.push(Node::Class(ids[0], ids[1]))
    }

    fn build(&mut self) -> Result<(), Error> {
        let state = self.pop()?;
        let target = self.top()?;
        let Node::Object(object) = &mut self.nodes[target as usize] else {
            return Err(self.fail("a state is set on something that is no object"));
        };
        object.state = Some(state);
        Ok(())
    }

    fn persistent(&mut self, opcode: u8) -> Result<(), Error> {
        let id = if opcode == b'Q' {
            self.pop()?
        } else {
            let line = self.cursor.line("a persistent id")?;
            self.add(Node::Bytes(Cow::Borrowed(line)))?
        };
        self.push(Node::Persistent(id))
    }

    fn memo(&mut self, opcode: u8) -> Result<(), Error> {
        let index = match opcode {
            b'p' | b'g' => {
                let line = self.cursor.line("a memo index")?;
                match text::integer(line) {
                    Some(Node::Int(index)) if index >= 0 => index as u64,
                    _ => return Err(self.fail(format!("{} is no memo index", quote(line)))),
                }
            }
            b'q' | b'h' => self.length(1)?,
            b'r' | b'j' => self.length(4)?,
            _ => self.memo.len() as u64,
        };
        if matches!(opcode, b'g' | b'h' | b'j') {
            let id = self.memo.get(&index).copied();
            let id = id.ok_or_else(|| self.fail(format!("nothing was stored as number {index} of the memo")))?;
            return self.push_id(id);
        }
        self.count_reference()?;
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn stack(&mut self, opcode: u8) -> Result<(), Error> {
        match opcode {
            b'(' => {
                self.count_reference()?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'1' => self.pop_to_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.push_id(top)
            }
            // As in CPython, POP right behind a mark removes the mark.
            _ if self.marks.last() == Some(&self.stack.len()) => {
                self.marks.pop();
                Ok(())
            }
            _ => self.pop().map(drop),
        }
    }

    /// Adds a value to the arena.
    fn add(&mut self, node: Node<'a>) -> Result<Id, Error> {
        if self.nodes.len() >= MAX_VALUES {
            return Err(self.fail(format!("more than {MAX_VALUES} values")));
        }
        self.nodes.push(node);
        Ok((self.nodes.len() - 1) as Id)
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), Error> {
        let id = self.add(node)?;
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<(), Error> {
        self.count_reference()?;
        self.stack.push(id);
        Ok(())
    }

    fn count_reference(&mut self) -> Result<(), Error> {
        self.references += 1;
        if self.references > MAX_REFERENCES {
            return Err(self.fail(format!("more than {MAX_REFERENCES} references")));
        }
        Ok(())
    }

    /// Fails unless `count` values lie above the topmost mark.
    fn require(&self, count: usize) -> Result<(), Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() < floor + count {
            return Err(self.fail("too few values on the stack"));
        }
        Ok(())
    }

    fn top(&self) -> Result<Id, Error> {
        self.require(1)?;
        Ok(self.stack[self.stack.len() - 1])
    }

    fn pop(&mut self) -> Result<Id, Error> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, Error> {
        self.require(count)?;
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Error> {
        let mark = self.marks.pop().ok_or_else(|| self.fail("no mark on the stack"))?;
        Ok(self.stack.split_off(mark))
    }

    fn fail(&self, reason: impl Into<String>) -> Error {
        Error { position: self.opcode_at, reason: reason.into(), truncated: false }
    }
}

/// `LONG1` and `LONG4`: little-endian two's complement of any length.
fn long(bytes: &[u8]) -> Node<'_> {
    let Some(&top) = bytes.last() else { return Node::Int(0) };
    if bytes.len() > 8 {
        return Node::BigInt(bytes);
    }
    let mut wide = if top & 0x80 == 0 { [0; 8] } else { [0xff; 8] };
    wide[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(wide))
}

/// A short printable form of input bytes for an error.
fn quote(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(40)];
    format!("\"{}\"{}", shown.escape_ascii(), if shown.len() < bytes.len() { "..." } else { "" })
}
