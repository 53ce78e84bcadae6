//! Which tiles compute a row.

use super::ring::border_steps;
use super::simd::Simd;
use super::tile::{Kind, Place, Width};
use crate::kernels::k8n16;
use crate::op::ConvShape;
use core::mem::MaybeUninit;
use core::ptr;

/// What places depend on.
pub(super) struct Geometry<'a> {
    pub(super) shape: &'a ConvShape,
    pub(super) out_w: usize,
    /// Bytes from a pixel's window to the next one's.
    pub(super) distance: usize,
    /// Bytes from an output pixel to the next one.
    pub(super) out_pixel: usize,
    /// Steps of a window row, half ones included.
    pub(super) row_steps: usize,
    /// Whether steps that only read the border can be left out.
    pub(super) skip_columns: bool,
}

/// Tiles of pixels `from..to` of a row: the same ones for every row, so that they are usually worked out once.
pub(super) struct Plan {
    kind: *const Kind,
    from: usize,
    to: usize,
    /// `count` of them have been written.
    places: [MaybeUninit<Place>; 20],
    count: usize,
}

impl Plan {
    pub(super) fn new() -> Self {
        Plan { kind: ptr::null(), from: 0, to: 0, places: [const { MaybeUninit::uninit() }; 20], count: 0 }
    }

    /// Tiles of a row from column `from` on, and where they end.
    #[inline(always)]
    pub(super) fn tiles<'a>(
        &mut self,
        from: usize,
        kind: &'static Kind,
        geometry: impl Fn() -> Geometry<'a>,
    ) -> (&[Place], usize) {
        if !(self.from == from && self.count > 0 && ptr::eq(self.kind, kind)) {
            self.fill(&geometry(), kind, from);
        }
        let places: *const [MaybeUninit<Place>] = &self.places[..self.count];
        // SAFETY: `fill` has written so many, and they have the layout of `Place`.
        (unsafe { &*(places as *const [Place]) }, self.to)
    }

    #[cold]
    fn fill(&mut self, row: &Geometry<'_>, kind: &'static Kind, from: usize) {
        (self.kind, self.from, self.to, self.count) = (kind, from, from, 0);
        for place in &mut self.places {
            let left = row.out_w - self.to;
            if left == 0 {
                return;
            }
            let width = pick(kind.widths, left);
            let place = place.write(Place {
                run: width.run,
                start: self.to * row.distance,
                steps: if row.skip_columns && width.pixels <= left {
                    border_steps(row.shape, self.to, width.pixels)
                } else {
                    [0, row.row_steps - k8n16::half_steps(row.shape), 0]
                },
                at: self.to * row.out_pixel,
                pixels: width.pixels.min(left),
            });
            self.to += place.pixels;
            self.count += 1;
        }
    }
}

/// What kinds of tiles suit a layer.
#[derive(Clone, Copy)]
pub(super) struct Taste {
    /// Results are stored often enough for whole cache lines to pay, as those of 1x1 convolutions; otherwise it matters more
    /// that weights serve many pixels.
    pub(super) lines: bool,
    /// Weights are so many that they come from afar.
    pub(super) fetch: bool,
    /// A single block of channels takes [`super::pairs`].
    pub(super) pairs: bool,
}

/// Bytes of weights that are not read from the first caches.
const FAR: usize = 96 << 10;

impl Taste {
    /// What suits a shape with so many bytes of weights on a backend that takes pairs or does not: they are for one block, whose
    /// inputs no other would share, and have no half steps.
    #[inline(always)]
    pub(super) fn of(shape: &ConvShape, weights: usize, pairs: bool) -> Self {
        let single = k8n16::Blocks::of(shape.out_c).full == 1 && k8n16::half_steps(shape) == 0;
        Taste { lines: shape.kernel == 1, fetch: weights >= FAR, pairs: pairs && single }
    }
}

