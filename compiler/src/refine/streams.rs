//! Residual streams cut in two where their values grow.
//!
//! All values of a residual stream share one scale, because they add up in place. The last sum before pooling is often far
//! larger than those before it, and convolutions then read all of them with coarser steps than they need. A shortcut with
//! stride 1 copies the residual from the scale of the values before to that of the values behind it, with 16 bits, so
//! nothing is lost. It needs memory for both streams, so it is only put where the arena does not grow.

use anyhow::Result;
use ride_calibrate::table::CalibrationTable;

use super::RESCALED;
use crate::lower::{Request, arena_len, rounding::residual_streams};
use crate::network::{Network, Node, Op, Part};

/// How many times larger the values behind a cut must be than those before it.
pub(super) const GROWTH: f32 = 1.15;

/// How much wider the range of a value may be that is only read with 16 bits.
const WIDER: f32 = 2.0;

/// Cuts streams; `None` where nothing is to be gained.
///
/// # Errors
/// If the network cannot be compiled.
pub(super) fn cut(request: &Request<'_>) -> Result<Option<(Network, CalibrationTable)>> {
    // With 8 bits the copy would round once more than it saves.
    if request.residual_bits != 16 {
        return Ok(None);
    }
    let arena = arena_len(request)?;
    let mut found = None::<(Network, CalibrationTable)>;
    for stream in residual_streams(request.network)? {
        let (network, table) = found.as_ref().map_or((request.network, request.table), |(n, t)| (n, t));
        let Some(last) = place(table, &stream) else { continue };
        let Some((network, mut table)) = with_copy(network, table, last) else { continue };
        let behind = stream.iter().skip_while(|name| *name != last).skip(1);
        if !behind.clone().any(|name| is_convolved(&network, name)) {
            behind.for_each(|name| widen(&mut table, name));
        }
        if arena_len(&Request { network: &network, table: &table, ..*request })? <= arena {
            found = Some((network, table));
        }
    }
    Ok(found)
}

/// The value of a stream behind which it is best cut: where the most values get the most smaller.
fn place<'s>(table: &CalibrationTable, stream: &'s [String]) -> Option<&'s str> {
    let spans: Vec<f32> = stream.iter().filter_map(|name| table.values.get(name)).map(|v| v.max - v.min).collect();
    let largest = |spans: &[f32]| spans.iter().copied().fold(0.0, f32::max);
    let mut best = (0.0, None);
    for n in 1..spans.len() {
        let (before, behind) = (largest(&spans[..n]), largest(&spans[n..]));
        // The variance of rounding goes with the square of the span.
        let gain = n as f32 * (1.0 - (before / behind).powi(2));
        if behind >= GROWTH * before && gain > best.0 {
            best = (gain, Some(stream[n - 1].as_str()));
        }
    }
    best.1
}

/// Whether a convolution reads the value `name`, which it does with 8 bits.
fn is_convolved(network: &Network, name: &str) -> bool {
    let parts = std::iter::once(&network.stem).chain(network.experts.iter().map(|expert| &expert.trunk));
    let reads = |part: &Part, value: usize| {
        part.nodes.iter().any(|node| matches!(node.op, Op::Conv(_)) && node.inputs.contains(&value))
    };
    let stem = network.stem.nodes.last().is_some_and(|node| node.name == name);
    let own = |part: &Part| part.nodes.iter().position(|node| node.name == name).is_some_and(|n| reads(part, n + 1));
    parts.into_iter().any(own) || stem && network.experts.iter().any(|expert| reads(&expert.trunk, 0))
}

/// Gives a value whose 16 bits are all read a range that cuts off nothing.
pub(super) fn widen(table: &mut CalibrationTable, name: &str) {
    if let Some(range) = table.values.get_mut(name) {
        (range.min, range.max) = (WIDER * range.min, WIDER * range.max);
    }
}

/// The network with a copy of the value `name` for the addition that takes it as its residual.
fn with_copy(network: &Network, table: &CalibrationTable, name: &str) -> Option<(Network, CalibrationTable)> {
    let (mut network, mut table) = (network.clone(), table.clone());
    let parts = std::iter::once(&mut network.stem).chain(network.experts.iter_mut().map(|expert| &mut expert.trunk));
    let copy = parts.into_iter().find_map(|part| insert(part, name))?;
    let range = table.values.get(name)?.clone();
    table.values.insert(copy, range);
    Some((network, table))
}

/// Inserts the copy before the addition; returns its name.
fn insert(part: &mut Part, name: &str) -> Option<String> {
    let value = part.nodes.iter().position(|node| node.name == name)? + 1;
    let add = part.nodes.iter().position(|node| node.op == Op::Add && node.inputs.contains(&value))?;
    for node in &mut part.nodes[add..] {
        node.inputs.iter_mut().filter(|id| **id > add).for_each(|id| *id += 1);
    }
    let residual = part.nodes[add].inputs.iter_mut().find(|id| **id == value)?;
    *residual = add + 1;
    let copy = format!("{name}{RESCALED}");
    let op = Op::Shortcut { stride: 1, before: 0, after: 0 };
    part.nodes.insert(add, Node { name: copy.clone(), op, inputs: vec![value] });
    Some(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::tests::synthetic;
    use crate::reference::{Executor, Image, Policy, Scratch};

    #[test]
    fn a_copy_changes_no_value() {
        let network = synthetic::network(2, true);
        let pixels = synthetic::pixels(&network, 3);
        let run = |network: &Network| {
            let executor = Executor::new(network).unwrap();
            executor.forward(Image::Pixels(&pixels), Policy::All, &mut Scratch::default(), None).unwrap()
        };
        let before = run(&network);
        for name in ["stem.pool", "expert0.shortcut", "expert1.add1"] {
            let mut network = network.clone();
            let parts = std::iter::once(&mut network.stem).chain(network.experts.iter_mut().map(|e| &mut e.trunk));
            let copy = parts.into_iter().find_map(|part| insert(part, name)).expect("an addition reads the value");
            assert!(copy.starts_with(name));
            assert_eq!(run(&network), before);
        }
    }
}
