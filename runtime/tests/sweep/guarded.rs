//! Buffers that notice writes beyond their ends.

use alloc::vec::Vec;

use super::random::Random;

/// Bytes between two guards, at any alignment.
pub(super) struct Guarded {
    all: Vec<u8>,
    start: usize,
    len: usize,
    guards: Vec<u8>,
}

impl Guarded {
    pub(super) fn new(inside: Vec<u8>, r: &mut Random) -> Self {
        let (start, len) = (64 + r.below(64), inside.len());
        let mut all = r.bytes(start);
        all.extend(inside);
        all.extend(r.bytes(128));
        let guards = Self::outside(&all, start, len);
        Guarded { all, start, len, guards }
    }

    fn outside(all: &[u8], start: usize, len: usize) -> Vec<u8> {
        [&all[..start], &all[start + len..]].concat()
    }

    pub(super) fn inside(&mut self) -> &mut [u8] {
        &mut self.all[self.start..][..self.len]
    }

    pub(super) fn intact(&self) -> bool {
        Self::outside(&self.all, self.start, self.len) == self.guards
    }
}
