//! From an image of any size to the raw `u8` pixels that the device is handed.
//!
//! Normalisation (`(pixel / 255 - mean) / std`) is part of the artifact, so the pixels stay untouched here; only the
//! size and the number of channels change. Everything is integer arithmetic: the same bytes on every machine.

use std::borrow::Cow;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::raster::{Image, View};
use crate::resample::{Resize, resize_window};

/// Largest height or width of a network input; far above any classifier, low enough that sizes cannot overflow.
const MAX_SIDE: usize = 16_384;

/// Height, width and channels of the network's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSize {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
}

impl InputSize {
    /// Bytes of one image, `height * width * channels`.
    pub fn bytes(self) -> usize {
        self.height * self.width * self.channels
    }
}

/// What is done to an image before the network sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    /// Size of the network's input; images are cropped to it at the centre.
    pub input: InputSize,
    /// Mean of each channel, in units of the pixel range 0..=1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, in units of the pixel range 0..=1.
    pub std: Vec<f32>,
    /// Length in pixels that the shorter side is resized to before the crop; `None` takes only images of the input's
    /// own size.
    pub resize_short: Option<usize>,
}

impl Preprocess {
    /// Checks the fields against each other.
    ///
    /// # Errors
    /// Names the field that is out of range: sides of 1..=16384, 1 or 3 channels, one finite mean and one positive
    /// finite deviation for each channel, a resize no shorter than the crop.
    pub fn validate(&self) -> Result<()> {
        let InputSize { height, width, channels } = self.input;
        ensure!(
            (1..=MAX_SIDE).contains(&height) && (1..=MAX_SIDE).contains(&width),
            "the input size {height} x {width} is out of range: sides of 1..={MAX_SIDE} pixels are possible"
        );
        ensure!(matches!(channels, 1 | 3), "the input has {channels} channels; images have 1 (grey) or 3 (RGB)");
        for (name, values) in [("mean", &self.mean), ("std", &self.std)] {
            ensure!(
                values.len() == channels && values.iter().all(|v| v.is_finite()),
                "the normalisation's {name} must be {channels} finite numbers, one for each channel, not {values:?}"
            );
        }
        ensure!(self.std.iter().all(|&s| s > 0.0), "the normalisation's std must be positive, not {:?}", self.std);
        if let Some(short) = self.resize_short {
            let side = height.max(width);
            ensure!(
                (side..=MAX_SIDE).contains(&short),
                "--resize {short} does not suit the input of {height} x {width}: the shorter side must be resized to \
                 {side}..={MAX_SIDE} pixels so that the crop fits in"
            );
        }
        Ok(())
    }

    /// The network's input bytes for `image`: exactly `height * width * channels` of them, HWC.
    ///
    /// An image that already has the input's height and width is not resized or cropped. Any other one is resized so
    /// that its shorter side has `resize_short` pixels (the longer side rounded down) and cropped at the centre, as
    /// `torchvision`'s `Resize` and `CenterCrop` do. Alpha is dropped; grey becomes RGB where three channels are asked
    /// for.
    ///
    /// # Errors
    /// If the size is another one and there is no `resize_short`, or if a grey input is asked for and the image is in
    /// colour, or if the settings themselves are out of range.
    pub fn apply(&self, image: &Image) -> Result<Vec<u8>> {
        self.apply_view(image.view()).map(Cow::into_owned)
    }

    /// [`Preprocess::apply`] without a copy where nothing has to be done.
    pub(crate) fn apply_view<'a>(&self, source: View<'a>) -> Result<Cow<'a, [u8]>> {
        self.validate()?;
        let same_size = (source.height, source.width) == (self.input.height, self.input.width);
        if !same_size && self.resize_short.is_none() {
            bail!(
                "the image has {} x {} pixels (height x width) but the model's input has {} x {}; pass --resize N to \
                 scale the shorter side to N pixels and crop the centre",
                source.height,
                source.width,
                self.input.height,
                self.input.width
            );
        }
        let pixels = self.channels(source)?;
        let Some(short) = self.resize_short.filter(|_| !same_size) else { return Ok(pixels) };
        let source = View { channels: self.input.channels, pixels: &pixels, ..source };
        Ok(Cow::Owned(resize_window(source, self.resize(source, short))))
    }

    /// The same picture in the input's number of channels.
    fn channels<'a>(&self, source: View<'a>) -> Result<Cow<'a, [u8]>> {
        match (source.channels, self.input.channels) {
            (from, to) if from == to => Ok(Cow::Borrowed(source.pixels)),
            (1, 3) => Ok(Cow::Owned(source.pixels.iter().flat_map(|&grey| [grey; 3]).collect())),
            (4, 3) => Ok(Cow::Owned(source.pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect())),
            (from, to) => bail!(
                "the image has {from} channels but the model's input has {to}; convert the image to {}",
                if to == 1 { "grey" } else { "RGB" }
            ),
        }
    }

    /// The size after `torchvision.transforms.Resize(short)` and the window of `CenterCrop` in it.
    fn resize(&self, source: View<'_>, short: usize) -> Resize {
        // 64-bit: the longer side of a strip of 64 M pixels times 16,384 needs 40 bits.
        let longer = |long: usize, other: usize| (short as u64 * long as u64 / other as u64) as usize;
        let (height, width) = if source.width <= source.height {
            (longer(source.height, source.width), short)
        } else {
            (short, longer(source.width, source.height))
        };
        Resize {
            height,
            width,
            top: centred(height, self.input.height),
            left: centred(width, self.input.width),
            window_height: self.input.height,
            window_width: self.input.width,
        }
    }
}

