//! Whole networks: the loops for CPUs against candle's operations, and both against what the compiler runs.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::{difference, noise};
use crate::description::ModelTable;
use crate::import;
use crate::train::loss::{RideLoss, Settings};
use crate::train::net::{Net, Outputs};
use crate::train::ops::simd::Level;
use crate::train::plan::Plan;

pub(super) fn plan(arch: &str, args: Value) -> Plan {
    let config = json!({"arch": {"type": arch, "args": args}});
    import::plan(&config, &ModelTable::default(), &BTreeMap::new()).unwrap()
}

pub(super) fn images(count: usize, [height, width]: [usize; 2]) -> Tensor {
    let data = noise(7, count * height * width * 3);
    Tensor::from_vec(data, (count, height, width, 3), &Device::Cpu).unwrap()
}

pub(super) fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Parameters of normalisations away from one and zero, so that nothing cancels out.
pub(super) fn shake(net: &mut Net) {
    let mut tensors = net.tensors().unwrap();
    for (seed, (name, tensor)) in tensors.iter_mut().enumerate() {
        if tensor.shape.len() == 1 {
            let noise = noise(seed as u64, tensor.data.len());
            let centre = if name.ends_with("weight") || name.ends_with("var") { 1.0 } else { 0.0 };
            tensor.data = noise.into_iter().map(|value| centre + 0.3 * value).collect();
        }
    }
    net.load_all(&tensors).unwrap();
}

/// A loss of all outputs with different gradients everywhere.
pub(super) fn probe(outputs: &Outputs) -> anyhow::Result<Tensor> {
    let mut total = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?;
    for (index, (logits, features)) in outputs.logits.iter().zip(&outputs.features).enumerate() {
        for (scale, tensor) in [(0.1, logits), (1.0, features)] {
            let mask = Tensor::from_vec(noise(90 + index as u64, tensor.elem_count()), tensor.dims(), &Device::Cpu)?;
            total = (total + (tensor.mul(&mask)?.sum_all()? * scale)?)?;
        }
    }
    Ok(total)
}

fn compare(plan: &Plan, size: [usize; 2], count: usize) {
    let mut plain = Net::new(plan.clone(), &Device::Cpu, 5).unwrap();
    shake(&mut plain);
    plain.use_plain_ops();
    let images = images(count, size);
    let start = plain.tensors().unwrap();
    let evaluated = plain.evaluate(&images).unwrap();
    let expected = plain.step(&images, probe).unwrap();
    for level in Level::available() {
        let mut fast = Net::new(plan.clone(), &Device::Cpu, 6).unwrap();
        fast.use_level(level);
        fast.load_all(&start).unwrap();
        // Evaluation first: what it leaves in memory must not matter.
        let got = fast.evaluate(&images).unwrap();
        for (got, expected) in got.logits.iter().zip(&evaluated.logits) {
            assert!(difference(&flat(got), &flat(expected)) < 1e-4, "{}: evaluation", plan.arch);
        }
        let got = fast.step(&images, probe).unwrap();
        assert!(
            (got.loss - expected.loss).abs() < 1e-3 * expected.loss.abs().max(1.0),
            "{} {level:?}: the loss is {}, expected {}",
            plan.arch,
            got.loss,
            expected.loss
        );
        for (named, (got, expected)) in fast.parameters().iter().zip(got.gradients.iter().zip(&expected.gradients)) {
            let difference = difference(&flat(got), &flat(expected));
            assert!(difference < 2e-3, "{} {level:?}: gradient of {} differs by {difference}", plan.arch, named.name);
        }
        for (got, expected) in fast.buffers().iter().zip(plain.buffers()) {
            let difference = difference(&flat(&got.var), &flat(&expected.var));
            assert!(difference < 1e-4, "{}: {} differs by {difference}", plan.arch, got.name);
        }
    }
}

#[test]
fn loops_match_candles_operations() {
    let cifar = json!({"num_classes": 7, "num_experts": 2, "use_norm": true, "layer2_output_dim": 20,
        "layer3_output_dim": 26, "layer1_blocks": 2, "layer2_blocks": 2,
        "layer3_blocks": 1});
    compare(&plan("ResNet32Model", cifar), [12, 8], 19);
    let lone = json!({"num_classes": 3, "num_experts": 1, "layer1_blocks": 1, "layer2_blocks": 1, "layer3_blocks": 1});
    compare(&plan("ResNet32Model", lone), [9, 9], 3);
    let small = |blocks: &[usize]| {
        json!({"num_classes": 5, "num_experts": 2, "use_norm": true, "layer3_output_dim": 16, "layer4_output_dim": 16,
            "layer1_blocks": blocks[0], "layer2_blocks": blocks[1], "layer3_blocks": blocks[2],
            "layer4_blocks": blocks[3]})
    };
    // Squares: candle's backward pass takes no others where a stride leaves remainders.
    compare(&plan("ResNet10Model", small(&[1, 1, 1, 1])), [49, 49], 6);
    compare(&plan("ResNet50Model", small(&[1, 2, 1, 1])), [48, 48], 6);
    compare(&plan("ResNeXt50Model", small(&[1, 1, 2, 1])), [48, 48], 6);
}

#[test]
fn equal_steps_are_equal_to_the_bit() {
    let args = json!({"num_classes": 7, "num_experts": 2, "use_norm": true, "layer1_blocks": 1, "layer2_blocks": 1, "layer3_blocks": 1});
    let plan = plan("ResNet32Model", args);
    let images = images(37, [8, 8]);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut net = Net::new(plan.clone(), &Device::Cpu, 1).unwrap();
        let step = pool.install(|| net.step(&images, probe)).unwrap();
        (step.loss.to_bits(), step.gradients.iter().map(flat).collect::<Vec<_>>(), net.tensors().unwrap())
    };
    let one = run(1);
    assert_eq!(one, run(1));
    assert_eq!(one, run(3));
}

#[test]
fn a_step_against_its_gradient_lowers_the_loss() {
    let args = json!({"num_classes": 4, "num_experts": 2, "use_norm": true, "layer1_blocks": 1, "layer2_blocks": 1, "layer3_blocks": 1});
    let mut net = Net::new(plan("ResNet32Model", args), &Device::Cpu, 1).unwrap();
    let settings = Settings { reweight_epoch: Some(1), ..Settings::default() };
    let ride = RideLoss::new(settings, &[50, 20, 10, 5], &Device::Cpu).unwrap();
    let images = images(16, [8, 8]);
    let targets: Vec<u32> = (0..16).map(|image| image % 4).collect();
    let mut losses = Vec::new();
    for _ in 0..12 {
        let step = net.step(&images, |outputs| ride.of(outputs, &targets, 2)).unwrap();
        for (named, gradient) in net.parameters().iter().zip(&step.gradients) {
            named.var.set(&(named.var.as_tensor() - (gradient * 0.02).unwrap()).unwrap()).unwrap();
        }
        losses.push(step.loss);
    }
    assert!(losses[11] < 0.7 * losses[0], "{losses:?}");
}
