//! One whole training step against PyTorch's values, which `tests/data/train/make.py` stores.

#[path = "../../../tests/seeded/mod.rs"]
mod seeded;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::json;

use super::difference;
use super::net::{flat, plan};
use crate::checkpoint;
use crate::train::loss::{Distillation, RideLoss, Settings, Teacher, with_teacher};
use crate::train::net::{Net, Outputs};
use seeded::uniform;

const CLASSES: usize = 5;
const IMAGES: usize = 6;
const TARGETS: [u32; IMAGES] = [0, 1, 2, 3, 4, 0];
/// Last epoch without weights.
const REWEIGHT: usize = 10;
const RATE: f64 = 0.1;
const MOMENTUM: f64 = 0.9;
const DECAY: f64 = 5e-4;

fn tensor(name: &str, shape: &[usize], scale: f64) -> Tensor {
    let data: Vec<f32> = uniform(name, shape.iter().product()).into_iter().map(|x| (x * scale) as f32).collect();
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

fn stored() -> BTreeMap<String, Vec<f32>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/train/step.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    tensors.tensors().into_iter().map(|(name, tensor)| (name, values(tensor.data()))).collect()
}

/// The network with the script's parameters.
fn network() -> Net {
    let args = json!({"num_classes": CLASSES, "num_experts": 2, "use_norm": true, "layer2_output_dim": 18,
        "layer3_output_dim": 20, "layer1_blocks": 1, "layer2_blocks": 1, "layer3_blocks": 1});
    let mut net = Net::new(plan("ResNet32Model", args), &Device::Cpu, 0).unwrap();
    let mut tensors = net.tensors().unwrap();
    for (name, tensor) in tensors.iter_mut().filter(|(name, _)| !name.contains("running")) {
        let norm = tensor.shape.len() == 1;
        let (centre, spread) = match (norm, name.ends_with("weight"), name.starts_with("linears")) {
            (true, true, _) => (1.0, 0.5),
            (true, false, _) => (0.0, 0.5),
            (false, _, true) => (0.0, 1.0),
            (false, _, false) => (0.0, 0.25),
        };
        let data = uniform(name, tensor.data.len()).into_iter().map(|x| (centre + spread * x) as f32).collect();
        *tensor = checkpoint::Tensor { data, ..tensor.clone() };
    }
    net.load_all(&tensors).unwrap();
    net
}

/// The losses before and after re-weighting, with the teacher, and as the authors' code sums up the latter.
fn losses(outputs: &Outputs) -> [Tensor; 4] {
    let settings =
        Settings { reweight_epoch: Some(REWEIGHT), additional_diversity_factor: -0.45, ..Settings::default() };
    let ride = RideLoss::new(settings, &[100, 40, 12, 5, 2], &Device::Cpu).unwrap();
    let teacher = (0..2).map(|expert| tensor(&format!("teacher.{expert}"), &[IMAGES, CLASSES], 10.0));
    let teacher = Teacher { experts: teacher.collect() };
    let distilled = |distillation: Distillation| {
        with_teacher(&ride, &distillation, outputs, &teacher, (&TARGETS, REWEIGHT + 1)).unwrap()
    };
    [
        ride.of(outputs, &TARGETS, REWEIGHT).unwrap(),
        ride.of(outputs, &TARGETS, REWEIGHT + 1).unwrap(),
        distilled(Distillation { expert_factor: 0.5, ..Distillation::default() }),
        distilled(Distillation { official: true, ..Distillation::default() }),
    ]
}

fn check(net: &mut Net) {
    let stored = stored();
    let images = tensor("images", &[IMAGES, 8, 8, 3], 1.0);
    let step = net.step(&images, |outputs| Ok(losses(outputs)[3].clone())).unwrap();
    let got = losses(&step.outputs).map(|loss| loss.to_scalar::<f32>().unwrap());
    assert!(difference(&got, &stored["losses"]) < 1e-5, "{got:?}, expected {:?}", stored["losses"]);
    assert_eq!(got[3], step.loss);
    assert_eq!(net.parameters().len(), stored.keys().filter(|name| name.starts_with("grad.")).count());
    for (named, gradient) in net.parameters().iter().zip(&step.gradients) {
        let (got, expected) = (flat(gradient), &stored[&format!("grad.{}", named.name)]);
        let difference = difference(&got, expected);
        assert!(difference < 1e-4, "the gradient of {} differs by {difference}", named.name);
        // The first step of SGD with Nesterov's momentum, whose velocity is the gradient.
        let mut updated = 0.0;
        for (&weight, (&gradient, probe)) in
            flat(&named.var).iter().zip(got.iter().zip(uniform(&format!("probe.{}", named.name), got.len())))
        {
            let gradient = f64::from(gradient) + DECAY * f64::from(weight);
            updated += (f64::from(weight) - RATE * (gradient + MOMENTUM * gradient)) * probe;
        }
        let expected = f64::from(stored[&format!("updated.{}", named.name)][0]);
        let scale = got.iter().fold(1.0, |most: f64, value| most.max(f64::from(value.abs())));
        assert!((updated - expected).abs() < 1e-3 * scale, "{} becomes {updated}, expected {expected}", named.name);
    }
    for named in net.buffers() {
        let difference = difference(&flat(&named.var), &stored[&format!("buffer.{}", named.name)]);
        assert!(difference < 1e-5, "{} differs by {difference}", named.name);
    }
}

#[test]
fn a_step_is_pytorchs() {
    let mut net = network();
    check(&mut net);
    let mut plain = network();
    plain.use_plain_ops();
    check(&mut plain);
}
