//! The float forward pass of a [`Network`], routing included: what calibration observes and what verification compares with.
//!
//! [`Executor::new`] checks a network and packs its weights once; after that one executor serves any number of threads,
//! each with its own [`Scratch`]. Every image is computed alone and in one fixed order of arithmetic, so results depend
//! neither on the number of threads nor on the machine.
//!
//! Convolutions read zero-padded NHWC input directly (no im2col copy): without groups, the channels of a whole window row
//! are contiguous.

mod conv;
mod head;
mod kernel;
mod part;
mod precision;
#[cfg(test)]
pub(crate) mod tests;

use crate::network::{Input, Network, Routing, Shape};
use anyhow::{Context, Result, ensure};
pub(crate) use head::confidence;
use head::{PreparedHead, PreparedRouter};
use part::{Memory, PreparedPart};
use precision::Precision;

/// Name under which [`Observe`] sees the normalised image.
pub const INPUT: &str = "input";

/// Sees every intermediate value of a forward pass.
pub trait Observe {
    /// Called once for the normalised image (under the name [`INPUT`]) and for each node's output, in execution order.
    /// `data` is NHWC and has `shape.len()` elements. The input of an expert is not repeated: it is the stem's last value.
    fn value(&mut self, name: &str, shape: Shape, data: &[f32]);
}

/// Which experts run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// The next expert runs while the router says so. All experts run if the network has no routers.
    Routed {
        /// In place of the network's own thresholds; in units of the score, before the sigmoid.
        threshold: Option<f32>,
    },
    /// All experts run, and all routers too, so that their scores can be compared.
    All,
    /// The first `n` experts run and no router.
    Exactly(usize),
}

/// An image to classify.
#[derive(Clone, Copy, Debug)]
pub enum Image<'a> {
    /// Raw pixels, height x width x channels, normalised here as [`Network::input`] says.
    Pixels(&'a [u8]),
    /// An image that has been normalised already, same layout.
    Normalised(&'a [f32]),
}

/// What one expert computes.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertOutput {
    /// Global average of the trunk's output, one for each of its channels.
    pub feature: Vec<f32>,
    /// One for each class.
    pub logits: Vec<f32>,
    /// What the sum of logits is divided by if no expert runs after this one.
    pub divisor: f32,
}

/// Result of a forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// One for each expert that ran, in order.
    pub experts: Vec<ExpertOutput>,
    /// Score of each router that ran, computed from the mean logits of the experts up to it. NaN means stop.
    pub scores: Vec<f32>,
    /// What each of these routers says: whether the next expert is worth running.
    pub proceeds: Vec<bool>,
    /// Mean of the logits of the experts that ran.
    pub mean_logits: Vec<f32>,
}

impl Forward {
    /// Number of experts that ran.
    pub fn used(&self) -> usize {
        self.experts.len()
    }

    /// Number of experts that the routers would use, judged by those that ran (see [`Policy::All`]).
    pub fn routed(&self) -> usize {
        let go_on = self.proceeds.iter().take_while(|&&proceed| proceed).count();
        if go_on == self.proceeds.len() { self.experts.len() } else { go_on + 1 }
    }

    /// Mean logits of the first `n` experts.
    ///
    /// # Panics
    /// If `n` is 0 or more than have run.
    pub fn mean_of(&self, n: usize) -> Vec<f32> {
        mean_logits(&self.experts[..n])
    }

    /// The class with the largest mean logit; the first of equals.
    pub fn class(&self) -> usize {
        argmax(&self.mean_logits)
    }
}

/// Index of the largest value; the first of equals.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// Memory of one thread; grows to what the network needs at the first image and then stays.
#[derive(Debug, Default)]
pub struct Scratch {
    memory: Memory,
    image: Vec<f32>,
    stem: Vec<f32>,
    trunk: Vec<f32>,
}

/// A network that is ready to run.
pub struct Executor {
    input: Input,
    stem: PreparedPart,
    experts: Vec<PreparedExpert>,
    routers: Vec<PreparedRouter>,
    precision: Precision,
}

struct PreparedExpert {
    trunk: PreparedPart,
    head: PreparedHead,
}

impl Executor {
    /// Checks the network and packs its weights.
    ///
    /// # Errors
    /// Where shapes, tensor lengths or operands do not fit together; the message names the node.
    pub fn new(network: &Network) -> Result<Self> {
        Self::with(network, Precision::Single)
    }

