//! A student's first weights, from its teacher.
//!
//! Student and teacher are walked side by side. Experts correspond by number and the blocks of a stage by place: the
//! first to the first, the last to the last, the others evenly between. Where the student is narrower it gets the
//! strongest channels, the same ones everywhere on a residual stream, because additions tie them together: a stream is
//! as strong in a channel as the batch normalisations that write to it make it, and a channel between two convolutions
//! as much as the second one listens to it. Option-A shortcuts tie streams of two stages: what they carry over keeps its
//! place between the zero channels.

use std::collections::BTreeMap;

use crate::checkpoint::Tensor;
use crate::train::plan::{ConvNorm, Head, HeadKind, Part, Plan, Residual, Shortcut};

/// What a student has from its teacher.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inheritance {
    /// The student's tensors.
    pub tensors: BTreeMap<String, Tensor>,
    /// The teacher's tensor that each is made of.
    pub sources: BTreeMap<String, String>,
}

/// The teacher's channel for each channel of the student.
type Channels = Vec<usize>;

/// Makes the student's tensors of the teacher's where there is a correspondence; the rest is left to chance.
pub fn inherit(teacher: &Plan, tensors: &BTreeMap<String, Tensor>, student: &Plan) -> Inheritance {
    let mut heir = Heir { tensors, inheritance: Inheritance::default() };
    // What experts share has the first one's choice of channels.
    let shared = match teacher.experts.is_empty() {
        true => None,
        false => heir.part(&Path::of(teacher, 0), &student.stem, Some(Vec::new())),
    };
    for index in 0..student.experts.len().min(teacher.experts.len()) {
        let stream = heir.part(&Path::of(teacher, index), &student.experts[index], shared.clone());
        if let (Some(theirs), Some(ours), Some(stream)) = (teacher.heads.get(index), student.heads.get(index), stream) {
            heir.head(theirs, ours, &stream);
        }
    }
    heir.inheritance
}

/// All layers that an expert's answer goes through.
struct Path<'p> {
    first: Option<&'p ConvNorm>,
    /// Blocks by the name of their stage.
    stages: Vec<(&'p str, Vec<&'p Residual>)>,
}

impl<'p> Path<'p> {
    fn of(plan: &'p Plan, expert: usize) -> Self {
        let parts: [&Part; 2] = [&plan.stem, &plan.experts[expert]];
        let stages = stages(parts.iter().flat_map(|part| &part.blocks));
        Self { first: parts.iter().find_map(|part| part.first.as_ref()), stages }
    }
}

/// Blocks by the name of their stage.
fn stages<'p>(blocks: impl Iterator<Item = &'p Residual>) -> Vec<(&'p str, Vec<&'p Residual>)> {
    let mut stages: Vec<(&str, Vec<&Residual>)> = Vec::new();
    for block in blocks {
        let name = block.node.split('.').next().unwrap_or(&block.node);
        match stages.last_mut().filter(|(last, _)| *last == name) {
            Some((_, blocks)) => blocks.push(block),
            None => stages.push((name, vec![block])),
        }
    }
    stages
}

struct Heir<'t> {
    tensors: &'t BTreeMap<String, Tensor>,
    inheritance: Inheritance,
}

