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
//!
//! **Narrow tiles.** Where one or two pixels are left at the right or at the bottom, the points ±2 are left out: that is
//! F(2, 3) with the points 0, ±1 and ∞, for which the same weights will do but for factors. Those are put right on the
//! side of the inputs, `4 (d0-d2) · -3 (d1+d2) · 3 (d1-d2) · 4 (d3-d1)`, so that everything else stays as it is, the factor
//! of 24 as well. A 14×14 layer, whose 16 tiles are 7 narrow ones among them, saves a sixth of its multiplications.

use super::{Blocks, STEP};
use crate::op::{Conv, ConvShape};
use core::ops::Range;

/// Name of the kernel.
pub const NAME: &str = "qs8_winograd_16x16_k8n16_avx512vnni";
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
/// Lines of a row of weights, which are transformed in one direction only.
pub const WEIGHT_LINES: usize = 3;
/// Bytes of a line: 16 pairs of transformed values.
pub const LINE: usize = 64;
/// Most tiles that are multiplied together. More would load weights less often, but take longer between the last products
/// of a place and the first ones of the next.
pub const GROUP: usize = 16;
/// Bytes of transformed inputs and of the transformed weights of a block of channels that may stay in the second cache
/// together.
const NEAR: usize = 720 << 10;
/// Bytes of transformed weights that may stay there next to some tiles only.
const NEAR_WEIGHTS: usize = 600 << 10;

/// Whether tiles are narrow: at the bottom, at the right.
pub type Narrow = (bool, bool);

/// The tiles of some output rows.
///
/// Their order makes the tiles that have a place neighbours, whichever place: narrow ones at the bottom come first, then
/// those that are not narrow, then narrow ones at the right, then the one in the corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Rows and columns of tiles that are not narrow.
    full: (usize, usize),
    /// Whether there are narrow ones.
    narrow: Narrow,
}

/// A tile of a [`Grid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Output row, counted from the grid's first.
    pub y: usize,
    /// Output column.
    pub x: usize,
    /// Whether it is narrow.
    pub narrow: Narrow,
}

impl Grid {
    /// The tiles of `rows` by `columns` outputs.
    #[inline]
    pub fn of(rows: usize, columns: usize) -> Self {
        let cut = |n: usize| match n % SIDE {
            1 | 2 => (n / SIDE, true),
            _ => (n.div_ceil(SIDE), false),
        };
        let ((rows, bottom), (columns, right)) = (cut(rows), cut(columns));
        Grid { full: (rows, columns), narrow: (bottom, right) }
    }

    /// Number of tiles.
    pub fn len(&self) -> usize {
        (self.full.0 + usize::from(self.narrow.0)) * (self.full.1 + usize::from(self.narrow.1))
    }

    /// Whether there are no tiles.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tiles come before those that are not narrow, and how many before the narrow ones at the right.
    fn bounds(&self) -> (usize, usize) {
        let bottom = if self.narrow.0 { self.full.1 } else { 0 };
        (bottom, bottom + self.full.0 * self.full.1)
    }

    /// Tile `n`.
    #[inline(always)]
    pub fn tile(&self, n: usize) -> Place {
        let (rows, columns) = self.full;
        let (whole, right) = self.bounds();
        let (row, column, narrow) = if n < whole {
            (rows, n, (true, false))
        } else if n < right {
            ((n - whole) / columns, (n - whole) % columns, (false, false))
        } else {
            (n - right, columns, (n - right == rows, true))
        };
        Place { y: SIDE * row, x: SIDE * column, narrow }
    }

    /// The tiles that have place (`i`, `j`) of a transform.
    #[inline(always)]
    pub fn having(&self, (i, j): (usize, usize)) -> Range<usize> {
        let (whole, right) = self.bounds();
        let (low, high) = (NARROW_LACKS.contains(&i), NARROW_LACKS.contains(&j));
        let first = if low { whole } else { 0 };
        let last = match (low, high) {
            (_, true) => right,
            // All but the one in the corner.
            (true, false) => right + if self.narrow.1 { self.full.0 } else { 0 },
            (false, false) => self.len(),
        };
        first..last
    }

    /// Products of all tiles, of a pair of channels by 16 channels.
    fn products(&self) -> usize {
        (0..PLACES).map(|place| self.having((place / POINTS, place % POINTS)).len()).sum()
    }
}

/// The points ±2, which narrow tiles lack.
pub const NARROW_LACKS: Range<usize> = 3..5;

/// Cycles that it takes to transform four inputs of a block of 16 channels.
const WEIGHT_CYCLES: usize = 110;
/// Cycles that it takes to transform a line of a tile's inputs, which is 32 channels.
const INPUT_CYCLES: usize = 200;
/// Cycles that it takes to transform a block of 16 channels of a tile's outputs, and to finish them.
const OUTPUT_CYCLES: usize = 220;

/// Cycles of the direct kernel, which leaves out what reads nothing but a border of zeros.
fn direct_cycles(shape: &ConvShape) -> u64 {
    let inside = |n: usize| (3 * n - 2 * usize::from(shape.padding.min(1))) as u64;
    let windows = inside(shape.out_h()) * inside(shape.out_w());
    windows * (u64::from(shape.in_c) * Blocks::of(shape.out_c).channels() as u64 / 64)
}

