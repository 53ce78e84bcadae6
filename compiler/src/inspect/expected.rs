//! How fast each convolution of an artifact should be on its target, and what runs slower than it might.
//!
//! The model behind `expected MAC/cycle`, for a layer of `M` multiply-accumulates and `V` output values:
//!
//! ```text
//! cycles = M / (rate × fill) + V × store        expected = M / cycles
//! ```
//!
//! * `rate`: multiply-accumulates a cycle that the kernel's inner loop reaches when its tiles are full;
//! * `fill`: the layer's share of what the tiles compute, the rest being padding: output channels to blocks, inputs to
//!   steps, pixels of a row to tiles, groups to blocks without groups;
//! * `store`: cycles to requantize and store a value, more of a wide one and of one that is added to the residual.
//!
//! Layers that AVX-512 computes by Winograd's algorithm have a model of their own, which also decides which ones those are
//! ([`Plan::that_pays`]); they reach more than the 64 a cycle that are the processor's own.
//!
//! The figures for x86-64 are fitted to `cargo run --release -p ride-runtime --features std --example layers -- NAME imagenet`
//! on one core of a Zen 4 (peak of 64 a cycle with AVX-512 VNNI): most layers there are within a fifth of them, and they
//! know nothing of caches, nor of borders of zeros that are skipped. A target whose data file has a latency model gives its
//! own rate, in which storing is included: it was counted under emulation on the layers of a whole network. Rates of
//! instruction sets without either are those of their slowest core that has one.

use ride_runtime::Model;
use ride_runtime::kernels::k8n16::winograd::Plan;
use ride_runtime::kernels::path::Path;
use ride_runtime::kernels::{self, Isa, k4n2, k8n4, k8n16};
use ride_runtime::op::{Conv, ConvShape, Layout};
use ride_targets::Target;

/// Cycles and multiply-accumulates of an instruction set's kernels.
#[derive(Clone, Copy, Debug)]
struct Speed {
    /// Multiply-accumulates a cycle of full tiles.
    rate: f64,
    /// Those of the kernel for groups.
    grouped: f64,
    /// Those of the depthwise kernel for strides of 1 and 2.
    depthwise: [f64; 2],
    /// Those of a part of a block-diagonal layer, zeros included.
    block_diagonal: f64,
    /// Those of portable code on this layout.
    portable: f64,
    /// Cycles of an output value: narrow, wide, wide and added to the residual.
    store: [f64; 3],
    /// Pixels that tiles can have, widest first.
    widths: &'static [usize],
}

/// Kernels without ways of their own for groups.
const fn plain(rate: f64, portable: f64, widths: &'static [usize]) -> Speed {
    Speed { rate, grouped: 0.0, depthwise: [0.0; 2], block_diagonal: 0.0, portable, store: [0.0; 3], widths }
}

/// 64-bit Arm: groups take some 5.5 vector instructions for 8 products, on cores that start about one or two a cycle.
const fn arm(rate: f64, groups: f64) -> Speed {
    Speed { grouped: groups, depthwise: [groups; 2], ..plain(rate, 0.1, &[8, 4, 2]) }
}

/// The table of the model above.
fn speed(isa: Isa) -> Speed {
    match isa {
        Isa::Scalar => plain(0.5, 0.5, &[1]),
        Isa::Dsp => plain(0.71, 0.24, &[3, 1]),
        Isa::Mve => plain(3.0, 0.5, &[3, 1]),
        Isa::Neon => arm(5.3, 1.2),
        Isa::Dotprod => arm(18.5, 2.0),
        Isa::I8mm => arm(29.0, 2.0),
        Isa::Avx2 => Speed {
            rate: 20.0,
            grouped: 12.0,
            depthwise: [8.3, 5.0],
            block_diagonal: 10.0,
            portable: 0.26,
            store: [0.6, 0.7, 0.75],
            widths: &[4, 2],
        },
        Isa::AvxVnni => Speed {
            rate: 60.0,
            grouped: 32.0,
            depthwise: [12.0, 8.0],
            block_diagonal: 18.0,
            portable: 0.26,
            store: [0.5, 0.75, 0.85],
            widths: &[6, 4],
        },
        Isa::Avx512Vnni => Speed {
            rate: 60.0,
            grouped: 48.0,
            depthwise: [12.0, 8.0],
            block_diagonal: 18.0,
            portable: 0.26,
            store: [0.2, 0.35, 0.38],
            widths: &[16, 8, 7, 4],
        },
    }
}

