//! A NumPy archive with images `x` and labels `y`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use zip::ZipArchive;

use super::npy::{Dtype, Header};
use super::{Images, Packed, Records, reserve};

/// Bytes that an array may have whatever the size of the archive.
const FREE_BYTES: u64 = 64 * 1024 * 1024;
/// Beyond [`FREE_BYTES`], how many times larger than the archive an array may be; real images shrink by less than ten.
const MAX_RATIO: u64 = 100;

/// Reads both arrays.
pub(super) fn load(path: &Path) -> Result<Records> {
    let archive_bytes = super::detect::regular_file(path)?;
    let limit = FREE_BYTES.max(archive_bytes.saturating_mul(MAX_RATIO));
    let mut archive = Archive::open(path, limit)?;
    let (header, bytes) = archive.array("x", check_images).context("array x (the images)")?;
    let images = images_of(&header, bytes).context("array x (the images)")?;
    let (header, bytes) = archive.array("y", check_labels).context("array y (the labels)")?;
    let labels = labels_of(&header.dtype, &bytes).context("array y (the labels)")?;
    Ok(Records { labels, class_names: None, images: Images::Packed(images) })
}

/// An open archive and the most bytes that one of its arrays may have.
struct Archive {
    zip: ZipArchive<BufReader<File>>,
    limit: u64,
}

impl Archive {
    fn open(path: &Path, limit: u64) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let zip = ZipArchive::new(BufReader::new(file)).context("the archive is damaged or cut off")?;
        Ok(Self { zip, limit })
    }

    /// Header and elements of an array that `check` takes; the header is judged before memory is taken.
    fn array(&mut self, name: &str, check: fn(&Header) -> Result<()>) -> Result<(Header, Vec<u8>)> {
        let member = format!("{name}.npy");
        if self.zip.index_for_name(&member).is_none() {
            let found: Vec<_> = self.zip.file_names().filter_map(|name| name.ok()).take(8).collect();
            bail!("the archive has no {member}, only {found:?}; save it with np.savez(path, x=images, y=labels)");
        }
        let mut file = self.zip.by_name(&member)?;
        let header = Header::read(&mut file)?;
        check(&header)?;
        let bytes = header.count().and_then(|n| n.checked_mul(header.dtype.size));
        let bytes = bytes.filter(|&n| n as u64 <= self.limit).with_context(|| {
            format!(
                "the shape {:?} needs more than {} bytes, which is more than this archive can reasonably hold",
                header.shape, self.limit
            )
        })?;
        let mut elements = reserve(bytes)?;
        (&mut file).take(bytes as u64).read_to_end(&mut elements).context("the array is damaged or cut off")?;
        ensure!(
            elements.len() == bytes,
            "the array is cut off: the shape {:?} needs {bytes} bytes but there are {}",
            header.shape,
            elements.len()
        );
        // Reading past the last byte also makes the archive compare its checksum.
        let more = file.read(&mut [0]).context("the array is damaged")?;
        ensure!(more == 0, "the array has more bytes than the shape {:?} needs", header.shape);
        Ok((header, elements))
    }
}

/// That `x` is `u8`, N x H x W x C or N x H x W.
fn check_images(header: &Header) -> Result<()> {
    let Header { dtype, shape } = header;
    ensure!(
        dtype.kind != 'f',
        "the images are of the float type {:?}, but the device takes raw pixels of 0..=255; save them as u8 before \
         any normalisation, as in np.round(x * 255).astype(np.uint8) for x in 0..=1",
        dtype.text
    );
    ensure!(
        (dtype.kind, dtype.size) == ('u', 1),
        "the images are of type {:?}, but raw pixels are u8; save them as x.astype(np.uint8)",
        dtype.text
    );
    match shape[..] {
        [_, _, _] | [_, _, _, 1 | 3 | 4] => Ok(()),
        [_, 1 | 3 | 4, _, _] => {
            bail!("the images have the shape {shape:?}, with channels in front; save them as x.transpose(0, 2, 3, 1)")
        }
        _ => bail!(
            "the images have the shape {shape:?}; expected images x height x width x channels with 1, 3 or 4 \
             channels, or images x height x width"
        ),
    }
}

/// That `y` is a list of integers.
fn check_labels(header: &Header) -> Result<()> {
    let Header { dtype, shape } = header;
    ensure!(
        matches!((dtype.kind, dtype.size), ('u' | 'i', 1 | 2 | 4 | 8)),
        "the labels are of type {:?}; expected integers, as in y.astype(np.int64)",
        dtype.text
    );
    ensure!(
        matches!(shape[..], [_] | [_, 1]),
        "the labels have the shape {shape:?}; expected one number for each image"
    );
    Ok(())
}

fn images_of(header: &Header, pixels: Vec<u8>) -> Result<Packed> {
    let (count, height, width, channels) = match header.shape[..] {
        [n, h, w] => (n, h, w, 1),
        [n, h, w, c] => (n, h, w, c),
        _ => bail!("the images have the shape {:?}", header.shape),
    };
    ensure!(count > 0 && !pixels.is_empty(), "there are no images: the shape is {:?}", header.shape);
    Ok(Packed { height, width, channels, pixels })
}

/// The labels as `u32`.
fn labels_of(dtype: &Dtype, bytes: &[u8]) -> Result<Vec<u32>> {
    let label = |(index, element): (usize, &[u8])| {
        let value = integer(dtype, element);
        u32::try_from(value).map_err(|_| anyhow::anyhow!("label {value} of image {index} is out of range"))
    };
    bytes.chunks_exact(dtype.size).enumerate().map(label).collect()
}

/// The value of an integer of 1 to 8 bytes.
fn integer(dtype: &Dtype, element: &[u8]) -> i128 {
    let fold = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
    let value = if dtype.big_endian { element.iter().fold(0, fold) } else { element.iter().rev().fold(0, fold) };
    let unused = 64 - 8 * element.len() as u32;
    if dtype.kind == 'i' { i128::from((value << unused) as i64 >> unused) } else { i128::from(value) }
}
