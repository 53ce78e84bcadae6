//! Every backend against the oracle over many shapes and kinds of numbers. Needs an allocator but not `std`: the host's
//! tests walk through it, and so does the firmware that tests microcontrollers (`tests/arm/boards`).

mod large;
mod winograd;

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};

use core::ops::Range;
use ride_runtime::kernels::{self, Backend, ConvCall, DenseCall, PoolCall, ShortcutCall, k4n2, k8n4, k8n16, scalar};
use ride_runtime::op::{Conv, ConvShape, Dense, Layout, Limits, Planes, Pool, Shortcut, Source, Span, feature_norm_at};
use ride_runtime::oracle;

/// Random numbers (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// How numbers of a case are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Values {
    /// Everything at random, results spread over the output's range; border of zeros after the flip.
    Typical,
    /// Any border.
    Border,
    /// Inputs and weights at the ends of their ranges.
    Extreme,
    /// Any allowed right shift and multiplier.
    Shifts,
    /// The largest accumulators with the smallest right shifts: more bits than 32-bit lanes have.
    Overflow,
}

const VALUES: [Values; 5] = [Values::Typical, Values::Border, Values::Extreme, Values::Shifts, Values::Overflow];

/// A convolution on plain tensors.
struct Case {
    conv: Conv,
    wide: bool,
    values: Values,
    input: Vec<i8>,
    weights: Vec<i8>,
    bias: Vec<i32>,
    multiplier: Vec<i32>,
    right_shift: Vec<u8>,
    /// What the outputs hold before.
    before: Vec<i16>,
}

impl Case {
    fn new(shape: ConvShape, values: Values, (wide, accumulate, image): (bool, bool, bool), r: &mut Random) -> Self {
        let out_c = usize::from(shape.out_c);
        let extreme = matches!(values, Values::Extreme | Values::Overflow);
        let (low, high) = match values {
            Values::Overflow => (-128, -128),
            _ => (r.pick(&[-128i8, 127]), r.pick(&[-128i8, 127])),
        };
        let input: Vec<i8> =
            (0..shape.input_len()).map(|_| if extreme { r.pick(&[low, high]) } else { r.next() as i8 }).collect();
        let (low, high) = match values {
            Values::Overflow => [(-127, -127), (127, 127)][r.below(2)],
            _ => (r.pick(&[-128i8, -127, 127]), r.pick(&[-127i8, 127])),
        };
        let weights: Vec<i8> = (0..out_c * shape.taps())
            .map(|_| if extreme { r.pick(&[low, high]) } else { (r.next() as i8).max(-127) })
            .collect();
        let bias: Vec<i32> = (0..out_c).map(|_| r.next() as i32 >> 16).collect();
        let rows = weights.chunks_exact(shape.taps()).zip(&bias);
        let sums = rows.map(|(row, b)| {
            row.iter().map(|w| u64::from(w.unsigned_abs()) * 128).sum::<u64>() + u64::from(b.unsigned_abs())
        });
        let acc_bits = 64 - sums.max().unwrap_or(0).leading_zeros() as u8;
        let typical = if wide { acc_bits + 13 } else { acc_bits + 20 };
        let right_shift = (0..out_c)
            .map(|_| match values {
                Values::Shifts => 24 + r.below(39) as u8,
                Values::Overflow => 24 + r.below(4) as u8,
                _ => (typical + r.below(4) as u8).clamp(24, 62),
            })
            .collect();
        let multiplier = (0..out_c)
            .map(|_| match (values, r.below(8)) {
                (Values::Shifts, 0) => 0,
                (Values::Shifts | Values::Extreme, 1) => i32::MAX,
                (Values::Shifts | Values::Extreme, 2) => 1 << 30,
                _ => (1 << 30) + (r.next() >> 2) as i32,
            })
            .collect();
        let border = match (values, shape.in_c) {
            (Values::Typical, _) => [0x80; 4],
            (_, 1..=4) => [0; 4].map(|_| r.next() as u8),
            _ => [r.next() as u8; 4],
        };
        let residual = if wide { |r: &mut Random| r.next() as i16 } else { |r: &mut Random| i16::from(r.next() as i8) };
        let before = (0..shape.output_len()).map(|_| residual(r)).collect();
        Case {
            conv: Conv {
                shape,
                source: if image { Source::Image } else { Source::Arena(0) },
                out: Planes { hi: 0, lo: wide.then_some(0) },
                accumulate,
                raw: false,
                limits: limits(wide, r),
                border,
                weights: Span { at: 0, len: 0 },
                params: Span { at: 0, len: 0 },
                layout: Layout::Ohwi,
                acc_bits,
            },
            wide,
            values,
            before,
            input,
            weights,
            bias,
            multiplier,
            right_shift,
        }
    }

