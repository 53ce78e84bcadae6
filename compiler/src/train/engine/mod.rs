//! The two passes over a network on CPUs.
//!
//! Every convolution, normalisation and activation has its memory for the whole batch, allocated once. A pass goes layer
//! by layer (batch normalisation has to see all images before the next layer can begin) and image by image within: one
//! image's activation is made, convolved and measured while it is in the cache, and on the way back its gradient takes
//! the place of the activation. Classifiers and losses are candle's business: they are small.

mod integer;
mod norm;
mod part;
mod schedule;

use anyhow::{Result, ensure};
use ride_runtime::arith;

use super::net::Mode;
use super::ops::plane::Plane;
use super::ops::pool;
use super::ops::simd::Level;
use super::params::Params;
use super::plan::Plan;
use super::qat::Quantization;
use crate::lower::integer::pooling;
use part::{Input, LayerGrad, OutputGrad, PartTape};
use schedule::Schedule;

/// Colours of an image.
const COLOURS: usize = 3;

/// A network at one size of image.
#[derive(Debug)]
pub(super) struct Engine {
    image: Plane,
    stem: PartTape,
    experts: Vec<PartTape>,
    /// The batch, with the border of the first convolution.
    images: Vec<f32>,
    /// A pixel of that border.
    border: Vec<f32>,
    /// For each colour, if pixels are integers: the real value of one, and the integer that stands for zero.
    pixels: Option<Vec<(f64, f64)>>,
    count: usize,
    /// Gradient of the stem's output.
    shared_grad: Vec<f32>,
}

/// A gradient by the name of its parameter.
pub(super) type NamedGrad = (String, Vec<f32>);

impl Engine {
    /// # Errors
    /// If images of this size are too small for the network.
    pub(super) fn new(plan: &Plan, [height, width]: [usize; 2], level: Level) -> Result<Self> {
        let firsts = plan.parts().filter_map(|part| part.first.as_ref());
        let border = firsts.map(|first| first.shape.padding).max().unwrap_or(0);
        let image = Plane { height, width, channels: COLOURS, border };
        let stem = PartTape::new(Schedule::new(&plan.stem, image, level)?, level);
        let shared = if stem.is_empty() { image } else { stem.output().0 };
        let expert = |part| Ok(PartTape::new(Schedule::new(part, shared, level)?, level));
        let experts = plan.experts.iter().map(expert).collect::<Result<_>>()?;
        let border = vec![0.0; COLOURS];
        Ok(Self { image, stem, experts, images: Vec::new(), border, pixels: None, count: 0, shared_grad: Vec::new() })
    }

    /// Computes as the integer network from now on.
    ///
    /// # Errors
    /// If the quantization is not of this network.
    pub(super) fn quantize(&mut self, quantization: &Quantization) -> Result<()> {
        self.pixels = Some(quantization.pixels());
        self.border = quantization.pixels().iter().map(|(_, zero)| zero.round().clamp(-128.0, 127.0) as f32).collect();
        self.images.clear();
        let mut shared = None;
        if !self.stem.is_empty() {
            self.stem.quantize(quantization, None)?;
            shared = self.stem.output_quant();
        }
        self.experts.iter_mut().try_for_each(|expert| expert.quantize(quantization, shared))
    }

    /// Whether it was made for images of this size.
    pub(super) fn fits(&self, [height, width]: [usize; 2]) -> bool {
        (self.image.height, self.image.width) == (height, width)
    }

    /// Pooled features of each expert, `[images][features]`. `images` are `[N][H][W][3]`.
    pub(super) fn forward(&mut self, images: &[f32], params: &Params, mode: Mode) -> Result<Vec<Vec<f32>>> {
        let dense = self.image.dense().len();
        ensure!(images.len().is_multiple_of(dense) && !images.is_empty(), "there is no image, or not a whole one");
        self.count = images.len() / dense;
        if self.images.len() != self.count * self.image.len() {
            self.images = self.border.repeat(self.count * self.image.len() / COLOURS);
        }
        for (from, to) in images.chunks_exact(dense).zip(self.images.chunks_exact_mut(self.image.len())) {
            for (row, from) in from.chunks_exact(self.image.row()).enumerate() {
                let to = &mut to[self.image.range(row)];
                to.copy_from_slice(from);
                let Some(pixels) = &self.pixels else { continue };
                for pixel in to.chunks_exact_mut(COLOURS) {
                    for (x, (step, zero)) in pixel.iter_mut().zip(pixels) {
                        *x = (f64::from(*x) / step + zero).round() as f32;
                    }
                }
            }
        }
        if !self.stem.is_empty() {
            let images = Input { values: &self.images, codes: &self.images };
            self.stem.forward(images, self.count, params, mode)?;
        }
        let images = Input { values: &self.images, codes: &self.images };
        let shared = if self.stem.is_empty() { images } else { self.stem.output().1 };
        let mut features = Vec::new();
        for expert in &mut self.experts {
            expert.forward(shared, self.count, params, mode)?;
            let (plane, output) = expert.output();
            let mut feature = vec![0.0; self.count * plane.channels];
            let images = output.values.chunks_exact(plane.len());
            images.zip(feature.chunks_exact_mut(plane.channels)).for_each(|(x, sum)| pool::sum(x, plane, sum));
            match expert.output_quant() {
                None => feature.iter_mut().for_each(|value| *value /= plane.pixels() as f32),
                Some(quant) => {
                    let (shift, unit) = pooling(&quant, plane.pixels(), plane.channels);
                    let pooled = |sum: f32| f32::from(arith::pool(sum as i32, shift)) * unit as f32;
                    feature.iter_mut().for_each(|value| *value = pooled(*value));
                }
            }
            features.push(feature);
        }
        Ok(features)
    }

    /// Gradients of all convolutions and normalisations, of those of the features that [`Engine::forward`] gave last,
    /// in training mode.
    pub(super) fn backward(&mut self, features: &[Vec<f32>]) -> Vec<NamedGrad> {
        let Self { stem, experts, images, shared_grad, .. } = self;
        shared_grad.clear();
        if !stem.is_empty() {
            shared_grad.resize(self.count * stem.output().0.dense().len(), 0.0);
        }
        let images = Input { values: images, codes: images };
        let shared = if stem.is_empty() { images } else { stem.output().1 };
        let mut grads = Vec::new();
        for (expert, feature) in experts.iter_mut().zip(features) {
            let layers = expert.backward(shared, OutputGrad::Mean(feature), shared_grad);
            name(expert.schedule(), layers, &mut grads);
        }
        if !stem.is_empty() {
            let layers = stem.backward(images, OutputGrad::Dense(shared_grad), &mut []);
            name(stem.schedule(), layers, &mut grads);
        }
        grads
    }
}

fn name(schedule: &Schedule, layers: Vec<LayerGrad>, grads: &mut Vec<NamedGrad>) {
    for (wired, LayerGrad { weight, norm }) in schedule.layers.iter().zip(layers) {
        grads.push((format!("{}.weight", wired.names.conv), weight));
        grads.push((format!("{}.weight", wired.names.norm), norm.weight));
        grads.push((format!("{}.bias", wired.names.norm), norm.bias));
    }
}