impl Heir<'_> {
    /// One part, whose input has the channels `stream`: the channels of its output, or `None` where the networks do not
    /// correspond.
    fn part(&mut self, teacher: &Path<'_>, student: &Part, stream: Option<Channels>) -> Option<Channels> {
        let mut stream = stream?;
        if let Some(ours) = &student.first {
            let theirs = teacher.first?;
            stream = strongest(&self.strength(&[theirs]), ours.shape.output)?;
            self.layer(theirs, ours, &(0..ours.shape.input).collect::<Vec<_>>(), &stream);
        }
        for (name, blocks) in stages(student.blocks.iter()) {
            let (_, matching) = teacher.stages.iter().find(|(theirs, _)| *theirs == name)?;
            let next = self.stage_stream(matching, blocks.first()?, &stream)?;
            for (at, ours) in spread(matching.len(), blocks.len()).into_iter().zip(blocks) {
                self.block(matching[at], ours, &stream, &next)?;
                stream.clone_from(&next);
            }
        }
        Some(stream)
    }

    /// The channels of a stage's residual stream.
    fn stage_stream(&self, teacher: &[&Residual], student: &Residual, stream: &Channels) -> Option<Channels> {
        let width = student.convs.last()?.shape.output;
        let writers: Vec<&ConvNorm> = teacher
            .iter()
            .flat_map(|block| {
                let projection = match &block.shortcut {
                    Shortcut::Projection(layer) => Some(layer),
                    _ => None,
                };
                block.convs.last().into_iter().chain(projection)
            })
            .collect();
        let strength = self.strength(&writers);
        match (&teacher.first()?.shortcut, &student.shortcut) {
            (Shortcut::Identity, Shortcut::Identity) => Some(stream.clone()),
            (Shortcut::Projection(_), Shortcut::Projection(_)) => strongest(&strength, width),
            (&Shortcut::OptionA { pad: theirs, .. }, &Shortcut::OptionA { pad: ours, .. }) => {
                let right = strength.len().checked_sub(theirs)?;
                let moved = |from: usize, channels: Channels| channels.into_iter().map(move |channel| channel + from);
                let mut next = strongest(&strength[..theirs], ours)?;
                next.extend(moved(theirs, stream.clone()));
                next.extend(moved(right, strongest(&strength[right..], ours)?));
                (next.len() == width).then_some(next)
            }
            _ => None,
        }
    }

    fn block(&mut self, theirs: &Residual, ours: &Residual, stream: &Channels, next: &Channels) -> Option<()> {
        if theirs.convs.len() != ours.convs.len() {
            return None;
        }
        let mut input = stream.clone();
        for (place, (their, our)) in theirs.convs.iter().zip(&ours.convs).enumerate() {
            let output = match theirs.convs.get(place + 1) {
                // Groups are kept, so each of them gives as many of its own channels.
                Some(reader) => {
                    let groups = their.shape.groups.max(reader.shape.groups);
                    strongest_of_groups(&self.heard(their, reader), our.shape.output, groups)?
                }
                None => next.clone(),
            };
            self.layer(their, our, &input, &output);
            input = output;
        }
        if let (Shortcut::Projection(theirs), Shortcut::Projection(ours)) = (&theirs.shortcut, &ours.shortcut) {
            self.layer(theirs, ours, stream, next);
        }
        Some(())
    }

    /// A convolution and its normalisation.
    fn layer(&mut self, theirs: &ConvNorm, ours: &ConvNorm, input: &[usize], output: &[usize]) {
        let (from, to) = (theirs.shape, ours.shape);
        if from.kernel != to.kernel || from.groups != to.groups || input.len() != to.input || output.len() != to.output
        {
            return;
        }
        let (window, depth, their_depth) = (to.kernel * to.kernel, to.input / to.groups, from.input / from.groups);
        self.take(&format!("{}.weight", theirs.conv), &format!("{}.weight", ours.conv), |weight| {
            let mut data = Vec::with_capacity(to.weights());
            for (place, &channel) in output.iter().enumerate() {
                let group = place / (to.output / to.groups);
                for &source in &input[group * depth..][..depth] {
                    let at = (channel * their_depth + source.checked_sub(group * their_depth)?) * window;
                    data.extend_from_slice(weight.data.get(at..at + window)?);
                }
            }
            Some(Tensor { shape: vec![to.output, depth, to.kernel, to.kernel], data })
        });
        for name in ["weight", "bias", "running_mean", "running_var"] {
            self.take(&format!("{}.{name}", theirs.norm), &format!("{}.{name}", ours.norm), |tensor| {
                let data = output.iter().map(|&channel| tensor.data.get(channel).copied()).collect::<Option<_>>()?;
                Some(Tensor { shape: vec![output.len()], data })
            });
        }
    }

    fn head(&mut self, theirs: &Head, ours: &Head, stream: &[usize]) {
        let same = std::mem::discriminant(&theirs.kind) == std::mem::discriminant(&ours.kind);
        if !same || theirs.classes != ours.classes || stream.len() != ours.features {
            return;
        }
        let classes = ours.classes;
        self.take(&format!("{}.weight", theirs.module), &format!("{}.weight", ours.module), |weight| {
            if let HeadKind::Normed { .. } = ours.kind {
                let rows = stream.iter().map(|&feature| weight.data.get(feature * classes..(feature + 1) * classes));
                let data = rows.collect::<Option<Vec<_>>>()?.concat();
                return Some(Tensor { shape: vec![stream.len(), classes], data });
            }
            let value = |class: usize, feature: usize| weight.data.get(class * theirs.features + feature).copied();
            let data = (0..classes).flat_map(|class| stream.iter().map(move |&feature| value(class, feature)));
            Some(Tensor { shape: vec![classes, stream.len()], data: data.collect::<Option<_>>()? })
        });
        self.take(&format!("{}.bias", theirs.module), &format!("{}.bias", ours.module), |bias| Some(bias.clone()));
    }

    fn take(&mut self, theirs: &str, ours: &str, make: impl FnOnce(&Tensor) -> Option<Tensor>) {
        if let Some(tensor) = self.tensors.get(theirs).and_then(make) {
            self.inheritance.tensors.insert(ours.to_owned(), tensor);
            self.inheritance.sources.insert(ours.to_owned(), theirs.to_owned());
        }
    }

    /// Energy that the normalisations of these layers, which write to the same stream, give to each channel.
    fn strength(&self, writers: &[&ConvNorm]) -> Vec<f64> {
        let mut strength = vec![0.0; writers.first().map_or(0, |writer| writer.shape.output)];
        for writer in writers {
            let scale = self.tensors.get(&format!("{}.weight", writer.norm));
            for (strength, &scale) in strength.iter_mut().zip(scale.map_or(&[][..], |scale| &scale.data)) {
                *strength += f64::from(scale) * f64::from(scale);
            }
        }
        strength
    }

    /// Energy of each channel of `writer` that arrives in `reader`.
    fn heard(&self, writer: &ConvNorm, reader: &ConvNorm) -> Vec<f64> {
        let mut strength = self.strength(&[writer]);
        let Some(weight) = self.tensors.get(&format!("{}.weight", reader.conv)) else { return strength };
        let shape = reader.shape;
        let (window, depth) = (shape.kernel * shape.kernel, shape.input / shape.groups);
        let mut listening = vec![0.0; shape.input];
        for (row, values) in weight.data.chunks_exact(depth * window).enumerate() {
            let group = row / (shape.output / shape.groups);
            for (channel, window) in values.chunks_exact(window).enumerate() {
                listening[group * depth + channel] += window.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>();
            }
        }
        strength.iter_mut().zip(listening).for_each(|(strength, listening)| *strength *= listening);
        strength
    }
}

