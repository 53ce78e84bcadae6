//! Classifying images, in the words of [`ride_runtime::Session`].

mod watch;

use std::ffi::c_void;

use ride_runtime::exec::{self, Probe};
use ride_runtime::format::crc::crc32;
use ride_runtime::golden::{self, Vector};
use ride_runtime::model::{Model, PartId};
use ride_runtime::{Outcome, Policy, Progress};

use crate::driver::{Buffer, Device, Event, Grid, Kernel, Mapped, Stream};
use crate::program::{self, Program, Shape};
use crate::{Error, Path};
use watch::{Times, Watch, Watched};

/// Threads of a block: what the device code is written for.
const THREADS: u32 = 256;

/// How operations get to the GPU. The results are the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Executor {
    /// All of them in one launch; routers decide on the device.
    #[default]
    Persistent,
    /// One by one; the host asks what the routers said.
    OpByOp,
}

/// Choices that are made for you unless you make them. None changes a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The fastest that the GPU has, if `None`.
    pub path: Option<Path>,
    /// How operations are launched.
    pub executor: Executor,
    /// Blocks of a launch; one for each multiprocessor if `None`, and never more, because blocks wait for each other.
    pub blocks: Option<u32>,
}

/// Time of one operation.
#[derive(Clone, Debug, PartialEq)]
pub struct OpTime {
    /// The part.
    pub part: PartId,
    /// Number of the operation in its part; the one behind an expert's last is combiner and router.
    pub index: usize,
    /// Microseconds, between events of the GPU.
    pub us: f64,
}

/// What routers are asked, as the device code counts it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Asked {
    mode: u32,
    threshold: f32,
}

impl Asked {
    const NOBODY: Asked = Asked { mode: 0, threshold: 0.0 };
    const ROUTERS: Asked = Asked { mode: 1, threshold: 0.0 };

    fn with(threshold: f32) -> Self {
        Asked { mode: 2, threshold }
    }
}

/// A stretch of the program.
#[derive(Clone, Copy, Debug)]
enum Range {
    /// One operation of the table.
    Alone(u32),
    /// Parts, the stem being 0.
    Parts(u32, u32),
}

/// Where images come in: page-locked memory of the host's, which the GPU reads itself where the two share their memory;
/// elsewhere it gets a copy, because every byte is read several times.
#[derive(Debug)]
struct Image {
    host: Mapped,
    copy: Option<Buffer>,
}

impl Image {
    fn new(device: &Device, len: usize) -> Result<Self, Error> {
        let copy = if device.facts().integrated { None } else { Some(Buffer::new(device, len)?) };
        Ok(Image { host: Mapped::new(device, len)?, copy })
    }

    fn address(&self) -> u64 {
        self.copy.as_ref().map_or(self.host.address, |copy| copy.address)
    }

    fn upload(&self, stream: &Stream) -> Result<(), Error> {
        self.copy.as_ref().map_or(Ok(()), |copy| copy.write(self.host.bytes(), stream))
    }
}

/// An artifact on a GPU.
#[derive(Debug)]
pub struct Session<'m> {
    // Before the memory that its launches use: dropped first.
    stream: Stream,
    kernel: Kernel,
    model: Model<'m>,
    device: Device,
    path: Path,
    executor: Executor,
    blocks: u32,
    parts: Vec<u32>,
    ops: Buffer,
    constants: Buffer,
    part_table: Buffer,
    arena: Buffer,
    control: Buffer,
    image: Image,
    /// Memory of the host's that the GPU writes: a few words and the logits, each once.
    result: Mapped,
    /// Experts that have run for the current sample; `None` before the stem.
    experts: Option<usize>,
    logits: Vec<f32>,
}

impl<'m> Session<'m> {
    /// A session with the GPU's fastest path, in single launches. Artifacts of any target will do.
    ///
    /// # Errors
    /// The GPU or its driver is too old, or has too little memory.
    pub fn new(model: Model<'m>, device: &Device) -> Result<Self, Error> {
        Self::with_options(model, device, Options::default())
    }

