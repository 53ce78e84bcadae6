//! Runs the float network over images and collects what its convolutions read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use super::moments::{Moments, Windows};
use super::{Images, OnProgress};
use crate::lower::rounding::ConvSite;
use crate::network::Shape;
use crate::reference::{Executor, Image, Observe, Policy, Scratch};

/// Windows for each weight of a row: enough for covariances that hold on other images.
const WINDOWS_EACH: usize = 32;

/// Moments of one convolution: pieces of the row of each group.
pub(super) type SiteMoments = Vec<Vec<Moments>>;

/// Bytes that the moments of a site take.
pub(super) fn bytes(site: &ConvSite<'_>) -> usize {
    site.conv.groups * Moments::bytes(taps(site))
}

/// Weights of a row.
pub(super) fn taps(site: &ConvSite<'_>) -> usize {
    site.conv.weight.len() / site.conv.out_channels
}

fn empty(site: &ConvSite<'_>) -> SiteMoments {
    (0..site.conv.groups).map(|_| Moments::pieces(taps(site))).collect()
}

/// Moments of each of `sites`, over all images; the same whatever the number of threads.
///
/// # Errors
/// Names the first image that cannot be read.
pub(super) fn collect(
    executor: &Executor,
    sites: &[ConvSite<'_>],
    images: &Images<'_>,
    progress: OnProgress<'_>,
) -> Result<Vec<SiteMoments>> {
    let next = AtomicUsize::new(0);
    let take = || {
        let place = next.fetch_add(1, Ordering::Relaxed);
        images.indices.get(place).map(|&index| (place, index))
    };
    let worker = |_: rayon::BroadcastContext<'_>| {
        let mut collector = Collector::new(sites, images.indices.len());
        let mut scratch = Scratch::default();
        while let Some((place, index)) = take() {
            collector.place = place;
            let run = (images.pixels)(index).and_then(|pixels| {
                let image = Image::Pixels(&pixels);
                executor.forward(image, Policy::All, &mut scratch, Some(&mut collector)).map(|_| ())
            });
            if let Err(error) = run {
                next.store(images.indices.len(), Ordering::Relaxed);
                return Err((place, error.context(format!("refinement fails on image {index}"))));
            }
            progress();
        }
        Ok(collector.moments)
    };
    merge(rayon::broadcast(worker))
}

fn merge(parts: Vec<Result<Vec<SiteMoments>, (usize, anyhow::Error)>>) -> Result<Vec<SiteMoments>> {
    let (mut merged, mut failures) = (None::<Vec<SiteMoments>>, Vec::new());
    for part in parts {
        match (part, &mut merged) {
            (Err(failure), _) => failures.push(failure),
            (Ok(part), None) => merged = Some(part),
            (Ok(part), Some(merged)) => {
                let pieces = part.into_iter().flatten().flatten();
                merged.iter_mut().flatten().flatten().zip(pieces).for_each(|(into, from)| into.merge(from));
            }
        }
    }
    match failures.into_iter().min_by_key(|(place, _)| *place) {
        Some((_, error)) => Err(error),
        None => merged.context("no thread has run"),
    }
}

/// What one thread collects.
struct Collector<'s> {
    windows: Vec<Windows<'s>>,
    /// Windows that each site gives of an image.
    each: Vec<usize>,
    /// Sites by the value that they read.
    readers: BTreeMap<&'s str, Vec<usize>>,
    moments: Vec<SiteMoments>,
    /// Number of the image.
    place: usize,
    row: Vec<f32>,
}

impl<'s> Collector<'s> {
    fn new(sites: &'s [ConvSite<'s>], images: usize) -> Self {
        let mut readers = BTreeMap::<_, Vec<_>>::new();
        sites.iter().enumerate().for_each(|(n, site)| readers.entry(&site.value[..]).or_default().push(n));
        let windows: Vec<_> = sites.iter().map(Windows::new).collect();
        let each = |(site, windows): (&ConvSite<'_>, &Windows<'_>)| {
            (WINDOWS_EACH * taps(site)).div_ceil(images.max(1)).min(windows.pixels)
        };
        Collector {
            each: sites.iter().zip(&windows).map(each).collect(),
            windows,
            readers,
            moments: sites.iter().map(empty).collect(),
            place: 0,
            row: Vec::new(),
        }
    }
}

impl Observe for Collector<'_> {
    fn value(&mut self, name: &str, _: Shape, data: &[f32]) {
        for &n in self.readers.get(name).into_iter().flatten() {
            let (windows, each) = (self.windows[n], self.each[n]);
            // Spread evenly over the image, from another pixel on in each image.
            let start = self.place.wrapping_mul(0x9e37_79b1) % windows.pixels;
            for i in 0..each {
                let pixel = (start + i * windows.pixels / each) % windows.pixels;
                for (group, pieces) in self.moments[n].iter_mut().enumerate() {
                    windows.read(data, pixel, group, &mut self.row);
                    pieces.iter_mut().for_each(|piece| piece.add(&self.row));
                }
            }
        }
    }
}
