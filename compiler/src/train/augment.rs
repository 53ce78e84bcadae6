//! What happens to training images before the network sees them: the recipes of the authors' data loaders.
//!
//! Pixels stay `u8`, as they do in torchvision on Pillow images, whose arithmetic this follows. All randomness of an
//! image comes from the generator that is handed in.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use ride_calibrate::data::DataSet;
use ride_calibrate::preprocess::{InputSize, Preprocess};
use ride_calibrate::raster::Image;
use ride_calibrate::sampling::SplitMix64;
use serde::{Deserialize, Serialize};

/// Zero pixels around an image before it is cropped.
const PADDING: usize = 4;
/// Largest rotation to either side, in degrees.
const DEGREES: f64 = 15.0;
/// Share of an image's area that a random crop takes.
const AREA: (f64, f64) = (0.08, 1.0);
/// Width of a random crop divided by its height.
const ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// Crops that are drawn before the central one is taken.
const ATTEMPTS: usize = 10;
/// How far brightness, contrast and saturation go from 1.
const JITTER: f64 = 0.4;

/// How images are varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recipe {
    /// Not at all: as in evaluation.
    None,
    /// CIFAR: a crop of the image with 4 zero pixels around it, a flip, a rotation by at most 15 degrees.
    Cifar,
    /// ImageNet-LT and Places-LT: a crop of random area and aspect, a flip, jitter of brightness, contrast and
    /// saturation.
    ImageNet,
    /// iNaturalist: as for ImageNet-LT, without the jitter.
    INaturalist,
}

