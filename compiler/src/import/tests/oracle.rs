//! A second, independent forward pass of the whole family: double precision, NCHW, batch normalisation as it is.
//!
//! It walks the official modules and asks for tensors by name and shape; what is not there yet is made up from a seed.
//! So one pass gives both a state dict and what a network with it computes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::checkpoint::{Checkpoint, Tensor};

/// A model of the family.
pub(super) struct Model {
    pub(super) kind: &'static str,
    pub(super) classes: usize,
    pub(super) experts: usize,
    /// Width of the stages that every expert has for itself, `None` for the default.
    pub(super) widths: Option<[usize; 2]>,
    /// Blocks of each stage, empty for what the name says.
    pub(super) blocks: &'static [usize],
    pub(super) reduce: bool,
    pub(super) use_norm: bool,
    pub(super) top_k: usize,
    pub(super) own_fc: bool,
    pub(super) share_layer3: bool,
    /// Whether a lone expert's modules are in lists.
    pub(super) listed: bool,
    /// Rows and columns of the image.
    pub(super) side: usize,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            kind: "ResNet32Model",
            classes: 10,
            experts: 2,
            widths: None,
            blocks: &[],
            reduce: true,
            use_norm: true,
            top_k: 4,
            own_fc: false,
            share_layer3: false,
            listed: true,
            side: 16,
        }
    }
}

/// What the model computes for one image.
pub(super) struct Output {
    pub(super) checkpoint: Checkpoint,
    /// Normalised, NHWC.
    pub(super) image: Vec<f32>,
    /// Of each expert.
    pub(super) logits: Vec<Vec<f64>>,
    /// Of each router, from the mean logits of the experts up to it.
    pub(super) scores: Vec<f64>,
}

/// Activations: channels, side, values.
#[derive(Clone)]
struct Maps {
    channels: usize,
    side: usize,
    data: Vec<f64>,
}

struct Params {
    tensors: BTreeMap<String, Tensor>,
    seed: u64,
}

