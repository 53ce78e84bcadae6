//! Exact integer Winograd convolution F(4×4, 3×3): where things lie.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, with interpolation points 0, ±1, ±2
//! and ∞. The rows of the weights' transform are multiplied by 24 (the last by 6, and the last column of the outputs'
//! transform by 4), so that all coefficients are integers: transformed weights are at most 12 · 12 · 128 and transformed
//! activations 10 · 10 · 128 in magnitude, which is 16 bits. Sums are exact modulo 2^32 and give 576 times the
//! accumulator; the inverse of 9 modulo 2^32 makes 64 times the accumulator of it, which is exact if the accumulator has
//! at most 25 bits besides its sign.

use super::ring::Ring;
use super::{STEP, groups};
use crate::op::ConvShape;

/// Values of a transformed tile.
pub const PLACES: usize = 36;
/// Tiles that are multiplied together.
pub const TILES: usize = 4;
/// Largest accumulator in bits.
pub const ACC_BITS: u8 = 25;
/// Smallest right shift: with the factor of 64 it becomes 32.
pub const MIN_SHIFT: u8 = 26;
/// Most scratch memory in bytes; layers that want more take the direct kernel.
const LIMIT: usize = 512 << 10;

/// Geometry and scratch memory of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rows and columns of tiles.
    pub tiles: (usize, usize),
    /// Groups of 8 input channels.
    pub groups: usize,
    /// Bytes of one group of all transformed tiles at one place.
    pub group_len: usize,
    /// Bytes of all transformed tiles, of the transformed weights of 8 channels, of the products of [`TILES`] tiles.
    pub inputs: usize,
    /// See `inputs`.
    pub weights: usize,
    /// See `inputs`.
    pub products: usize,
    /// The input rows of a row of tiles.
    pub ring: Ring,
}

impl Plan {
    /// The plan of a shape, if it is one for this algorithm.
    #[inline(always)]
    pub fn new(shape: &ConvShape) -> Option<Self> {
        if shape.kernel != 3
            || shape.stride != 1
            || shape.groups > 1
            || shape.in_c == 0
            || !shape.in_c.is_multiple_of(8)
        {
            return None;
        }
        let tiles = (shape.out_h().div_ceil(4), shape.out_w().div_ceil(4));
        let groups = groups(shape);
        let group_len = (tiles.0 * tiles.1).next_multiple_of(TILES) * 2 * STEP;
        let plan = Plan {
            tiles,
            groups,
            group_len,
            inputs: PLACES * groups * group_len,
            weights: PLACES * groups * 8 * 2 * STEP,
            products: PLACES * TILES * 32,
            ring: Ring::new(&ConvShape { kernel: 6, ..*shape }),
        };
        (plan.len() <= LIMIT).then_some(plan)
    }

    /// Bytes of scratch memory.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.inputs + self.weights + self.products + self.ring.len()
    }

    /// Whether nothing is needed, which is so for no shape.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
