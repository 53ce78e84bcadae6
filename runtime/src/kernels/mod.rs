//! Kernels: plain functions in static tables, one [`Backend`] for each instruction set and weight layout.
//!
//! Dispatch, tests and benchmarks walk the same table, [`BACKENDS`]. Every backend computes exactly the arithmetic law
//! ([`crate::arith`]); they differ in speed only.

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub mod aarch64;
#[cfg(all(target_arch = "arm", any(feature = "dsp", feature = "mve")))]
pub mod arm;
pub mod dense;
pub mod k4n2;
pub mod k8n16;
pub mod k8n4;
pub mod packing;
pub mod path;
mod plane;
pub mod scalar;
#[cfg(target_arch = "x86_64")]
pub mod x86;

use crate::op::{Conv, ConvShape, Dense, Layout, MaxPool, Pool, Shortcut};
use core::ops::Range;
use core::ptr;

pub use plane::Plane;

/// Instruction sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Portable Rust.
    Scalar,
    /// Cortex-M with the DSP extension (Armv7E-M, Armv8-M).
    Dsp,
    /// Cortex-M with Helium (MVE).
    Mve,
    /// 64-bit Arm with NEON.
    Neon,
    /// 64-bit Arm with NEON and int8 dot products.
    Dotprod,
    /// 64-bit Arm with NEON and int8 matrix products.
    I8mm,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX-VNNI (256-bit `vpdpbusd`).
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
}

impl Isa {
    /// All of them, slowest first within an architecture.
    pub const ALL: [Isa; 9] =
        [Isa::Scalar, Isa::Dsp, Isa::Mve, Isa::Neon, Isa::Dotprod, Isa::I8mm, Isa::Avx2, Isa::AvxVnni, Isa::Avx512Vnni];

    /// The one that reports show as `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// The slowest vector unit whose kernels read `layout`: what any machine of the layout's family has. Portable code for
    /// plain rows.
    pub fn least(layout: Layout) -> Self {
        match layout {
            Layout::Ohwi => Isa::Scalar,
            Layout::K4N2 => Isa::Dsp,
            Layout::K8N4 => Isa::Neon,
            Layout::K8N16 => Isa::Avx2,
        }
    }

    /// Name as reports show it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Dsp => "dsp",
            Isa::Mve => "mve",
            Isa::Neon => "neon",
            Isa::Dotprod => "dotprod",
            Isa::I8mm => "i8mm",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512Vnni => "avx512vnni",
        }
    }

    /// Whether this machine has it: asked of the processor with the feature `std`, of the compiler otherwise.
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar => true,
            // Whoever builds for a microcontroller says so with the Cargo feature.
            Isa::Dsp => cfg!(all(target_arch = "arm", feature = "dsp")),
            Isa::Mve => cfg!(all(target_arch = "arm", feature = "mve")),
            #[cfg(target_arch = "x86_64")]
            _ => x86::available(self),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            _ => aarch64::available(self),
            #[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little"))))]
            _ => false,
        }
    }

    /// What the artifact's address must be a multiple of: doubleword loads of weights want words.
    pub fn artifact_align(self) -> usize {
        match self {
            Isa::Dsp => 4,
            _ => 1,
        }
    }

    /// int8 multiply-accumulates of one vector instruction, for reports; 1 for scalar code.
    pub fn macs_per_instruction(self) -> u32 {
        match self {
            Isa::Scalar => 1,
            Isa::Dsp => 2,
            Isa::Mve => 16,
            Isa::Neon => 4,
            Isa::Dotprod => 16,
            Isa::I8mm => 32,
            Isa::Avx2 => 16,
            Isa::AvxVnni => 32,
            Isa::Avx512Vnni => 64,
        }
    }
}

/// Everything that some outputs of a convolution touch.
#[derive(Debug)]
pub struct ConvCall<'a> {
    /// The operation.
    pub conv: &'a Conv,
    /// Output rows to compute: `0..out_h`, or fewer for a kernel with [`ConvKernel::splits`].
    pub rows: Range<usize>,
    /// Output channels to compute: all of them, or fewer for a kernel with a [`ConvKernel::channel_step`]. Other channels'
    /// bytes of the output are not touched.
    pub channels: Range<usize>,
    /// Input plane (or image), `in_h × in_w × in_c` bytes.
    pub input: &'a [u8],
    /// Packed weights.
    pub weights: &'a [u8],
    /// Bias, multiplier and right shift arrays, see [`Params`].
    pub params: &'a [u8],
    /// High (or only) plane of these rows of the output, `rows × out_w × out_c` bytes; holds the residual if `accumulate`.
    pub out_hi: Plane<'a>,
    /// Low plane of these rows of a wide output, else empty.
    pub out_lo: Plane<'a>,
    /// At least [`ConvKernel::scratch_len`] bytes.
    pub scratch: &'a mut [u8],
}

