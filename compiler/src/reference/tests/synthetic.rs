//! Small random networks and images.

use crate::network::{Conv, Expert, Head, Input, Network, Node, Op, Part, Router, Routing, Shape};

/// A small multiplicative generator; its numbers only have to be varied.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// In -1..1.
    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    pub(crate) fn many(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * scale).collect()
    }
}

/// Attributes of a convolution in the order kernel, stride, padding, groups.
pub(crate) fn conv(random: &mut Random, channels: [usize; 2], [kernel, stride, padding, groups]: [usize; 4]) -> Op {
    let [in_channels, out_channels] = channels;
    let depth = kernel * kernel * in_channels / groups;
    let weight = random.many(out_channels * depth, (2.0 / depth as f32).sqrt());
    let bias = random.many(out_channels, 0.5);
    Op::Conv(Conv { weight, bias, out_channels, in_channels, kernel, stride, padding, groups })
}

pub(crate) fn node(name: &str, op: Op, inputs: &[usize]) -> Node {
    Node { name: name.into(), op, inputs: inputs.to_vec() }
}

/// A residual network with every operation, values that live long and values that are overwritten.
pub(crate) fn network(experts: usize, normalize: bool) -> Network {
    let mut random = Random(experts as u64);
    let stem = vec![
        node("stem.conv1", conv(&mut random, [3, 8], [7, 2, 3, 1]), &[0]),
        node("stem.relu1", Op::Relu, &[1]),
        node("stem.pool", Op::MaxPool { kernel: 3, stride: 2, padding: 1 }, &[2]),
        node("stem.conv2", conv(&mut random, [8, 8], [3, 1, 1, 4]), &[3]),
        node("stem.add", Op::Add, &[4, 3]),
        node("stem.relu2", Op::Relu, &[5]),
    ];
    let trunk = |random: &mut Random, name: &str| {
        let named = |suffix: &str| format!("{name}.{suffix}");
        let nodes = vec![
            node(&named("conv1"), conv(random, [8, 12], [3, 2, 1, 1]), &[0]),
            node(&named("relu1"), Op::Relu, &[1]),
            node(&named("conv2"), conv(random, [12, 12], [1, 1, 0, 1]), &[2]),
            node(&named("shortcut"), Op::Shortcut { stride: 2, before: 2, after: 2 }, &[0]),
            node(&named("add1"), Op::Add, &[4, 3]),
            node(&named("add2"), Op::Add, &[5, 2]),
            node(&named("twice"), Op::Add, &[6, 6]),
            node(&named("relu2"), Op::Relu, &[7]),
        ];
        Part { name: name.into(), nodes }
    };
    let classes = 7;
    let expert = |random: &mut Random, index: usize| {
        let trunk = trunk(random, &format!("expert{index}"));
        let (weight, bias) = (random.many(classes * 12, 4.0), random.many(classes, 1.0));
        Expert { trunk, head: Head { weight, bias, features: 12, normalize, divisor: (index + 1) as f32 } }
    };
    let router = |random: &mut Random| Router {
        hidden_weight: random.many(5 * 12, 1.0),
        hidden_bias: random.many(5, 0.2),
        top_k: 3,
        fc_weight: random.many(8, 1.0),
        fc_bias: random.next(),
        threshold: 0.0,
    };
    Network {
        arch: "synthetic".into(),
        input: Input {
            shape: Shape { height: 19, width: 23, channels: 3 },
            mean: vec![0.49, 0.48, 0.45],
            std: vec![0.2, 0.25, 0.3],
        },
        classes,
        stem: Part { name: "stem".into(), nodes: stem },
        experts: (0..experts).map(|i| expert(&mut random, i)).collect(),
        routing: Routing::Assignment((1..experts).map(|_| router(&mut random)).collect()),
    }
}

pub(crate) fn pixels(network: &Network, seed: u64) -> Vec<u8> {
    Random(seed).many(network.input.shape.len(), 128.0).iter().map(|x| (x + 128.0) as u8).collect()
}
