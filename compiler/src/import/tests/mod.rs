use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::checkpoint::{self, Tensor};
use crate::network::Op;
use crate::reference::{Executor, Image, Policy, Scratch};

mod oracle;

use oracle::Model;

fn import(checkpoint: &Checkpoint) -> Result<Imported> {
    network(checkpoint, &ImportOptions::default())
}

/// The import's error for a good checkpoint that has been spoilt.
fn error(spoil: impl FnOnce(&mut Checkpoint)) -> String {
    let model = Model { kind: "ResNet32EAModel", widths: Some([18, 20]), side: 8, ..Model::default() };
    let mut checkpoint = model.run(1).checkpoint;
    import(&checkpoint).expect("a good checkpoint");
    spoil(&mut checkpoint);
    format!("{:#}", import(&checkpoint).expect_err("a spoilt checkpoint"))
}

#[track_caller]
fn assert_error(parts: &[&str], spoil: impl FnOnce(&mut Checkpoint)) {
    let error = error(spoil);
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[track_caller]
fn assert_argument(key: &str, value: Value, parts: &[&str]) {
    assert_error(parts, |checkpoint| checkpoint.config["arch"]["args"][key] = value);
}

/// Imported and run in single precision, a model must give what the oracle gives.
#[track_caller]
fn assert_equals_oracle(model: &Model) {
    let expected = model.run(7);
    let imported = import(&expected.checkpoint).unwrap();
    assert!(imported.warnings.is_empty(), "{:?}", imported.warnings);
    let executor = Executor::new(&imported.network).unwrap();
    let image = Image::Normalised(&expected.image);
    let forward = executor.forward(image, Policy::All, &mut Scratch::default(), None).unwrap();
    assert_eq!(forward.experts.len(), model.experts);
    let close = |ours: &[f32], theirs: &[f64]| {
        let scale = theirs.iter().fold(1.0, |scale: f64, value| scale.max(value.abs()));
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!((f64::from(*ours) - theirs).abs() < 2e-5 * scale, "{}: {ours} {theirs}", model.kind);
        }
    };
    for (expert, logits) in forward.experts.iter().zip(&expected.logits) {
        close(&expert.logits, logits);
        assert!(logits.iter().any(|logit| logit.abs() > 0.05), "{logits:?}");
    }
    close(&forward.scores, &expected.scores);
}

#[test]
fn cifar_models_equal_the_oracle() {
    let base = || Model { kind: "ResNet32EAModel", experts: 3, ..Model::default() };
    assert_equals_oracle(&base());
    assert_equals_oracle(&Model { reduce: false, use_norm: false, own_fc: true, top_k: 10, ..base() });
    assert_equals_oracle(&Model { widths: Some([18, 26]), experts: 2, ..base() });
    assert_equals_oracle(&Model { kind: "ResNet32Model", ..base() });
    assert_equals_oracle(&Model { kind: "ResNet32Model", experts: 1, listed: false, ..base() });
    assert_equals_oracle(&Model { kind: "ResNet32Model", experts: 1, use_norm: false, ..base() });
}

#[test]
fn basic_imagenet_models_equal_the_oracle() {
    let base = || Model { kind: "ResNet10EAModel", widths: Some([48, 64]), side: 32, ..Model::default() };
    assert_equals_oracle(&base());
    assert_equals_oracle(&Model { share_layer3: true, experts: 3, own_fc: true, ..base() });
    assert_equals_oracle(&Model { kind: "ResNet10Model", use_norm: false, widths: None, ..base() });
}

#[test]
fn bottleneck_models_equal_the_oracle() {
    let base = || Model { kind: "ResNet50Model", widths: Some([32, 24]), side: 24, ..Model::default() };
    assert_equals_oracle(&base());
    assert_equals_oracle(&Model { kind: "ResNet50EAModel", share_layer3: true, ..base() });
    assert_equals_oracle(&Model { kind: "ResNet101Model", experts: 1, listed: false, ..base() });
    assert_equals_oracle(&Model { kind: "ResNet152EAModel", ..base() });
}

#[test]
fn stages_may_have_any_number_of_blocks() {
    assert_equals_oracle(&Model { kind: "ResNet32EAModel", blocks: &[1, 3, 2], ..Model::default() });
    assert_equals_oracle(&Model {
        kind: "ResNet50Model",
        blocks: &[1, 2, 1, 2],
        widths: Some([32, 24]),
        side: 24,
        ..Model::default()
    });
    for value in [json!(0), json!(1000), json!("5")] {
        assert_argument("layer2_blocks", value, &["arch.args.layer2_blocks", "1 to 256"]);
    }
    assert_argument("layer3_blocks", json!(4), &["layer3s.0.4"]);
}

