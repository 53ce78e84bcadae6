//! Everything but convolutions: dense layers, pooling, shortcuts, max pooling.

use alloc::vec;
use alloc::vec::Vec;

use super::Sweep;
use super::guarded::Guarded;
use super::pieces::cuts;
use super::random::limits;
use ride_runtime::kernels::{self, Backend, DenseCall, MaxPoolCall, PoolCall, ShortcutCall, scalar};
use ride_runtime::op::{Dense, Layout, MaxPool, Planes, Pool, Shortcut, Span, feature_norm_at};

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

impl Sweep {
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

    /// All windows on many sizes, narrow and wide.
    pub(crate) fn max_pools(&mut self) {
        let Sweep { backends, r, .. } = self;
        for (in_h, in_w, channels) in [(16, 16, 64), (7, 9, 24), (1, 1, 3), (3, 2, 17), (6, 33, 200), (5, 4, 1)] {
            for (kernel, stride, padding) in [(3, 2, 1), (2, 2, 0), (3, 1, 1), (1, 1, 0), (5, 3, 2), (3, 2, 2)] {
                for form in 0..4 {
                    let wide = form % 2 > 0;
                    let planes = Planes { hi: 0, lo: wide.then_some(0) };
                    let pool =
                        MaxPool { in_h, in_w, channels, kernel, stride, padding, source: planes, out: planes, zero: 0 };
                    if pool.output_len() == 0 {
                        continue;
                    }
                    // Ties in the upper plane are decided by the lower one.
                    let mut draw = |n: usize, few: bool| -> Vec<u8> {
                        if few { (0..n).map(|_| r.pick(&[0x7f, 0x80, 0xff, 0])).collect() } else { r.bytes(n) }
                    };
                    let hi = draw(pool.input_len(), form > 1);
                    let lo = draw(if wide { pool.input_len() } else { 0 }, false);
                    let want = max_pool_as_defined(&pool, &hi, &lo);
                    for backend in *backends {
                        let flip = backend.layout.plane_flip();
                        let row = pool.out_w() * usize::from(channels);
                        for cuts in cuts(pool.out_h(), true, r) {
                            let mut got = (vec![], vec![]);
                            for rows in cuts.windows(2).map(|c| c[0]..c[1]) {
                                let len = rows.len() * row;
                                let mut out_hi = Guarded::new(r.bytes(len), r);
                                let mut out_lo = Guarded::new(r.bytes(if wide { len } else { 0 }), r);
                                let mut call = MaxPoolCall {
                                    pool: &pool,
                                    rows,
                                    flip,
                                    in_hi: &flipped(&hi, flip),
                                    in_lo: &lo,
                                    out_hi: out_hi.inside(),
                                    out_lo: out_lo.inside(),
                                };
                                // SAFETY: `backends` only gives backends that are available.
                                unsafe { (backend.max_pool)(&mut call) };
                                assert!(out_hi.intact() && out_lo.intact());
                                got.0.extend(flipped(out_hi.inside(), flip));
                                got.1.extend_from_slice(out_lo.inside());
                            }
                            assert_eq!(got, want, "{} {pool:?} rows {cuts:?}", backend.conv.name);
                        }
                    }
                }
            }
        }
    }
}

/// Output by output, over joined values.
fn max_pool_as_defined(m: &MaxPool, hi: &[u8], lo: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut out_hi, mut out_lo) = (Vec::new(), Vec::new());
    let channels = usize::from(m.channels);
    for i in 0..m.output_len() {
        let (y, x, c) = (i / channels / m.out_w(), i / channels % m.out_w(), i % channels);
        let near = |out: usize, tap: u8, size: u16| {
            let at = out as i32 * i32::from(m.stride) + i32::from(tap) - i32::from(m.padding);
            (0..i32::from(size)).contains(&at).then_some(at as usize)
        };
        let mut best = i16::MIN;
        for (row, column) in (0..m.kernel).flat_map(|row| (0..m.kernel).map(move |column| (row, column))) {
            let (Some(y), Some(x)) = (near(y, row, m.in_h), near(x, column, m.in_w)) else { continue };
            let at = (y * usize::from(m.in_w) + x) * channels + c;
            let low = lo.get(at).copied().unwrap_or(0);
            best = best.max(i16::from_le_bytes([low, hi[at]]));
        }
        let [low, high] = best.to_le_bytes();
        out_hi.push(high);
        if !lo.is_empty() {
            out_lo.push(low);
        }
    }
    (out_hi, out_lo)
}
