//! ONNX files of both of PyTorch's exporters: imported, they must compute what tract, an independent engine, computes.

mod npz;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ride_compiler::checkpoint::Embedded;
use ride_compiler::description::{CombinerKind, CombinerTable, Rules};
use ride_compiler::import::{ImportOptions, Imported};
use ride_compiler::network::{Op, Routing};
use ride_compiler::onnx::{self, OnnxModel};
use ride_compiler::reference::{Executor, Forward, Image, Policy, Scratch};
use ride_compiler::source::Source;
use tract_onnx::prelude::*;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/onnx").join(name)
}

fn options() -> ImportOptions {
    ImportOptions { mean: Some(vec![0.0; 3]), std: Some(vec![1.0; 3]), ..ImportOptions::default() }
}

fn import(name: &str) -> Imported {
    let model = OnnxModel::load(&data(name)).unwrap();
    onnx::import(&model, &options()).unwrap_or_else(|error| panic!("{name}: {error:#}"))
}

fn import_error(name: &str) -> String {
    let model = OnnxModel::load(&data(name)).unwrap();
    format!("{:#}", onnx::import(&model, &options()).expect_err(name))
}

/// Numbers in -1..1 from a seed (xorshift32, Marsaglia 2003).
fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / 2f32.powi(31) - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// NHWC to NCHW.
fn planar(image: &[f32], channels: usize) -> Vec<f32> {
    (0..channels).flat_map(|c| image.iter().skip(c).step_by(channels).copied()).collect()
}

/// All outputs of a file as tract computes them.
fn tract(name: &str, inputs: &[(Vec<usize>, Vec<f32>)]) -> Vec<Vec<f32>> {
    let onnx = tract_onnx::onnx();
    let mut proto = onnx.proto_model_for_path(data(name)).unwrap();
    for node in proto.graph.iter_mut().flat_map(|graph| &mut graph.node) {
        // tract counts an operand that is left out by an empty name at the end.
        if node.op_type == "Pad" && node.input.last().is_some_and(String::is_empty) {
            node.input.pop();
        }
    }
    let mut model = onnx.model_for_proto_model(&proto).unwrap();
    for (place, (shape, _)) in inputs.iter().enumerate() {
        model = model.with_input_fact(place, f32::fact(shape).into()).unwrap();
    }
    let model = model.into_optimized().unwrap().into_runnable().unwrap();
    let tensors = inputs.iter().map(|(shape, values)| Tensor::from_shape(shape, values).unwrap().into());
    let outputs = model.run(tensors.collect()).unwrap();
    outputs.iter().map(|output| output.as_slice::<f32>().unwrap().to_vec()).collect()
}

fn forward(imported: &Imported, image: &[f32]) -> Forward {
    // The executor takes an image that is normalised; a graph that does it itself has it folded into mean and std.
    let (mean, std) = (&imported.network.input.mean, &imported.network.input.std);
    let normalised: Vec<f32> = image.iter().enumerate().map(|(i, x)| (x - mean[i % 3]) / std[i % 3]).collect();
    let executor = Executor::new(&imported.network).unwrap();
    executor.forward(Image::Normalised(&normalised), Policy::All, &mut Scratch::default(), None).unwrap()
}

#[track_caller]
fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let scale = theirs.iter().fold(1f32, |scale, x| scale.max(x.abs()));
    assert!(theirs.iter().any(|x| (x - theirs[0]).abs() > 0.001) || theirs.len() == 1, "{what}: {theirs:?}");
    for (a, b) in ours.iter().zip(theirs) {
        assert!((a - b).abs() <= 1e-4 * scale, "{what}: {a} and {b}");
    }
}