    /// A session with other choices.
    ///
    /// # Errors
    /// As [`Session::new`]; also if the GPU lacks the path.
    pub fn with_options(model: Model<'m>, device: &Device, options: Options) -> Result<Self, Error> {
        let facts = device.facts();
        let capability = facts.capability;
        let unsupported = || Error::Unsupported { name: facts.name.clone(), capability };
        let best = Path::best(capability).ok_or_else(unsupported)?;
        let path = options.path.unwrap_or(best);
        // Path by path, a newer GPU takes an older one's; the one exception only has to be slow.
        if capability < path.capability() {
            return Err(Error::PathUnavailable { path, capability });
        }
        let blocks = options.blocks.unwrap_or(facts.multiprocessors).clamp(1, facts.multiprocessors);
        let kernel = Kernel::new(device, path.ptx(), "ride_run", path.driver())?;
        let stream = Stream::new(device)?;
        let program = Program::new(model, Shape { path, multiprocessors: blocks })?;
        let part_table: Vec<u8> = program.parts.iter().flat_map(|p| p.to_le_bytes()).collect();
        let control = Buffer::new(device, 4 * program.control_words)?;
        control.clear(&stream)?;
        let session = Session {
            ops: Buffer::of(device, &program.ops, &stream)?,
            constants: Buffer::of(device, &program.constants, &stream)?,
            part_table: Buffer::of(device, &part_table, &stream)?,
            arena: Buffer::new(device, model.arena_len())?,
            control,
            image: Image::new(device, model.input_len())?,
            result: Mapped::new(device, 4 * program.result_words)?,
            stream,
            kernel,
            model,
            device: device.clone(),
            path,
            executor: options.executor,
            blocks,
            parts: program.parts,
            experts: None,
            logits: Vec::new(),
        };
        // The tables above are read from memory of this function's.
        session.stream.wait()?;
        Ok(session)
    }

