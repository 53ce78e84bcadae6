//! What a teacher says about training examples.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::loss;
use crate::network::{Network, Shape};
use crate::reference::{Executor, Image, Policy, Scratch};

/// A network that is run and not changed: of any kind that is imported, batch normalisation folded in.
pub struct Teacher {
    executor: Executor,
    input: Shape,
    experts: usize,
    classes: usize,
}

impl Teacher {
    /// Prepares a network; all its experts are asked.
    ///
    /// # Errors
    /// If the network cannot be run.
    pub fn new(network: &Network) -> Result<Self> {
        let executor = Executor::new(network)?;
        Ok(Self { executor, input: network.input.shape, experts: network.experts.len(), classes: network.classes })
    }

    /// Checks that it can teach a network of this input and these classes.
    ///
    /// # Errors
    /// Says what differs.
    pub fn check(&self, input: Shape, classes: usize) -> Result<()> {
        let Shape { height, width, .. } = self.input;
        ensure!(
            self.input == input,
            "the teacher looks at images of {height} x {width} pixels, the student at {} x {}; both need the same: leave \
             data_loader out of the student's description",
            input.height,
            input.width
        );
        ensure!(
            self.classes == classes,
            "the teacher knows {} classes, the student has {classes}; both need the same",
            self.classes
        );
        Ok(())
    }

    /// The logits of all experts for images of raw pixels, one after the other, NHWC.
    ///
    /// # Errors
    /// If the pixels are not whole images, or the device has no memory.
    pub fn ask(&self, pixels: &[u8], device: &Device) -> Result<loss::Teacher> {
        let run = |scratch: &mut Scratch, image: &[u8]| {
            self.executor.forward(Image::Pixels(image), Policy::All, scratch, None).context("the teacher")
        };
        let images: Vec<_> =
            pixels.par_chunks(self.input.len()).map_init(Scratch::default, run).collect::<Result<_>>()?;
        let expert = |index: usize| {
            let logits: Vec<f32> =
                images.iter().flat_map(|image| image.experts[index].logits.iter().copied()).collect();
            Tensor::from_vec(logits, (images.len(), self.classes), device)
        };
        Ok(loss::Teacher { experts: (0..self.experts).map(expert).collect::<candle_core::Result<_>>()? })
    }
}
