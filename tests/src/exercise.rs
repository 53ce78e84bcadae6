//! Everything that a session can do with a model, in memory that is watched.

use ride_compiler::memory::AlignedBytes;
use ride_runtime::exec::{Output, Probe};
use ride_runtime::format::ARENA_ALIGN;
use ride_runtime::kernels::{BACKENDS, Backend};
use ride_runtime::op::Step;
use ride_runtime::{Error, Model, Outcome, PartId, Policy, Session, golden};

/// Bytes on either side of a watched arena.
const GUARD: usize = 4096;

/// An arena of exactly the size that a model needs, between guard bytes.
#[derive(Debug)]
pub struct Arena {
    bytes: AlignedBytes,
    len: usize,
    guard: u8,
}

impl Arena {
    /// An arena for `model`, filled with `fill`; the guards are filled with its complement.
    pub fn new(model: Model<'_>, fill: u8) -> Self {
        let len = model.arena_len();
        let mut bytes = AlignedBytes::zeroed(len + 2 * GUARD);
        bytes.fill(!fill);
        bytes[GUARD..GUARD + len].fill(fill);
        Arena { bytes, len, guard: !fill }
    }

    /// The arena itself, at a multiple of [`ARENA_ALIGN`].
    pub fn lend(&mut self) -> &mut [u8] {
        const { assert!(GUARD.is_multiple_of(ARENA_ALIGN)) };
        &mut self.bytes[GUARD..GUARD + self.len]
    }

    /// Whether nothing outside has been touched.
    pub fn intact(&self) -> bool {
        let (before, rest) = self.bytes.split_at(GUARD);
        before.iter().chain(&rest[self.len..]).all(|&b| b == self.guard)
    }
}

/// The backends of this build that this machine can run for a model.
pub fn backends(model: Model<'_>) -> impl Iterator<Item = &'static Backend> {
    let layout = model.layout();
    BACKENDS.iter().filter(move |b| b.layout == layout && b.isa.available())
}

/// An outcome with the bits of its logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Predicted class.
    pub class: usize,
    /// Experts that ran.
    pub experts: usize,
    /// Bits of the mean logits.
    pub logits: Vec<u32>,
}

impl From<Outcome<'_>> for Answer {
    fn from(o: Outcome<'_>) -> Self {
        // IEEE-754 leaves open which of two NaN's payloads an operation keeps.
        let bits = |l: &f32| if l.is_nan() { f32::NAN.to_bits() } else { l.to_bits() };
        Answer { class: o.class, experts: o.experts, logits: o.logits.iter().map(bits).collect() }
    }
}

/// What an operation wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The part that it belongs to.
    pub part: PartId,
    /// Its index there.
    pub index: usize,
    /// High or only plane as int8 bits, or bytes of features and logits.
    pub hi: Vec<u8>,
    /// Low plane.
    pub lo: Option<Vec<u8>>,
}

/// A probe that keeps everything that operations write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorder {
    /// In execution order.
    pub writes: Vec<Trace>,
    /// Router, bits of its score, decision.
    pub routes: Vec<(usize, u32, bool)>,
}

impl Probe for Recorder {
    fn after(&mut self, part: PartId, index: usize, _: &Step, output: Output<'_>) {
        let hi = output.hi.iter().map(|b| b ^ output.flip).collect();
        self.writes.push(Trace { part, index, hi, lo: output.lo.map(<[u8]>::to_vec) });
    }

    fn routed(&mut self, router: usize, score: f32, proceed: bool) {
        self.routes.push((router, score.to_bits(), proceed));
    }
}

/// Picture number `seed` in the size that a model takes.
pub fn picture(model: Model<'_>, seed: u32) -> Vec<u8> {
    let (_, width, channels) = model.input();
    let mut pixels = vec![0; model.input_len()];
    golden::image(seed, (width, channels), &mut pixels);
    pixels
}

/// All policies for a model, sensible or not.
pub fn policies(model: Model<'_>) -> Vec<Policy> {
    let experts = model.experts();
    let mut all = vec![Policy::Routed, Policy::All, Policy::Exactly(0), Policy::Exactly(experts + 1)];
    all.extend([f32::NEG_INFINITY, -0.25, 0.0, f32::INFINITY, f32::NAN].map(Policy::Threshold));
    all.extend((1..=experts.min(3)).map(Policy::Exactly));
    all
}

/// Multiply-accumulates and bytes written by a model's worst path, a measure of the time that it takes.
pub fn cost(model: Model<'_>) -> u64 {
    let steps = model.parts().flat_map(|p| p.steps());
    let of = |op: &ride_runtime::op::Op| {
        let bytes: u64 = op.writes().iter().chain(&op.reads()).flatten().map(|&(_, len)| len as u64).sum();
        op.macs().saturating_add(bytes)
    };
    steps.map(|s| of(&s.op)).fold(0, u64::saturating_add)
}

