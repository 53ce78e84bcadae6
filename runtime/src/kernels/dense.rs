//! Layout of the weights of classifiers and routers' hidden layers.
//!
//! [`Layout::Ohwi`] keeps plain rows `[outputs][features]`. The vector layouts keep pairs of features side by side for
//! 16 outputs at a time, `[pair][outputs padded to 16][2]`, which is what 16-bit pair multiplication wants.
//! [`Layout::K4N2`] keeps rows padded to a multiple of four, with the middle two of every four exchanged: `sxtb16` of a
//! word then gives the weights of the first two features, and that of the word rotated by a byte those of the others.

use crate::op::{Dense, Layout};

/// Outputs with padding.
pub fn padded_outputs(outputs: u16, layout: Layout) -> usize {
    match layout.known() {
        Layout::Ohwi | Layout::K4N2 => usize::from(outputs),
        Layout::K8N16 | Layout::K8N4 => usize::from(outputs).next_multiple_of(16),
    }
}

/// Bytes of a layer's weights.
pub fn weights_len(features: u16, outputs: u16, layout: Layout) -> usize {
    match layout.known() {
        Layout::Ohwi => usize::from(outputs) * usize::from(features),
        Layout::K8N16 | Layout::K8N4 => usize::from(features).div_ceil(2) * 2 * padded_outputs(outputs, layout),
        Layout::K4N2 => usize::from(outputs) * usize::from(features).next_multiple_of(4),
    }
}

/// Offset of the weight of output `j` for feature `k`.
pub fn weight_at(dense: &Dense, j: usize, k: usize) -> usize {
    match dense.layout.known() {
        Layout::Ohwi => j * usize::from(dense.features) + k,
        Layout::K8N16 | Layout::K8N4 => (k / 2 * padded_outputs(dense.outputs, dense.layout) + j) * 2 + k % 2,
        Layout::K4N2 => j * usize::from(dense.features).next_multiple_of(4) + (k & !3) + [0, 2, 1, 3][k % 4],
    }
}

/// Packs rows `[outputs][features]` into `out` (of [`weights_len`] bytes); padding becomes zero.
pub fn pack(dense: &Dense, rows: &[i8], out: &mut [u8]) {
    out.fill(0);
    for (j, row) in rows.chunks_exact(usize::from(dense.features).max(1)).enumerate() {
        for (k, &w) in row.iter().enumerate() {
            out[weight_at(dense, j, k)] = w as u8;
        }
    }
}
