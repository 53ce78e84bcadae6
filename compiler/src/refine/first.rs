//! First activations that are computed twice, so that they are read in steps of their own.
//!
//! All values of a residual stream share one scale, and the first of them is often the smallest: what the first
//! convolution makes of the pixels. It is read in steps that are far too coarse, by the block that everything behind
//! depends on. Pixels are always there and that convolution is small, so it runs twice: once with 8 bits in a scale of its
//! own for the convolution that reads it, and again, when it is needed there, into the residual stream. The two never live
//! at the same time, so the arena does not grow.

use anyhow::Result;
use ride_calibrate::table::CalibrationTable;

use super::{RESCALED, streams::GROWTH};
use crate::lower::{Request, arena_len, rounding::residual_streams};
use crate::network::{Network, Node, Op, Part, Shape, ValueId};

/// The second run may take one of so many multiply-accumulates.
const SHARE: u64 = 64;

/// Doubles first convolutions; `None` where nothing is to be gained.
///
/// # Errors
/// If the network cannot be compiled.
pub(super) fn twice(request: &Request<'_>) -> Result<Option<(Network, CalibrationTable)>> {
    // With 8 bits the stream's own values are coarse wherever they are read.
    if request.residual_bits != 16 {
        return Ok(None);
    }
    let arena = arena_len(request)?;
    let mut found = None::<(Network, CalibrationTable)>;
    for stream in residual_streams(request.network)? {
        let (network, table) = found.as_ref().map_or((request.network, request.table), |(n, t)| (n, t));
        let span = |name: &String| table.values.get(name).map_or(0.0, |v| v.max - v.min);
        let largest = stream.iter().map(span).fold(0.0, f32::max);
        let Some(first) = stream.first().filter(|first| largest >= GROWTH * span(first)) else { continue };
        if readers(network, first).all(|reader| request.fine.reads.contains(reader)) {
            continue;
        }
        let Some(network) = doubled(network, first) else { continue };
        let mut table = table.clone();
        let Some(range) = table.values.get(first).cloned() else { continue };
        table.values.insert(format!("{first}{RESCALED}"), range);
        if arena_len(&Request { network: &network, table: &table, ..*request })? <= arena {
            found = Some((network, table));
        }
    }
    Ok(found)
}

/// Names of the convolutions that read the value `name` of the stem or of an expert within that part.
fn readers<'n>(network: &'n Network, name: &str) -> impl Iterator<Item = &'n str> {
    let mut parts = std::iter::once(&network.stem).chain(network.experts.iter().map(|expert| &expert.trunk));
    let found = parts.find_map(|part| Some((part, part.nodes.iter().position(|node| node.name == name)? + 1)));
    let read = move |(part, value): (&'n Part, usize)| {
        let convs = part.nodes.iter().filter(|node| matches!(node.op, Op::Conv(_)));
        convs.filter(move |node| node.inputs.contains(&value)).map(|node| &node.name[..])
    };
    found.into_iter().flat_map(read)
}

/// The network in which the value `first` of a part that reads the image is computed again for its addition.
fn doubled(network: &Network, first: &str) -> Option<Network> {
    let mut doubled = network.clone();
    let most = network.macs() / SHARE;
    if let Some(done) = double(&mut doubled.stem, network.input.shape, first, most) {
        return done.then_some(doubled);
    }
    // Without a stem the experts read the image.
    let experts = doubled.experts.iter_mut().filter(|_| network.stem.nodes.is_empty());
    let done = experts.map(|expert| double(&mut expert.trunk, network.input.shape, first, most));
    done.flatten().any(|done| done).then_some(doubled)
}

/// `None` if the part has no such value, otherwise whether it is computed twice now.
fn double(part: &mut Part, image: Shape, first: &str, most: u64) -> Option<bool> {
    let relu = part.nodes.iter().position(|node| node.name == first)?;
    let value = relu + 1;
    let conv = part.nodes[relu].inputs[0];
    let readers = |value: ValueId| part.nodes.iter().enumerate().filter(move |(_, n)| n.inputs.contains(&value));
    let fits = matches!(part.nodes[relu].op, Op::Relu | Op::Clamp { .. })
        && conv == relu
        && readers(conv).count() == 1
        && part.nodes[conv - 1].inputs == [0]
        && part.shapes(image).is_some_and(|shapes| (1..=most).contains(&part.nodes[conv - 1].op.macs(shapes[conv])));
    let others: Vec<_> = readers(value).filter(|(_, node)| !matches!(node.op, Op::Conv(_))).collect();
    let [(add, Node { op: Op::Add, .. })] = others[..] else { return Some(false) };
    if !fits || value == part.output() || readers(value).any(|(reader, _)| reader > add) {
        return Some(false);
    }
    let again = |node: &Node, inputs| Node { name: format!("{}{RESCALED}", node.name), op: node.op.clone(), inputs };
    let copies = [again(&part.nodes[conv - 1], vec![0]), again(&part.nodes[relu], vec![add + 1])];
    for node in &mut part.nodes[add..] {
        node.inputs.iter_mut().filter(|id| **id > add).for_each(|id| *id += copies.len());
    }
    part.nodes[add].inputs.iter_mut().filter(|id| **id == value).for_each(|id| *id = add + copies.len());
    part.nodes.splice(add..add, copies);
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::tests::synthetic::{self, Random, conv, node};
    use crate::reference::{Executor, Image, Policy, Scratch};

    /// A residual block right behind the first convolution.
    fn network() -> Network {
        let mut random = Random(9);
        let mut network = synthetic::network(2, true);
        network.stem.nodes = vec![
            node("stem.conv1", conv(&mut random, [3, 8], [3, 4, 1, 1]), &[0]),
            node("stem.relu1", Op::Relu, &[1]),
            node("stem.conv2", conv(&mut random, [8, 64], [5, 1, 2, 1]), &[2]),
            node("stem.relu2", Op::Relu, &[3]),
            node("stem.conv3", conv(&mut random, [64, 8], [3, 1, 1, 1]), &[4]),
            node("stem.add", Op::Add, &[5, 2]),
            node("stem.relu3", Op::Relu, &[6]),
        ];
        network
    }

    #[test]
    fn a_second_run_changes_no_value() {
        let network = network();
        let doubled = doubled(&network, "stem.relu1").expect("the addition reads the first activation");
        let names: Vec<&str> = doubled.stem.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names[5..], ["stem.conv1.rescaled", "stem.relu1.rescaled", "stem.add", "stem.relu3"]);
        assert_eq!(doubled.stem.nodes[7].inputs, [5, 7]);
        let pixels = synthetic::pixels(&network, 3);
        let run = |network: &Network| {
            let executor = Executor::new(network).unwrap();
            executor.forward(Image::Pixels(&pixels), Policy::All, &mut Scratch::default(), None).unwrap()
        };
        assert_eq!(run(&doubled), run(&network));
    }

    #[test]
    fn only_what_the_image_makes_with_little_work_is_doubled() {
        let network = network();
        for name in ["stem.relu2", "stem.relu3", "expert0.relu1"] {
            assert!(doubled(&network, name).is_none(), "{name}");
        }
        // The pooling between them reads the activation.
        assert!(doubled(&synthetic::network(2, true), "stem.relu1").is_none());
        let mut heavy = network;
        let Op::Conv(conv) = &mut heavy.stem.nodes[0].op else { panic!("a convolution") };
        (conv.kernel, conv.padding) = (31, 15);
        conv.weight = vec![0.0; 8 * 31 * 31 * 3];
        assert!(doubled(&heavy, "stem.relu1").is_none());
    }
}
