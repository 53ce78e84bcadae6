//! Other thresholds for a finished artifact.

use anyhow::{Context, Result, anyhow, ensure};
use ride_runtime::Model;
use ride_runtime::format::header::{Entry, Kind};
use ride_runtime::format::record::{ROUTER_HEAD, decode_router, encode_router};
use ride_runtime::format::writer::{Section, write};

use super::scale::Scale;
use crate::lower;

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
    let mut sections = sections(model);
    for (section, &threshold) in sections.iter_mut().filter(|(kind, ..)| *kind == Kind::Router).zip(thresholds) {
        let (_, index, content) = section;
        let head: &mut [u8; ROUTER_HEAD] = content.first_chunk_mut().context("a router's section is cut off")?;
        let mut router = decode_router(head).context("a router of an unknown kind")?;
        let scale = Scale::of(&router, model.classes());
        ensure!(
            scale.has(threshold),
            "threshold {threshold} of router {index}: {} takes {}",
            scale.name(),
            scale.range()
        );
        router.threshold = threshold;
        *head = encode_router(&router);
    }
    let golden = lower::golden_section(&assemble(&sections)?)?;
    for (kind, _, content) in &mut sections {
        if *kind == Kind::Golden {
            content.clone_from(&golden);
        }
    }
    assemble(&sections)
}

type OwnSection = (Kind, u16, Vec<u8>);

/// All sections of an artifact that has been validated.
fn sections(model: Model<'_>) -> Vec<OwnSection> {
    let entries = (0..).map_while(|n| Entry::read(model.bytes(), n));
    entries.map(|e| (e.kind, e.index, e.slice(model.bytes()).unwrap_or_default().to_vec())).collect()
}

fn assemble(sections: &[OwnSection]) -> Result<Vec<u8>> {
    let sections: Vec<Section<'_>> =
        sections.iter().map(|(kind, index, content)| Section { kind: *kind, index: *index, content }).collect();
    let mut out = Vec::new();
    write(&sections, &mut out).ok_or_else(|| anyhow!("the artifact has more sections than the format takes"))?;
    Ok(out)
}