#[test]
fn grouped_models_equal_the_oracle() {
    let base = || Model { kind: "ResNeXt50EAModel", widths: Some([32, 48]), side: 24, ..Model::default() };
    assert_equals_oracle(&base());
    assert_equals_oracle(&Model { kind: "ResNeXt152Model", experts: 1, listed: false, use_norm: false, ..base() });
}

#[test]
fn a_lone_expert_of_an_ea_model_has_no_router() {
    let model = Model { kind: "ResNet32EAModel", experts: 1, side: 8, ..Model::default() };
    let mut checkpoint = model.run(1).checkpoint;
    for (name, shape) in [("weight", vec![1, 20]), ("bias", vec![1])] {
        let data = vec![0.5; shape.iter().product()];
        checkpoint.tensors.insert(format!("expert_help_pred_fc.{name}"), Tensor { shape, data });
    }
    assert_eq!(import(&checkpoint).unwrap().network.routing, Routing::None);
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let misshaped = |name: &'static str, shape: Vec<usize>| {
        move |checkpoint: &mut Checkpoint| {
            let data = vec![0.1; shape.iter().product()];
            checkpoint.tensors.insert(name.into(), Tensor { shape, data });
        }
    };
    assert_error(&["layer2s.1.3.conv1.weight", "missing", "[18, 18, 3, 3]"], |checkpoint| {
        checkpoint.tensors.remove("layer2s.1.3.conv1.weight");
    });
    assert_error(&["bn1.running_var", "missing", "[16]"], |checkpoint| {
        checkpoint.tensors.remove("bn1.running_var");
    });
    assert_error(
        &["layer1.0.conv1.weight", "[16, 16, 5, 5]", "expected [16, 16, 3, 3]"],
        misshaped("layer1.0.conv1.weight", vec![16, 16, 5, 5]),
    );
    assert_error(&["linears.0.weight", "[10, 20]", "expected [20, 10]"], misshaped("linears.0.weight", vec![10, 20]));
    assert_error(
        &["expert_help_pred_fc.weight", "[1, 46]", "expected [1, 20]"],
        misshaped("expert_help_pred_fc.weight", vec![1, 46]),
    );
    assert_error(&["layer9.weight [3]", "no place"], misshaped("layer9.weight", vec![3]));
    assert_error(&["linears.0.bias", "use_norm"], misshaped("linears.0.bias", vec![10]));
    assert_error(&["expert_help_pred_fc.bias", "EAModel"], |checkpoint| {
        checkpoint.config["arch"]["type"] = json!("ResNet32Model");
    });
    assert_error(&["layer1.4.bn2.running_var[3]", "-0.5", "never negative"], |checkpoint| {
        checkpoint.tensors.get_mut("layer1.4.bn2.running_var").unwrap().data[3] = -0.5;
    });
    assert_error(&["layer3s.0.0.bn1", "beyond the range"], |checkpoint| {
        checkpoint.tensors.get_mut("layer3s.0.0.bn1.weight").unwrap().data[0] = 3e38;
        checkpoint.tensors.get_mut("layer3s.0.0.bn1.running_var").unwrap().data[0] = 0.0;
    });
    assert_error(&["no classifier", "linears.0.weight"], |checkpoint| {
        checkpoint.tensors.retain(|name, _| !name.starts_with("linears"));
    });
    // A counter of batch normalisation may come or go.
    let mut checkpoint = Model { side: 8, ..Model::default() }.run(1).checkpoint;
    assert!(checkpoint.tensors.remove("bn1.num_batches_tracked").is_some());
    import(&checkpoint).unwrap();
}

