//! The float forward pass of the ImageNet family against PyTorch.
//!
//! `examples/peers/imagenet.py golden` wrote `data/imagenet.json` in double precision, with the official models as
//! `examples/export/ride_model.py` writes them down. Weights and image are made here from the same counter-based generator,
//! so that only outputs are stored.

mod seeded;

use std::fs;

use anyhow::{Context, Result};
use ride_compiler::checkpoint;
use ride_compiler::import::{self, ImportOptions};
use ride_compiler::reference::{Executor, Image, Policy, Scratch};
use serde_json::{Map, Value, json};

use seeded::uniform;

/// Largest difference of an output, as a part of the largest output.
const TOLERANCE: f64 = 2e-5;
/// Rows and columns of the image.
const SIDE: usize = 64;

/// A state dict in the making, as the bytes of a safetensors file.
#[derive(Default)]
struct State {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl State {
    fn tensor(&mut self, name: &str, shape: &[usize]) {
        let count: usize = shape.iter().product();
        let fan_in = if shape.len() == 4 { count / shape[0] } else { *shape.last().unwrap_or(&1) };
        let spread = (6.0 / fan_in as f64).sqrt();
        let begin = self.data.len();
        for u in uniform(name, count) {
            let value = match shape {
                [_, _, ..] => u * spread,
                _ if name.ends_with("running_var") => 1.0 + 0.5 * u,
                _ if name.ends_with("weight") => 0.9 + 0.2 * u,
                _ => 0.2 * u,
            };
            self.data.extend((value as f32).to_le_bytes());
        }
        let offsets = [begin, self.data.len()];
        self.header.insert(name.to_owned(), json!({ "dtype": "F32", "shape": shape, "data_offsets": offsets }));
    }

    fn conv(&mut self, conv: &str, norm: &str, [output, input, kernel]: [usize; 3]) {
        self.tensor(&format!("{conv}.weight"), &[output, input, kernel, kernel]);
        for field in ["weight", "bias", "running_mean", "running_var"] {
            self.tensor(&format!("{norm}.{field}"), &[output]);
        }
    }

    fn linear(&mut self, name: &str, output: usize, input: usize) {
        self.tensor(&format!("{name}.weight"), &[output, input]);
        self.tensor(&format!("{name}.bias"), &[output]);
    }

    /// Residual blocks `name.0`, `name.1`, ...; returns their output channels.
    fn stage(
        &mut self,
        arch: &str,
        name: &str,
        mut input: usize,
        planes: usize,
        (blocks, stride): (usize, usize),
    ) -> usize {
        let next = arch.starts_with("ResNeXt");
        let (inner, groups) = if next { (planes * 4 / 64 * 32, 32) } else { (planes, 1) };
        for block in 0..blocks {
            let at = |module: &str| format!("{name}.{block}.{module}");
            let (output, plan) = match arch {
                "ResNet10" => (planes, vec![[planes, input, 3], [planes, planes, 3]]),
                _ => (4 * planes, vec![[inner, input, 1], [inner, inner / groups, 3], [4 * planes, inner, 1]]),
            };
            for (i, shape) in plan.into_iter().enumerate() {
                self.conv(&at(&format!("conv{}", i + 1)), &at(&format!("bn{}", i + 1)), shape);
            }
            if input != output || block == 0 && stride > 1 {
                self.conv(&at("downsample.0"), &at("downsample.1"), [output, input, 1]);
            }
            input = output;
        }
        input
    }

