//! Operations of an artifact, decoded.
//!
//! Every offset into the arena is in bytes; every [`Span`] points into the section of the part that owns the operation.
//! Binary32 steps are written down here, because their order is part of the law ([`crate::arith`]):
//!
//! * [`Head`] and the hidden layer of a router: `out[j] = ((dot[j] as f32) * factor[j]) * inverse_norm + bias[j]`,
//!   where `dot` is the exact int32 product of int8 weights and int16 features and `inverse_norm` is 1 for a head that
//!   does not normalise. A fine head has two rows for each class: its logit is the first row's `out` plus the second's.
//! * Combiner: `sum[j] = sum[j] + logits[j]`, then `mean[j] = sum[j] / divisor`, where `divisor` belongs to the expert
//!   that ran last: the number of experts for a plain mean. (Weights of experts are folded into their logits.)
//! * Expert assignment ([`Assignment`]): `z = fc_bias`; for each of the `top_k` largest mean logits in descending order
//!   `z = z + weight * logit`; then for each hidden unit in order `z = z + weight * max(hidden, 0)`. The next expert runs
//!   iff `z > threshold`.
//! * Confidence ([`Criterion`]): [`crate::confidence`] has its exponential and logarithm.

use crate::kernels::ONLY_LAYOUT;

/// Marks an absent plane in a record.
pub const NONE: u32 = u32::MAX;

/// A byte range inside the owning section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub at: u32,
    /// Number of bytes.
    pub len: u32,
}

/// Where an activation lies in the arena. Bytes of the first plane are XORed with [`Layout::plane_flip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planes {
    /// int8 plane, or the high bytes of a wide activation.
    pub hi: u32,
    /// Low bytes of a wide activation.
    pub lo: Option<u32>,
}

/// Where an operation reads int8 pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The caller's image: unsigned bytes, read as `byte - 128`.
    Image,
    /// A plane in the arena.
    Arena(u32),
    /// The low bytes of a wide activation in the arena: unsigned bytes, read as `byte - 128`. That is what the high bytes,
    /// rounded to nearest, leave of a value: `value - zero = 256 * (hi - z) + (lo - 128)`, see [`crate::arith`].
    Low(u32),
}

/// How packed convolution weights are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Layout {
    /// Plain OHWI rows; the bias is folded for signed activations.
    Ohwi = 0,
    /// Blocks of 16 channels by 8 inputs (and a last block of 8 channels where that is enough), see
    /// [`crate::kernels::k8n16`]; the bias is folded for activations moved to unsigned bytes by +128.
    K8N16 = 1,
    /// Pairs of channels by 4 taps, see [`crate::kernels::k4n2`]: cores with the DSP extension. The bias is folded for
    /// signed activations.
    K4N2 = 3,
    /// Streams of 4 channels by 8 inputs for 64-bit Arm, see [`crate::kernels::k8n4`]; the bias is folded for signed
    /// activations.
    K8N4 = 2,
}

impl Layout {
    /// All layouts.
    pub const ALL: [Layout; 4] = [Layout::Ohwi, Layout::K8N16, Layout::K8N4, Layout::K4N2];

    /// What the bytes of `hi` planes in the arena are XORed with: with [`Layout::K8N16`] activations lie there as the
    /// unsigned bytes `q + 128` that its kernels multiply, so that they can be read in place.
    pub const fn plane_flip(self) -> u8 {
        match self.known() {
            Layout::Ohwi | Layout::K8N4 | Layout::K4N2 => 0,
            Layout::K8N16 => 0x80,
        }
    }

    /// Short name as `ride-compile inspect` shows it.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Ohwi => "ohwi",
            Layout::K8N16 => "k8n16",
            Layout::K4N2 => "k4n2",
            Layout::K8N4 => "k8n4",
        }
    }

    /// This layout, as a constant where the kernels of this build read but one. Models of other layouts do not get past
    /// [`crate::Model::parse`] there.
    pub(crate) const fn known(self) -> Self {
        match ONLY_LAYOUT {
            Some(only) => only,
            None => self,
        }
    }

    pub(crate) fn decode(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|l| *l as u8 == byte)
    }
}