/// Checks each expert's logits and each router's score against the file's outputs, in their order.
fn check_listed(name: &str, experts: usize, scores: usize, side: usize) -> Imported {
    let imported = import(name);
    assert!(imported.warnings.is_empty(), "{name}: {:?}", imported.warnings);
    assert_eq!(imported.network.experts.len(), experts, "{name}");
    for seed in 1..4 {
        let image = noise(seed, side * side * 3);
        let expected = tract(name, &[(vec![1, 3, side, side], planar(&image, 3))]);
        assert_eq!(expected.len(), experts + scores, "{name}");
        let ours = forward(&imported, &image);
        for (index, expert) in ours.experts.iter().enumerate() {
            assert_close(&format!("{name}: expert {index}"), &expert.logits, &expected[index]);
        }
        assert_eq!(ours.scores.len(), scores);
        for (index, score) in ours.scores.iter().enumerate() {
            assert_close(&format!("{name}: router {index}"), &[*score], &expected[experts + index]);
        }
    }
    imported
}

/// Checks the mean logits of all experts against the first output.
fn check_mean(name: &str, experts: usize) -> Imported {
    let imported = import(name);
    assert_eq!(imported.network.experts.len(), experts, "{name}");
    let image = noise(9, 16 * 16 * 3);
    let expected = tract(name, &[(vec![1, 3, 16, 16], planar(&image, 3))]);
    assert_close(name, &forward(&imported, &image).mean_logits, &expected[0]);
    imported
}

#[test]
fn a_graph_with_every_expert_and_router() {
    for name in ["ride-script-13.onnx", "ride-dynamo-18.onnx"] {
        let network = check_listed(name, 3, 2, 16).network;
        // A convolution with ReLU, and a block: the stem of this little network.
        assert_eq!(network.stem.nodes.len(), 7, "{name}");
        assert!(network.stem.nodes.iter().all(|node| node.name.starts_with("stem.")));
        // The exporter shares the shortcut between experts; each has its own here.
        for expert in &network.experts {
            assert_eq!(expert.trunk.nodes.len(), 12, "{name}");
            assert!(
                expert
                    .trunk
                    .nodes
                    .iter()
                    .any(|node| matches!(node.op, Op::Shortcut { stride: 2, before: 1, after: 1 }))
            );
            assert!(expert.head.normalize);
        }
        assert!(matches!(&network.routing, Routing::Assignment(routers) if routers.iter().all(|r| r.top_k == 4)));
    }
}

#[test]
fn the_mean_and_the_stack_of_experts() {
    let mean = check_mean("mean-script-17.onnx", 3).network;
    assert!(mean.experts.iter().all(|expert| expert.head.normalize) && mean.routing == Routing::None);
    let stacked = check_mean("stacked-dynamo-20.onnx", 3);
    let image = noise(9, 16 * 16 * 3);
    let expected = &tract("stacked-dynamo-20.onnx", &[(vec![1, 3, 16, 16], planar(&image, 3))])[1];
    for (index, expert) in forward(&stacked, &image).experts.iter().enumerate() {
        assert_close("stacked", &expert.logits, &expected[index * 10..][..10]);
    }
}

#[test]
fn weights_of_experts_and_an_adjustment_of_classes() {
    let network = check_mean("weighted-script-17.onnx", 3).network;
    assert!(network.experts.iter().all(|expert| expert.head.bias.iter().any(|&bias| bias < 0.0)));
}

/// Every model of `make.py` by both exporters with every set of operators:
/// `RIDE_ONNX_MATRIX=folder cargo test --test onnx -- --ignored`.
#[test]
#[ignore = "needs the folder that tests/data/onnx/make.py --matrix writes, named by RIDE_ONNX_MATRIX"]
fn every_exporter_and_operator_set() {
    let folder = PathBuf::from(std::env::var_os("RIDE_ONNX_MATRIX").expect("RIDE_ONNX_MATRIX names the folder"));
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let (name, file) = (path.to_str().unwrap(), path.file_name().unwrap().to_str().unwrap());
        match file.split('-').next().unwrap() {
            "ride" => drop(check_listed(name, 3, 2, 16)),
            "mean" | "stacked" | "weighted" => drop(check_mean(name, 3)),
            "separate" => drop(check_listed(name, 2, 0, 16)),
            "plain" | "mobile" => drop(check_listed(name, 1, 0, 16)),
            "bottlenecks" => drop(check_listed(name, 2, 0, 32)),
            _ => continue,
        }
        count += 1;
    }
    assert!(count >= 90, "{count}");
}

