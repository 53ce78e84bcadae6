//! A part's values of one batch and the pass forward over them; [`backward`] has the other one, and [`quantized`] what is
//! different in the integer network.
//!
//! Work is cut into chunks of images whose number does not depend on the threads that take them, and every sum over
//! images is taken in the images' order: results do not depend on the number of threads.

mod backward;
mod quantized;

use anyhow::Result;
use rayon::prelude::*;

use super::norm::{Norm, Statistics};
use super::schedule::{ActId, Added, Join, LayerId, Schedule, Stage};
use crate::lower::integer::Quant;
use crate::train::net::Mode;
use crate::train::ops::norm::{self as ops, Moments, Term};
use crate::train::ops::plane::Plane;
use crate::train::ops::pool;
use crate::train::ops::quant;
use crate::train::ops::simd::Level;
use crate::train::params::Params;

pub(super) use backward::{LayerGrad, OutputGrad};
use quantized::Integer;

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

/// A part's input: one image after the other, with borders.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    /// What shortcuts read.
    pub(super) values: &'a [f32],
    /// What convolutions read.
    pub(super) codes: &'a [f32],
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