/// Geometry of a square-window convolution on NHWC activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Input rows.
    pub in_h: u16,
    /// Input columns.
    pub in_w: u16,
    /// Input channels.
    pub in_c: u16,
    /// Output channels.
    pub out_c: u16,
    /// Window height and width.
    pub kernel: u8,
    /// Spatial stride.
    pub stride: u8,
    /// Padding on each side.
    pub padding: u8,
    /// Groups; each reads its share of the input channels and writes its share of the output channels, both in order.
    /// 1 is an ordinary convolution.
    pub groups: u16,
}

impl ConvShape {
    fn side(self, n: u16) -> usize {
        let (kernel, stride) = (usize::from(self.kernel), usize::from(self.stride));
        match (usize::from(n) + 2 * usize::from(self.padding)).checked_sub(kernel) {
            Some(room) if stride > 0 => room / stride + 1,
            _ => 0,
        }
    }

    /// Output rows.
    pub fn out_h(self) -> usize {
        self.side(self.in_h)
    }

    /// Output columns.
    pub fn out_w(self) -> usize {
        self.side(self.in_w)
    }

    /// Bytes of one input plane.
    pub fn input_len(self) -> usize {
        usize::from(self.in_h) * usize::from(self.in_w) * usize::from(self.in_c)
    }

    /// Bytes of one output plane.
    pub fn output_len(self) -> usize {
        self.out_h() * self.out_w() * usize::from(self.out_c)
    }

    /// Input channels of one group.
    pub fn group_in(self) -> usize {
        usize::from(self.in_c) / usize::from(self.groups.max(1))
    }

    /// Output channels of one group.
    pub fn group_out(self) -> usize {
        usize::from(self.out_c) / usize::from(self.groups.max(1))
    }

    /// Multiplications of one output channel of one pixel.
    pub fn taps(self) -> usize {
        usize::from(self.kernel) * usize::from(self.kernel) * self.group_in()
    }

    /// Multiply-accumulates, padding included.
    pub fn macs(self) -> u64 {
        self.output_len() as u64 * self.taps() as u64
    }
}

/// Zero point and limits of an output. A narrow activation uses the int8 range, a wide one 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Zero point.
    pub zero: i16,
    /// Smallest value (the zero point, where a ReLU is fused).
    pub min: i16,
    /// Largest value.
    pub max: i16,
}

/// Convolution with requantization and fused limits; with `accumulate` it adds to what its output holds already
/// (the residual), instead of to the zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv {
    /// Geometry.
    pub shape: ConvShape,
    /// Input plane.
    pub source: Source,
    /// Output planes.
    pub out: Planes,
    /// Whether the residual, already in `out`, is added.
    pub accumulate: bool,
    /// Whether the residual is *raw*: requantized values of a projection, in steps of two of the wide output and
    /// without a zero point, so that a sum that a ReLU cuts off afterwards does not share the output's range with what
    /// is cut off. Without `accumulate` the convolution writes such values; with it, it adds to them before the zero
    /// point ([`crate::arith::add_raw`]). Raw values are always wide.
    pub raw: bool,
    /// Zero point and limits of the output.
    pub limits: Limits,
    /// What the input holds outside of its borders, as int8 bits: one byte a channel for up to four channels, the same
    /// byte four times otherwise.
    pub border: [u8; 4],
    /// Packed weights.
    pub weights: Span,
    /// Bias (i32), multiplier (i32) and right shift (u8) of each channel: three arrays, one after the other, each
    /// padded to the layout's channel blocks.
    pub params: Span,
    /// How `weights` and `params` are laid out.
    pub layout: Layout,
    /// Every accumulator is smaller than `2^acc_bits` in magnitude (proved by the compiler).
    pub acc_bits: u8,
}

