//! Gradients against finite differences.

use candle_core::{Device, Tensor, Var};
use serde_json::json;

use super::net::{flat, images, plan, probe, shake};
use super::noise;
use crate::train::loss::{Distillation, RideLoss, Settings, Teacher, with_teacher};
use crate::train::net::{Net, Outputs};
use crate::train::ops::conv::Conv;
use crate::train::ops::plane::Plane;
use crate::train::ops::simd::Level;
use crate::train::plan::Convolution;

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn moved(values: &[f32], along: &[f32], step: f32) -> Vec<f32> {
    values.iter().zip(along).map(|(value, along)| value + step * along).collect()
}

/// Central difference of `f` along a direction, which for what is linear in it is exact.
fn slope(values: &[f32], along: &[f32], step: f32, mut f: impl FnMut(&[f32]) -> f64) -> f64 {
    let ahead = f(&moved(values, along, step));
    (ahead - f(&moved(values, along, -step))) / (2.0 * f64::from(step))
}

#[track_caller]
fn close(what: &str, got: f64, expected: f64, tolerance: f64) {
    assert!(
        (got - expected).abs() <= tolerance * expected.abs().max(1e-3),
        "{what}: {got}, the difference says {expected}"
    );
}

#[test]
fn convolutions() {
    for (kernel, stride, groups) in [(3, 1, 1), (3, 2, 1), (1, 2, 1), (7, 2, 1), (3, 2, 4)] {
        let shape = Convolution { input: 8, output: 12, kernel, stride, padding: kernel / 2, groups };
        let plane = Plane { height: 6, width: 7, channels: 8, border: shape.padding };
        let mut conv = Conv::new(shape, plane, Level::best()).unwrap();
        let (x, weight) = (noise(1, plane.dense().len()), noise(2, shape.weights()));
        let upstream = noise(3, conv.output().len());
        let bordered = |dense: &[f32], plane: Plane, len: usize| {
            let mut data = vec![0.0; len];
            dense.chunks_exact(plane.row()).enumerate().for_each(|(row, from)| {
                data[plane.range(row)].copy_from_slice(from);
            });
            data
        };
        let mut loss = |x: &[f32], weight: &[f32]| {
            conv.pack(weight);
            let mut y = vec![0.0; upstream.len()];
            conv.forward(&bordered(x, plane, plane.len()), &mut y);
            dot(&y, &upstream)
        };
        let (along_x, along_weight) = (noise(4, x.len()), noise(5, weight.len()));
        let of_x = slope(&x, &along_x, 0.5, |x| loss(x, &weight));
        let of_weight = slope(&weight, &along_weight, 0.5, |weight| loss(&x, weight));
        conv.pack_backward(&weight);
        let grad = bordered(&upstream, conv.grad(), conv.grad_len());
        let (mut dx, mut sums) = (vec![0.0; x.len()], vec![0.0; conv.sums_len()]);
        conv.input_grad(&grad, &mut dx, false);
        conv.weight_grad(&bordered(&x, plane, plane.len()), &grad, &mut sums);
        close("input", dot(&dx, &along_x), of_x, 1e-3);
        close("weight", dot(&conv.unpack(&sums), &along_weight), of_weight, 1e-3);
    }
}

/// Everything between images and logits: normalisation, ReLU, sums, shortcuts, pooling and classifiers.
fn whole(plan: crate::train::plan::Plan, size: [usize; 2], count: usize) {
    let mut net = Net::new(plan, &Device::Cpu, 3).unwrap();
    shake(&mut net);
    let images = images(count, size);
    let step = net.step(&images, probe).unwrap();
    for (at, gradient) in step.gradients.iter().enumerate() {
        let (name, var) = (net.parameters()[at].name.clone(), net.parameters()[at].var.clone());
        let values = flat(&var);
        // Along the gradient itself the slope is largest, and rounding least.
        let gradient = flat(gradient);
        let norm = dot(&gradient, &gradient).sqrt();
        let along: Vec<f32> = gradient.iter().map(|value| (f64::from(*value) / norm) as f32).collect();
        let step = (0.2 / norm).min(4e-3) as f32;
        let expected = slope(&values, &along, step, |values| {
            let moved = Tensor::from_slice(values, var.dims(), &Device::Cpu).unwrap();
            var.set(&moved).unwrap();
            f64::from(net.step(&images, probe).unwrap().loss)
        });
        var.set(&Tensor::from_slice(&values, var.dims(), &Device::Cpu).unwrap()).unwrap();
        // ReLUs that switch within the step bend the loss.
        close(&name, norm, expected, 0.05);
    }
}

#[test]
fn networks() {
    let args = json!({"num_classes": 5, "num_experts": 2, "use_norm": true, "layer1_blocks": 1, "layer2_blocks": 1,
        "layer3_blocks": 1});
    whole(plan("ResNet32Model", args), [8, 8], 24);
    let small = json!({"num_classes": 5, "num_experts": 1, "layer3_output_dim": 16, "layer4_output_dim": 16,
        "layer1_blocks": 1, "layer2_blocks": 1, "layer3_blocks": 1, "layer4_blocks": 1});
    whole(plan("ResNeXt50Model", small.clone()), [48, 48], 8);
    whole(plan("ResNet10Model", small), [48, 48], 8);
}

#[test]
fn losses() {
    let settings = Settings { reweight_epoch: Some(5), additional_diversity_factor: -0.45, ..Settings::default() };
    let ride = RideLoss::new(settings, &[60, 20, 7, 2], &Device::Cpu).unwrap();
    let tensor = |data: Vec<f32>| Tensor::from_vec(data, (6, 4), &Device::Cpu).unwrap();
    let scaled = |seed: u64| noise(seed, 24).into_iter().map(|value| 4.0 * value).collect::<Vec<f32>>();
    let teacher = Teacher { experts: vec![tensor(scaled(20)), tensor(scaled(21))] };
    let targets = [0, 1, 2, 3, 3, 0];
    let distillation = Distillation { expert_factor: 0.7, official: true, ..Distillation::default() };
    let loss = |logits: Vec<Tensor>, mean: &Tensor, epoch: usize| {
        let outputs = Outputs { features: Vec::new(), logits };
        // The mean of all experts has no gradient in the diversity term: what moves must not move it.
        let ride = ride.of_mean(&outputs, mean, &targets, epoch).unwrap();
        let taught = with_teacher(&no_ride(), &distillation, &outputs, &teacher, (&targets, epoch)).unwrap();
        (ride + taught).unwrap()
    };
    for epoch in [5, 6] {
        let values = scaled(11);
        let other = tensor(scaled(12));
        let mean = ((tensor(values.clone()) + &other).unwrap() / 2.0).unwrap();
        let leaf = Var::from_tensor(&tensor(values.clone())).unwrap();
        let total = loss(vec![leaf.as_tensor().clone(), other.clone()], &mean, epoch);
        let gradient = flat(total.backward().unwrap().get(&leaf).unwrap());
        for seed in 30..36 {
            let along = noise(seed, values.len());
            let expected = slope(&values, &along, 1e-2, |values| {
                f64::from(loss(vec![tensor(values.to_vec()), other.clone()], &mean, epoch).to_scalar::<f32>().unwrap())
            });
            close("loss", dot(&gradient, &along), expected, 5e-3);
        }
    }
}

/// Nothing of its own.
fn no_ride() -> RideLoss {
    RideLoss::new(
        Settings { base_loss_factor: 0.0, additional_diversity_factor: 0.0, ..Settings::default() },
        &[],
        &Device::Cpu,
    )
    .unwrap()
}
