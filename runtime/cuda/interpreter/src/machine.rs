//! Launches: blocks take turns, and their warps within them.

use std::sync::Arc;

use crate::clock::{Clocks, History};
use crate::decode::Kernel;
use crate::warp::{Place, State, Warp};
use crate::{Error, Memory, exec};

/// Instructions that a warp runs before another one has its turn: small enough that blocks which wait for each other get on.
const TURN: u32 = 4096;

/// What to run.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// Blocks.
    pub blocks: u32,
    /// Threads of each.
    pub threads: u32,
    /// Parameters, each at a multiple of its size.
    pub params: Vec<u8>,
}

/// What launches have cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Kernels launched.
    pub launches: u64,
    /// Instructions of warps.
    pub instructions: u64,
    /// Barriers of blocks.
    pub barriers: u64,
}

/// A device.
#[derive(Debug)]
pub struct Machine {
    /// Its memory.
    pub memory: Memory,
    /// Whether accesses are checked for races; bounds always are.
    pub check_races: bool,
    /// In which order blocks and warps take turns: other numbers, other orders.
    pub seed: u32,
    /// Instructions of warps after which a launch is taken to hang.
    pub patience: u64,
    /// Counted over all launches.
    pub statistics: Statistics,
    histories: Vec<History>,
    last_epoch: u32,
}

impl Default for Machine {
    fn default() -> Self {
        Machine {
            memory: Memory::default(),
            check_races: true,
            seed: 0,
            patience: 40_000_000_000,
            statistics: Statistics::default(),
            histories: Vec::new(),
            last_epoch: 0,
        }
    }
}

/// What the lanes of a warp share while it has its turn.
pub(crate) struct Shared<'m> {
    pub(crate) memory: &'m Memory,
    pub(crate) shared: &'m mut [u8],
    pub(crate) shared_history: &'m mut History,
    pub(crate) histories: &'m mut Vec<History>,
    pub(crate) clocks: &'m mut Clocks,
    pub(crate) races: bool,
    pub(crate) block: u32,
    pub(crate) warp: u32,
}

struct Block {
    warps: Vec<Warp>,
    /// In words, so that it is aligned.
    shared: Vec<u64>,
    history: History,
}

impl Machine {
    /// Frees memory, its history included.
    pub fn free(&mut self, address: u64) -> bool {
        if let Some((number, _)) = self.memory.place(address, 0)
            && let Some(history) = self.histories.get_mut(number)
        {
            *history = History::default();
        }
        self.memory.free(address)
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// The first thing that goes wrong.
    pub fn launch(&mut self, launch: &Launch) -> Result<(), Error> {
        let kernel = &launch.kernel;
        let most = kernel.max_threads.unwrap_or(1024);
        if launch.blocks == 0 || launch.threads == 0 || launch.threads > most {
            return Err(Error::syntax(0, format!("{} blocks of {} threads", launch.blocks, launch.threads)));
        }
        let warps = launch.threads.div_ceil(32);
        let place = |block, warp| Place { block, blocks: launch.blocks, warp, threads: launch.threads };
        let mut blocks: Vec<Block> = (0..launch.blocks)
            .map(|b| Block {
                warps: (0..warps).map(|w| Warp::new(kernel, &launch.params, place(b, w))).collect(),
                shared: vec![0x5A5A_5A5A_5A5A_5A5A; kernel.shared_len.div_ceil(8)],
                history: History::default(),
            })
            .collect();
        self.statistics.launches += 1;
        let mut clocks = Clocks::new(launch.blocks, self.last_epoch);
        let result = self.run(kernel, &mut blocks, &mut clocks);
        self.last_epoch = clocks.last();
        result
    }

    fn run(&mut self, kernel: &Kernel, blocks: &mut [Block], clocks: &mut Clocks) -> Result<(), Error> {
        let mut spent = 0u64;
        let count = blocks.len();
        let mut round = self.seed as usize;
        while blocks.iter().any(|b| b.warps.iter().any(|w| w.state != State::Done)) {
            for turn in 0..count {
                let number = (turn * if self.seed.is_multiple_of(2) { 1 } else { count - 1 } + round) % count;
                spent += self.turn(kernel, number, &mut blocks[number], clocks)?;
                if spent > self.patience {
                    return Err(Error::syntax(0, format!("no end after {spent} instructions")));
                }
            }
            round = round.wrapping_add(1);
        }
        self.statistics.instructions += spent;
        Ok(())
    }

    /// Lets the warps of a block run for a while; gives the number of instructions.
    fn turn(&mut self, kernel: &Kernel, number: usize, block: &mut Block, clocks: &mut Clocks) -> Result<u64, Error> {
        let mut spent = 0;
        let warps = block.warps.len();
        for k in 0..warps {
            let w = (k + self.seed as usize) % warps;
            // SAFETY: the words are initialised, and bytes need no alignment.
            let (_, bytes, _) = unsafe { block.shared.align_to_mut::<u8>() };
            let mut shared = Shared {
                memory: &self.memory,
                shared: &mut bytes[..kernel.shared_len],
                shared_history: &mut block.history,
                histories: &mut self.histories,
                clocks,
                races: self.check_races,
                block: number as u32,
                warp: w as u32,
            };
            spent += run_warp(kernel, &mut block.warps[w], &mut shared)?;
        }
        let waiting = block.warps.iter().all(|w| w.state != State::Running);
        if waiting && block.warps.iter().any(|w| w.state == State::Waiting) {
            self.statistics.barriers += 1;
            clocks.barrier(number as u16);
            for warp in block.warps.iter_mut().filter(|w| w.state == State::Waiting) {
                warp.state = State::Running;
                warp.epoch += 1;
            }
        }
        Ok(spent)
    }
}

fn run_warp(kernel: &Kernel, warp: &mut Warp, shared: &mut Shared<'_>) -> Result<u64, Error> {
    for spent in 0..TURN {
        if warp.state != State::Running {
            return Ok(u64::from(spent));
        }
        if warp.pc >= warp.limit {
            warp.requeue();
        }
        let instr = &kernel.code[warp.pc as usize];
        exec::step(warp, instr, shared).map_err(|(lane, what)| Error {
            line: instr.line,
            thread: Some((shared.block, 32 * shared.warp + lane.unwrap_or(0) as u32)),
            what,
        })?;
    }
    Ok(u64::from(TURN))
}
