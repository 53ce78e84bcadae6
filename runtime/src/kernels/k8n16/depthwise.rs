//! The form of depthwise 3x3 convolutions: each output channel sees one input channel.

use crate::op::ConvShape;

/// Blocks of 16 channels follow each other. Each has 64 bytes for each window column: 16 channels × the column's three
/// rows and a zero. Kernels stack the three rows of a column of pixels in the same way, so that a product instruction
/// adds up a column of the window for each channel, and a stacked column serves all the windows it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depthwise {
    /// Blocks of 16 channels; the last one may be padded.
    pub blocks: usize,
}

impl Depthwise {
    /// Bytes of weights of 16 channels for a window column.
    pub const STEP: usize = 64;
    /// Window height and width.
    pub const KERNEL: usize = 3;

    /// The form of `shape`, if it is one for it.
    #[inline]
    pub fn of(shape: &ConvShape) -> Option<Self> {
        let fits = shape.groups > 1
            && shape.groups == shape.in_c
            && shape.groups == shape.out_c
            && usize::from(shape.kernel) == Self::KERNEL
            && (1..=2).contains(&shape.stride);
        fits.then(|| Depthwise { blocks: usize::from(shape.out_c).div_ceil(16) })
    }

    /// Bytes of a block's weights.
    pub const BLOCK: usize = Self::KERNEL * Self::STEP;

    /// Bytes of the packed weights.
    pub fn weights_len(&self) -> usize {
        self.blocks * Self::BLOCK
    }

    /// Offset of the weight of channel `c` at a window place.
    pub fn weight_at(&self, c: usize, (row, column): (usize, usize)) -> usize {
        c / 16 * Self::BLOCK + column * Self::STEP + c % 16 * 4 + row
    }

    /// As [`super::places`], for a layer of this form.
    pub(super) fn places(&self, shape: &ConvShape, mut visit: impl FnMut(usize, usize)) {
        const WINDOW: usize = Depthwise::KERNEL * Depthwise::KERNEL;
        for n in 0..usize::from(shape.out_c) * WINDOW {
            let (c, place) = (n / WINDOW, n % WINDOW);
            visit(n, self.weight_at(c, (place / Self::KERNEL, place % Self::KERNEL)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(channels: u16, kernel: u8, stride: u8) -> ConvShape {
        let (in_c, out_c, groups) = (channels, channels, channels);
        ConvShape { in_h: 1, in_w: 1, in_c, out_c, kernel, stride, padding: 1, groups }
    }

    #[test]
    fn only_small_strides_of_3x3_have_it() {
        let blocks = |shape: ConvShape| Depthwise::of(&shape).map(|form| form.blocks);
        assert_eq!(blocks(shape(96, 3, 1)), Some(6));
        assert_eq!(blocks(shape(100, 3, 2)), Some(7));
        for other in [shape(96, 3, 3), shape(96, 5, 1), shape(1, 3, 1), ConvShape { out_c: 192, ..shape(96, 3, 1) }] {
            assert_eq!(blocks(other), None, "{other:?}");
        }
    }

    /// Every weight has a place of its own.
    #[test]
    fn every_weight_is_kept() {
        let shape = shape(40, 3, 1);
        let form = Depthwise::of(&shape).unwrap();
        let weights: Vec<i8> = (0..360).map(|i| (i % 127 + 1) as i8).collect();
        let mut packed = vec![0; form.weights_len()];
        crate::kernels::k8n16::pack(&shape, &weights, &mut packed);
        for (at, &w) in weights.iter().enumerate() {
            assert_eq!(packed[form.weight_at(at / 9, (at % 9 / 3, at % 3))] as i8, w, "{at}");
        }
        assert_eq!(packed.iter().filter(|&&b| b != 0).count(), weights.len());
    }
}
