//! Steps against PyTorch's stored ones, targets by hand, and whole trainings of a small network.

#[path = "../../../tests/npz/mod.rs"]
mod npz;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use candle_core::{Device, Tensor};
use ride_calibrate::data::{DataOptions, DataSet};
use ride_calibrate::preprocess::{InputSize, Preprocess};
use serde_json::Value;

use super::draws::{Draws, View};
use super::features::{Layout, describe};
use super::net::{Batch, RouterNet};
use super::*;
use crate::network::{Routing, Shape};
use crate::reference::tests::synthetic;
use crate::reference::{ExpertOutput, Forward};
use crate::train::optimizer;
use crate::train::params::set;

// ---- against PyTorch -----------------------------------------------------------------------------------------------

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-3f32, |most, value| most.max(value.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() <= 1e-5 * largest, "{what}[{i}]: {got}, PyTorch has {expected}");
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn steps_are_pytorchs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/router/steps.json");
    let stored: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let size = |key: &str| stored[key].as_u64().unwrap() as usize;
    let layout = Layout { routers: size("routers"), features: size("features"), top_k: size("top_k") };
    let sgd = |key: &str| stored["sgd"][key].as_f64().unwrap();
    let settings = optimizer::Settings { momentum: sgd("momentum"), nesterov: true, weight_decay: sgd("weight_decay") };
    let cases = stored["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let net = RouterNet::new(layout, case["shared"].as_bool().unwrap(), 1).unwrap();
        assert_eq!(case["start"].as_object().unwrap().len(), net.parameters().len());
        for named in net.parameters() {
            set(&named.var, &numbers(&case["start"][&named.name])).unwrap();
        }
        let mut optimizer = Sgd::new(settings, net.parameters()).unwrap();
        for step in case["steps"].as_array().unwrap() {
            let lists = |key: &str| step[key].as_array().unwrap().iter().map(numbers).collect::<Vec<_>>();
            let batch = Batch::of(layout, &lists("features"), &lists("logits"), lists("targets")).unwrap();
            let result = net.loss(&batch, stored["pos_weight"].as_f64().unwrap()).unwrap();
            assert_close("loss", &[result.loss as f32], &[step["loss"].as_f64().unwrap() as f32]);
            for (router, scores) in lists("scores").iter().enumerate() {
                assert_close("scores", &result.scores[router], scores);
            }
            for (named, gradient) in net.parameters().iter().zip(&result.gradients) {
                assert_close(&named.name, &flat(gradient), &numbers(&step["gradients"][&named.name]));
            }
            optimizer.step(net.parameters(), &result.gradients, sgd("lr")).unwrap();
        }
        for (name, tensor) in net.tensors().unwrap() {
            assert_close(&name, &tensor.data, &numbers(&case["end"][&name]));
        }
    }
}

#[test]
fn large_scores_keep_loss_and_gradients_finite() {
    let layout = Layout { routers: 1, features: 2, top_k: 1 };
    let net = RouterNet::new(layout, true, 3).unwrap();
    let logits = vec![vec![3e8, -3e8, 0.0, 1e4]];
    let features = vec![vec![1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.6, 0.8]];
    let batch = Batch::of(layout, &features, &logits, vec![vec![0.0, 1.0, 1.0, 0.0]]).unwrap();
    let result = net.loss(&batch, 100.0).unwrap();
    assert!(result.loss.is_finite() && result.loss > 0.0, "{}", result.loss);
    assert!(result.gradients.iter().flat_map(flat).all(f32::is_finite));
}

// ---- what routers see ----------------------------------------------------------------------------------------------

/// A forward pass of three experts over two classes with these logits of class 0 (those of class 1 are 0).
fn forward(logits: [f32; 3], feature: &[f32]) -> Forward {
    let expert = |(n, &logit): (usize, &f32)| ExpertOutput {
        feature: feature.to_vec(),
        logits: vec![logit, 0.0],
        divisor: (n + 1) as f32,
    };
    let experts: Vec<_> = logits.iter().enumerate().map(expert).collect();
    Forward { experts, scores: Vec::new(), proceeds: Vec::new(), mean_logits: vec![0.0; 2] }
}

