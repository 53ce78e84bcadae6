//! Writes sections and computes the golden vectors.

use anyhow::{Context, Result, anyhow, ensure};
use ride_runtime::format::header::{Kind as SectionKind, model as field};
use ride_runtime::format::record::encode_router;
use ride_runtime::op::{self, Layout, Op, Source};
use ride_runtime::{Model, Session, golden};

use super::Request;
use super::layers::{ConvLayer, DenseConstants, DenseLayer, conv, pooling};
use super::native::Native;
use super::places::{Places, conv_shape, place, small};
use super::program::{Input, Kind, PartProgram, Plane, Program, Step, ValueIx};
use super::quant::Quant;
use super::rounding::{Rounding, conv_input};
use super::sections::{OwnSection, PartWriter, assemble};
use super::weights::multiplier;
use crate::memory::AlignedBytes;
use crate::network::{Confidence, Routing};

/// Seeds that are searched for golden vectors.
const GOLDEN_SEEDS: u32 = 64;
/// Golden vectors of each number of experts used.
const GOLDEN_EACH: usize = 2;

/// The artifact's sections; that of golden vectors has none yet.
pub(super) fn sections(
    request: &Request<'_>,
    program: &Program<'_>,
    quants: &[Quant],
    rounding: &Rounding,
) -> Result<Vec<OwnSection>> {
    let emitter = Emitter::new(request, program, quants, rounding)?;
    let mut names = Names::default();
    let section = |kind, index, content| OwnSection { kind, index, content };
    let mut parts = vec![section(SectionKind::Stem, 0, emitter.part(&program.stem, &mut names, None)?)];
    for (i, part) in (0u16..).zip(&program.experts) {
        parts.push(section(SectionKind::Expert, i, emitter.part(part, &mut names, Some(usize::from(i)))?));
    }
    parts.extend((0u16..).zip(emitter.routers()?).map(|(i, content)| section(SectionKind::Router, i, content)));
    let mut sections = vec![
        section(SectionKind::Model, 0, emitter.model_section()),
        section(SectionKind::Classes, 0, emitter.classes_section()?),
        section(SectionKind::Names, 0, names.0),
    ];
    sections.extend(parts);
    sections.push(section(SectionKind::Golden, 0, 0u32.to_le_bytes().to_vec()));
    Ok(sections)
}

/// The artifact made of `sections`, with golden vectors computed anew.
pub(crate) fn with_golden_vectors(mut sections: Vec<OwnSection>) -> Result<Vec<u8>> {
    let golden = golden_section(&assemble(&sections)?)?;
    let place = sections.iter_mut().find(|section| section.kind == SectionKind::Golden);
    place.context("an artifact has a section for golden vectors")?.content = golden;
    assemble(&sections)
}

/// Runs synthetic images on the finished program and keeps a few for each number of experts. What vectors a draft already
/// has plays no part.
fn golden_section(draft: &[u8]) -> Result<Vec<u8>> {
    let draft = AlignedBytes::copy_of(draft);
    let model =
        Model::parse(&draft).map_err(|e| anyhow!("the compiler wrote an artifact that the runtime refuses: {e}"))?;
    // The numbers are those of the artifact itself, which its self-test shows before it is written to a file.
    let native = Native::of(model)?;
    let model = native.model()?;
    let mut arena = AlignedBytes::zeroed(model.arena_len());
    let mut session = Session::new(model, &mut arena)?;
    let mut pixels = vec![0; model.input_len()];
    let mut found = vec![0usize; model.experts() + 1];
    let seeds = if model.routed() { GOLDEN_SEEDS } else { GOLDEN_EACH as u32 };
    let mut vectors = Vec::new();
    for seed in 1..=seeds {
        let v = golden::compute(&mut session, seed, &mut pixels)?;
        let same = &mut found[v.experts as usize];
        if *same < GOLDEN_EACH {
            *same += 1;
            vectors.push(v);
        }
        if found[1..].iter().all(|&n| n == GOLDEN_EACH) {
            break;
        }
    }
    let mut out = (vectors.len() as u32).to_le_bytes().to_vec();
    vectors.iter().for_each(|v| out.extend(v.encode()));
    Ok(out)
}

