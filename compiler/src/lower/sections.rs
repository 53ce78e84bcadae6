//! Sections: of parts in the making, and of finished artifacts that are taken apart and put together again.

use anyhow::{Context, Result};
use ride_runtime::Model;
use ride_runtime::format::header::Kind;
use ride_runtime::format::record::{PART_HEAD, RECORD_LEN, ROUTER_HEAD, encode};
use ride_runtime::format::writer::{Section, write};
use ride_runtime::op::{self, Dense, Span};

/// Constants of vector kernels start at multiples of this.
const WEIGHT_ALIGN: usize = 64;
/// All others do at multiples of this.
const ALIGN: usize = 4;

/// A part's section in the making: operations, and constants behind them.
pub(super) struct PartWriter {
    /// Operations in their order.
    pub(super) records: Vec<op::Step>,
    constants: Vec<u8>,
    first: usize,
    /// Weights that were written last.
    weights: Option<Span>,
}

impl PartWriter {
    /// For stem or expert with `count` operations.
    pub(super) fn new(count: usize) -> Self {
        PartWriter { records: Vec::new(), constants: Vec::new(), first: PART_HEAD + count * RECORD_LEN, weights: None }
    }

    /// For a router.
    pub(super) fn router() -> Self {
        PartWriter { records: Vec::new(), constants: Vec::new(), first: ROUTER_HEAD, weights: None }
    }

    /// Packed weights. Those of the operation before are not stored again: a convolution that reads 16 bits runs twice.
    pub(super) fn weights(&mut self, bytes: &[u8]) -> Result<Span> {
        let stored = |span: Span| self.constants.get(span.at as usize - self.first..)?.get(..span.len as usize);
        if let Some(span) = self.weights.filter(|&span| stored(span) == Some(bytes)) {
            return Ok(span);
        }
        let span = self.constant(bytes, WEIGHT_ALIGN)?;
        self.weights = Some(span);
        Ok(span)
    }

    /// Parameter arrays.
    pub(super) fn params(&mut self, bytes: &[u8]) -> Result<Span> {
        self.constant(bytes, ALIGN)
    }

    /// Weights and parameters of a dense layer.
    pub(super) fn dense(&mut self, dense: &mut Dense, weights: &[u8], params: &[u8]) -> Result<()> {
        dense.weights = self.weights(weights)?;
        dense.params = self.params(params)?;
        Ok(())
    }

    fn constant(&mut self, bytes: &[u8], align: usize) -> Result<Span> {
        let at = (self.first + self.constants.len()).next_multiple_of(align);
        self.constants.resize(at - self.first, 0);
        self.constants.extend_from_slice(bytes);
        Ok(Span { at: u32::try_from(at)?, len: u32::try_from(bytes.len())? })
    }

    /// The section of stem or expert.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = vec![0; PART_HEAD];
        out[..4].copy_from_slice(&(self.records.len() as u32).to_le_bytes());
        self.records.iter().for_each(|r| out.extend_from_slice(&encode(r)));
        out.extend(self.constants);
        out
    }

    /// The section of a router.
    pub(super) fn finish_router(self, head: &[u8; ROUTER_HEAD]) -> Vec<u8> {
        [&head[..], &self.constants].concat()
    }
}

/// A section with a content of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnSection {
    /// What it holds.
    pub(crate) kind: Kind,
    /// Number of the expert or router; 0 otherwise.
    pub(crate) index: u16,
    /// Its bytes.
    pub(crate) content: Vec<u8>,
}

/// All sections of a checked artifact.
pub(crate) fn take_apart(model: Model<'_>) -> Vec<OwnSection> {
    let content = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
    let sections = model.sections();
    sections.map(|e| OwnSection { kind: e.kind, index: e.index, content: content(e.slice(model.bytes())) }).collect()
}

/// The artifact made of these sections.
///
/// # Errors
/// If it would be larger than the format's offsets reach.
pub(crate) fn assemble(sections: &[OwnSection]) -> Result<Vec<u8>> {
    let sections: Vec<Section<'_>> =
        sections.iter().map(|s| Section { kind: s.kind, index: s.index, content: &s.content }).collect();
    let mut out = Vec::new();
    write(&sections, &mut out).context("the artifact would be larger than 4 GiB")?;
    Ok(out)
}