/// How a layer is cut, and what it needs.
///
/// Either all tiles are transformed first, and each block of 16 output channels takes its turn with all of them; or, where
/// there are too many tiles, the weights of as many blocks as possible are transformed first, and some tiles after the
/// other take their turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
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
        if shape.kernel != 3 || shape.stride != 1 {
            return None;
        }
        let blocks = Blocks::of(shape.out_c);
        let fits = shape.padding < 3
            && shape.groups <= 1
            && shape.in_c > 0
            && usize::from(shape.in_c).is_multiple_of(STEP)
            && blocks.full > 0
            && !blocks.tail
            && shape.output_len() > 0;
        fits.then(|| Plan::cut(&Grid::of(shape.out_h(), shape.out_w()), usize::from(shape.in_c) / 4, blocks.full))
    }

    fn cut(grid: &Grid, quads: usize, blocks: usize) -> Self {
        let all = grid.len();
        let mut plan = Plan { quads, blocks, batch: all, held: 1 };
        if plan.inputs_len() + plan.weights_len() > NEAR {
            plan.batch = all.min(GROUP);
            let most = (NEAR_WEIGHTS / plan.weights_len()).clamp(1, blocks);
            plan.held = blocks.div_ceil(blocks.div_ceil(most));
        }
        plan
    }

    /// The plan of a shape that AVX-512 with VNNI computes faster so than by the direct kernel.
    ///
    /// Both are estimated in cycles of a Zen 4 core, on which `cargo run --release -p ride-runtime --features std --example
    /// layers -- avx512 imagenet` shows what comes true: one for each product of 32 or 64 numbers, and for the four
    /// transforms as in the constants. An estimate has to be better by a tenth, because weights that are not in the
    /// second cache have to be waited for where they are transformed, whereas the direct kernel fetches them ahead.
    #[inline]
    pub fn that_pays(shape: &ConvShape) -> Option<Self> {
        Plan::new(shape).filter(|plan| plan.cycles(shape) < direct_cycles(shape) / 10 * 9)
    }

    /// Cycles of a layer with a narrow output, estimated as [`Plan::that_pays`] says.
    pub fn cycles(&self, shape: &ConvShape) -> u64 {
        let grid = Grid::of(shape.out_h(), shape.out_w());
        let (tiles, weights) = (grid.len(), self.quads * self.blocks);
        let turns = if self.batch < tiles { self.blocks.div_ceil(self.held) } else { 1 };
        let products = grid.products() * 2 * weights;
        let inputs = tiles * self.parts() * turns * INPUT_CYCLES;
        (products + weights * WEIGHT_CYCLES + inputs + tiles * self.blocks * OUTPUT_CYCLES) as u64
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

    /// Bytes from a row of a block's transformed weights to the next one: some lines for each pair of input channels.
    pub fn weight_pitch(&self) -> usize {
        (2 * self.quads * WEIGHT_LINES + 1) * LINE
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
        POINTS * self.weight_pitch()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every output belongs to one tile, and the tiles that have a place are as the kinds of tiles say.
    #[test]
    fn grids_cover_all_outputs_once() {
        for (rows, columns) in (1..13).flat_map(|rows| (1..13).map(move |columns| (rows, columns))) {
            let grid = Grid::of(rows, columns);
            let mut covered = vec![0; rows * columns];
            for n in 0..grid.len() {
                let Place { y, x, narrow } = grid.tile(n);
                let side = |narrow| if narrow { 2 } else { SIDE };
                for (y, x) in (y..y + side(narrow.0)).flat_map(|y| (x..x + side(narrow.1)).map(move |x| (y, x))) {
                    if y < rows && x < columns {
                        covered[y * columns + x] += 1;
                    }
                }
                for (i, j) in (0..POINTS).flat_map(|i| (0..POINTS).map(move |j| (i, j))) {
                    let has = !(narrow.0 && NARROW_LACKS.contains(&i) || narrow.1 && NARROW_LACKS.contains(&j));
                    assert_eq!(grid.having((i, j)).contains(&n), has, "{rows} {columns} {n} {i} {j}");
                }
            }
            assert!(covered.iter().all(|&n| n == 1), "{rows} {columns}: {covered:?}");
        }
        assert_eq!((Grid::of(14, 14).products(), Grid::of(16, 16).products()), (22 * 22, 24 * 24));
    }

    #[test]
    fn factors_cancel() {
        assert_eq!(INVERSE_OF_9.wrapping_mul(9), 1);
        assert_eq!(9 << SHIFT, FACTOR);
    }

    #[test]
    fn it_pays_for_large_layers() {
        let pays = |side, channels, (kernel, stride): (u8, u8)| {
            let (in_h, in_w, in_c, out_c) = (side, side, channels, channels);
            Plan::that_pays(&ConvShape { in_h, in_w, in_c, out_c, kernel, stride, padding: kernel / 2, groups: 1 })
                .is_some()
        };
        assert!(pays(56, 64, (3, 1)) && pays(28, 128, (3, 1)) && pays(14, 192, (3, 1)) && pays(14, 256, (3, 1)));
        assert!(!pays(7, 384, (3, 1)), "weights of 4 tiles");
        assert!(!pays(32, 16, (3, 1)) && !pays(16, 24, (3, 1)) && !pays(8, 48, (3, 1)), "few channels");
        assert!(!pays(56, 64, (3, 2)) && !pays(56, 64, (1, 1)) && !pays(56, 64, (5, 1)));
    }
}
