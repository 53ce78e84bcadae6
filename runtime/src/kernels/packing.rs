//! Weights of a convolution into a layout and out of it again.
//!
//! Each layout says once where it keeps every weight (`places` in its module); packing and unpacking walk the same places.

use super::{k4n2, k8n4, k8n16};
use crate::op::{ConvShape, Layout};

/// Calls `visit` for every weight with its number in OHWI order and its offset in a layer packed in `layout`.
pub fn places(shape: &ConvShape, layout: Layout, mut visit: impl FnMut(usize, usize)) {
    match layout {
        Layout::Ohwi => (0..usize::from(shape.out_c) * shape.taps()).for_each(|n| visit(n, n)),
        Layout::K8N16 => k8n16::places(shape, visit),
        Layout::K4N2 => k4n2::places(shape, visit),
        Layout::K8N4 => k8n4::places(shape, visit),
    }
}

/// Packs the OHWI weights of a layer into `out` of [`super::weights_len`] bytes; padding becomes zero.
///
/// # Panics
/// If `ohwi` or `out` is shorter than `shape` asks.
pub fn pack(shape: &ConvShape, layout: Layout, ohwi: &[i8], out: &mut [u8]) {
    out.fill(0);
    places(shape, layout, |n, at| out[at] = ohwi[n] as u8);
}

/// The OHWI weights of a layer packed in `layout`: undoes [`pack`].
///
/// # Panics
/// If `ohwi` or `packed` is shorter than `shape` asks.
pub fn unpack(shape: &ConvShape, layout: Layout, packed: &[u8], ohwi: &mut [i8]) {
    places(shape, layout, |n, at| ohwi[n] = packed[at] as i8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::weights_len;

    /// Windows, channels below and above steps and blocks, and groups of every form.
    fn shapes() -> impl Iterator<Item = ConvShape> {
        let channels = [
            (1, 1, 1),
            (3, 16, 1),
            (4, 9, 1),
            (8, 24, 1),
            (17, 33, 1),
            (40, 40, 1),
            (12, 6, 3),
            (9, 18, 3),
            (32, 64, 8),
            (128, 128, 32),
            (48, 24, 4),
            (64, 64, 4),
            (33, 33, 33),
            (16, 32, 16),
        ];
        let windows = [(1, 1), (3, 1), (3, 2), (3, 3), (5, 1), (7, 2)];
        channels.into_iter().flat_map(move |(in_c, out_c, groups)| {
            windows.map(|(kernel, stride)| {
                let padding = kernel / 2;
                ConvShape { in_h: 9, in_w: 8, in_c, out_c, kernel, stride, padding, groups }
            })
        })
    }

    #[test]
    fn every_weight_has_a_place_of_its_own_and_comes_back() {
        for (shape, layout) in shapes().flat_map(|shape| Layout::ALL.map(|layout| (shape, layout))) {
            let count = usize::from(shape.out_c) * shape.taps();
            let (mut taken, mut next) = (vec![false; weights_len(&shape, layout)], 0);
            places(&shape, layout, |n, at| {
                assert_eq!(n, next, "{shape:?}, {layout:?}: order");
                assert!(!core::mem::replace(&mut taken[at], true), "{shape:?}, {layout:?}: {at} twice");
                next += 1;
            });
            assert_eq!(next, count, "{shape:?}, {layout:?}: number of weights");
            let weights: Vec<i8> = (0..count).map(|n| (n * 37 % 255) as u8 as i8).collect();
            let mut packed = vec![0x55; taken.len()];
            pack(&shape, layout, &weights, &mut packed);
            let padding = packed.iter().zip(&taken).filter(|&(_, &taken)| !taken);
            assert!(padding.into_iter().all(|(&b, _)| b == 0), "{shape:?}, {layout:?}: padding");
            let mut back = vec![0; count];
            unpack(&shape, layout, &packed, &mut back);
            assert_eq!(back, weights, "{shape:?}, {layout:?}");
        }
    }
}