impl Params {
    /// Uniform in -1..1 (Knuth's MMIX generator).
    fn random(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// A tensor of values in `centre - spread .. centre + spread`.
    fn tensor(&mut self, name: String, shape: &[usize], centre: f64, spread: f64) -> Vec<f64> {
        let data: Vec<f32> = (0..shape.iter().product()).map(|_| (centre + spread * self.random()) as f32).collect();
        let values = data.iter().map(|&value| f64::from(value)).collect();
        let previous = self.tensors.insert(name.clone(), Tensor { shape: shape.to_vec(), data });
        assert!(previous.is_none(), "{name} is asked for twice");
        values
    }

    /// Convolution and batch normalisation; `(output, kernel, stride, groups)`.
    fn conv_bn(&mut self, x: &Maps, conv: &str, bn: &str, geometry: (usize, usize, usize, usize)) -> Maps {
        let (output, kernel, stride, groups) = geometry;
        let depth = x.channels / groups;
        // Small enough that 36 residual blocks do not blow up.
        let spread = 0.6 * (6.0 / (depth * kernel * kernel) as f64).sqrt();
        let weight = self.tensor(format!("{conv}.weight"), &[output, depth, kernel, kernel], 0.0, spread);
        let gamma = self.tensor(format!("{bn}.weight"), &[output], 0.9, 0.3);
        let beta = self.tensor(format!("{bn}.bias"), &[output], 0.0, 0.3);
        let mean = self.tensor(format!("{bn}.running_mean"), &[output], 0.0, 0.3);
        let variance = self.tensor(format!("{bn}.running_var"), &[output], 1.0, 0.5);
        self.tensor(format!("{bn}.num_batches_tracked"), &[], 100.0, 0.0);
        let (pad, side) = (kernel / 2, (x.side + 2 * (kernel / 2) - kernel) / stride + 1);
        let mut data = Vec::with_capacity(output * side * side);
        for o in 0..output {
            let first = o / (output / groups) * depth;
            for at in 0..side * side {
                let (row, column) = (at / side * stride, at % side * stride);
                let mut sum = 0.0;
                for (i, tap) in (0..depth).flat_map(|i| (0..kernel * kernel).map(move |tap| (i, tap))) {
                    let (y, z) = ((row + tap / kernel).wrapping_sub(pad), (column + tap % kernel).wrapping_sub(pad));
                    if y < x.side && z < x.side {
                        sum += weight[(o * depth + i) * kernel * kernel + tap]
                            * x.data[((first + i) * x.side + y) * x.side + z];
                    }
                }
                data.push((sum - mean[o]) / (variance[o] + 1e-5).sqrt() * gamma[o] + beta[o]);
            }
        }
        Maps { channels: output, side, data }
    }

    fn block(&mut self, kind: &str, name: &str, x: &Maps, planes: usize, stride: usize) -> Maps {
        let conv = |index: usize| (format!("{name}.conv{index}"), format!("{name}.bn{index}"));
        let step = |params: &mut Params, x: &Maps, index: usize, geometry| {
            let (conv, bn) = conv(index);
            params.conv_bn(x, &conv, &bn, geometry)
        };
        let wide = kind.starts_with("ResNeXt") || ["ResNet50", "ResNet101", "ResNet152"].contains(&kind);
        let output = if wide { planes * 4 } else { planes };
        let mut y = if wide {
            let next = kind.starts_with("ResNeXt");
            let (inner, groups) = if next { ((planes as f64 * (4.0 / 64.0)) as usize * 32, 32) } else { (planes, 1) };
            let y = step(self, x, 1, (inner, 1, 1, 1)).relu();
            let y = step(self, &y, 2, (inner, 3, stride, groups)).relu();
            step(self, &y, 3, (output, 1, 1, 1))
        } else {
            let y = step(self, x, 1, (planes, 3, stride, 1)).relu();
            step(self, &y, 2, (planes, 3, 1, 1))
        };
        let shortcut = if stride == 1 && x.channels == output {
            x.clone()
        } else if kind == "ResNet32" {
            x.option_a(output)
        } else {
            self.conv_bn(x, &format!("{name}.downsample.0"), &format!("{name}.downsample.1"), (output, 1, stride, 1))
        };
        y.data.iter_mut().zip(&shortcut.data).for_each(|(y, x)| *y += x);
        y.relu()
    }

    fn stage(&mut self, kind: &str, name: &str, x: Maps, planes: usize, depth: usize, stride: usize) -> Maps {
        let strides = std::iter::once(stride).chain(std::iter::repeat(1));
        (0..depth).zip(strides).fold(x, |x, (i, stride)| self.block(kind, &format!("{name}.{i}"), &x, planes, stride))
    }

    /// `weight . x + bias`.
    fn linear(&mut self, name: &str, x: &[f64], output: usize) -> Vec<f64> {
        let spread = 1.0 / (x.len() as f64).sqrt();
        let weight = self.tensor(format!("{name}.weight"), &[output, x.len()], 0.0, spread);
        let bias = self.tensor(format!("{name}.bias"), &[output], 0.0, 0.1);
        let rows = weight.chunks_exact(x.len()).zip(bias);
        rows.map(|(row, bias)| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + bias).collect()
    }

    /// `F.normalize(x) @ F.normalize(weight, dim=0)`, weight as input by output.
    fn normed(&mut self, name: &str, x: &[f64], output: usize) -> Vec<f64> {
        let weight = self.tensor(format!("{name}.weight"), &[x.len(), output], 0.0, 1.0);
        let x = unit(x);
        let column = |class: usize| unit(&weight.iter().skip(class).step_by(output).copied().collect::<Vec<_>>());
        (0..output).map(|class| column(class).iter().zip(&x).map(|(w, x)| w * x).sum()).collect()
    }
}

impl Maps {
    fn relu(mut self) -> Self {
        self.data.iter_mut().for_each(|value| *value = value.max(0.0));
        self
    }

