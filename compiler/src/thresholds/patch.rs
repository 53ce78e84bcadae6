//! Other thresholds for a finished artifact.

use anyhow::{Context, Result, ensure};
use ride_runtime::Model;
use ride_runtime::format::header::Kind;
use ride_runtime::format::record::{ROUTER_HEAD, decode_router, encode_router};

use super::scale::Scale;
use crate::lower::{take_apart, with_golden_vectors};

/// Thresholds of an artifact's routers.
pub fn thresholds_of(model: Model<'_>) -> Vec<f32> {
    if !model.routed() {
        return Vec::new();
    }
    (0..model.experts() - 1).filter_map(|n| model.router(n)).map(|router| router.threshold).collect()
}

/// The artifact with other thresholds: byte for byte what the compiler would have written for them. Golden vectors hold routes,
/// so they are computed anew; weights, memory and everything else stay as they are.
///
/// # Errors
/// If there is not one threshold for each router, or one that its router's measure cannot have.
pub fn patch(model: Model<'_>, thresholds: &[f32]) -> Result<Vec<u8>> {
    let routers = thresholds_of(model).len();
    ensure!(
        routers > 0,
        "the artifact has no routers, so it has no thresholds; build it from a model with trained routers or with --router"
    );
    ensure!(
        thresholds.len() == routers,
        "there are {} thresholds for {routers} routers; expected one for each, as in {}",
        thresholds.len(),
        vec!["0.5"; routers].join(",")
    );
    let mut sections = take_apart(model);
    for (section, &threshold) in sections.iter_mut().filter(|section| section.kind == Kind::Router).zip(thresholds) {
        let head: &mut [u8; ROUTER_HEAD] =
            section.content.first_chunk_mut().context("a router's section is cut off")?;
        let mut router = decode_router(head).context("a router of an unknown kind")?;
        let scale = Scale::of(&router, model.classes());
        ensure!(
            scale.has(threshold),
            "threshold {threshold} of router {}: {} takes {}",
            section.index,
            scale.name(),
            scale.range()
        );
        router.threshold = threshold;
        *head = encode_router(&router);
    }
    with_golden_vectors(sections)
}