impl ConvCall<'_> {
    /// What turns a stored input byte into the bits of its int8 value.
    pub fn input_flip(&self) -> u8 {
        match self.conv.source {
            crate::op::Source::Image | crate::op::Source::Low(_) => 0x80,
            crate::op::Source::Arena(_) => self.conv.layout.plane_flip(),
        }
    }

    /// Whether all outputs are to be computed.
    pub fn is_whole(&self) -> bool {
        self.rows == (0..self.conv.shape.out_h()) && self.has_all_channels()
    }

    /// Whether all output channels are to be computed.
    pub fn has_all_channels(&self) -> bool {
        self.channels == (0..usize::from(self.conv.shape.out_c))
    }

    /// Whether the channels to compute are some of a convolution without groups that begin and end at multiples of
    /// `step`, or with the last one.
    pub fn has_channels_in_steps_of(&self, step: usize) -> bool {
        let (all, Range { start, end }) = (usize::from(self.conv.shape.out_c), self.channels.clone());
        let ends = end == all || end < all && end.is_multiple_of(step);
        self.conv.shape.groups == 1 && start < end && start.is_multiple_of(step) && ends
    }

    /// First bytes of the output planes; the second one is null for a narrow output.
    pub fn outputs(&mut self) -> [*mut u8; 2] {
        let lo = if self.out_lo.is_empty() { ptr::null_mut() } else { self.out_lo.as_mut_ptr() };
        [self.out_hi.as_mut_ptr(), lo]
    }

    /// Bytes of an output plane of the rows to compute; `None` if there are no such rows.
    pub fn output_len(&self) -> Option<usize> {
        let shape = &self.conv.shape;
        let inside = self.rows.start < self.rows.end && self.rows.end <= shape.out_h();
        inside.then(|| self.rows.len() * shape.out_w() * usize::from(shape.out_c))
    }

    /// The parameter arrays.
    pub fn channel_params(&self) -> Params<'_> {
        Params::new(self.params, padded_channels(&self.conv.shape, self.conv.layout))
    }
}

/// The three parameter arrays of a convolution: bias (i32), multiplier (i32) and right shift (u8) of each channel.
#[derive(Clone, Copy, Debug)]
pub struct Params<'a> {
    /// Bias, 4 bytes a channel.
    pub bias: &'a [u8],
    /// Multiplier, 4 bytes a channel.
    pub multiplier: &'a [u8],
    /// Right shift, 1 byte a channel.
    pub right_shift: &'a [u8],
}

impl<'a> Params<'a> {
    /// Splits `bytes` (at least `9 * channels`) into the arrays; they are empty where there are fewer.
    pub fn new(bytes: &'a [u8], channels: usize) -> Self {
        let arrays = || {
            let (bias, rest) = bytes.split_at_checked(4 * channels)?;
            let (multiplier, rest) = rest.split_at_checked(4 * channels)?;
            Some(Params { bias, multiplier, right_shift: rest.get(..channels)? })
        };
        arrays().unwrap_or(Params { bias: &[], multiplier: &[], right_shift: &[] })
    }

    /// The parameters of `count` channels from `first` on.
    pub fn part(&self, first: usize, count: usize) -> Self {
        Params {
            bias: &self.bias[4 * first..][..4 * count],
            multiplier: &self.multiplier[4 * first..][..4 * count],
            right_shift: &self.right_shift[first..][..count],
        }
    }

    /// Bias of channel `c`.
    pub fn bias(&self, c: usize) -> i32 {
        crate::format::u32_at(self.bias, 4 * c) as i32
    }

    /// Multiplier of channel `c`.
    pub fn multiplier(&self, c: usize) -> i32 {
        crate::format::u32_at(self.multiplier, 4 * c) as i32
    }

    /// Right shift of channel `c`; the largest one, which leaves nothing, where there is no such channel.
    pub fn right_shift(&self, c: usize) -> u8 {
        self.right_shift.get(c).map_or(crate::arith::MAX_RIGHT_SHIFT, |&r| r)
    }
}

/// Everything a shortcut touches; all planes are full tensors.
#[derive(Debug)]
pub struct ShortcutCall<'a> {
    /// The operation.
    pub shortcut: &'a Shortcut,
    /// High (or only) input plane.
    pub in_hi: &'a [u8],
    /// Low input plane of a wide activation, else empty.
    pub in_lo: &'a [u8],
    /// High (or only) output plane.
    pub out_hi: &'a mut [u8],
    /// Low output plane of a wide activation, else empty.
    pub out_lo: &'a mut [u8],
    /// [`Layout::plane_flip`] of the high (or only) planes.
    pub flip: u8,
}

