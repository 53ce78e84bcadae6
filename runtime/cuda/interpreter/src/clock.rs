//! Races: accesses of different threads to the same byte, one of them a write, that nothing orders.
//!
//! Within a block, `bar.sync` orders: each block counts its *epochs*. Within a warp, `bar.warp.sync` does. Between blocks,
//! the usual vector clocks (as in FastTrack): a fence takes what is ordered before it, the epochs that a `bar.sync` has
//! closed; an atomic or volatile write after the fence publishes that with the word it writes; an atomic or volatile read of
//! the word, a fence behind it and a `bar.sync` behind that make it known to the block that reads. Leaving any of the four
//! out is found. The last write and the last read of each byte are remembered, so of several readers one may be missed.

use std::collections::HashMap;

/// Who touches memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Actor {
    pub(crate) block: u16,
    /// Thread within the block; [`Actor::WARP`] of a warp stands for all of its lanes.
    pub(crate) thread: u16,
    pub(crate) warp: u16,
    pub(crate) warp_epoch: u32,
}

impl Actor {
    /// Thread number of an access that a warp makes as a whole.
    pub(crate) const WARP: u16 = u16::MAX;
}

#[derive(Clone, Copy, Debug, Default)]
struct Access {
    epoch: u32,
    warp_epoch: u32,
    block: u16,
    thread: u16,
    warp: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct Byte {
    write: Access,
    read: Access,
}

/// Histories of a stretch of memory, made when it is first touched.
#[derive(Debug, Default)]
pub(crate) struct History(Vec<Byte>);

/// What one block knows.
#[derive(Clone, Debug)]
struct BlockClock {
    /// Number of the current epoch.
    epoch: u32,
    /// Last epoch of each block whose accesses are ordered before this block's.
    known: Vec<u32>,
    /// What the last fence took.
    fenced: Vec<u32>,
    /// What reads of words have brought, before and after a fence behind them.
    read: Vec<u32>,
    arrived: Vec<u32>,
}

fn merge(to: &mut [u32], from: &[u32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = (*to).max(*from));
}

/// All clocks of one launch.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    blocks: Vec<BlockClock>,
    words: HashMap<u64, Vec<u32>>,
}

impl Clocks {
    /// Clocks of a launch whose epochs come after `before`.
    pub(crate) fn new(blocks: u32, before: u32) -> Self {
        let known = vec![before; blocks as usize];
        let clock =
            BlockClock { epoch: before + 1, fenced: known.clone(), read: known.clone(), arrived: known.clone(), known };
        Clocks { blocks: vec![clock; blocks as usize], words: HashMap::new() }
    }

    /// The last epoch of any block.
    pub(crate) fn last(&self) -> u32 {
        self.blocks.iter().map(|b| b.epoch).max().unwrap_or(0)
    }

    /// All threads of the block have met.
    pub(crate) fn barrier(&mut self, block: u16) {
        let clock = &mut self.blocks[usize::from(block)];
        clock.epoch += 1;
        merge(&mut clock.known, &clock.arrived);
    }

    pub(crate) fn fence(&mut self, block: u16) {
        let clock = &mut self.blocks[usize::from(block)];
        merge(&mut clock.arrived, &clock.read);
        clock.fenced.clone_from(&clock.known);
        // What a thread has learned itself it passes on, even before its block knows.
        merge(&mut clock.fenced, &clock.arrived);
        clock.fenced[usize::from(block)] = clock.epoch - 1;
    }

    pub(crate) fn publish(&mut self, block: u16, address: u64) {
        let fenced = &self.blocks[usize::from(block)].fenced;
        let word = self.words.entry(address).or_insert_with(|| vec![0; fenced.len()]);
        merge(word, fenced);
    }

    pub(crate) fn receive(&mut self, block: u16, address: u64) {
        if let Some(word) = self.words.get(&address) {
            merge(&mut self.blocks[usize::from(block)].read, word);
        }
    }

    fn ordered(&self, actor: Actor, epoch: u32, past: &Access) -> bool {
        if past.epoch == 0 || past.block != actor.block {
            return past.epoch
                <= self.blocks[usize::from(actor.block)].known.get(usize::from(past.block)).copied().unwrap_or(0);
        }
        past.epoch < epoch
            || (past.warp == actor.warp
                && (past.warp_epoch < actor.warp_epoch || past.thread == actor.thread && actor.thread != Actor::WARP))
    }

    /// Checks and remembers an access to bytes of `history`, which is `len` bytes long; says whether it races.
    pub(crate) fn access(
        &self,
        history: &mut History,
        len: usize,
        (at, bytes): (usize, usize),
        write: bool,
        actor: Actor,
    ) -> bool {
        if history.0.is_empty() {
            history.0.resize(len, Byte::default());
        }
        let epoch = self.blocks[usize::from(actor.block)].epoch;
        let Actor { block, thread, warp, warp_epoch } = actor;
        let now = Access { epoch, warp_epoch, block, thread, warp };
        let mut race = false;
        for byte in &mut history.0[at..at + bytes] {
            race |= !self.ordered(actor, epoch, &byte.write);
            if write {
                race |= !self.ordered(actor, epoch, &byte.read);
                byte.write = now;
            } else {
                byte.read = now;
            }
        }
        race
    }
}
