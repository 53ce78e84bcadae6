//! The pass back: from the gradient of a part's output to those of its layers and its input.

use rayon::prelude::*;

use super::{Input, PartTape, split};
use crate::train::engine::norm::NormGrad;
use crate::train::engine::schedule::{Added, Join, LayerId, Stage};
use crate::train::ops::norm::{Denormalize, Deviation, Mask};
use crate::train::ops::plane::Plane;
use crate::train::ops::pool;

/// The gradient of a part's output.
#[derive(Clone, Copy)]
pub(in crate::train::engine) enum OutputGrad<'a> {
    /// Of the mean over all pixels, `[images][channels]`.
    Mean(&'a [f32]),
    /// Of every value, without border.
    Dense(&'a [f32]),
}

/// Gradients of one layer.
pub(in crate::train::engine) struct LayerGrad {
    /// `[output][input / groups][kernel][kernel]`.
    pub(in crate::train::engine) weight: Vec<f32>,
    pub(in crate::train::engine) norm: NormGrad,
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
    /// Gradients of all layers, for the batch that [`PartTape::forward`] ran in training mode; the activations are gone
    /// afterwards. The input's gradient is added to `input_grad`, without border, unless that is empty.
    pub(in crate::train::engine) fn backward(
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
