//! Accesses to memory: where they go, after all checks.

use crate::clock::{Actor, History};
use crate::decode::{Address, Cell, Space};
use crate::exec::Fault;
use crate::machine::Shared;
use crate::warp::Warp;

/// A checked place in memory.
#[derive(Clone, Copy)]
pub(crate) struct Spot(pub(crate) *mut u8);

impl Spot {
    #[inline(always)]
    pub(crate) fn read(self, bytes: u8) -> u64 {
        // SAFETY: whoever makes a spot has checked that it is valid and aligned for an access of this size, and nothing
        // else runs meanwhile.
        unsafe {
            match bytes {
                1 => u64::from(self.0.read()),
                2 => u64::from(self.0.cast::<u16>().read()),
                4 => u64::from(self.0.cast::<u32>().read()),
                _ => self.0.cast::<u64>().read(),
            }
        }
    }

    #[inline(always)]
    pub(crate) fn write(self, value: u64, bytes: u8) {
        // SAFETY: as for `read`.
        unsafe {
            match bytes {
                1 => self.0.write(value as u8),
                2 => self.0.cast::<u16>().write(value as u16),
                4 => self.0.cast::<u32>().write(value as u32),
                _ => self.0.cast::<u64>().write(value),
            }
        }
    }
}

impl Shared<'_> {
    /// Where a lane's access goes, after all checks.
    #[inline(always)]
    pub(crate) fn reach(
        &mut self,
        w: &Warp,
        cell: Cell,
        address: Address,
        (lane, write): (usize, bool),
    ) -> Result<Spot, Fault> {
        let base = match address.wide {
            true => w.r64[usize::from(address.base)][lane],
            false => u64::from(w.r32[usize::from(address.base)][lane]),
        };
        let at = base.wrapping_add_signed(address.offset);
        let actor = Actor {
            block: self.block as u16,
            thread: (32 * self.warp as usize + lane) as u16,
            warp: self.warp as u16,
            warp_epoch: w.epoch,
        };
        self.spot(at, cell, write, actor).map_err(|what| (Some(lane), what))
    }

    /// The same for a word that the warp as a whole touches.
    pub(crate) fn reach_warp(&mut self, w: &Warp, space: Space, at: u64, write: bool) -> Result<Spot, Fault> {
        let actor =
            Actor { block: self.block as u16, thread: Actor::WARP, warp: self.warp as u16, warp_epoch: w.epoch };
        let cell = Cell { bytes: 4, signed: false, space, volatile: false };
        self.spot(at, cell, write, actor).map_err(|what| (None, what))
    }

    #[inline(always)]
    fn spot(&mut self, at: u64, cell: Cell, write: bool, actor: Actor) -> Result<Spot, String> {
        let bytes = usize::from(cell.bytes);
        let kind = if write { "write" } else { "read" };
        if !at.is_multiple_of(bytes as u64) {
            return Err(format!("{kind} of {bytes} bytes at {at:#x} is not aligned"));
        }
        let spot = match cell.space {
            Space::Shared => {
                let place = self.shared.get_mut(at as usize..).filter(|rest| rest.len() >= bytes);
                place.map(|rest| rest.as_mut_ptr())
            }
            Space::Global => self.memory.pointer(at, bytes),
        };
        let Some(spot) = spot else {
            return Err(format!("{kind} of {bytes} bytes at {:?} {at:#x} is out of bounds", cell.space));
        };
        if self.races {
            self.check(at, cell, write, actor)
                .map_err(|()| format!("{kind} of {bytes} bytes at {:?} {at:#x} races", cell.space))?;
        }
        Ok(Spot(spot))
    }

    fn check(&mut self, at: u64, cell: Cell, write: bool, actor: Actor) -> Result<(), ()> {
        let bytes = usize::from(cell.bytes);
        if cell.volatile {
            if cell.space == Space::Global {
                if write {
                    self.clocks.publish(actor.block, at);
                } else {
                    self.clocks.receive(actor.block, at);
                }
            }
            return Ok(());
        }
        let race = match cell.space {
            Space::Shared => {
                let len = self.shared.len();
                self.clocks.access(self.shared_history, len, (at as usize, bytes), write, actor)
            }
            Space::Global => {
                let Some((number, offset)) = self.memory.place(at, bytes) else { return Ok(()) };
                let len = self.memory.length(number);
                if self.histories.len() <= number {
                    self.histories.resize_with(number + 1, History::default);
                }
                self.clocks.access(&mut self.histories[number], len, (offset, bytes), write, actor)
            }
        };
        if race { Err(()) } else { Ok(()) }
    }

    pub(crate) fn fence(&mut self) {
        if self.races {
            self.clocks.fence(self.block as u16);
        }
    }
}