/// The places of the `count` largest, in ascending order; `None` if there are not so many.
fn strongest(strength: &[f64], count: usize) -> Option<Channels> {
    let mut order: Vec<usize> = (0..strength.len()).collect();
    order.sort_by(|&a, &b| strength[b].total_cmp(&strength[a]));
    (count <= order.len()).then(|| order.truncate(count))?;
    order.sort_unstable();
    Some(order)
}

/// As [`strongest`], equally many of each group.
fn strongest_of_groups(strength: &[f64], count: usize, groups: usize) -> Option<Channels> {
    if !strength.len().is_multiple_of(groups) || !count.is_multiple_of(groups) {
        return None;
    }
    let size = strength.len() / groups;
    let mut all = Vec::with_capacity(count);
    for group in 0..groups {
        let own = strongest(&strength[group * size..][..size], count / groups)?;
        all.extend(own.into_iter().map(|channel| group * size + channel));
    }
    Some(all)
}

/// For each of `to` places one of `from`, from the first to the last; if there are more of them than `from`, only as many
/// as there are.
fn spread(from: usize, to: usize) -> Vec<usize> {
    if to >= from {
        return (0..from).collect();
    }
    let steps = to.saturating_sub(1).max(1);
    (0..to).map(|place| (place * (from - 1) + steps / 2) / steps).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use serde_json::{Value, json};

    use super::*;
    use crate::description::ModelTable;
    use crate::import;
    use crate::train::net::Net;

    fn plan(kind: &str, args: &Value) -> Plan {
        import::plan(&json!({"arch": {"type": kind, "args": args}}), &ModelTable::default(), &BTreeMap::new()).unwrap()
    }

    fn args(extra: &Value) -> Value {
        let mut args = json!({"num_classes": 7, "num_experts": 3, "use_norm": true});
        args.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        args
    }

    /// A network whose normalisations differ from channel to channel.
    fn tensors(plan: &Plan) -> BTreeMap<String, Tensor> {
        let mut tensors = Net::new(plan.clone(), &Device::Cpu, 5).unwrap().tensors().unwrap();
        for (name, tensor) in &mut tensors {
            if tensor.shape.len() == 1 {
                let salt = name.len();
                tensor.data.iter_mut().enumerate().for_each(|(i, v)| *v = 0.5 + ((i * 7 + salt) % 11) as f32 / 10.0);
            }
        }
        tensors
    }

    fn names(plan: &Plan) -> usize {
        Net::new(plan.clone(), &Device::Cpu, 0).unwrap().tensors().unwrap().len()
    }

    /// Every tensor of the student must fit, and all must have been taken.
    fn assert_complete(kind: &str, teacher: &Value, student: &Value) -> Inheritance {
        let (teacher, student) = (plan(kind, &args(teacher)), plan(kind, &args(student)));
        let all = inherit(&teacher, &tensors(&teacher), &student);
        let mut net = Net::new(student.clone(), &Device::Cpu, 0).unwrap();
        let loaded = net.load(&all.tensors).unwrap();
        assert_eq!(loaded.missing, Vec::<String>::new());
        assert_eq!(all.tensors.len(), names(&student));
        all
    }

    #[test]
    fn the_same_network_inherits_itself() {
        for kind in ["ResNet32Model", "ResNet10Model", "ResNet50Model", "ResNeXt50Model"] {
            let widths = json!({"layer3_output_dim": 64, "layer4_output_dim": 64});
            let widths = if kind == "ResNet32Model" { json!({}) } else { widths };
            let teacher = plan(kind, &args(&widths));
            assert_eq!(inherit(&teacher, &tensors(&teacher), &teacher).tensors, tensors(&teacher), "{kind}");
        }
    }

    #[test]
    fn fewer_experts_and_blocks_take_whole_tensors() {
        let small = json!({"num_experts": 2, "layer1_blocks": 3, "layer2_blocks": 2, "layer3_blocks": 1});
        let all = assert_complete("ResNet32Model", &json!({}), &small);
        for (ours, theirs) in [
            ("layer1.0.conv1.weight", "layer1.0.conv1.weight"),
            ("layer1.1.conv1.weight", "layer1.2.conv1.weight"),
            ("layer1.2.bn2.bias", "layer1.4.bn2.bias"),
            ("layer2s.1.1.conv2.weight", "layer2s.1.4.conv2.weight"),
            ("layer3s.0.0.conv1.weight", "layer3s.0.0.conv1.weight"),
            ("linears.1.weight", "linears.1.weight"),
        ] {
            assert_eq!(all.sources[ours], theirs);
        }
    }

    #[test]
    fn narrower_students_take_channels() {
        let widths = json!({"layer2_output_dim": 24, "layer3_output_dim": 40});
        assert_complete("ResNet32Model", &json!({}), &widths);
        let widths = json!({"layer3_output_dim": 32, "layer4_output_dim": 64, "num_experts": 1, "layer2_blocks": 2});
        let wide = json!({"layer3_output_dim": 64, "layer4_output_dim": 128});
        assert_complete("ResNet50Model", &wide, &widths);
        assert_complete("ResNet10Model", &wide, &json!({"layer3_output_dim": 40, "layer4_output_dim": 64}));
        assert_complete("ResNeXt50Model", &wide, &widths);
        // The one shares a stage that the others have of their own.
        assert_complete(
            "ResNet10Model",
            &wide,
            &json!({"layer3_output_dim": 40, "layer4_output_dim": 64, "share_layer3": true}),
        );
    }

    #[test]
    fn a_network_with_silent_channels_loses_only_them() {
        // What says nothing: padding channels of both streams (those of the second one lie four places further in the third
        // one), and inner channels.
        let teacher =
            plan("ResNet32Model", &args(&json!({"num_experts": 1, "layer2_output_dim": 24, "layer3_output_dim": 32})));
        let mut weights = tensors(&teacher);
        let silent: [(&str, &[usize]); 2] = [("layer2", &[1, 22]), ("layer3", &[0, 5, 26, 31])];
        let silent_inner: [(&str, &[usize]); 2] = [("layer2", &[5, 9]), ("layer3", &[3, 4, 6, 8])];
        for (name, tensor) in &mut weights {
            for (list, norm) in [(silent, "bn2"), (silent_inner, "bn1")] {
                for (stage, channels) in list {
                    if name.starts_with(stage) && name.contains(norm) && !name.contains("running") {
                        channels.iter().for_each(|&channel| tensor.data[channel] = 0.0);
                    }
                }
            }
        }
        let student =
            plan("ResNet32Model", &args(&json!({"num_experts": 1, "layer2_output_dim": 22, "layer3_output_dim": 28})));
        let all = inherit(&teacher, &weights, &student);
        let image = golden_images();
        let outputs = |plan: &Plan, weights: &BTreeMap<String, Tensor>| {
            let mut net = Net::new(plan.clone(), &Device::Cpu, 0).unwrap();
            net.load_all(weights).unwrap();
            let outputs = net.evaluate(&image).unwrap();
            outputs.features[0].flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let theirs = outputs(&teacher, &weights);
        let ours = outputs(&student, &all.tensors);
        let kept: Vec<f32> =
            (0..2 * 32).filter(|at| ![0, 5, 26, 31].contains(&(at % 32))).map(|at| theirs[at]).collect();
        assert_eq!(ours.len(), kept.len());
        for (ours, theirs) in ours.iter().zip(kept) {
            assert!((ours - theirs).abs() <= 1e-4 * theirs.abs().max(1.0), "{ours} {theirs}");
        }
    }

    fn golden_images() -> candle_core::Tensor {
        let values: Vec<f32> = (0..2 * 16 * 16 * 3).map(|i| ((i * 37 % 101) as f32 - 50.0) / 30.0).collect();
        candle_core::Tensor::from_vec(values, (2, 16, 16, 3), &Device::Cpu).unwrap()
    }

    #[test]
    fn wider_students_start_by_chance() {
        let teacher = plan("ResNet32Model", &args(&json!({"layer2_output_dim": 24, "layer3_output_dim": 32})));
        let student = plan("ResNet32Model", &args(&json!({"layer2_output_dim": 24, "layer3_output_dim": 64})));
        let all = inherit(&teacher, &tensors(&teacher), &student);
        assert!(all.tensors.contains_key("layer2s.2.4.conv2.weight"));
        assert!(all.tensors.keys().all(|name| !name.starts_with("layer3") && !name.starts_with("linear")));
        let other = plan("ResNet10Model", &args(&json!({})));
        assert!(inherit(&teacher, &tensors(&teacher), &other).tensors.is_empty());
    }

    #[test]
    fn places_are_spread_from_first_to_last() {
        assert_eq!(spread(5, 3), [0, 2, 4]);
        assert_eq!(spread(5, 4), [0, 1, 3, 4]);
        assert_eq!(spread(5, 1), [0]);
        assert_eq!(spread(2, 4), [0, 1]);
        assert_eq!(spread(23, 6), [0, 4, 9, 13, 18, 22]);
        assert_eq!(strongest(&[1.0, 3.0, 2.0], 2).unwrap(), [1, 2]);
        assert_eq!(strongest_of_groups(&[1.0, 3.0, 2.0, 0.0], 2, 2).unwrap(), [1, 2]);
        assert_eq!(strongest(&[1.0], 2), None);
    }
}
