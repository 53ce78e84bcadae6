//! Every backend against the oracle over many shapes and kinds of numbers. Needs an allocator but not `std`: the host's
//! tests walk through it, and so does the firmware that tests microcontrollers (`tests/arm/boards`).

mod case;
mod guarded;
mod large;
mod ops;
mod pieces;
mod random;
mod winograd;

use case::{Case, VALUES, Values};
pub(crate) use random::Random;
use ride_runtime::kernels::Backend;
use ride_runtime::op::ConvShape;

fn shape(size: (u16, u16), in_c: u16, out_c: u16, (kernel, stride, padding): (u8, u8, u8)) -> ConvShape {
    ConvShape { in_h: size.0, in_w: size.1, in_c, out_c, kernel, stride, padding, groups: 1 }
}

/// The numbers of channels that windows are tested with.
const CHANNELS: [u16; 10] = [1, 3, 4, 7, 8, 9, 16, 24, 40, 48];

/// Walks through shapes and forms.
pub(crate) struct Sweep {
    /// What is compared.
    pub(crate) backends: &'static [Backend],
    /// Where numbers come from.
    pub(crate) r: Random,
    /// Only every so many cases of convolutions run: emulated boards are slow.
    pub(crate) every: usize,
    /// Cases that have passed by.
    pub(crate) seen: usize,
}

impl Sweep {
    fn turn(&mut self) -> bool {
        self.seen += 1;
        self.seen.is_multiple_of(self.every)
    }

    /// Every form of output and source, with numbers of every kind.
    fn check_shape(&mut self, shape: ConvShape) {
        let turn = self.r.below(5);
        for form in 0..8 {
            let flags = (form & 1 != 0, form & 2 != 0, form & 4 != 0);
            self.check(shape, VALUES[(form + turn) % 5], flags);
            if flags.0 && shape.output_len() > 0 && self.turn() {
                let values = VALUES[(form + turn + 1) % 5];
                Case::new(shape, values, flags, &mut self.r).raw().check(self.backends, &mut self.r);
            }
        }
    }

    /// One case of any form.
    fn check_any(&mut self, shape: ConvShape, values: Values) {
        let flags = (self.r.below(2) > 0, self.r.below(2) > 0, self.r.below(2) > 0);
        self.check(shape, values, flags);
    }

    fn check(&mut self, shape: ConvShape, values: Values, flags: (bool, bool, bool)) {
        if shape.output_len() > 0 && self.turn() {
            Case::new(shape, values, flags, &mut self.r).check(self.backends, &mut self.r);
        }
    }

    /// The layers of RIDE's ResNet-32.
    pub(crate) fn layers_of_the_network(&mut self) {
        for (side, in_c, out_c, stride) in
            [(32, 3, 16, 1), (16, 16, 24, 2), (8, 24, 48, 2), (8, 48, 48, 1), (16, 24, 24, 1)]
        {
            self.check_shape(shape((side, side), in_c, out_c, (3, stride, 1)));
        }
    }

    /// All numbers of output channels: whole blocks, blocks of 8, ragged ones, more blocks than a tile has.
    pub(crate) fn output_channels(&mut self) {
        for out_c in (1..=50).chain([56, 64, 72, 80, 96, 100, 104, 112]) {
            let (in_c, width) = (self.r.pick(&CHANNELS[..8]), self.r.pick(&[4, 5, 8]));
            self.check_shape(shape((2, width), in_c, out_c, (3, 1, 1)));
        }
    }

    /// All widths up to beyond two of the widest tiles, for each kind of tile.
    pub(crate) fn widths(&mut self) {
        for width in 1..=37 {
            for out_c in [8, 16, 24, 32, 48] {
                let (in_c, stride) = (self.r.pick(&[3, 8, 16]), self.r.pick(&[1, 1, 2]));
                let values = self.r.pick(&VALUES);
                self.check_any(shape((2, width), in_c, out_c, (3, stride, 1)), values);
            }
        }
    }

    /// All windows, strides and paddings on many sizes and numbers of input channels.
    pub(crate) fn windows(&mut self) {
        for kernel in [1, 2, 3, 5, 7] {
            for stride in 1..=3 {
                for padding in 0..kernel {
                    for size in [(1, 1), (1, 6), (7, 3), (5, 9), (6, 17)] {
                        let (in_c, out_c) = (self.r.pick(&CHANNELS), self.r.pick(&[4, 8, 16, 24, 32, 48, 17]));
                        let values = self.r.pick(&VALUES);
                        self.check_any(shape(size, in_c, out_c, (kernel, stride, padding)), values);
                    }
                }
            }
        }
    }

    /// All combinations of input and output channels.
    pub(crate) fn input_channels(&mut self) {
        for in_c in CHANNELS.into_iter().chain([2, 5, 6, 10, 31, 64]) {
            for out_c in [7, 16, 24, 25] {
                let shape = shape((3, 5), in_c, out_c, (3, self.r.pick(&[1, 2]), 1));
                for values in VALUES {
                    self.check_any(shape, values);
                }
            }
        }
    }
}