/// Names of operations: length, then UTF-8.
#[derive(Default)]
struct Names(Vec<u8>);

impl Names {
    fn add(&mut self, name: &str) -> Result<u32> {
        let at = u32::try_from(self.0.len())?;
        let mut end = name.len().min(255);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        self.0.push(end as u8);
        self.0.extend_from_slice(&name.as_bytes()[..end]);
        Ok(at)
    }
}

/// A router without constants.
fn confidence_section(c: &Confidence) -> Vec<u8> {
    encode_router(&op::Router { rule: op::Rule::Confidence(c.criterion), threshold: c.threshold }).to_vec()
}

struct Emitter<'r, 'n> {
    request: &'r Request<'n>,
    program: &'r Program<'n>,
    quants: &'r [Quant],
    rounding: &'r Rounding,
    layout: Layout,
    places: Places,
}

impl<'r, 'n> Emitter<'r, 'n> {
    fn new(
        request: &'r Request<'n>,
        program: &'r Program<'n>,
        quants: &'r [Quant],
        rounding: &'r Rounding,
    ) -> Result<Self> {
        let layout = request.target.layout();
        let places = place(request, program, quants, layout)?;
        Ok(Emitter { request, program, quants, rounding, layout, places })
    }

    /// A part's section; an expert's also pools and classifies.
    fn part(&self, part: &PartProgram<'n>, names: &mut Names, expert: Option<usize>) -> Result<Vec<u8>> {
        let count = part.steps.len() + if expert.is_some() { 2 } else { 0 };
        let load = self.places.image.filter(|_| expert.is_none());
        let mut writer = PartWriter::new(count + usize::from(load.is_some()));
        if let Some(out) = load {
            let len = small("image", self.request.network.input.shape.len())?;
            let name = names.add("image")?;
            writer.records.push(op::Step { op: Op::Load(op::Load { out, len }), name, scale: 1.0 / 255.0 });
        }
        for step in &part.steps {
            let name = names.add(&self.program.values[step.output].record_name())?;
            let op = self.step(step, &mut writer).with_context(|| step.name.clone())?;
            let scale = self.quants[step.output].output_scale() as f32;
            writer.records.push(op::Step { op, name, scale });
        }
        if let Some(i) = expert {
            self.classifier(i, part, names, &mut writer).with_context(|| format!("expert{i}.head"))?;
        }
        Ok(writer.finish())
    }

