//! From graphs to a [`Network`].

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use ride_calibrate::preprocess::{InputSize, Preprocess};

use super::graph::{Graph, InputInfo, shortened};
use super::lift::{Lifted, Lifter, SELECTING};
use super::outputs::{self, Program};
use super::partition;
use super::value::{Feature, Logits, PlaneId, Score, Term, Value};
use super::{Files, OnnxModel, only_input};
use crate::import::{ImportOptions, Imported};
use crate::network::{Expert, Head, Input, Network, Op, Router, Routing, Shape};

/// Largest side of an image.
const MAX_SIDE: usize = 1 << 12;

/// Understands a model.
///
/// # Errors
/// Names the file or node that stands in the way and what to do about it.
pub fn import(model: &OnnxModel, options: &ImportOptions) -> Result<Imported> {
    let understood = match &model.files {
        Files::Whole(graph) => whole(graph, options)?,
        Files::Split { stem, experts, routers } => split(stem, experts, routers, options)?,
    };
    understood.build(model, options)
}

/// Everything that the graphs say.
struct Understood {
    lifted: Lifted,
    program: Program,
    /// Where the stem ends, if that is given.
    cut: Option<PlaneId>,
}

/// Where the axes of an image are, its shape and the batch size.
struct ImageInput {
    shape: Shape,
    channels_last: bool,
    batch: usize,
}

fn image_input(input: &InputInfo, options: &ImportOptions) -> Result<ImageInput> {
    let [batch, second, third, fourth] = input.shape[..] else {
        bail!(
            "the input {:?} has {} axes; expected an image: batch, channels, rows, columns",
            input.name,
            input.shape.len()
        )
    };
    let few = |side: Option<usize>| side.is_some_and(|side| (1..=4).contains(&side));
    let channels_last = !few(second) && few(fourth);
    let (channels, height, width) = if channels_last { (fourth, second, third) } else { (second, third, fourth) };
    let channels = channels.filter(|c| (1..=4).contains(c));
    let channels = channels.with_context(|| {
        format!("the input {:?} has the shape {:?}; expected an image with 1 to 4 channels", input.name, input.shape)
    })?;
    let side = |given: Option<usize>, at: usize, what: &str| {
        let asked = options.input_size.map(|size| size[at]);
        let side = match (given, asked) {
            (Some(given), Some(asked)) if given != asked => bail!(
                "the graph takes images with {given} {what}, --input-size says {asked}; export it for another size"
            ),
            (given, asked) => given.or(asked),
        };
        let side =
            side.with_context(|| format!("the graph leaves the number of {what} open: pass --input-size HxW"))?;
        ensure!((1..=MAX_SIDE).contains(&side), "an image with {side} {what} is too large");
        Ok(side)
    };
    let shape = Shape { height: side(height, 0, "rows")?, width: side(width, 1, "columns")?, channels };
    Ok(ImageInput { shape, channels_last, batch: batch.unwrap_or(1) })
}

fn whole(graph: &Graph, options: &ImportOptions) -> Result<Understood> {
    let input = only_input(graph)?;
    let image = image_input(input, options)?;
    check_selecting(graph)?;
    let mut lifted = Lifted::new(image.shape);
    let value = if image.channels_last { Value::ImageLast } else { Value::Plane(0) };
    let outputs = Lifter::new(&mut lifted, graph, image.batch, vec![(input.name.clone(), value)]).run(graph)?;
    let program = outputs::read(&outputs)?;
    check_baked(graph, &program, options)?;
    Ok(Understood { lifted, program, cut: None })
}

/// Why a graph without conditions may still hold one, and what helps.
const TRACED: &str = "the exporter has traced the routing of its example into the graph; export every expert's logits and \
                      every router's score as outputs instead, as examples/export/export_onnx.py does";

/// Finds operators by which exporters select the samples that go on, whether or not an output needs them.
fn check_selecting(graph: &Graph) -> Result<()> {
    match graph.find_operator(&SELECTING) {
        Some((op, name)) => bail!("node {:?} ({op}) selects samples: {TRACED}", shortened(name)),
        None => Ok(()),
    }
}

