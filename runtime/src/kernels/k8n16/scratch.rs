//! Scratch memory of the kernels that read this layout: x86's, asked for by artifacts that any machine may build.

use super::ring::Ring;
use super::winograd::Plan;
use super::{Blocks, Depthwise, Grouped, Parts, STEP};
use crate::op::ConvShape;

/// Bytes of the parameters of a block of channels, spread over lanes; they are aligned to [`ENTRY_ALIGN`].
pub(in crate::kernels) const ENTRY: usize = 512;
/// See [`ENTRY`].
pub(in crate::kernels) const ENTRY_ALIGN: usize = 64;

/// Vector units: bytes that a step of activations takes in the ring, and pixels of the widest tile.
const UNITS: [(usize, usize); 2] = [(STEP, 16), (2 * STEP, 4)];
/// Pixels of the widest tile of layers with groups, of any unit.
pub(in crate::kernels) const WIDEST: usize = 8;
/// Bytes that a tile reads from a pixel's first four inputs on, where groups are small.
pub(in crate::kernels) const GROUPED_REACH: usize = 96;
/// Bytes of a pixel that a depthwise tile reads from each row, whether there are so many channels or not.
pub(in crate::kernels) const DEPTHWISE_REACH: usize = 16;

/// Bytes that an artifact has to reserve for a layer: enough for each kernel.
pub(in crate::kernels) fn scratch_len(shape: &ConvShape) -> usize {
    let direct = if let Some(form) = Grouped::of(shape) {
        grouped_len(shape, &form)
    } else if let Some(form) = Depthwise::of(shape) {
        depthwise_len(shape, &form)
    } else {
        let parts = Parts::of(shape);
        let lens =
            UNITS.map(|(unit, widest)| dense_len(&parts, &Ring::new(&parts.shape, unit, shape.in_c.into()), widest));
        lens[0].max(lens[1])
    };
    Plan::that_pays(shape).map_or(direct, |plan| direct.max(winograd_len(&plan)))
}

/// Room to align a table of parameters, and the table.
pub(in crate::kernels) fn table_len(entries: usize) -> usize {
    ENTRY_ALIGN + entries * ENTRY
}

/// Entries of a part's table of parameters.
pub(in crate::kernels) fn entries(blocks: Blocks) -> usize {
    blocks.full + usize::from(blocks.tail)
}

/// The parameters and the ring, for tiles of `widest` pixels.
pub(in crate::kernels) fn dense_len(parts: &Parts, ring: &Ring, widest: usize) -> usize {
    table_len(parts.count * entries(Blocks::of(parts.shape.out_c))) + ring.len(widest)
}

/// The parameters, the ring and what is read beyond it.
pub(in crate::kernels) fn grouped_len(shape: &ConvShape, form: &Grouped) -> usize {
    table_len(form.blocks) + Ring::of_pixels(shape).len(WIDEST) + GROUPED_REACH
}

/// The parameters, the ring and what is read beyond it.
pub(in crate::kernels) fn depthwise_len(shape: &ConvShape, form: &Depthwise) -> usize {
    table_len(form.blocks) + Ring::of_pixels(shape).len(WIDEST) + DEPTHWISE_REACH
}

/// The parameters and what the plan holds.
pub(in crate::kernels) fn winograd_len(plan: &Plan) -> usize {
    table_len(plan.blocks) + plan.scratch_len()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::kernels::{BACKENDS, Isa};
    use crate::op::Layout;

    /// An artifact has what the kernels need, and no more.
    #[test]
    fn it_is_what_the_largest_kernel_needs() {
        let (mut shapes, mut winograd) = (0, 0);
        for (side, channels) in [(32, 3), (32, 16), (16, 24), (8, 48), (7, 384), (14, 192), (56, 64), (224, 3), (5, 9)]
        {
            for (out_c, kernel, stride) in [(16, 3, 1), (24, 3, 2), (64, 1, 1), (7, 7, 2), (192, 3, 1), (40, 5, 1)] {
                for groups in [1, 3, 8, channels] {
                    let out_c = if groups == 1 { out_c } else { channels };
                    if channels % groups > 0 {
                        continue;
                    }
                    let (in_h, in_w, in_c, padding) = (side, side, channels, kernel / 2);
                    let shape = ConvShape { in_h, in_w, in_c, out_c, kernel, stride, padding, groups };
                    let vector = BACKENDS.iter().filter(|b| b.layout == Layout::K8N16 && b.isa != Isa::Scalar);
                    let most = vector.map(|b| (b.conv.scratch_len)(&shape)).max();
                    assert_eq!(Some(scratch_len(&shape)), most, "{shape:?}");
                    shapes += 1;
                    winograd += usize::from(Plan::that_pays(&shape).is_some());
                }
            }
        }
        assert!(shapes > 100 && winograd > 2, "{shapes} {winograd}");
    }
}
