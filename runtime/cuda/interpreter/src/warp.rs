//! 32 threads in step: registers by lane, and which lanes run.

use crate::decode::{Init, Kernel, Reg};

/// Values of one register in all lanes.
pub(crate) type Lanes32 = [u32; 32];
pub(crate) type Lanes64 = [u64; 32];

/// Numbers that tell threads apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) block: u32,
    pub(crate) blocks: u32,
    pub(crate) warp: u32,
    pub(crate) threads: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// At `bar.sync`.
    Waiting,
    Done,
}

/// A warp. Lanes that run together have one program counter; the others keep theirs. The lanes that are furthest behind run
/// first, so that they meet the others again.
#[derive(Debug)]
pub(crate) struct Warp {
    pub(crate) r32: Vec<Lanes32>,
    pub(crate) r64: Vec<Lanes64>,
    pub(crate) preds: Vec<u32>,
    pub(crate) state: State,
    /// Lanes that run now, and where.
    pub(crate) mask: u32,
    pub(crate) pc: u32,
    /// Where the lanes that do not run now will go on.
    pcs: [u32; 32],
    /// Lanes that have not ended.
    pub(crate) live: u32,
    /// Lanes that wait for the others at a warp-wide instruction.
    parked: u32,
    /// The smallest counter of lanes that could run but do not.
    pub(crate) limit: u32,
    pub(crate) epoch: u32,
}

impl Warp {
    pub(crate) fn new(kernel: &Kernel, params: &[u8], place: Place) -> Self {
        let lanes = place.threads.saturating_sub(32 * place.warp).min(32);
        let mask = if lanes == 32 { !0 } else { (1 << lanes) - 1 };
        // Registers start with a pattern, so that reading one that nothing wrote shows.
        let mut warp = Warp {
            r32: vec![[0xDEAD_BEEF; 32]; kernel.regs32],
            r64: vec![[0xDEAD_BEEF_DEAD_BEEF; 32]; kernel.regs64],
            preds: vec![0; kernel.preds],
            state: State::Running,
            mask,
            pc: 0,
            pcs: [0; 32],
            live: mask,
            parked: 0,
            limit: u32::MAX,
            epoch: 1,
        };
        let value = |init: &Init, lane: usize| match *init {
            Init::Bits(bits) => bits,
            Init::Param(at) => {
                let mut bytes = [0; 8];
                let from = &params[at..params.len().min(at + 8)];
                bytes[..from.len()].copy_from_slice(from);
                u64::from_le_bytes(bytes)
            }
            Init::Tid => u64::from(32 * place.warp) + lane as u64,
            Init::Block => u64::from(place.block),
            Init::Blocks => u64::from(place.blocks),
            Init::Threads => u64::from(place.threads),
        };
        for (reg, init) in &kernel.init32 {
            warp.r32[usize::from(*reg)] = std::array::from_fn(|lane| value(init, lane) as u32);
        }
        for (reg, init) in &kernel.init64 {
            warp.r64[usize::from(*reg)] = std::array::from_fn(|lane| value(init, lane));
        }
        warp
    }

    /// Lets the running lanes go on at two places.
    pub(crate) fn diverge(&mut self, taken: u32, target: u32, next: u32) {
        for lane in lanes(self.mask) {
            self.pcs[lane] = if taken >> lane & 1 == 1 { target } else { next };
        }
        self.select();
    }

    /// Keeps the running lanes where they are, and picks anew.
    pub(crate) fn requeue(&mut self) {
        for lane in lanes(self.mask) {
            self.pcs[lane] = self.pc;
        }
        self.select();
    }

    /// The running lanes have ended.
    pub(crate) fn exit(&mut self, ended: u32) {
        for lane in lanes(self.mask & !ended) {
            self.pcs[lane] = self.pc + 1;
        }
        self.live &= !ended;
        self.mask &= !ended;
        if self.live == 0 {
            self.state = State::Done;
        } else {
            self.select();
        }
    }

    /// Whether all lanes that live are here, at a warp-wide instruction; otherwise the running ones wait. `None` if the
    /// others wait elsewhere.
    pub(crate) fn together(&mut self) -> Option<bool> {
        if self.mask == self.live {
            return Some(true);
        }
        self.parked |= self.mask;
        for lane in lanes(self.mask) {
            self.pcs[lane] = self.pc;
        }
        if self.parked == self.live {
            if lanes(self.live).any(|lane| self.pcs[lane] != self.pc) {
                return None;
            }
            self.parked = 0;
        }
        self.select();
        Some(false)
    }

    /// Runs the lanes that are furthest behind.
    fn select(&mut self) {
        let ready = self.live & !self.parked;
        self.pc = lanes(ready).map(|lane| self.pcs[lane]).min().unwrap_or(0);
        self.mask = lanes(ready).filter(|&lane| self.pcs[lane] == self.pc).fold(0, |mask, lane| mask | 1 << lane);
        self.limit = lanes(ready & !self.mask).map(|lane| self.pcs[lane]).min().unwrap_or(u32::MAX);
    }

    #[inline(always)]
    pub(crate) fn get32(&self, reg: Reg) -> Lanes32 {
        self.r32[usize::from(reg)]
    }

    #[inline(always)]
    pub(crate) fn get64(&self, reg: Reg) -> Lanes64 {
        self.r64[usize::from(reg)]
    }

    #[inline(always)]
    pub(crate) fn put32(&mut self, reg: Reg, f: impl Fn(usize) -> u32) {
        put(&mut self.r32[usize::from(reg)], self.mask, f);
    }

    #[inline(always)]
    pub(crate) fn put64(&mut self, reg: Reg, f: impl Fn(usize) -> u64) {
        put(&mut self.r64[usize::from(reg)], self.mask, f);
    }

    /// A predicate of the running lanes.
    #[inline(always)]
    pub(crate) fn put_pred(&mut self, reg: Reg, bits: u32) {
        let p = &mut self.preds[usize::from(reg)];
        *p = *p & !self.mask | bits & self.mask;
    }

    #[inline(always)]
    pub(crate) fn pred(&self, reg: Reg) -> u32 {
        self.preds[usize::from(reg)]
    }
}

#[inline(always)]
fn put<T: Copy>(to: &mut [T; 32], mask: u32, f: impl Fn(usize) -> T) {
    if mask == !0 {
        for (lane, to) in to.iter_mut().enumerate() {
            *to = f(lane);
        }
    } else {
        for lane in lanes(mask) {
            to[lane] = f(lane);
        }
    }
}

/// The lanes of a mask.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}
