//! An ONNX graph without the protobuf around it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use anyhow::{Context, Result, bail, ensure};

use super::tensor::Tensor;

/// A graph whose nodes are in an order in which they can be computed, without those that no output needs.
#[derive(Clone, Debug)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    /// Initializers by name.
    pub(super) constants: HashMap<String, Tensor>,
    pub(super) inputs: Vec<InputInfo>,
    pub(super) outputs: Vec<String>,
    /// Version of the standard operators.
    pub(super) opset: i64,
    /// Who wrote the file.
    pub(super) producer: String,
    /// Operators of all nodes, also of those that no output needs.
    pub(super) operators: Vec<(String, String)>,
}

/// A graph's input: its name and sides, `None` where they are open.
#[derive(Clone, Debug)]
pub(super) struct InputInfo {
    pub(super) name: String,
    pub(super) shape: Vec<Option<usize>>,
}

/// One operation.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Name, or that of the first output if it has none.
    pub(super) name: String,
    /// Operator.
    pub(super) op: String,
    /// Operands; an empty name is an omitted one.
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) attributes: BTreeMap<String, Attribute>,
}

/// Value of an attribute.
#[derive(Clone, Debug)]
pub(super) enum Attribute {
    Int(i64),
    Float(f32),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Text(String),
    Tensor(Tensor),
    /// A kind that no operator of a classifier has, such as a graph.
    Other,
}

impl Node {
    pub(super) fn int(&self, name: &str, default: i64) -> Result<i64> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(value)) => Ok(*value),
            Some(_) => bail!("its attribute {name} is no integer"),
        }
    }

    pub(super) fn float(&self, name: &str, default: f32) -> Result<f32> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) => Ok(*value),
            Some(_) => bail!("its attribute {name} is no number"),
        }
    }

    pub(super) fn ints(&self, name: &str) -> Result<Option<Vec<i64>>> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values.clone())),
            Some(_) => bail!("its attribute {name} is no list of integers"),
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.attributes.get(name) {
            Some(Attribute::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// For messages: `node "relu_3" (Relu)`.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {:?} ({})", shortened(&self.name), self.op)
    }
}

/// Names of hostile files may be long.
pub(super) fn shortened(name: &str) -> String {
    if name.chars().count() <= 100 { name.to_owned() } else { name.chars().take(97).chain("...".chars()).collect() }
}

impl Graph {
    /// Orders the nodes, drops those that no output needs and checks that every operand is defined exactly once.
    ///
    /// # Errors
    /// Names the value that is missing, defined twice, or depends on itself.
    pub(super) fn ordered(mut self) -> Result<Self> {
        self.operators = self.nodes.iter().map(|node| (node.op.clone(), node.name.clone())).collect();
        let mut maker: HashMap<&str, usize> = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for output in node.outputs.iter().filter(|name| !name.is_empty()) {
                let twice = maker.insert(output, index).is_some() || self.constants.contains_key(output);
                ensure!(!twice, "{node}: its output {output:?} is defined a second time");
            }
        }
        let known = |name: &str| self.constants.contains_key(name) || self.inputs.iter().any(|i| i.name == name);
        let mut order = Vec::new();
        // 0: not seen, 1: its operands are being visited, 2: done.
        let mut state = vec![0u8; self.nodes.len()];
        for output in &self.outputs {
            ensure!(
                maker.contains_key(output.as_str()) || known(output),
                "the output {output:?} is computed by no node"
            );
            let mut stack: Vec<usize> = maker.get(output.as_str()).copied().into_iter().collect();
            while let Some(&index) = stack.last() {
                let node = &self.nodes[index];
                if state[index] == 0 {
                    state[index] = 1;
                    for name in node.inputs.iter().filter(|name| !name.is_empty()) {
                        match maker.get(name.as_str()) {
                            Some(&before) if state[before] == 0 => stack.push(before),
                            Some(&before) => ensure!(state[before] == 2, "{node}: it depends on its own result"),
                            None => ensure!(known(name), "{node}: its operand {name:?} is computed by no node"),
                        }
                    }
                    continue;
                }
                stack.pop();
                if state[index] == 1 {
                    state[index] = 2;
                    order.push(index);
                }
            }
        }
        let mut nodes: Vec<Option<Node>> = self.nodes.drain(..).map(Some).collect();
        let ordered = order.into_iter().map(|index| nodes[index].take().context("a node is ordered twice"));
        self.nodes = ordered.collect::<Result<_>>()?;
        Ok(self)
    }

    /// Whether any node, needed or not, has one of these operators; the first such node's operator and name.
    pub(super) fn find_operator(&self, names: &[&str]) -> Option<(&str, &str)> {
        let found = self.operators.iter().find(|(op, _)| names.contains(&op.as_str()));
        found.map(|(op, name)| (op.as_str(), name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, inputs: &[&str], output: &str) -> Node {
        Node {
            name: output.to_owned(),
            op: op.to_owned(),
            inputs: inputs.iter().map(|s| (*s).to_owned()).collect(),
            outputs: vec![output.to_owned()],
            attributes: BTreeMap::new(),
        }
    }

    fn graph(nodes: Vec<Node>) -> Graph {
        let inputs = vec![InputInfo { name: "x".into(), shape: vec![] }];
        let (constants, outputs) = (HashMap::new(), vec!["y".to_owned()]);
        Graph { nodes, constants, inputs, outputs, opset: 17, producer: String::new(), operators: Vec::new() }
    }

    #[test]
    fn orders_and_prunes() {
        let g = graph(vec![
            node("C", &["b"], "y"),
            node("Dead", &["x"], "z"),
            node("B", &["a"], "b"),
            node("A", &["x"], "a"),
        ]);
        let g = g.ordered().unwrap();
        let ops: Vec<&str> = g.nodes.iter().map(|n| n.op.as_str()).collect();
        assert_eq!(ops, ["A", "B", "C"]);
        assert_eq!(g.find_operator(&["Dead"]), Some(("Dead", "z")));
    }

    #[test]
    fn refuses_loops_gaps_and_doubles() {
        let fails = |nodes: Vec<Node>, what: &str| {
            let error = graph(nodes).ordered().unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        fails(vec![node("A", &["b"], "y"), node("B", &["y"], "b")], "its own result");
        fails(vec![node("A", &["y"], "y")], "its own result");
        fails(vec![node("A", &["q"], "y")], "\"q\" is computed by no node");
        fails(vec![node("A", &["x"], "y"), node("B", &["x"], "y")], "second time");
        fails(vec![], "\"y\" is computed by no node");
    }
}
