//! The forward pass once more, in `f64` and straight from the definitions.

use crate::network::{Head, Input, Network, Op, Part, Router, Routing, Shape};
use crate::reference::INPUT;

/// Value of `x` at a pixel that may lie in the padding.
fn pixel(x: &[f64], shape: Shape, [row, column]: [isize; 2], channel: usize) -> Option<f64> {
    let inside = (0..shape.height as isize).contains(&row) && (0..shape.width as isize).contains(&column);
    inside.then(|| x[(row as usize * shape.width + column as usize) * shape.channels + channel])
}

/// Every value of a node, straight from the definition of its operation.
fn naive(op: &Op, operands: &[&[f64]], input: Shape) -> Vec<f64> {
    let output = op.output_shape(input).unwrap();
    let x = operands[0];
    let mut result = Vec::new();
    for row in 0..output.height {
        for column in 0..output.width {
            for channel in 0..output.channels {
                result.push(naive_element(op, operands, input, [row, column, channel]));
            }
        }
    }
    assert_eq!(x.len(), input.len());
    result
}

fn naive_element(op: &Op, operands: &[&[f64]], input: Shape, [row, column, channel]: [usize; 3]) -> f64 {
    let x = operands[0];
    let same = (row * input.width + column) * input.channels + channel;
    let window = |kernel: usize, stride: usize, padding: usize| {
        let at = move |i: usize, k: usize| (i * stride + k) as isize - padding as isize;
        (0..kernel * kernel).map(move |k| (k, [at(row, k / kernel), at(column, k % kernel)]))
    };
    match op {
        Op::Relu => x[same].max(0.0),
        Op::Clamp { max } => x[same].max(0.0).min(f64::from(*max)),
        Op::Add => x[same] + operands[1][same],
        Op::Shortcut { stride, before, .. } => {
            let source = channel.checked_sub(*before).filter(|&c| c < input.channels);
            let at = [(row * stride) as isize, (column * stride) as isize];
            source.map_or(0.0, |c| pixel(x, input, at, c).unwrap())
        }
        Op::MaxPool { kernel, stride, padding } => window(*kernel, *stride, *padding)
            .filter_map(|(_, at)| pixel(x, input, at, channel))
            .fold(f64::NEG_INFINITY, f64::max),
        Op::Conv(c) => {
            let depth = c.in_channels / c.groups;
            let first = channel / (c.out_channels / c.groups) * depth;
            let mut sum = f64::from(c.bias[channel]);
            for (k, at) in window(c.kernel, c.stride, c.padding) {
                for i in 0..depth {
                    let weight = c.weight[(channel * c.kernel * c.kernel + k) * depth + i];
                    sum += pixel(x, input, at, first + i).unwrap_or(0.0) * f64::from(weight);
                }
            }
            sum
        }
    }
}

pub(super) fn naive_part(part: &Part, input: Shape, x: &[f64], values: &mut Vec<(String, Vec<f64>)>) -> Vec<f64> {
    let shapes = part.shapes(input).unwrap();
    let mut computed = vec![x.to_vec()];
    for node in &part.nodes {
        let operands: Vec<&[f64]> = node.inputs.iter().map(|&i| computed[i].as_slice()).collect();
        let value = naive(&node.op, &operands, shapes[node.inputs[0]]);
        values.push((node.name.clone(), value.clone()));
        computed.push(value);
    }
    computed.pop().unwrap()
}

fn dot(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, b)| f64::from(a) * b).sum()
}

fn length(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn naive_head(head: &Head, feature: &[f64]) -> Vec<f64> {
    let by = if head.normalize { length(feature).max(1e-12) } else { 1.0 };
    let feature: Vec<f64> = feature.iter().map(|x| x / by).collect();
    let rows = head.weight.chunks(head.features).zip(&head.bias);
    rows.map(|(row, &bias)| dot(row, &feature) + f64::from(bias)).collect()
}

fn naive_router(router: &Router, feature: &[f64], mean: &[f64]) -> f64 {
    let feature: Vec<f64> = feature.iter().map(|x| x / length(feature)).collect();
    let mut seen = mean.to_vec();
    seen.sort_by(|a, b| b.partial_cmp(a).unwrap());
    seen.truncate(router.top_k);
    let rows = router.hidden_weight.chunks(feature.len()).zip(&router.hidden_bias);
    seen.extend(rows.map(|(row, &bias)| (dot(row, &feature) + f64::from(bias)).max(0.0)));
    dot(&router.fc_weight, &seen) + f64::from(router.fc_bias)
}

pub(super) struct Naive {
    pub(super) values: Vec<(String, Vec<f64>)>,
    pub(super) logits: Vec<Vec<f64>>,
    pub(super) scores: Vec<f64>,
}

pub(super) fn naive_forward(network: &Network, pixels: &[u8]) -> Naive {
    let Input { shape, mean, std } = &network.input;
    let normalised = pixels.iter().enumerate().map(|(i, &p)| {
        let channel = i % shape.channels;
        (f64::from(p) / 255.0 - f64::from(mean[channel])) / f64::from(std[channel])
    });
    let image: Vec<f64> = normalised.collect();
    let mut values = vec![(INPUT.to_string(), image.clone())];
    let stem = naive_part(&network.stem, *shape, &image, &mut values);
    let stem_shape = *network.stem.shapes(*shape).unwrap().last().unwrap();
    let (mut logits, mut scores) = (Vec::<Vec<f64>>::new(), Vec::new());
    for (index, expert) in network.experts.iter().enumerate() {
        let trunk = naive_part(&expert.trunk, stem_shape, &stem, &mut values);
        let channels = expert.head.features;
        let area = (trunk.len() / channels) as f64;
        let feature: Vec<f64> =
            (0..channels).map(|c| trunk.iter().skip(c).step_by(channels).sum::<f64>() / area).collect();
        logits.push(naive_head(&expert.head, &feature));
        if let Routing::Assignment(routers) = &network.routing
            && index < routers.len()
        {
            let mean: Vec<f64> = (0..network.classes)
                .map(|class| logits.iter().map(|l| l[class]).sum::<f64>() / f64::from(expert.head.divisor))
                .collect();
            scores.push(naive_router(&routers[index], &feature, &mean));
        }
    }
    Naive { values, logits, scores }
}