    /// The same with a raw output, or a raw residual where there is one.
    fn raw(mut self) -> Self {
        assert!(self.wide);
        self.conv.raw = true;
        if !self.conv.accumulate {
            self.conv.limits = Limits { zero: 0, min: i16::MIN, max: i16::MAX };
        }
        self
    }

    /// What the law says.
    fn expected(&self) -> Vec<i16> {
        let shape = self.conv.shape;
        let oracle = oracle::Conv {
            shape,
            input: &self.input,
            border: self.conv.border.map(|b| b as i8),
            weights: &self.weights,
            bias: &self.bias,
            multiplier: &self.multiplier,
            right_shift: &self.right_shift,
            limits: self.conv.limits,
            wide: self.wide,
            raw: self.conv.raw,
        };
        let (width, out_c) = (shape.out_w(), usize::from(shape.out_c));
        let residuals = self.before.iter().map(|&b| self.conv.accumulate.then_some(b));
        let places = (0..shape.output_len()).map(|i| (i / out_c / width, i / out_c % width, i % out_c));
        places.zip(residuals).map(|((y, x, c), residual)| oracle.output(y, x, c, residual)).collect()
    }

    fn packed_weights(&self, layout: Layout) -> Vec<u8> {
        match layout {
            Layout::Ohwi => self.weights.iter().map(|&w| w as u8).collect(),
            Layout::K4N2 => {
                let mut out = vec![0; k4n2::weights_len(&self.conv.shape)];
                k4n2::pack(&self.conv.shape, &self.weights, &mut out);
                out
            }
            Layout::K8N4 => {
                let mut out = vec![0; k8n4::weights_len(&self.conv.shape)];
                k8n4::pack(&self.conv.shape, &self.weights, &mut out);
                out
            }
            Layout::K8N16 => {
                let mut out = vec![0; k8n16::weights_len(&self.conv.shape)];
                k8n16::pack(&self.conv.shape, &self.weights, &mut out);
                out
            }
        }
    }

    /// Parameters of real channels; padding is random, because it must not matter.
    fn packed_params(&self, layout: Layout, r: &mut Random) -> Vec<u8> {
        let shape = &self.conv.shape;
        let padded = kernels::padded_channels(shape, layout);
        let sums = self.weights.chunks_exact(self.conv.shape.taps()).map(|row| row.iter().map(|&w| i32::from(w)).sum());
        let folded: Vec<i32> = self
            .bias
            .iter()
            .zip(sums)
            .map(|(b, sum): (_, i32)| match layout {
                Layout::Ohwi | Layout::K4N2 | Layout::K8N4 => *b,
                Layout::K8N16 => b - 128 * sum,
            })
            .collect();
        let mut out = r.bytes(8 * padded);
        out.extend((0..padded).map(|_| self.right_shift[0]));
        for (c, bias) in folded.iter().enumerate() {
            let at = kernels::param_at(shape, layout, c);
            out[4 * at..][..4].copy_from_slice(&bias.to_le_bytes());
            out[4 * (padded + at)..][..4].copy_from_slice(&self.multiplier[c].to_le_bytes());
            out[8 * padded + at] = self.right_shift[c];
        }
        out
    }

