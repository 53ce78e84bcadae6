//! Numeric paths: four ways to multiply int8, one set of bits.

/// How a GPU multiplies int8. All give the same bits; which is fastest depends on the compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// Products in binary32, whose sums are exact as long as they stay below 2^24: Jetson Nano and TX2, which have no int8
    /// arithmetic.
    F32,
    /// Dot products of four bytes.
    Dp4a,
    /// Tensor cores of Xavier, through `wmma`.
    Wmma,
    /// Tensor cores of Orin and newer, through `mma.sync`.
    Mma,
}

impl Path {
    /// All paths, slowest first.
    pub const ALL: [Path; 4] = [Path::F32, Path::Dp4a, Path::Wmma, Path::Mma];

    /// Name, as reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Path::F32 => "f32",
            Path::Dp4a => "dp4a",
            Path::Wmma => "wmma",
            Path::Mma => "mma",
        }
    }

    /// Smallest compute capability that it takes, major and minor.
    pub fn capability(self) -> (u32, u32) {
        match self {
            Path::F32 => (5, 3),
            Path::Dp4a => (6, 1),
            Path::Wmma => (7, 2),
            Path::Mma => (8, 0),
        }
    }

    /// Whether a GPU of this compute capability can take it.
    pub fn runs_on(self, capability: (u32, u32)) -> bool {
        // The TX2 (6.2) is the one chip behind 6.1 that lost the instruction, which is then emulated.
        capability >= self.capability() && !(self == Path::Dp4a && capability == (6, 2))
    }

    /// The fastest one for a compute capability.
    pub fn best(capability: (u32, u32)) -> Option<Path> {
        Self::ALL.into_iter().rev().find(|p| p.runs_on(capability))
    }

    /// CUDA version whose driver reads this path's PTX, 1000 * major + 10 * minor.
    pub(crate) fn driver(self) -> i32 {
        match self {
            // PTX ISA 6.0, 6.3 and 7.0.
            Path::F32 | Path::Dp4a => 9000,
            Path::Wmma => 10000,
            Path::Mma => 11000,
        }
    }

    /// The device code, as PTX text (`device/generate.sh` makes it).
    pub fn ptx(self) -> &'static str {
        match self {
            Path::F32 => include_str!("../ptx/f32.ptx"),
            Path::Dp4a => include_str!("../ptx/dp4a.ptx"),
            Path::Wmma => include_str!("../ptx/wmma.ptx"),
            Path::Mma => include_str!("../ptx/mma.ptx"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boards_get_their_paths() {
        let boards = [((5, 3), Path::F32), ((6, 2), Path::F32), ((6, 1), Path::Dp4a), ((7, 0), Path::Dp4a)];
        let newer = [((7, 2), Path::Wmma), ((7, 5), Path::Wmma), ((8, 7), Path::Mma), ((9, 0), Path::Mma)];
        for (capability, path) in boards.into_iter().chain(newer) {
            assert_eq!(Path::best(capability), Some(path), "{capability:?}");
        }
        assert_eq!(Path::best((5, 2)), None);
    }

    #[test]
    fn ptx_is_no_newer_than_it_says() {
        for path in Path::ALL {
            let (major, minor) = path.capability();
            assert!(path.ptx().contains(&format!(".target sm_{major}{minor}")), "{}", path.name());
            // Fused multiply-adds round once where the law rounds twice; only products of int8, exact either way, may use them.
            assert!(path == Path::F32 || !path.ptx().contains("fma."), "{}", path.name());
            assert!(!path.ptx().contains(".ftz") && !path.ptx().contains(".approx"), "{}", path.name());
        }
    }
}