#[test]
fn the_next_expert_is_worth_it_where_a_later_mean_is_right() {
    let layout = Layout { routers: 2, features: 2, top_k: 2 };
    // Logits of class 0; the label is class 0, so a mean is right where it is positive.
    for (logits, targets) in [
        ([1.0, 1.0, 1.0], [0.0, 0.0]),   // right from the start
        ([-1.0, 3.0, 1.0], [1.0, 0.0]),  // the second puts it right
        ([-1.0, -1.0, 9.0], [1.0, 1.0]), // the third does, so the second is worth running as well
        ([-1.0, 2.0, -9.0], [1.0, 0.0]), // right in between
        ([1.0, -3.0, 9.0], [0.0, 1.0]),  // wrong in between
        ([-1.0, -1.0, -1.0], [0.0, 0.0]),
    ] {
        let mut row = vec![0.0; layout.row()];
        describe(&forward(logits, &[3.0, -4.0]), 0, layout, &mut row);
        assert_eq!([row[4], row[9]], targets, "{logits:?}");
        assert_eq!(row[..2], [0.6, -0.8]);
        let mean = logits[..2].iter().sum::<f32>() / 2.0;
        assert_eq!(row[7..9], [mean.max(0.0), mean.min(0.0)], "sorted, {logits:?}");
    }
    let mut row = vec![7.0; layout.row()];
    describe(&forward([1.0; 3], &[0.0, 0.0]), 0, layout, &mut row);
    assert_eq!((&row[..2], &row[5..7]), (&[0.0; 2][..], &[0.0; 2][..]), "a feature of zeros spoils nothing");
}

// ---- draws ---------------------------------------------------------------------------------------------------------

fn settings(network: &Network) -> Settings {
    Settings {
        epochs: 3,
        batch: 7,
        rate: 0.02,
        sgd: optimizer::Settings::default(),
        pos_weight: 3.0,
        top_choices: network.classes.min(3),
        shared_fc: true,
        augment: Recipe::Cifar,
        views: 2,
        memory: 1 << 20,
        seed: 4,
    }
}

#[test]
fn pieces_of_the_sequence_make_the_same_steps() {
    let network = synthetic::network(3, true);
    let labels: Vec<u32> = (0..40).map(|i| if i < 30 { 0 } else { 1 + i % 3 }).collect();
    let draws = Draws::new(&labels, &settings(&network));
    let steps = |room: usize| -> Vec<(usize, bool, Vec<View>)> {
        let segments = draws.segments(room);
        for segment in &segments {
            assert!(segment.steps.len() == 1 || segment.distinct.len() <= room);
            let mut seen = segment.distinct.clone();
            seen.dedup();
            assert_eq!(seen.len(), segment.distinct.len());
        }
        let view = |segment: &draws::Segment, row: u32| segment.distinct[row as usize];
        let steps = segments.iter().flat_map(|s| s.steps.iter().map(move |step| (s, step)));
        steps.map(|(s, step)| (step.epoch, step.last, step.rows.iter().map(|&r| view(s, r)).collect())).collect()
    };
    let all = steps(usize::MAX);
    assert_eq!(draws.segments(usize::MAX).len(), 1);
    assert!(draws.segments(10).len() > 5);
    for room in [0, 1, 10, 25] {
        assert_eq!(steps(room), all, "room {room}");
    }
    // Three epochs of 40 draws in batches of 7.
    assert_eq!(all.len(), 3 * 6);
    assert_eq!(all.iter().filter(|step| step.1).count(), 3);
    assert_eq!(all.iter().map(|step| step.2.len()).sum::<usize>(), 120);
    let views = |of: &dyn Fn(View) -> bool| all.iter().flat_map(|step| &step.2).filter(|v| of(**v)).count();
    assert_eq!(views(&|v| v.view > 1), 0);
    assert!(views(&|v| v.view == 1) > 20);
    let rare = views(&|v| labels[v.image as usize] == 1);
    assert!((15..50).contains(&rare), "a quarter of the draws: {rare}");
}

// ---- whole trainings -----------------------------------------------------------------------------------------------

