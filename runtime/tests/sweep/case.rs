//! One convolution: its numbers, what the law says of them, and what a backend makes of them.

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};

use super::guarded::Guarded;
use super::pieces::Piece;
use super::random::{Random, limits};
use ride_runtime::kernels::{self, Backend, ConvCall, packing};
use ride_runtime::op::{Conv, ConvShape, Layout, Limits, Planes, Source, Span};
use ride_runtime::oracle;

/// How numbers of a case are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Values {
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

pub(super) const VALUES: [Values; 5] =
    [Values::Typical, Values::Border, Values::Extreme, Values::Shifts, Values::Overflow];

/// A convolution on plain tensors.
pub(super) struct Case {
    pub(super) conv: Conv,
    wide: bool,
    values: Values,
    pub(super) input: Vec<i8>,
    pub(super) weights: Vec<i8>,
    bias: Vec<i32>,
    multiplier: Vec<i32>,
    pub(super) right_shift: Vec<u8>,
    /// What the outputs hold before.
    before: Vec<i16>,
}

impl Case {
    pub(super) fn new(
        shape: ConvShape,
        values: Values,
        (wide, accumulate, image): (bool, bool, bool),
        r: &mut Random,
    ) -> Self {
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
    pub(super) fn raw(mut self) -> Self {
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
        let mut out = vec![0; kernels::weights_len(&self.conv.shape, layout)];
        packing::pack(&self.conv.shape, layout, &self.weights, &mut out);
        out
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
    fn run(&self, backend: &Backend, pieces: &[Piece], r: &mut Random) -> Result<Vec<i16>, String> {
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

    pub(super) fn check(&self, backends: &[Backend], r: &mut Random) {
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
