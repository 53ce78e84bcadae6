//! The float network against PyTorch.

use std::fs;

use ride_compiler::import::Imported;
use ride_compiler::network::Routing;
use ride_compiler::reference::{Executor, Forward, Image, Policy, Scratch};
use ride_runtime::op::Criterion;

use crate::CLASSES;
use crate::material::{describe, error, golden, import, relative, ten, write_checkpoint};
use crate::seeded::uniform;

fn forward(imported: &Imported, side: usize) -> Forward {
    let image: Vec<f32> = uniform("image", side * side * 3).into_iter().map(|u| u as f32).collect();
    let executor = Executor::new(&imported.network).unwrap();
    executor.forward(Image::Normalised(&image), Policy::All, &mut Scratch::default(), None).unwrap()
}

#[track_caller]
fn assert_close(ours: &[f32], theirs: &[f64], factor: f64) {
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs.iter().fold(0.1, |scale: f64, value| scale.max(value.abs()));
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!((f64::from(*ours) - factor * theirs).abs() < 2e-5 * factor * scale, "{ours} {theirs} {factor}");
    }
}

/// Every expert's logits, times its weight in the combination, and the combined ones.
#[track_caller]
fn assert_equals_pytorch(name: &str, weights: &[f64]) -> Imported {
    let (folder, golden) = (relative(name), golden(name));
    let imported = import(folder.path()).unwrap();
    let result = forward(&imported, golden.side);
    assert_eq!(result.experts.len(), golden.logits.len());
    for ((expert, logits), weight) in result.experts.iter().zip(&golden.logits).zip(weights) {
        assert_close(&expert.logits, logits, *weight);
    }
    assert_close(&result.mean_logits, &golden.answer, 1.0);
    imported
}

#[test]
fn sade_is_a_weighted_mean() {
    let imported = assert_equals_pytorch("sade", &[0.2, 0.3, 0.5]);
    assert_eq!(imported.network.routing, Routing::None);
    assert!(imported.warnings.is_empty(), "{:?}", imported.warnings);
}

#[test]
fn balpoe_is_a_mean_with_routers_by_confidence() {
    let imported = assert_equals_pytorch("balpoe", &[1.0; 3]);
    let Routing::Confidence(rules) = &imported.network.routing else { panic!("no routers") };
    assert_eq!(rules.len(), 2);
    assert!(rules.iter().all(|rule| rule.criterion == Criterion::MaxProbability && rule.threshold == 0.8));
}

#[test]
fn ncl_is_a_sum_of_separate_networks() {
    let imported = assert_equals_pytorch("ncl", &[1.0; 3]);
    assert!(imported.network.stem.nodes.is_empty());
    let Routing::Confidence(rules) = &imported.network.routing else { panic!("no routers") };
    assert_eq!(rules.iter().map(|rule| rule.threshold).collect::<Vec<_>>(), [4.0, 8.0]);
}

#[test]
fn ncl_can_have_cosine_classifiers() {
    assert_equals_pytorch("ncl-cosine", &[1.0; 3]);
}

#[test]
fn reslt_has_residual_classifiers() {
    assert_equals_pytorch("reslt", &[1.0; 2]);
}

#[test]
fn tensors_of_training_can_be_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let mut golden = golden("ncl");
    let classifiers = |name: &String| name.contains("classifier");
    let names: Vec<String> = golden.tensors.keys().filter(|name| classifiers(name)).cloned().collect();
    for name in names {
        let shape = golden.tensors.remove(&name).unwrap();
        golden.tensors.insert(name.replace("classifier", "classifier_ce"), shape);
    }
    let more: [(&str, &[usize]); 5] = [
        ("module.MOCO.0.queue", &[64, 16]),
        ("module.backbone_MA.0.conv1.weight", &[16, 3, 3, 3]),
        ("module.classifier_MA.2.0.weight", &[64, 64]),
        ("module.classifier.1.0.weight", &[64, 64]),
        ("module.classifier.1.2.bias", &[64]),
    ];
    write_checkpoint(folder.path(), &golden, &more);
    describe(folder.path(), "ncl-contrastive.toml", &[ten("100")]);
    let imported = import(folder.path()).unwrap();
    assert_eq!(imported.network.experts.len(), 3);
    // Names that no rule speaks of are left over, and named.
    write_checkpoint(folder.path(), &golden, &[("module.extra.weight", &[3])]);
    let error = error(folder.path());
    assert!(error.contains("extra.weight") && error.contains("[model]"), "{error}");
}

#[test]
fn logits_are_adjusted_by_class_frequencies() {
    let folder = relative("balpoe");
    let plain = forward(&import(folder.path()).unwrap(), 32);
    let counts: Vec<u32> = (0..CLASSES as u32).map(|class| 500 >> class.min(7)).collect();
    let lines: Vec<String> = counts.iter().map(u32::to_string).collect();
    fs::write(folder.path().join("class_counts.txt"), lines.join("\n")).unwrap();
    describe(folder.path(), "logit-adjustment.toml", &[("tau = 1.0 ", "tau = [0.0, 1.5, -2] ")]);
    let imported = import(folder.path()).unwrap();
    let adjusted = forward(&imported, 32);
    let total = f64::from(counts.iter().sum::<u32>());
    let expert = |e: usize, tau: f64| {
        let shifted = |(logit, count): (&f32, &u32)| f64::from(*logit) - tau * (f64::from(*count) / total).ln();
        plain.experts[e].logits.iter().zip(&counts).map(shifted).collect::<Vec<f64>>()
    };
    let expected = [expert(0, 0.0), expert(1, 1.5), expert(2, -2.0)];
    for (e, expected) in expected.iter().enumerate() {
        assert_close(&adjusted.experts[e].logits, expected, 1.0);
    }
    let mean: Vec<f64> = (0..CLASSES).map(|c| expected.iter().map(|expert| expert[c]).sum::<f64>() / 3.0).collect();
    assert_close(&adjusted.mean_logits, &mean, 1.0);
    let Routing::Confidence(rules) = &imported.network.routing else { panic!("no routers") };
    assert!(rules.iter().all(|rule| rule.criterion == Criterion::Entropy));
}