/// Random pictures, labelled so that experts are right about some of them.
fn data(folder: &Path, network: &Network, images: usize) -> DataSet {
    let Shape { height, width, .. } = network.input.shape;
    let executor = Executor::new(network).unwrap();
    let mut scratch = crate::reference::Scratch::default();
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for i in 0..images {
        let image = synthetic::pixels(network, i as u64);
        let forward = executor
            .forward(crate::reference::Image::Pixels(&image), crate::reference::Policy::All, &mut scratch, None)
            .unwrap();
        let mean = forward.mean_of(1 + i % network.experts.len());
        labels.push(crate::reference::argmax(&mean));
        pixels.extend(image);
    }
    let path = folder.join("data.npz");
    npz::write(&path, (height, width), &pixels, &labels);
    let preprocess = Preprocess {
        input: InputSize { height, width, channels: 3 },
        mean: network.input.mean.clone(),
        std: network.input.std.clone(),
        resize_short: None,
    };
    DataSet::open(&path, &DataOptions::new(preprocess)).unwrap()
}

#[test]
fn training_lowers_the_loss_and_does_not_depend_on_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut network = synthetic::network(3, true);
    network.routing = Routing::None;
    let data = data(folder.path(), &network, 60);
    let settings = Settings { epochs: 12, augment: Recipe::None, ..settings(&network) };
    let events = Mutex::new((0, Vec::new()));
    let count = |event: Event<'_>| match event {
        Event::Image { .. } => events.lock().unwrap().0 += 1,
        Event::Epoch(epoch) => events.lock().unwrap().1.push(epoch.clone()),
    };
    let trained = train(&network, &data, &settings, &count).unwrap();
    let (images, epochs) = events.into_inner().unwrap();
    assert_eq!((images, &epochs), (trained.images, &trained.epochs));
    assert!(images <= 60 && epochs.len() == 12, "each image once: {images}");
    let (first, last) = (&epochs[0], &epochs[11]);
    assert!(last.loss < 0.8 * first.loss, "{} and then {}", first.loss, last.loss);
    assert!(epochs.iter().all(|epoch| epoch.routers.len() == 2));
    assert!(first.routers[0].worth > 5.0 && first.rate == 0.02 && last.rate < 0.001);
    let shapes: BTreeMap<_, _> = trained.tensors.iter().map(|(name, t)| (name.as_str(), t.shape.clone())).collect();
    assert_eq!(shapes["expert_help_pred_hidden_fcs.1.weight"], [HIDDEN, 12]);
    assert_eq!(shapes["expert_help_pred_fc.weight"], [1, 3 + HIDDEN]);
    // Little memory means more passes and the same routers, bit for bit.
    let little = train(&network, &data, &Settings { memory: 2000, ..settings.clone() }, &|_| ()).unwrap();
    assert!(little.images > 2 * trained.images);
    assert_eq!((little.tensors, little.epochs), (trained.tensors.clone(), trained.epochs.clone()));
    let other = train(&network, &data, &Settings { seed: 5, ..settings.clone() }, &|_| ()).unwrap();
    assert_ne!(other.tensors, trained.tensors);
    let wild = Settings { rate: 1e30, ..settings };
    let error = train(&network, &data, &wild, &|_| ()).unwrap_err().to_string();
    assert!(error.contains("--lr") && error.contains("no number"), "{error}");
}

#[test]
fn settings_that_cannot_work_are_named() {
    let mut network = synthetic::network(3, true);
    let good = settings(&network);
    good.check(&network).unwrap();
    for (change, part) in [
        (Settings { top_choices: 8, ..good.clone() }, "top_choices_num is 8"),
        (Settings { pos_weight: 0.0, ..good.clone() }, "pos_weight is 0"),
        (Settings { rate: f64::NAN, ..good.clone() }, "learning rate is NaN"),
        (Settings { epochs: 0, ..good.clone() }, "epochs"),
    ] {
        let error = change.check(&network).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    network.experts[1].head.divisor = 1.0;
    assert!(good.check(&network).unwrap_err().to_string().contains("plain mean"));
    assert!(good.check(&synthetic::network(1, true)).unwrap_err().to_string().contains("one expert"));
}

impl Batch {
    /// A batch of numbers that come from elsewhere.
    fn of(layout: Layout, features: &[Vec<f32>], logits: &[Vec<f32>], targets: Vec<Vec<f32>>) -> Result<Self> {
        let tensors = |lists: &[Vec<f32>], width: usize| -> Result<Vec<Tensor>> {
            let tensor = |list: &Vec<f32>| Tensor::from_slice(list, (list.len() / width, width), &Device::Cpu);
            Ok(lists.iter().map(tensor).collect::<candle_core::Result<_>>()?)
        };
        Ok(Self { features: tensors(features, layout.features)?, logits: tensors(logits, layout.top_k)?, targets })
    }
}
