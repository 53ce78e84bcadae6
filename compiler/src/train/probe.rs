//! Whether a device computes what it should: tried on a small network before hours are spent on a large one.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use ride_calibrate::sampling::SplitMix64;

use super::loss::{self, Distillation, RideLoss, Teacher, with_teacher};
use super::net::{Net, Outputs};
use super::optimizer::{self, Sgd};
use super::plan::{ConvNorm, Convolution, Head, HeadKind, Init, Part, Plan, Residual, Shortcut};

/// Largest difference, relative to the largest value of its tensor: orders of sums make 2e-5, a value that falls to the other side
/// of a ReLU makes up to a hundredth, and what is computed wrongly differs by as much as it is large.
const TOLERANCE: f32 = 0.03;
/// Training images of each class.
const COUNTS: [u32; 5] = [60, 30, 12, 5, 2];
/// What the right classes are.
const TARGETS: [u32; 4] = [0, 3, 4, 1];
/// Rows and columns of the images.
const SIDE: usize = 64;
/// What all numbers are drawn with.
const SEED: u64 = 6;

/// Trains a small network that has layers of every kind for one step, with candle's operations on `device` and with the loops
/// for CPUs.
///
/// # Errors
/// If the device fails at an operation, or says what differs.
pub(super) fn check(device: &Device) -> Result<()> {
    let mut net = Net::new(plan(), device, SEED)?;
    net.use_plain_ops();
    let got = step(&mut net)?;
    let expected = step(&mut Net::new(plan(), &Device::Cpu, SEED)?)?;
    for (name, expected) in &expected {
        let got = got.get(name).with_context(|| format!("there is no {name}"))?;
        let difference = difference(got, expected);
        ensure!(
            difference <= TOLERANCE,
            "it does not compute what it should: {name} differs by {:.1} %, where {:.0} % can be rounding",
            100.0 * difference,
            100.0 * TOLERANCE
        );
    }
    Ok(())
}

/// Everything that comes of one step, by name.
fn step(net: &mut Net) -> Result<BTreeMap<String, Vec<f32>>> {
    let mut random = SplitMix64::of(&[SEED]);
    let images = noise(&mut random, &[TARGETS.len(), SIDE, SIDE, 3], 1.0, net.device())?;
    // One less than the student has experts.
    let experts = (0..2).map(|_| noise(&mut random, &[TARGETS.len(), COUNTS.len()], 5.0, net.device()));
    let teacher = Teacher { experts: experts.collect::<Result<_>>()? };
    let settings = loss::Settings { reweight_epoch: Some(1), ..loss::Settings::default() };
    let ride = RideLoss::new(settings, &COUNTS, net.device())?;
    let distillation = Distillation { expert_factor: 0.5, ..Distillation::default() };
    let loss = |outputs: &Outputs| with_teacher(&ride, &distillation, outputs, &teacher, (&TARGETS, 2));
    let step = net.step(&images, loss)?;
    let mut values = BTreeMap::from([("the loss".to_owned(), vec![step.loss])]);
    let mut keep = |name: String, tensor: &Tensor| -> Result<()> {
        values.insert(name, tensor.flatten_all()?.to_vec1()?);
        Ok(())
    };
    let mut sgd = Sgd::new(optimizer::Settings::default(), net.parameters())?;
    sgd.step(net.parameters(), &step.gradients, 0.1)?;
    for (named, gradient) in net.parameters().iter().zip(&step.gradients) {
        keep(format!("the gradient of {}", named.name), gradient)?;
        keep(format!("{} behind the step", named.name), &named.var)?;
    }
    for named in net.buffers() {
        keep(named.name.clone(), &named.var)?;
    }
    for (expert, logits) in net.evaluate(&images)?.logits.iter().enumerate() {
        keep(format!("the logits of expert {expert}"), logits)?;
    }
    Ok(values)
}

fn noise(random: &mut SplitMix64, shape: &[usize], scale: f64, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| (random.symmetric() * scale) as f32).collect();
    Ok(Tensor::from_vec(values, shape, device)?)
}

