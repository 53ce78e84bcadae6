//! Dense layers: four features at a time.

use super::asm;
use crate::kernels::{DenseCall, dense};
use crate::op::feature_norm_at;

/// Runs a dense layer on rows whose words `sxtb16` spreads in the features' order, see [`crate::kernels::dense`].
///
/// # Safety
/// The core has the DSP extension.
pub(super) unsafe fn run(call: &mut DenseCall<'_>) {
    let d = *call.dense;
    let (features, outputs) = (usize::from(d.features), usize::from(d.outputs));
    let words = features.div_ceil(4);
    if call.feature.len() < feature_norm_at(features) + 4
        || call.weights.len() < dense::weights_len(d.features, d.outputs, d.layout)
        || call.params.len() < 8 * outputs
        || call.out.len() < 4 * outputs
    {
        debug_assert!(false, "a slice is shorter than the layer asks");
        return;
    }
    let inverse_norm = call.inverse_norm();
    let mut weights = call.weights.as_ptr().cast::<u32>();
    for j in 0..outputs {
        let mut feature = call.feature.as_ptr().cast::<u32>();
        let mut dot = 0;
        for _ in 0..words {
            // SAFETY: rows are whole words. Features are padded to whole words and followed by four bytes more, so that
            // four features can be read wherever one of them exists; weights of those that do not are zero.
            unsafe {
                let w = weights.read_unaligned();
                dot = asm::smlad(asm::sxtb16(w), feature.read_unaligned(), dot);
                dot = asm::smlad(asm::sxtb16_odd(w), feature.add(1).read_unaligned(), dot);
                (weights, feature) = (weights.add(1), feature.add(2));
            }
        }
        let value = call.finish(j, dot, inverse_norm);
        if let Some(out) = call.out.get_mut(4 * j..).and_then(|o| o.first_chunk_mut()) {
            *out = value.to_le_bytes();
        }
    }
}
