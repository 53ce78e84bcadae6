//! Small routed networks with random weights.

use ride_compiler::network::{
    Confidence, Conv, Expert, Head, Input, Network, Node, Op, Part, Router, Routing, Shape, ValueId,
};
use ride_compiler::reference::{Executor, Image, Policy, Scratch};
use ride_runtime::golden;
use ride_runtime::op::Criterion;

/// A multiplicative congruential generator; its numbers only have to be varied and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Random(seed ^ 0x5DEE_CE66_D1CE_4E5B)
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// Below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }

    /// In -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `count` numbers in `-scale..scale`.
    pub fn many(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.unit() * scale).collect()
    }
}

/// What the residual blocks of an expert are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// Two 3x3 convolutions and parameter-free shortcuts, as in the CIFAR networks.
    Basic,
    /// 1x1, 3x3 and 1x1 convolutions and a projection, as in the ImageNet networks.
    Bottleneck,
    /// The same with the whole stem of these networks (7x7 convolution, max pooling, two blocks) and this many groups, or a
    /// group for each channel where there are fewer channels.
    Next(usize),
    /// The stem of the ImageNet networks in front of two 3x3 convolutions: a residual stream begins at the max pooling.
    Pooled,
}

/// Describes a synthetic network.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Seed of all weights.
    pub seed: u64,
    /// Shape of an image.
    pub input: Shape,
    /// Number of classes.
    pub classes: usize,
    /// Number of experts.
    pub experts: usize,
    /// Whether there are routers.
    pub routed: bool,
    /// Whether classifiers divide features by their norm.
    pub normalize: bool,
    /// Channels of the stem; experts have half as many again.
    pub channels: usize,
    /// The experts' blocks.
    pub blocks: Blocks,
    /// Whether all features are zero.
    pub dead: bool,
    /// Routers without trained layers.
    pub confidence: Option<Criterion>,
    /// Whether later experts count less.
    pub weighted: bool,
    /// Whether experts share nothing, each starting from the image.
    pub separate: bool,
}

impl Recipe {
    /// An artifact of a few KB: 8x8 pixels, 4 and 6 channels, two experts and a router.
    pub fn tiny() -> Self {
        Recipe {
            seed: 1,
            input: Shape { height: 8, width: 8, channels: 3 },
            classes: 5,
            experts: 2,
            routed: true,
            normalize: true,
            channels: 4,
            blocks: Blocks::Basic,
            dead: false,
            confidence: None,
            weighted: false,
            separate: false,
        }
    }

    /// The blocks of the CIFAR networks on odd sizes: 9x7 pixels, 16 and 24 channels, three experts.
    pub fn cifar() -> Self {
        let input = Shape { height: 9, width: 7, channels: 3 };
        Recipe { seed: 2, input, classes: 37, experts: 3, channels: 16, ..Self::tiny() }
    }

    /// The blocks of the ImageNet networks on grey images, classifiers without normalisation.
    pub fn bottleneck() -> Self {
        let input = Shape { height: 13, width: 10, channels: 1 };
        let blocks = Blocks::Bottleneck;
        Recipe { seed: 3, input, classes: 19, channels: 18, blocks, normalize: false, ..Self::tiny() }
    }

    /// ResNeXt in small: 40x37 pixels, groups of 4, 6 and 12 channels.
    pub fn next() -> Self {
        let input = Shape { height: 40, width: 37, channels: 3 };
        Recipe { seed: 5, input, classes: 29, channels: 32, blocks: Blocks::Next(4), experts: 3, ..Self::tiny() }
    }

    /// ResNet-10 in small.
    pub fn pooled() -> Self {
        let input = Shape { height: 22, width: 27, channels: 3 };
        Recipe { seed: 6, input, classes: 11, channels: 16, blocks: Blocks::Pooled, normalize: false, ..Self::tiny() }
    }