/// Parameter-free shortcut with rescaling: every `stride`-th pixel, channels padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shortcut {
    /// Input rows, columns, channels.
    pub in_h: u16,
    /// Input columns.
    pub in_w: u16,
    /// Input channels.
    pub in_c: u16,
    /// Output channels.
    pub out_c: u16,
    /// Spatial stride.
    pub stride: u8,
    /// Zero channels before the input's.
    pub before: u16,
    /// Input planes (wide iff the output is).
    pub source: Planes,
    /// Output planes.
    pub out: Planes,
    /// Zero point of the input.
    pub in_zero: i16,
    /// Zero point and limits of the output.
    pub limits: Limits,
    /// Factor from the input's scale to the output's.
    pub multiplier: i32,
    /// Its right shift.
    pub right_shift: u8,
}

impl Shortcut {
    /// Output rows.
    pub fn out_h(&self) -> usize {
        usize::from(self.in_h).div_ceil(usize::from(self.stride.max(1)))
    }

    /// Output columns.
    pub fn out_w(&self) -> usize {
        usize::from(self.in_w).div_ceil(usize::from(self.stride.max(1)))
    }

    /// Bytes of one input plane.
    pub fn input_len(&self) -> usize {
        usize::from(self.in_h) * usize::from(self.in_w) * usize::from(self.in_c)
    }

    /// Bytes of one output plane.
    pub fn output_len(&self) -> usize {
        self.out_h() * self.out_w() * usize::from(self.out_c)
    }
}

/// Maximum over windows of each channel: values keep their scale and zero point; those of a wide activation are compared
/// as joined 16-bit numbers. What lies beyond the border never wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaxPool {
    /// Input rows.
    pub in_h: u16,
    /// Input columns.
    pub in_w: u16,
    /// Channels.
    pub channels: u16,
    /// Window height and width.
    pub kernel: u8,
    /// Spatial stride.
    pub stride: u8,
    /// Padding on each side, smaller than the window: each window holds a pixel.
    pub padding: u8,
    /// Input planes (wide iff the output is).
    pub source: Planes,
    /// Output planes.
    pub out: Planes,
    /// Zero point of input and output, for reports.
    pub zero: i16,
}

impl MaxPool {
    fn window(&self) -> ConvShape {
        let (in_c, groups) = (self.channels, self.channels);
        let (kernel, stride, padding) = (self.kernel, self.stride, self.padding);
        ConvShape { in_h: self.in_h, in_w: self.in_w, in_c, out_c: in_c, kernel, stride, padding, groups }
    }

    /// Output rows.
    pub fn out_h(&self) -> usize {
        self.window().out_h()
    }

    /// Output columns.
    pub fn out_w(&self) -> usize {
        self.window().out_w()
    }

    /// Bytes of one input plane.
    pub fn input_len(&self) -> usize {
        self.window().input_len()
    }

    /// Bytes of one output plane.
    pub fn output_len(&self) -> usize {
        self.window().output_len()
    }

    /// Input rows (for `size` rows) or columns of the window at `place`; never empty for a checked operation.
    pub fn inside(&self, place: usize, size: u16) -> core::ops::Range<usize> {
        let start = place * usize::from(self.stride);
        let end = (start + usize::from(self.kernel)).saturating_sub(usize::from(self.padding));
        start.saturating_sub(usize::from(self.padding))..end.min(usize::from(size))
    }
}

/// Global average pooling to a 16-bit feature, followed in the arena by its inverse norm (binary32).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pool {
    /// Pixels.
    pub pixels: u32,
    /// Channels = length of the feature.
    pub channels: u16,
    /// Input planes.
    pub source: Planes,
    /// Zero point of the input.
    pub zero: i16,
    /// Right shift from the sum to the feature.
    pub shift: u8,
    /// The feature: `channels` 16-bit values, padded to a multiple of 4 bytes, then the inverse norm.
    pub out: u32,
}

impl Pool {
    /// Offset of the inverse norm behind the feature.
    pub fn norm_at(&self) -> usize {
        feature_norm_at(usize::from(self.channels))
    }