    fn step(&self, step: &Step<'n>, writer: &mut PartWriter) -> Result<Op> {
        let quant = &self.quants[step.output];
        let out = self.places.values[step.output];
        match &step.kind {
            Kind::Conv { conv: c, relu, accumulate, plane } => {
                let shape = conv_shape(self.request, self.program, step)?;
                let source = self.source(step.input, *plane)?;
                let input = &conv_input(self.request, self.program, self.quants, step);
                let rows = self.rounding.rows(&step.name, c.out_channels, shape.taps())?;
                let layer = ConvLayer { conv: c, shape: &shape, input, plane: *plane, rows };
                let constants = conv(&layer, quant, self.layout)?;
                Ok(Op::Conv(op::Conv {
                    shape,
                    source,
                    out,
                    accumulate: accumulate.is_some(),
                    raw: quant.raw || accumulate.is_some_and(|residual| self.quants[residual].raw),
                    limits: quant.capped(quant.limits(*relu), self.program.values[step.output].ceiling),
                    border: match plane {
                        Plane::High => input.border(c.in_channels),
                        Plane::Low => [0; 4],
                    },
                    weights: writer.weights(&constants.packed.weights)?,
                    params: writer.params(&constants.packed.params)?,
                    layout: self.layout,
                    acc_bits: constants.acc_bits,
                }))
            }
            Kind::MaxPool { kernel, stride, padding } => {
                let Input::Value(v) = step.input else { return Err(anyhow!("the image cannot be pooled")) };
                let shape = self.program.values[v].shape;
                Ok(Op::MaxPool(op::MaxPool {
                    in_h: small("height", shape.height)?,
                    in_w: small("width", shape.width)?,
                    channels: small("channels", shape.channels)?,
                    kernel: small("kernel", *kernel)?,
                    stride: small("stride", *stride)?,
                    padding: small("padding", *padding)?,
                    source: self.places.values[v],
                    out,
                    zero: quant.output_zero(),
                }))
            }
            Kind::Shortcut { stride, before } => {
                let Input::Value(v) = step.input else { return Err(anyhow!("the image cannot be a shortcut")) };
                let (from, shape) = (&self.quants[v], self.program.values[v].shape);
                let (multiplier, right_shift) = multiplier(from.output_scale() / quant.requantized_scale())?;
                Ok(Op::Shortcut(op::Shortcut {
                    in_h: small("height", shape.height)?,
                    in_w: small("width", shape.width)?,
                    in_c: small("channels", shape.channels)?,
                    out_c: small("channels", self.program.values[step.output].shape.channels)?,
                    stride: small("stride", *stride)?,
                    before: small("padding", *before)?,
                    source: self.places.values[v],
                    out,
                    in_zero: from.output_zero(),
                    limits: quant.limits(false),
                    multiplier,
                    right_shift,
                }))
            }
        }
    }

    /// What a convolution reads.
    fn source(&self, input: Input, plane: Plane) -> Result<Source> {
        Ok(match (input, plane) {
            (Input::Image, _) => self.places.image.map_or(Source::Image, Source::Arena),
            (Input::Value(v), Plane::High) => Source::Arena(self.places.values[v].hi),
            (Input::Value(v), Plane::Low) => {
                let low = self.places.values[v].lo;
                Source::Low(low.with_context(|| format!("{} has no low bytes", self.program.values[v].name))?)
            }
        })
    }

    fn classifier(&self, i: usize, part: &PartProgram<'n>, names: &mut Names, writer: &mut PartWriter) -> Result<()> {
        let Input::Value(v) = part.output else { return Err(anyhow!("an expert without layers cannot be compiled")) };
        let head = &self.request.network.experts[i].head;
        let (pool, feature_scale) = self.pool(v, head.features)?;
        let name = names.add(&format!("expert{i}.pool"))?;
        writer.records.push(op::Step { op: Op::Pool(pool), name, scale: feature_scale as f32 });
        let name = format!("expert{i}.head");
        let fine = self.request.fine.heads;
        let outputs = head.bias.len() * if fine { 2 } else { 1 };
        let rows = self.rounding.rows(&name, outputs, head.features)?;
        let (weight, bias) = (&head.weight, &head.bias);
        let layer = DenseLayer { weight, bias, features: head.features, normalize: head.normalize, fine, rows };
        let DenseConstants { mut dense, weights, params } = layer.quantize(feature_scale, self.layout)?;
        writer.dense(&mut dense, &weights, &params)?;
        let name = names.add(&name)?;
        let (source, out) = (self.places.feature as u32, self.places.logits as u32);
        writer.records.push(op::Step {
            op: Op::Head(op::Head { dense, fine, source, out, divisor: head.divisor }),
            name,
            scale: 1.0,
        });
        Ok(())
    }

    /// The pooling of value `v`, and the real value of one integer step of its feature.
    fn pool(&self, v: ValueIx, features: usize) -> Result<(op::Pool, f64)> {
        let (shape, quant) = (self.program.values[v].shape, &self.quants[v]);
        ensure!(
            shape.channels == features,
            "the classifier takes {features} features, the trunk has {}",
            shape.channels
        );
        let pixels = shape.height * shape.width;
        let mut pool = op::Pool {
            pixels: small("pooled area", pixels)?,
            channels: small("features", features)?,
            source: self.places.values[v],
            zero: quant.output_zero(),
            shift: 0,
            out: self.places.feature as u32,
        };
        let scale;
        (pool.shift, scale) = pooling(quant, pixels, features);
        Ok((pool, scale))
    }

