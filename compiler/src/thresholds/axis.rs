//! All decisions that one router can be made to take, in order.

use super::observations::Observations;

/// Most cuts of an axis; more distinct scores are thinned out evenly.
pub(super) const MAX_CUTS: usize = 4096;

/// The images in the order in which a falling bar lets them go on.
pub(super) struct Axis {
    /// Indices of images, the most eager first.
    pub(super) order: Vec<u32>,
    /// From stopping everybody to letting everybody go on.
    pub(super) cuts: Vec<Cut>,
}

/// A threshold and the images it lets go on: the first `proceed` of the order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    pub(super) proceed: usize,
    pub(super) threshold: f32,
}

impl Axis {
    /// The axis of router `router`.
    pub(super) fn new(observations: &Observations, router: usize) -> Self {
        let scale = observations.scales[router];
        let score = |image: u32| observations.images[image as usize].scores[router];
        let mut order: Vec<u32> = (0..observations.images.len() as u32).collect();
        order.sort_by(|&a, &b| scale.eagerness(score(a), score(b)).then(a.cmp(&b)));
        let neighbours = order.windows(2).map(|pair| (score(pair[0]), score(pair[1])));
        let between = neighbours.filter(|(eager, next)| eager != next && !next.is_nan() && !eager.is_nan());
        let between = between.map(|(eager, next)| scale.between(eager, next));
        let mut cuts: Vec<Cut> = Vec::new();
        for threshold in [scale.closed()].into_iter().chain(between).chain([scale.open()]) {
            // What a threshold does is counted and not assumed: ranges and rounding may let it do something else.
            let proceed = order.partition_point(|&image| scale.proceeds(score(image), threshold));
            if cuts.last().is_none_or(|last| proceed > last.proceed) {
                cuts.push(Cut { proceed, threshold });
            }
        }
        Self { order, cuts: thinned(cuts) }
    }
}

/// At most [`MAX_CUTS`] cuts, the first and the last among them.
fn thinned(cuts: Vec<Cut>) -> Vec<Cut> {
    let all = cuts.len();
    if all <= MAX_CUTS {
        return cuts;
    }
    (0..MAX_CUTS).map(|n| cuts[n * (all - 1) / (MAX_CUTS - 1)]).collect()
}
