//! Where the rows lie that x86 kernels make of the current window's input rows: their size is part of what an artifact has to
//! reserve, on whatever machine it is built. `x86/ring.rs` fills them.

use super::STEP;
use crate::op::ConvShape;

/// Rows begin at multiples of this in the ring, which itself does.
const ALIGN: usize = 64;

/// Where things lie in the ring of a part of a layer, for a unit with `unit` bytes a step.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernels) struct Ring {
    pub(in crate::kernels) shape: ConvShape,
    pub(in crate::kernels) unit: usize,
    /// Bytes of a pixel.
    pub(in crate::kernels) pixel: usize,
    /// Bytes before the padding, so that the first real pixel is aligned.
    pub(in crate::kernels) lead: usize,
    /// Bytes of a slot.
    pub(in crate::kernels) pitch: usize,
    /// Bytes from the window of an output pixel to that of the next.
    pub(in crate::kernels) distance: usize,
    /// Bytes of a padded row before it is cut into steps, if it has to be.
    pub(in crate::kernels) staging: usize,
    /// Whether steps are cut from window rows of small pixels.
    pub(in crate::kernels) window_rows: bool,
    /// Bytes of an input row.
    pub(in crate::kernels) input_row: usize,
    /// Bytes of an input pixel; a part reads only some of its channels.
    pub(in crate::kernels) input_pixel: usize,
}

impl Ring {
    #[inline(always)]
    pub(in crate::kernels) fn new(shape: &ConvShape, unit: usize, input_pixel: usize) -> Self {
        let width = usize::from(shape.in_w) + 2 * usize::from(shape.padding);
        let (channels, stride) = (usize::from(shape.in_c), usize::from(shape.stride));
        let window_rows = super::window_rows(shape);
        let cut = window_rows && unit != STEP;
        let pixel = if window_rows { channels } else { channels.div_ceil(STEP) * unit };
        let row = if cut { shape.out_w() * super::row_steps(shape) * unit } else { width * pixel };
        let padding = usize::from(shape.padding) * pixel;
        let lead = if cut { 0 } else { padding.next_multiple_of(ALIGN) - padding };
        Ring {
            shape: *shape,
            unit,
            pixel,
            lead,
            pitch: (lead + row).next_multiple_of(ALIGN),
            distance: if cut { super::row_steps(shape) * unit } else { stride * pixel },
            staging: if cut { (width * channels + STEP).next_multiple_of(ALIGN) } else { 0 },
            window_rows,
            input_row: usize::from(shape.in_w) * input_pixel,
            input_pixel,
        }
    }

    /// The ring of a convolution with groups, with all channels of its pixels.
    #[inline(always)]
    pub(in crate::kernels) fn of_pixels(shape: &ConvShape) -> Self {
        Ring::new(&ConvShape { groups: 1, ..*shape }, STEP, usize::from(shape.in_c))
    }

    /// Bytes of the ring. A tile of `pixels` may start at any output pixel and read on to its end.
    #[inline(always)]
    pub(in crate::kernels) fn len(&self, pixels: usize) -> usize {
        let beyond = (pixels - 1) * self.distance + super::row_steps(&self.shape) * self.unit;
        self.staging + usize::from(self.shape.kernel) * self.pitch + beyond
    }
}
