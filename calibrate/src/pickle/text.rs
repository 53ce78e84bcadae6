//! The literals of protocol 0, which are lines of text.

use std::borrow::Cow;

use super::Node;

/// `I` and `L`: decimal digits; `I01` and `I00` are booleans. `None` if it is no number.
pub(super) fn integer(line: &[u8]) -> Option<Node<'_>> {
    match line {
        b"01" => return Some(Node::Bool(true)),
        b"00" => return Some(Node::Bool(false)),
        _ => {}
    }
    let text = str::from_utf8(line.strip_suffix(b"L").unwrap_or(line)).ok()?.trim();
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().map_or(Node::BigInt(text.as_bytes()), Node::Int))
}

/// `F`: what Python's `float` reads.
pub(super) fn float(line: &[u8]) -> Option<f64> {
    str::from_utf8(line).ok()?.trim().parse().ok()
}

/// `S`: a quoted Python 2 string with backslash escapes.
pub(super) fn quoted(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    let line = line.trim_ascii();
    let quote = *line.first().filter(|&&byte| byte == b'\'' || byte == b'"')?;
    let body = line.get(1..)?.strip_suffix(&[quote])?;
    if !body.contains(&b'\\') {
        return Some(Cow::Borrowed(body));
    }
    let mut plain = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = if byte == b'\\' { unescape(tail, &mut plain)? } else { tail };
        if byte != b'\\' {
            plain.push(byte);
        }
    }
    Some(Cow::Owned(plain))
}

/// One escape, without its backslash; returns what follows it.
fn unescape<'a>(escape: &'a [u8], plain: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (&kind, tail) = escape.split_first()?;
    let byte = match kind {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'a' => 7,
        b'b' => 8,
        b'v' => 11,
        b'f' => 12,
        b'\\' | b'\'' | b'"' => kind,
        b'x' => {
            plain.push(u8::try_from(number(tail.get(..2)?, 16)?).ok()?);
            return tail.get(2..);
        }
        b'0'..=b'7' => {
            let length = escape.iter().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
            plain.push(number(&escape[..length], 8)? as u8);
            return Some(&escape[length..]);
        }
        _ => {
            plain.push(b'\\');
            kind
        }
    };
    plain.push(byte);
    Some(tail)
}

/// `V`: Latin-1 text in which `\uXXXX` and `\UXXXXXXXX` stand for other characters.
pub(super) fn raw_unicode(line: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(line) {
        Ok(text) if text.is_ascii() && !text.contains('\\') => return Cow::Borrowed(text),
        _ => {}
    }
    let mut units = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = match (byte, tail.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => 0,
        };
        let escaped = (digits > 0).then(|| tail.get(1..=digits).and_then(|hex| number(hex, 16))).flatten();
        match escaped {
            Some(code) => push_utf16(code, &mut units),
            None => units.push(u16::from(byte)),
        }
        rest = if escaped.is_some() { &tail[digits + 1..] } else { tail };
    }
    Cow::Owned(String::from_utf16_lossy(&units))
}

/// Appends a code point; UTF-16 because old Pythons pickled surrogate pairs.
fn push_utf16(code: u32, units: &mut Vec<u16>) {
    match (u16::try_from(code), char::from_u32(code)) {
        (Ok(unit), _) => units.push(unit),
        (_, Some(character)) => units.extend_from_slice(character.encode_utf16(&mut [0; 2])),
        _ => units.push(0xFFFD),
    }
}

/// Digits of the given base, all of `digits` or nothing.
fn number(digits: &[u8], base: u32) -> Option<u32> {
    digits.iter().try_fold(0u32, |sum, &byte| sum.checked_mul(base)?.checked_add(char::from(byte).to_digit(base)?))
}