/// What runs an artifact on its target.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The instruction set.
    pub(crate) isa: Isa,
    /// How that is known.
    pub(crate) basis: String,
    layout: Layout,
    speed: Speed,
    /// What part of the kernels' speed the target's latency model leaves.
    share: f64,
    /// Whether the target's data file says that there is nothing better than portable code.
    settled: bool,
}

impl Machine {
    /// The machine that `model` was built for.
    pub(crate) fn of(model: Model<'_>) -> Self {
        // A target file of the user's own is not at hand any more: its layout still is.
        let target = ride_targets::find(model.target()).ok();
        Self::new(target.as_ref(), model.layout())
    }

    fn new(target: Option<&Target>, layout: Layout) -> Self {
        let here = kernels::best(layout).map(|b| b.isa).filter(|&isa| isa != Isa::Scalar);
        let named = target.and_then(Target::isa);
        let (isa, basis) = match (named, here) {
            (Some(isa), _) => (isa, "the target's"),
            (None, Some(isa)) => (isa, "the best that this machine has"),
            (None, None) => (Isa::least(layout), "the least that the weights' layout asks for"),
        };
        let (mut speed, mut share) = (speed(isa), 1.0);
        let mut basis = format!("{} ({basis})", isa.name());
        if let Some(latency) = target.and_then(Target::latency) {
            // An average over whole networks: what is slower than that stays as much slower.
            share = 1.0 / latency.cycles_per_mac / speed.rate;
            (speed.rate, speed.portable, speed.store) = (speed.rate * share, speed.portable * share, [0.0; 3]);
            basis += &format!(", {} cycles a MAC by the target's latency model", latency.cycles_per_mac);
        }
        Machine { isa, basis, layout, speed, share, settled: named == Some(Isa::Scalar) }
    }

    /// Multiply-accumulates a cycle to be expected of a convolution.
    pub(crate) fn expected(&self, conv: &Conv) -> f64 {
        let (shape, speed) = (&conv.shape, &self.speed);
        let macs = shape.macs() as f64;
        let filled = |rate: f64| executed(self.layout, speed.widths, shape) / rate;
        // What their blocks of 16 channels and their steps waste is little.
        let direct = |rate: f64| macs / rate;
        let narrow = shape.output_len() as f64 * speed.store[0];
        let multiplying = match Path::of_conv(self.isa, conv) {
            Path::Vector => filled(speed.rate),
            // With narrow outputs, which come on top below.
            Path::Winograd => Plan::that_pays(shape)
                .map_or(filled(speed.rate), |plan| plan.cycles(shape) as f64 / self.share - narrow),
            Path::Grouped => direct(speed.grouped),
            Path::Depthwise => direct(speed.depthwise[usize::from(shape.stride > 1)]),
            Path::BlockDiagonal { .. } => filled(speed.block_diagonal),
            Path::Portable => direct(speed.portable),
        };
        let store = match (conv.out.lo.is_some(), conv.accumulate) {
            (false, _) => speed.store[0],
            (true, false) => speed.store[1],
            (true, true) => speed.store[2],
        };
        macs / (multiplying + shape.output_len() as f64 * store)
    }