/// Largest difference relative to the largest expected value; infinite if a value is missing or is no number.
fn difference(got: &[f32], expected: &[f32]) -> f32 {
    if got.len() != expected.len() || got.iter().any(|value| !value.is_finite()) {
        return f32::INFINITY;
    }
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
    let worst = got.iter().zip(expected).map(|(got, expected)| (got - expected).abs()).fold(0.0, f32::max);
    worst / largest
}

/// Pooling, all shortcuts, groups, strides with and without remainders, all classifiers.
fn plan() -> Plan {
    let conv = |node: &str, input: usize, output: usize, window: [usize; 2], groups: usize| {
        let [kernel, stride] = window;
        let shape = Convolution { input, output, kernel, stride, padding: kernel / 2, groups };
        ConvNorm { conv: format!("{node}.conv"), norm: format!("{node}.norm"), node: node.to_owned(), shape }
    };
    let stem = Part {
        name: "stem".to_owned(),
        first: Some(conv("stem", 3, 8, [7, 2], 1)),
        max_pool: true,
        blocks: vec![Residual {
            node: "block".to_owned(),
            convs: vec![conv("block.0", 8, 8, [3, 1], 1), conv("block.1", 8, 8, [3, 1], 1)],
            shortcut: Shortcut::Identity,
        }],
    };
    let expert = |index: usize, convs: Vec<ConvNorm>, shortcut: Shortcut| {
        let name = format!("expert{index}");
        Part { blocks: vec![Residual { node: name.clone(), convs, shortcut }], name, first: None, max_pool: false }
    };
    let pairs = |index: usize, stride: usize| {
        let (first, second) = (format!("expert{index}.0"), format!("expert{index}.1"));
        vec![conv(&first, 8, 12, [3, stride], 1), conv(&second, 12, 12, [3, 1], 1)]
    };
    let bottleneck = vec![
        conv("expert1.0", 8, 8, [1, 1], 1),
        conv("expert1.1", 8, 8, [3, 2], 2),
        conv("expert1.2", 8, 12, [1, 1], 1),
    ];
    let experts = vec![
        expert(0, pairs(0, 2), Shortcut::OptionA { stride: 2, pad: 2 }),
        expert(1, bottleneck, Shortcut::Projection(conv("expert1.3", 8, 12, [1, 2], 1))),
        expert(2, pairs(2, 1), Shortcut::OptionA { stride: 1, pad: 2 }),
    ];
    let kinds = [
        HeadKind::Normed { scale: 30.0 },
        HeadKind::Cosine { scale: 16.0, bias: true },
        HeadKind::Linear { bias: true },
    ];
    let head = |(index, kind)| Head { module: format!("linears.{index}"), kind, features: 12, classes: COUNTS.len() };
    let heads = kinds.into_iter().enumerate().map(head).collect();
    Plan { arch: "ResNet50Model".to_owned(), init: Init::FanOut, classes: COUNTS.len(), stem, experts, heads }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composed_operations_pass() {
        check(&Device::Cpu).unwrap();
    }

    #[test]
    fn every_parameter_moves() {
        let before = Net::new(plan(), &Device::Cpu, SEED).unwrap().tensors().unwrap();
        let after = step(&mut Net::new(plan(), &Device::Cpu, SEED).unwrap()).unwrap();
        for (name, before) in before {
            let after = after.get(&name).or_else(|| after.get(&format!("{name} behind the step"))).unwrap();
            assert!(after.iter().zip(&before.data).any(|(after, before)| after != before), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_differs_by_more_than_rounding() {
        assert!(difference(&[1.0, -2.0], &[1.0, -2.01]) < TOLERANCE);
        assert!(difference(&[1.0, -2.0], &[1.0, 2.0]) > TOLERANCE);
        assert!(difference(&[1.0, f32::NAN], &[1.0, 2.0]) > TOLERANCE);
        assert!(difference(&[1.0], &[1.0, 2.0]) > TOLERANCE);
        assert_eq!(difference(&[0.0], &[0.0]), 0.0);
    }
}
