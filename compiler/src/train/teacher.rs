//! What a teacher says about training examples.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use ride_calibrate::preprocess::Preprocess;
use ride_calibrate::sampling::SplitMix64;

use super::batches::normalised;
use super::loss;
use super::net::Net;
use crate::network::{Network, Shape};
use crate::reference::{Executor, Image, Policy, Scratch};

/// Largest difference of two ways to compute the same logits, relative to the largest of them, that rounding makes.
const TOLERANCE: f32 = 0.01;
/// What images to compare them with are drawn with.
const SEED: u64 = 8;

/// A network that is run and not changed: of any kind that is imported, batch normalisation folded in.
pub struct Teacher {
    executor: Executor,
    input: Shape,
    experts: usize,
    classes: usize,
    /// The same network on the student's device, and how its images are normalised.
    on_device: Option<(Net, Preprocess)>,
}

impl Teacher {
    /// Prepares a network; all its experts are asked.
    ///
    /// # Errors
    /// If the network cannot be run.
    pub fn new(network: &Network) -> Result<Self> {
        let executor = Executor::new(network)?;
        let (input, experts, classes) = (network.input.shape, network.experts.len(), network.classes);
        Ok(Self { executor, input, experts, classes, on_device: None })
    }

    /// Asks `net`, the same network with candle's operations, from now on: a GPU would wait for the CPU otherwise. `preprocess` is
    /// how the network's images are normalised.
    ///
    /// # Errors
    /// If they do not say the same, or the device fails.
    pub fn run_on_device(&mut self, net: Net, preprocess: &Preprocess) -> Result<()> {
        let mut random = SplitMix64::new(SEED);
        let pixels: Vec<u8> = (0..2 * self.input.len()).map(|_| random.below(256) as u8).collect();
        let expected = self.ask(&pixels, net.device())?;
        self.on_device = Some((net, preprocess.clone()));
        let same = self.ask(&pixels, &Device::Cpu).and_then(|got| agree(&got, &expected));
        if same.is_err() {
            self.on_device = None;
        }
        same
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
        if let Some((net, preprocess)) = &self.on_device {
            let images = normalised(pixels, preprocess, net.device())?;
            return Ok(loss::Teacher { experts: net.evaluate(&images).context("the teacher")?.logits });
        }
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

/// That two ways to compute logits differ by rounding only.
fn agree(got: &loss::Teacher, expected: &loss::Teacher) -> Result<()> {
    ensure!(got.experts.len() == expected.experts.len(), "there are {} experts", got.experts.len());
    for (index, (got, expected)) in got.experts.iter().zip(&expected.experts).enumerate() {
        ensure!(got.dims() == expected.dims(), "expert {index} has logits of {:?}", got.dims());
        let (got, expected): (Vec<f32>, Vec<f32>) = (got.flatten_all()?.to_vec1()?, expected.flatten_all()?.to_vec1()?);
        let largest = expected.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
        // Also where one of them is no number.
        let near = got.iter().zip(&expected).all(|(got, expected)| (got - expected).abs() <= TOLERANCE * largest);
        ensure!(near, "expert {index} says something else there");
    }
    Ok(())
}
