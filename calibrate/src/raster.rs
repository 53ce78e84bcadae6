//! One image as raw bytes, and how it is read from a PNG or JPEG file.

use std::io::{BufRead, Seek};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use image::{ColorType, DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::resample::{Resize, resize_window};

/// Most pixels an image may have; 64 M is beyond any camera and keeps a hostile header from asking for gigabytes.
pub const MAX_PIXELS: u64 = 64 * 1024 * 1024;

/// An 8-bit image, rows from top to bottom, channels interleaved (HWC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    height: usize,
    width: usize,
    channels: usize,
    pixels: Vec<u8>,
}

impl Image {
    /// An image from its parts: `pixels` holds `height * width * channels` bytes, HWC.
    ///
    /// # Errors
    /// If a side is zero, `channels` is not 1 (grey), 3 (RGB) or 4 (RGBA), or the number of bytes is another.
    pub fn new(height: usize, width: usize, channels: usize, pixels: Vec<u8>) -> Result<Self> {
        ensure!(matches!(channels, 1 | 3 | 4), "an image has 1 (grey), 3 (RGB) or 4 (RGBA) channels, not {channels}");
        ensure!(height > 0 && width > 0, "an image of {height} x {width} pixels has no content");
        let expected = height.checked_mul(width).and_then(|n| n.checked_mul(channels));
        ensure!(
            expected == Some(pixels.len()),
            "an image of {height} x {width} x {channels} does not fit {} bytes",
            pixels.len()
        );
        Ok(Self { height, width, channels, pixels })
    }

    /// Reads a PNG or JPEG file; the kind is told from the content, not from the name.
    ///
    /// Colour comes back as RGB or RGBA and grey as grey; 16-bit samples are reduced to 8, palettes expanded. A stored
    /// orientation (EXIF) is not applied, as in the usual training pipelines.
    ///
    /// # Errors
    /// Names the file where it cannot be read, is of another kind, is damaged or is larger than [`MAX_PIXELS`].
    pub fn open(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            // A pipe or a device would block or never end.
            ensure!(std::fs::metadata(path)?.is_file(), "this is not a regular file");
            let file = std::fs::File::open(path)?;
            Self::decode(std::io::BufReader::new(file))
        };
        read().with_context(|| format!("cannot read the image {}", path.display()))
    }

    /// Decodes a PNG or JPEG stream; see [`Image::open`].
    ///
    /// # Errors
    /// If the stream is of another kind, damaged, or larger than [`MAX_PIXELS`].
    pub fn decode(stream: impl BufRead + Seek) -> Result<Self> {
        let mut reader = ImageReader::new(stream).with_guessed_format()?;
        if reader.format().is_none() {
            bail!("neither PNG nor JPEG; convert it to one of these");
        }
        // Eight bytes a pixel is the widest sample that the decoders produce (16-bit RGBA).
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(MAX_PIXELS * 8);
        reader.limits(limits);
        let decoder = reader.into_decoder()?;
        let (width, height) = decoder.dimensions();
        ensure!(
            u64::from(width) * u64::from(height) <= MAX_PIXELS,
            "{height} x {width} pixels (height x width) are more than the limit of {MAX_PIXELS}"
        );
        Self::from_decoded(DynamicImage::from_decoder(decoder)?)
    }

    fn from_decoded(decoded: DynamicImage) -> Result<Self> {
        let (height, width) = (decoded.height() as usize, decoded.width() as usize);
        match decoded.color() {
            ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16 => {
                Self::new(height, width, 1, decoded.into_luma8().into_raw())
            }
            ColorType::Rgba8 | ColorType::Rgba16 => Self::new(height, width, 4, decoded.into_rgba8().into_raw()),
            _ => Self::new(height, width, 3, decoded.into_rgb8().into_raw()),
        }
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// 1 (grey), 3 (RGB) or 4 (RGBA).
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The bytes, HWC.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The same picture in three channels: alpha is dropped, grey repeated.
    #[must_use]
    pub fn into_rgb(self) -> Self {
        let pixels = match self.channels {
            1 => self.pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            4 => self.pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
            _ => return self,
        };
        Self { channels: 3, pixels, ..self }
    }

    /// The rectangle of `height` x `width` pixels from row `top` and column `left` on.
    ///
    /// # Errors
    /// If it is empty or reaches beyond the image.
    pub fn crop(&self, top: usize, left: usize, height: usize, width: usize) -> Result<Self> {
        let fits = |from: usize, n: usize, side: usize| from.checked_add(n).is_some_and(|end| end <= side);
        ensure!(
            fits(top, height, self.height) && fits(left, width, self.width),
            "a crop of {height} x {width} pixels at {top}, {left} does not fit an image of {} x {}",
            self.height,
            self.width
        );
        let row = |y: usize| &self.pixels[(y * self.width + left) * self.channels..][..width * self.channels];
        Self::new(height, width, self.channels, (top..top + height).flat_map(row).copied().collect())
    }

    /// The whole picture in another size: bilinear with antialiasing, as Pillow resizes.
    ///
    /// # Errors
    /// If a side is zero, or if the image has an alpha channel.
    pub fn resized(&self, height: usize, width: usize) -> Result<Self> {
        ensure!(self.channels != 4, "an image with an alpha channel cannot be resized");
        ensure!(height > 0 && width > 0, "an image of {height} x {width} pixels has no content");
        let whole = Resize { height, width, top: 0, left: 0, window_height: height, window_width: width };
        Self::new(height, width, self.channels, resize_window(self.view(), whole))
    }

    /// A view of the same pixels.
    pub(crate) fn view(&self) -> View<'_> {
        View { height: self.height, width: self.width, channels: self.channels, pixels: &self.pixels }
    }
}

