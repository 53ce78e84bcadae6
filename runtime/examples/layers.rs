//! Times the distinct layers of RIDE's ResNet-32 on every kernel that this machine can run.
//!
//! `cargo run --release --example layers --features std [part of a kernel's name] [imagenet]`
//!
//! With `imagenet`, also some layers of the ImageNet family.

use ride_runtime::kernels::{self, BACKENDS, Backend, ConvCall, DenseCall, PoolCall, ShortcutCall};
use ride_runtime::op::{Conv, ConvShape, Dense, Layout, Limits, Planes, Pool, Shortcut, Source, Span, feature_norm_at};
use std::hint::black_box;
use std::time::Instant;

/// A layer and how often it runs.
struct Layer {
    name: &'static str,
    shape: ConvShape,
    wide: bool,
    accumulate: bool,
    in_stem: u32,
    in_expert: u32,
}

const fn layer(name: &'static str, side: u16, c: (u16, u16), stride: u8, wide: (bool, bool), n: (u32, u32)) -> Layer {
    let shape = ConvShape { in_h: side, in_w: side, in_c: c.0, out_c: c.1, kernel: 3, stride, padding: 1, groups: 1 };
    Layer { name, shape, wide: wide.0, accumulate: wide.1, in_stem: n.0, in_expert: n.1 }
}

const NARROW: (bool, bool) = (false, false);
const WIDE: (bool, bool) = (true, false);
const RESIDUAL: (bool, bool) = (true, true);

const LAYERS: [Layer; 9] = [
    layer("32x32x3 -> 16, wide", 32, (3, 16), 1, WIDE, (1, 0)),
    layer("32x32x16 -> 16", 32, (16, 16), 1, NARROW, (5, 0)),
    layer("32x32x16 -> 16, wide residual", 32, (16, 16), 1, RESIDUAL, (5, 0)),
    layer("32x32x16 -> 24, stride 2", 32, (16, 24), 2, NARROW, (0, 1)),
    layer("16x16x24 -> 24", 16, (24, 24), 1, NARROW, (0, 4)),
    layer("16x16x24 -> 24, wide residual", 16, (24, 24), 1, RESIDUAL, (0, 5)),
    layer("16x16x24 -> 48, stride 2", 16, (24, 48), 2, NARROW, (0, 1)),
    layer("8x8x48 -> 48", 8, (48, 48), 1, NARROW, (0, 4)),
    layer("8x8x48 -> 48, wide residual", 8, (48, 48), 1, RESIDUAL, (0, 5)),
];

const fn pointwise(name: &'static str, side: u16, c: (u16, u16), stride: u8, wide: (bool, bool)) -> Layer {
    let shape = ConvShape { in_h: side, in_w: side, in_c: c.0, out_c: c.1, kernel: 1, stride, padding: 0, groups: 1 };
    Layer { name, shape, wide: wide.0, accumulate: wide.1, in_stem: 0, in_expert: 0 }
}

const fn grouped(name: &'static str, side: u16, channels: u16, stride: u8) -> Layer {
    let (in_c, out_c) = (channels, channels);
    let shape = ConvShape { in_h: side, in_w: side, in_c, out_c, kernel: 3, stride, padding: 1, groups: 32 };
    Layer { name, shape, wide: false, accumulate: false, in_stem: 0, in_expert: 0 }
}

const fn depthwise(name: &'static str, side: u16, channels: u16, stride: u8) -> Layer {
    let Layer { shape, .. } = grouped(name, side, channels, stride);
    let shape = ConvShape { groups: channels, ..shape };
    Layer { name, shape, wide: false, accumulate: false, in_stem: 0, in_expert: 0 }
}