    /// Every second pixel, channels padded with zeros on either side.
    fn option_a(&self, channels: usize) -> Self {
        let side = self.side.div_ceil(2);
        let mut data = vec![0.0; channels * side * side];
        let pad = (channels - self.channels) / 2;
        for (at, value) in data[pad * side * side..][..self.channels * side * side].iter_mut().enumerate() {
            let (channel, row, column) = (at / side / side, at / side % side, at % side);
            *value = self.data[(channel * self.side + 2 * row) * self.side + 2 * column];
        }
        Self { channels, side, data }
    }

    /// 3 x 3, stride 2, padding 1.
    fn max_pool(&self) -> Self {
        let side = (self.side - 1) / 2 + 1;
        let near = |at: usize| (2 * at).saturating_sub(1)..(2 * at + 2).min(self.side);
        let value = |at: usize| {
            let (channel, row, column) = (at / side / side, at / side % side, at % side);
            let window = near(row).flat_map(|y| near(column).map(move |x| (y, x)));
            window.map(|(y, x)| self.data[(channel * self.side + y) * self.side + x]).fold(f64::MIN, f64::max)
        };
        Self { channels: self.channels, side, data: (0..self.channels * side * side).map(value).collect() }
    }

    fn average(&self) -> Vec<f64> {
        let pixels = self.side * self.side;
        self.data.chunks_exact(pixels).map(|map| map.iter().sum::<f64>() / pixels as f64).collect()
    }
}

fn unit(x: &[f64]) -> Vec<f64> {
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    x.iter().map(|x| x / norm).collect()
}

impl Model {
    pub(super) fn config(&self) -> Value {
        let mut args = json!({
            "num_classes": self.classes,
            "num_experts": self.experts,
            // The official command line writes it as a number.
            "reduce_dimension": usize::from(self.reduce),
            "use_norm": self.use_norm,
        });
        let first = if self.kind.starts_with("ResNet32") { 2 } else { 3 };
        for (index, width) in self.widths.iter().flatten().enumerate() {
            args[format!("layer{}_output_dim", first + index)] = json!(width);
        }
        for (stage, blocks) in self.blocks.iter().enumerate() {
            args[format!("layer{}_blocks", stage + 1)] = json!(blocks);
        }
        if self.kind.contains("EA") {
            args["top_choices_num"] = json!(self.top_k);
            args["pos_weight"] = json!(100);
        }
        if self.own_fc {
            args["share_expert_help_pred_fc"] = json!(false);
        }
        if self.share_layer3 {
            args["share_layer3"] = json!(true);
        }
        json!({
            "arch": {"type": self.kind, "args": args},
            "data_loader": {"type": "ImbalanceCIFAR100DataLoader", "args": {"input_size": self.side}},
        })
    }

    /// Makes up the parameters and runs them on a made-up image.
    pub(super) fn run(&self, seed: u64) -> Output {
        let mut params = Params { tensors: BTreeMap::new(), seed };
        let pixels = self.side * self.side;
        let input: Vec<f64> = (0..3 * pixels).map(|_| f64::from((2.0 * params.random()) as f32)).collect();
        let image = (0..3 * pixels).map(|at| input[at % 3 * pixels + at / 3] as f32).collect();
        let stem = self.stem(&mut params, Maps { channels: 3, side: self.side, data: input });
        let (mut logits, mut scores) = (Vec::new(), Vec::new());
        let mut sum = vec![0.0; self.classes];
        for index in 0..self.experts {
            let feature = self.expert(&mut params, &stem, index).average();
            let own = self.classify(&mut params, &feature, index);
            sum.iter_mut().zip(&own).for_each(|(sum, own)| *sum += own);
            logits.push(own);
            if self.kind.contains("EA") && index + 1 < self.experts {
                let mean: Vec<f64> = sum.iter().map(|sum| sum / (index + 1) as f64).collect();
                scores.push(self.route(&mut params, &feature, mean, index));
            }
        }
        let tensors = params.tensors;
        Output {
            checkpoint: Checkpoint { config: self.config(), tensors, ..Default::default() },
            image,
            logits,
            scores,
        }
    }

