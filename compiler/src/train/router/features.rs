//! What routers see of an image, and what they should say.

use anyhow::{Context, Result};
use rayon::prelude::*;
use ride_calibrate::data::DataSet;
use ride_calibrate::sampling::SplitMix64;

use super::Settings;
use super::draws::View;
use crate::reference::{Executor, Forward, Image, Policy, Scratch, argmax};

/// What the numbers that views are drawn with are for; keeps them apart from those of the order.
const PURPOSE: u64 = 3;

/// How a row is laid out: for each router its features, its sorted logits and its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) routers: usize,
    pub(super) features: usize,
    pub(super) top_k: usize,
}

impl Layout {
    /// Numbers of one router's piece of a row.
    fn piece(self) -> usize {
        self.features + self.top_k + 1
    }

    /// Numbers of a row.
    pub(super) fn row(self) -> usize {
        self.routers * self.piece()
    }
}

/// One row for each view.
pub(super) struct Rows {
    pub(super) layout: Layout,
    data: Vec<f32>,
}

/// One router's piece of a row.
pub(super) struct Piece<'r> {
    /// Divided by their norm.
    pub(super) features: &'r [f32],
    /// The largest mean logits, descending.
    pub(super) logits: &'r [f32],
    /// 1 if the next expert is worth running, else 0.
    pub(super) target: f32,
}

impl Rows {
    /// Runs all experts on the views, on all cores.
    pub(super) fn compute(
        executor: &Executor,
        data: &DataSet,
        settings: &Settings,
        layout: Layout,
        views: &[View],
        done: &(dyn Fn() + Sync),
    ) -> Result<Self> {
        let mut rows = vec![0.0; layout.row() * views.len()];
        let fill = |scratch: &mut Scratch, (row, view): (&mut [f32], &View)| -> Result<()> {
            let index = view.image as usize;
            let mut random = SplitMix64::of(&[PURPOSE, settings.seed, u64::from(view.image), u64::from(view.view)]);
            let pixels = settings.augment.example(data, index, &mut random)?;
            let forward = executor.forward(Image::Pixels(&pixels), Policy::All, scratch, None);
            let forward = forward.with_context(|| format!("cannot run {}", data.record_name(index)))?;
            describe(&forward, data.label(index) as usize, layout, row);
            done();
            Ok(())
        };
        rows.par_chunks_mut(layout.row()).zip(views).map_init(Scratch::default, fill).collect::<Result<()>>()?;
        Ok(Self { layout, data: rows })
    }

    /// One row's piece for one router.
    pub(super) fn piece(&self, row: usize, router: usize) -> Piece<'_> {
        let Layout { features, .. } = self.layout;
        let piece = &self.data[row * self.layout.row() + router * self.layout.piece()..][..self.layout.piece()];
        Piece {
            features: &piece[..features],
            logits: &piece[features..piece.len() - 1],
            target: piece[piece.len() - 1],
        }
    }
}

/// Fills a row.
pub(super) fn describe(forward: &Forward, label: usize, layout: Layout, row: &mut [f32]) {
    let means: Vec<Vec<f32>> = (1..=forward.used()).map(|n| forward.mean_of(n)).collect();
    let right: Vec<bool> = means.iter().map(|mean| argmax(mean) == label).collect();
    for (router, piece) in row.chunks_exact_mut(layout.piece()).enumerate() {
        let feature = &forward.experts[router].feature;
        let norm = feature.iter().map(|&f| f64::from(f) * f64::from(f)).sum::<f64>().sqrt();
        // The authors divide a feature of zeros by zero, which would spoil all weights; such an image stops in any case.
        let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        piece.iter_mut().zip(feature).for_each(|(to, &f)| *to = (f64::from(f) * scale) as f32);
        let mut sorted = means[router].clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        piece[layout.features..][..layout.top_k].copy_from_slice(&sorted[..layout.top_k]);
        let worth = !right[router] && right[router + 1..].contains(&true);
        piece[layout.piece() - 1] = f32::from(worth);
    }
}
