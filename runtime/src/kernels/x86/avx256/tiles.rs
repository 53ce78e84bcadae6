//! The tiles of 256-bit units, compiled for each of them. Those of convolutions with groups are for strides of 1 and 2.

use super::super::grouped;
use super::super::tile::{self, Kind, Tile, Width};
use super::{Avx2, Evex, Vex, Vnni, Wide256};

/// # Safety
/// AVX2 is available and the tile is valid.
#[target_feature(enable = "avx2")]
unsafe fn avx2<const MR: usize, const NB: usize, const TAIL: bool>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { tile::body::<Wide256<Avx2>, MR, NB, TAIL, false>(t) }
}

/// # Safety
/// AVX2 and AVX-VNNI are available and the tile is valid.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn avxvnni<const MR: usize, const NB: usize, const TAIL: bool>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { tile::body::<Wide256<Vnni<Vex>>, MR, NB, TAIL, false>(t) }
}

/// # Safety
/// AVX2, AVX-512 VL and VNNI are available and the tile is valid.
#[target_feature(enable = "avx2,avx512vl,avx512vnni")]
unsafe fn avx512vl<const MR: usize, const NB: usize, const TAIL: bool>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { tile::body::<Wide256<Vnni<Evex>>, MR, NB, TAIL, false>(t) }
}

/// # Safety
/// AVX2 and AVX-VNNI are available and the tile is valid for [`grouped::body`].
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn grouped_avxvnni<const MR: usize, const STRIDE: usize>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { grouped::body::<Wide256<Vnni<Vex>>, MR, STRIDE>(t) }
}

/// # Safety
/// AVX2, AVX-512 VL and VNNI are available and the tile is valid for [`grouped::body`].
#[target_feature(enable = "avx2,avx512vl,avx512vnni")]
unsafe fn grouped_avx512vl<const MR: usize, const STRIDE: usize>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { grouped::body::<Wide256<Vnni<Evex>>, MR, STRIDE>(t) }
}

/// # Safety
/// AVX2 is available and the tile is valid for [`grouped::body`].
#[target_feature(enable = "avx2")]
unsafe fn grouped_avx2<const MR: usize, const STRIDE: usize>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { grouped::body::<Wide256<Avx2>, MR, STRIDE>(t) }
}

/// Tiles of a block of 16 channels.
const fn block(widths: &'static [Width]) -> Kind {
    Kind { blocks: 1, tail: false, fetch: false, pairs: false, widths }
}

/// Tiles of the last block, of 8 channels.
const fn tail(widths: &'static [Width]) -> Kind {
    Kind { blocks: 0, tail: true, fetch: false, pairs: false, widths }
}

const fn width(pixels: usize, run: unsafe fn(Tile<'_>)) -> Width {
    Width { pixels, run }
}

// 16 registers: 8 accumulators, 4 of weights, 2 of inputs and a product.
pub(super) const AVX2: &[Kind] = &[
    block(&[width(4, avx2::<4, 1, false>), width(2, avx2::<2, 1, false>)]),
    tail(&[width(4, avx2::<4, 0, true>), width(2, avx2::<2, 0, true>)]),
];

pub(super) const GROUPED_AVX2: [&Kind; 2] = [
    &block(&[width(4, grouped_avx2::<4, 1>), width(3, grouped_avx2::<3, 1>)]),
    &block(&[width(4, grouped_avx2::<4, 2>), width(3, grouped_avx2::<3, 2>)]),
];

// 16 registers: 12 accumulators, 2 of weights and the inputs.
pub(super) const AVXVNNI: &[Kind] = &[
    block(&[width(6, avxvnni::<6, 1, false>), width(4, avxvnni::<4, 1, false>)]),
    tail(&[width(6, avxvnni::<6, 0, true>), width(4, avxvnni::<4, 0, true>)]),
];

pub(super) const GROUPED_AVXVNNI: [&Kind; 2] = [
    &block(&[width(4, grouped_avxvnni::<4, 1>), width(3, grouped_avxvnni::<3, 1>)]),
    &block(&[width(4, grouped_avxvnni::<4, 2>), width(3, grouped_avxvnni::<3, 2>)]),
];

pub(super) const AVX512VL: &[Kind] = &[
    block(&[width(6, avx512vl::<6, 1, false>), width(4, avx512vl::<4, 1, false>)]),
    tail(&[width(6, avx512vl::<6, 0, true>), width(4, avx512vl::<4, 0, true>)]),
];

pub(super) const GROUPED_AVX512VL: [&Kind; 2] = [
    &block(&[width(4, grouped_avx512vl::<4, 1>), width(3, grouped_avx512vl::<3, 1>)]),
    &block(&[width(4, grouped_avx512vl::<4, 2>), width(3, grouped_avx512vl::<3, 2>)]),
];