/// Finds routing that the exporter has decided for good by what is missing: results of experts or routers whose weights
/// are there, experts that a router leads to.
fn check_baked(graph: &Graph, program: &Program, options: &ImportOptions) -> Result<()> {
    let count = program.experts.len();
    let routers = numbers(graph, &["expert_help_pred_hidden_fcs"]).last().map_or(0, |last| last + 1);
    ensure!(
        program.scores.len() >= routers,
        "the graph has the weights of {routers} routers, but {} of their scores are outputs: {TRACED}",
        program.scores.len()
    );
    let listed = numbers(graph, &["linears", "layer4s", "layer3s", "layer2s"]);
    let last = listed.last().copied().unwrap_or(0);
    ensure!(last < count, "the graph has weights of expert {last}, but the logits of {count} experts only: {TRACED}");
    ensure!(
        count > 1 || listed.is_empty() || options.experts == Some(1),
        "the graph holds expert 0 of a list of experts and no other: if the model has more, {TRACED}; if this one is meant, \
         say so with `[onnx] experts = 1` in ride.toml beside it"
    );
    Ok(())
}

/// Numbers `n` in names of weights and nodes with a component `n` behind one of these lists, as in `layer3s.0.1.conv1`.
fn numbers(graph: &Graph, lists: &[&str]) -> BTreeSet<usize> {
    let names = graph.constants.keys().chain(graph.operators.iter().map(|(_, name)| name));
    let pairs = names.flat_map(|name| name.split(['.', '/']).zip(name.split(['.', '/']).skip(1)));
    pairs.filter(|(list, _)| lists.contains(list)).filter_map(|(_, number)| number.parse().ok()).collect()
}

fn split(stem: &Graph, experts: &[Graph], routers: &[Graph], options: &ImportOptions) -> Result<Understood> {
    let input = only_input(stem).context("stem.onnx")?;
    let image = image_input(input, options).context("stem.onnx")?;
    let mut lifted = Lifted::new(image.shape);
    let value = if image.channels_last { Value::ImageLast } else { Value::Plane(0) };
    let inputs = vec![(input.name.clone(), value)];
    let outputs = Lifter::new(&mut lifted, stem, image.batch, inputs).run(stem).context("stem.onnx")?;
    let [(_, Value::Plane(cut))] = outputs[..] else {
        bail!("stem.onnx must have one output, the activation that the experts read")
    };
    let mut program = Program::default();
    let mut features = Vec::new();
    for (index, graph) in experts.iter().enumerate() {
        let what = || format!("expert_{index}.onnx");
        let (term, feature) = expert(&mut lifted, graph, cut).with_context(what)?;
        program.experts.push(term);
        features.push(feature);
    }
    for (index, graph) in routers.iter().enumerate() {
        let what = || format!("router_{index}.onnx");
        let score = router(&mut lifted, graph, &program.experts[..=index], &features[index]).with_context(what)?;
        program.scores.push(std::rc::Rc::new(score));
    }
    program.order_scores()?;
    Ok(Understood { lifted, program, cut: Some(cut) })
}

/// One expert's classifier and pooled feature.
fn expert(lifted: &mut Lifted, graph: &Graph, cut: PlaneId) -> Result<(Term, Feature)> {
    let input = only_input(graph)?;
    let sides = lifted.sides(cut);
    let fits =
        input.shape.len() == 4 && input.shape[1..].iter().zip(&sides[1..]).all(|(a, b)| a.is_none_or(|a| a == *b));
    ensure!(fits, "its input {:?} has the shape {:?}, but the stem's output has {sides:?}", input.name, input.shape);
    let batch = input.shape[0].unwrap_or(1);
    let outputs = Lifter::new(lifted, graph, batch, vec![(input.name.clone(), Value::Plane(cut))]).run(graph)?;
    let mut program = outputs::read(&outputs)?;
    ensure!(program.experts.len() == 1, "it has the logits of {} experts", program.experts.len());
    let term = program.experts.remove(0);
    let (trunk, features) = (term.layer.trunk, term.layer.features);
    let feature = Feature { trunk, unit: false, scale: 1.0, shape: vec![1, features] };
    Ok((term, feature))
}

