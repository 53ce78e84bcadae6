//! Networks that compute with rounded numbers against the artifacts that are made of them.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use ride_calibrate::observer::Observer;
use ride_calibrate::table::CalibrationTable;
use ride_runtime::session::{Policy, Session};
use ride_runtime::{Model, golden};
use serde_json::json;

use super::net::{flat, plan, probe, shake};
use crate::calibration;
use crate::checkpoint::{self, Checkpoint};
use crate::description::ModelTable;
use crate::import::{self, ImportOptions};
use crate::lower::{self, ClassInfo, Request};
use crate::memory::AlignedBytes;
use crate::network::{Input, Network};
use crate::train::net::{Mode, Net};
use crate::train::qat::Quantization;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The trained model of the repository, its ranges, and a network with its parameters.
struct Real {
    checkpoint: Checkpoint,
    network: Network,
    table: CalibrationTable,
    net: Net,
}

fn real() -> Real {
    let folder = root().join("examples/models/ride-resnet32-cifar100lt");
    let checkpoint = checkpoint::load(&folder).unwrap();
    let network = import::network(&checkpoint, &ImportOptions::default()).unwrap().network;
    let table = CalibrationTable::read(&folder.join("calibration.json")).unwrap();
    let plan = import::plan(&checkpoint.config, &ModelTable::default(), &checkpoint.tensors).unwrap();
    let mut net = Net::new(plan, &Device::Cpu, 0).unwrap();
    net.load_all(&checkpoint.tensors).unwrap();
    Real { checkpoint, network, table, net }
}

fn pictures(input: &Input, count: usize) -> Vec<Vec<u8>> {
    let picture = |seed: usize| {
        let mut pixels = vec![0; input.shape.len()];
        golden::image(seed as u32, (input.shape.width, input.shape.channels), &mut pixels);
        pixels
    };
    (0..count).map(picture).collect()
}

/// Images of CIFAR-100's binary format, where they lie beside the repository.
fn photographs(count: usize) -> Option<Vec<Vec<u8>>> {
    let bytes = std::fs::read(root().join("../shared/cifar100-lt/val.bin")).ok()?;
    let image = |record: &[u8]| (0..3072).map(|at| record[2 + at % 3 * 1024 + at / 3]).collect();
    Some(bytes.chunks_exact(3074).take(count).map(image).collect())
}

fn normalised(input: &Input, images: &[Vec<u8>]) -> Tensor {
    let pixel = |(at, &byte): (usize, &u8)| (f32::from(byte) / 255.0 - input.mean[at % 3]) / input.std[at % 3];
    let values = images.iter().flat_map(|image| image.iter().enumerate().map(pixel)).collect::<Vec<f32>>();
    let shape = input.shape;
    Tensor::from_vec(values, (images.len(), shape.height, shape.width, shape.channels), &Device::Cpu).unwrap()
}

/// Mean logits of all experts, by the artifact that is made with `table`.
fn integer(network: &Network, table: &CalibrationTable, images: &[Vec<u8>]) -> Vec<Vec<f32>> {
    let request = Request {
        network,
        table,
        target: &ride_targets::find(ride_targets::host()).unwrap(),
        residual_bits: 16,
        classes: &ClassInfo::default(),
        resize_short: None,
        fingerprint: &calibration::fingerprint(network),
        fine: lower::Fine::NONE,
    };
    let artifact = AlignedBytes::copy_of(&lower::compile(&request).unwrap());
    let model = Model::parse(&artifact).unwrap();
    let mut arena = AlignedBytes::zeroed(model.arena_len());
    let mut session = Session::new(model, &mut arena).unwrap();
    images.iter().map(|image| session.classify(image, Policy::All).unwrap().logits.to_vec()).collect()
}

fn best(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap()
}

/// Share of equal classes, and the signal's distance from the error in decibels.
fn agreement(got: &[Vec<f32>], expected: &[Vec<f32>]) -> (f64, f64) {
    assert_eq!(got.len(), expected.len());
    let equal = got.iter().zip(expected).filter(|(got, expected)| best(got) == best(expected)).count();
    let pairs = got.iter().flatten().zip(expected.iter().flatten());
    let (signal, error) = pairs.fold((0.0, 0.0), |(signal, error), (&got, &expected)| {
        let difference = f64::from(got) - f64::from(expected);
        (signal + f64::from(expected).powi(2), error + difference.powi(2))
    });
    (equal as f64 / got.len() as f64, 10.0 * (signal / error).log10())
}

fn evaluated(net: &Net, input: &Input, images: &[Vec<u8>]) -> Vec<Vec<f32>> {
    let batches = images.chunks(64).flat_map(|images| {
        let logits = net.evaluate(&normalised(input, images)).unwrap().mean().unwrap();
        logits.to_vec2::<f32>().unwrap()
    });
    batches.collect()
}

