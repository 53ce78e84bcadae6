//! Exact integer Winograd convolution F(4×4, 3×3) from the weights of this layout: what it computes, where things lie, and
//! for which layers.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, with interpolation points 0, ±1, ±2 and
//! ∞: an output tile Y of 4×4 pixels is `Aᵀ [ Σ (G g Gᵀ) ∘ (Bᵀ d B) ] A`, summed over the input channels, where g is a 3×3
//! window of weights and d the 6×6 inputs that the tile sees. That is 36 multiplications for 16 outputs instead of 144.
//!
//! **Transformed values fit 16 bits.** Bᵀ is made of integers as it stands and the absolute values of a row add up to 10 at
//! most: unsigned activations become at most 10 · 10 · 255 = 25 500 in magnitude. G has the denominators 4, 6 and 24. Each
//! of its rows is multiplied by 24, the last one only by 6, and the sign of its second and third row is turned:
//!
//! ```text
//! 6 g0 · 4 (g0+g1+g2) · 4 (g0-g1+g2) · g0+2g1+4g2 · g0-2g1+4g2 · 6 g2
//! ```
//!
//! The absolute values of a row add up to 12 at most: weights become at most 12 · 12 · 128 = 18 432. The transform of the
//! outputs makes up for both: the second and third column of Aᵀ change their sign, the last one is multiplied by 4.
//!
//! **Sums are exact modulo 2^32.** Everything behind the transforms is additions and multiplications of 32-bit integers that
//! wrap around, so that what comes out is 24 · 24 = 576 times the accumulator modulo 2^32, however large anything between
//! has become. 576 = 9 · 64, and 9 has an inverse modulo 2^32: multiplied by it, 64 times the accumulator is left, which is a
//! number of 32 bits, and hence exact, if the accumulator is smaller than 2^25 ([`ACC_BITS`]); the compiler has proved for
//! the layer's own weights how large accumulators can become ([`crate::op::Conv::acc_bits`]). The factor of 64 stays: it
//! is taken off by the requantization's right shift, which gets 6 bits more and must be 33 at least then ([`MIN_SHIFT`]).
//! Layers that do not keep to both take the direct kernel.
//!
//! **The bias costs nothing.** The point 1 contributes the same to all outputs: 576 times the bias is what sums of the
//! place (1, 1) start from.

use super::{Blocks, STEP};
use crate::op::{Conv, ConvShape};

/// Pixels along either side of an output tile.
pub const SIDE: usize = 4;
/// Pixels along either side of the inputs of a tile, and of its transform.
pub const POINTS: usize = 6;
/// Values of a transformed tile.
pub const PLACES: usize = POINTS * POINTS;
/// Largest accumulator in bits.
pub const ACC_BITS: u8 = 25;
/// Smallest right shift.
pub const MIN_SHIFT: u8 = 27;
/// Factor of the accumulators that sums are.
pub const FACTOR: i32 = 576;
/// The inverse of 9 modulo 2^32.
pub const INVERSE_OF_9: u32 = 0x38e3_8e39;
/// Bits by which accumulators leave the output's transform too large.
pub const SHIFT: u8 = 6;
/// Bytes of a line: 16 pairs of transformed values.
pub const LINE: usize = 64;
/// Most tiles that are multiplied together.
pub const GROUP: usize = 28;
/// Bytes of transformed inputs and of the transformed weights of a block of channels that may stay in the second cache
/// together.
const NEAR: usize = 720 << 10;
/// Bytes of transformed weights that may stay there next to some tiles only.
const NEAR_WEIGHTS: usize = 600 << 10;

/// How a layer is cut, and what it needs.
///
/// Either all tiles are transformed first, and each block of 16 output channels takes its turn with all of them; or, where
/// there are too many tiles, the weights of as many blocks as possible are transformed first, and some tiles after the
/// other take their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Rows and columns of tiles.
    pub tiles: (usize, usize),
    /// Fours of input channels.
    pub quads: usize,
    /// Blocks of 16 output channels.
    pub blocks: usize,
    /// Tiles that are transformed together.
    pub batch: usize,
    /// Blocks whose weights are transformed together.
    pub held: usize,
}