    /// The same network in half precision: weights, biases, the normalised image and what every operation, classifier and
    /// router gives are rounded to binary16; sums have more bits.
    ///
    /// # Errors
    /// As [`Executor::new`].
    pub fn in_half(network: &Network) -> Result<Self> {
        Self::with(&precision::rounded(network), Precision::Half)
    }

    fn with(network: &Network, precision: Precision) -> Result<Self> {
        let input = &network.input;
        ensure!(
            input.mean.len() == input.shape.channels && input.std.len() == input.shape.channels,
            "the normalisation has {} means and {} standard deviations for {} channels",
            input.mean.len(),
            input.std.len(),
            input.shape.channels
        );
        ensure!(!network.experts.is_empty(), "the network has no experts");
        let stem = PreparedPart::new(&network.stem, input.shape, precision)?;
        let expert = |expert: &crate::network::Expert| {
            let trunk = PreparedPart::new(&expert.trunk, stem.output_shape, precision)?;
            let features = trunk.output_shape.channels;
            let head = PreparedHead::new(&expert.trunk.name, &expert.head, features, network.classes)?;
            Ok(PreparedExpert { trunk, head })
        };
        let experts = network.experts.iter().map(expert).collect::<Result<Vec<_>>>()?;
        let routers = prepare_routers(network, &experts)?;
        Ok(Self { input: input.clone(), stem, experts, routers, precision })
    }

    /// Number of experts.
    pub fn experts(&self) -> usize {
        self.experts.len()
    }

    /// Shape of the stem's output, which is the input of every expert.
    pub fn stem_shape(&self) -> Shape {
        self.stem.output_shape
    }

    /// Shape of an expert's last activation before pooling.
    ///
    /// # Panics
    /// If there is no such expert.
    pub fn trunk_shape(&self, expert: usize) -> Shape {
        self.experts[expert].trunk.output_shape
    }

    /// Normalises raw pixels as the network expects them: `(pixel / 255 - mean) / std`.
    ///
    /// # Errors
    /// If the number of pixels does not fit the network's input.
    pub fn normalise(&self, pixels: &[u8], image: &mut Vec<f32>) -> Result<()> {
        self.check_len(pixels.len())?;
        let Input { mean, std, .. } = &self.input;
        image.clear();
        for pixel in pixels.chunks_exact(self.input.shape.channels) {
            image.extend(pixel.iter().zip(mean).zip(std).map(|((&p, mean), std)| (f32::from(p) / 255.0 - mean) / std));
        }
        Ok(())
    }

    /// The stem's output, NHWC, for a normalised image.
    ///
    /// # Errors
    /// If the image does not have the size of the network's input.
    pub fn stem(&self, image: &[f32], scratch: &mut Scratch, observe: Option<&mut dyn Observe>) -> Result<Vec<f32>> {
        self.check_len(image.len())?;
        let mut output = Vec::new();
        self.stem.run(image, &mut scratch.memory, observe, &mut output);
        Ok(output)
    }

    /// Runs one expert on the stem's output.
    ///
    /// # Errors
    /// If there is no such expert or `stem` is not as long as [`Executor::stem_shape`] says.
    pub fn expert(
        &self,
        index: usize,
        stem: &[f32],
        scratch: &mut Scratch,
        observe: Option<&mut dyn Observe>,
    ) -> Result<ExpertOutput> {
        let count = self.experts.len();
        let expert = self.experts.get(index).with_context(|| format!("expert {index} of {count} does not exist"))?;
        let expected = self.stem.output_shape.len();
        ensure!(stem.len() == expected, "the stem's output has {} elements, expected {expected}", stem.len());
        expert.trunk.run(stem, &mut scratch.memory, observe, &mut scratch.trunk);
        let mut feature = head::global_average(&scratch.trunk, expert.trunk.output_shape);
        self.precision.keep(&mut feature);
        let mut logits = expert.head.run(&feature);
        self.precision.keep(&mut logits);
        Ok(ExpertOutput { feature, logits, divisor: expert.head.divisor })
    }

    /// Score of the router after expert `index`. `None` if the network has no such router.
    pub fn router(&self, index: usize, feature: &[f32], mean_logits: &[f32]) -> Option<f32> {
        Some(self.score(self.routers.get(index)?, feature, mean_logits))
    }

    fn score(&self, router: &PreparedRouter, feature: &[f32], mean_logits: &[f32]) -> f32 {
        let mut score = router.run(feature, mean_logits);
        self.precision.keep(std::slice::from_mut(&mut score));
        score
    }

