//! From float network and calibration table to a finished artifact.
//!
//! The stages, one file each: `program` fuses the graph, `quant` chooses scales, `layers` and `weights` make the integer
//! constants (from weights that `rounding` may bring along), which `packing` puts into a layout, `places` and `arena` lay out the
//! memory, `emit` writes sections and golden vectors, `sections` puts them together. `native` packs a finished artifact anew.

mod arena;
mod emit;
#[cfg(feature = "train")]
pub(crate) mod integer;
mod layers;
pub mod native;
mod packing;
mod places;
mod program;
mod quant;
pub mod reads;
pub mod rounding;
mod sections;
mod weights;

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use ride_calibrate::table::CalibrationTable;
use ride_runtime::kernels::BACKENDS;
use ride_runtime::op::{ConvShape, Layout};
use ride_targets::Target;

use crate::network::Network;
use rounding::Rounding;

pub(crate) use emit::with_golden_vectors;
pub(crate) use sections::take_apart;

/// What travels with the network into the artifact.
#[derive(Clone, Debug, Default)]
pub struct ClassInfo {
    /// Training images of each class; empty where unknown.
    pub counts: Vec<u32>,
    /// Names of the classes; empty where unknown.
    pub names: Vec<String>,
}

/// Everything that [`compile`] needs.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The float network.
    pub network: &'a Network,
    /// Its calibrated ranges.
    pub table: &'a CalibrationTable,
    /// The machine.
    pub target: &'a Target,
    /// Bits of the residual stream, 8 or 16.
    pub residual_bits: u8,
    /// Class names and training counts.
    pub classes: &'a ClassInfo,
    /// Shorter side that images are resized to before the crop.
    pub resize_short: Option<usize>,
    /// Fingerprint of the float network, stored in the artifact.
    pub fingerprint: &'a str,
    /// What computes with 16 bits where 8 are usual.
    pub fine: &'a Fine,
}

/// Names of convolutions (of their nodes) that read all 16 bits of a wide activation, which takes twice their
/// multiply-accumulates: the others read the upper eight.
pub type FineReads = BTreeSet<String>;

/// What computes with 16 bits where 8 are usual, in two runs of int8 arithmetic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fine {
    /// Convolutions that read 16 bits.
    pub reads: FineReads,
    /// Whether classifiers have weights of 16 bits ([`ride_runtime::op::Head::fine`]).
    pub heads: bool,
}

impl Fine {
    /// 8 bits everywhere.
    pub const NONE: &'static Fine = &Fine { reads: FineReads::new(), heads: false };
}

/// Compiles a network. The same request gives the same bytes.
///
/// # Errors
/// Names the layer or the table entry that cannot be compiled.
pub fn compile(request: &Request<'_>) -> Result<Vec<u8>> {
    compile_rounded(request, &Rounding::default())
}

/// As [`compile`], with weights that have been rounded elsewhere.
///
/// # Errors
/// As [`compile`]; also if `rounding` belongs to another network.
pub fn compile_rounded(request: &Request<'_>, rounding: &Rounding) -> Result<Vec<u8>> {
    with_golden_vectors(sections_of(request, rounding)?)
}

/// As [`compile_rounded`], without golden vectors: for artifacts that are only run here and now.
///
/// # Errors
/// As [`compile_rounded`].
pub(crate) fn draft(request: &Request<'_>, rounding: &Rounding) -> Result<Vec<u8>> {
    sections::assemble(&sections_of(request, rounding)?)
}

/// The sections of the artifact, still without golden vectors.
fn sections_of(request: &Request<'_>, rounding: &Rounding) -> Result<Vec<sections::OwnSection>> {
    let classes = request.network.classes;
    let info = request.classes;
    ensure!(
        info.counts.is_empty() || info.counts.len() == classes,
        "there are training counts for {} classes, but the model has {classes}",
        info.counts.len()
    );
    ensure!(
        info.names.is_empty() || info.names.len() == classes,
        "there are names for {} classes, but the model has {classes}",
        info.names.len()
    );
    ensure!(matches!(request.residual_bits, 8 | 16), "the residual stream has 8 or 16 bits");
    ensure!(
        request.fine.reads.is_empty() || request.residual_bits == 16,
        "convolutions can only read 16 bits where the residual stream has 16 bits"
    );
    let program = program::Program::new(request.network, &request.fine.reads)?;
    let quants = quant::choose(&program, request.table, request.residual_bits)?;
    emit::sections(request, &program, &quants, rounding)
}

/// Bytes of the arena that the artifact of this request will need.
///
/// # Errors
/// As [`compile`].
pub fn arena_len(request: &Request<'_>) -> Result<usize> {
    let program = program::Program::new(request.network, &request.fine.reads)?;
    let quants = quant::choose(&program, request.table, request.residual_bits)?;
    Ok(places::place(request, &program, &quants, request.target.layout())?.arena)
}

/// Scratch memory of the convolution kernels that can run `layout`: the artifact must suit all of them.
fn scratch_len(shapes: &[ConvShape], layout: Layout) -> usize {
    let kernels = BACKENDS.iter().filter(|b| b.layout == layout);
    kernels.flat_map(|b| shapes.iter().map(|s| (b.conv.scratch_len)(s))).max().unwrap_or(0)
}
