//! Which convolutions can read all 16 bits of their input.

use anyhow::Result;

use super::Request;
use super::places::conv_shape;
use super::program::{Input, Kind, Program, Step, ValueIx};

/// A convolution that can read 16 bits ([`super::Fine::reads`]), whether or not it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FineSite {
    /// Name of its node.
    pub name: String,
    /// What reading 16 bits costs, in multiply-accumulates.
    pub macs: u64,
    /// The expert that it belongs to; none for the stem.
    pub expert: Option<usize>,
    /// The residual stream that it reads, if it reads one.
    pub stream: Option<usize>,
}

/// A residual stream that nothing but eligible convolutions, additions and pooling read: once all of them read 16 bits,
/// its range is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeStream {
    /// Its number, as [`FineSite::stream`] has it.
    pub stream: usize,
    /// Names of its values.
    pub values: Vec<String>,
}

/// The convolutions that can read 16 bits, in execution order, and the streams that they set free.
///
/// # Errors
/// As [`super::compile`].
pub fn fine_sites(request: &Request<'_>) -> Result<(Vec<FineSite>, Vec<FreeStream>)> {
    let program = Program::new(request.network, &super::Fine::NONE.reads)?;
    let mut free: Vec<bool> = program.streams.clone();
    let mut sites = Vec::new();
    let parts = std::iter::once((None, &program.stem)).chain((0..).map(Some).zip(&program.experts));
    for (expert, step) in parts.flat_map(|(expert, part)| part.steps.iter().map(move |step| (expert, step))) {
        let (Kind::Conv { .. }, Input::Value(input)) = (&step.kind, step.input) else { continue };
        let stream = program.values[input].stream.filter(|&stream| program.streams[stream]);
        if is_eligible(&program, step) {
            let (name, macs) = (step.name.clone(), conv_shape(request, &program, step)?.macs());
            sites.push(FineSite { name, macs, expert, stream });
        } else if let Some(stream) = stream {
            free[stream] = false;
        }
    }
    let read = |stream: usize| sites.iter().any(|site| site.stream == Some(stream));
    let names = |stream: usize| {
        let values = program.values.iter().filter(move |value| value.stream == Some(stream));
        values.map(|value| value.name.clone()).collect()
    };
    let streams = (0..free.len()).filter(|&stream| free[stream] && read(stream));
    let streams = streams.map(|stream| FreeStream { stream, values: names(stream) }).collect();
    Ok((sites, streams))
}

/// Neither a projection nor what is added to one can: its values are raw between its two runs already.
fn is_eligible(program: &Program<'_>, step: &Step<'_>) -> bool {
    let summand = |v: ValueIx| program.values[v].summand;
    match step.kind {
        Kind::Conv { accumulate, .. } => !summand(step.output) && !accumulate.is_some_and(summand),
        Kind::Shortcut { .. } | Kind::MaxPool { .. } => false,
    }
}