/// Everything that some output rows of a max pooling touch; input planes are full tensors.
#[derive(Debug)]
pub struct MaxPoolCall<'a> {
    /// The operation.
    pub pool: &'a MaxPool,
    /// Output rows to compute.
    pub rows: Range<usize>,
    /// High (or only) input plane.
    pub in_hi: &'a [u8],
    /// Low input plane of a wide activation, else empty.
    pub in_lo: &'a [u8],
    /// High (or only) plane of these rows of the output.
    pub out_hi: &'a mut [u8],
    /// Low plane of these rows of a wide activation, else empty.
    pub out_lo: &'a mut [u8],
    /// [`Layout::plane_flip`] of the high (or only) planes.
    pub flip: u8,
}

/// Everything a pooling touches.
#[derive(Debug)]
pub struct PoolCall<'a> {
    /// The operation.
    pub pool: &'a Pool,
    /// High (or only) input plane.
    pub in_hi: &'a [u8],
    /// Low input plane of a wide activation, else empty.
    pub in_lo: &'a [u8],
    /// Feature and inverse norm.
    pub out: &'a mut [u8],
    /// [`Layout::plane_flip`] of the high (or only) plane.
    pub flip: u8,
}

/// Everything a dense layer touches.
#[derive(Debug)]
pub struct DenseCall<'a> {
    /// The layer.
    pub dense: &'a Dense,
    /// Feature and inverse norm.
    pub feature: &'a [u8],
    /// Weights.
    pub weights: &'a [u8],
    /// Factors and biases.
    pub params: &'a [u8],
    /// f32 results, 4 bytes each.
    pub out: &'a mut [u8],
}

impl DenseCall<'_> {
    /// The factor that normalises the feature, or 1.
    pub fn inverse_norm(&self) -> f32 {
        if self.dense.normalize {
            crate::format::f32_at(self.feature, crate::op::feature_norm_at(usize::from(self.dense.features)))
        } else {
            1.0
        }
    }

    /// Result `j` of a dot product: the law's four binary32 operations in their order.
    pub fn finish(&self, j: usize, dot: i32, inverse_norm: f32) -> f32 {
        let factor = crate::format::f32_at(self.params, 4 * j);
        let bias = crate::format::f32_at(self.params, 4 * (usize::from(self.dense.outputs) + j));
        ((dot as f32) * factor) * inverse_norm + bias
    }
}