#[test]
fn experts_that_share_nothing() {
    let network = check_listed("separate-script-15.onnx", 2, 0, 16).network;
    assert!(network.stem.nodes.is_empty());
    assert!(network.experts.iter().all(|expert| !expert.head.normalize && expert.trunk.nodes.len() == 4));
}

#[test]
fn a_classifier_with_one_path() {
    for name in ["plain-script-13.onnx", "plain-dynamo-21.onnx"] {
        let network = check_listed(name, 1, 0, 16).network;
        assert_eq!((network.stem.nodes.len(), network.classes), (2, 7));
    }
}

#[test]
fn depthwise_convolutions_and_relu6() {
    let network = check_listed("mobile-script-17.onnx", 1, 0, 16).network;
    let nodes: Vec<_> = network.stem.nodes.iter().chain(&network.experts[0].trunk.nodes).collect();
    let depthwise = |op: &Op| matches!(op, Op::Conv(c) if c.groups == c.in_channels && c.groups > 1);
    assert_eq!(nodes.iter().filter(|node| depthwise(&node.op)).count(), 3);
    assert_eq!(nodes.iter().filter(|node| node.op == Op::Clamp { max: 6.0 }).count(), 8);
}

#[test]
fn groups_projections_pooling_and_an_image_that_the_graph_normalises() {
    let imported = check_listed("bottlenecks-dynamo-18.onnx", 2, 0, 32);
    let network = &imported.network;
    assert_close("mean", &network.input.mean, &[0.485, 0.456, 0.406]);
    assert_close("std", &network.input.std, &[0.229, 0.224, 0.225]);
    assert!(network.stem.nodes.iter().any(|node| matches!(node.op, Op::MaxPool { kernel: 3, stride: 2, padding: 1 })));
    assert!(matches!(&network.stem.nodes[0].op, Op::Conv(c) if c.kernel == 7 && c.padding == 3));
}

#[test]
fn a_split_model_equals_the_whole_one() {
    let whole = check_listed("ride-script-13.onnx", 3, 2, 16);
    let split = import("split");
    let image = noise(5, 16 * 16 * 3);
    let (a, b) = (forward(&whole, &image), forward(&split, &image));
    for (a, b) in a.experts.iter().zip(&b.experts) {
        assert_close("split", &a.logits, &b.logits);
    }
    assert_close("scores", &a.scores, &b.scores);
    assert_eq!(whole.network.stem.nodes.len(), split.network.stem.nodes.len());
}

#[test]
fn what_cannot_be_taken_is_explained() {
    let error = import_error("hardswish-script-17.onnx");
    for part in ["node \"/features", "(HardSwish)", "ReLU6"] {
        assert!(error.contains(part), "{error}");
    }
    for name in ["baked.onnx", "baked-one.onnx"] {
        let error = import_error(name);
        assert!(error.contains("traced the routing") && error.contains("export_onnx.py"), "{name}: {error}");
    }
}

#[test]
fn normalisation_must_be_known() {
    let model = OnnxModel::load(&data("plain-script-13.onnx")).unwrap();
    let error = format!("{:#}", onnx::import(&model, &ImportOptions::default()).unwrap_err());
    assert!(error.contains("--mean") && error.contains("ride.toml"), "{error}");
    let wrong = ImportOptions { input_size: Some([32, 32]), ..options() };
    let error = format!("{:#}", onnx::import(&model, &wrong).unwrap_err());
    assert!(error.contains("--input-size"), "{error}");
}