    /// Everything that the official model of this kind has.
    fn model(kind: &str, args: &Value) -> Result<Self> {
        let mut state = State::default();
        let base = kind.trim_end_matches("Model");
        let (arch, routed) = base.strip_suffix("EA").map_or((base, false), |arch| (arch, true));
        let depths = match arch.trim_start_matches("ResNet").trim_start_matches("ResNeXt") {
            "10" => [1, 1, 1, 1],
            "50" => [3, 4, 6, 3],
            "101" => [3, 4, 23, 3],
            _ => [3, 8, 36, 3],
        };
        let number = |key: &str| args[key].as_u64().map(|n| n as usize).context(key.to_owned());
        let (classes, experts) = (number("num_classes")?, number("num_experts")?);
        let (third, fourth) = (number("layer3_output_dim")?, number("layer4_output_dim")?);
        let flag = |key: &str, default: bool| args[key].as_bool().unwrap_or(default);
        state.conv("conv1", "bn1", [64, 3, 7]);
        let one = state.stage(arch, "layer1", 64, 64, (depths[0], 1));
        let two = state.stage(arch, "layer2", one, 128, (depths[1], 2));
        let shared = flag("share_layer3", false);
        let mut three = if shared { state.stage(arch, "layer3", two, third, (depths[2], 2)) } else { 0 };
        for i in 0..experts {
            if !shared {
                three = state.stage(arch, &format!("layer3s.{i}"), two, third, (depths[2], 2));
            }
            let features = state.stage(arch, &format!("layer4s.{i}"), three, fourth, (depths[3], 2));
            let linear = format!("linears.{i}");
            match flag("use_norm", true) {
                true => state.tensor(&format!("{linear}.weight"), &[features, classes]),
                false => state.linear(&linear, classes, features),
            }
            if routed && i + 1 < experts {
                state.linear(&format!("expert_help_pred_hidden_fcs.{i}"), 16, features);
                let inputs = number("top_choices_num")? + 16;
                match flag("share_expert_help_pred_fc", true) {
                    true if i > 0 => {}
                    true => state.linear("expert_help_pred_fc", 1, inputs),
                    false => state.linear(&format!("expert_help_pred_fcs.{i}"), 1, inputs),
                }
            }
        }
        Ok(state)
    }

    fn file(&self) -> Result<Vec<u8>> {
        let header = serde_json::to_vec(&self.header)?;
        Ok([&(header.len() as u64).to_le_bytes()[..], &header, &self.data].concat())
    }
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

#[track_caller]
fn assert_close(what: &str, got: &[f32], want: &[f64]) {
    let largest = got.iter().fold(1.0, |most: f64, v| most.max(f64::from(v.abs())));
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(got) - want).abs() <= TOLERANCE * largest, "{what}, number {i}: {got}, expected {want}");
    }
}

#[test]
fn every_architecture_computes_what_pytorch_does() -> Result<()> {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/imagenet.json"))?;
    assert_eq!(cases.len(), 8);
    for case in &cases {
        let (kind, args) = (case["type"].as_str().context("no type")?, &case["args"]);
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("model.safetensors"), State::model(kind, args)?.file()?)?;
        let config = json!({
            "arch": { "type": kind, "args": args },
            "data_loader": { "type": "ImageNetLTDataLoader", "args": {} },
        });
        fs::write(folder.path().join("config.json"), config.to_string())?;
        let checkpoint = checkpoint::load(folder.path())?;
        let options = ImportOptions { input_size: Some([SIDE, SIDE]), ..ImportOptions::default() };
        let network = import::network(&checkpoint, &options).context(kind.to_owned())?.network;
        let pixels: Vec<u8> =
            uniform("image", SIDE * SIDE * 3).into_iter().map(|u| ((u + 1.0) * 128.0) as u8).collect();
        let executor = Executor::new(&network)?;
        let out = executor.forward(Image::Pixels(&pixels), Policy::All, &mut Scratch::default(), None)?;
        let logits = case["logits"].as_array().context("no logits")?;
        assert_eq!(out.experts.len(), logits.len(), "{kind}");
        for (i, (expert, want)) in out.experts.iter().zip(logits).enumerate() {
            let want = numbers(want);
            assert_eq!(want.len(), expert.logits.len().min(24), "{kind}");
            assert_close(&format!("{kind}, expert {i}"), &expert.logits[..want.len()], &want);
        }
        let scores = numbers(&case["scores"]);
        assert_eq!(out.scores.len(), scores.len(), "{kind}");
        assert_close(&format!("{kind}, scores"), &out.scores, &scores);
    }
    Ok(())
}
