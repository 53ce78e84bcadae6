//! What a protobuf may cost, found out before it is decoded.
//!
//! A decoder turns two bytes of an empty message into a structure of hundreds, so a small hostile file could ask for
//! a large amount of memory. This walks the wire format (varint keys, lengths) without allocating and counts messages.

use anyhow::{Context, Result, ensure};

/// Most messages of all kinds in one file. A ResNet-152 with six experts has some ten thousand.
const MAX_MESSAGES: u64 = 1 << 18;
/// Graphs within attributes of nodes (`If`, `Loop`); models that can be compiled have none.
const MAX_DEPTH: u32 = 24;

/// Kinds of message whose number matters, by the field numbers of `onnx.proto`.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Training,
    Function,
    Info,
    /// Anything whose decoded size is proportional to its bytes, or that is small and contains nothing else.
    Leaf,
    Type,
    TypeTensor,
    TypeShape,
}

impl Kind {
    /// The message in field `field`, or `None` for text, numbers and bytes.
    fn child(self, field: u64) -> Option<Kind> {
        Some(match (self, field) {
            (Kind::Model, 7) => Kind::Graph,
            (Kind::Model, 8 | 14) => Kind::Leaf,
            (Kind::Model, 20) => Kind::Training,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Training, 1 | 2) => Kind::Graph,
            (Kind::Training, 3 | 4) => Kind::Leaf,
            (Kind::Function, 7) => Kind::Node,
            (Kind::Function, 1 | 4..=6 | 9) => Kind::Leaf,
            (Kind::Graph, 1) => Kind::Node,
            (Kind::Graph, 5) => Kind::Tensor,
            (Kind::Graph, 11..=13) => Kind::Info,
            (Kind::Graph, 14 | 15) => Kind::Leaf,
            (Kind::Node, 5) => Kind::Attribute,
            // Names of operands: empty ones cost memory too.
            (Kind::Node, 1 | 2) => Kind::Leaf,
            (Kind::Attribute, 5 | 10) => Kind::Tensor,
            (Kind::Attribute, 6 | 11) => Kind::Graph,
            (Kind::Attribute, 9 | 22 | 23) => Kind::Leaf,
            (Kind::Attribute, 15) | (Kind::Info, 2) => Kind::Type,
            (Kind::Tensor, 6 | 13) => Kind::Leaf,
            (Kind::Type, 1) => Kind::TypeTensor,
            (Kind::TypeTensor, 2) => Kind::TypeShape,
            (Kind::TypeShape, 1) => Kind::Leaf,
            _ => return None,
        })
    }
}

/// Checks that decoding `bytes` as an ONNX model needs an amount of memory in proportion to their number.
///
/// # Errors
/// If the bytes are no protobuf, are cut off, or hold far more messages than any network has.
pub(super) fn check(bytes: &[u8]) -> Result<()> {
    let mut count = 0;
    walk(bytes, Kind::Model, 0, &mut count)
}

fn walk(mut bytes: &[u8], kind: Kind, depth: u32, count: &mut u64) -> Result<()> {
    ensure!(depth < MAX_DEPTH, "graphs are nested too deeply");
    *count += 1;
    ensure!(*count <= MAX_MESSAGES, "it has more than {MAX_MESSAGES} nodes, tensors and attributes");
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let (field, wire) = (key >> 3, key & 7);
        match wire {
            0 => drop(varint(&mut bytes)?),
            1 => drop(take(&mut bytes, 8)?),
            5 => drop(take(&mut bytes, 4)?),
            2 => {
                let length = varint(&mut bytes)?;
                let content = take(&mut bytes, length)?;
                match kind.child(field) {
                    Some(Kind::Leaf) => {
                        *count += 1;
                        ensure!(*count <= MAX_MESSAGES, "it has more than {MAX_MESSAGES} names and entries");
                    }
                    Some(child) => walk(content, child, depth + 1, count)?,
                    None => {}
                }
            }
            _ => anyhow::bail!("it is no protobuf: field {field} has the unknown wire type {wire}"),
        }
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for index in 0..10 {
        let (&byte, rest) = bytes.split_first().context("it is cut off in the middle of a number")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(7 * index).unwrap_or(0);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    anyhow::bail!("it is no protobuf: a number has more than ten bytes")
}

fn take<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8]> {
    let length = usize::try_from(length).ok().filter(|&length| length <= bytes.len());
    let length = length.context("it is cut off: a field is longer than what is left of the file")?;
    let (head, rest) = bytes.split_at(length);
    *bytes = rest;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::check;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(content);
        out
    }

    #[test]
    fn a_bomb_of_empty_nodes_is_refused() {
        let nodes = field(1, &[]).repeat(300_000);
        let error = check(&field(7, &nodes)).unwrap_err().to_string();
        assert!(error.contains("more than"), "{error}");
        assert!(check(&field(7, &field(1, &[]).repeat(1000))).is_ok());
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let mut graph = Vec::new();
        for _ in 0..40 {
            graph = field(1, &field(5, &field(6, &graph)));
        }
        assert!(check(&field(7, &graph)).unwrap_err().to_string().contains("nested"));
    }

    #[test]
    fn cut_off_bytes_are_refused() {
        let whole = field(7, &field(1, &field(4, b"Conv")));
        assert!(check(&whole).is_ok());
        for end in 1..whole.len() {
            assert!(check(&whole[..end]).is_err(), "{end}");
        }
        assert!(check(&[0xff; 12]).is_err() && check(&[0x0f]).is_err());
    }
}
