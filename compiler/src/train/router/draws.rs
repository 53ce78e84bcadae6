//! Which images are drawn, as which views, and which of them have to be at hand at a time.

use std::collections::HashMap;

use super::Settings;
use crate::train::augment::Recipe;
use crate::train::sampler::Sampling;

/// A varied copy of an image: view `v` of an image looks the same whenever it is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct View {
    pub(super) image: u32,
    pub(super) view: u32,
}

/// The sequence of all draws.
pub(super) struct Draws {
    /// One list for each epoch.
    epochs: Vec<Vec<View>>,
    batch: usize,
}

/// Consecutive steps and what they need.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Segment {
    /// Each view once, in the order of their first draw.
    pub(super) distinct: Vec<View>,
    pub(super) steps: Vec<Step>,
}

/// One batch.
#[derive(Debug, PartialEq)]
pub(super) struct Step {
    /// From 0 on.
    pub(super) epoch: usize,
    /// Whether it ends its epoch.
    pub(super) last: bool,
    /// Indices into [`Segment::distinct`].
    pub(super) rows: Vec<u32>,
}

impl Draws {
    pub(super) fn new(labels: &[u32], settings: &Settings) -> Self {
        let views = if settings.augment == Recipe::None { 1 } else { settings.views };
        let mut visits = vec![0usize; labels.len()];
        let epoch = |epoch: usize| {
            let order = Sampling::Balanced.order(labels, settings.seed, epoch as u64);
            let view = |image: usize| {
                visits[image] += 1;
                View { image: image as u32, view: ((visits[image] - 1) % views) as u32 }
            };
            order.into_iter().map(view).collect()
        };
        Self { epochs: (0..settings.epochs).map(epoch).collect(), batch: settings.batch }
    }

    /// Steps in pieces that need at most `room` views each, except that a step is not divided.
    pub(super) fn segments(&self, room: usize) -> Vec<Segment> {
        let (mut all, mut segment, mut places) = (Vec::new(), Segment::default(), HashMap::new());
        for (epoch, draws) in self.epochs.iter().enumerate() {
            let steps = draws.len().div_ceil(self.batch);
            for (n, batch) in draws.chunks(self.batch).enumerate() {
                let new = batch.iter().filter(|view| !places.contains_key(*view)).count();
                if !segment.steps.is_empty() && places.len() + new > room {
                    all.push(std::mem::take(&mut segment));
                    places.clear();
                }
                let row = |&view: &View| {
                    *places.entry(view).or_insert_with(|| {
                        segment.distinct.push(view);
                        segment.distinct.len() as u32 - 1
                    })
                };
                let rows = batch.iter().map(row).collect();
                segment.steps.push(Step { epoch, last: n + 1 == steps, rows });
            }
        }
        all.push(segment);
        all
    }
}