/// Some layers of ResNet-50 and ResNeXt-50 with `reduce_dimension`, and of MobileNet-v2.
const IMAGENET: [Layer; 20] = [
    pointwise("56x56x64 -> 256, wide residual", 56, (64, 256), 1, RESIDUAL),
    pointwise("56x56x256 -> 64", 56, (256, 64), 1, NARROW),
    pointwise("28x28x512 -> 768, stride 2, wide", 28, (512, 768), 2, WIDE),
    pointwise("14x14x192 -> 768", 14, (192, 768), 1, NARROW),
    pointwise("14x14x192 -> 768, wide", 14, (192, 768), 1, WIDE),
    pointwise("14x14x192 -> 768, wide residual", 14, (192, 768), 1, RESIDUAL),
    pointwise("14x14x768 -> 192", 14, (768, 192), 1, NARROW),
    pointwise("7x7x384 -> 1536, wide residual", 7, (384, 1536), 1, RESIDUAL),
    layer("56x56x64 -> 64, 3x3", 56, (64, 64), 1, NARROW, (0, 0)),
    layer("28x28x128 -> 128, 3x3", 28, (128, 128), 1, NARROW, (0, 0)),
    layer("7x7x384 -> 384, 3x3", 7, (384, 384), 1, NARROW, (0, 0)),
    layer("14x14x192 -> 192, 3x3", 14, (192, 192), 1, NARROW, (0, 0)),
    grouped("56x56x128, 32 groups", 56, 128, 1),
    grouped("28x28x256, 32 groups", 28, 256, 1),
    grouped("14x14x384, 32 groups", 14, 384, 1),
    grouped("7x7x768, 32 groups", 7, 768, 1),
    depthwise("112x112x32, depthwise", 112, 32, 1),
    depthwise("112x112x96, depthwise, stride 2", 112, 96, 2),
    depthwise("14x14x384, depthwise", 14, 384, 1),
    depthwise("7x7x960, depthwise", 7, 960, 1),
];

