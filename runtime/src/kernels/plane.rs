//! Output planes that threads may share.

use core::marker::PhantomData;

/// Bytes of an output plane, as a convolution writes them.
///
/// It is a `&'a mut [u8]` but for one thing: threads that compute different channels of the same pixels each hold a plane
/// of the same memory ([`Plane::alias`]), which Rust's references do not allow.
#[derive(Debug)]
pub struct Plane<'a> {
    at: *mut u8,
    len: usize,
    life: PhantomData<&'a mut [u8]>,
}

// SAFETY: a plane is an exclusive reference to the bytes that its holder touches: nobody else touches those, see `alias`.
unsafe impl Send for Plane<'_> {}

impl<'a> Plane<'a> {
    /// The plane of `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Plane { at: bytes.as_mut_ptr(), len: bytes.len(), life: PhantomData }
    }

    /// The same memory once more.
    ///
    /// # Safety
    /// No byte that is read or written through one of the planes is written through another one while both live.
    pub unsafe fn alias(&self) -> Self {
        Plane { ..*self }
    }

    /// The first `bytes` of it, or none if it is shorter; the rest is left.
    pub fn cut_off(&mut self, bytes: usize) -> Self {
        let len = if bytes <= self.len { bytes } else { 0 };
        let first = Plane { len, ..*self };
        (self.at, self.len) = (self.at.wrapping_add(len), self.len - len);
        first
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
    fn aliases_share_their_bytes() {
        let mut bytes = [1u8, 2, 3];
        let mut one = Plane::from(&mut bytes[..]);
        // SAFETY: each touches bytes of its own.
        let mut other = unsafe { one.alias() };
        *one.get_mut(0).unwrap() += 10;
        *other.get_mut(2).unwrap() += 10;
        assert_eq!((one.get_mut(3), other.get_mut(usize::MAX)), (None, None));
        assert_eq!((one.len(), other.is_empty()), (3, false));
        assert_eq!(bytes, [11, 2, 13]);
        assert!(Plane::new(&mut []).is_empty());
    }

    #[test]
    fn what_is_cut_off_is_gone() {
        let mut bytes = [1u8, 2, 3];
        let mut rest = Plane::from(&mut bytes[..]);
        let mut first = rest.cut_off(2);
        assert_eq!((first.len(), rest.len()), (2, 1));
        (*first.get_mut(1).unwrap(), *rest.get_mut(0).unwrap()) = (20, 30);
        assert!(rest.cut_off(2).is_empty() && rest.cut_off(1).len() == 1 && rest.is_empty());
        assert_eq!(bytes, [1, 20, 30]);
    }
}
