//! What networks of the ImageNet family have: groups, large windows, projections, max pooling.

use alloc::vec;
use alloc::vec::Vec;

use super::{Guarded, Sweep, cuts, flipped, shape};
use ride_runtime::kernels::MaxPoolCall;
use ride_runtime::op::{ConvShape, MaxPool, Planes};

impl Sweep {
    /// Groups: whole steps, several groups to a step, ragged ones, depthwise; different numbers in and out.
    pub(crate) fn groups(&mut self) {
        for (groups, group_in, group_out) in [
            (32, 4, 4),
            (32, 8, 8),
            (32, 12, 12),
            (8, 24, 24),
            (4, 32, 32),
            (4, 16, 24),
            (2, 8, 20),
            (6, 8, 16),
            (3, 3, 5),
            (7, 5, 2),
            (40, 1, 1),
            (16, 1, 2),
            (8, 2, 1),
            (2, 48, 40),
        ] {
            for (size, window) in [((5, 7), (3, 1, 1)), ((7, 14), (3, 2, 1)), ((4, 9), (1, 1, 0)), ((6, 5), (5, 1, 2))]
            {
                let shape = shape(size, groups * group_in, groups * group_out, window);
                self.check_shape(ConvShape { groups, ..shape });
            }
        }
    }

    /// Depthwise windows: all ends of blocks and of tiles, those that have a kernel of their own and others.
    #[cfg_attr(target_os = "none", allow(dead_code))]
    pub(crate) fn depthwise(&mut self) {
        for channels in [2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 31, 32, 40, 96, 100] {
            for (size, window) in [
                ((7, 7), (3, 1, 1)),
                ((9, 14), (3, 2, 1)),
                ((4, 19), (3, 1, 0)),
                ((5, 33), (3, 2, 2)),
                ((1, 1), (3, 1, 1)),
                ((3, 5), (3, 3, 1)),
                ((6, 9), (5, 1, 2)),
            ] {
                self.check_shape(ConvShape { groups: channels, ..shape(size, channels, channels, window) });
            }
        }
    }

    /// The windows of ImageNet networks in sizes that end within tiles: first layer, 1x1 convolutions, projections. Too large
    /// for boards.
    #[cfg_attr(target_os = "none", allow(dead_code))]
    pub(crate) fn imagenet_layers(&mut self) {
        for (size, in_c, out_c, window) in [
            ((19, 23), 3, 64, (7, 2, 3)),
            ((7, 7), 64, 256, (1, 1, 0)),
            ((14, 14), 96, 48, (1, 1, 0)),
            ((14, 14), 48, 96, (1, 2, 0)),
            ((7, 7), 96, 192, (1, 2, 0)),
            ((7, 7), 64, 64, (3, 1, 1)),
            ((14, 14), 64, 48, (3, 2, 1)),
            ((14, 14), 40, 112, (3, 1, 1)),
            ((5, 28), 24, 72, (3, 1, 1)),
            ((3, 5), 8, 1008, (1, 1, 0)),
            ((1, 1), 512, 512, (1, 1, 0)),
        ] {
            self.check_shape(shape(size, in_c, out_c, window));
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