    fn routers(&self) -> Result<Vec<Vec<u8>>> {
        let routers = match &self.request.network.routing {
            Routing::None => return Ok(Vec::new()),
            Routing::Assignment(routers) => routers,
            Routing::Confidence(rules) => return Ok(rules.iter().map(confidence_section).collect()),
        };
        let mut sections = Vec::new();
        for (i, r) in routers.iter().enumerate() {
            let features = self.request.network.experts[i].head.features;
            let (weight, bias) = (&r.hidden_weight, &r.hidden_bias);
            let layer = DenseLayer { weight, bias, features, normalize: true, fine: false, rows: None };
            let constants = layer.quantize(1.0, self.layout).with_context(|| format!("router{i}"))?;
            let DenseConstants { dense: mut hidden, weights, params } = constants;
            let mut writer = PartWriter::router();
            writer.dense(&mut hidden, &weights, &params)?;
            let fc: Vec<u8> = r.fc_weight.iter().chain([&r.fc_bias]).flat_map(|v| v.to_le_bytes()).collect();
            let fc = writer.params(&fc)?;
            let assignment = op::Assignment { hidden, top_k: small("top_choices_num", r.top_k)?, fc };
            let router = op::Router { rule: op::Rule::Assignment(assignment), threshold: r.threshold };
            sections.push(writer.finish_router(&encode_router(&router)));
        }
        Ok(sections)
    }

    fn model_section(&self) -> Vec<u8> {
        let (network, places) = (self.request.network, &self.places);
        let mut out = vec![0u8; field::LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        let shape = network.input.shape;
        let features = network.experts[0].head.features;
        for (at, v) in [
            (field::HEIGHT, shape.height),
            (field::WIDTH, shape.width),
            (field::CHANNELS, shape.channels),
            (field::FEATURES, features),
            (field::RESIZE, self.request.resize_short.unwrap_or(0)),
        ] {
            put(at, &(v as u16).to_le_bytes());
        }
        for (at, v) in [
            (field::CLASSES, network.classes),
            (field::ARENA, places.arena),
            (field::SCRATCH, places.scratch),
            (field::SCRATCH_LEN, places.scratch_len),
            (field::LOGITS, places.logits),
            (field::SUM, places.sum),
            (field::FEATURE, places.feature),
            (field::LIVENESS, places.bound),
        ] {
            put(at, &(v as u32).to_le_bytes());
        }
        put(field::EXPERTS, &[network.experts.len() as u8]);
        put(field::ROUTED, &[u8::from(network.routing.routers() > 0)]);
        put(field::RESIDUAL_BITS, &[self.request.residual_bits]);
        put(field::LAYOUT, &[self.layout as u8]);
        for (at, values) in [(field::MEAN, &network.input.mean), (field::STD, &network.input.std)] {
            values.iter().take(4).enumerate().for_each(|(c, v)| put(at + 4 * c, &v.to_le_bytes()));
        }
        for (at, text) in [
            (field::TARGET, self.request.target.name()),
            (field::ARCH, &network.arch),
            (field::FINGERPRINT, self.request.fingerprint),
        ] {
            let mut end = text.len().min(32);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            put(at, &text.as_bytes()[..end]);
        }
        out
    }

    fn classes_section(&self) -> Result<Vec<u8>> {
        let (classes, info) = (self.request.network.classes, self.request.classes);
        let mut out = Vec::new();
        for c in 0..classes {
            out.extend(info.counts.get(c).copied().unwrap_or(0).to_le_bytes());
        }
        for c in 0..classes {
            let name = info.names.get(c).map_or("", |n| n.as_str());
            let len = u16::try_from(name.len()).map_err(|_| anyhow!("the name of class {c} is too long"))?;
            out.extend(len.to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        Ok(out)
    }
}