    fn base(&self) -> &'static str {
        self.kind.trim_end_matches("Model").trim_end_matches("EA")
    }

    fn depths(&self) -> [usize; 4] {
        if !self.blocks.is_empty() {
            return std::array::from_fn(|stage| self.blocks.get(stage).copied().unwrap_or(0));
        }
        match self.base() {
            "ResNet10" => [1, 1, 1, 1],
            "ResNet50" | "ResNeXt50" => [3, 4, 6, 3],
            "ResNet101" => [3, 4, 23, 3],
            "ResNet152" | "ResNeXt152" => [3, 8, 36, 3],
            _ => [5, 5, 5, 0],
        }
    }

    /// Widths of the two stages that experts have for themselves.
    fn own_widths(&self) -> [usize; 2] {
        let [full, reduced] = if self.base() == "ResNet32" { [[32, 64], [24, 48]] } else { [[256, 512], [192, 384]] };
        self.widths.unwrap_or(if self.reduce { reduced } else { full })
    }

    fn stem(&self, params: &mut Params, image: Maps) -> Maps {
        let (kind, depths) = (self.base(), self.depths());
        if kind == "ResNet32" {
            let x = params.conv_bn(&image, "conv1", "bn1", (16, 3, 1, 1)).relu();
            return params.stage(kind, "layer1", x, 16, depths[0], 1);
        }
        let x = params.conv_bn(&image, "conv1", "bn1", (64, 7, 2, 1)).relu().max_pool();
        let x = params.stage(kind, "layer1", x, 64, depths[0], 1);
        let x = params.stage(kind, "layer2", x, 128, depths[1], 2);
        if self.share_layer3 { params.stage(kind, "layer3", x, self.own_widths()[0], depths[2], 2) } else { x }
    }

    fn name(&self, module: &str, index: usize) -> String {
        if self.listed { format!("{module}s.{index}") } else { module.to_string() }
    }

    fn expert(&self, params: &mut Params, stem: &Maps, index: usize) -> Maps {
        let (kind, depths, [a, b]) = (self.base(), self.depths(), self.own_widths());
        let [first, second] = if kind == "ResNet32" { [2, 3] } else { [3, 4] };
        let mut x = stem.clone();
        if !self.share_layer3 {
            x = params.stage(kind, &self.name(&format!("layer{first}"), index), x, a, depths[first - 1], 2);
        }
        params.stage(kind, &self.name(&format!("layer{second}"), index), x, b, depths[second - 1], 2)
    }

    fn classify(&self, params: &mut Params, feature: &[f64], index: usize) -> Vec<f64> {
        let name = self.name("linear", index);
        if self.use_norm {
            return params.normed(&name, feature, self.classes).iter().map(|cosine| 30.0 * cosine).collect();
        }
        params.linear(&name, feature, self.classes)
    }

    fn route(&self, params: &mut Params, feature: &[f64], mut mean: Vec<f64>, index: usize) -> f64 {
        let hidden = params.linear(&format!("expert_help_pred_hidden_fcs.{index}"), &unit(feature), 16);
        mean.sort_by(|a, b| b.total_cmp(a));
        let input: Vec<f64> = mean[..self.top_k].iter().copied().chain(hidden.iter().map(|h| h.max(0.0))).collect();
        if self.own_fc {
            return params.linear(&format!("expert_help_pred_fcs.{index}"), &input, 1)[0];
        }
        if index == 0 {
            return params.linear("expert_help_pred_fc", &input, 1)[0];
        }
        let (weight, bias) =
            (&params.tensors["expert_help_pred_fc.weight"], &params.tensors["expert_help_pred_fc.bias"]);
        weight.data.iter().zip(&input).map(|(&w, x)| f64::from(w) * x).sum::<f64>() + f64::from(bias.data[0])
    }
}
