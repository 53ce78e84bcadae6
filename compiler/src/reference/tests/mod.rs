//! The executor against a naive evaluation in `f64`, operation by operation and for whole networks.

mod naive;
mod ops;
mod precision;
pub(crate) mod synthetic;

use super::*;
use crate::network::{Conv, Head, Op, Router};
use naive::naive_forward;
use synthetic::{network, node, pixels};

#[track_caller]
fn assert_close(what: &str, got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    let largest = expected.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(error <= 2e-6 * largest, "{what}[{i}]: {got}, expected {expected}");
    }
}

#[derive(Default)]
struct Values(Vec<(String, Vec<f32>)>);

impl Observe for Values {
    fn value(&mut self, name: &str, shape: Shape, data: &[f32]) {
        assert_eq!(data.len(), shape.len(), "{name}");
        self.0.push((name.into(), data.to_vec()));
    }
}

#[test]
fn a_network_matches_the_naive_forward_pass_in_every_value() {
    for (experts, normalize) in [(1, true), (3, true), (4, false)] {
        let network = network(experts, normalize);
        let executor = Executor::new(&network).unwrap();
        let mut scratch = Scratch::default();
        for seed in 0..4 {
            let pixels = pixels(&network, seed);
            let expected = naive_forward(&network, &pixels);
            let mut values = Values::default();
            let got = executor.forward(Image::Pixels(&pixels), Policy::All, &mut scratch, Some(&mut values)).unwrap();
            assert_eq!(values.0.len(), expected.values.len());
            for ((name, got), (expected_name, expected)) in values.0.iter().zip(&expected.values) {
                assert_eq!(name, expected_name);
                assert_close(name, got, expected);
            }
            for (got, expected) in got.experts.iter().zip(&expected.logits) {
                assert_close("logits", &got.logits, expected);
            }
            assert_close("scores", &got.scores, &expected.scores);
            assert_eq!(got.scores.len(), experts - 1);
            check_policies(&executor, &pixels, &got);
        }
    }
}

/// Every policy must give what the run of all experts says it would.
fn check_policies(executor: &Executor, pixels: &[u8], all: &Forward) {
    let image = Image::Pixels(pixels);
    let run = |policy| executor.forward(image, policy, &mut Scratch::default(), None).unwrap();
    for n in 1..=executor.experts() {
        let exactly = run(Policy::Exactly(n));
        assert_eq!(exactly.experts, all.experts[..n]);
        assert!(exactly.scores.is_empty());
        assert_eq!(exactly.mean_logits, all.mean_of(n));
    }
    for threshold in [-100.0, -0.5, 0.0, 0.5, 100.0] {
        let routed = run(Policy::Routed { threshold: Some(threshold) });
        let used = 1 + all.scores.iter().take_while(|&&score| score > threshold).count();
        assert_eq!((routed.used(), routed.routed()), (used, used));
        assert_eq!(routed.experts, all.experts[..used]);
        assert_eq!(routed.scores, all.scores[..used.min(all.scores.len())]);
    }
    assert_eq!(run(Policy::Routed { threshold: None }).used(), all.routed());
    assert_eq!(all.used(), executor.experts());
}

#[test]
fn steps_give_what_the_forward_pass_gives() {
    let network = network(3, true);
    let executor = Executor::new(&network).unwrap();
    let (pixels, mut scratch, mut image) = (pixels(&network, 9), Scratch::default(), Vec::new());
    executor.normalise(&pixels, &mut image).unwrap();
    let all = executor.forward(Image::Normalised(&image), Policy::All, &mut Scratch::default(), None).unwrap();
    let stem = executor.stem(&image, &mut scratch, None).unwrap();
    assert_eq!(stem.len(), executor.stem_shape().len());
    // Not in order: an expert must not depend on what ran before it.
    for index in [2, 0, 1] {
        assert_eq!(executor.expert(index, &stem, &mut scratch, None).unwrap(), all.experts[index]);
    }
    assert_eq!(executor.router(1, &all.experts[1].feature, &all.mean_of(2)), Some(all.scores[1]));
    assert_eq!(executor.router(2, &all.experts[1].feature, &all.mean_of(2)), None);
    assert!(executor.expert(3, &stem, &mut scratch, None).is_err());
}

#[test]
fn a_zero_feature_stops_at_the_router_and_gives_the_classifier_zero() {
    let mut network = network(2, true);
    // A convolution that is never positive, with a ReLU after it.
    let [in_channels, out_channels] = [12, 12];
    let (weight, bias) = (vec![0.0; 144], vec![-1.0; 12]);
    let closed = Conv { weight, bias, out_channels, in_channels, kernel: 1, stride: 1, padding: 0, groups: 1 };
    let trunk = &mut network.experts[0].trunk;
    let before = trunk.output();
    trunk.nodes.push(node("expert0.closed", Op::Conv(closed), &[before]));
    trunk.nodes.push(node("expert0.zero", Op::Relu, &[before + 1]));
    let executor = Executor::new(&network).unwrap();
    let pixels = pixels(&network, 1);
    let policy = Policy::Routed { threshold: Some(-1e30) };
    let forward = executor.forward(Image::Pixels(&pixels), policy, &mut Scratch::default(), None).unwrap();
    assert_eq!(forward.used(), 1);
    assert!(forward.scores[0].is_nan());
    assert_eq!(forward.mean_logits, network.experts[0].head.bias);
}