    /// Bytes of the output.
    pub fn output_len(&self) -> usize {
        self.norm_at() + 4
    }

    /// Bytes of one input plane.
    pub fn input_len(&self) -> usize {
        self.pixels as usize * usize::from(self.channels)
    }

    /// Largest magnitude that a feature can have.
    pub fn feature_max(&self, wide: bool) -> i64 {
        let span: i64 = if wide { 65535 } else { 255 };
        (((i64::from(self.pixels) * span) >> self.shift) + 1).min(32767)
    }
}

/// Offset of the inverse norm behind a feature of `channels` values.
pub fn feature_norm_at(channels: usize) -> usize {
    (2 * channels).next_multiple_of(4)
}

/// A classifier or a router's hidden layer on a pooled feature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dense {
    /// Length of the feature.
    pub features: u16,
    /// Number of outputs.
    pub outputs: u16,
    /// int8 weights `[outputs][features]`, or packed: see [`crate::kernels::dense`].
    pub weights: Span,
    /// `factor` (f32) and `bias` (f32) of each output: two arrays, one after the other.
    pub params: Span,
    /// Whether the weights are packed for vector units or plain rows ([`Layout::Ohwi`]).
    pub layout: Layout,
    /// Whether the feature's inverse norm is a factor.
    pub normalize: bool,
}

/// An expert's classifier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Head {
    /// The layer.
    pub dense: Dense,
    /// Whether weights have 16 bits, as two rows of int8 for each class: `dense` computes one for every class, and then
    /// one of what those leave of the weights for every class; the two are added.
    pub fine: bool,
    /// The feature in the arena.
    pub source: u32,
    /// Logits (f32) in the arena.
    pub out: u32,
    /// What the sum of logits is divided by when this expert is the last one that ran.
    pub divisor: f32,
}

impl Head {
    /// Number of logits.
    pub fn classes(&self) -> usize {
        usize::from(self.dense.outputs) / if self.fine { 2 } else { 1 }
    }

    /// Bytes of scratch memory: a fine head keeps the results of all rows there.
    pub fn scratch_len(&self) -> usize {
        if self.fine { 4 * usize::from(self.dense.outputs) } else { 0 }
    }
}

/// Copies the image into the arena, for experts that have no stem in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// int8 plane: `byte - 128` of every byte.
    pub out: u32,
    /// Bytes of the image.
    pub len: u32,
}

/// The router after one expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Router {
    /// What the score is.
    pub rule: Rule,
    /// What the score is compared with.
    pub threshold: f32,
}

impl Router {
    /// Whether the next expert runs; never for a score that is not a number.
    pub fn proceeds(&self, score: f32, threshold: f32) -> bool {
        match self.rule {
            Rule::Assignment(_) | Rule::Confidence(Criterion::Entropy) => score > threshold,
            Rule::Confidence(Criterion::MaxProbability | Criterion::Margin) => score < threshold,
        }
    }

    /// The trained layers, if the router has any.
    pub fn assignment(&self) -> Option<&Assignment> {
        match &self.rule {
            Rule::Assignment(assignment) => Some(assignment),
            Rule::Confidence(_) => None,
        }
    }
}

/// How a router gets its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// RIDE's trained expert assignment.
    Assignment(Assignment),
    /// How sure the mean logits so far are.
    Confidence(Criterion),
}

/// RIDE's expert assignment: the next expert runs iff the score is larger than the threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assignment {
    /// Hidden layer on the expert's normalised feature.
    pub hidden: Dense,
    /// Number of largest mean logits.
    pub top_k: u16,
    /// `top_k + hidden.outputs` weights (f32), then the bias (f32).
    pub fc: Span,
}

/// How sure mean logits are of their largest class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Criterion {
    /// Probability (softmax) of the largest logit; the next expert runs iff it is smaller than the threshold.
    MaxProbability = 1,
    /// Difference of the two largest logits; the next expert runs iff it is smaller than the threshold.
    Margin = 2,
    /// Entropy of the probabilities in nats; the next expert runs iff it is larger than the threshold.
    Entropy = 3,
}

