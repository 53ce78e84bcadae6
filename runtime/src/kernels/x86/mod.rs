//! x86-64 kernels.

use super::Isa;

/// Whether the processor has `isa`.
pub fn available(isa: Isa) -> bool {
    let _ = isa;
    false
}
