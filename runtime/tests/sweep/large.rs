//! Convolutions of the ImageNet family: groups, large windows, projections.

use super::{Sweep, shape};
use ride_runtime::op::ConvShape;

impl Sweep {
    /// Groups: whole steps, several groups to a step, ragged ones, depthwise; different numbers in and out.
    pub(crate) fn groups(&mut self) {
        for (groups, group_in, group_out) in [
            (32, 4, 4),
            (32, 8, 8),
            (32, 12, 12),
            (8, 24, 24),
            (4, 32, 32),
            (4, 16, 24),
            (2, 8, 20),
            (6, 8, 16),
            (3, 3, 5),
            (7, 5, 2),
            (40, 1, 1),
            (16, 1, 2),
            (8, 2, 1),
            (2, 48, 40),
        ] {
            for (size, window) in [((5, 7), (3, 1, 1)), ((7, 14), (3, 2, 1)), ((4, 9), (1, 1, 0)), ((6, 5), (5, 1, 2))]
            {
                let shape = shape(size, groups * group_in, groups * group_out, window);
                self.check_shape(ConvShape { groups, ..shape });
            }
        }
    }

    /// Depthwise windows: all ends of blocks and of tiles, those that have a kernel of their own and others.
    #[cfg_attr(target_os = "none", allow(dead_code))]
    pub(crate) fn depthwise(&mut self) {
        for channels in [2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 31, 32, 40, 96, 100] {
            for (size, window) in [
                ((7, 7), (3, 1, 1)),
                ((9, 14), (3, 2, 1)),
                ((4, 19), (3, 1, 0)),
                ((5, 33), (3, 2, 2)),
                ((1, 1), (3, 1, 1)),
                ((3, 5), (3, 3, 1)),
                ((6, 9), (5, 1, 2)),
            ] {
                self.check_shape(ConvShape { groups: channels, ..shape(size, channels, channels, window) });
            }
        }
    }

    /// The windows of ImageNet networks in sizes that end within tiles: first layer, 1x1 convolutions, projections. Too large
    /// for boards.
    #[cfg_attr(target_os = "none", allow(dead_code))]
    pub(crate) fn imagenet_layers(&mut self) {
        for (size, in_c, out_c, window) in [
            ((19, 23), 3, 64, (7, 2, 3)),
            ((7, 7), 64, 256, (1, 1, 0)),
            ((14, 14), 96, 48, (1, 1, 0)),
            ((14, 14), 48, 96, (1, 2, 0)),
            ((7, 7), 96, 192, (1, 2, 0)),
            ((7, 7), 64, 64, (3, 1, 1)),
            ((14, 14), 64, 48, (3, 2, 1)),
            ((14, 14), 40, 112, (3, 1, 1)),
            ((5, 28), 24, 72, (3, 1, 1)),
            ((3, 5), 8, 1008, (1, 1, 0)),
            ((1, 1), 512, 512, (1, 1, 0)),
        ] {
            self.check_shape(shape(size, in_c, out_c, window));
        }
    }
}
