//! Scales and zero points of activations.

use anyhow::{Context, Result, ensure};
use ride_calibrate::table::CalibrationTable;
use ride_runtime::op::Limits;

use super::program::{Program, Value};

/// Affine quantization of an activation as its int8 plane sees it: `real = scale * (q - zero)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quant {
    /// Real value of one int8 step.
    pub(crate) scale: f64,
    /// Zero point.
    pub(crate) zero: i8,
    /// Whether 8 more bits lie below.
    pub(crate) wide: bool,
    /// Whether values are raw ([`ride_runtime::op::Conv::raw`]): 16 bits in steps of two, no zero point.
    pub(crate) raw: bool,
}

impl Quant {
    /// The quantization whose 256 values span `min..=max` (which contains zero).
    fn of_range(min: f64, max: f64, wide: bool) -> Self {
        let (min, max) = (min.min(0.0), max.max(0.0));
        // A value that calibration has only seen at zero (a ReLU that never fires) has no scale of its own: any will do.
        let scale = if max > min { (max - min) / 255.0 } else { 1.0 };
        let zero = (-128.0 - min / scale).round().clamp(-128.0, 127.0) as i8;
        Quant { scale, zero, wide, raw: false }
    }

    /// Scale of the values that the output stage computes: a 256th where the activation is wide.
    pub(crate) fn output_scale(&self) -> f64 {
        match (self.raw, self.wide) {
            (true, _) => self.scale / 128.0,
            (false, true) => self.scale / 256.0,
            (false, false) => self.scale,
        }
    }

    /// Real value of one step of what is requantized: wide outputs count in steps of two.
    pub(crate) fn requantized_scale(&self) -> f64 {
        if self.wide { self.scale / 128.0 } else { self.scale }
    }

    /// Zero point of those values. A wide one is chosen so that cutting off the low byte rounds to nearest.
    pub(crate) fn output_zero(&self) -> i16 {
        if self.raw {
            0
        } else if self.wide {
            256 * i16::from(self.zero) + 128
        } else {
            i16::from(self.zero)
        }
    }

    /// Zero point and limits, with or without a fused ReLU.
    pub(crate) fn limits(&self, relu: bool) -> Limits {
        let (min, max) = if self.wide { (i16::MIN, i16::MAX) } else { (i16::from(i8::MIN), i16::from(i8::MAX)) };
        let zero = self.output_zero();
        Limits { zero, min: if relu { zero } else { min }, max }
    }

    /// Zero point and limits with a fused ReLU whose results are at most `ceiling`.
    pub(crate) fn capped(&self, limits: Limits, ceiling: Option<f32>) -> Limits {
        let Some(ceiling) = ceiling else { return limits };
        let top = f64::from(limits.zero) + (f64::from(ceiling) / self.output_scale()).round();
        // A range that ends below the ceiling saturates first.
        Limits { max: top.min(f64::from(limits.max)) as i16, ..limits }
    }
}

/// Chooses the quantization of every value: its own calibrated range, or for a residual stream the range that spans all
/// values of the stream, because they add up in place.
pub(crate) fn choose(program: &Program<'_>, table: &CalibrationTable, residual_bits: u8) -> Result<Vec<Quant>> {
    let mut ranges = Vec::with_capacity(program.values.len());
    for value in &program.values {
        let entry = table.values.get(&value.name).with_context(|| {
            format!(
                "the calibration table has no range for {}: it belongs to another model; calibrate again",
                value.name
            )
        })?;
        ensure!(
            entry.min.is_finite() && entry.max.is_finite() && entry.min <= entry.max,
            "the calibration table's range of {} is not a range: {}..{}",
            value.name,
            entry.min,
            entry.max
        );
        ranges.push((f64::from(entry.min), f64::from(entry.max)));
    }
    let mut streams = vec![(0.0f64, 0.0f64); program.streams.len()];
    let wide = |value: &Value| residual_bits == 16 && value.stream.is_some_and(|s| program.streams[s]);
    let raw = |value: &Value| value.summand && wide(value);
    let of_streams =
        || program.values.iter().zip(&ranges).filter_map(|(value, range)| Some((value, value.stream?, range)));
    for (_, stream, range) in of_streams().filter(|(value, ..)| !raw(value)) {
        let span = &mut streams[stream];
        *span = (span.0.min(range.0), span.1.max(range.1));
    }
    // Raw values go as far to either side of zero as the whole range of the stream.
    for (_, stream, range) in of_streams().filter(|(value, ..)| raw(value)) {
        let span = &mut streams[stream];
        span.1 = span.1.max(span.0 + range.1.max(-range.0));
    }
    let quants = program.values.iter().zip(&ranges).map(|(value, own)| {
        let (min, max) = value.stream.map_or(*own, |s| streams[s]);
        Quant { raw: raw(value), ..Quant::of_range(min, max, wide(value)) }
    });
    Ok(quants.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relu_range_uses_all_codes() {
        let q = Quant::of_range(0.0, 5.1, false);
        assert_eq!((q.zero, q.limits(true).min), (-128, -128));
        assert!((q.scale - 0.02).abs() < 1e-12);
    }

    #[test]
    fn a_ceiling_is_met_and_never_widens() {
        let q = Quant::of_range(0.0, 12.75, false);
        assert_eq!(q.capped(q.limits(true), Some(6.0)).max, -128 + 120);
        assert_eq!(q.capped(q.limits(true), Some(20.0)).max, 127);
        assert_eq!(q.capped(q.limits(true), None), q.limits(true));
        let wide = Quant::of_range(0.0, 12.75, true);
        assert_eq!(wide.capped(wide.limits(true), Some(6.0)).max, wide.output_zero() + 120 * 256);
    }

    #[test]
    fn a_value_that_is_always_zero_gets_some_scale() {
        let q = Quant::of_range(0.0, 0.0, true);
        assert_eq!((q.zero, q.scale), (-128, 1.0));
    }

    #[test]
    fn wide_zero_makes_truncation_round() {
        let q = Quant::of_range(0.0, 255.0, true);
        assert_eq!(q.output_zero(), -32640);
        for (real, hi) in [(0.0, -128), (0.49, -128), (0.51, -127), (100.4, -28)] {
            let value = (real / q.output_scale()).round() as i16 + q.output_zero();
            assert_eq!(i32::from(value) >> 8, hi, "{real}");
        }
    }

    #[test]
    fn signed_range_contains_zero_exactly() {
        let q = Quant::of_range(-1.0, 3.0, false);
        let back = |code: i8| q.scale * f64::from(i32::from(code) - i32::from(q.zero));
        assert_eq!(back(q.zero), 0.0);
        assert!((back(-128) + 1.0).abs() < q.scale && (back(127) - 3.0).abs() < q.scale);
    }
}
