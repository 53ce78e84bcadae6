//! Batches of training examples, prepared on other threads while the network is busy.
//!
//! An image is read when its batch is prepared, so a data set of image files needs memory for a few batches only. What
//! an example looks like depends on seed, epoch and place in the epoch, and on nothing else: neither on threads nor on
//! where training was taken up again.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use ride_calibrate::data::DataSet;
use ride_calibrate::preprocess::Preprocess;
use ride_calibrate::sampling::SplitMix64;
use serde::{Deserialize, Serialize};

use super::augment::Recipe;
use super::sampler::Sampling;

/// What the numbers that examples are drawn with are for; see [`super::sampler`].
const PURPOSE: u64 = 2;
/// Batches that wait for the network.
const WAITING: usize = 2;

/// A place in the sequence of all batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Complete epochs before it.
    pub epoch: u64,
    /// Batches of this epoch before it.
    pub batch: usize,
}

/// What batches are made of.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The training images.
    pub data: &'a DataSet,
    /// How each is varied.
    pub recipe: Recipe,
    /// Which are taken.
    pub sampling: Sampling,
    /// Examples in a batch; the last one of an epoch has what is left.
    pub batch: usize,
    /// What randomness starts from.
    pub seed: u64,
}

/// Some examples.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Where it stands.
    pub position: Position,
    /// `u8`, NHWC with three channels.
    pub pixels: Vec<u8>,
    /// Class of each example.
    pub labels: Vec<u32>,
}

impl Source<'_> {
    /// Batches in an epoch, at least one.
    pub fn batches(&self) -> usize {
        self.data.len().div_ceil(self.batch.max(1))
    }

    /// The place after `position`.
    pub fn after(&self, position: Position) -> Position {
        if position.batch + 1 < self.batches() {
            Position { batch: position.batch + 1, ..position }
        } else {
            Position { epoch: position.epoch + 1, batch: 0 }
        }
    }

    /// Runs `body` with the batches from `start` on, without end; each comes once.
    ///
    /// # Errors
    /// If there is no thread to be had. That an image cannot be read is an item of the sequence.
    pub fn run<T>(&self, start: Position, body: impl FnOnce(&Receiver<Result<Batch>>) -> T) -> Result<T> {
        thread::scope(|scope| {
            let (sender, receiver) = sync_channel(WAITING);
            let builder = thread::Builder::new().name("batches".to_owned());
            builder
                .spawn_scoped(scope, move || self.prepare(start, &sender))
                .context("there is no thread to prepare batches on")?;
            let result = body(&receiver);
            // The thread ends when it finds nobody there; before this it may be waiting to hand over a batch.
            drop(receiver);
            Ok(result)
        })
    }

    /// Sends batches until nobody takes them or one cannot be made.
    fn prepare(&self, start: Position, sender: &SyncSender<Result<Batch>>) {
        let mut position = start;
        let mut order = Vec::new();
        let mut ordered = None;
        loop {
            if ordered != Some(position.epoch) {
                order = self.sampling.order(self.data.labels(), self.seed, position.epoch);
                ordered = Some(position.epoch);
            }
            let batch = self.batch(position, &order);
            let failed = batch.is_err();
            if sender.send(batch).is_err() || failed {
                return;
            }
            position = self.after(position);
        }
    }

    fn batch(&self, position: Position, order: &[usize]) -> Result<Batch> {
        let first = position.batch * self.batch;
        let images = &order[first..order.len().min(first + self.batch)];
        let example = |(place, &index): (usize, &usize)| {
            let place = (first + place) as u64;
            let mut random = SplitMix64::of(&[PURPOSE, self.seed, position.epoch, place]);
            self.recipe.example(self.data, index, &mut random)
        };
        let examples = images.par_iter().enumerate().map(example).collect::<Result<Vec<_>>>()?;
        let labels = images.iter().map(|&index| self.data.label(index)).collect();
        Ok(Batch { position, pixels: examples.concat(), labels })
    }
}

/// Pixels as a network sees them: `[N, H, W, 3]`, `(pixel / 255 - mean) / std`.
pub(super) fn normalised(pixels: &[u8], preprocess: &Preprocess, device: &Device) -> Result<Tensor> {
    let Preprocess { input, mean, std, .. } = preprocess;
    ensure!(input.channels == 3 && mean.len() == 3 && std.len() == 3, "networks of this family see three channels");
    let table: [[f32; 256]; 3] =
        std::array::from_fn(|c| std::array::from_fn(|value| (value as f32 / 255.0 - mean[c]) / std[c]));
    let values: Vec<f32> = pixels.iter().enumerate().map(|(at, &value)| table[at % 3][value as usize]).collect();
    let images = pixels.len() / input.bytes();
    Ok(Tensor::from_vec(values, (images, input.height, input.width, 3), device)?)
}
