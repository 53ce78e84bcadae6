//! What the compiler promises and parsing does not check, because it takes a look at every weight: accumulators stay
//! below `2^acc_bits`, and weights that stand for padding are zero. An artifact that breaks the promise is as harmless as
//! any other, but kernels may differ on it.

use ride_runtime::Model;
use ride_runtime::kernels::{Params, dense, k4n2, k8n4, k8n16, padded_channels, param_at};
use ride_runtime::op::{Conv, Dense, Layout, Op, Span};

/// Whether all promises hold.
pub fn kept(model: Model<'_>) -> bool {
    let sections = || model.sections().filter_map(|e| Some((e.kind, e.index, e.slice(model.bytes())?)));
    let part = |id: ride_runtime::PartId| {
        use ride_runtime::{PartId, format::header::Kind};
        let wanted = match id {
            PartId::Stem => (Kind::Stem, 0),
            PartId::Expert(i) => (Kind::Expert, i),
            PartId::Router(i) => (Kind::Router, i),
        };
        sections().find(|(kind, index, _)| (*kind, *index) == wanted).map_or(&[][..], |(_, _, content)| content)
    };
    let ops = model.parts().all(|p| {
        p.steps().all(|step| match &step.op {
            Op::Conv(conv) => conv_keeps(part(p.id), conv),
            Op::Head(head) => dense_keeps(part(p.id), &head.dense),
            Op::Load(_) | Op::Shortcut(_) | Op::MaxPool(_) | Op::Pool(_) => true,
        })
    });
    let routers = (0..model.experts())
        .filter_map(|i| Some((i, model.router(i)?)))
        .filter_map(|(i, r)| Some((i, r.assignment()?.hidden)))
        .all(|(i, hidden)| dense_keeps(part(ride_runtime::PartId::Router(i as u16)), &hidden));
    ops && routers
}

fn bytes(section: &[u8], span: Span) -> &[u8] {
    section.get(span.at as usize..(span.at as usize).saturating_add(span.len as usize)).unwrap_or_default()
}

fn conv_keeps(section: &[u8], conv: &Conv) -> bool {
    let (shape, weights) = (conv.shape, bytes(section, conv.weights));
    let params = Params::new(bytes(section, conv.params), padded_channels(&shape, conv.layout));
    let mut places = vec![false; weights.len()];
    let bounded = (0..usize::from(shape.out_c)).all(|c| {
        let (mut positive, mut negative) = (0i64, 0i64);
        for at in weight_places(conv, c) {
            places[at] = true;
            let w = i64::from(weights[at] as i8);
            *(if w > 0 { &mut positive } else { &mut negative }) += w.abs();
        }
        let moved = if conv.layout == Layout::K8N16 { 128 * (positive - negative) } else { 0 };
        let bias = i64::from(params.bias(param_at(&shape, conv.layout, c))) + moved;
        let (high, low) = (bias + 127 * positive + 128 * negative, bias - 128 * positive - 127 * negative);
        high.max(-low) < 1 << conv.acc_bits
    });
    bounded && places.iter().zip(weights).all(|(used, &w)| *used || w == 0)
}

/// Where the weights of channel `c` lie.
fn weight_places(conv: &Conv, c: usize) -> Vec<usize> {
    let shape = &conv.shape;
    match conv.layout {
        Layout::K4N2 => (0..shape.taps()).map(|tap| k4n2::weight_at(shape, c, tap)).collect(),
        Layout::Ohwi => (c * shape.taps()..(c + 1) * shape.taps()).collect(),
        Layout::K8N16 if k8n16::Grouped::of(shape).is_some() => {
            let form = k8n16::Grouped::of(shape).unwrap();
            let places = (0..9).flat_map(|p| (0..shape.group_in()).map(move |i| ((p / 3, p % 3), i)));
            places.map(|(place, i)| form.weight_at(c, place, i)).collect()
        }
        Layout::K8N16 => {
            let part = k8n16::Parts::of(shape).shape;
            let (row_steps, part_out) = (k8n16::row_steps(&part), usize::from(part.out_c));
            let own = c / shape.group_out() * shape.group_in() % usize::from(part.in_c)..;
            let own = own.take(shape.group_in());
            let bytes = (0..k8n16::steps(&part)).flat_map(|s| (0..k8n16::STEP).map(move |k| (s, k)));
            let used = bytes.filter(|&(s, k)| {
                k8n16::tap(&part, s % row_steps, k).is_some_and(|(_, channel)| own.clone().any(|i| i == channel))
            });
            let first = c / part_out * k8n16::part_weights_len(&part);
            used.map(|(s, k)| first + k8n16::weight_at(&part, c % part_out, s, k)).collect()
        }
        Layout::K8N4 => {
            let bytes = (0..k8n4::steps(shape)).flat_map(|s| (0..k8n4::STEP).map(move |k| (s, k)));
            let used = bytes.filter(|&(s, k)| k8n4::tap(shape, s, k).is_some());
            used.map(|(s, k)| k8n4::weight_at(shape, c, s, k)).collect()
        }
    }
}

fn dense_keeps(section: &[u8], d: &Dense) -> bool {
    let weights = bytes(section, d.weights);
    let mut places = vec![false; weights.len()];
    for j in 0..usize::from(d.outputs) {
        for k in 0..usize::from(d.features) {
            places[dense::weight_at(d, j, k)] = true;
        }
    }
    places.iter().zip(weights).all(|(used, &w)| *used || w == 0)
}
