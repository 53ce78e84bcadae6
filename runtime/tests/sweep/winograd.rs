//! What Winograd's algorithm has to get right: tiles of every kind, all ways to cut a layer, the largest numbers.

use super::case::{Case, VALUES, Values};
use super::random::Random;
use super::{Sweep, shape};
use ride_runtime::kernels::k8n16::winograd::{ACC_BITS, Grid, MIN_SHIFT, Plan};
use ride_runtime::op::ConvShape;

impl Sweep {
    /// All sizes up to beyond two tiles, with all paddings and any numbers of channels.
    #[cfg_attr(target_os = "none", allow(dead_code))]
    pub(crate) fn winograd_tiles(&mut self) {
        for (rows, columns) in (1..=10).flat_map(|rows| (1..=10).map(move |columns| (rows, columns))) {
            let (in_c, out_c) = (self.r.pick(&[8, 16, 24, 64, 72, 128]), self.r.pick(&[9, 16, 27, 32, 48]));
            let padding = self.r.pick(&[0, 1, 2]);
            let shape = shape((rows, columns), in_c, out_c, (3, 1, padding));
            let values = self.r.pick(&VALUES);
            self.check_any(shape, Values::Typical);
            self.check_any(shape, values);
        }
        self.check_shape(shape((14, 14), 64, 32, (3, 1, 1)));
        self.check_shape(shape((9, 7), 200, 48, (3, 1, 1)));
    }

    /// Layers that are cut: into groups of tiles, batches of them, blocks that are held together.
    #[cfg_attr(target_os = "none", allow(dead_code))]
    pub(crate) fn winograd_cuts(&mut self) {
        for (size, in_c, out_c, held, batches) in
            [((28, 27), 40, 32, 1, 1), ((41, 57), 64, 48, 3, 11), ((17, 17), 512, 48, 2, 2), ((22, 34), 136, 25, 2, 4)]
        {
            let shape = shape(size, in_c, out_c, (3, 1, 1));
            let plan = Plan::new(&shape).expect("a plan");
            let tiles = Grid::of(shape.out_h(), shape.out_w()).len();
            assert_eq!((plan.held, tiles.div_ceil(plan.batch)), (held, batches), "{shape:?}");
            self.check_any(shape, Values::Typical);
            self.check_any(shape, Values::Border);
        }
    }

    /// The largest accumulators for which it is exact, of either sign, with the smallest shifts; and beyond them.
    #[cfg_attr(target_os = "none", allow(dead_code))]
    pub(crate) fn winograd_limits(&mut self) {
        for (in_c, bits) in [(224, ACC_BITS), (232, ACC_BITS + 1)] {
            for size in [(8, 8), (6, 6), (3, 5)] {
                for (weight, input) in [(127, 127), (-127, 127), (127, -128)] {
                    for wide in [false, true] {
                        let case = largest(shape(size, in_c, 16, (3, 1, 1)), (weight, input), wide, &mut self.r);
                        assert_eq!(case.conv.acc_bits, bits);
                        assert_eq!(Plan::is_exact(&case.conv, &case.right_shift), bits == ACC_BITS);
                        case.check(self.backends, &mut self.r);
                    }
                }
            }
        }
    }
}

/// A case whose inputs and whose weights are all the same, but for some at the other end.
fn largest(shape: ConvShape, (weight, input): (i8, i8), wide: bool, r: &mut Random) -> Case {
    let mut case = Case::new(shape, Values::Overflow, (wide, false, false), r);
    case.weights.fill(weight);
    case.input.fill(input);
    for _ in 0..case.input.len() / 64 {
        let at = r.below(case.input.len());
        case.input[at] = r.pick(&[-128, 127]);
    }
    for (c, shift) in case.right_shift.iter_mut().enumerate() {
        *shift = MIN_SHIFT + c as u8 % 16;
    }
    case
}