    /// Two experts without routers, four input channels, channels that fill no block.
    pub fn unrouted() -> Self {
        let input = Shape { height: 6, width: 11, channels: 4 };
        Recipe { seed: 4, input, classes: 11, routed: false, channels: 10, ..Self::tiny() }
    }

    /// A plain network: one expert.
    pub fn single() -> Self {
        Recipe { seed: 5, experts: 1, routed: false, channels: 8, ..Self::tiny() }
    }

    /// A network whose features are always zero, so that the official router divides zero by zero.
    pub fn dead() -> Self {
        Recipe { seed: 6, dead: true, ..Self::tiny() }
    }

    /// Weighted experts, the next of which runs if the mean logits are not sure enough.
    pub fn unsure(seed: u64, criterion: Criterion) -> Self {
        Recipe { seed, experts: 3, confidence: Some(criterion), weighted: true, classes: 23, ..Self::tiny() }
    }

    /// Experts without a stem.
    pub fn separate() -> Self {
        Recipe { seed: 10, separate: true, channels: 8, ..Self::tiny() }
    }

    /// One of each kind, with a name for messages.
    pub fn all() -> Vec<(&'static str, Self)> {
        vec![
            ("tiny", Self::tiny()),
            ("cifar", Self::cifar()),
            ("bottleneck", Self::bottleneck()),
            ("next", Self::next()),
            ("pooled", Self::pooled()),
            ("unrouted", Self::unrouted()),
            ("single", Self::single()),
            ("dead", Self::dead()),
            ("max-probability", Self::unsure(7, Criterion::MaxProbability)),
            ("margin", Self::unsure(8, Criterion::Margin)),
            ("entropy", Self::unsure(9, Criterion::Entropy)),
            ("separate", Self::separate()),
        ]
    }

    /// The network, the same for the same recipe.
    pub fn network(&self) -> Network {
        let mut random = Random::new(self.seed);
        let wide = self.channels + self.channels / 2;
        let stem = match self.separate {
            true => Part { name: "stem".into(), nodes: Vec::new() },
            false => self.first_layers(&mut random, "stem"),
        };
        let experts: Vec<Expert> = (0..self.experts)
            .map(|i| Expert {
                trunk: self.trunk(&mut random, &format!("expert{i}"), wide),
                head: self.head(&mut random, wide, i),
            })
            .collect();
        let routers = (1..experts.len()).map(|_| self.router(&mut random, wide)).collect();
        let rule = |criterion| Confidence { criterion, threshold: 0.0 };
        let routing = match self.confidence {
            Some(criterion) => Routing::Confidence(vec![rule(criterion); self.experts - 1]),
            None if self.routed => Routing::Assignment(routers),
            None => Routing::None,
        };
        let mean = [0.49, 0.48, 0.45, 0.5][..self.input.channels].to_vec();
        let std = [0.2, 0.25, 0.3, 0.22][..self.input.channels].to_vec();
        let input = Input { shape: self.input, mean, std };
        let mut network = Network { arch: "Synthetic".into(), input, classes: self.classes, stem, experts, routing };
        balance_routers(&mut network);
        network
    }

    fn first_layers(&self, random: &mut Random, name: &str) -> Part {
        let mut part = Builder::new(name, random);
        let (image, channels) = (self.input.channels, self.channels);
        let window = if matches!(self.blocks, Blocks::Next(_) | Blocks::Pooled) { [7, 2] } else { [3, 1] };
        let first = part.conv("conv1", 0, [image, channels], window);
        let mut end = part.relu("relu1", first);
        if window == [7, 2] {
            end = part.node("maxpool", Op::MaxPool { kernel: 3, stride: 2, padding: 1 }, &[end]);
        }
        if let Blocks::Next(groups) = self.blocks {
            end = part.bottleneck("block0", end, [channels, channels], 1, groups);
            part.bottleneck("block1", end, [channels, channels], 1, groups);
        } else {
            part.basic("block", end, [channels, channels], 1);
        }
        part.finish()
    }