/// Damaged files give an error or another network, never a panic, and never more memory than the file suggests.
#[test]
fn damaged_files_are_harmless() {
    for name in ["ride-script-13.onnx", "plain-dynamo-21.onnx"] {
        let bytes = std::fs::read(data(name)).unwrap();
        for end in (0..bytes.len()).step_by(bytes.len() / 60) {
            assert!(OnnxModel::from_bytes(&bytes[..end]).is_err(), "{name} cut off at {end}");
        }
        for seed in 0..300u32 {
            let mut damaged = bytes.clone();
            for value in noise(seed + 1, 6).chunks_exact(2) {
                let at = ((value[0] + 1.0) / 2.0 * (damaged.len() - 1) as f32) as usize;
                damaged[at] = ((value[1] + 1.0) * 127.0) as u8;
            }
            if let Ok(model) = OnnxModel::from_bytes(&damaged)
                && let Ok(imported) = onnx::import(&model, &options())
            {
                assert!(Executor::new(&imported.network).is_ok(), "{name}: seed {seed}");
            }
        }
    }
}

/// Runs the binary; standard output, or standard error if it fails.
fn ride_compile(args: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_ride-compile")).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// An archive of noisy pictures of `side` x `side`, three of each class.
fn pictures(file: &Path, classes: usize, side: usize) {
    let count = 3 * classes;
    let pixels: Vec<u8> = noise(1, count * side * side * 3).iter().map(|x| (x * 100.0 + 128.0) as u8).collect();
    let labels: Vec<usize> = (0..count).map(|index| index % classes).collect();
    npz::write(file, (side, side), &pixels, &labels);
}

#[test]
fn the_command_line_takes_a_split_model_with_its_description() {
    let lab = tempfile::tempdir().unwrap();
    let at = |name: &str| lab.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(lab.path().join("model")).unwrap();
    for entry in fs::read_dir(data("split")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, lab.path().join("model").join(path.file_name().unwrap())).unwrap();
    }
    pictures(&lab.path().join("images.npz"), 10, 16);
    let (model, images, artifact) = (at("model"), at("images.npz"), at("out.ride"));
    let error = ride_compile(&["build", &model, "--data", &images, "-o", &artifact]).unwrap_err();
    assert!(error.contains("--mean") && error.contains("ride.toml"), "{error}");
    fs::write(lab.path().join("model/ride.toml"), "[preprocess]\nmean = [0.5]\nstd = [0.25]\n[onnx]\nexperts = 3\n")
        .unwrap();
    let built = ride_compile(&["build", &model, "--data", &images, "-o", &artifact, "--json"]).unwrap();
    let built: serde_json::Value = serde_json::from_str(&built).unwrap();
    assert_eq!((built["experts"].as_u64(), built["routed"].as_bool()), (Some(3), Some(true)));
    let report = ride_compile(&["verify", &artifact, "--model", &model, "--data", &images, "--json"]).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["fixed"][2]["sqnr_db"].as_f64().unwrap() > 25.0, "{report}");
    let shown = ride_compile(&["inspect", &model]).unwrap();
    assert!(
        shown.contains("ONNX model") && shown.contains("3, combined by mean") && shown.contains("ride.toml"),
        "{shown}"
    );
    fs::write(lab.path().join("model/ride.toml"), "[onnx]\nexperts = 2\n").unwrap();
    let error = ride_compile(&["inspect", &model]).unwrap_err();
    assert!(error.contains("3 experts") && error.contains("says 2"), "{error}");
}

/// An activation with an upper limit is a limit of the convolution's integer output.
#[test]
fn a_limited_relu_runs_in_int8() {
    let lab = tempfile::tempdir().unwrap();
    let at = |name: &str| lab.path().join(name).to_str().unwrap().to_owned();
    let model = data("clipped-script-17.onnx").to_str().unwrap().to_owned();
    let network = check_listed("clipped-script-17.onnx", 1, 0, 16).network;
    let nodes = network.stem.nodes.iter().chain(&network.experts[0].trunk.nodes);
    assert_eq!(nodes.filter(|node| node.op == Op::Clamp { max: 0.75 }).count(), 2);
    pictures(&lab.path().join("images.npz"), 7, 16);
    let (images, artifact) = (at("images.npz"), at("out.ride"));
    let normalise = ["--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2"];
    let build = ["build", &model, "--data", &images, "-o", &artifact];
    ride_compile(&[&build[..], &normalise].concat()).unwrap();
    let report = ride_compile(&["verify", &artifact, "--model", &model, "--data", &images, "--json"]).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["fixed"][0]["sqnr_db"].as_f64().unwrap() > 25.0, "{report}");
}