#[test]
fn arguments_out_of_range_are_named() {
    for value in [json!(1_000_000_000), json!(0), json!(-1), json!(2.5), json!("2"), json!([2]), json!(1e300)] {
        assert_argument("num_experts", value, &["arch.args.num_experts", "from 1 to 64"]);
    }
    assert_argument("num_experts", json!(3), &["num_experts is 3", "classifiers of 2"]);
    assert_argument("num_classes", Value::Null, &["arch.args.num_classes is missing"]);
    assert_argument("num_classes", json!(-5), &["arch.args.num_classes", "-5"]);
    assert_argument("num_classes", json!(12), &["linears.0.weight", "[20, 10]", "expected [20, 12]"]);
    assert_argument("top_choices_num", json!(11), &["top_choices_num is 11", "10 classes"]);
    assert_argument("top_choices_num", json!(0), &["top_choices_num", "from 1"]);
    assert_argument("use_norm", json!("yes"), &["arch.args.use_norm", "true or false"]);
    assert_argument("use_norm", json!(false), &["linears.0.weight", "expected [10, 20]"]);
    assert_argument("s", json!("30"), &["arch.args.s", "finite number"]);
    assert_argument("layer3_output_dim", json!(1u64 << 60), &["layer3_output_dim", "from 1 to 16384"]);
    assert_argument(
        "layer2_output_dim",
        json!(20),
        &["layer2s.0.0.conv1.weight", "[18, 16, 3, 3]", "expected [20, 16, 3, 3]"],
    );
    assert_argument("layer3_output_dim", json!(null), &["layer3s.0.0.conv1.weight", "expected [48, 18, 3, 3]"]);
    assert_argument("share_layer3", json!("yes"), &["share_layer3", "true or false"]);
    assert_argument("share_expert_help_pred_fc", json!(0), &["expert_help_pred_fcs.0.weight", "missing", "[1, 20]"]);
    assert_error(&["ResNet18Model", "ResNet32EAModel", "ResNeXt152Model"], |checkpoint| {
        checkpoint.config["arch"]["type"] = json!("ResNet18Model");
    });
    assert_error(&["no arch.type", "ResNet32Model"], |checkpoint| checkpoint.config = json!({"arch": 3}));
    assert_error(&["arch.args must be an object"], |checkpoint| checkpoint.config["arch"]["args"] = json!([1]));
}

/// BalPoE's checkpoints of the CIFAR net repeat shared stages for every expert.
#[test]
fn stages_shared_in_training_may_be_repeated() {
    let mut checkpoint = Model { side: 8, ..Model::default() }.run(1).checkpoint;
    let plain = import(&checkpoint).unwrap();
    checkpoint.config["arch"]["args"]["share_layer2"] = json!(true);
    checkpoint.config["arch"]["args"]["share_layer3"] = json!(false);
    let shared = import(&checkpoint).unwrap();
    assert_eq!(shared.network, plain.network);
    assert!(shared.warnings.len() == 1 && shared.warnings[0].contains("share_layer2"), "{:?}", shared.warnings);
}

#[test]
fn a_shortcut_that_cannot_pad_is_refused() {
    assert_argument("layer2_output_dim", json!(19), &["layer2_output_dim is 19", "16 channels", "even"]);
    assert_argument("layer2_output_dim", json!(12), &["layer2_output_dim is 12", "16 channels", "even"]);
    assert_argument("layer3_output_dim", json!(21), &["layer3_output_dim is 21", "18 channels", "even"]);
}

#[test]
fn an_input_that_is_too_large_is_refused() {
    assert_error(&["input size", "16384"], |checkpoint| {
        checkpoint.config["data_loader"]["args"]["input_size"] = json!(1u64 << 40);
    });
    assert_error(&["input_size", "not [1, 2, 3, 4]"], |checkpoint| {
        checkpoint.config["data_loader"]["args"]["input_size"] = json!([1, 2, 3, 4]);
    });
}