    fn trunk(&self, random: &mut Random, name: &str, wide: usize) -> Part {
        let before = if self.separate { self.first_layers(random, name) } else { Part::default() };
        let mut part = Builder::after(before, name, random);
        let start = part.nodes.len();
        let end = match self.blocks {
            Blocks::Basic | Blocks::Pooled => {
                let first = part.basic("block0", start, [self.channels, wide], 2);
                part.basic("block1", first, [wide, wide], 1)
            }
            Blocks::Bottleneck => {
                let first = part.bottleneck("block0", start, [self.channels, wide], 2, 1);
                part.basic("block1", first, [wide, wide], 1)
            }
            Blocks::Next(groups) => {
                let first = part.bottleneck("block0", start, [self.channels, wide], 2, groups);
                part.bottleneck("block1", first, [wide, wide], 1, groups)
            }
        };
        if self.dead {
            // Far below zero, whatever comes through the shortcut: the last ReLU leaves nothing.
            let last = part.basic("block2", end, [wide, wide], 1);
            part.bias_of(last, -1000.0);
        }
        part.finish()
    }

    fn head(&self, random: &mut Random, features: usize, index: usize) -> Head {
        // Weights 1, 1/2, 1/4 and so on, folded into the logits, where experts are weighted.
        let divisor = if self.weighted { 2.0 - 0.5f32.powi(index as i32) } else { (index + 1) as f32 };
        let mut weight = random.many(self.classes * features, 1.0);
        if self.normalize {
            for row in weight.chunks_exact_mut(features) {
                let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt();
                row.iter_mut().for_each(|w| *w *= 30.0 / norm);
            }
        }
        let bias = if self.normalize { vec![0.0; self.classes] } else { random.many(self.classes, 0.5) };
        Head { weight, bias, features, normalize: self.normalize, divisor }
    }

    fn router(&self, random: &mut Random, features: usize) -> Router {
        let (hidden, top_k) = (6, self.classes.min(4));
        Router {
            hidden_weight: random.many(hidden * features, 1.0),
            hidden_bias: random.many(hidden, 0.3),
            top_k,
            fc_weight: random.many(top_k + hidden, 1.0),
            fc_bias: 0.0,
            threshold: 0.0,
        }
    }
}

/// Moves each router's bias or threshold so that it wants another expert for about half of the pictures.
fn balance_routers(network: &mut Network) {
    let executor = Executor::new(network).expect("a recipe makes a sound network");
    let mut scores = vec![Vec::new(); network.routing.routers()];
    let mut scratch = Scratch::default();
    for seed in 0..33 {
        let mut pixels = vec![0; network.input.shape.len()];
        golden::image(seed, (network.input.shape.width, network.input.shape.channels), &mut pixels);
        let forward = executor.forward(Image::Pixels(&pixels), Policy::All, &mut scratch, None);
        let forward = forward.expect("the picture has the network's size");
        scores.iter_mut().zip(&forward.scores).for_each(|(all, &score)| all.push(score));
    }
    let middle = |mut scores: Vec<f32>| {
        scores.retain(|s| s.is_finite());
        scores.sort_by(f32::total_cmp);
        scores.get(scores.len() / 2).copied().unwrap_or(0.0)
    };
    let middles = scores.into_iter().map(middle);
    match &mut network.routing {
        Routing::None => {}
        Routing::Assignment(routers) => routers.iter_mut().zip(middles).for_each(|(r, m)| r.fc_bias -= m),
        Routing::Confidence(rules) => rules.iter_mut().zip(middles).for_each(|(r, m)| r.threshold = m),
    }
}

/// Picture number `seed` for a network.
pub fn picture(network: &Network, seed: u32) -> Vec<u8> {
    let shape = network.input.shape;
    let mut pixels = vec![0; shape.len()];
    golden::image(seed, (shape.width, shape.channels), &mut pixels);
    pixels
}

/// A part in the making; every method adds nodes and returns the last one's value.
struct Builder<'r> {
    name: String,
    nodes: Vec<Node>,
    random: &'r mut Random,
}