    /// Runs `backend` on exact slices between guards, once for each of the `pieces`, rows and channels; gives the outputs, or
    /// what is wrong.
    fn run(&self, backend: &Backend, pieces: &[[Range<usize>; 2]], r: &mut Random) -> Result<Vec<i16>, String> {
        let conv = Conv { layout: backend.layout, ..self.conv };
        let plane_flip = backend.layout.plane_flip();
        let flip = if conv.source == Source::Image { 0x80 } else { plane_flip };
        let input: Vec<u8> = self.input.iter().map(|&v| v as u8 ^ flip).collect();
        let planes = self.before.iter().map(|v| v.to_le_bytes());
        let (mut hi, mut lo): (Vec<u8>, Vec<u8>) =
            planes.map(|[lo, hi]| if self.wide { (hi ^ plane_flip, lo) } else { (lo ^ plane_flip, 0) }).unzip();
        if !self.wide {
            lo.clear();
        }
        let weights = self.packed_weights(backend.layout);
        let params = self.packed_params(backend.layout, r);
        let (out_c, planes) = (usize::from(conv.shape.out_c), if self.wide { 2 } else { 1 });
        let row = conv.shape.out_w() * out_c;
        for [rows, channels] in pieces.iter().cloned() {
            let bytes = rows.start * row..rows.end * row;
            let mut some_hi = Guarded::new(hi[bytes.clone()].to_vec(), r);
            let mut some_lo = Guarded::new(lo.get(bytes.clone()).unwrap_or_default().to_vec(), r);
            let scratch = r.bytes((backend.conv.scratch_len)(&conv.shape));
            let mut scratch = Guarded::new(scratch, r);
            let mut call = ConvCall {
                conv: &conv,
                rows,
                input: &input,
                weights: &weights,
                params: &params,
                channels: channels.clone(),
                out_hi: some_hi.inside().into(),
                out_lo: some_lo.inside().into(),
                scratch: scratch.inside(),
            };
            // SAFETY: `backends` only gives backends that are available.
            unsafe { (backend.conv.run)(&mut call) };
            if !(some_hi.intact() && some_lo.intact() && scratch.intact()) {
                return Err("bytes beyond a slice were written".into());
            }
            for (plane, some) in [(&mut hi, &mut some_hi), (&mut lo, &mut some_lo)].into_iter().take(planes) {
                let pixels = plane[bytes.clone()].chunks_mut(out_c).zip(some.inside().chunks(out_c));
                for (before, after) in pixels {
                    before[channels.clone()].copy_from_slice(&after[channels.clone()]);
                    if before != after {
                        return Err("other channels were written".into());
                    }
                }
            }
        }
        let hi = hi.iter().map(|&h| h ^ plane_flip);
        Ok(match self.wide {
            true => hi.zip(&lo).map(|(h, &l)| i16::from_le_bytes([l, h])).collect(),
            false => hi.map(|h| i16::from(h as i8)).collect(),
        })
    }

    /// What to compute at a time: everything; for a kernel that splits, also some rows at a time, and some channels.
    fn pieces(&self, backend: &Backend, r: &mut Random) -> Vec<Vec<[Range<usize>; 2]>> {
        let (shape, step) = (&self.conv.shape, backend.conv.channel_step);
        let (rows, channels) = (shape.out_h(), usize::from(shape.out_c));
        let by_rows = cuts(rows, backend.conv.splits, r);
        let mut all: Vec<Vec<_>> =
            by_rows.iter().map(|cuts| between(cuts).map(|rows| [rows, 0..channels]).collect()).collect();
        if step > 0 && shape.groups == 1 && channels > step {
            let at = |n: &usize| channels.min(n * step);
            let by_channels: Vec<usize> =
                cuts(channels.div_ceil(step), true, r).last().expect("cuts").iter().map(at).collect();
            all.push(between(&by_channels).map(|channels| [0..rows, channels]).collect());
        }
        all
    }

    fn check(&self, backends: &[Backend], r: &mut Random) {
        let expected = self.expected();
        for backend in backends {
            let name = backend.conv.name;
            for pieces in self.pieces(backend, r) {
                let (conv, limits) = (&self.conv, self.conv.limits);
                let at = format!("{name} {conv:?} wide {} {limits:?} {:?} pieces {pieces:?}", self.wide, self.values);
                let got = self.run(backend, &pieces, r).unwrap_or_else(|e| panic!("{at}: {e}"));
                if let Some(i) = (0..got.len()).find(|&i| got[i] != expected[i]) {
                    panic!("{at}: output {i} is {}, the law says {}", got[i], expected[i]);
                }
            }
        }
    }
}

/// The ranges between cuts.
fn between(cuts: &[usize]) -> impl Iterator<Item = Range<usize>> {
    cuts.windows(2).map(|c| c[0]..c[1])
}