impl Recipe {
    /// Every recipe with the name that `--augment` takes.
    pub const ALL: [(Recipe, &'static str); 4] = [
        (Recipe::None, "none"),
        (Recipe::Cifar, "cifar"),
        (Recipe::ImageNet, "imagenet"),
        (Recipe::INaturalist, "inaturalist"),
    ];

    /// What the authors do with a data loader of this type; for others, what suits the images: random areas of those
    /// that are resized, shifts and small rotations of those that are not.
    pub fn of_loader(kind: Option<&str>, preprocess: &Preprocess) -> Self {
        let kind = kind.unwrap_or_default().to_ascii_lowercase();
        match () {
            () if kind.contains("cifar") => Recipe::Cifar,
            () if kind.contains("inat") => Recipe::INaturalist,
            () if kind.contains("imagenet") || kind.contains("places") => Recipe::ImageNet,
            () if preprocess.resize_short.is_some() => Recipe::ImageNet,
            () => Recipe::Cifar,
        }
    }

    /// One training example of image `index`: `height * width * 3` bytes, HWC.
    ///
    /// # Errors
    /// Names the image if it cannot be read.
    pub fn example(self, data: &DataSet, index: usize, random: &mut SplitMix64) -> Result<Vec<u8>> {
        let varied = self.varied(data, index, random);
        varied.with_context(|| format!("cannot train with {}", data.record_name(index)))
    }

    fn varied(self, data: &DataSet, index: usize, random: &mut SplitMix64) -> Result<Vec<u8>> {
        let InputSize { height, width, .. } = data.preprocess().input;
        match self {
            Recipe::None => Ok(data.pixels(index)?.into_owned()),
            Recipe::Cifar => {
                let image = Image::new(height, width, 3, data.pixels(index)?.into_owned())?;
                let mut image = shifted(&image, random.below(2 * PADDING + 1), random.below(2 * PADDING + 1))?;
                if flips(random) {
                    image = flipped(&image)?;
                }
                Ok(rotated(&image, random.between(-DEGREES, DEGREES))?.pixels().to_vec())
            }
            Recipe::ImageNet | Recipe::INaturalist => {
                let image = data.image(index)?.into_rgb();
                let area = Area::draw(image.height(), image.width(), random);
                let mut image = image.crop(area.top, area.left, area.height, area.width)?.resized(height, width)?;
                if flips(random) {
                    image = flipped(&image)?;
                }
                if self == Recipe::ImageNet {
                    image = jittered(image, random)?;
                }
                Ok(image.pixels().to_vec())
            }
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Self::ALL.iter().find(|(recipe, _)| recipe == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for Recipe {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(recipe, _)| *recipe).with_context(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(_, name)| *name).collect();
            format!("there is no augmentation {text:?}; --augment takes one of {}", names.join(", "))
        })
    }
}

/// Every second image, on average.
fn flips(random: &mut SplitMix64) -> bool {
    random.below(2) == 1
}

/// The window of the image's size at row `top` and column `left` of the image with [`PADDING`] zeros around it.
fn shifted(image: &Image, top: usize, left: usize) -> Result<Image> {
    let (height, width) = (image.height(), image.width());
    warped(image, |y, x| {
        let (y, x) = ((y + top).checked_sub(PADDING)?, (x + left).checked_sub(PADDING)?);
        (y < height && x < width).then_some((y, x))
    })
}

/// Left and right exchanged.
fn flipped(image: &Image) -> Result<Image> {
    let width = image.width();
    warped(image, |y, x| Some((y, width - 1 - x)))
}

/// Rotated counter-clockwise around the centre: the nearest pixel, black where there is none.
///
/// As Pillow has it, positions are computed in 16.16 fixed point, so that rows accumulate its rounding.
fn rotated(image: &Image, degrees: f64) -> Result<Image> {
    let fixed = |value: f64| (value * 65_536.0 + 0.5).floor() as i64;
    let (sin, cos) = (-degrees.to_radians()).sin_cos();
    let (centre_x, centre_y) = (image.width() as f64 / 2.0, image.height() as f64 / 2.0);
    // (x, y) of the result comes from (cos x + sin y + shift_x, -sin x + cos y + shift_y) of the source.
    let shift_x = -centre_x * cos - centre_y * sin + centre_x;
    let shift_y = centre_x * sin - centre_y * cos + centre_y;
    // Positions are those of pixel centres.
    let first_x = fixed(shift_x + cos * 0.5 + sin * 0.5);
    let first_y = fixed(shift_y - sin * 0.5 + cos * 0.5);
    let (cos, sin) = (fixed(cos), (fixed(sin), fixed(-sin)));
    warped(image, |y, x| {
        let (x, y) = (x as i64, y as i64);
        let from = |position: i64, side: usize| usize::try_from(position >> 16).ok().filter(|&at| at < side);
        Some((
            from(first_y + sin.1 * x + cos * y, image.height())?,
            from(first_x + cos * x + sin.0 * y, image.width())?,
        ))
    })
}

/// An image of the same size whose pixel `(y, x)` is the source's pixel that `from` names, black where it names none.
fn warped(image: &Image, from: impl Fn(usize, usize) -> Option<(usize, usize)>) -> Result<Image> {
    let (height, width, channels) = (image.height(), image.width(), image.channels());
    let mut pixels = vec![0; height * width * channels];
    for (at, pixel) in pixels.chunks_exact_mut(channels).enumerate() {
        if let Some((y, x)) = from(at / width, at % width) {
            pixel.copy_from_slice(&image.pixels()[(y * width + x) * channels..][..channels]);
        }
    }
    Image::new(height, width, channels, pixels)
}

/// A rectangle of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Area {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Area {
    /// As torchvision's `RandomResizedCrop` draws it: a share of the area and an aspect whose logarithm is uniform; the
    /// central rectangle nearest to the possible aspects if none of [`ATTEMPTS`] fits.
    fn draw(height: usize, width: usize, random: &mut SplitMix64) -> Self {
        for _ in 0..ATTEMPTS {
            let area = (height * width) as f64 * random.between(AREA.0, AREA.1);
            let aspect = random.between(ASPECT.0.ln(), ASPECT.1.ln()).exp();
            let (w, h) = ((area * aspect).sqrt().round() as usize, (area / aspect).sqrt().round() as usize);
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let (top, left) = (random.below(height - h + 1), random.below(width - w + 1));
                return Self { top, left, height: h, width: w };
            }
        }
        let aspect = width as f64 / height as f64;
        let h = if aspect < ASPECT.0 { (width as f64 / ASPECT.0).round() as usize } else { height };
        let w = if aspect > ASPECT.1 { (height as f64 * ASPECT.1).round() as usize } else { width };
        let (h, w) = (h.clamp(1, height), w.clamp(1, width));
        Self { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
    }
}