/// The score of a router whose graph reads an expert's feature and the mean logits so far.
fn router(lifted: &mut Lifted, graph: &Graph, experts: &[Term], feature: &Feature) -> Result<Score> {
    let classes = experts[0].bias.len();
    let features = feature.shape[1];
    ensure!(
        graph.inputs.len() == 2,
        "it has {} inputs; expected the expert's feature and the mean logits",
        graph.inputs.len()
    );
    let length = |input: &InputInfo| input.shape.get(1).copied().flatten();
    let mut inputs = Vec::new();
    for (place, input) in graph.inputs.iter().enumerate() {
        // By length; where both have the same, the feature comes first.
        let is_feature = match (length(input), features == classes) {
            (Some(n), false) if n == features => true,
            (Some(n), false) if n == classes => false,
            (_, true) | (None, _) => place == 0,
            (Some(n), _) => {
                bail!("its input {:?} has {n} values, neither {features} features nor {classes} logits", input.name)
            }
        };
        let value = if is_feature {
            Value::Feature(feature.clone())
        } else {
            let scaled = |term: &Term| Term { scale: term.scale / experts.len() as f64, ..term.clone() };
            let terms = experts.iter().map(scaled).collect();
            Value::Logits(Logits { terms, offset: vec![0.0; classes], shape: vec![1, classes] })
        };
        inputs.push((input.name.clone(), value));
    }
    let outputs = Lifter::new(lifted, graph, 1, inputs).run(graph)?;
    match &outputs[..] {
        [(_, Value::Score(score))] => Ok((**score).clone()),
        [(name, other)] => bail!("its output {name:?} is {}; expected a router's score", other.describe()),
        _ => bail!("it has {} outputs; expected the score", outputs.len()),
    }
}

impl Understood {
    fn build(self, model: &OnnxModel, options: &ImportOptions) -> Result<Imported> {
        let Understood { mut lifted, program, cut } = self;
        let image = lifted.shapes[0];
        let mut preprocess = preprocess(image, options)?;
        fold_into_input(&mut lifted, &mut preprocess);
        let count = program.experts.len();
        ensure!(
            options.experts.is_none_or(|experts| experts == count),
            "the graph has {count} experts, but ride.toml says {}",
            options.experts.unwrap_or(0)
        );
        let ends: Vec<PlaneId> = program.experts.iter().map(|term| term.layer.trunk).collect();
        ensure!(ends.iter().all(|&end| end > 0), "an expert classifies the image itself, without any layer");
        let parts = partition::cut(&lifted, &ends, cut)?;
        let classes = program.experts[0].bias.len();
        let mut experts = Vec::new();
        for (index, (term, trunk)) in program.experts.iter().zip(parts.trunks).enumerate() {
            ensure!(term.bias.len() == classes, "experts have {classes} and {} classes", term.bias.len());
            experts.push(Expert { trunk, head: head(term, &program.adjustment, program.weight(index))? });
        }
        ensure!(
            program.adjustment.is_empty() || program.scores.is_empty(),
            "the combined logits are adjusted, but the routers look at logits that are not; export them without the \
             adjustment"
        );
        ensure!(classes >= 2, "the graph has {classes} output; a classifier has at least two classes");
        let routing = match program.scores.is_empty() {
            true => Routing::None,
            false => Routing::Assignment(program.scores.iter().map(|score| assignment(score)).collect::<Result<_>>()?),
        };
        ensure!(
            program.weights.is_empty() || program.scores.is_empty(),
            "the experts are combined with the weights {:?}, but the routers look at their plain mean",
            program.weights
        );
        let mut warnings = parts.warnings;
        warnings.extend(program.notes);
        let input = Input { shape: image, mean: preprocess.mean.clone(), std: preprocess.std.clone() };
        let name = model.path.file_stem().and_then(|name| name.to_str()).unwrap_or("onnx");
        let arch = format!("onnx:{}", name.chars().take(24).collect::<String>());
        let network = Network { arch, input, classes, stem: parts.stem, experts, routing };
        ensure!(
            program.weights.is_empty() || options.rules.combiner.is_none(),
            "the graph itself combines the experts with the weights {:?}: leave out [combiner] (--combiner), or export each \
             expert's logits as an output",
            program.weights
        );
        Ok(Imported { network, warnings, preprocess, rules: options.rules.clone() })
    }
}

