//! Cuts the activations' graph into a stem and experts.
//!
//! The stem ends at the last activation that every path from the image to every expert's pooling goes through: the
//! closest common dominator. Whatever several experts need behind it (an exporter that merges equal nodes makes them
//! share parameter-free shortcuts) is computed by each of them.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, ensure};

use super::lift::Lifted;
use super::value::PlaneId;
use crate::network::{Node, Op, Part};

/// Longest name of a node.
const MAX_NAME: usize = 160;

/// Stem and trunks.
pub(super) struct Parts {
    pub(super) stem: Part,
    pub(super) trunks: Vec<Part>,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
}

/// Cuts the graph for experts whose trunks end at `ends`; with `cut`, the stem ends there.
///
/// # Errors
/// If an end does not depend on the cut.
pub(super) fn cut(lifted: &Lifted, ends: &[PlaneId], cut: Option<PlaneId>) -> Result<Parts> {
    let at = match (cut, ends) {
        (Some(at), _) => at,
        (None, [end]) => first_stage(lifted, *end),
        _ => common_dominator(lifted, ends),
    };
    let mut names = Names::default();
    let stem = part(lifted, "stem", (0, at), &mut names)?;
    let mut trunks = Vec::new();
    for (index, &end) in ends.iter().enumerate() {
        trunks.push(part(lifted, &format!("expert{index}"), (at, end), &mut names)?);
    }
    let warnings = repeated(lifted, at, ends);
    Ok(Parts { stem, trunks, warnings })
}

/// A stem for a lone expert: it ends with the first activation function or pooling that everything goes through and that
/// no addition reads, because a residual must belong to the part that overwrites it. The image if there is none.
fn first_stage(lifted: &Lifted, end: PlaneId) -> PlaneId {
    let dominator = dominators(lifted);
    let chain = std::iter::successors(Some(end), |&plane| (plane > 0).then(|| dominator[plane]));
    let added = |plane| lifted.steps.iter().any(|step| step.op == Op::Add && step.inputs.contains(&plane));
    let ends_stage = |&plane: &PlaneId| {
        let op = plane.checked_sub(1).map(|index| &lifted.steps[index].op);
        plane != end && !added(plane) && matches!(op, Some(Op::Relu | Op::Clamp { .. } | Op::MaxPool { .. }))
    };
    chain.filter(ends_stage).last().unwrap_or(0)
}

/// The closest activation that dominates all `ends`: on every path from the image to each of them.
fn common_dominator(lifted: &Lifted, ends: &[PlaneId]) -> PlaneId {
    let dominator = dominators(lifted);
    ends.iter().copied().reduce(|a, b| meet(&dominator, a, b)).unwrap_or(0)
}

/// The closest common dominator of two activations, from each one's own.
fn meet(dominator: &[PlaneId], mut a: PlaneId, mut b: PlaneId) -> PlaneId {
    while a != b {
        if a > b {
            a = dominator[a];
        } else {
            b = dominator[b];
        }
    }
    a
}

/// Immediate dominators; operands come before what is made of them, so one pass is enough.
fn dominators(lifted: &Lifted) -> Vec<PlaneId> {
    let mut dominator = vec![0; lifted.shapes.len()];
    for (index, step) in lifted.steps.iter().enumerate() {
        let joined = step.inputs.iter().copied().reduce(|a, b| meet(&dominator, a, b));
        dominator[index + 1] = joined.unwrap_or(0);
    }
    dominator
}

/// Steps that `end` needs behind `start`, in order.
fn needed(lifted: &Lifted, start: PlaneId, end: PlaneId) -> BTreeSet<PlaneId> {
    let mut found = BTreeSet::new();
    let mut open = vec![end];
    while let Some(plane) = open.pop() {
        if plane != start && plane > 0 && found.insert(plane) {
            open.extend(&lifted.steps[plane - 1].inputs);
        }
    }
    found
}

/// The steps from activation `start` to `end` as a part.
fn part(lifted: &Lifted, name: &str, (start, end): (PlaneId, PlaneId), names: &mut Names) -> Result<Part> {
    let planes = needed(lifted, start, end);
    let mut values: HashMap<PlaneId, usize> = HashMap::from([(start, 0)]);
    let mut nodes = Vec::new();
    for &plane in &planes {
        let step = &lifted.steps[plane - 1];
        let inputs = step.inputs.iter().map(|input| values.get(input).copied()).collect::<Option<Vec<_>>>();
        let inputs =
            inputs.with_context(|| format!("{name}: {} reads the image beside the stem's output", step.name))?;
        nodes.push(Node { name: names.unique(name, &step.name), op: step.op.clone(), inputs });
        values.insert(plane, nodes.len());
    }
    ensure!(values.get(&end) == Some(&nodes.len()), "{name} does not end with its last operation");
    Ok(Part { name: name.to_owned(), nodes })
}