impl<'r> Builder<'r> {
    fn new(name: &str, random: &'r mut Random) -> Self {
        Self::after(Part::default(), name, random)
    }

    fn after(before: Part, name: &str, random: &'r mut Random) -> Self {
        Builder { name: name.into(), nodes: before.nodes, random }
    }

    fn finish(self) -> Part {
        Part { name: self.name, nodes: self.nodes }
    }

    fn node(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> ValueId {
        self.nodes.push(Node { name: format!("{}.{name}", self.name), op, inputs: inputs.to_vec() });
        self.nodes.len()
    }

    /// A convolution that keeps the size but for its stride.
    fn conv(
        &mut self,
        name: &str,
        input: ValueId,
        [in_channels, out_channels]: [usize; 2],
        [kernel, stride]: [usize; 2],
    ) -> ValueId {
        self.grouped(name, input, [in_channels, out_channels], [kernel, stride], 1)
    }

    /// The same with groups.
    fn grouped(
        &mut self,
        name: &str,
        input: ValueId,
        [in_channels, out_channels]: [usize; 2],
        [kernel, stride]: [usize; 2],
        groups: usize,
    ) -> ValueId {
        let taps = kernel * kernel * in_channels / groups;
        let weight = self.random.many(out_channels * taps, (3.0 / taps as f32).sqrt());
        let bias = self.random.many(out_channels, 0.3);
        let padding = kernel / 2;
        let conv = Conv { weight, bias, out_channels, in_channels, kernel, stride, padding, groups };
        self.node(name, Op::Conv(conv), &[input])
    }

    fn relu(&mut self, name: &str, input: ValueId) -> ValueId {
        self.node(name, Op::Relu, &[input])
    }

    /// Two 3x3 convolutions; the parameter-free shortcut only where the shape changes.
    fn basic(&mut self, name: &str, input: ValueId, [from, to]: [usize; 2], stride: usize) -> ValueId {
        let named = |suffix: &str| format!("{name}.{suffix}");
        let first = self.conv(&named("conv1"), input, [from, to], [3, stride]);
        let relu = self.relu(&named("relu1"), first);
        let second = self.conv(&named("conv2"), relu, [to, to], [3, 1]);
        let residual = if stride == 1 && from == to {
            input
        } else {
            let before = (to - from) / 2;
            let after = to - from - before;
            self.node(&named("shortcut"), Op::Shortcut { stride, before, after }, &[input])
        };
        let sum = self.node(&named("add"), Op::Add, &[second, residual]);
        self.relu(&named("relu2"), sum)
    }

    /// 1x1, 3x3 and 1x1 convolutions beside a projection, which is left out from the second block of a part on.
    fn bottleneck(
        &mut self,
        name: &str,
        input: ValueId,
        [from, to]: [usize; 2],
        stride: usize,
        groups: usize,
    ) -> ValueId {
        let named = |suffix: &str| format!("{name}.{suffix}");
        let inner = to / 2;
        let groups = groups.min(inner);
        let first = self.conv(&named("conv1"), input, [from, inner], [1, 1]);
        let relu1 = self.relu(&named("relu1"), first);
        let second = self.grouped(&named("conv2"), relu1, [inner, inner], [3, stride], groups);
        let relu2 = self.relu(&named("relu2"), second);
        let third = self.conv(&named("conv3"), relu2, [inner, to], [1, 1]);
        let projection = match name {
            "block0" => self.conv(&named("projection"), input, [from, to], [1, stride]),
            _ => input,
        };
        let sum = self.node(&named("add"), Op::Add, &[third, projection]);
        self.relu(&named("relu3"), sum)
    }

    /// Sets all biases of the last convolution before value `v`.
    fn bias_of(&mut self, v: ValueId, value: f32) {
        let last = self.nodes[..v].iter_mut().rev().find_map(|n| match &mut n.op {
            Op::Conv(conv) => Some(conv),
            _ => None,
        });
        if let Some(conv) = last {
            conv.bias.fill(value);
        }
    }
}
