//! Which way a convolution takes on an instruction set: what reports and warnings are made from.

use super::k8n16::{Depthwise, Grouped, Parts, winograd};
use super::{Isa, k8n4};
use crate::op::{Conv, ConvShape};

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// A vector kernel for ordinary convolutions.
    Vector,
    /// Winograd's algorithm on AVX-512 ([`winograd`]), if the layer's numbers keep to what it is exact for.
    Winograd,
    /// A vector kernel for groups of few channels: some fours of them on x86 ([`Grouped`]), any number that a table
    /// look-up reaches on 64-bit Arm ([`k8n4::group_reach`]).
    Grouped,
    /// A vector kernel for depthwise windows: those of [`Depthwise`] on x86, any on 64-bit Arm.
    Depthwise,
    /// The vector kernel for ordinary convolutions, on weights with zeros between the groups: `waste` times the
    /// multiplications of the layer.
    BlockDiagonal {
        /// More than 1.
        waste: usize,
    },
    /// Portable code.
    Portable,
}

impl Path {
    /// The way of `conv` on `isa`.
    pub fn of_conv(isa: Isa, conv: &Conv) -> Self {
        match Path::of(isa, &conv.shape) {
            Path::Winograd if conv.acc_bits > winograd::ACC_BITS => Path::Vector,
            path => path,
        }
    }

    /// The way of `shape` on `isa`, if its numbers allow it.
    pub fn of(isa: Isa, shape: &ConvShape) -> Self {
        match isa {
            Isa::Scalar => Path::Portable,
            Isa::Avx512Vnni if winograd::Plan::that_pays(shape).is_some() => Path::Winograd,
            _ if shape.groups <= 1 => Path::Vector,
            Isa::Dsp | Isa::Mve => Path::Portable,
            Isa::Neon | Isa::Dotprod | Isa::I8mm if k8n4::group_reach(shape) > k8n4::GROUP_REACH => Path::Portable,
            Isa::Neon | Isa::Dotprod | Isa::I8mm if shape.group_in() == 1 => Path::Depthwise,
            Isa::Neon | Isa::Dotprod | Isa::I8mm => Path::Grouped,
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni if Grouped::of(shape).is_some() => Path::Grouped,
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni if Depthwise::of(shape).is_some() => Path::Depthwise,
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni => {
                match usize::from(Parts::of(shape).shape.in_c) / shape.group_in().max(1) {
                    0 | 1 => Path::Vector,
                    waste => Path::BlockDiagonal { waste },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{BACKENDS, conv_name, scalar};
    use crate::op::{Layout, Limits, Planes, Source, Span};

    fn shape(in_c: u16, out_c: u16, groups: u16, (kernel, stride): (u8, u8)) -> ConvShape {
        ConvShape { in_h: 7, in_w: 7, in_c, out_c, kernel, stride, padding: kernel / 2, groups }
    }

    #[test]
    fn groups_go_their_own_ways() {
        let ways = |in_c, groups, window| {
            [Isa::Avx512Vnni, Isa::Neon, Isa::Dsp].map(|isa| Path::of(isa, &shape(in_c, in_c, groups, window)))
        };
        assert_eq!(ways(48, 1, (3, 1)), [Path::Vector; 3]);
        assert_eq!(ways(64, 1, (5, 1)), [Path::Vector; 3]);
        assert_eq!(ways(128, 32, (3, 1)), [Path::Grouped, Path::Grouped, Path::Portable]);
        assert_eq!(ways(96, 96, (3, 2)), [Path::Depthwise, Path::Depthwise, Path::Portable]);
        assert_eq!(ways(96, 96, (5, 1)), [Path::BlockDiagonal { waste: 8 }, Path::Depthwise, Path::Portable]);
        assert_eq!(ways(512, 32, (3, 1)), [Path::Vector, Path::Grouped, Path::Portable]);
        assert_eq!(ways(512, 4, (3, 1)), [Path::Vector, Path::Portable, Path::Portable]);
        assert_eq!(Path::of(Isa::Scalar, &shape(64, 64, 1, (3, 1))), Path::Portable);
    }

    #[test]
    fn large_layers_take_winograds_way_where_it_is_exact() {
        let large = ConvShape { in_h: 28, in_w: 28, ..shape(128, 128, 1, (3, 1)) };
        let way = |isa, acc_bits| Path::of_conv(isa, &conv(large, acc_bits));
        assert_eq!(way(Isa::Avx512Vnni, 25), Path::Winograd);
        assert_eq!(way(Isa::Avx512Vnni, 26), Path::Vector);
        assert_eq!([Isa::AvxVnni, Isa::Avx2, Isa::Neon].map(|isa| way(isa, 20)), [Path::Vector; 3]);
        for backend in BACKENDS {
            let named = conv_name(backend, &conv(large, 25)) == winograd::NAME;
            assert_eq!(named, backend.isa == Isa::Avx512Vnni, "{}", backend.conv.name);
            assert_ne!(conv_name(backend, &conv(large, 26)), winograd::NAME);
        }
    }

    fn conv(shape: ConvShape, acc_bits: u8) -> Conv {
        let nowhere = Span { at: 0, len: 0 };
        Conv {
            shape,
            source: Source::Arena(0),
            out: Planes { hi: 0, lo: None },
            accumulate: false,
            raw: false,
            limits: Limits { zero: 0, min: -128, max: 127 },
            border: [0; 4],
            weights: nowhere,
            params: nowhere,
            layout: Layout::K8N16,
            acc_bits,
        }
    }

    /// Names of kernels say the same.
    #[test]
    fn portable_ways_have_portable_names() {
        let portable = [scalar::OHWI, scalar::K8N16, scalar::K4N2, scalar::K8N4].map(|b| b.conv.name);
        for backend in BACKENDS {
            for shape in [shape(64, 64, 1, (3, 1)), shape(64, 64, 8, (3, 1)), shape(64, 64, 64, (3, 1))] {
                let named = portable.contains(&conv_name(backend, &conv(shape, 20)));
                assert_eq!(Path::of(backend.isa, &shape) == Path::Portable, named, "{} {shape:?}", backend.conv.name);
            }
        }
    }
}
