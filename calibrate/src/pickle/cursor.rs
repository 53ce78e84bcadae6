//! Bounds-checked reading of a pickle's bytes.

use super::Error;

/// A position in the input; every read checks what is left.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// The next `count` bytes; `what` names them in the error.
    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.position..];
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count));
        let Some(taken) = taken else {
            let reason = format!("truncated: {what} takes {count} bytes but {} are left", rest.len());
            return Err(Error { position: self.position, reason, truncated: true });
        };
        self.position += taken.len();
        Ok(taken)
    }

    /// The next `N` bytes, for the fixed-width numbers.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self, what: &str) -> Result<u8, Error> {
        Ok(self.array::<1>(what)?[0])
    }

    /// The rest of the line, without its end.
    pub(super) fn line(&mut self, what: &str) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.position..];
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            let reason = format!("truncated: {what} has no end of line");
            return Err(Error { position: self.position, reason, truncated: true });
        };
        self.position += length + 1;
        Ok(&rest[..length])
    }
}