    /// Why a convolution is slower than it might be, if it is.
    pub(crate) fn slow(&self, shape: &ConvShape) -> Option<String> {
        match Path::of(self.isa, shape) {
            Path::Vector | Path::Winograd | Path::Grouped | Path::Depthwise => None,
            Path::Portable if self.settled => None,
            Path::Portable if self.isa == Isa::Scalar => {
                Some("portable code: there are no vector kernels for this target".to_owned())
            }
            Path::Portable => {
                let what = if shape.group_in() == 1 { "depthwise layers" } else { "layers with groups" };
                Some(format!("portable code: the kernels for {} have none for {what}", self.isa.name()))
            }
            Path::BlockDiagonal { waste } => Some(format!(
                "block-diagonal: a kernel without groups, which multiplies {waste} times as much, most of it by zero"
            )),
        }
    }
}

/// Multiply-accumulates that tiles execute, padding included.
fn executed(layout: Layout, widths: &[usize], shape: &ConvShape) -> f64 {
    let pixels = pixels(widths, shape) as f64;
    let per_pixel = match layout {
        Layout::Ohwi => shape.taps() * usize::from(shape.out_c),
        Layout::K4N2 => k4n2::padded_taps(shape) * k4n2::padded_channels(shape.out_c),
        Layout::K8N4 => k8n4::STEP * k8n4::steps(shape) * k8n4::channels(shape.out_c),
        Layout::K8N16 => {
            let part = k8n16::Parts::of(shape);
            let halves = usize::from(shape.kernel) * k8n16::half_steps(&part.shape);
            let inputs = k8n16::STEP * k8n16::steps(&part.shape) - k8n16::STEP / 2 * halves;
            part.count * inputs * k8n16::Blocks::of(part.shape.out_c).channels()
        }
    };
    pixels * per_pixel as f64
}

/// Output pixels of a layer with what tiles compute beyond the ends of rows.
fn pixels(widths: &[usize], shape: &ConvShape) -> usize {
    let (rows, columns) = (shape.out_h(), shape.out_w());
    if shape.kernel == 1 && shape.stride == 1 && shape.padding == 0 {
        // Rows do not matter: they are joined to longer ones.
        return padded(widths, rows * columns);
    }
    rows * padded(widths, columns)
}