    /// Classifies one image.
    ///
    /// # Errors
    /// If the image does not have the size of the network's input, or the policy asks for experts that do not exist.
    pub fn forward(
        &self,
        image: Image<'_>,
        policy: Policy,
        scratch: &mut Scratch,
        mut observe: Option<&mut dyn Observe>,
    ) -> Result<Forward> {
        let most = match policy {
            Policy::Exactly(n) => n,
            Policy::Routed { .. } | Policy::All => self.experts.len(),
        };
        ensure!(
            (1..=self.experts.len()).contains(&most),
            "{most} experts asked for, the network has {}",
            self.experts.len()
        );
        let mut stem = std::mem::take(&mut scratch.stem);
        self.stem_of(image, scratch, reborrow(&mut observe), &mut stem)?;
        let mut experts = Vec::with_capacity(most);
        let (mut scores, mut proceeds) = (Vec::new(), Vec::new());
        for index in 0..most {
            experts.push(self.expert(index, &stem, scratch, reborrow(&mut observe))?);
            if index + 1 == most {
                break;
            }
            if matches!(policy, Policy::Exactly(_)) {
                continue;
            }
            let Some(router) = self.routers.get(index) else { continue };
            let score = self.score(router, &experts[index].feature, &mean_logits(&experts));
            let threshold = if let Policy::Routed { threshold } = policy { threshold } else { None };
            let proceed = router.proceeds(score, threshold);
            scores.push(score);
            proceeds.push(proceed);
            if !proceed && policy != Policy::All {
                break;
            }
        }
        scratch.stem = stem;
        let mean_logits = mean_logits(&experts);
        Ok(Forward { experts, scores, proceeds, mean_logits })
    }

    fn stem_of(
        &self,
        image: Image<'_>,
        scratch: &mut Scratch,
        mut observe: Option<&mut dyn Observe>,
        output: &mut Vec<f32>,
    ) -> Result<()> {
        let mut normalised = std::mem::take(&mut scratch.image);
        let image = match (image, self.precision) {
            (Image::Normalised(image), Precision::Single) => image,
            (image, precision) => {
                match image {
                    Image::Pixels(pixels) => self.normalise(pixels, &mut normalised)?,
                    Image::Normalised(image) => image.clone_into(&mut normalised),
                }
                precision.keep(&mut normalised);
                &normalised
            }
        };
        self.check_len(image.len())?;
        if let Some(observe) = observe.as_deref_mut() {
            observe.value(INPUT, self.input.shape, image);
        }
        self.stem.run(image, &mut scratch.memory, observe, output);
        scratch.image = normalised;
        Ok(())
    }

    fn check_len(&self, len: usize) -> Result<()> {
        let Shape { height, width, channels } = self.input.shape;
        ensure!(
            len == self.input.shape.len(),
            "the image has {len} values, but the network takes {height} x {width} x {channels}"
        );
        Ok(())
    }
}

fn prepare_routers(network: &Network, experts: &[PreparedExpert]) -> Result<Vec<PreparedRouter>> {
    let features = |index: usize| experts.get(index).map_or(0, |expert| expert.trunk.output_shape.channels);
    let routers: Vec<_> = match &network.routing {
        Routing::None => return Ok(Vec::new()),
        Routing::Assignment(routers) => {
            let prepare = |(i, router)| PreparedRouter::trained(i, router, features(i), network.classes);
            routers.iter().enumerate().map(prepare).collect::<Result<_>>()?
        }
        Routing::Confidence(rules) => rules.iter().map(PreparedRouter::confidence).collect(),
    };
    ensure!(
        routers.len() + 1 == experts.len(),
        "{} routers for {} experts, expected one for each expert but the last",
        routers.len(),
        experts.len()
    );
    Ok(routers)
}

/// Lends an optional observer for one call.
fn reborrow<'a>(observe: &'a mut Option<&mut dyn Observe>) -> Option<&'a mut dyn Observe> {
    match observe {
        Some(observe) => Some(&mut **observe),
        None => None,
    }
}

fn mean_logits(experts: &[ExpertOutput]) -> Vec<f32> {
    let mut sums: Vec<f64> = vec![0.0; experts[0].logits.len()];
    for expert in experts {
        sums.iter_mut().zip(&expert.logits).for_each(|(sum, &logit)| *sum += f64::from(logit));
    }
    let divisor = experts.last().map_or(1.0, |last| f64::from(last.divisor));
    sums.iter().map(|sum| (sum / divisor) as f32).collect()
}