/// Where to cut `rows` rows: nowhere, and for a kernel that splits, in up to three places as well.
fn cuts(rows: usize, splits: bool, r: &mut Random) -> Vec<Vec<usize>> {
    let mut all = vec![vec![0, rows]];
    if splits && rows > 1 {
        let mut some: Vec<usize> = [0, rows].into_iter().chain((0..3).map(|_| 1 + r.below(rows - 1))).collect();
        some.sort_unstable();
        some.dedup();
        all.push(some);
    }
    all
}

fn limits(wide: bool, r: &mut Random) -> Limits {
    let mut draw = || if wide { r.next() as i16 } else { i16::from(r.next() as i8) };
    let (a, b, zero) = (draw(), draw(), draw());
    let (least, most) = if wide { (i16::MIN, i16::MAX) } else { (-128, 127) };
    match r.below(4) {
        0 => Limits { zero: least, min: least, max: most },
        1 => Limits { zero, min: zero, max: most },
        2 => Limits { zero, min: least, max: most },
        _ => Limits { zero, min: a.min(b), max: a.max(b) },
    }
}

/// Bytes between two guards, at any alignment.
struct Guarded {
    all: Vec<u8>,
    start: usize,
    len: usize,
    guards: Vec<u8>,
}

impl Guarded {
    fn new(inside: Vec<u8>, r: &mut Random) -> Self {
        let (start, len) = (64 + r.below(64), inside.len());
        let mut all = r.bytes(start);
        all.extend(inside);
        all.extend(r.bytes(128));
        let guards = Self::outside(&all, start, len);
        Guarded { all, start, len, guards }
    }

    fn outside(all: &[u8], start: usize, len: usize) -> Vec<u8> {
        [&all[..start], &all[start + len..]].concat()
    }

    fn inside(&mut self) -> &mut [u8] {
        &mut self.all[self.start..][..self.len]
    }

    fn intact(&self) -> bool {
        Self::outside(&self.all, self.start, self.len) == self.guards
    }
}

fn shape(size: (u16, u16), in_c: u16, out_c: u16, (kernel, stride, padding): (u8, u8, u8)) -> ConvShape {
    ConvShape { in_h: size.0, in_w: size.1, in_c, out_c, kernel, stride, padding, groups: 1 }
}

/// The numbers of channels that windows are tested with.
const CHANNELS: [u16; 10] = [1, 3, 4, 7, 8, 9, 16, 24, 40, 48];

/// The portable backend for a layout.
fn reference(layout: Layout) -> Backend {
    match layout {
        Layout::Ohwi => scalar::OHWI,
        Layout::K8N16 => scalar::K8N16,
        Layout::K4N2 => scalar::K4N2,
        Layout::K8N4 => scalar::K8N4,
    }
}

/// Bytes of a plane as a layout keeps them, or back.
fn flipped(plane: &[u8], flip: u8) -> Vec<u8> {
    plane.iter().map(|b| b ^ flip).collect()
}

/// Walks through shapes and forms.
pub(crate) struct Sweep {
    /// What is compared.
    pub(crate) backends: &'static [Backend],
    /// Where numbers come from.
    pub(crate) r: Random,
    /// Only every so many cases of convolutions run: emulated boards are slow.
    pub(crate) every: usize,
    /// Cases that have passed by.
    pub(crate) seen: usize,
}

impl Sweep {
    fn turn(&mut self) -> bool {
        self.seen += 1;
        self.seen.is_multiple_of(self.every)
    }

    /// Every form of output and source, with numbers of every kind.
    fn check_shape(&mut self, shape: ConvShape) {
        let turn = self.r.below(5);
        for form in 0..8 {
            let flags = (form & 1 != 0, form & 2 != 0, form & 4 != 0);
            self.check(shape, VALUES[(form + turn) % 5], flags);
            if flags.0 && shape.output_len() > 0 && self.turn() {
                let values = VALUES[(form + turn + 1) % 5];
                Case::new(shape, values, flags, &mut self.r).raw().check(self.backends, &mut self.r);
            }
        }
    }

    /// One case of any form.
    fn check_any(&mut self, shape: ConvShape, values: Values) {
        let flags = (self.r.below(2) > 0, self.r.below(2) > 0, self.r.below(2) > 0);
        self.check(shape, values, flags);
    }

