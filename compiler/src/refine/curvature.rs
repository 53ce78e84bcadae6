//! Rounding a row of weights so that the layer's output changes least.
//!
//! The expected squared change of the output (its mean is given back by the bias) is `eᵀ H e` for the error
//! `e = w - scale * q` and the covariance `H` of the inputs. With `H = L D Lᵀ`, `L` unit lower triangular, that is
//! `Σ D[k] (e[k] + Σ_{j>k} L[j][k] e[j])²`: going from the last weight to the first, each one is rounded to where it makes
//! up for those before it. (Chee et al., "QuIP", NeurIPS 2023, section 3, show that this is what OPTQ/GPTQ computes:
//! Frantar et al., ICLR 2023.) Single steps up and down afterwards take what the greedy order has left.

use super::moments::Moments;
use crate::lower::rounding::{Row, nearest};

/// Added to the variance of each input, as a part of the mean variance: inputs that calibration saw little of.
const DAMPING: f64 = 0.01;
/// Fractions of the largest magnitude that are tried as the clipping point.
const SHRINK: [f64; 7] = [1.0, 0.97, 0.94, 0.91, 0.88, 0.84, 0.8];
/// Rows beyond this length try only every third.
const LONG: usize = 1024;
/// Passes of single steps.
const PASSES: usize = 6;

/// What errors of the weights of one row cost.
pub(super) struct Curvature {
    pieces: Vec<Piece>,
    /// Mean of each input.
    mean: Vec<f64>,
}

/// Weights that are rounded together.
struct Piece {
    first: usize,
    len: usize,
    /// Damped covariance.
    h: Vec<f64>,
    /// Places in the piece by rising variance: those of most weight are rounded first, which is from the end.
    order: Vec<usize>,
    /// Unit lower triangular factor in that order.
    l: Vec<f64>,
}

impl Curvature {
    /// From the moments of all pieces of a row.
    pub(super) fn new(moments: Vec<Moments>) -> Self {
        let mean = moments.iter().flat_map(Moments::mean).collect();
        let pieces = moments.into_iter().map(|m| Piece::new(m.first, m.len, m.covariance())).collect();
        Curvature { pieces, mean }
    }

    /// From means and covariance of all inputs.
    pub(super) fn of_covariance(mean: Vec<f64>, covariance: Vec<f64>) -> Self {
        Curvature { pieces: vec![Piece::new(0, mean.len(), covariance)], mean }
    }

    /// Expected squared change of the output for this error of the weights.
    pub(super) fn cost(&self, error: &[f64]) -> f64 {
        self.pieces.iter().map(|piece| piece.cost(error)).sum()
    }

    /// Rounds a row; never worse than to nearest by [`Curvature::cost`]. The bias gives back what the mean of the output
    /// loses.
    pub(super) fn round(&self, w: &[f64], bias: f64, min_scale: f64) -> Rounded {
        let plain = nearest(w, min_scale);
        let nearest_cost = self.cost(&errors(w, &plain.q, plain.scale));
        let (mut best, mut cost) = ((plain.q, plain.scale), nearest_cost);
        let largest = w.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        // A row that is small beside its bias keeps its scale and has no steps to move.
        if largest > 127.0 * min_scale && largest > 0.0 {
            let skip = if w.len() > LONG { 3 } else { 1 };
            for shrink in SHRINK.iter().step_by(skip) {
                let candidate = self.fitted(w, largest * shrink / 127.0, min_scale);
                let found = self.cost(&errors(w, &candidate.0, candidate.1));
                if found < cost {
                    (best, cost) = (candidate, found);
                }
            }
            let polished = self.polished(w, best.clone(), min_scale);
            let found = self.cost(&errors(w, &polished.0, polished.1));
            if found < cost {
                (best, cost) = (polished, found);
            }
        }
        let (q, scale) = best;
        let lost: f64 = errors(w, &q, scale).iter().zip(&self.mean).map(|(e, mean)| e * mean).sum();
        Rounded { row: Row { q, scale, bias: bias + lost }, cost, nearest: nearest_cost }
    }

    /// Rounded one after the other in steps of `step`, with the scale that fits best then.
    fn fitted(&self, w: &[f64], step: f64, min_scale: f64) -> (Vec<i8>, f64) {
        let mut q = vec![0; w.len()];
        self.pieces.iter().for_each(|piece| piece.round(w, step, &mut q));
        let scale = self.scale(w, &q).unwrap_or(step).max(min_scale);
        (q, scale)
    }

