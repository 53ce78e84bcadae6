//! Device memory: allocations with made-up addresses, so that every byte outside of one is known as such.

use crate::Error;

/// Allocation `n` starts at `(n + 1) << SHIFT`.
const SHIFT: u32 = 36;

#[derive(Debug)]
struct Allocation {
    at: *mut u8,
    len: usize,
    /// Where the machine owns the bytes.
    _own: Option<Box<[u64]>>,
}

/// Allocations by number.
#[derive(Debug, Default)]
pub struct Memory {
    all: Vec<Option<Allocation>>,
}

// SAFETY: an allocation's bytes are its own, or the host's, which lent them for the allocation's life time.
unsafe impl Send for Memory {}

impl Memory {
    /// New memory of the machine, filled with a pattern that is no useful value; returns its address.
    pub fn allocate(&mut self, len: usize) -> u64 {
        let mut own = vec![0xA5A5_A5A5_A5A5_A5A5u64; len.div_ceil(8).max(1)].into_boxed_slice();
        let at = own.as_mut_ptr().cast();
        self.push(Allocation { at, len, _own: Some(own) })
    }

    /// Memory of the host that the device sees, too; returns its device address.
    ///
    /// # Safety
    /// `at` is valid for reads and writes of `len` bytes until [`Memory::free`].
    pub unsafe fn lend(&mut self, at: *mut u8, len: usize) -> u64 {
        self.push(Allocation { at, len, _own: None })
    }

    fn push(&mut self, allocation: Allocation) -> u64 {
        self.all.push(Some(allocation));
        (self.all.len() as u64) << SHIFT
    }

    /// Frees an allocation; whether there was one that starts at this address.
    pub fn free(&mut self, address: u64) -> bool {
        let starts = address & ((1 << SHIFT) - 1) == 0;
        let slot = (address >> SHIFT).checked_sub(1).and_then(|n| self.all.get_mut(n as usize));
        starts && slot.is_some_and(|slot| slot.take().is_some())
    }

    /// Number of allocations that are alive.
    pub fn alive(&self) -> usize {
        self.all.iter().flatten().count()
    }

    /// Number and offset of an access, if it lies inside.
    #[inline(always)]
    pub(crate) fn place(&self, address: u64, len: usize) -> Option<(usize, usize)> {
        let (n, offset) = ((address >> SHIFT).wrapping_sub(1) as usize, (address & ((1 << SHIFT) - 1)) as usize);
        let allocation = self.all.get(n)?.as_ref()?;
        (offset + len <= allocation.len).then_some((n, offset))
    }

    pub(crate) fn length(&self, number: usize) -> usize {
        self.all.get(number).and_then(Option::as_ref).map_or(0, |a| a.len)
    }

    /// Where an access of `len` bytes goes.
    #[inline(always)]
    pub(crate) fn pointer(&self, address: u64, len: usize) -> Option<*mut u8> {
        let (n, offset) = self.place(address, len)?;
        let allocation = self.all[n].as_ref()?;
        // SAFETY: `place` has checked that the access lies in the allocation.
        Some(unsafe { allocation.at.add(offset) })
    }

    /// Copies bytes to the device.
    ///
    /// # Errors
    /// They do not lie in an allocation.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        let to = self.pointer(address, bytes.len()).ok_or(Error::syntax(0, "copy to memory outside of allocations"))?;
        // SAFETY: `to` is valid for as many bytes; the caller's slice cannot be device memory that is being written.
        unsafe { to.copy_from(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies bytes from the device.
    ///
    /// # Errors
    /// They do not lie in an allocation.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let from =
            self.pointer(address, bytes.len()).ok_or(Error::syntax(0, "copy of memory outside of allocations"))?;
        // SAFETY: `from` is valid for as many bytes.
        unsafe { from.copy_to(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }
}