    fn check(&mut self, shape: ConvShape, values: Values, flags: (bool, bool, bool)) {
        if shape.output_len() > 0 && self.turn() {
            Case::new(shape, values, flags, &mut self.r).check(self.backends, &mut self.r);
        }
    }

    /// The layers of RIDE's ResNet-32.
    pub(crate) fn layers_of_the_network(&mut self) {
        for (side, in_c, out_c, stride) in
            [(32, 3, 16, 1), (16, 16, 24, 2), (8, 24, 48, 2), (8, 48, 48, 1), (16, 24, 24, 1)]
        {
            self.check_shape(shape((side, side), in_c, out_c, (3, stride, 1)));
        }
    }

    /// All numbers of output channels: whole blocks, blocks of 8, ragged ones, more blocks than a tile has.
    pub(crate) fn output_channels(&mut self) {
        for out_c in (1..=50).chain([56, 64, 72, 80, 96, 100, 104, 112]) {
            let (in_c, width) = (self.r.pick(&CHANNELS[..8]), self.r.pick(&[4, 5, 8]));
            self.check_shape(shape((2, width), in_c, out_c, (3, 1, 1)));
        }
    }

    /// All widths up to beyond two of the widest tiles, for each kind of tile.
    pub(crate) fn widths(&mut self) {
        for width in 1..=37 {
            for out_c in [8, 16, 24, 32, 48] {
                let (in_c, stride) = (self.r.pick(&[3, 8, 16]), self.r.pick(&[1, 1, 2]));
                let values = self.r.pick(&VALUES);
                self.check_any(shape((2, width), in_c, out_c, (3, stride, 1)), values);
            }
        }
    }

    /// All windows, strides and paddings on many sizes and numbers of input channels.
    pub(crate) fn windows(&mut self) {
        for kernel in [1, 2, 3, 5, 7] {
            for stride in 1..=3 {
                for padding in 0..kernel {
                    for size in [(1, 1), (1, 6), (7, 3), (5, 9), (6, 17)] {
                        let (in_c, out_c) = (self.r.pick(&CHANNELS), self.r.pick(&[4, 8, 16, 24, 32, 48, 17]));
                        let values = self.r.pick(&VALUES);
                        self.check_any(shape(size, in_c, out_c, (kernel, stride, padding)), values);
                    }
                }
            }
        }
    }

    /// All combinations of input and output channels.
    pub(crate) fn input_channels(&mut self) {
        for in_c in CHANNELS.into_iter().chain([2, 5, 6, 10, 31, 64]) {
            for out_c in [7, 16, 24, 25] {
                let shape = shape((3, 5), in_c, out_c, (3, self.r.pick(&[1, 2]), 1));
                for values in VALUES {
                    self.check_any(shape, values);
                }
            }
        }
    }

    pub(crate) fn dense_layers(&mut self) {
        let Sweep { backends, r, .. } = self;
        for (features, outputs) in
            [(1, 1), (2, 15), (3, 16), (7, 17), (48, 16), (48, 100), (64, 33), (200, 1000), (301, 1003)]
        {
            for (normalize, extreme) in [(false, false), (true, false), (true, true)] {
                for backend in *backends {
                    let d = Dense {
                        features,
                        outputs,
                        weights: Span { at: 0, len: 0 },
                        params: Span { at: 0, len: 0 },
                        layout: backend.layout,
                        normalize,
                    };
                    let rows: Vec<i8> =
                        (0..usize::from(features) * usize::from(outputs)).map(|_| r.next() as i8).collect();
                    let mut weights = vec![0; kernels::dense::weights_len(features, outputs, backend.layout)];
                    kernels::dense::pack(&d, &rows, &mut weights);
                    let norm_at = feature_norm_at(usize::from(features));
                    let mut feature = if extreme { [0, 0x80].repeat(norm_at / 2) } else { r.bytes(norm_at) };
                    // As pooling leaves it.
                    feature[2 * usize::from(features)..].fill(0);
                    feature.extend(0.01234f32.to_le_bytes());
                    let params: Vec<u8> =
                        (0..2 * outputs).flat_map(|_| (r.next() as f32 / 1e9 - 2.0).to_le_bytes()).collect();
                    let mut results = [&reference(backend.layout), backend].map(|b| {
                        let mut out = Guarded::new(r.bytes(4 * usize::from(outputs)), r);
                        let mut call = DenseCall {
                            dense: &d,
                            feature: &feature,
                            weights: &weights,
                            params: &params,
                            out: out.inside(),
                        };
                        // SAFETY: `backends` only gives backends that are available.
                        unsafe { (b.dense)(&mut call) };
                        assert!(out.intact());
                        out
                    });
                    let [want, got] = results.each_mut().map(|g| g.inside().to_vec());
                    assert_eq!(want, got, "{} {d:?}", backend.conv.name);
                }
            }
        }
    }