    /// The scale with the smallest cost for these integers: `wᵀ H q / qᵀ H q`.
    fn scale(&self, w: &[f64], q: &[i8]) -> Option<f64> {
        let q: Vec<f64> = q.iter().map(|&q| f64::from(q)).collect();
        let (mut dot, mut norm) = (0.0, 0.0);
        for piece in &self.pieces {
            let hq = piece.product(&q);
            let own = piece.first..piece.first + piece.len;
            dot += inner(&w[own.clone()], &hq);
            norm += inner(&q[own], &hq);
        }
        Some(dot / norm).filter(|scale| scale.is_normal() && *scale > 0.0)
    }

    /// Moves single weights by a step while that helps, then fits the scale again.
    fn polished(&self, w: &[f64], (mut q, scale): (Vec<i8>, f64), min_scale: f64) -> (Vec<i8>, f64) {
        let mut error = errors(w, &q, scale);
        self.pieces.iter().for_each(|piece| piece.polish(&mut error, &mut q, scale));
        let scale = self.scale(w, &q).map_or(scale, |fit| fit.max(min_scale));
        (q, scale)
    }
}

/// A rounded row and what its error costs.
pub(super) struct Rounded {
    pub(super) row: Row,
    /// Expected squared change of the output in real units.
    pub(super) cost: f64,
    /// The same for rounding to nearest.
    pub(super) nearest: f64,
}

fn errors(w: &[f64], q: &[i8], scale: f64) -> Vec<f64> {
    w.iter().zip(q).map(|(w, &q)| w - scale * f64::from(q)).collect()
}

impl Piece {
    fn new(first: usize, len: usize, mut h: Vec<f64>) -> Self {
        let variance: f64 = (0..len).map(|k| h[k * len + k]).sum::<f64>() / len.max(1) as f64;
        let damping = if variance > 0.0 { DAMPING * variance } else { 1.0 };
        (0..len).for_each(|k| h[k * len + k] += damping);
        let mut order: Vec<usize> = (0..len).collect();
        order.sort_by(|&a, &b| h[a * len + a].total_cmp(&h[b * len + b]));
        let mut l: Vec<f64> =
            order.iter().flat_map(|&a| order.iter().map(move |&b| (a, b))).map(|(a, b)| h[a * len + b]).collect();
        unit_lower(&mut l, len);
        Piece { first, len, h, order, l }
    }

    fn round(&self, w: &[f64], step: f64, q: &mut [i8]) {
        let mut pull = vec![0.0; self.len];
        for i in (0..self.len).rev() {
            let k = self.first + self.order[i];
            q[k] = ((w[k] + pull[i]) / step).round().clamp(-127.0, 127.0) as i8;
            let error = w[k] - step * f64::from(q[k]);
            let row = &self.l[i * self.len..][..i];
            pull.iter_mut().zip(row).for_each(|(pull, l)| *pull += l * error);
        }
    }

    /// `H x` for this piece's part of `x`.
    fn product(&self, x: &[f64]) -> Vec<f64> {
        let x = &x[self.first..self.first + self.len];
        self.h.chunks_exact(self.len.max(1)).map(|row| inner(row, x)).collect()
    }

    fn cost(&self, error: &[f64]) -> f64 {
        inner(&error[self.first..self.first + self.len], &self.product(error))
    }

    fn polish(&self, error: &mut [f64], q: &mut [i8], scale: f64) {
        let mut gradient = self.product(error);
        for _ in 0..PASSES {
            let mut moved = false;
            for k in 0..self.len {
                let (at, up) = (self.first + k, gradient[k] > 0.0);
                let step = if up { scale } else { -scale };
                let change = scale * scale * self.h[k * self.len + k] - 2.0 * step * gradient[k];
                let next = i16::from(q[at]) + if up { 1 } else { -1 };
                if change >= 0.0 || next.abs() > 127 {
                    continue;
                }
                moved = true;
                q[at] = next as i8;
                error[at] -= step;
                let row = &self.h[k * self.len..][..self.len];
                gradient.iter_mut().zip(row).for_each(|(g, h)| *g -= step * h);
            }
            if !moved {
                break;
            }
        }
    }
}

/// Replaces the lower triangle of a positive definite matrix by the unit lower triangular `L` of `L D Lᵀ`.
pub(super) fn unit_lower(a: &mut [f64], n: usize) {
    cholesky(a, n);
    for j in 0..n {
        let pivot = a[j * n + j];
        (j..n).for_each(|i| a[i * n + j] /= pivot);
    }
}