/// The kind of tile for the blocks after the first `done` ones.
pub(super) fn next_kind<S: Simd>(blocks: k8n16::Blocks, done: usize, taste: Taste) -> Option<&'static Kind> {
    let left = blocks.full - done;
    let good = |k: &&Kind| match (k.tail, k.blocks) {
        _ if k.pairs && !taste.pairs => false,
        (true, n) => blocks.tail && n == left,
        (false, 4) => taste.lines && left > 0 && left.is_multiple_of(4),
        // Two tiles of two blocks are faster than three and one.
        (false, 3) => left >= 3 && (left != 4 || blocks.tail) && (taste.fetch || !k.fetch),
        (false, n) => (1..=left).contains(&n),
    };
    S::KINDS.iter().find(good)
}

/// The tile for the next of `left` pixels: the widest one such that others fill what it leaves exactly; if there is
/// none, the widest one that leaves enough for another tile.
pub(super) fn pick(widths: &'static [Width], left: usize) -> &'static Width {
    let (widest, least) = (&widths[0], &widths[widths.len() - 1]);
    if left > 4 * widest.pixels {
        // Whatever can be filled at all can be filled with this one first.
        return widest;
    }
    let good = |w: &&Width| w.pixels <= left && (w.pixels == left || w.pixels + least.pixels <= left);
    let exact = widths.iter().find(|w| w.pixels <= left && fills(widths, left - w.pixels));
    exact.or_else(|| widths.iter().find(good)).or_else(|| widths.iter().find(|w| w.pixels <= left)).unwrap_or(least)
}

/// Whether the tiles that [`pick`] chooses, one after the other, end exactly where a row of `pixels` does.
pub(super) fn picks_fill(widths: &[Width], pixels: usize) -> bool {
    // It takes the widest one until few pixels are left, and those exactly if that is possible at all.
    let widest = widths[0].pixels;
    let first = pixels.saturating_sub(4 * widest).div_ceil(widest);
    fills(widths, pixels - first * widest)
}

/// Whether tiles can fill `pixels` exactly.
fn fills(widths: &[Width], pixels: usize) -> bool {
    if widths.iter().any(|w| pixels.is_multiple_of(w.pixels)) {
        return true;
    }
    // Bit n: n pixels can be filled, of at most four of the widest tiles' (see `pick`).
    let mut filled = 1u128;
    debug_assert!(pixels < 128);
    for n in 0..pixels {
        if filled >> n & 1 > 0 {
            for width in widths.iter().filter(|w| n + w.pixels <= pixels) {
                filled |= 1 << (n + width.pixels);
            }
        }
    }
    filled >> pixels & 1 > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::x86::avx512::Avx512;

    const fn width(pixels: usize) -> Width {
        Width { pixels, run: |_| () }
    }

    #[test]
    fn pairs_are_for_single_blocks() {
        for out_c in [1, 8, 9, 16, 17, 24, 25, 32, 40, 48, 64, 192, 1000] {
            for (in_c, pairs) in [(16, true), (16, false), (3, true)] {
                let shape = ConvShape { in_h: 8, in_w: 8, in_c, out_c, kernel: 3, stride: 1, padding: 1, groups: 1 };
                let taste = Taste::of(&shape, 0, pairs);
                let kind = next_kind::<Avx512>(k8n16::Blocks::of(out_c), 0, taste).expect("a kind");
                // The last step of a window row of three channels is half a one.
                let expected = pairs && in_c == 16 && (9..=24).contains(&out_c);
                assert_eq!(kind.pairs, expected, "{in_c} -> {out_c}");
            }
        }
    }

    #[test]
    fn rows_are_filled_as_tiles_are_picked() {
        const SETS: [&[Width]; 5] = [
            &[width(8), width(7), width(4)],
            &[width(6), width(5), width(4), width(3)],
            &[width(16), width(8), width(7), width(4)],
            &[width(6), width(4)],
            &[width(5)],
        ];
        for (set, widths) in SETS.into_iter().enumerate() {
            let mut filled = 0;
            for pixels in 1..300 {
                let mut left: usize = pixels;
                while let Some(rest) = left.checked_sub(pick(widths, left).pixels) {
                    left = rest;
                }
                assert_eq!(picks_fill(widths, pixels), left == 0, "{pixels} pixels, set {set}");
                filled += usize::from(left == 0);
            }
            assert!(filled > 50 && filled < 299, "set {set}: {filled}");
        }
    }
}