    pub(crate) fn pools(&mut self) {
        let Sweep { backends, r, .. } = self;
        for (pixels, channels) in [(1, 1), (64, 48), (49, 17), (64, 40), (3, 200), (7, 16)] {
            for form in 0..4 {
                let wide = form % 2 > 0;
                let len = pixels as usize * usize::from(channels);
                let (hi, lo) = match form {
                    0 | 1 => (r.bytes(len), r.bytes(if wide { len } else { 0 })),
                    _ => (vec![0x7f; len], vec![0xff; if wide { len } else { 0 }]),
                };
                let pool = Pool {
                    pixels,
                    channels,
                    source: Planes { hi: 0, lo: wide.then_some(0) },
                    zero: if wide { r.next() as i16 } else { i16::from(r.next() as i8) },
                    shift: if wide { 7 } else { 0 },
                    out: 0,
                };
                for backend in *backends {
                    let mut results = [&scalar::OHWI, backend].map(|b| {
                        let mut out = Guarded::new(r.bytes(pool.output_len()), r);
                        let flip = b.layout.plane_flip();
                        let mut call =
                            PoolCall { pool: &pool, in_hi: &flipped(&hi, flip), in_lo: &lo, out: out.inside(), flip };
                        // SAFETY: `backends` only gives backends that are available.
                        unsafe { (b.pool)(&mut call) };
                        assert!(out.intact());
                        out
                    });
                    let [want, got] = results.each_mut().map(|g| g.inside().to_vec());
                    assert_eq!(want, got, "{} {pool:?}", backend.conv.name);
                }
            }
        }
    }

    pub(crate) fn shortcuts(&mut self) {
        let Sweep { backends, r, .. } = self;
        for (size, in_c, out_c, stride) in
            [(32, 16, 24, 2), (16, 24, 48, 2), (5, 3, 8, 3), (7, 17, 17, 1), (1, 1, 4, 2)]
        {
            for form in 0..8 {
                let wide = form % 2 > 0;
                let s = Shortcut {
                    in_h: size,
                    in_w: size,
                    in_c,
                    out_c,
                    stride,
                    before: (out_c - in_c) / 2,
                    source: Planes { hi: 0, lo: wide.then_some(0) },
                    out: Planes { hi: 0, lo: wide.then_some(0) },
                    in_zero: if wide { r.next() as i16 } else { i16::from(r.next() as i8) },
                    limits: limits(wide, r),
                    multiplier: (1 << 30) + (r.next() >> 2) as i32,
                    right_shift: if form < 6 { 30 + r.below(3) as u8 } else { 24 + r.below(39) as u8 },
                };
                let hi = r.bytes(s.input_len());
                let lo = r.bytes(if wide { s.input_len() } else { 0 });
                for backend in *backends {
                    let [want, got] = [&scalar::OHWI, backend].map(|b| {
                        let flip = b.layout.plane_flip();
                        let mut out_hi = Guarded::new(r.bytes(s.output_len()), r);
                        let mut out_lo = Guarded::new(r.bytes(if wide { s.output_len() } else { 0 }), r);
                        let mut call = ShortcutCall {
                            shortcut: &s,
                            in_hi: &flipped(&hi, flip),
                            in_lo: &lo,
                            out_hi: out_hi.inside(),
                            out_lo: out_lo.inside(),
                            flip,
                        };
                        // SAFETY: `backends` only gives backends that are available.
                        unsafe { (b.shortcut)(&mut call) };
                        assert!(out_hi.intact() && out_lo.intact());
                        [flipped(out_hi.inside(), flip), out_lo.inside().to_vec()]
                    });
                    assert_eq!(want, got, "{} {s:?}", backend.conv.name);
                }
            }
        }
    }
}
