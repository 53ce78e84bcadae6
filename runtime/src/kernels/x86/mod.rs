//! x86-64 kernels over the layout `k8n16`.
//!
//! One generic convolution (`conv`, `plan`, `ring`, `params`, `tile`, `store`; `grouped` for
//! groups, `depthwise` for depthwise windows) is compiled for each vector unit; what a unit has to offer is the trait
//! `simd::Simd`. Shortcuts use the same trait; pooling is the portable code, compiled again for the unit;
//! dense layers need no more than AVX2.
//!
//! | backend | instruction | pixels by channels |
//! |---|---|---|
//! | AVX-512 VNNI | `vpdpbusd` zmm | 16×16, 8×24, 8×32, 8×48, 6×64 |
//! | the same, with `pairs` | `vpdpbusd` zmm | 8×16 and 8×24, eight inputs at a time |
//! | AVX-VNNI | `vpdpbusd` ymm | 6×16 |
//! | AVX2 | `vpmaddwd` ymm | 4×16 |
//!
//! On AVX-512, large 3x3 convolutions of stride 1 take a quarter of the multiplications at half the rate: `winograd`, with
//! `vpdpwssd` zmm on 16 tiles of 4×4 pixels by 16 channels. [`super::k8n16::winograd`] says for which layers that pays.
//!
//! Activations are moved to unsigned bytes, so zero is what a ReLU's zero point of -128 becomes. Steps that read nothing
//! but such a border are left out: a sixth of the work at 8×8 pixels.

mod avx256;
mod avx512;
mod conv;
mod dense;
mod depthwise;
mod grouped;
mod max_pool;
mod pairs;
mod params;
mod plan;
mod ring;
mod shortcut;
mod simd;
mod store;
mod tile;
mod winograd;

use super::{Backend, Isa};

/// AVX2.
pub const AVX2: Backend = avx256::AVX2;
/// AVX-VNNI.
pub const AVXVNNI: Backend = avx256::AVXVNNI;
/// AVX-512 with VNNI.
pub const AVX512VNNI: Backend = avx512::BACKEND;
/// The same with pairs of accumulators where there is one block of 16 channels: faster on AMD's Zen 5.
pub const AVX512PAIRS: Backend = avx512::PAIRS;
/// The AVX-VNNI kernels with EVEX encoding. In no table, because [`AVX512VNNI`] is faster on every machine that has
/// them; tests and benchmarks run them where there is no AVX-VNNI.
pub const AVX512VL: Backend = avx256::AVX512VL;
/// [`AVX512VNNI`] with Winograd's algorithm wherever it is possible, and not only where it pays. In no table either.
pub const AVX512WINOGRAD: Backend = avx512::WINOGRAD;

/// Whether the processor has `isa`.
#[cfg(feature = "std")]
pub fn available(isa: Isa) -> bool {
    use std::arch::is_x86_feature_detected as has;
    match isa {
        Isa::Scalar => true,
        Isa::Dsp | Isa::Mve => false,
        Isa::Avx2 => has!("avx2"),
        Isa::AvxVnni => has!("avx2") && has!("avxvnni"),
        Isa::Avx512Vnni => {
            has!("avx2") && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni")
        }
        _ => false,
    }
}

/// Whether the compiler was told that the processor has `isa`.
#[cfg(not(feature = "std"))]
pub fn available(isa: Isa) -> bool {
    match isa {
        Isa::Scalar => true,
        Isa::Dsp | Isa::Mve => false,
        Isa::Avx2 => cfg!(target_feature = "avx2"),
        Isa::AvxVnni => cfg!(all(target_feature = "avx2", target_feature = "avxvnni")),
        Isa::Avx512Vnni => cfg!(all(
            target_feature = "avx2",
            target_feature = "avx512f",
            target_feature = "avx512bw",
            target_feature = "avx512vl",
            target_feature = "avx512vnni"
        )),
        _ => false,
    }
}