/// The fewest pixels that tiles of these widths can have and that are enough for `pixels`.
fn padded(widths: &[usize], pixels: usize) -> usize {
    let widest = widths.first().copied().unwrap_or(1);
    let whole = pixels.saturating_sub(4 * widest) / widest * widest;
    let rest = pixels - whole;
    // Which sums of widths there are, up to one tile more than what is left.
    let mut sums = vec![false; rest + widest + 1];
    sums[0] = true;
    for n in 0..sums.len() {
        if sums[n] {
            for width in widths.iter().filter(|&&width| n + width < rest + widest + 1) {
                sums[n + width] = true;
            }
        }
    }
    whole + (rest..sums.len()).find(|&n| sums[n]).unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ride_runtime::op::{Limits, Planes, Source, Span};

    fn conv(side: u16, (in_c, out_c, groups): (u16, u16, u16), (kernel, stride): (u8, u8), wide: bool) -> Conv {
        let nowhere = Span { at: 0, len: 0 };
        Conv {
            shape: ConvShape { in_h: side, in_w: side, in_c, out_c, kernel, stride, padding: kernel / 2, groups },
            source: Source::Arena(0),
            out: Planes { hi: 0, lo: wide.then_some(0) },
            accumulate: wide,
            raw: false,
            limits: Limits { zero: 0, min: 0, max: 0 },
            border: [0; 4],
            weights: nowhere,
            params: nowhere,
            layout: Layout::K8N16,
            acc_bits: 20,
        }
    }

    fn machine(target: &str) -> Machine {
        let target = ride_targets::find(target).unwrap();
        Machine::new(Some(&target), target.layout())
    }

    fn of(isa: Isa) -> Machine {
        Machine { isa, basis: String::new(), layout: Layout::K8N16, speed: speed(isa), share: 1.0, settled: false }
    }

    #[test]
    fn tiles_are_filled_by_what_there_is() {
        let widths = [16, 8, 7, 4];
        for (pixels, want) in [(1, 4), (4, 4), (5, 7), (7, 7), (9, 11), (14, 14), (13, 14), (28, 28), (224, 224)] {
            assert_eq!(padded(&widths, pixels), want, "{pixels}");
        }
        assert_eq!(padded(&[3, 1], 200), 200);
        assert_eq!(padded(&[4, 2], 7), 8);
    }

    /// Measured with the example that the module's documentation names, in MAC a cycle of 3.69 GHz.
    #[test]
    fn the_model_is_near_what_was_measured() {
        for (isa, conv, measured) in [
            (Isa::Avx512Vnni, conv(32, (16, 16, 1), (3, 1), false), 57.1),
            (Isa::Avx512Vnni, conv(56, (64, 256, 1), (1, 1), true), 41.9),
            (Isa::Avx512Vnni, conv(14, (768, 192, 1), (1, 1), false), 61.5),
            (Isa::Avx512Vnni, conv(56, (64, 64, 1), (3, 1), false), 97.0),
            (Isa::Avx512Vnni, conv(14, (192, 192, 1), (3, 1), false), 96.0),
            (Isa::Avx512Vnni, conv(14, (384, 384, 32), (3, 1), false), 46.5),
            (Isa::Avx512Vnni, conv(14, (384, 384, 384), (3, 1), false), 9.5),
            (Isa::Avx512Vnni, conv(112, (96, 96, 96), (3, 2), false), 6.9),
            (Isa::AvxVnni, conv(16, (24, 24, 1), (3, 1), false), 52.1),
            (Isa::AvxVnni, conv(14, (384, 384, 384), (3, 1), false), 7.2),
            (Isa::Avx2, conv(14, (768, 192, 1), (1, 1), false), 19.7),
            (Isa::Avx2, conv(14, (384, 384, 384), (3, 1), false), 5.3),
        ] {
            let expected = of(isa).expected(&conv);
            assert!((0.8..1.25).contains(&(expected / measured)), "{isa:?} {conv:?}: {expected} for {measured}");
        }
    }

    #[test]
    fn padding_costs_what_it_multiplies() {
        let machine = of(Isa::Avx512Vnni);
        // Of windows that Winograd's algorithm does not take.
        let at = |out_c| machine.expected(&conv(16, (64, out_c, 1), (5, 1), false));
        assert!(at(16) > 1.7 * at(9) && at(24) > 0.95 * at(16), "{} {} {}", at(9), at(16), at(24));
    }

    #[test]
    fn slow_ways_are_named() {
        let (dense, depthwise) =
            (conv(14, (64, 64, 1), (3, 1), false).shape, conv(14, (64, 64, 64), (5, 1), false).shape);
        let slow = |target: &str, shape: &ConvShape| machine(target).slow(shape).unwrap_or_default();
        for target in ["cortex-m4", "cortex-m55"] {
            assert_eq!(slow(target, &dense), "", "{target}");
            assert!(slow(target, &depthwise).contains("portable code"), "{target}");
        }
        for target in ["cortex-a53", "cortex-a76", "cortex-a710"] {
            assert_eq!(slow(target, &dense) + &slow(target, &depthwise), "", "{target} has kernels for both");
        }
        for target in ["cortex-m0plus", "cortex-m3"] {
            assert_eq!(slow(target, &dense) + &slow(target, &depthwise), "", "{target} has nothing better");
        }
        for target in ["armv7", "portable"] {
            assert!(slow(target, &dense).contains("no vector kernels"), "{target}");
        }
        assert!(of(Isa::Avx2).slow(&depthwise).unwrap().contains("8 times"));
    }

    /// What a latency model says of a whole network, an ordinary layer reaches.
    #[test]
    fn latency_models_give_the_rate() {
        let layer = conv(16, (48, 48, 1), (3, 1), false);
        for (target, rate) in [("cortex-m4", 1.0 / 1.4), ("cortex-a76", 1.0 / 0.054)] {
            let expected = machine(target).expected(&layer);
            assert!((0.8..1.01).contains(&(expected / rate)), "{target}: {expected}");
        }
    }
}
