//! Output planes that threads may share.

use core::marker::PhantomData;
use core::ops::Range;
use core::slice;

/// Bytes of an output plane, as a convolution writes them.
///
/// It is a `&'a mut [u8]` but for one thing: threads that compute different channels of the same pixels each hold a plane
/// of the same memory ([`Plane::part`]), which Rust's references do not allow.
#[derive(Debug)]
pub struct Plane<'a> {
    at: *mut u8,
    len: usize,
    life: PhantomData<&'a mut [u8]>,
}

// SAFETY: a plane is an exclusive reference to the bytes that its holder touches: nobody else touches those, see `part`.
unsafe impl Send for Plane<'_> {}
// SAFETY: what can be done with a shared one touches no byte.
unsafe impl Sync for Plane<'_> {}

impl<'a> Plane<'a> {
    /// The plane of `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Plane { at: bytes.as_mut_ptr(), len: bytes.len(), life: PhantomData }
    }

    /// Some bytes of it once more; none if there are no such bytes.
    ///
    /// # Safety
    /// No byte that is read or written through one of the planes is written through another one while both live.
    pub unsafe fn part(&self, bytes: Range<usize>) -> Self {
        let inside = bytes.start <= bytes.end && bytes.end <= self.len;
        let len = if inside { bytes.len() } else { 0 };
        Plane { at: self.at.wrapping_add(if inside { bytes.start } else { 0 }), len, life: PhantomData }
    }

    /// The plane as a slice.
    ///
    /// # Safety
    /// No other plane has bytes of this one.
    pub unsafe fn into_slice(self) -> &'a mut [u8] {
        // SAFETY: these are bytes of memory that was borrowed for `'a`, and nobody else has them, as promised by the caller.
        unsafe { slice::from_raw_parts_mut(self.at, self.len) }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte. Only bytes that belong to the caller may be touched through it.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.at
    }

    /// Byte `at`, if there is one.
    pub fn get_mut(&mut self, at: usize) -> Option<&mut u8> {
        // SAFETY: the byte is one of the memory that was borrowed for `'a`, and nobody else touches it.
        (at < self.len).then(|| unsafe { &mut *self.at.add(at) })
    }
}

impl<'a> From<&'a mut [u8]> for Plane<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Plane::new(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_their_bytes() {
        let mut bytes = [1u8, 2, 3];
        let mut one = Plane::from(&mut bytes[..]);
        // SAFETY: each touches bytes of its own.
        let (mut all, rest, none) = unsafe { (one.part(0..3), one.part(1..2), one.part(2..4)) };
        *one.get_mut(0).unwrap() += 10;
        *all.get_mut(2).unwrap() += 10;
        assert_eq!((one.get_mut(3), all.get_mut(usize::MAX)), (None, None));
        assert_eq!((one.len(), all.is_empty(), rest.len(), none.len()), (3, false, 1, 0));
        // SAFETY: nobody touches the second byte any more.
        unsafe { rest.into_slice()[0] = 20 };
        assert_eq!(bytes, [11, 20, 13]);
        assert!(Plane::new(&mut []).is_empty());
    }
}