/// Says what several experts compute that a graph engine would compute once.
fn repeated(lifted: &Lifted, at: PlaneId, ends: &[PlaneId]) -> Vec<String> {
    let mut users = vec![0usize; lifted.shapes.len()];
    for &end in ends {
        needed(lifted, at, end).into_iter().for_each(|plane| users[plane] += 1);
    }
    let costly = |plane: &usize| matches!(lifted.steps[plane - 1].op, Op::Conv(_)) && users[*plane] > 1;
    let shared: Vec<usize> = (1..users.len()).filter(costly).collect();
    let Some(first) = shared.first() else { return Vec::new() };
    vec![format!(
        "{} convolutions (the first is {}) are shared by some experts but cannot belong to the stem; each of these experts \
         computes them",
        shared.len(),
        lifted.steps[first - 1].name
    )]
}

/// Names of nodes, each once.
#[derive(Default)]
struct Names {
    used: BTreeSet<String>,
}

impl Names {
    fn unique(&mut self, part: &str, name: &str) -> String {
        let plain = |c: char| if c.is_control() || c.is_whitespace() { '_' } else { c };
        // The exporter writes paths, /layer1/layer1.0/conv1/Conv: the last module and the operator say enough.
        let pieces: Vec<&str> = name.split('/').filter(|piece| !piece.is_empty()).collect();
        let short = pieces[pieces.len().saturating_sub(3)..].join("/");
        let short: String = short.chars().map(plain).take(MAX_NAME).collect();
        let base = format!("{part}.{short}");
        let mut name = base.clone();
        let mut number = 2;
        while !self.used.insert(name.clone()) {
            name = format!("{base}#{number}");
            number += 1;
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Shape;

    /// Steps that read the given activations.
    fn lifted(inputs: &[&[PlaneId]]) -> Lifted {
        let mut lifted = Lifted::new(Shape { height: 4, width: 4, channels: 2 });
        for (index, inputs) in inputs.iter().enumerate() {
            let op = if inputs.len() == 2 { Op::Add } else { Op::Relu };
            lifted.push(&format!("n{}", index + 1), op, inputs.to_vec()).unwrap();
        }
        lifted
    }

    fn names(part: &Part) -> Vec<&str> {
        part.nodes.iter().map(|node| node.name.as_str()).collect()
    }

    #[test]
    fn the_stem_ends_where_experts_part() {
        let lifted = lifted(&[&[0], &[1], &[2], &[3], &[2]]);
        let parts = cut(&lifted, &[4, 5], None).unwrap();
        assert_eq!(names(&parts.stem), ["stem.n1", "stem.n2"]);
        assert_eq!(names(&parts.trunks[0]), ["expert0.n3", "expert0.n4"]);
        assert_eq!(names(&parts.trunks[1]), ["expert1.n5"]);
    }

    #[test]
    fn what_is_shared_beside_the_stem_is_repeated() {
        // Both experts add n2 (of n1) to something made of n1: only n1 dominates.
        let lifted = lifted(&[&[0], &[1], &[1], &[3, 2], &[1], &[5, 2]]);
        let parts = cut(&lifted, &[4, 6], None).unwrap();
        assert_eq!(names(&parts.stem), ["stem.n1"]);
        assert_eq!(names(&parts.trunks[0]), ["expert0.n2", "expert0.n3", "expert0.n4"]);
        assert_eq!(names(&parts.trunks[1]), ["expert1.n2", "expert1.n5", "expert1.n6"]);
        assert_eq!(parts.trunks[0].nodes[2].inputs, [2, 1]);
    }

    #[test]
    fn separate_experts_have_an_empty_stem() {
        let lifted = lifted(&[&[0], &[1], &[0], &[3]]);
        let parts = cut(&lifted, &[2, 4], None).unwrap();
        assert!(parts.stem.nodes.is_empty());
        assert_eq!(names(&parts.trunks[1]), ["expert1.n3", "expert1.n4"]);
    }

    #[test]
    fn names_are_unique() {
        let mut names = Names::default();
        assert_eq!(names.unique("stem", "/a/b/c/Conv"), "stem.b/c/Conv");
        assert_eq!(names.unique("stem", "/x/b/c/Conv"), "stem.b/c/Conv#2");
    }
}