/// Replaces the lower triangle of a positive definite matrix by its Cholesky factor.
pub(super) fn cholesky(a: &mut [f64], n: usize) {
    for i in 0..n {
        let (above, row) = a.split_at_mut(i * n);
        for j in 0..i {
            let other = &above[j * n..][..=j];
            row[j] = (row[j] - inner(&row[..j], &other[..j])) / other[j];
        }
        // Rounding may leave nothing of a variance that others explain.
        let rest = row[i] - inner(&row[..i], &row[..i]);
        row[i] = rest.max(1e-12 * row[i]).max(f64::MIN_POSITIVE).sqrt();
    }
}

/// Solves `G Gᵀ x = b` in place for a Cholesky factor `G`.
pub(super) fn solve(g: &[f64], n: usize, b: &mut [f64]) {
    for i in 0..n {
        b[i] = (b[i] - inner(&g[i * n..][..i], &b[..i])) / g[i * n + i];
    }
    for i in (0..n).rev() {
        b[i] /= g[i * n + i];
        let (x, row) = (b[i], &g[i * n..][..i]);
        b.iter_mut().zip(row).for_each(|(b, g)| *b -= g * x);
    }
}

/// Inner product in eight lanes, in one order on every machine.
pub(super) fn inner(a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0.0f64; 8];
    for (a, b) in a.iter().zip(b) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u32) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1u32 << 23) - 1.0
        }
    }

    /// Inputs that have much in common, as activations of neighbouring pixels do.
    fn moments(taps: usize, pieces: Vec<Moments>) -> Vec<Moments> {
        let (mut next, mut pieces) = (noise(5), pieces);
        for _ in 0..3000 {
            let shared = 100.0 * next();
            let row: Vec<f32> = (0..taps).map(|_| (shared + 30.0 * next()).round().max(0.0) as f32).collect();
            pieces.iter_mut().for_each(|piece| piece.add(&row));
        }
        pieces
    }

    #[test]
    fn factors_multiply_back_and_solve() {
        let n = 19;
        let curvature = Curvature::new(moments(n, Moments::pieces(n)));
        let h = &curvature.pieces[0].h;
        let mut g = h.clone();
        cholesky(&mut g, n);
        let x: Vec<f64> = (0..n).map(|k| k as f64 - 7.5).collect();
        let mut b = curvature.pieces[0].product(&x);
        solve(&g, n, &mut b);
        for (x, b) in x.iter().zip(&b) {
            assert!((x - b).abs() < 1e-6, "{x} {b}");
        }
        let mut l = h.clone();
        unit_lower(&mut l, n);
        assert!((0..n).all(|k| l[k * n + k] == 1.0));
    }

    #[test]
    fn rounding_is_never_worse_than_to_nearest_and_mostly_much_better() {
        for (taps, pieces) in [(1, 1), (9, 1), (63, 1), (64, 2)] {
            let parts = (0..pieces).map(|i| Moments::new(i * taps / pieces, taps / pieces)).collect();
            let curvature = Curvature::new(moments(taps, parts));
            let mut next = noise(taps as u32);
            let (mut sum, mut plain) = (0.0, 0.0);
            for _ in 0..20 {
                let w: Vec<f64> = (0..taps).map(|_| 0.01 * next()).collect();
                let rounded = curvature.round(&w, 0.3, 1e-12);
                let again = curvature.cost(&errors(&w, &rounded.row.q, rounded.row.scale));
                assert_eq!(again, rounded.cost);
                assert!(rounded.cost <= rounded.nearest && rounded.row.q.iter().all(|&q| q > -128));
                sum += rounded.cost;
                plain += rounded.nearest;
            }
            assert!(taps < 9 || sum < 0.5 * plain, "{taps} taps: {sum} of {plain}");
        }
    }

    #[test]
    fn the_bias_gives_the_mean_back() {
        let curvature = Curvature::new(moments(12, Moments::pieces(12)));
        let mut next = noise(3);
        let w: Vec<f64> = (0..12).map(|_| next()).collect();
        let row = curvature.round(&w, 0.5, 1e-12).row;
        let mean = |w: &[f64]| inner(w, &curvature.mean);
        let back: Vec<f64> = row.q.iter().map(|&q| row.scale * f64::from(q)).collect();
        assert!((mean(&w) + 0.5 - mean(&back) - row.bias).abs() < 1e-9);
    }

    #[test]
    fn rows_without_weights_or_inputs_survive() {
        let silent = Curvature::new(Moments::pieces(4));
        let row = silent.round(&[0.5, -0.25, 0.0, 1.0], 2.0, 1e-8).row;
        assert!(row.scale > 0.0 && row.bias == 2.0);
        let curvature = Curvature::new(moments(4, Moments::pieces(4)));
        let row = curvature.round(&[0.0; 4], 2.0, 1e-3).row;
        assert_eq!((row.q, row.scale, row.bias), (vec![0; 4], 1e-3, 2.0));
    }
}