/// Experts that share nothing read the image themselves; a description gives them routers, as their graph has none.
#[test]
fn experts_without_a_stem_run_in_int8_with_routers_of_a_description() {
    let lab = tempfile::tempdir().unwrap();
    let at = |name: &str| lab.path().join(name).to_str().unwrap().to_owned();
    fs::copy(data("separate-script-15.onnx"), lab.path().join("model.onnx")).unwrap();
    let (model, images, artifact) = (at("model.onnx"), at("images.npz"), at("out.ride"));
    let preprocess = "[preprocess]\nmean = [0.5]\nstd = [0.25]\n";
    let describe = |text: &str| fs::write(lab.path().join("ride.toml"), format!("{preprocess}{text}")).unwrap();
    // The threshold is the middle of the scores, so that some pictures stop and some go on.
    describe("[router]\ncriterion = 'margin'\nthreshold = 0");
    let mut imported = Source::open(Path::new(&model), Embedded::Ignore).unwrap().import(&Default::default()).unwrap();
    imported.apply_rules(&[]).unwrap();
    let network = imported.network;
    pictures(&lab.path().join("images.npz"), network.classes, 16);
    let executor = Executor::new(&network).unwrap();
    let count = 3 * network.classes;
    let pixels: Vec<u8> = noise(1, count * 16 * 16 * 3).iter().map(|x| (x * 100.0 + 128.0) as u8).collect();
    let score = |image: &[u8]| {
        executor.forward(Image::Pixels(image), Policy::All, &mut Scratch::default(), None).unwrap().scores[0]
    };
    let mut scores: Vec<f32> = pixels.chunks_exact(16 * 16 * 3).map(score).collect();
    scores.sort_by(f32::total_cmp);
    let threshold = (scores[count / 2 - 1] + scores[count / 2]) / 2.0;
    describe(&format!("[router]\ncriterion = 'margin'\nthreshold = {threshold}\n[combiner]\nkind = 'sum'\n"));
    let built = ride_compile(&["build", &model, "--data", &images, "-o", &artifact, "--json"]).unwrap();
    let built: serde_json::Value = serde_json::from_str(&built).unwrap();
    assert_eq!((built["experts"].as_u64(), built["combiner"].as_str()), (Some(2), Some("sum")));
    let report = ride_compile(&["verify", &artifact, "--model", &model, "--data", &images, "--json"]).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["fixed"][1]["sqnr_db"].as_f64().unwrap() > 25.0, "{report}");
    assert!(report["agreement"]["route"].as_f64().unwrap() > 85.0, "{report}");
    let alone = report["int8"]["experts"][0].as_f64().unwrap();
    assert!((0.3..0.7).contains(&alone), "{report}");
    // Names and architectures are for checkpoints.
    describe("[model]\nseparate = true\n");
    let error = ride_compile(&["inspect", &model]).unwrap_err();
    assert!(error.contains("ride.toml") && error.contains("[model]"), "{error}");
}

#[test]
fn weights_of_a_graph_stay() {
    let combiner = Some(CombinerTable { kind: CombinerKind::Mean, weights: None });
    let options = ImportOptions { rules: Rules { combiner, ..Rules::default() }, ..options() };
    let model = OnnxModel::load(&data("weighted-script-17.onnx")).unwrap();
    let error = format!("{:#}", onnx::import(&model, &options).unwrap_err());
    assert!(error.contains("[combiner]") && error.contains("weights"), "{error}");
}