fn preprocess(image: Shape, options: &ImportOptions) -> Result<Preprocess> {
    let Shape { height, width, channels } = image;
    let per_channel = |values: &Option<Vec<f32>>, what: &str| {
        let values = values.clone().with_context(|| {
            format!(
                "an ONNX file does not say how images are normalised: pass --mean and --std in units of 0..1 (for \
                 ImageNet 0.485,0.456,0.406 and 0.229,0.224,0.225), or write them into ride.toml beside it; the {what} is \
                 missing"
            )
        })?;
        ensure!(
            values.len() == channels || values.len() == 1,
            "the {what} has {} values for {channels} channels",
            values.len()
        );
        Ok(if values.len() == 1 { vec![values[0]; channels] } else { values })
    };
    let preprocess = Preprocess {
        input: InputSize { height, width, channels },
        mean: per_channel(&options.mean, "mean")?,
        std: per_channel(&options.std, "standard deviation")?,
        resize_short: options.resize,
    };
    preprocess.validate().context("the input's preparation is not possible")?;
    Ok(preprocess)
}

/// A graph that normalises its image does so in its first step: `y = a x + b` of `x = (p - mean) / std` is
/// `(p - (mean - b std / a)) / (std / a)`, which costs nothing and keeps the borders of the first convolution exact.
fn fold_into_input(lifted: &mut Lifted, preprocess: &mut Preprocess) {
    let mut readers = (0..lifted.steps.len()).filter(|&step| lifted.steps[step].inputs.contains(&0));
    let (Some(0), None) = (readers.next(), readers.next()) else { return };
    let Op::Conv(conv) = &lifted.steps[0].op else { return };
    let plain = conv.kernel == 1 && conv.stride == 1 && conv.padding == 0;
    let each = conv.groups == conv.in_channels && conv.out_channels == conv.in_channels;
    if !plain || !each || conv.weight.iter().any(|&a| a <= 0.0) {
        return;
    }
    for (channel, (&a, &b)) in conv.weight.iter().zip(&conv.bias).enumerate() {
        let (mean, std) = (f64::from(preprocess.mean[channel]), f64::from(preprocess.std[channel]));
        preprocess.mean[channel] = (mean - f64::from(b) * std / f64::from(a)) as f32;
        preprocess.std[channel] = (std / f64::from(a)) as f32;
    }
    // Its readers read the image instead; nobody reads the step itself any more.
    for step in &mut lifted.steps {
        step.inputs.iter_mut().for_each(|input| *input = if *input == 1 { 0 } else { *input });
    }
    lifted.steps[0].inputs.clear();
    lifted.steps[0].op = Op::Relu;
}

/// The classifier of an expert: `weight * (logits + adjustment)`, and the divisor of the sum.
///
/// What is added to the combined logits is added to each expert's instead. The answer of all experts is then what the graph
/// computes, and the answer of the first ones is their weighted mean with the same adjustment.
fn head(term: &Term, adjustment: &[f64], (factor, divisor): (f64, f64)) -> Result<Head> {
    let (layer, scale) = (&term.layer, term.scale * factor);
    let added = |class: usize| adjustment.get(class).map_or(0.0, |value| value * factor);
    let bias = term.bias.iter().enumerate().map(|(class, bias)| (bias * scale + added(class)) as f32);
    let head = Head {
        weight: layer.weight.iter().map(|weight| (weight * scale) as f32).collect(),
        bias: bias.collect(),
        features: layer.features,
        normalize: layer.unit,
        divisor: divisor as f32,
    };
    let finite = head.weight.iter().chain(&head.bias).all(|value| value.is_finite());
    ensure!(finite, "the weights of the classifier {:?} leave the range of f32", layer.name);
    Ok(head)
}

fn assignment(score: &Score) -> Result<Router> {
    let term = &score.seen.hidden.terms[0];
    let floats =
        |values: &[f64], factor: f64| values.iter().map(|&value| (value * factor) as f32).collect::<Vec<f32>>();
    let router = Router {
        hidden_weight: floats(&term.layer.weight, term.scale),
        hidden_bias: floats(&term.bias, term.scale),
        top_k: score.seen.top.k,
        fc_weight: floats(&score.weight, 1.0),
        fc_bias: score.bias as f32,
        threshold: 0.0,
    };
    let all = [&router.hidden_weight, &router.hidden_bias, &router.fc_weight];
    ensure!(all.into_iter().flatten().all(|value| value.is_finite()), "a router's weights are not finite");
    Ok(router)
}