/// Does everything that a session can do on one picture, with one backend and an arena filled with `fill`: every policy,
/// every step, the self-test, wrong calls. Returns all answers in order.
///
/// # Panics
/// If a byte outside of the arena changes, or a call fails or succeeds that should not.
pub fn exercise(model: Model<'_>, backend: &'static Backend, fill: u8) -> Vec<Result<Answer, Error>> {
    let mut arena = Arena::new(model, fill);
    let mut answers = Vec::new();
    match Session::with_backend(model, arena.lend(), backend) {
        Ok(mut session) => run(model, &mut session, &mut answers),
        // The one thing that parsing leaves to the session: how much scratch memory this machine's kernels want.
        Err(error) => {
            assert!(matches!(error, Error::Invalid { section: "model", .. }), "{error}");
            answers.push(Err(error));
        }
    }
    assert!(arena.intact(), "{}: bytes outside of the arena were changed", backend.conv.name);
    answers
}

fn run(model: Model<'_>, session: &mut Session<'_, '_>, answers: &mut Vec<Result<Answer, Error>>) {
    let pixels = picture(model, 7);
    assert_eq!(session.outcome(), Err(Error::OutOfOrder));
    assert_eq!(session.step(), Err(Error::OutOfOrder));
    for policy in policies(model) {
        let answer = session.classify(&pixels, policy).map(Answer::from);
        check(model, policy, &answer);
        answers.push(answer);
    }
    session.start(&pixels).expect("the image has the right length");
    assert_eq!(session.outcome(), Err(Error::OutOfOrder));
    for n in 1..=model.experts() {
        let progress = session.step().expect("there is another expert");
        assert_eq!(progress.experts, n);
        answers.push(session.outcome().map(Answer::from));
    }
    assert_eq!(session.step(), Err(Error::OutOfOrder));
    let mut image = vec![0; model.input_len()];
    match session.self_test(&mut image) {
        Ok(_) | Err(Error::SelfTest { .. }) => {}
        Err(error) => panic!("the self-test cannot run: {error}"),
    }
}

/// Which policies fail on which models is known beforehand.
fn check(model: Model<'_>, policy: Policy, answer: &Result<Answer, Error>) {
    let available = model.experts();
    let expected = match policy {
        Policy::Exactly(requested) if !(1..=available).contains(&requested) => {
            Some(Error::Experts { requested, available })
        }
        Policy::Threshold(_) if !model.routed() => Some(Error::NoRouter),
        _ => None,
    };
    match answer {
        Ok(answer) => {
            assert_eq!(expected, None, "{policy:?}");
            assert!((1..=available).contains(&answer.experts) && answer.class < model.classes(), "{policy:?}");
            assert_eq!(answer.logits.len(), model.classes());
        }
        Err(error) => assert_eq!(Some(*error), expected, "{policy:?}"),
    }
}

/// What comes of bytes that may be an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They are none.
    Refused(Error),
    /// They ask for more memory or time than was granted.
    Expensive,
    /// They run without harm, but break a promise of the compiler (see [`crate::law`]).
    Unlawful,
    /// They run, with one answer from every backend and whatever the arena held before.
    Lawful,
}

/// What an artifact may cost to be tried.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the arena.
    pub arena: usize,
    /// See [`cost`].
    pub cost: u64,
}

/// Parses `bytes` and, if they are an artifact within `limits`, does everything with it that a session can do, with every
/// backend of this machine.
///
/// # Panics
/// If any of that does harm; see [`exercise`] and [`Verdict::Lawful`].
pub fn judge(bytes: &[u8], limits: Limits) -> Verdict {
    let model = match Model::parse(bytes) {
        Ok(model) => model,
        Err(error) => return Verdict::Refused(error),
    };
    let vectors = golden::vectors(&model).count();
    if model.arena_len() > limits.arena || cost(model) > limits.cost || vectors > 16 {
        return Verdict::Expensive;
    }
    let slowest = backends(model).take(1).map(|b| exercise(model, b, 0x00));
    let runs: Vec<_> = slowest.chain(backends(model).map(|b| exercise(model, b, 0xB5))).collect();
    if !crate::law::kept(model) {
        return Verdict::Unlawful;
    }
    // A kernel may want more scratch memory than others: then there is nothing to compare.
    let ran: Vec<_> = runs.iter().filter(|answers| answers.len() > 1).collect();
    assert!(ran.windows(2).all(|pair| pair[0] == pair[1]), "answers differ between backends or arenas");
    Verdict::Lawful
}