#[test]
fn empty_parts_pass_their_input_on() {
    let mut network = network(2, true);
    network.stem.nodes.clear();
    for expert in &mut network.experts {
        expert.trunk.nodes.clear();
        expert.head = Head {
            weight: vec![1.0; 21],
            bias: vec![0.0; 7],
            features: 3,
            normalize: false,
            divisor: expert.head.divisor,
        };
    }
    network.routing = Routing::None;
    let executor = Executor::new(&network).unwrap();
    let pixels = pixels(&network, 2);
    let expected = naive_forward(&network, &pixels);
    let forward =
        executor.forward(Image::Pixels(&pixels), Policy::Routed { threshold: None }, &mut Scratch::default(), None);
    let forward = forward.unwrap();
    assert_eq!((forward.used(), forward.scores.len()), (2, 0));
    assert_close("logits", &forward.experts[1].logits, &expected.logits[1]);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    use rayon::prelude::*;
    let network = network(3, true);
    let executor = Executor::new(&network).unwrap();
    let images: Vec<Vec<u8>> = (0..40).map(|seed| pixels(&network, seed)).collect();
    let run = |threads: usize| -> Vec<Forward> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let policy = Policy::Routed { threshold: None };
        let one = |scratch: &mut Scratch, image: &Vec<u8>| {
            executor.forward(Image::Pixels(image), policy, scratch, None).unwrap()
        };
        pool.install(|| images.par_iter().map_init(Scratch::default, one).collect())
    };
    assert_eq!(run(1), run(4));
}

#[track_caller]
fn refused(network: &Network, needle: &str) {
    let message = match Executor::new(network) {
        Ok(_) => panic!("accepted"),
        Err(error) => format!("{error:#}"),
    };
    assert!(message.contains(needle), "{message}");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let with = |change: &dyn Fn(&mut Network)| {
        let mut network = network(2, true);
        change(&mut network);
        network
    };
    let op = |network: &mut Network, index: usize, op: Op| network.stem.nodes[index].op = op;
    let first_conv = |network: &mut Network, change: &dyn Fn(&mut Conv)| {
        let Op::Conv(conv) = &mut network.stem.nodes[0].op else { panic!() };
        change(conv);
    };
    refused(&with(&|n| first_conv(n, &|c| _ = c.weight.pop())), "stem.conv1: the weight has 1175 elements");
    refused(&with(&|n| first_conv(n, &|c| _ = c.bias.pop())), "stem.conv1: the bias has 7 elements");
    refused(&with(&|n| first_conv(n, &|c| c.stride = 0)), "stem.conv1");
    refused(&with(&|n| first_conv(n, &|c| c.groups = 3)), "stem.conv1: 3 groups");
    refused(&with(&|n| first_conv(n, &|c| c.kernel = usize::MAX)), "stem.conv1: the weight");
    refused(&with(&|n| n.stem.nodes[1].inputs = vec![5]), "stem.relu1: an operand is computed after");
    refused(&with(&|n| n.stem.nodes[4].inputs = vec![1]), "stem.add: 1 operands, expected 2");
    refused(&with(&|n| n.stem.nodes[4].inputs = vec![1, 4]), "stem: the shapes");
    refused(&with(&|n| op(n, 2, Op::MaxPool { kernel: 3, stride: 1, padding: 2 })), "stem.pool: padding 2");
    refused(&with(&|n| op(n, 2, Op::Shortcut { stride: 0, before: 0, after: 0 })), "stem.pool: stride 0");
    refused(&with(&|n| n.experts[1].head.features = 9), "expert1: the classifier takes 9 features");
    refused(&with(&|n| n.experts[1].head.weight.truncate(3)), "expert1: the classifier: the weight has 3");
    refused(&with(&|n| n.classes = 8), "expert0: the classifier's bias has 7");
    refused(&with(&|n| n.experts.truncate(1)), "1 routers for 1 experts");
    refused(&with(&|n| n.experts.clear()), "no experts");
    refused(&with(&|n| n.input.mean.truncate(2)), "2 means");
    let router = |n: &mut Network, change: &dyn Fn(&mut Router)| {
        let Routing::Assignment(routers) = &mut n.routing else { panic!() };
        change(&mut routers[0]);
    };
    refused(&with(&|n| router(n, &|r| r.top_k = 8)), "router 0: it looks at the 8 largest logits");
    refused(&with(&|n| router(n, &|r| r.top_k = 4)), "router 0: the score: the weight has 8");
}

#[test]
fn images_and_policies_that_do_not_fit_are_refused() {
    let network = network(2, true);
    let executor = Executor::new(&network).unwrap();
    let run = |image: Image<'_>, policy: Policy| {
        let result = executor.forward(image, policy, &mut Scratch::default(), None);
        format!("{:#}", result.expect_err("accepted"))
    };
    assert!(run(Image::Pixels(&[0; 5]), Policy::All).contains("takes 19 x 23 x 3"));
    assert!(run(Image::Normalised(&[0.0; 5]), Policy::All).contains("takes 19 x 23 x 3"));
    let image = vec![0.0; network.input.shape.len()];
    assert!(run(Image::Normalised(&image), Policy::Exactly(0)).contains("0 experts asked for"));
    assert!(run(Image::Normalised(&image), Policy::Exactly(3)).contains("has 2"));
}