/// A convolution kernel.
#[derive(Clone, Copy, Debug)]
pub struct ConvKernel {
    /// Name, XNNPACK style.
    pub name: &'static str,
    /// Pixels by channels computed at a time.
    pub tile: (usize, usize),
    /// Bytes of scratch memory that a shape needs.
    pub scratch_len: fn(&ConvShape) -> usize,
    /// Whether it computes some of the output rows where a call asks for no more, so that threads can share a layer;
    /// otherwise calls ask for all of them.
    pub splits: bool,
    /// The same for output channels of convolutions without groups: at multiples of which number they may be cut; 0 where
    /// calls ask for all of them.
    pub channel_step: usize,
    /// Runs it.
    ///
    /// # Safety
    /// The backend's instruction set must be available. (All slices are checked inside.)
    pub run: unsafe fn(&mut ConvCall<'_>),
}

/// Kernels that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Instruction set.
    pub isa: Isa,
    /// Weight layout that the kernels read.
    pub layout: Layout,
    /// Convolution.
    pub conv: ConvKernel,
    /// Whether it is worth choosing on this machine, which must have the instruction set: of two backends for the same one,
    /// each is the faster on some processors.
    pub pays: fn() -> bool,
    /// Shortcut.
    ///
    /// # Safety
    /// The instruction set must be available.
    pub shortcut: unsafe fn(&mut ShortcutCall<'_>),
    /// Max pooling.
    ///
    /// # Safety
    /// The instruction set must be available.
    pub max_pool: unsafe fn(&mut MaxPoolCall<'_>),
    /// Global average pooling.
    ///
    /// # Safety
    /// The instruction set must be available.
    pub pool: unsafe fn(&mut PoolCall<'_>),
    /// Dense layer.
    ///
    /// # Safety
    /// The instruction set must be available.
    pub dense: unsafe fn(&mut DenseCall<'_>),
}

/// All backends of this build, slowest first.
pub static BACKENDS: &[Backend] = &[
    #[cfg(not(all(target_os = "none", any(feature = "dsp", feature = "mve"))))]
    scalar::OHWI,
    #[cfg(not(target_os = "none"))]
    scalar::K8N16,
    #[cfg(not(target_os = "none"))]
    scalar::K4N2,
    #[cfg(not(target_os = "none"))]
    scalar::K8N4,
    #[cfg(all(target_arch = "arm", feature = "dsp"))]
    arm::dsp::BACKEND,
    #[cfg(all(target_arch = "arm", feature = "mve"))]
    arm::mve::BACKEND,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    aarch64::NEON,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    aarch64::DOTPROD,
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    aarch64::I8MM,
    #[cfg(target_arch = "x86_64")]
    x86::AVX2,
    #[cfg(target_arch = "x86_64")]
    x86::AVXVNNI,
    #[cfg(target_arch = "x86_64")]
    x86::AVX512VNNI,
    #[cfg(target_arch = "x86_64")]
    x86::AVX512PAIRS,
];

/// The one layout that the kernels of this build read, if there is but one, as in firmware: what belongs to others is
/// then left out of the program.
pub(crate) const ONLY_LAYOUT: Option<Layout> = {
    let first = BACKENDS[0].layout;
    let (mut same, mut i) = (true, 1);
    while i < BACKENDS.len() {
        same = same && BACKENDS[i].layout as u8 == first as u8;
        i += 1;
    }
    if same { Some(first) } else { None }
};

/// The fastest backend for `layout` that this machine can run.
pub fn best(layout: Layout) -> Option<&'static Backend> {
    BACKENDS.iter().rev().find(|b| b.layout == layout && b.isa.available() && (b.pays)())
}

/// Scratch bytes of convolutions over [`Layout::Ohwi`]: the windows of three pixels, which the Helium kernels gather; the
/// portable kernel gathers one.
pub fn ohwi_scratch_len(shape: &ConvShape) -> usize {
    3 * shape.taps()
}

/// Name of the kernel that computes `conv` for `backend`: not its own for groups in layouts whose kernels hand them to the
/// portable one, and where Winograd's algorithm is faster.
pub fn conv_name(backend: &Backend, conv: &Conv) -> &'static str {
    let path = path::Path::of_conv(backend.isa, conv);
    match backend.layout {
        Layout::Ohwi if conv.shape.groups > 1 => scalar::OHWI.conv.name,
        Layout::K4N2 if conv.shape.groups > 1 => scalar::K4N2.conv.name,
        Layout::K8N4 if path == path::Path::Portable => scalar::K8N4.conv.name,
        Layout::K8N16 if path == path::Path::Winograd => k8n16::winograd::NAME,
        _ => backend.conv.name,
    }
}

/// Channels of the parameter arrays, padding included.
pub fn padded_channels(shape: &ConvShape, layout: Layout) -> usize {
    match layout.known() {
        Layout::Ohwi => usize::from(shape.out_c),
        Layout::K8N16 => k8n16::padded_channels(shape),
        Layout::K4N2 => k4n2::padded_channels(shape.out_c),
        Layout::K8N4 => k8n4::channels(shape.out_c),
    }
}

/// Where the parameters of output channel `c` are in arrays of [`padded_channels`].
pub fn param_at(shape: &ConvShape, layout: Layout, c: usize) -> usize {
    match layout.known() {
        Layout::Ohwi | Layout::K4N2 | Layout::K8N4 => c,
        Layout::K8N16 => k8n16::param_at(shape, c),
    }
}

/// Bytes of the parameter arrays of a convolution.
pub fn params_len(shape: &ConvShape, layout: Layout) -> usize {
    9 * padded_channels(shape, layout)
}

/// Bytes of the packed weights of a convolution.
pub fn weights_len(shape: &ConvShape, layout: Layout) -> usize {
    match layout.known() {
        Layout::Ohwi => usize::from(shape.out_c) * shape.taps(),
        Layout::K8N16 => k8n16::weights_len(shape),
        Layout::K4N2 => k4n2::weights_len(shape),
        Layout::K8N4 => k8n4::weights_len(shape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the backends for an instruction set one pays on every machine, so that choosing never falls back to an older set.
    #[test]
    fn every_instruction_set_has_a_backend_that_pays() {
        for backend in BACKENDS.iter().filter(|b| b.isa.available()) {
            let (layout, isa) = (backend.layout, backend.isa);
            assert!(BACKENDS.iter().any(|b| b.layout == layout && b.isa == isa && (b.pays)()), "{}", isa.name());
            let newest = BACKENDS.iter().rev().find(|b| b.layout == layout && b.isa.available());
            assert_eq!(best(layout).map(|b| b.isa), newest.map(|b| b.isa), "{}", layout.name());
        }
    }
}
