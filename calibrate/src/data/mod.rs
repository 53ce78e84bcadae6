//! Labelled image data sets in the formats that RIDE users have.
//!
//! [`DataSet::open`] finds out the format by looking, reads the labels and hands out preprocessed pixels. The CIFAR
//! files and `.npz` archives are held in memory; the images of folders and list files are decoded one by one when
//! they are asked for, so that a set of any size fits.

mod cifar_bin;
mod cifar_python;
mod detect;
mod folder;
mod list;
mod npy;
mod npz;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

use crate::preprocess::Preprocess;
use crate::raster::{Image, View};

/// How a data set is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// CIFAR-100 binary version: records of coarse label, fine label, 3,072 planar bytes.
    Cifar100Bin,
    /// CIFAR-10 binary version: records of label, 3,072 planar bytes.
    Cifar10Bin,
    /// CIFAR-100 python version: the `cifar-100-python` folder, or its `train` or `test` file.
    Cifar100Python,
    /// A folder with one folder of PNG or JPEG files for each class.
    Folder,
    /// A NumPy archive with `x` (`u8`, N x H x W x C or N x H x W) and `y` (N integers).
    Npz,
    /// A text file of `relative/path label` lines, as ImageNet-LT has.
    List,
}

/// Which half is read where one path holds both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// The training images, for calibration.
    Train,
    /// The images held back, for verification.
    #[default]
    Test,
}

/// How a data set is to be read.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// The format, or `None` to find it out by looking.
    pub format: Option<Format>,
    /// What is done to every image.
    pub preprocess: Preprocess,
    /// Which half of a CIFAR folder is read; a path to a single file or a folder of class folders has no halves.
    pub split: Split,
    /// Folder that the paths of a list file are relative to; `None` means the list's own folder.
    pub root: Option<PathBuf>,
    /// Training images of each class; `None` counts the labels of the data set.
    pub class_counts: Option<Vec<u32>>,
}

/// What a format's reader hands over.
struct Records {
    /// Class of each record.
    labels: Vec<u32>,
    /// Name of each class, where the format has them.
    class_names: Option<Vec<String>>,
    /// The pixels of each record.
    images: Images,
}

/// Where the pixels are.
enum Images {
    /// In memory, all of one size.
    Packed(Packed),
    /// One image file for each record, decoded when asked for.
    Files(Vec<PathBuf>),
}

/// Images of one size in memory.
struct Packed {
    /// Rows.
    height: usize,
    /// Columns.
    width: usize,
    /// Channels, 1 or 3.
    channels: usize,
    /// HWC, one image after the other.
    pixels: Vec<u8>,
}

/// A labelled image set, readable from several threads at once.
pub struct DataSet {
    path: PathBuf,
    format: Format,
    options: DataOptions,
    records: Records,
}

impl Format {
    /// Every format with the name that `--data-format` takes.
    pub const ALL: [(Format, &'static str); 6] = [
        (Format::Cifar100Bin, "cifar100-bin"),
        (Format::Cifar10Bin, "cifar10-bin"),
        (Format::Cifar100Python, "cifar100-python"),
        (Format::Folder, "folder"),
        (Format::Npz, "npz"),
        (Format::List, "list"),
    ];

    fn names() -> String {
        Self::ALL.map(|(_, name)| name).join(", ")
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(format, _)| format == self).map_or("", |(_, name)| name);
        f.pad(name)
    }
}

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.iter().find(|(_, name)| *name == text);
        known
            .map(|(format, _)| *format)
            .with_context(|| format!("there is no data format {text:?}; --data-format takes one of {}", Self::names()))
    }
}

impl DataOptions {
    /// Detected format, test split, list paths relative to the list, counts from the labels.
    pub fn new(preprocess: Preprocess) -> Self {
        Self { format: None, preprocess, split: Split::default(), root: None, class_counts: None }
    }
}

impl DataSet {
    /// Opens the data set at `path`, reads all labels and checks that the first image suits the preprocessing.
    ///
    /// # Errors
    /// Names the file and what was expected: an unknown or damaged format, no records, images and labels that differ
    /// in number, images of a size that the preprocessing does not take.
    pub fn open(path: &Path, options: &DataOptions) -> Result<Self> {
        options.preprocess.validate()?;
        let format = match options.format {
            Some(format) => format,
            None => detect::format(path)?,
        };
        let records = match format {
            Format::Cifar100Bin => cifar_bin::load(path, &cifar_bin::CIFAR_100, options.split),
            Format::Cifar10Bin => cifar_bin::load(path, &cifar_bin::CIFAR_10, options.split),
            Format::Cifar100Python => cifar_python::load(path, options.split),
            Format::Folder => folder::load(path),
            Format::Npz => npz::load(path),
            Format::List => list::load(path, options.root.as_deref()),
        };
        let records = records.with_context(|| format!("cannot read the data set {} as {format}", path.display()))?;
        ensure!(!records.labels.is_empty(), "the data set {} holds no images", path.display());
        let set = Self { path: path.to_path_buf(), format, options: options.clone(), records };
        set.check_images()?;
        Ok(set)
    }

    /// That there is an image for each label and that the first one can be read.
    fn check_images(&self) -> Result<()> {
        let images = match &self.records.images {
            Images::Packed(packed) => {
                let size = packed.height.checked_mul(packed.width).and_then(|n| n.checked_mul(packed.channels));
                let size = size.filter(|&n| n > 0).context("the images are empty")?;
                ensure!(packed.pixels.len() % size == 0, "the last image of {} is cut off", self.path.display());
                packed.pixels.len() / size
            }
            Images::Files(paths) => paths.len(),
        };
        ensure!(
            images == self.len(),
            "the data set {} has {images} images but {} labels",
            self.path.display(),
            self.len()
        );
        self.pixels(0).map(drop)
    }