/// Start of a centred window: `round((size - window) / 2)` with halves to even, as Python's `round` in `CenterCrop`.
fn centred(size: usize, window: usize) -> usize {
    let free = size - window;
    let half = free / 2;
    if free % 2 == 1 { half + half % 2 } else { half }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cifar() -> Preprocess {
        let input = InputSize { height: 32, width: 32, channels: 3 };
        Preprocess { input, mean: vec![0.5; 3], std: vec![0.25; 3], resize_short: None }
    }

    fn gradient(height: usize, width: usize, channels: usize) -> Image {
        let pixels = (0..height * width * channels).map(|i| (i * 31 % 251) as u8).collect();
        Image::new(height, width, channels, pixels).unwrap()
    }

    #[test]
    fn the_right_size_passes_untouched() {
        let image = gradient(32, 32, 3);
        assert_eq!(cifar().apply(&image).unwrap(), image.pixels());
        assert_eq!(Preprocess { resize_short: Some(40), ..cifar() }.apply(&image).unwrap(), image.pixels());
    }

    #[test]
    fn another_size_needs_resize() {
        let error = cifar().apply(&gradient(48, 64, 3)).unwrap_err().to_string();
        for part in ["48 x 64", "32 x 32", "--resize"] {
            assert!(error.contains(part), "{error}");
        }
        for (height, width) in [(48, 64), (64, 48), (33, 32), (5, 900), (1, 1)] {
            let resized = Preprocess { resize_short: Some(36), ..cifar() }.apply(&gradient(height, width, 3)).unwrap();
            assert_eq!(resized.len(), 32 * 32 * 3, "{height} x {width}");
        }
    }

    #[test]
    fn grey_and_alpha_become_rgb() {
        let rgba = gradient(32, 32, 4);
        let rgb = cifar().apply(&rgba).unwrap();
        assert_eq!(rgb[3..6], rgba.pixels()[4..7]);
        let grey = gradient(32, 32, 1);
        let rgb = cifar().apply(&grey).unwrap();
        assert_eq!(rgb[30..33], [grey.pixels()[10]; 3]);
        let mut one = cifar();
        one.input.channels = 1;
        (one.mean, one.std) = (vec![0.5], vec![0.5]);
        assert_eq!(one.apply(&grey).unwrap(), grey.pixels());
        let error = one.apply(&gradient(32, 32, 3)).unwrap_err().to_string();
        assert!(error.contains("3 channels") && error.contains("grey"), "{error}");
    }

    #[test]
    fn settings_out_of_range_are_named() {
        type Spoil = fn(&mut Preprocess);
        let broken: [(Spoil, &str); 7] = [
            (|p| p.input.height = 0, "0 x 32"),
            (|p| p.input.channels = 4, "4 channels"),
            (|p| p.mean = vec![0.0], "mean"),
            (|p| p.std[1] = 0.0, "std"),
            (|p| p.std[1] = f32::NAN, "std"),
            (|p| p.resize_short = Some(31), "--resize 31"),
            (|p| p.resize_short = Some(usize::MAX), "--resize"),
        ];
        for (spoil, part) in broken {
            let mut preprocess = cifar();
            spoil(&mut preprocess);
            let error = preprocess.validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_crop_rounds_halves_to_even() {
        assert_eq!([35, 36, 37, 39].map(|size| centred(size, 32)), [2, 2, 2, 4]);
    }
}
