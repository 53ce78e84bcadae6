//! Lifetimes of all activations over the worst schedule, in which every expert runs, and their places in the arena.

use anyhow::{Context, Result, anyhow};
use ride_runtime::op::{ConvShape, Layout, Planes, feature_norm_at};

use super::Request;
use super::arena::{Buffer, lower_bound, plan};
use super::program::{Input, Kind, Program, Step, ValueIx};
use super::quant::Quant;
use crate::network::Routing;

/// Offsets of everything in the arena.
pub(super) struct Places {
    /// The image's copy, where experts read it.
    pub(super) image: Option<u32>,
    /// Planes of each value.
    pub(super) values: Vec<Planes>,
    /// The pooled feature.
    pub(super) feature: usize,
    /// Logits, f32 a class.
    pub(super) logits: usize,
    /// Sum of logits, f32 a class.
    pub(super) sum: usize,
    /// Scratch memory of kernels and routers.
    pub(super) scratch: usize,
    /// Bytes of the scratch memory.
    pub(super) scratch_len: usize,
    /// Bytes of the arena.
    pub(super) arena: usize,
    /// What no plan can do without.
    pub(super) bound: usize,
}

/// A size that the artifact format can hold.
pub(super) fn small<T: TryFrom<usize>>(what: &str, n: usize) -> Result<T> {
    T::try_from(n).map_err(|_| anyhow!("{what} {n} is too large for the artifact format"))
}

/// Geometry of a convolution step.
pub(super) fn conv_shape(request: &Request<'_>, program: &Program<'_>, step: &Step<'_>) -> Result<ConvShape> {
    let Kind::Conv { conv, .. } = &step.kind else { return Err(anyhow!("not a convolution")) };
    let input = match step.input {
        Input::Image => request.network.input.shape,
        Input::Value(v) => program.values[v].shape,
    };
    Ok(ConvShape {
        in_h: small("height", input.height)?,
        in_w: small("width", input.width)?,
        in_c: small("channels", input.channels)?,
        out_c: small("channels", conv.out_channels)?,
        kernel: small("kernel", conv.kernel)?,
        stride: small("stride", conv.stride)?,
        padding: small("padding", conv.padding)?,
        groups: small("groups", conv.groups)?,
    })
}

/// Places all activations, the results and the scratch memory.
pub(super) fn place(request: &Request<'_>, program: &Program<'_>, quants: &[Quant], layout: Layout) -> Result<Places> {
    let lives = Lives::of(program);
    let mut buffers = Vec::new();
    let mut first_plane = vec![0; program.values.len()];
    for (v, value) in program.values.iter().enumerate().filter(|&(v, _)| lives.root[v] == v) {
        first_plane[v] = buffers.len();
        let buffer = Buffer { len: value.shape.len(), from: lives.first[v], to: lives.last[v] };
        buffers.extend(std::iter::repeat_n(buffer, if quants[v].wide { 2 } else { 1 }));
    }
    let fixed = buffers.len();
    let late = |len: usize| Buffer { len, from: lives.first_head, to: lives.now };
    let logits_len = 4 * request.network.classes;
    let feature_len = feature_norm_at(request.network.experts[0].head.features) + 4;
    buffers.extend([late(feature_len), late(logits_len), late(logits_len)]);
    // A copy for the experts, written before everything else.
    let image = lives.image.map(|to| Buffer { len: request.network.input.shape.len(), from: 0, to });
    buffers.extend(image);
    let bound = lower_bound(&buffers);
    let scratch_len = scratch_len(request, program, layout)?;
    buffers.push(Buffer { len: scratch_len, from: 0, to: lives.now });
    let plan = plan(&buffers);
    let at = |buffer: usize| u32::try_from(plan.offsets[buffer]).context("the arena would be larger than 4 GiB");
    let planes = |v: ValueIx| {
        let hi = first_plane[lives.root[v]];
        Ok(Planes { hi: at(hi)?, lo: if quants[v].wide { Some(at(hi + 1)?) } else { None } })
    };
    Ok(Places {
        image: image.map(|_| at(fixed + 3)).transpose()?,
        values: (0..program.values.len()).map(planes).collect::<Result<_>>()?,
        feature: plan.offsets[fixed],
        logits: plan.offsets[fixed + 1],
        sum: plan.offsets[fixed + 2],
        scratch: plan.offsets[buffers.len() - 1],
        scratch_len,
        arena: plan.len,
        bound,
    })
}

/// Scratch memory that suits every kernel of the layout, routers and classifiers.
fn scratch_len(request: &Request<'_>, program: &Program<'_>, layout: Layout) -> Result<usize> {
    let parts = std::iter::once(&program.stem).chain(&program.experts);
    let convolutions = parts.flat_map(|p| &p.steps).filter(|s| matches!(s.kind, Kind::Conv { .. }));
    let shapes = convolutions.map(|s| conv_shape(request, program, s)).collect::<Result<Vec<_>>>()?;
    let routers = match &request.network.routing {
        Routing::Assignment(routers) => routers.iter().map(|r| 4 * (r.top_k + r.hidden_bias.len())).max().unwrap_or(0),
        Routing::Confidence(_) | Routing::None => 0,
    };
    let heads = if request.fine.heads { 8 * request.network.classes } else { 0 };
    Ok(super::scratch_len(&shapes, layout).max(routers).max(heads).next_multiple_of(4))
}

/// When values are first written and last read, counted in steps of the schedule.
struct Lives {
    /// Values that accumulate in place share the buffer of the first of them.
    root: Vec<ValueIx>,
    first: Vec<usize>,
    last: Vec<usize>,
    /// When an expert reads the image for the last time, if one does.
    image: Option<usize>,
    /// The first expert's pooling.
    first_head: usize,
    now: usize,
}

impl Lives {
    fn of(program: &Program<'_>) -> Self {
        let count = program.values.len();
        let (first, last) = (vec![usize::MAX; count], vec![0; count]);
        let mut lives = Lives { root: (0..count).collect(), first, last, image: None, first_head: usize::MAX, now: 1 };
        program.stem.steps.iter().for_each(|step| lives.step(step));
        // The stem reads the caller's image.
        lives.image = None;
        for expert in &program.experts {
            expert.steps.iter().for_each(|step| lives.step(step));
            lives.read(expert.output);
            lives.first_head = lives.first_head.min(lives.now);
            lives.now += 2; // pooling and classifier
        }
        lives
    }

    fn step(&mut self, step: &Step<'_>) {
        if let Kind::Conv { accumulate: Some(residual), .. } = step.kind {
            self.root[step.output] = self.root[residual];
        }
        self.read(step.input);
        self.read(Input::Value(step.output));
        self.now += 1;
    }

    fn read(&mut self, input: Input) {
        let Input::Value(v) = input else {
            self.image = Some(self.now);
            return;
        };
        let v = self.root[v];
        self.first[v] = self.first[v].min(self.now);
        self.last[v] = self.last[v].max(self.now);
    }
}
