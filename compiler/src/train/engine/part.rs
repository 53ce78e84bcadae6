//! A part's values of one batch, and the two passes over them.
//!
//! Work is cut into chunks of images whose number does not depend on the threads that take them, and every sum over
//! images is taken in the images' order: results do not depend on the number of threads.

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::integer::Folded;
use super::norm::{Norm, NormGrad, Statistics};
use super::schedule::{ActId, Added, Join, LayerId, Schedule, Stage, Wired};
use crate::lower::integer::{Quant, Source, rescale};
use crate::train::net::Mode;
use crate::train::ops::norm::{self as ops, Denormalize, Deviation, Mask, Moments, Term};
use crate::train::ops::plane::Plane;
use crate::train::ops::pool;
use crate::train::ops::quant::{self, Base, IntegerJoin};
use crate::train::ops::simd::Level;
use crate::train::params::Params;
use crate::train::qat::Quantization;

/// Chunks of a batch, and of one whose largest layer has more weights than [`LARGE`]: each has a gradient of its own.
const CHUNKS: usize = 16;
const CHUNKS_OF_LARGE: usize = 4;
const LARGE: usize = 1 << 19;

/// A part with memory for a batch.
#[derive(Debug)]
pub(super) struct PartTape {
    schedule: Schedule,
    level: Level,
    images: usize,
    /// Activations, with borders. The backward pass turns them into gradients of what was under their ReLU.
    acts: Vec<Vec<f32>>,
    /// Outputs of convolutions.
    outputs: Vec<Vec<f32>>,
    norms: Vec<Norm>,
    /// If it computes as the integer network.
    integer: Option<Integer>,
    /// What convolutions read of wide activations of the integer network.
    codes: Vec<Vec<f32>>,
}

/// The integer network's representation of a part.
#[derive(Debug)]
struct Integer {
    quantization: Quantization,
    /// Of each activation; `None` for images.
    acts: Vec<Option<Quant>>,
    /// Of each layer that is a projection.
    projections: Vec<Option<Quant>>,
    /// For each activation that an option-A shortcut leads to, the shortcut's representation and factor.
    shortcuts: Vec<Option<(Quant, (i32, u8))>>,
    folded: Vec<Folded>,
}

/// A part's input: one image after the other, with borders.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    /// What shortcuts read.
    pub(super) values: &'a [f32],
    /// What convolutions read.
    pub(super) codes: &'a [f32],
}

/// The gradient of a part's output.
#[derive(Clone, Copy)]
pub(super) enum OutputGrad<'a> {
    /// Of the mean over all pixels, `[images][channels]`.
    Mean(&'a [f32]),
    /// Of every value, without border.
    Dense(&'a [f32]),
}

/// Gradients of one layer.
pub(super) struct LayerGrad {
    /// `[output][input / groups][kernel][kernel]`.
    pub(super) weight: Vec<f32>,
    pub(super) norm: NormGrad,
}

struct ForwardJob<'a> {
    first: usize,
    images: usize,
    act: &'a mut [f32],
    pooled: &'a mut [f32],
    /// What convolutions read of the activation, where that is rounded.
    codes: &'a mut [f32],
    /// For each layer of the stage, its output and its moments.
    layers: Vec<(&'a mut [f32], &'a mut [f32])>,
}

struct BackwardJob<'a> {
    first: usize,
    images: usize,
    act: &'a mut [f32],
    input_grad: &'a mut [f32],
    sums: &'a mut [f32],
    /// For each layer of the join.
    deviations: Vec<&'a mut [f32]>,
    /// For each layer of the stage, the chunk's gradient of its weights.
    weights: Vec<&'a mut [f32]>,
}

/// Memory for one image's gradients.
struct Scratch {
    /// The gradient of what the stage's convolutions read, without border.
    grad: Vec<f32>,
    /// Its gradient before max pooling.
    unpooled: Vec<f32>,
    /// For each layer, its output's gradient; borders stay zero.
    layers: Vec<Vec<f32>>,
}

