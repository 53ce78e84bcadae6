//! The depthwise tiles, compiled for each unit: for strides of 1 and 2.

use super::super::avx256::{Avx2, Evex, Vex, Vnni, Wide256};
use super::super::avx512::Avx512;
use super::super::tile::{Kind, Tile, Width};
use super::body;

/// # Safety
/// AVX2 is available and the tile is valid for [`body`].
#[target_feature(enable = "avx2")]
unsafe fn avx2<const MR: usize, const STRIDE: usize>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { body::<Wide256<Avx2>, MR, STRIDE>(t) }
}

/// # Safety
/// AVX2 and AVX-VNNI are available and the tile is valid for [`body`].
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn avxvnni<const MR: usize, const STRIDE: usize>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { body::<Wide256<Vnni<Vex>>, MR, STRIDE>(t) }
}

/// # Safety
/// AVX2, AVX-512 VL and VNNI are available and the tile is valid for [`body`].
#[target_feature(enable = "avx2,avx512vl,avx512vnni")]
unsafe fn avx512vl<const MR: usize, const STRIDE: usize>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { body::<Wide256<Vnni<Evex>>, MR, STRIDE>(t) }
}

/// # Safety
/// AVX-512 F, BW, VL and VNNI are available and the tile is valid for [`body`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn avx512<const MR: usize, const STRIDE: usize>(t: Tile<'_>) {
    // SAFETY: as promised by the caller.
    unsafe { body::<Avx512, MR, STRIDE>(t) }
}

const fn kind(widths: &'static [Width]) -> Kind {
    Kind { blocks: 1, tail: false, fetch: false, pairs: false, widths }
}

const fn width(pixels: usize, run: unsafe fn(Tile<'_>)) -> Width {
    Width { pixels, run }
}

pub(in super::super) const AVX2: [&Kind; 2] = [
    &kind(&[width(4, avx2::<4, 1>), width(3, avx2::<3, 1>)]),
    &kind(&[width(4, avx2::<4, 2>), width(3, avx2::<3, 2>)]),
];

pub(in super::super) const AVXVNNI: [&Kind; 2] = [
    &kind(&[width(4, avxvnni::<4, 1>), width(3, avxvnni::<3, 1>)]),
    &kind(&[width(4, avxvnni::<4, 2>), width(3, avxvnni::<3, 2>)]),
];

pub(in super::super) const AVX512VL: [&Kind; 2] = [
    &kind(&[width(4, avx512vl::<4, 1>), width(3, avx512vl::<3, 1>)]),
    &kind(&[width(4, avx512vl::<4, 2>), width(3, avx512vl::<3, 2>)]),
];

pub(in super::super) const AVX512: [&Kind; 2] = [
    &kind(&[width(8, avx512::<8, 1>), width(7, avx512::<7, 1>), width(4, avx512::<4, 1>)]),
    &kind(&[width(8, avx512::<8, 2>), width(7, avx512::<7, 2>), width(4, avx512::<4, 2>)]),
];
