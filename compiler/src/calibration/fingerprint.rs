//! A short identity of a network, so that a calibration table is not used with another model.

use crate::network::{Confidence, Conv, Expert, Head, Input, Network, Node, Op, Part, Router, Routing, Shape};

/// 16 hexadecimal digits that depend on the whole network: architecture, names, input normalisation and every bit of
/// every weight. Thresholds of routers play no part: they can be changed in a finished artifact, which stays that model's.
/// The same on every machine. It tells models apart; it is no protection against forgery.
pub fn fingerprint(network: &Network) -> String {
    let mut hash = Hash(0x9e37_79b9_7f4a_7c15);
    let Network { arch, input, classes, stem, experts, routing } = network;
    let Input { shape: Shape { height, width, channels }, mean, std } = input;
    hash.text(arch);
    hash.counts(&[*height, *width, *channels, *classes, experts.len()]);
    hash.floats(mean);
    hash.floats(std);
    hash.part(stem);
    for (index, Expert { trunk, head }) in experts.iter().enumerate() {
        let Head { weight, bias, features, normalize, divisor } = head;
        hash.part(trunk);
        hash.counts(&[*features, usize::from(*normalize)]);
        hash.floats(weight);
        hash.floats(bias);
        hash.unusual(*divisor, (index + 1) as f32);
    }
    hash.routing(routing);
    format!("{:016x}", hash.finish())
}

/// A 64-bit multiply-and-xorshift hash over words, with the mixing constants of `SplitMix64`
/// (Steele, Lea and Flood, OOPSLA 2014). Sequences are preceded by their length, so no two inputs give the same words.
struct Hash(u64);

impl Hash {
    fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.0 = mixed ^ (mixed >> 31);
    }

    fn counts(&mut self, counts: &[usize]) {
        counts.iter().for_each(|&count| self.word(count as u64));
    }

    fn text(&mut self, text: &str) {
        self.counts(&[text.len()]);
        text.bytes().for_each(|byte| self.word(u64::from(byte)));
    }

    fn floats(&mut self, values: &[f32]) {
        self.counts(&[values.len()]);
        values.iter().for_each(|value| self.word(u64::from(value.to_bits())));
    }

    /// A value of which only what differs from the usual one counts, so that older fingerprints stay what they were.
    fn unusual(&mut self, value: f32, usual: f32) {
        if value != usual {
            self.text("unusual");
            self.floats(&[value]);
        }
    }

    fn part(&mut self, part: &Part) {
        let Part { name, nodes } = part;
        self.text(name);
        self.counts(&[nodes.len()]);
        for Node { name, op, inputs } in nodes {
            self.text(name);
            self.counts(&[inputs.len()]);
            self.counts(inputs);
            self.op(op);
        }
    }

    fn op(&mut self, op: &Op) {
        match op {
            Op::Conv(conv) => {
                let Conv { weight, bias, out_channels, in_channels, kernel, stride, padding, groups } = conv;
                self.counts(&[0, *out_channels, *in_channels, *kernel, *stride, *padding, *groups]);
                self.floats(weight);
                self.floats(bias);
            }
            Op::Relu => self.counts(&[1]),
            Op::Add => self.counts(&[2]),
            Op::Shortcut { stride, before, after } => self.counts(&[3, *stride, *before, *after]),
            Op::Clamp { max } => {
                self.counts(&[5]);
                self.floats(&[*max]);
            }
            Op::MaxPool { kernel, stride, padding } => self.counts(&[4, *kernel, *stride, *padding]),
        }
    }

    fn routing(&mut self, routing: &Routing) {
        match routing {
            Routing::None => self.counts(&[0]),
            Routing::Assignment(routers) => {
                self.counts(&[1, routers.len()]);
                for Router { hidden_weight, hidden_bias, top_k, fc_weight, fc_bias, threshold: _ } in routers {
                    self.counts(&[*top_k]);
                    [hidden_weight, hidden_bias, fc_weight].into_iter().for_each(|values| self.floats(values));
                    self.floats(&[*fc_bias]);
                }
            }
            Routing::Confidence(rules) => {
                self.counts(&[2, rules.len()]);
                for Confidence { criterion, threshold: _ } in rules {
                    self.counts(&[*criterion as usize]);
                }
            }
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::tests::synthetic;
    use ride_runtime::op::Criterion;

    fn changed(change: impl FnOnce(&mut Network)) -> String {
        let mut network = synthetic::network(3, true);
        change(&mut network);
        fingerprint(&network)
    }

    fn confidence(threshold: f32) -> Routing {
        Routing::Confidence(vec![Confidence { criterion: Criterion::Margin, threshold }; 2])
    }

    /// Pinned, because tables that have been written must stay valid.
    #[test]
    fn is_stable() {
        assert_eq!(changed(|_| ()), "dfe76f734b03714c");
    }

    #[test]
    fn thresholds_can_move() {
        let moved = changed(|n| {
            let Routing::Assignment(routers) = &mut n.routing else { panic!("no routers") };
            routers[1].threshold = 0.5;
        });
        assert_eq!(moved, changed(|_| ()));
        assert_eq!(changed(|n| n.routing = confidence(0.5)), changed(|n| n.routing = confidence(0.75)));
    }

    #[test]
    fn depends_on_every_other_field() {
        let conv = |network: &mut Network, change: &dyn Fn(&mut Conv)| {
            let Op::Conv(conv) = &mut network.stem.nodes[0].op else { panic!("not a convolution") };
            change(conv);
        };
        let router = |network: &mut Network, change: &dyn Fn(&mut Router)| {
            let Routing::Assignment(routers) = &mut network.routing else { panic!("no routers") };
            change(&mut routers[1]);
        };
        let all = [
            changed(|_| ()),
            changed(|n| n.arch.push('x')),
            changed(|n| n.classes += 1),
            changed(|n| n.input.shape.width += 1),
            changed(|n| n.input.mean[2] += 0.1),
            changed(|n| n.input.std[0] += 0.1),
            changed(|n| n.stem.nodes[1].name.push('x')),
            changed(|n| n.stem.nodes[4].inputs.swap(0, 1)),
            changed(|n| conv(n, &|c| c.weight[17] = -c.weight[17])),
            changed(|n| conv(n, &|c| c.weight.swap(0, 1))),
            changed(|n| conv(n, &|c| c.bias[7] = f32::from_bits(c.bias[7].to_bits() ^ 1))),
            changed(|n| conv(n, &|c| c.padding += 1)),
            changed(|n| n.stem.nodes[2].op = Op::MaxPool { kernel: 3, stride: 1, padding: 1 }),
            changed(|n| n.stem.nodes[1].op = Op::Add),
            changed(|n| n.experts[2].head.normalize = false),
            changed(|n| n.experts[2].head.weight[3] += 1.0),
            changed(|n| n.experts.swap(0, 1)),
            changed(|n| n.experts[1].head.divisor = 2.5),
            changed(|n| n.routing = confidence(0.5)),
            changed(|n| router(n, &|r| r.fc_bias += 1.0)),
            changed(|n| router(n, &|r| r.top_k += 1)),
            changed(|n| n.routing = Routing::None),
        ];
        for (i, one) in all.iter().enumerate() {
            assert_eq!(one.len(), 16);
            assert!(all[..i].iter().all(|other| other != one), "change {i} is not seen");
        }
    }
}