#[test]
fn preprocessing_follows_the_data_loader() {
    let checkpoint = Model { side: 8, ..Model::default() }.run(1).checkpoint;
    let with = |loader: Value, options: &ImportOptions| {
        let mut checkpoint = checkpoint.clone();
        checkpoint.config["data_loader"] = loader;
        let imported = network(&checkpoint, options).unwrap();
        assert_eq!(imported.network.input.mean, imported.preprocess.mean);
        assert_eq!(imported.network.input.shape.height, imported.preprocess.input.height);
        let Preprocess { input, mean, std, resize_short } = imported.preprocess;
        ((input.height, input.width, resize_short), (mean[0], std[0]), imported.warnings)
    };
    let cases = [
        ("ImbalanceCIFAR100DataLoader", (32, 32, None), (0.4914, 0.2023)),
        ("ImbalanceCIFAR10DataLoader", (32, 32, None), (0.4914, 0.2023)),
        ("CIFAR100DataLoader", (32, 32, None), (0.507_075_16, 0.267_334_3)),
        ("ImageNetLTDataLoader", (224, 224, Some(256)), (0.485, 0.229)),
        ("iNaturalistDataLoader", (224, 224, Some(256)), (0.466, 0.195)),
        ("PlacesLTDataLoader", (224, 224, Some(256)), (0.485, 0.229)),
    ];
    let none = ImportOptions::default();
    for (kind, size, values) in cases {
        let (got_size, got_values, warnings) = with(json!({"type": kind, "args": {}}), &none);
        assert_eq!((got_size, got_values), (size, values), "{kind}");
        assert!(warnings.is_empty(), "{kind}: {warnings:?}");
    }
    let (size, values, warnings) = with(json!({"type": "MyLoader"}), &none);
    assert_eq!((size, values), ((32, 32, None), (0.4914, 0.2023)));
    for part in ["\"MyLoader\"", "--mean", "--std", "--input-size"] {
        assert!(warnings[0].contains(part), "{warnings:?}");
    }
    assert_eq!(with(Value::Null, &none).2.len(), 1);
    // Keys of the loader's arguments win over its name, options over both.
    let args = json!({"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "input_size": [3, 40, 48], "resize": 50});
    let loader = json!({"type": "MyLoader", "args": args});
    let (size, values, warnings) = with(loader.clone(), &none);
    assert_eq!((size, values, warnings.len()), ((40, 48, Some(50)), (0.1, 0.5), 0));
    let options = ImportOptions {
        mean: Some(vec![0.9; 3]),
        std: Some(vec![0.7; 3]),
        input_size: Some([16, 16]),
        resize: Some(20),
        ..ImportOptions::default()
    };
    assert_eq!(with(loader, &options), ((16, 16, Some(20)), (0.9, 0.7), Vec::new()));
    // The proportion of resize and crop is kept.
    let half = ImportOptions { input_size: Some([112, 112]), ..none };
    assert_eq!(with(json!({"type": "ImageNetLTDataLoader"}), &half).0, (112, 112, Some(128)));
    let wrong = ImportOptions { mean: Some(vec![0.5]), ..half };
    assert!(format!("{:#}", network(&checkpoint, &wrong).unwrap_err()).contains("mean must be 3"));
}

/// The trained CIFAR-100-LT model: in the repository, else beside it.
fn trained_model() -> Option<PathBuf> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let shared = std::env::var_os("RIDE_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    let places =
        [root.join("examples/models"), shared.join("models")].map(|place| place.join("ride-resnet32-cifar100lt"));
    places.into_iter().find(|place| place.join("checkpoint.pth").is_file())
}

#[test]
fn the_trained_model_is_imported() {
    let Some(path) = trained_model() else {
        println!("skipped: ride-resnet32-cifar100lt is not there");
        return;
    };
    let checkpoint = checkpoint::load(&path).unwrap();
    assert!(checkpoint.notes.is_empty(), "{:?}", checkpoint.notes);
    let Imported { network, warnings, preprocess, .. } = import(&checkpoint).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((network.arch.as_str(), network.classes, network.experts.len()), ("ResNet32EAModel", 100, 3));
    assert_eq!((preprocess.input.bytes(), preprocess.resize_short), (3072, None));

    let parts = || std::iter::once(&network.stem).chain(network.experts.iter().map(|expert| &expert.trunk));
    let names: Vec<&str> = parts().flat_map(|part| &part.nodes).map(|node| node.name.as_str()).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "names are unique");
    let expert: Vec<_> = network.experts[0].trunk.nodes.iter().take(7).map(|node| node.name.as_str()).collect();
    let block = ["conv1", "relu1", "conv2", "shortcut", "add", "relu2"].map(|op| format!("expert0.layer2.0.{op}"));
    assert_eq!(expert, [&block[..], &["expert0.layer2.1.conv1".to_string()]].concat());
    assert_eq!(
        names[..5],
        ["stem.conv1", "stem.relu1", "stem.layer1.0.conv1", "stem.layer1.0.relu1", "stem.layer1.0.conv2"]
    );

    // Sizes that follow from the architecture: 16 channels in the stem, 24 and 48 in each expert.
    let weights = |part: &Part| {
        let convolutions =
            part.nodes.iter().filter_map(|node| if let Op::Conv(conv) = &node.op { Some(conv) } else { None });
        convolutions.map(|conv| conv.weight.len()).sum::<usize>()
    };
    assert_eq!(weights(&network.stem), 9 * (3 * 16 + 10 * 16 * 16));
    for expert in &network.experts {
        assert_eq!(weights(&expert.trunk), 9 * (16 * 24 + 9 * 24 * 24 + 24 * 48 + 9 * 48 * 48));
        assert!(expert.head.normalize && expert.head.weight.len() == 4800);
        for row in expert.head.weight.chunks_exact(48) {
            let norm = row.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
            assert!((norm - 30.0).abs() < 1e-4, "{norm}");
        }
    }
    let Routing::Assignment(routers) = &network.routing else { panic!("it has routers") };
    assert_eq!(routers.iter().map(|router| (router.top_k, router.fc_weight.len())).collect::<Vec<_>>(), [(30, 46); 2]);
    assert_eq!(routers[0].fc_weight, routers[1].fc_weight);
}