impl PartTape {
    pub(super) fn new(schedule: Schedule, level: Level) -> Self {
        let acts = vec![Vec::new(); schedule.acts.len()];
        let outputs = vec![Vec::new(); schedule.layers.len()];
        let norms = schedule.layers.iter().map(|_| Norm::default()).collect();
        let codes = acts.clone();
        Self { schedule, level, images: 0, acts, outputs, norms, integer: None, codes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.schedule.layers.is_empty()
    }

    pub(super) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Shape and values of the output.
    pub(super) fn output(&self) -> (Plane, Input<'_>) {
        let act = self.schedule.acts.len() - 1;
        let values = self.acts[act].as_slice();
        let codes = if self.is_wide(act) { self.codes[act].as_slice() } else { values };
        (self.schedule.acts[act], Input { values, codes })
    }

    /// Computes as the integer network from now on. `input` is the representation of the part's input; `None` is images.
    ///
    /// # Errors
    /// If a value has no representation.
    pub(super) fn quantize(&mut self, quantization: &Quantization, input: Option<Quant>) -> Result<()> {
        let mut acts = vec![input];
        for name in self.schedule.names.iter().skip(1) {
            acts.push(Some(quantization.get(name)?));
        }
        let mut projections = vec![None; self.schedule.layers.len()];
        let mut shortcuts = vec![None; acts.len()];
        for join in self.schedule.stages.iter().filter_map(|stage| stage.join) {
            match join.added {
                Added::Layer(layer) => {
                    projections[layer] = Some(quantization.get(&self.schedule.layers[layer].value)?);
                }
                Added::OptionA { act, .. } => {
                    let (block, _) = self.schedule.names[join.act].rsplit_once('.').context("a block has a name")?;
                    let quant = quantization.get(&format!("{block}.shortcut"))?;
                    let from = acts[act].context("images have no shortcut")?;
                    shortcuts[join.act] = Some((quant, rescale(&from, &quant)?));
                }
                _ => {}
            }
        }
        let folded = Vec::new();
        self.integer = Some(Integer { quantization: quantization.clone(), acts, projections, shortcuts, folded });
        Ok(())
    }

    /// The representation of the output, if it is integers.
    pub(super) fn output_quant(&self) -> Option<Quant> {
        self.integer.as_ref().and_then(|integer| *integer.acts.last()?)
    }

    /// Whether an activation that this part makes has 16 bits, of which convolutions read eight.
    fn is_wide(&self, act: ActId) -> bool {
        let quant = self.integer.as_ref().and_then(|integer| integer.acts[act]);
        act > 0 && quant.is_some_and(|quant| quant.wide)
    }

    fn resize(&mut self, images: usize) {
        self.images = images;
        for (act, plane) in self.acts.iter_mut().zip(&self.schedule.acts).skip(1) {
            act.resize(images * plane.len(), 0.0);
        }
        for act in 0..self.acts.len() {
            if self.is_wide(act) {
                self.codes[act].resize(self.acts[act].len(), 0.0);
            }
        }
        for (output, wired) in self.outputs.iter_mut().zip(&self.schedule.layers) {
            output.resize(images * wired.conv.output().len(), 0.0);
        }
    }

    /// Images of one chunk.
    fn chunk(&self) -> usize {
        let weights = self.schedule.layers.iter().map(|wired| wired.conv.shape().weights()).max().unwrap_or(0);
        self.images.div_ceil(if weights > LARGE { CHUNKS_OF_LARGE } else { CHUNKS }).max(1)
    }

    /// Runs a batch. `input` are the images' values with the border of the schedule's input.
    pub(super) fn forward(&mut self, input: Input<'_>, images: usize, params: &Params, mode: Mode) -> Result<()> {
        self.resize(images);
        let folded = self.integer.is_some();
        if folded {
            self.fold(params, mode)?;
        }
        for layer in (0..self.schedule.layers.len()).filter(|_| !folded) {
            let wired = &mut self.schedule.layers[layer];
            let weight = params.get(&format!("{}.weight", wired.names.conv))?.flatten_all()?.to_vec1::<f32>()?;
            wired.conv.pack(&weight);
            if mode == Mode::Train {
                wired.conv.pack_backward(&weight);
            }
            if mode == Mode::Eval {
                let get = |field: &str| params.get(&format!("{}.{field}", wired.names.norm));
                let statistics = Statistics::running(get("running_mean")?, get("running_var")?)?;
                self.set_norm(layer, &statistics, params)?;
            }
        }
        for stage in 0..self.schedule.stages.len() {
            let moments = self.forward_stage(stage, input, mode);
            for (&layer, moments) in self.schedule.stages[stage].layers.clone().iter().zip(&moments) {
                if mode == Mode::Eval || folded {
                    continue;
                }
                let wired = &self.schedule.layers[layer];
                let plane = wired.conv.output();
                let statistics = Statistics::combine(moments, plane);
                let get = |field: &str| params.get(&format!("{}.{field}", wired.names.norm));
                statistics.track(get("running_mean")?, get("running_var")?, images * plane.pixels())?;
                self.set_norm(layer, &statistics, params)?;
            }
        }
        Ok(())
    }

    /// Rounds the weights.
    fn fold(&mut self, params: &Params, mode: Mode) -> Result<()> {
        let Some(integer) = &mut self.integer else { return Ok(()) };
        let mut sources = vec![0; self.schedule.layers.len()];
        for stage in &self.schedule.stages {
            stage.layers.iter().for_each(|&layer| sources[layer] = stage.source());
        }
        let fold = |(layer, wired): (usize, &Wired)| {
            let source = match integer.acts[sources[layer]] {
                Some(quant) => Source::Activation(quant),
                None => Source::Image(integer.quantization.input()),
            };
            let output = integer.projections[layer].or(integer.acts[wired.consumer]);
            Folded::new(&wired.names, params, source, &output.context("the result of a layer is an activation")?)
        };
        integer.folded = self.schedule.layers.par_iter().enumerate().map(fold).collect::<Result<_>>()?;
        for ((wired, folded), norm) in self.schedule.layers.iter_mut().zip(&integer.folded).zip(&mut self.norms) {
            wired.conv.pack(&folded.codes);
            if mode == Mode::Train {
                wired.conv.pack_backward(&folded.weight);
            }
            let output = wired.conv.output();
            norm.set_identity(output.channels, output.width);
        }
        Ok(())
    }

    fn set_norm(&mut self, layer: LayerId, statistics: &Statistics, params: &Params) -> Result<()> {
        let wired = &self.schedule.layers[layer];
        let get = |field: &str| params.get(&format!("{}.{field}", wired.names.norm));
        let (weight, bias) = (get("weight")?.to_vec1::<f32>()?, get("bias")?.to_vec1::<f32>()?);
        self.norms[layer].set(statistics, &weight, &bias, wired.conv.output().width);
        Ok(())
    }

    /// Makes a stage's activation and convolves it; returns each layer's moments, empty in evaluation.
    fn forward_stage(&mut self, index: usize, input: Input<'_>, mode: Mode) -> Vec<Vec<f32>> {
        let stage = self.schedule.stages[index].clone();
        let planes = stage.layers.iter().map(|&layer| self.schedule.layers[layer].conv.output());
        let planes: Vec<Plane> = planes.collect();
        let mut moments: Vec<Vec<f32>> = match mode {
            Mode::Train => planes.iter().map(|plane| vec![0.0; self.images * 2 * plane.channels]).collect(),
            Mode::Eval => vec![Vec::new(); planes.len()],
        };
        let mut act = stage.join.map(|join| std::mem::take(&mut self.acts[join.act])).unwrap_or_default();
        let mut pooled = stage.pooled.map(|pooled| std::mem::take(&mut self.acts[pooled])).unwrap_or_default();
        let source = stage.source();
        let mut codes = std::mem::take(&mut self.codes[source]);
        let mut outputs: Vec<Vec<f32>> =
            stage.layers.iter().map(|&layer| std::mem::take(&mut self.outputs[layer])).collect();
        let chunk = self.chunk();
        let mut jobs: Vec<ForwardJob<'_>> = (0..self.images)
            .step_by(chunk)
            .map(|first| ForwardJob {
                first,
                images: chunk.min(self.images - first),
                act: &mut [],
                pooled: &mut [],
                codes: &mut [],
                layers: Vec::new(),
            })
            .collect();
        split(&mut act, self.images, chunk, &mut jobs, |job, part| job.act = part);
        split(&mut pooled, self.images, chunk, &mut jobs, |job, part| job.pooled = part);
        split(&mut codes, self.images, chunk, &mut jobs, |job, part| job.codes = part);
        for (output, moments) in outputs.iter_mut().zip(&mut moments) {
            split(output, self.images, chunk, &mut jobs, |job, part| job.layers.push((part, &mut [])));
            split(moments, self.images, chunk, &mut jobs, |job, part| {
                if let Some(layer) = job.layers.last_mut() {
                    layer.1 = part;
                }
            });
        }
        jobs.into_par_iter().for_each(|job| self.forward_chunk(&stage, input, job));
        if let Some(join) = stage.join {
            self.acts[join.act] = act;
        }
        if let Some(id) = stage.pooled {
            self.acts[id] = pooled;
        }
        self.codes[source] = codes;
        for (&layer, output) in stage.layers.iter().zip(outputs) {
            self.outputs[layer] = output;
        }
        moments
    }

    fn forward_chunk(&self, stage: &Stage, input: Input<'_>, job: ForwardJob<'_>) {
        let ForwardJob { first, images, act, pooled, codes, mut layers } = job;
        for index in 0..images {
            let image = first + index;
            if let Some(join) = stage.join {
                let plane = self.schedule.acts[join.act];
                let output = &mut act[index * plane.len()..][..plane.len()];
                self.make(join, image, input, output);
                if let Some(id) = stage.pooled {
                    let to = self.schedule.acts[id];
                    pool::max(output, plane, &mut pooled[index * to.len()..][..to.len()], to);
                }
            }
            let plane = self.schedule.acts[stage.source()];
            let range = index * plane.len()..(index + 1) * plane.len();
            let made = if stage.pooled.is_some() { &mut *pooled } else { &mut *act };
            let wide = self.is_wide(stage.source());
            if wide {
                quant::codes(&made[range.clone()], plane, &mut codes[range.clone()]);
            }
            let value = match (stage.join, wide) {
                (None, _) => &input.codes[image * plane.len()..][..plane.len()],
                (Some(_), false) => &made[range],
                (Some(_), true) => &codes[range],
            };
            for (&layer, (output, moments)) in stage.layers.iter().zip(&mut layers) {
                let conv = &self.schedule.layers[layer].conv;
                let plane = conv.output();
                let y = &mut output[index * plane.len()..][..plane.len()];
                conv.forward(value, y);
                if !moments.is_empty() {
                    let output = &mut moments[index * 2 * plane.channels..][..2 * plane.channels];
                    Moments { plane, y, output }.run(self.level);
                }
            }
        }
    }

    /// Makes one image's activation.
    fn make(&self, join: Join, image: usize, input: Input<'_>, output: &mut [f32]) {
        if let Some(integer) = &self.integer {
            self.make_integer(integer, join, (image, input), output);
            return;
        }
        let added = match join.added {
            Added::None => ops::Added::None,
            Added::Same(act) => ops::Added::Same(self.act(act, image, input.values), self.schedule.acts[act]),
            Added::OptionA { act, stride, pad } => {
                let (x, plane) = (self.act(act, image, input.values), self.schedule.acts[act]);
                ops::Added::OptionA { x, plane, stride, pad }
            }
            Added::Layer(layer) => ops::Added::Term(self.term(layer, image)),
        };
        let plane = self.schedule.acts[join.act];
        ops::Join { term: self.term(join.layer, image), added, plane, output }.run(self.level);
    }

    fn make_integer(&self, integer: &Integer, join: Join, (image, input): (usize, Input<'_>), output: &mut [f32]) {
        let Some(quant) = integer.acts[join.act] else { return };
        let value = |act: ActId| (self.act(act, image, input.values), self.schedule.acts[act]);
        let base = match join.added {
            Added::None => Base::None,
            Added::Same(act) => Base::Same(value(act).0, value(act).1),
            Added::OptionA { act, stride, pad } => {
                let Some((shortcut, factor)) = integer.shortcuts[join.act] else { return };
                let ((x, plane), limits) = (value(act), shortcut.limits(false));
                Base::OptionA { x, plane, stride, pad, factor, limits }
            }
            Added::Layer(layer) => Base::Raw(self.y(layer, image), &integer.folded[layer].requantize),
        };
        let requantize = &integer.folded[join.layer].requantize;
        let (y, plane) = (self.y(join.layer, image), self.schedule.acts[join.act]);
        IntegerJoin { y, requantize, base, limits: quant.limits(true), wide: quant.wide, plane, output }.run();
    }

    /// One image of an activation.
    fn act<'a>(&'a self, act: ActId, image: usize, input: &'a [f32]) -> &'a [f32] {
        let len = self.schedule.acts[act].len();
        let data = if act == 0 { input } else { &self.acts[act] };
        &data[image * len..][..len]
    }

    /// One image of a convolution's output.
    fn y(&self, layer: LayerId, image: usize) -> &[f32] {
        let len = self.schedule.layers[layer].conv.output().len();
        &self.outputs[layer][image * len..][..len]
    }

    fn term(&self, layer: LayerId, image: usize) -> Term<'_> {
        let norm = &self.norms[layer];
        Term { y: self.y(layer, image), scale: &norm.scale, shift: &norm.shift }
    }

    /// Gradients of all layers, for the batch that [`PartTape::forward`] ran in training mode; the activations are gone
    /// afterwards. The input's gradient is added to `input_grad`, without border, unless that is empty.
    pub(super) fn backward(
        &mut self,
        input: Input<'_>,
        output: OutputGrad<'_>,
        input_grad: &mut [f32],
    ) -> Vec<LayerGrad> {
        let mut weights: Vec<Vec<f32>> = vec![Vec::new(); self.schedule.layers.len()];
        let mut norms: Vec<Option<NormGrad>> = (0..weights.len()).map(|_| None).collect();
        for index in (0..self.schedule.stages.len()).rev() {
            self.backward_stage(index, input, output, input_grad, (&mut weights, &mut norms));
        }
        let grads = weights.into_iter().zip(norms);
        let grads = grads.filter_map(|(weight, norm)| norm.map(|norm| LayerGrad { weight, norm }));
        match &self.integer {
            None => grads.collect(),
            Some(integer) => grads.zip(&integer.folded).map(|(grad, folded)| folded.unfold(grad)).collect(),
        }
    }

    fn backward_stage(
        &mut self,
        index: usize,
        input: Input<'_>,
        output: OutputGrad<'_>,
        input_grad: &mut [f32],
        (weights, norms): (&mut [Vec<f32>], &mut [Option<NormGrad>]),
    ) {
        let stage = self.schedule.stages[index].clone();
        let chunk = self.chunk();
        let joined = stage.join.map(|join| join.layers()).unwrap_or_default();
        let channels = stage.join.map_or(0, |join| self.schedule.acts[join.act].channels);
        let mut act = stage.join.map(|join| std::mem::take(&mut self.acts[join.act])).unwrap_or_default();
        let mut sums = vec![0.0; self.images * channels];
        let mut deviations = vec![vec![0.0; self.images * channels]; joined.len()];
        let chunks = self.images.div_ceil(chunk);
        let lens = stage.layers.iter().map(|&layer| self.schedule.layers[layer].conv.sums_len());
        let mut partial: Vec<Vec<f32>> = lens.map(|len| vec![0.0; chunks * len]).collect();
        let mut jobs: Vec<BackwardJob<'_>> = (0..self.images)
            .step_by(chunk)
            .map(|first| BackwardJob {
                first,
                images: chunk.min(self.images - first),
                act: &mut [],
                input_grad: &mut [],
                sums: &mut [],
                deviations: Vec::new(),
                weights: Vec::new(),
            })
            .collect();
        split(&mut act, self.images, chunk, &mut jobs, |job, part| job.act = part);
        split(&mut sums, self.images, chunk, &mut jobs, |job, part| job.sums = part);
        for deviations in &mut deviations {
            split(deviations, self.images, chunk, &mut jobs, |job, part| job.deviations.push(part));
        }
        for partial in &mut partial {
            split(partial, chunks, 1, &mut jobs, |job, part| job.weights.push(part));
        }
        if stage.join.is_none() {
            split(input_grad, self.images, chunk, &mut jobs, |job, part| job.input_grad = part);
        }
        jobs.into_par_iter().for_each(|job| self.backward_chunk(&stage, input, output, job));
        if let Some(join) = stage.join {
            self.acts[join.act] = act;
            let plane = self.schedule.acts[join.act];
            for (&layer, deviations) in joined.iter().zip(&deviations) {
                let count = self.images * plane.pixels();
                norms[layer] = Some(self.norms[layer].backward(&sums, deviations, count, plane.width));
            }
        }
        for (&layer, partial) in stage.layers.iter().zip(partial) {
            let conv = &self.schedule.layers[layer].conv;
            let mut chunks = partial.chunks_exact(conv.sums_len());
            let mut total = chunks.next().unwrap_or_default().to_vec();
            chunks.for_each(|chunk| total.iter_mut().zip(chunk).for_each(|(total, value)| *total += value));
            weights[layer] = conv.unpack(&total);
        }
    }

    fn backward_chunk(&self, stage: &Stage, input: Input<'_>, output: OutputGrad<'_>, mut job: BackwardJob<'_>) {
        let source = self.schedule.acts[stage.source()];
        // Images have no gradient.
        let wanted = stage.join.is_some() || !job.input_grad.is_empty();
        let mut scratch = Scratch {
            grad: vec![0.0; source.dense().len()],
            unpooled: Vec::new(),
            layers: stage.layers.iter().map(|&id| vec![0.0; self.schedule.layers[id].conv.grad_len()]).collect(),
        };
        for index in 0..job.images {
            let image = job.first + index;
            if stage.layers.is_empty() {
                output.of(image, source, &mut scratch.grad);
            }
            let value = match (stage.pooled, stage.join) {
                (_, Some(_)) if self.is_wide(stage.source()) => {
                    &self.codes[stage.source()][image * source.len()..][..source.len()]
                }
                (None, Some(_)) => &job.act[index * source.len()..][..source.len()],
                _ => self.act(stage.source(), image, input.codes),
            };
            for (number, &layer) in stage.layers.iter().enumerate() {
                self.layer_grad(layer, image, &mut scratch.layers[number]);
                let conv = &self.schedule.layers[layer].conv;
                conv.weight_grad(value, &scratch.layers[number], job.weights[number]);
                if wanted {
                    conv.input_grad(&scratch.layers[number], &mut scratch.grad, number > 0);
                }
            }
            if !wanted {
                continue;
            }
            self.add_skip(stage, image, source, &mut scratch.grad);
            match stage.join {
                Some(join) => self.mask(stage, join, (image, index), &mut scratch, &mut job),
                None => {
                    let len = source.dense().len();
                    let to = &mut job.input_grad[index * len..][..len];
                    to.iter_mut().zip(&scratch.grad).for_each(|(to, value)| *to += value);
                }
            }
        }
    }

    /// The gradient of one image's convolution output, into the interior of `grad`.
    fn layer_grad(&self, layer: LayerId, image: usize, grad: &mut [f32]) {
        let wired = &self.schedule.layers[layer];
        let norm = &self.norms[layer];
        Denormalize {
            grad: self.act(wired.consumer, image, &[]),
            from: self.schedule.acts[wired.consumer],
            y: self.y(layer, image),
            scale: &norm.scale,
            slope: &norm.slope,
            shift: &norm.level,
            output: grad,
            to: wired.conv.grad(),
        }
        .run(self.level);
    }

    /// Adds the gradient that comes through a shortcut without parameters.
    fn add_skip(&self, stage: &Stage, image: usize, source: Plane, grad: &mut [f32]) {
        let Some(skip) = stage.skip else { return };
        let (from, plane) = (self.act(stage.skip_to, image, &[]), self.schedule.acts[stage.skip_to]);
        let (stride, pad) = match skip {
            Added::OptionA { stride, pad, .. } => (stride, pad),
            _ => (1, 0),
        };
        let dense = source.dense();
        for row in 0..plane.height {
            for column in 0..plane.width {
                let from = &from[plane.at(row, column) + pad..][..dense.channels];
                let to = &mut grad[dense.at(row * stride, column * stride)..][..dense.channels];
                to.iter_mut().zip(from).for_each(|(to, value)| *to += value);
            }
        }
    }

    /// Passes an image's gradient through max pooling and ReLU.
    fn mask(
        &self,
        stage: &Stage,
        join: Join,
        (image, index): (usize, usize),
        scratch: &mut Scratch,
        job: &mut BackwardJob<'_>,
    ) {
        let plane = self.schedule.acts[join.act];
        let x = &mut job.act[index * plane.len()..][..plane.len()];
        let mut grad = &scratch.grad;
        if let Some(pooled) = stage.pooled {
            scratch.unpooled.clear();
            scratch.unpooled.resize(plane.dense().len(), 0.0);
            let maxima = (self.act(pooled, image, &[]), self.schedule.acts[pooled]);
            pool::max_grad((x, plane), maxima, &scratch.grad, &mut scratch.unpooled);
            grad = &scratch.unpooled;
        }
        let own = |data: &'_ mut [f32]| -> std::ops::Range<usize> {
            debug_assert!(data.len() >= (index + 1) * plane.channels);
            index * plane.channels..(index + 1) * plane.channels
        };
        let deviations = join.layers().into_iter().zip(&mut job.deviations).map(|(layer, output)| {
            let range = own(output);
            Deviation { y: self.y(layer, image), mean: &self.norms[layer].mean, output: &mut output[range] }
        });
        let deviations = deviations.collect();
        let range = own(job.sums);
        let quant = self.integer.as_ref().and_then(|integer| integer.acts[join.act]);
        let ceiling = quant.map_or(f32::INFINITY, |quant| {
            let limits = quant.limits(true);
            f32::from(limits.max) - f32::from(limits.zero)
        });
        Mask { plane, x, grad, ceiling, sums: &mut job.sums[range], deviations }.run(self.level);
    }
}

impl Join {
    /// The convolutions that are added up.
    fn layers(self) -> Vec<LayerId> {
        match self.added {
            Added::Layer(other) => vec![self.layer, other],
            _ => vec![self.layer],
        }
    }
}

impl OutputGrad<'_> {
    /// The gradient of one image, without border.
    fn of(self, image: usize, plane: Plane, output: &mut [f32]) {
        match self {
            OutputGrad::Mean(grad) => {
                pool::mean_grad(&grad[image * plane.channels..][..plane.channels], plane, output);
            }
            OutputGrad::Dense(grad) => output.copy_from_slice(&grad[image * output.len()..][..output.len()]),
        }
    }
}

/// Gives each job its images' share of `data`, which holds equally much for each image; nothing where it is empty.
fn split<'a, J>(
    data: &'a mut [f32],
    images: usize,
    chunk: usize,
    jobs: &mut [J],
    give: impl Fn(&mut J, &'a mut [f32]),
) {
    let each = data.len() / images.max(1) * chunk;
    if each == 0 {
        return;
    }
    for (job, part) in jobs.iter_mut().zip(data.chunks_mut(each)) {
        give(job, part);
    }
}