    /// The model.
    pub fn model(&self) -> Model<'m> {
        self.model
    }

    /// The numeric path in use.
    pub fn path(&self) -> Path {
        self.path
    }

    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Blocks of a launch.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Bytes of GPU memory in use, without what the driver takes for itself and what lies in the host's memory.
    pub fn memory(&self) -> usize {
        let own = [&self.ops, &self.constants, &self.part_table, &self.arena, &self.control];
        own.into_iter().chain(&self.image.copy).map(|b| b.len).sum()
    }

    /// Classifies one image: raw unsigned pixels, height × width × channels.
    ///
    /// # Errors
    /// The image has the wrong length, the policy asks for experts that are not there, or the GPU fails.
    pub fn classify(&mut self, image: &[u8], policy: Policy) -> Result<Outcome<'_>, Error> {
        self.put_image(image)?;
        self.classify_in_place(policy)
    }

    /// Where the next image goes: a camera may write straight into it. On boards whose CPU and GPU share their memory this is
    /// what the GPU reads.
    pub fn image_mut(&mut self) -> &mut [u8] {
        let len = self.model.input_len();
        &mut self.image.host.bytes_mut()[..len]
    }

    /// Classifies what is in [`Session::image_mut`].
    ///
    /// # Errors
    /// As [`Session::classify`].
    pub fn classify_in_place(&mut self, policy: Policy) -> Result<Outcome<'_>, Error> {
        let (limit, asked) = self.limits(policy)?;
        if self.executor == Executor::OpByOp {
            return self.one_by_one(limit, asked, &mut ());
        }
        self.experts = None;
        self.image.upload(&self.stream)?;
        self.launch(Range::Parts(0, limit as u32 + 1), asked)?;
        self.collect()?;
        self.outcome()
    }

    /// As [`Session::classify`], one operation at a time and watched by `probe`, to which every output is copied.
    ///
    /// # Errors
    /// As [`Session::classify`].
    pub fn classify_probed<P: Probe>(
        &mut self,
        image: &[u8],
        policy: Policy,
        probe: &mut P,
    ) -> Result<Outcome<'_>, Error> {
        self.put_image(image)?;
        let (limit, asked) = self.limits(policy)?;
        let mut watched = Watched { probe };
        self.one_by_one(limit, asked, &mut watched)
    }

    /// Starts a sample: runs the stem.
    ///
    /// # Errors
    /// The image has the wrong length, or the GPU fails.
    pub fn start(&mut self, image: &[u8]) -> Result<(), Error> {
        self.experts = None;
        self.put_image(image)?;
        self.image.upload(&self.stream)?;
        self.run_part(0, Asked::NOBODY)?;
        self.stream.wait()?;
        self.experts = Some(0);
        Ok(())
    }

    /// Runs the next expert and asks its router. Stop whenever you like: [`Session::outcome`] is the best answer so far.
    ///
    /// # Errors
    /// No sample has been started, all experts have run, or the GPU fails.
    pub fn step(&mut self) -> Result<Progress, Error> {
        let n = self.experts.ok_or(ride_runtime::Error::OutOfOrder)?;
        if n >= self.model.experts() {
            return Err(ride_runtime::Error::OutOfOrder.into());
        }
        let (more, routed) = (n + 1 < self.model.experts(), self.model.routed());
        self.experts = None;
        self.run_part(n + 1, if routed { Asked::ROUTERS } else { Asked::NOBODY })?;
        self.collect()?;
        if !more || !routed {
            return Ok(Progress { experts: n + 1, score: None, proceed: more });
        }
        let (score, proceed) = self.route(n);
        Ok(Progress { experts: n + 1, score: Some(score), proceed })
    }

    /// The answer of the experts that have run for the current sample.
    ///
    /// # Errors
    /// No expert has run yet.
    pub fn outcome(&self) -> Result<Outcome<'_>, Error> {
        let experts = self.experts.filter(|&n| n > 0).ok_or(ride_runtime::Error::OutOfOrder)?;
        Ok(Outcome { class: exec::best_class(self.logit_bytes()), logits: &self.logits, experts })
    }

    /// Runs the artifact's golden vectors and compares every bit of the results; gives their number.
    ///
    /// # Errors
    /// [`ride_runtime::Error::SelfTest`] names the first vector that differs.
    pub fn self_test(&mut self) -> Result<usize, Error> {
        let (model, mut count) = (self.model, 0);
        let (_, width, channels) = model.input();
        let mut pixels = vec![0; model.input_len()];
        for (vector, want) in golden::vectors(&model).enumerate() {
            golden::image(want.seed, (width, channels), &mut pixels);
            let experts = self.classify(&pixels, Policy::Routed)?.experts as u32;
            let routed = crc32(self.logit_bytes());
            self.classify(&pixels, Policy::All)?;
            let all = crc32(self.logit_bytes());
            if (Vector { seed: want.seed, experts, routed, all }) != want {
                return Err(ride_runtime::Error::SelfTest { vector }.into());
            }
            count += 1;
        }
        Ok(count)
    }

    /// Time of every operation for one image and all experts, each launched by itself.
    ///
    /// # Errors
    /// As [`Session::classify`].
    pub fn profile(&mut self, image: &[u8]) -> Result<Vec<OpTime>, Error> {
        self.put_image(image)?;
        let mut times = Times { events: vec![(PartId::Stem, 0, Event::new(&self.device)?)] };
        times.events[0].2.record(&self.stream)?;
        self.one_by_one(self.model.experts(), Asked::NOBODY, &mut times)?;
        let pairs = times.events.iter().zip(&times.events[1..]);
        pairs
            .map(|((.., before), (part, index, after))| {
                Ok(OpTime { part: *part, index: *index, us: after.since(before)? })
            })
            .collect()
    }

    fn put_image(&mut self, image: &[u8]) -> Result<(), Error> {
        let needed = self.model.input_len();
        if image.len() != needed {
            return Err(ride_runtime::Error::InputLength { needed, found: image.len() }.into());
        }
        self.image_mut().copy_from_slice(image);
        Ok(())
    }

    /// Largest number of experts under `policy`, and what routers are asked.
    fn limits(&self, policy: Policy) -> Result<(usize, Asked), Error> {
        let available = self.model.experts();
        match policy {
            Policy::All => Ok((available, Asked::NOBODY)),
            Policy::Exactly(requested) if (1..=available).contains(&requested) => Ok((requested, Asked::NOBODY)),
            Policy::Exactly(requested) => Err(ride_runtime::Error::Experts { requested, available }.into()),
            Policy::Routed if !self.model.routed() => Ok((available, Asked::NOBODY)),
            Policy::Routed => Ok((available, Asked::ROUTERS)),
            Policy::Threshold(_) if !self.model.routed() => Err(ride_runtime::Error::NoRouter.into()),
            Policy::Threshold(t) => Ok((available, Asked::with(t))),
        }
    }

    /// Runs a part by itself.
    fn run_part(&mut self, part: usize, asked: Asked) -> Result<(), Error> {
        match self.executor {
            Executor::Persistent => self.launch(Range::Parts(part as u32, part as u32 + 1), asked),
            Executor::OpByOp => {
                (self.parts[part]..self.parts[part + 1]).try_for_each(|i| self.launch(Range::Alone(i), asked))
            }
        }
    }

    fn one_by_one(&mut self, limit: usize, asked: Asked, watch: &mut impl Watch) -> Result<Outcome<'_>, Error> {
        self.experts = None;
        self.image.upload(&self.stream)?;
        for part in 0..=limit {
            let id = if part == 0 { PartId::Stem } else { PartId::Expert(part as u16 - 1) };
            let (first, end) = (self.parts[part], self.parts[part + 1]);
            for i in first..end {
                let index = (i - first) as usize;
                let step = self.model.part(id).and_then(|p| p.step(index));
                watch.before(id, index, step.as_ref(), part > 0 && part < limit && asked.mode != 0);
                self.launch(Range::Alone(i), asked)?;
                watch.after(self, id, index, step.as_ref())?;
            }
            if part > 0 && part < limit && asked.mode != 0 {
                self.collect()?;
                let (score, proceed) = self.route(part - 1);
                watch.routed(part - 1, score, proceed);
                if !proceed {
                    return self.outcome();
                }
            }
        }
        self.collect()?;
        self.outcome()
    }

    fn launch(&self, range: Range, asked: Asked) -> Result<(), Error> {
        let (mut alone, mut from, mut to) = match range {
            Range::Alone(i) => (1u32, i, i + 1),
            Range::Parts(from, to) => (0, from, to),
        };
        let (mut ops, mut constants, mut arena) = (self.ops.address, self.constants.address, self.arena.address);
        let (mut image, mut control) = (self.image.address(), self.control.address);
        let (mut result, mut parts) = (self.result.address, self.part_table.address);
        let Asked { mut mode, mut threshold } = asked;
        let mut params: [*mut c_void; 12] = [
            (&raw mut ops).cast(),
            (&raw mut constants).cast(),
            (&raw mut arena).cast(),
            (&raw mut image).cast(),
            (&raw mut control).cast(),
            (&raw mut result).cast(),
            (&raw mut parts).cast(),
            (&raw mut alone).cast(),
            (&raw mut from).cast(),
            (&raw mut to).cast(),
            (&raw mut mode).cast(),
            (&raw mut threshold).cast(),
        ];
        let grid = Grid { blocks: self.blocks, threads: THREADS, together: alone == 0 };
        // SAFETY: the twelve parameters of `ride_run` with their types. The program was made from a validated model: all
        // offsets in its table lie in the buffers, which live as long as the stream.
        let launched = unsafe { self.kernel.launch(grid, &mut params, &self.stream) };
        if launched.is_err() {
            // Nobody else will, and the image may still be on its way. Of two errors, the first one counts.
            let _ = self.stream.wait();
        }
        launched
    }

    /// Waits for the GPU and takes the answer.
    fn collect(&mut self) -> Result<(), Error> {
        self.stream.wait()?;
        let logits = self.logit_bytes().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        self.logits = logits.collect();
        self.experts = Some(self.result_word(0) as usize);
        Ok(())
    }

    fn result_word(&self, at: usize) -> u32 {
        let bytes = self.result.bytes().get(4 * at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |b| u32::from_le_bytes(*b))
    }

    fn logit_bytes(&self) -> &[u8] {
        let at = 4 * program::logits_at(self.model.experts());
        self.result.bytes().get(at..at + 4 * self.model.classes()).unwrap_or_default()
    }

    /// Score and decision behind expert `n`.
    fn route(&self, n: usize) -> (f32, bool) {
        (f32::from_bits(self.result_word(1 + 2 * n)), self.result_word(2 + 2 * n) != 0)
    }
}
