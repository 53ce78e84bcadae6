//! The kernel with AVX2 and FMA (a vector of 16 is two registers) and with AVX-512 (it is one).

use super::{Block, Kernel, Output, Panel, Sums, Windows, pixels};
use std::arch::x86_64::{
    __m256, __m512, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

/// The kernels that this machine can run, slowest first.
pub(super) fn available() -> impl Iterator<Item = Kernel> {
    let kernels: [(bool, Kernel); 2] = [(has_fma(), fma), (has_avx512(), avx512)];
    kernels.into_iter().filter(|(there, _)| *there).map(|(_, kernel)| kernel)
}

fn has_fma() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// 12 of the 16 registers hold sums.
fn fma(windows: &Windows<'_>, block: &Block<'_>, output: &mut Output<'_>) {
    assert!(has_fma());
    for vector in 0..block.bias.len() {
        // SAFETY: the assertion has seen the features that the tile is compiled for.
        pixels(windows, block, vector, output, |w, s: &[_; 6], b, v| unsafe { tile_fma(w, s, b, v) });
    }
}

/// Up to 24 of the 32 registers hold sums; more pixels would need more pointers than there are registers.
fn avx512(windows: &Windows<'_>, block: &Block<'_>, output: &mut Output<'_>) {
    assert!(has_avx512());
    // SAFETY, for all four: the assertion has seen the features that the tile is compiled for.
    match block.bias.len() {
        // SAFETY: see above.
        1 => pixels(windows, block, 0, output, |w, s: &[_; 8], b, _| unsafe { tile_avx512::<1, 8>(w, s, b) }),
        // SAFETY: see above.
        2 => pixels(windows, block, 0, output, |w, s: &[_; 8], b, _| unsafe { tile_avx512::<2, 8>(w, s, b) }),
        // SAFETY: see above.
        3 => pixels(windows, block, 0, output, |w, s: &[_; 8], b, _| unsafe { tile_avx512::<3, 8>(w, s, b) }),
        // SAFETY: see above.
        _ => pixels(windows, block, 0, output, |w, s: &[_; 6], b, _| unsafe { tile_avx512::<4, 6>(w, s, b) }),
    }
}

#[target_feature(enable = "avx512f")]
fn tile_avx512<const V: usize, const P: usize>(
    windows: &Windows<'_>,
    starts: &[usize; P],
    block: &Block<'_>,
) -> Sums<V, P> {
    let len = windows.run_len;
    let mut sums = [[_mm512_setzero_ps(); V]; P];
    for v in 0..V {
        let bias = load_512(&block.bias[v]);
        for sums in &mut sums {
            sums[v] = bias;
        }
    }
    let weights = block.weights.as_chunks::<V>().0;
    for (&run, weights) in windows.runs.iter().zip(weights.chunks_exact(len)) {
        let rows: [&[f32]; P] = std::array::from_fn(|p| &windows.input[starts[p] + run..][..len]);
        for (k, panels) in weights.iter().enumerate() {
            let mut w = [_mm512_setzero_ps(); V];
            for v in 0..V {
                w[v] = load_512(&panels[v]);
            }
            for p in 0..P {
                // SAFETY: `weights` is a chunk of `len` elements, so `k < len`, and every row was cut to `len`.
                let x = _mm512_set1_ps(unsafe { *rows[p].get_unchecked(k) });
                for v in 0..V {
                    sums[p][v] = _mm512_fmadd_ps(x, w[v], sums[p][v]);
                }
            }
        }
    }
    let mut stored = [[[0.0; 16]; V]; P];
    for p in 0..P {
        for v in 0..V {
            store_512(&mut stored[p][v], sums[p][v]);
        }
    }
    stored
}

#[target_feature(enable = "avx2,fma")]
fn tile_fma<const P: usize>(
    windows: &Windows<'_>,
    starts: &[usize; P],
    block: &Block<'_>,
    vector: usize,
) -> Sums<1, P> {
    let (stride, len) = (block.bias.len(), windows.run_len);
    let mut sums = [load_256(&block.bias[vector]); P];
    for (&run, weights) in windows.runs.iter().zip(block.weights.chunks_exact(len * stride)) {
        let rows: [&[f32]; P] = std::array::from_fn(|p| &windows.input[starts[p] + run..][..len]);
        for (k, panels) in weights.chunks_exact(stride).enumerate() {
            let w = load_256(&panels[vector]);
            for p in 0..P {
                // SAFETY: `weights` has `len * stride` elements, so `k < len`, and every row was cut to `len`.
                let x = _mm256_broadcast_ss(unsafe { rows[p].get_unchecked(k) });
                for half in 0..2 {
                    sums[p][half] = _mm256_fmadd_ps(x, w[half], sums[p][half]);
                }
            }
        }
    }
    let mut stored = [[[0.0; 16]]; P];
    for p in 0..P {
        store_256(&mut stored[p][0], sums[p]);
    }
    stored
}

#[target_feature(enable = "avx512f")]
fn load_512(panel: &Panel) -> __m512 {
    // SAFETY: a panel is 16 floats.
    unsafe { _mm512_loadu_ps(panel.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
fn store_512(panel: &mut Panel, x: __m512) {
    // SAFETY: a panel is 16 floats.
    unsafe { _mm512_storeu_ps(panel.as_mut_ptr(), x) }
}

#[target_feature(enable = "avx2,fma")]
fn load_256(panel: &Panel) -> [__m256; 2] {
    let (halves, _) = panel.as_chunks::<8>();
    // SAFETY: each half of a panel is 8 floats.
    unsafe { [_mm256_loadu_ps(halves[0].as_ptr()), _mm256_loadu_ps(halves[1].as_ptr())] }
}

#[target_feature(enable = "avx2,fma")]
fn store_256(panel: &mut Panel, x: [__m256; 2]) {
    let (halves, _) = panel.as_chunks_mut::<8>();
    for (half, x) in halves.iter_mut().zip(x) {
        // SAFETY: each half of a panel is 8 floats.
        unsafe { _mm256_storeu_ps(half.as_mut_ptr(), x) }
    }
}