#[test]
fn the_artifact_is_the_network_that_was_trained() {
    let Real { network, table, mut net, .. } = real();
    let quantization = Quantization::new(&network, &table).unwrap();
    let table = quantization.table(&network).unwrap();
    let float = net.evaluate(&normalised(&network.input, &pictures(&network.input, 8))).unwrap();
    net.quantize(Some(quantization)).unwrap();
    let mut sets = vec![(pictures(&network.input, 48), 1.0)];
    sets.extend(photographs(500).map(|images| (images, 0.999)));
    for (images, least) in sets {
        let got = evaluated(&net, &network.input, &images);
        let (equal, decibels) = agreement(&got, &integer(&network, &table, &images));
        println!("{} images: {:.2} % equal, {decibels:.1} dB", images.len(), 100.0 * equal);
        assert!(equal >= least && decibels > 80.0, "{} images: {equal} equal, {decibels} dB", images.len());
    }
    net.quantize(None).unwrap();
    let again = net.evaluate(&normalised(&network.input, &pictures(&network.input, 8))).unwrap();
    assert_eq!(flat(&float.logits[2]), flat(&again.logits[2]));
}

#[test]
fn projections_and_max_pooling_are_the_artifacts() {
    for arch in ["ResNet50Model", "ResNet10Model"] {
        let args = json!({"num_classes": 6, "num_experts": 2, "use_norm": arch == "ResNet50Model",
            "layer3_output_dim": 16, "layer4_output_dim": 24, "layer1_blocks": 1, "layer2_blocks": 1,
            "layer3_blocks": 1, "layer4_blocks": 1});
        let mut net = Net::new(plan(arch, args.clone()), &Device::Cpu, 4).unwrap();
        shake(&mut net);
        let config = json!({"arch": {"type": arch, "args": args}});
        let options = ImportOptions { input_size: Some([48, 48]), ..ImportOptions::default() };
        let checkpoint = Checkpoint { config, tensors: net.tensors().unwrap(), ..Checkpoint::default() };
        let network = import::network(&checkpoint, &options).unwrap().network;
        let images = pictures(&network.input, 12);
        let settings = calibration::Settings { images: 12, seed: 0, balanced: false, observer: Observer::MinMax };
        let pixels = |at: usize| Ok(Cow::Borrowed(images[at].as_slice()));
        let statistics = calibration::collect(&network, &(0..12).collect::<Vec<_>>(), pixels, &|_| ()).unwrap();
        let table = calibration::tabulate(&network, &statistics, 12, &settings).unwrap();
        let quantization = Quantization::new(&network, &table).unwrap();
        let table = quantization.table(&network).unwrap();
        net.quantize(Some(quantization)).unwrap();
        let got = evaluated(&net, &network.input, &images);
        let (equal, decibels) = agreement(&got, &integer(&network, &table, &images));
        assert!(equal == 1.0 && decibels > 80.0, "{arch}: {equal} equal, {decibels} dB");
    }
}

#[test]
fn gradients_pass_rounding() {
    let Real { network, table, mut net, .. } = real();
    let images = normalised(&network.input, &pictures(&network.input, 6));
    let outputs = net.plain(&images, Mode::Eval).unwrap();
    let expected = net.gradients_in(&probe(&outputs).unwrap().backward().unwrap()).unwrap();
    net.quantize(Some(Quantization::new(&network, &table).unwrap())).unwrap();
    let before = net.tensors().unwrap();
    let step = net.step(&images, probe).unwrap();
    assert_eq!(before, net.tensors().unwrap(), "running statistics stay");
    for (named, (got, expected)) in net.parameters().iter().zip(step.gradients.iter().zip(&expected)) {
        let (got, expected) = (flat(got), flat(expected));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let cosine = dot(&got, &expected) / (dot(&got, &got) * dot(&expected, &expected)).sqrt();
        // Rounding moves the signs under ReLUs here and there, so the gradients are close and not equal.
        assert!(cosine > 0.9, "the gradient of {} points elsewhere: cosine {cosine}", named.name);
    }
}

#[test]
fn a_trained_network_keeps_its_ranges() {
    let Real { checkpoint, network, table, mut net } = real();
    let quantization = Quantization::new(&network, &table).unwrap();
    net.quantize(Some(quantization.clone())).unwrap();
    let images = pictures(&network.input, 16);
    let batch = normalised(&network.input, &images);
    for _ in 0..2 {
        let step = net.step(&batch, |outputs| Ok(outputs.mean()?.sqr()?.mean_all()?)).unwrap();
        for (named, gradient) in net.parameters().iter().zip(&step.gradients) {
            named.var.set(&(named.var.as_tensor() - (gradient * 1e-3).unwrap()).unwrap()).unwrap();
        }
    }
    let mut tensors = checkpoint.tensors.clone();
    tensors.extend(net.tensors().unwrap());
    let trained = import::network(&Checkpoint { tensors, ..checkpoint }, &ImportOptions::default()).unwrap().network;
    assert_ne!(trained, network);
    let table = quantization.table(&trained).unwrap();
    let (equal, decibels) = agreement(&evaluated(&net, &network.input, &images), &integer(&trained, &table, &images));
    assert!(equal == 1.0 && decibels > 80.0, "{equal} equal, {decibels} dB");
}