impl Plan {
    /// The plan of a shape that the algorithm can compute.
    #[inline]
    pub fn new(shape: &ConvShape) -> Option<Self> {
        let blocks = Blocks::of(shape.out_c);
        let fits = shape.kernel == 3
            && shape.stride == 1
            && shape.padding < 3
            && shape.groups <= 1
            && shape.in_c > 0
            && usize::from(shape.in_c).is_multiple_of(STEP)
            && blocks.full > 0
            && !blocks.tail;
        let tiles = (shape.out_h().div_ceil(SIDE), shape.out_w().div_ceil(SIDE));
        (fits && tiles.0 * tiles.1 > 0).then(|| Plan::cut(tiles, usize::from(shape.in_c) / 4, blocks.full))
    }

    fn cut(tiles: (usize, usize), quads: usize, blocks: usize) -> Self {
        let all = tiles.0 * tiles.1;
        let mut plan = Plan { tiles, quads, blocks, batch: all, held: 1 };
        if plan.inputs_len() + plan.weights_len() > NEAR {
            plan.batch = all.div_ceil(all.div_ceil(GROUP));
            let most = (NEAR_WEIGHTS / plan.weights_len()).clamp(1, blocks);
            plan.held = blocks.div_ceil(blocks.div_ceil(most));
        }
        plan
    }

    /// The plan of a shape that is faster so than by the direct kernel, on AVX-512.
    #[inline]
    pub fn that_pays(shape: &ConvShape) -> Option<Self> {
        if shape.kernel != 3 {
            return None;
        }
        Plan::new(shape).filter(|plan| plan.pays(shape))
    }

    fn pays(&self, _shape: &ConvShape) -> bool {
        false
    }

    /// Whether a convolution's numbers are such that the algorithm is exact.
    pub fn is_exact(conv: &Conv, right_shift: &[u8]) -> bool {
        conv.acc_bits <= ACC_BITS && right_shift.iter().all(|&r| r >= MIN_SHIFT)
    }

    /// Lines of a tile's transform for one place: for each 64 channels, first the pairs (0, 2) of all fours, then (1, 3).
    pub fn parts(&self) -> usize {
        2 * self.quads.div_ceil(16)
    }

    /// Bytes from a place of the transformed inputs to the next one; one line more than needed, so that the places of a
    /// tile do not all compete for the same lines of the cache. So below.
    pub fn input_pitch(&self) -> usize {
        (self.parts() * self.batch + 1) * LINE
    }

    /// Bytes from a place of a block's transformed weights to the next one: a line for each pair of input channels.
    pub fn weight_pitch(&self) -> usize {
        (2 * self.quads + 1) * LINE
    }

    /// Tiles that are multiplied together, at most.
    pub fn group(&self) -> usize {
        self.batch.div_ceil(self.batch.div_ceil(GROUP).max(1))
    }

    /// Bytes from a place of the products to the next one: a line for each tile.
    pub fn product_pitch(&self) -> usize {
        (self.group() + 1) * LINE
    }

    /// Bytes of the transformed inputs.
    pub fn inputs_len(&self) -> usize {
        PLACES * self.input_pitch()
    }

    /// Bytes of a block's transformed weights.
    pub fn weights_len(&self) -> usize {
        PLACES * self.weight_pitch()
    }

    /// Bytes of the products.
    pub fn products_len(&self) -> usize {
        PLACES * self.product_pitch()
    }

    /// Bytes of a pixel beyond the border.
    pub fn border_len(&self) -> usize {
        (4 * self.quads).next_multiple_of(LINE)
    }

    /// Bytes of scratch memory but for the parameters of the channels.
    pub fn scratch_len(&self) -> usize {
        self.border_len() + self.inputs_len() + self.held * self.weights_len() + self.products_len()
    }
}