    /// Number of images, at least one.
    pub fn len(&self) -> usize {
        self.records.labels.len()
    }

    /// Always false: an empty set cannot be opened.
    pub fn is_empty(&self) -> bool {
        self.records.labels.is_empty()
    }

    /// The format that was detected or forced.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Class of image `index`.
    ///
    /// # Panics
    /// If `index` is not below [`DataSet::len`].
    pub fn label(&self, index: usize) -> u32 {
        self.records.labels[index]
    }

    /// Classes of all images.
    pub fn labels(&self) -> &[u32] {
        &self.records.labels
    }

    /// The preprocessed pixels of image `index`: `height * width * channels` bytes, HWC.
    ///
    /// # Errors
    /// Names the file or record where it cannot be read or does not suit the preprocessing, or where `index` is not
    /// below [`DataSet::len`].
    pub fn pixels(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        ensure!(index < self.len(), "image {index} was asked for but there are {}", self.len());
        let preprocess = &self.options.preprocess;
        let pixels = match &self.records.images {
            Images::Packed(packed) => preprocess.apply_view(packed.view(index)),
            Images::Files(paths) => preprocess.apply(&Image::open(&paths[index])?).map(Cow::Owned),
        };
        pixels.with_context(|| format!("cannot use {}", self.record_name(index)))
    }

    /// Image `index` as it is stored: of any size, neither resized nor cropped.
    ///
    /// # Errors
    /// As [`DataSet::pixels`].
    pub fn image(&self, index: usize) -> Result<Image> {
        ensure!(index < self.len(), "image {index} was asked for but there are {}", self.len());
        let image = match &self.records.images {
            Images::Packed(packed) => {
                let View { height, width, channels, pixels } = packed.view(index);
                Image::new(height, width, channels, pixels.to_vec())
            }
            Images::Files(paths) => Image::open(&paths[index]),
        };
        image.with_context(|| format!("cannot use {}", self.record_name(index)))
    }

    /// What is done to every image.
    pub fn preprocess(&self) -> &Preprocess {
        &self.options.preprocess
    }

    /// What to call image `index` in a message: its file, or its number in the set's file.
    pub fn record_name(&self, index: usize) -> String {
        match &self.records.images {
            Images::Files(paths) => paths.get(index).map_or_else(String::new, |p| p.display().to_string()),
            Images::Packed(_) => format!("record {index} of {}", self.path.display()),
        }
    }

    /// Names of the classes, class 0 first, where the format has them.
    pub fn class_names(&self) -> Option<&[String]> {
        self.records.class_names.as_deref()
    }

    /// Checks that the data set can belong to a model of `classes` classes.
    ///
    /// # Errors
    /// Names the first record whose label is too large. A folder of class folders must have exactly one for each
    /// class, because a missing one would shift the labels of all that follow.
    pub fn check_classes(&self, classes: usize) -> Result<()> {
        let wrong = self.records.labels.iter().position(|&label| label as usize >= classes);
        if let Some(index) = wrong {
            bail!(
                "the data set and the model disagree: {} has label {} but the model has {classes} classes \
                 (0..={})",
                self.record_name(index),
                self.label(index),
                classes.saturating_sub(1)
            );
        }
        let named = self.class_names().map_or(classes, <[String]>::len);
        ensure!(
            self.format != Format::Folder || named == classes,
            "the data set and the model disagree: {} has {named} class folders but the model has {classes} classes; \
             a class without images needs an empty folder, since a class is its folder's place in sorted order",
            self.path.display()
        );
        Ok(())
    }

    /// Training images of each of `classes` classes: those of the options, else counted from the labels.
    ///
    /// # Errors
    /// As [`DataSet::check_classes`], or if the options give counts of another number of classes.
    pub fn class_counts(&self, classes: usize) -> Result<Vec<u32>> {
        if let Some(counts) = &self.options.class_counts {
            ensure!(
                counts.len() == classes,
                "the class counts are {} numbers but the model has {classes} classes",
                counts.len()
            );
            return Ok(counts.clone());
        }
        self.check_classes(classes)?;
        let mut counts = vec![0u32; classes];
        for &label in &self.records.labels {
            counts[label as usize] = counts[label as usize].saturating_add(1);
        }
        Ok(counts)
    }
}

impl Packed {
    /// Image `index`, which must exist.
    fn view(&self, index: usize) -> View<'_> {
        let bytes = self.height * self.width * self.channels;
        View {
            height: self.height,
            width: self.width,
            channels: self.channels,
            pixels: &self.pixels[index * bytes..][..bytes],
        }
    }
}

/// Appends an image of three planes of `plane` bytes each to `out` as HWC; `planes` holds all three.
fn interleave(planes: &[u8], plane: usize, out: &mut Vec<u8>) {
    out.extend((0..plane).flat_map(|i| [planes[i], planes[plane + i], planes[2 * plane + i]]));
}

/// An empty buffer with room for `bytes`, or an error instead of an abort where memory does not suffice.
fn reserve(bytes: usize) -> Result<Vec<u8>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(bytes).with_context(|| format!("the images need {bytes} bytes of memory"))?;
    Ok(buffer)
}