/// Brightness, contrast and saturation in random order, each by a random factor.
fn jittered(mut image: Image, random: &mut SplitMix64) -> Result<Image> {
    let mut order = [Enhance::Brightness, Enhance::Contrast, Enhance::Saturation];
    random.shuffle(&mut order);
    for enhance in order {
        image = enhance.apply(&image, random.between(1.0 - JITTER, 1.0 + JITTER))?;
    }
    Ok(image)
}

/// One property of an image's colours.
#[derive(Clone, Copy, Debug)]
enum Enhance {
    Brightness,
    Contrast,
    Saturation,
}

impl Enhance {
    /// Away from the picture without this property (black, grey, colourless) by `factor`; 1 changes nothing.
    fn apply(self, image: &Image, factor: f64) -> Result<Image> {
        ensure!(image.channels() == 3, "only colour pictures have brightness, contrast and saturation");
        let mean = match self {
            Enhance::Contrast => mean_grey(image),
            _ => 0,
        };
        let mut pixels = image.pixels().to_vec();
        for pixel in pixels.chunks_exact_mut(3) {
            let base = match self {
                Enhance::Brightness => 0,
                Enhance::Contrast => mean,
                Enhance::Saturation => grey(pixel),
            };
            pixel.iter_mut().for_each(|value| *value = blend(base, *value, factor as f32));
        }
        Image::new(image.height(), image.width(), 3, pixels)
    }
}

/// `base + factor (value - base)` in single precision, cut off to 0..=255 and downwards to a whole number.
fn blend(base: u8, value: u8, factor: f32) -> u8 {
    // `as` saturates and truncates.
    (f32::from(base) + factor * (f32::from(value) - f32::from(base))) as u8
}

/// Luma by ITU-R BT.601 in 16 fractional bits.
fn grey(pixel: &[u8]) -> u8 {
    let [r, g, b] = [0, 1, 2].map(|c| u32::from(pixel[c]));
    ((19_595 * r + 38_470 * g + 7_471 * b + (1 << 15)) >> 16) as u8
}

