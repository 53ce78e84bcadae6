//! Half precision.

use half::f16;

use super::naive::naive_forward;
use super::synthetic::{network, pixels};
use super::{Executor, Forward, Image, Policy, Scratch, Values};
use crate::network::{Network, Op, Routing};
use crate::reference::precision::{Precision, rounded};

fn is_half(value: f32) -> bool {
    f16::from_f32(value).to_f32() == value
}

#[test]
fn rounds_to_nearest_even() {
    let step = 2_f32.powi(-10);
    for (value, expected) in [
        (1.0, 1.0),
        (-0.1, -0.099_975_586),
        (1.0 + 0.5 * step, 1.0),
        (1.0 + 0.501 * step, 1.0 + step),
        (1.0 + 1.5 * step, 1.0 + 2.0 * step),
        (65519.0, 65504.0),
        (65520.0, f32::INFINITY),
        (-1e9, f32::NEG_INFINITY),
        (2_f32.powi(-24), 2_f32.powi(-24)),
        (2_f32.powi(-25), 0.0),
        (3e-8, 2_f32.powi(-24)),
    ] {
        // More than are converted at a time, so that each place is one of several lanes and a remainder.
        let mut values = vec![value; 259];
        Precision::Half.keep(&mut values);
        assert!(values.iter().all(|&v| v == expected), "{value} became {:?}, not {expected}", values[0]);
        Precision::Single.keep(&mut values[..1]);
        assert_eq!(values[0], expected);
    }
    let mut nan = [f32::NAN];
    Precision::Half.keep(&mut nan);
    assert!(nan[0].is_nan());
}

fn parameters(network: &Network) -> Vec<f32> {
    let mut all = Vec::new();
    for part in [&network.stem].into_iter().chain(network.experts.iter().map(|expert| &expert.trunk)) {
        for node in &part.nodes {
            if let Op::Conv(conv) = &node.op {
                all.extend(conv.weight.iter().chain(&conv.bias));
            }
        }
    }
    all.extend(network.experts.iter().flat_map(|expert| expert.head.weight.iter().chain(&expert.head.bias)));
    if let Routing::Assignment(routers) = &network.routing {
        for r in routers {
            all.extend(r.hidden_weight.iter().chain(&r.hidden_bias).chain(&r.fc_weight).chain([&r.fc_bias]));
        }
    }
    all
}

fn run(executor: &Executor, pixels: &[u8]) -> (Forward, Values) {
    let mut values = Values::default();
    let observe = Some(&mut values as &mut dyn super::Observe);
    (executor.forward(Image::Pixels(pixels), Policy::All, &mut Scratch::default(), observe).unwrap(), values)
}

/// Everything that is kept is binary16, and as near to the network in double precision as eleven bits allow.
#[test]
fn a_network_in_half_precision_keeps_eleven_bits() {
    let network = network(3, true);
    assert!(!parameters(&network).iter().all(|&p| is_half(p)), "nothing to round");
    assert!(parameters(&rounded(&network)).iter().all(|&p| is_half(p)));
    let (half, single) = (Executor::in_half(&network).unwrap(), Executor::new(&network).unwrap());
    let (mut signal, mut noise) = (0.0, 0.0);
    for seed in 0..4 {
        let pixels = pixels(&network, seed);
        let (forward, values) = run(&half, &pixels);
        for (name, kept) in &values.0 {
            assert!(kept.iter().all(|&v| is_half(v)), "{name} is more than half precision");
        }
        let kept = forward.experts.iter().flat_map(|e| e.feature.iter().chain(&e.logits)).chain(&forward.scores);
        assert!(kept.copied().all(is_half));
        assert_ne!(forward, run(&single, &pixels).0);
        for (expert, exact) in forward.experts.iter().zip(&naive_forward(&network, &pixels).logits) {
            for (&got, &exact) in expert.logits.iter().zip(exact) {
                signal += exact * exact;
                noise += (f64::from(got) - exact).powi(2);
            }
        }
    }
    // One rounding of 11 bits leaves 74 dB; some dozens of them, one after the other, a little less.
    let db = 10.0 * f64::log10(signal / noise);
    assert!((50.0..74.0).contains(&db), "{db} dB");
}