impl Criterion {
    /// All criteria.
    pub const ALL: [Criterion; 3] = [Criterion::MaxProbability, Criterion::Margin, Criterion::Entropy];

    /// Name as model descriptions and reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Criterion::MaxProbability => "max-probability",
            Criterion::Margin => "margin",
            Criterion::Entropy => "entropy",
        }
    }

    pub(crate) fn decode(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|c| *c as u8 == byte)
    }
}

/// One step of a part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// Convolution.
    Conv(Conv),
    /// The image as an activation.
    Load(Load),
    /// Option-A shortcut.
    Shortcut(Shortcut),
    /// Maximum over windows.
    MaxPool(MaxPool),
    /// Global average pooling.
    Pool(Pool),
    /// Classifier.
    Head(Head),
}

/// An operation together with what reports need.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The operation.
    pub op: Op,
    /// Offset of its name in the names section.
    pub name: u32,
    /// Scale of its output (of the 16-bit value, where the output is wide).
    pub scale: f32,
}

impl Op {
    /// Multiply-accumulates.
    pub fn macs(&self) -> u64 {
        match self {
            Op::Conv(c) => c.shape.macs(),
            Op::Head(h) => u64::from(h.dense.features) * u64::from(h.dense.outputs),
            Op::Load(_) | Op::Shortcut(_) | Op::MaxPool(_) | Op::Pool(_) => 0,
        }
    }

    /// Whether its output is an activation (and not a feature or logits).
    pub fn is_activation(&self) -> bool {
        matches!(self, Op::Load(_) | Op::Conv(_) | Op::Shortcut(_) | Op::MaxPool(_))
    }

    /// Short name of the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Op::Load(_) => "load",
            Op::Conv(_) => "conv",
            Op::Shortcut(_) => "shortcut",
            Op::MaxPool(_) => "max-pool",
            Op::Pool(_) => "pool",
            Op::Head(_) => "head",
        }
    }

    /// Arena bytes that the operation writes: up to two planes as `(offset, length)`.
    pub fn writes(&self) -> [Option<(usize, usize)>; 2] {
        let planes = |p: Planes, len: usize| [Some((p.hi as usize, len)), p.lo.map(|lo| (lo as usize, len))];
        match self {
            Op::Load(l) => [Some((l.out as usize, l.len as usize)), None],
            Op::Conv(c) => planes(c.out, c.shape.output_len()),
            Op::Shortcut(s) => planes(s.out, s.output_len()),
            Op::MaxPool(m) => planes(m.out, m.output_len()),
            Op::Pool(p) => [Some((p.out as usize, p.output_len())), None],
            Op::Head(h) => [Some((h.out as usize, 4 * h.classes())), None],
        }
    }

    /// Arena bytes that the operation reads: up to two planes as `(offset, length)`.
    pub fn reads(&self) -> [Option<(usize, usize)>; 2] {
        match self {
            Op::Load(_) => [None, None],
            Op::Conv(c) => match c.source {
                Source::Image => [None, None],
                Source::Arena(at) | Source::Low(at) => [Some((at as usize, c.shape.input_len())), None],
            },
            Op::Shortcut(s) => {
                let len = s.input_len();
                [Some((s.source.hi as usize, len)), s.source.lo.map(|lo| (lo as usize, len))]
            }
            Op::MaxPool(m) => {
                let len = m.input_len();
                [Some((m.source.hi as usize, len)), m.source.lo.map(|lo| (lo as usize, len))]
            }
            Op::Pool(p) => {
                let len = p.input_len();
                [Some((p.source.hi as usize, len)), p.source.lo.map(|lo| (lo as usize, len))]
            }
            Op::Head(h) => {
                let len = feature_norm_at(usize::from(h.dense.features)) + 4;
                [Some((h.source as usize, len)), None]
            }
        }
    }
}