/// Time of a call in microseconds, from many short samples: the median, or another quantile where the environment
/// variable `QUANTILE` asks for one, because a machine that others use as well is rarely left alone.
fn time(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..10).for_each(|_| f());
    let calls = (50e-6 / (start.elapsed().as_secs_f64() / 10.0)).clamp(1.0, 10_000.0) as u32;
    let mut samples: Vec<f64> = (0..1001)
        .map(|_| {
            let start = Instant::now();
            (0..calls).for_each(|_| f());
            start.elapsed().as_secs_f64() / f64::from(calls)
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    let quantile = std::env::var("QUANTILE").ok().and_then(|q| q.parse::<f64>().ok()).unwrap_or(0.5);
    samples[(samples.len() as f64 * quantile.clamp(0.0, 0.99)) as usize] * 1e6
}

/// Random bytes at a multiple of 64, as arenas and artifacts place them.
fn noise(n: usize) -> Bytes {
    let mut state = 12345u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    Bytes { lines: (0..n.div_ceil(64)).map(|_| Line(std::array::from_fn(|_| next()))).collect(), len: n }
}

#[repr(align(64))]
#[allow(dead_code)] // read as bytes
struct Line([u8; 64]);

struct Bytes {
    lines: Vec<Line>,
    len: usize,
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: lines are arrays of bytes without padding, and at least `len` of them.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

const NOWHERE: Span = Span { at: 0, len: 0 };

fn time_conv(backend: &Backend, layer: &Layer) -> f64 {
    let shape = layer.shape;
    let image = shape.in_c == 3;
    let conv = Conv {
        shape,
        source: if image { Source::Image } else { Source::Arena(0) },
        out: Planes { hi: 0, lo: layer.wide.then_some(0) },
        accumulate: layer.accumulate,
        raw: false,
        limits: if layer.wide {
            Limits { zero: -32640, min: -32640, max: i16::MAX }
        } else {
            Limits { zero: -128, min: -128, max: 127 }
        },
        border: if image { [3, 250, 7, 0] } else { [0x80; 4] },
        weights: NOWHERE,
        params: NOWHERE,
        layout: backend.layout,
        acc_bits: 20,
    };
    let channels = kernels::padded_channels(&shape, backend.layout);
    let mut params: Vec<u8> = noise(2 * channels).chunks(2).flat_map(|b| [b[0], b[1], 0, 0]).collect();
    params.extend(noise(4 * channels).chunks(4).flat_map(|b| [b[0], b[1], b[2], b[3] & 0x3f | 0x40]));
    params.extend(noise(channels).iter().map(|b| if layer.wide { 30 } else { 36 } + b % 4));
    let (input, weights) = (noise(shape.input_len()), noise(kernels::weights_len(&shape, backend.layout)));
    let (mut hi, mut lo) = (noise(shape.output_len()), noise(if layer.wide { shape.output_len() } else { 0 }));
    let mut scratch = noise((backend.conv.scratch_len)(&shape));
    time(|| {
        let mut call = ConvCall {
            conv: black_box(&conv),
            rows: 0..shape.out_h(),
            channels: 0..usize::from(shape.out_c),
            input: &input,
            weights: &weights,
            params: &params,
            out_hi: hi[..].as_mut().into(),
            out_lo: lo[..].as_mut().into(),
            scratch: &mut scratch,
        };
        // SAFETY: `main` only picks backends that are available.
        unsafe { (backend.conv.run)(&mut call) }
    })
}

/// A wide shortcut between stages.
fn time_shortcut(backend: &Backend, side: u16, in_c: u16, out_c: u16) -> f64 {
    let planes = Planes { hi: 0, lo: Some(0) };
    let limits = Limits { zero: -32640, min: -32640, max: i16::MAX };
    let s = Shortcut {
        in_h: side,
        in_w: side,
        in_c,
        out_c,
        stride: 2,
        before: (out_c - in_c) / 2,
        source: planes,
        out: planes,
        in_zero: -32640,
        limits,
        multiplier: 1_234_567_890,
        right_shift: 31,
    };
    let (in_hi, in_lo) = (noise(s.input_len()), noise(s.input_len()));
    let (mut out_hi, mut out_lo) = (noise(s.output_len()), noise(s.output_len()));
    time(|| {
        let mut call = ShortcutCall {
            shortcut: black_box(&s),
            in_hi: &in_hi,
            in_lo: &in_lo,
            out_hi: &mut out_hi,
            out_lo: &mut out_lo,
            flip: backend.layout.plane_flip(),
        };
        // SAFETY: `main` only picks backends that are available.
        unsafe { (backend.shortcut)(&mut call) }
    })
}

fn time_pool(backend: &Backend) -> f64 {
    let source = Planes { hi: 0, lo: Some(0) };
    let pool = Pool { pixels: 64, channels: 48, source, zero: -32640, shift: 7, out: 0 };
    let (hi, lo, mut out) = (noise(pool.input_len()), noise(pool.input_len()), noise(pool.output_len()));
    time(|| {
        let mut call = PoolCall {
            pool: black_box(&pool),
            in_hi: &hi,
            in_lo: &lo,
            out: &mut out,
            flip: backend.layout.plane_flip(),
        };
        // SAFETY: `main` only picks backends that are available.
        unsafe { (backend.pool)(&mut call) }
    })
}

fn time_dense(backend: &Backend, outputs: u16) -> f64 {
    let (features, layout) = (48, backend.layout);
    let d = Dense { features, outputs, weights: NOWHERE, params: NOWHERE, layout, normalize: true };
    let mut feature = noise(feature_norm_at(usize::from(features))).to_vec();
    feature.extend(0.001f32.to_le_bytes());
    let weights = noise(kernels::dense::weights_len(features, outputs, layout));
    let params: Vec<u8> = (0..2 * outputs).flat_map(|j| (f32::from(j) * 0.01).to_le_bytes()).collect();
    let mut out = vec![0; 4 * usize::from(outputs)];
    time(|| {
        let mut call =
            DenseCall { dense: black_box(&d), feature: &feature, weights: &weights, params: &params, out: &mut out };
        // SAFETY: `main` only picks backends that are available.
        unsafe { (backend.dense)(&mut call) }
    })
}

/// Most multiply-accumulates per second of this core, in units of 10^9: `vpdpbusd` on sixteen independent registers.
#[cfg(target_arch = "x86_64")]
fn peak() -> Option<f64> {
    use core::arch::x86_64::*;
    #[target_feature(enable = "avx512f,avx512vnni")]
    #[allow(clippy::needless_range_loop)] // unrolled, so that the sums stay in registers
    fn run(x: __m512i) -> i32 {
        let mut sums = [_mm512_setzero_si512(); 16];
        for _ in 0..1000 {
            for i in 0..16 {
                sums[i] = _mm512_dpbusd_epi32(sums[i], x, x);
            }
        }
        _mm512_reduce_add_epi32(sums.into_iter().fold(x, |a, b| _mm512_xor_si512(a, b)))
    }
    kernels::Isa::Avx512Vnni.available().then(|| {
        let us = time(|| {
            // SAFETY: asked for just now.
            black_box(unsafe { run(_mm512_set1_epi32(black_box(0x0101_0101))) });
        });
        16.0 * 64.0 / us
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn peak() -> Option<f64> {
    None
}

fn report(backend: &Backend, peak: Option<f64>) {
    println!("\n{} ({})", backend.conv.name, backend.isa.name());
    let share = |macs: f64, us: f64| match peak {
        Some(peak) => format!("{:6.1} GMAC/s {:6.1} %", macs / us / 1e3, macs / us / 1e3 / peak * 100.0),
        None => format!("{:6.1} GMAC/s", macs / us / 1e3),
    };
    let (mut stem, mut expert) = (0.0, 0.0);
    for layer in &LAYERS {
        let us = time_conv(backend, layer);
        println!("  {:30} {us:8.2} us {}", layer.name, share(layer.shape.macs() as f64, us));
        stem += us * f64::from(layer.in_stem);
        expert += us * f64::from(layer.in_expert);
    }
    let macs = |count: fn(&Layer) -> u32| LAYERS.iter().map(|l| l.shape.macs() as f64 * f64::from(count(l))).sum();
    let (stem_macs, expert_macs): (f64, f64) = (macs(|l| l.in_stem), macs(|l| l.in_expert));
    for experts in [1, 3] {
        let n = f64::from(experts);
        let (us, macs) = (stem + n * expert, stem_macs + n * expert_macs);
        println!("  {:30} {us:8.2} us {}", format!("convolutions, stem + {experts}"), share(macs, us));
    }
    if std::env::args().any(|a| a == "imagenet") {
        for layer in &IMAGENET {
            let us = time_conv(backend, layer);
            println!("  {:32} {us:8.2} us {}", layer.name, share(layer.shape.macs() as f64, us));
        }
    }
    let shortcuts = [time_shortcut(backend, 32, 16, 24), time_shortcut(backend, 16, 24, 48)];
    let (pool, dense) = (time_pool(backend), [time_dense(backend, 100), time_dense(backend, 16)]);
    println!("  {:30} {:8.2} us {:8.2} us", "shortcuts, wide", shortcuts[0], shortcuts[1]);
    println!("  {:30} {pool:8.2} us", "pooling 8x8x48, wide");
    println!("  {:30} {:8.2} us {:8.2} us", "dense 48 -> 100, 48 -> 16", dense[0], dense[1]);
}

fn main() {
    let part = std::env::args().nth(1).filter(|a| a != "imagenet").unwrap_or_default();
    let peak = peak();
    if let Some(peak) = peak {
        println!("peak of vpdpbusd on this core: {peak:.1} GMAC/s");
    }
    #[allow(unused_mut)]
    let mut backends = BACKENDS.to_vec();
    #[cfg(target_arch = "x86_64")]
    backends.extend([kernels::x86::AVX512VL, kernels::x86::AVX512WINOGRAD]);
    // Portable code takes seconds and is no kernel to tune.
    backends.retain(|b| {
        if part.is_empty() {
            b.layout == Layout::K8N16 && b.isa != kernels::Isa::Scalar
        } else {
            b.conv.name.contains(&part)
        }
    });
    for backend in &backends {
        if backend.isa.available() {
            report(backend, peak);
        } else {
            println!("\n{} ({}): this machine cannot run it", backend.conv.name, backend.isa.name());
        }
    }
}