/// Borrowed pixels of an image whose sizes are known to fit.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
    /// HWC, exactly `height * width * channels` bytes.
    pub(crate) pixels: &'a [u8],
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn png(decoded: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        decoded.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn rejects_pixels_of_another_size() {
        assert!(Image::new(2, 3, 3, vec![0; 18]).is_ok());
        assert!(Image::new(2, 3, 3, vec![0; 17]).is_err());
        assert!(Image::new(2, 3, 2, vec![0; 12]).is_err());
        assert!(Image::new(0, 3, 3, vec![]).is_err());
        assert!(Image::new(usize::MAX, usize::MAX, 3, vec![0; 3]).is_err());
    }

    #[test]
    fn crops_and_sizes() {
        let image = Image::new(2, 3, 1, (0..6).collect()).unwrap();
        assert_eq!(image.crop(1, 1, 1, 2).unwrap().pixels(), [4, 5]);
        assert_eq!(image.crop(0, 0, 2, 3).unwrap(), image);
        for (top, left, height, width) in [(1, 0, 2, 1), (0, 2, 1, 2), (0, 0, 0, 1), (usize::MAX, 0, 2, 1)] {
            assert!(image.crop(top, left, height, width).is_err());
        }
        assert_eq!(image.resized(2, 3).unwrap(), image);
        assert_eq!(image.resized(1, 1).unwrap().pixels(), [3]);
        assert_eq!(image.clone().into_rgb().pixels()[3..6], [1, 1, 1]);
        assert!(image.resized(0, 4).is_err());
        assert!(Image::new(1, 1, 4, vec![1, 2, 3, 4]).unwrap().resized(2, 2).is_err());
    }

    #[test]
    fn decodes_every_colour_type() {
        let rgb = image::RgbImage::from_fn(3, 2, |x, y| image::Rgb([x as u8 * 10, y as u8 * 20, 7]));
        let decode = |d: DynamicImage| Image::decode(Cursor::new(png(&d))).unwrap();
        let plain = decode(rgb.clone().into());
        assert_eq!((plain.height(), plain.width(), plain.channels()), (2, 3, 3));
        assert_eq!(plain.pixels(), rgb.as_raw());
        assert_eq!(decode(DynamicImage::from(rgb.clone()).into_rgba8().into()).channels(), 4);
        assert_eq!(decode(DynamicImage::from(rgb.clone()).into_luma8().into()).channels(), 1);
        assert_eq!(decode(DynamicImage::from(rgb.clone()).into_luma_alpha16().into()).channels(), 1);
        assert_eq!(decode(DynamicImage::from(rgb.clone()).into_rgb16().into()), plain);
    }

    #[test]
    fn every_truncation_of_a_png_is_an_error() {
        let whole = png(&image::RgbImage::from_fn(9, 7, |x, y| image::Rgb([x as u8, y as u8, 9])).into());
        let trailer = 12; // the IEND chunk, which decoders may do without
        for length in 0..whole.len() - trailer - 4 {
            assert!(Image::decode(Cursor::new(&whole[..length])).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn an_absurd_header_is_refused_before_memory_is_taken() {
        let mut bytes = png(&image::GrayImage::new(1, 1).into());
        bytes[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        let error = format!("{:#}", Image::decode(Cursor::new(bytes)).unwrap_err());
        assert!(error.contains("60000 x 60000"), "{error}");
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.png");
        std::fs::write(&path, b"GIF89a not an image").unwrap();
        for path in [path, folder.path().join("absent.jpg"), folder.path().to_path_buf()] {
            let error = format!("{:#}", Image::open(&path).unwrap_err());
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }

    /// The checksum of PNG chunks (CRC-32, ISO 3309).
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 })
        })
    }
}
