//! Whole networks: the loops for CPUs against candle's operations, and both against what the compiler runs.

use std::collections::BTreeMap;
use std::io::Read;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::{difference, noise};
use crate::description::ModelTable;
use crate::import;
use crate::reference::{Executor, Image, Policy, Scratch};
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

/// The trained model of the repository: both kinds of operations against the compiler's float network, and against the
/// golden logits where they lie beside the repository.
#[test]
fn a_trained_network_computes_what_the_compiler_runs() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let checkpoint = crate::checkpoint::load(&root.join("examples/models/ride-resnet32-cifar100lt")).unwrap();
    let network = import::network(&checkpoint, &import::ImportOptions::default()).unwrap().network;
    let plan = import::plan(&checkpoint.config, &ModelTable::default(), &checkpoint.tensors).unwrap();
    let mut net = Net::new(plan, &Device::Cpu, 0).unwrap();
    net.load_all(&checkpoint.tensors).unwrap();
    let executor = Executor::new(&network).unwrap();
    let pixels: Vec<u8> = noise(3, 4 * 3072).into_iter().map(|value| (127.5 + 127.0 * value) as u8).collect();
    let normalised = |pixels: &[u8]| {
        let input = &network.input;
        let value = |(at, &byte): (usize, &u8)| (f32::from(byte) / 255.0 - input.mean[at % 3]) / input.std[at % 3];
        let values: Vec<f32> = pixels.iter().enumerate().map(value).collect();
        Tensor::from_vec(values, (pixels.len() / 3072, 32, 32, 3), &Device::Cpu).unwrap()
    };
    let expected: Vec<_> = pixels
        .chunks_exact(3072)
        .map(|image| executor.forward(Image::Pixels(image), Policy::All, &mut Scratch::default(), None).unwrap())
        .collect();
    let golden = golden(&root.join("../shared"));
    for plain in [false, true] {
        if plain {
            net.use_plain_ops();
        }
        let got = net.evaluate(&normalised(&pixels)).unwrap();
        for (expert, logits) in got.logits.iter().enumerate() {
            let expected: Vec<f32> = expected.iter().flat_map(|image| image.experts[expert].logits.clone()).collect();
            assert!(difference(&flat(logits), &expected) < 1e-4);
        }
        let Some((pixels, expected)) = &golden else { continue };
        let got = net.evaluate(&normalised(pixels)).unwrap();
        for (expert, logits) in got.logits.iter().enumerate() {
            let own = expected.chunks_exact(100).skip(expert).step_by(3).flatten().copied().collect::<Vec<f32>>();
            assert!(difference(&flat(logits), &own) < 1e-4, "expert {expert} against the golden logits");
        }
    }
}

/// Pixels of the first images, and the golden logits `[images][experts][classes]` for them.
fn golden(shared: &std::path::Path) -> Option<(Vec<u8>, Vec<f32>)> {
    let file = std::fs::File::open(shared.join("models/ride-resnet32-cifar100lt/golden.npz")).ok()?;
    let mut bytes = Vec::new();
    zip::ZipArchive::new(file).unwrap().by_name("logits.npy").unwrap().read_to_end(&mut bytes).unwrap();
    // Magic, version and length of the header, the header, then the numbers.
    let data = &bytes[10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))..];
    let images = 64;
    let values: Vec<f32> = match data.len() / (images * 300) {
        8 => data.as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32).collect(),
        4 => data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        other => panic!("golden logits of {other} bytes each"),
    };
    let records = std::fs::read(shared.join("cifar100-lt/val.bin")).ok()?;
    let pixel = |record: &[u8], at: usize| record[2 + at % 3 * 1024 + at / 3];
    let records = records.chunks_exact(3074).take(images);
    Some((records.flat_map(|record| (0..3072).map(move |at| pixel(record, at))).collect(), values))
}

#[test]
fn what_is_not_a_number_shows_in_the_loss() {
    let args = json!({"num_classes": 7, "num_experts": 2, "use_norm": true, "layer1_blocks": 1, "layer2_blocks": 1,
        "layer3_blocks": 1});
    let mut net = Net::new(plan("ResNet32Model", args), &Device::Cpu, 1).unwrap();
    let var = net.parameters()[0].var.clone();
    let mut values = flat(&var);
    values[5] = f32::NAN;
    var.set(&Tensor::from_vec(values, var.dims(), &Device::Cpu).unwrap()).unwrap();
    assert!(net.step(&images(4, [8, 8]), probe).unwrap().loss.is_nan());
    net.use_plain_ops();
    assert!(net.step(&images(4, [8, 8]), probe).unwrap().loss.is_nan());
}

#[test]
fn a_step_leaves_nothing_of_its_graph() {
    let args = json!({"num_classes": 7, "num_experts": 2, "use_norm": true, "layer1_blocks": 1, "layer2_blocks": 1,
        "layer3_blocks": 1});
    let mut net = Net::new(plan("ResNet32Model", args), &Device::Cpu, 1).unwrap();
    for plain in [false, true] {
        if plain {
            net.use_plain_ops();
        }
        let step = net.step(&images(4, [8, 8]), probe).unwrap();
        let outputs = step.outputs.logits.iter().chain(&step.outputs.features);
        for tensor in step.gradients.iter().chain(outputs) {
            assert!(!tensor.track_op(), "plain: {plain}");
        }
    }
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
