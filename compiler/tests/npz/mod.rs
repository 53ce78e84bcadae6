//! Data sets as NumPy archives, written by hand for tests.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// An array of format version 1: `descr` is the type, as in `|u1` or `<i8`, `shape` as Python writes it without parentheses.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let len = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), data].concat()
}

/// Writes colour pictures of `height` rows and `width` columns, one after the other in `pixels`, and their labels.
pub(crate) fn write(path: &Path, (height, width): (usize, usize), pixels: &[u8], labels: &[usize]) {
    let images = labels.len();
    assert_eq!(pixels.len(), images * height * width * 3, "a picture for each label");
    let labels: Vec<u8> = labels.iter().flat_map(|&label| (label as i64).to_le_bytes()).collect();
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    for (name, array) in [
        ("x.npy", npy("|u1", &format!("{images}, {height}, {width}, 3"), pixels)),
        ("y.npy", npy("<i8", &format!("{images},"), &labels)),
    ] {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(&array).unwrap();
    }
    zip.finish().unwrap();
}