/// Mean luma, rounded.
fn mean_grey(image: &Image) -> u8 {
    let sum: u64 = image.pixels().chunks_exact(3).map(|pixel| u64::from(grey(pixel))).sum();
    (sum as f64 / (image.height() * image.width()) as f64 + 0.5) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic noise that any language can repeat; `tests/data/train/augment.py` does.
    fn picture(height: usize, width: usize) -> Image {
        let mut state = 12_345u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        Image::new(height, width, 3, (0..height * width * 3).map(|_| next()).collect()).unwrap()
    }

    /// Hash of Fowler, Noll and Vo, 64 bits, variant 1a.
    fn hash(image: &Image) -> u64 {
        let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        image.pixels().iter().fold(0xCBF2_9CE4_8422_2325, step)
    }

    #[test]
    fn rotations_equal_those_of_pillow() {
        for (height, width, angle, expected) in [
            (32, 32, 7.25, 0xaebc_867d_cd58_c0c1),
            (32, 32, -15.0, 0xda46_451b_48d6_c34f),
            (31, 40, 14.9, 0x712f_892f_2c71_109c),
            (1, 5, 3.0, 0x2bc3_682b_bac0_9cff),
            (64, 48, -0.4, 0x6b82_98e4_72a6_4c0d),
        ] {
            let image = rotated(&picture(height, width), angle).unwrap();
            assert_eq!(hash(&image), expected, "{height} x {width} by {angle}");
        }
    }

    #[test]
    fn colours_equal_those_of_pillow() {
        let factors = [0.6, 0.87, 1.0, 1.25, 1.4];
        let same = 0x9f3b_53a0_9663_f8be;
        let brightness =
            [0x0e90_407b_7290_51fd, 0xf05a_3641_ab82_4e54, same, 0xb400_f1b5_49f6_d0ba, 0x7786_8852_88d7_9432];
        let contrast =
            [0x4626_97ff_fc46_abb2, 0xc3f4_317a_0af9_c01b, same, 0x9ed0_0cae_0a86_2f7f, 0x37c3_3b80_0804_0b79];
        let saturation =
            [0x074a_4969_ac94_f505, 0x66be_88c6_103a_d110, same, 0xfc32_ccdf_2039_e864, 0xc5a3_8093_1259_177b];
        for (enhance, expected) in
            [(Enhance::Brightness, brightness), (Enhance::Contrast, contrast), (Enhance::Saturation, saturation)]
        {
            for (factor, expected) in factors.into_iter().zip(expected) {
                let image = enhance.apply(&picture(29, 37), factor).unwrap();
                assert_eq!(hash(&image), expected, "{enhance:?} {factor}");
            }
        }
    }

    #[test]
    fn shifts_and_flips_move_every_pixel() {
        let image = picture(5, 6);
        assert_eq!(shifted(&image, PADDING, PADDING).unwrap(), image);
        assert_eq!(flipped(&flipped(&image).unwrap()).unwrap(), image);
        let moved = shifted(&image, PADDING + 2, PADDING - 1).unwrap();
        for (y, x) in (0..5).flat_map(|y| (0..6).map(move |x| (y, x))) {
            let expected =
                if y + 2 < 5 && x >= 1 { &image.pixels()[((y + 2) * 6 + x - 1) * 3..][..3] } else { &[0; 3] };
            assert_eq!(&moved.pixels()[(y * 6 + x) * 3..][..3], expected, "{y} {x}");
            let mirrored = &flipped(&image).unwrap().pixels()[(y * 6 + x) * 3..][..3]
                == &image.pixels()[(y * 6 + 5 - x) * 3..][..3];
            assert!(mirrored, "{y} {x}");
        }
    }

    #[test]
    fn areas_lie_inside_and_vary() {
        let mut random = SplitMix64::new(3);
        for (height, width) in [(375, 500), (1, 1), (2, 900), (900, 3), (7, 8)] {
            let areas: Vec<_> = (0..500).map(|_| Area::draw(height, width, &mut random)).collect();
            for Area { top, left, height: h, width: w } in &areas {
                assert!(*h > 0 && *w > 0 && top + h <= height && left + w <= width, "{height} x {width}");
            }
        }
        let areas: Vec<_> = (0..4000).map(|_| Area::draw(375, 500, &mut random)).collect();
        let share = |area: &Area| (area.height * area.width) as f64 / (375.0 * 500.0);
        let mean = areas.iter().map(share).sum::<f64>() / 4000.0;
        // Uniform between 0.08 and 1, except that the largest ones often do not fit and are drawn again.
        assert!((0.42..0.56).contains(&mean), "{mean}");
        assert!(areas.iter().any(|area| share(area) < 0.1) && areas.iter().any(|area| share(area) > 0.9));
        let aspect = |area: &Area| area.width as f64 / area.height as f64;
        assert!(areas.iter().all(|area| (0.72..1.38).contains(&aspect(area))));
    }

    #[test]
    fn recipes_are_found_by_loader() {
        let preprocess = |resize_short| Preprocess {
            input: InputSize { height: 32, width: 32, channels: 3 },
            mean: vec![0.5; 3],
            std: vec![0.5; 3],
            resize_short,
        };
        for (kind, resize, expected) in [
            (Some("ImbalanceCIFAR100DataLoader"), None, Recipe::Cifar),
            (Some("ImageNetLTDataLoader"), Some(36), Recipe::ImageNet),
            (Some("iNaturalistDataLoader"), Some(36), Recipe::INaturalist),
            (Some("Mine"), Some(36), Recipe::ImageNet),
            (None, None, Recipe::Cifar),
        ] {
            assert_eq!(Recipe::of_loader(kind, &preprocess(resize)), expected);
        }
        for (recipe, name) in Recipe::ALL {
            assert_eq!(name.parse::<Recipe>().unwrap(), recipe);
            assert_eq!(recipe.to_string(), name);
        }
        assert!("mixup".parse::<Recipe>().unwrap_err().to_string().contains("inaturalist"));
    }
}
