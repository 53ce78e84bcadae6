//! The python version of CIFAR-100: pickled dictionaries of a NumPy array and a list of labels.
//!
//! `train` and `test` hold `data` (N rows of 3,072 bytes: the red, green and blue plane of 32 x 32 pixels) and
//! `fine_labels`; `meta` holds `fine_label_names`. The official files were pickled by Python 2, others by Python 3.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::{Images, Packed, Records, Split, detect, interleave, reserve};
use crate::pickle::{Kind, Pickle, Value};

/// Rows and columns of an image.
const SIDE: usize = 32;
/// Bytes of the three planes of one image.
const PIXELS: usize = 3 * SIDE * SIDE;
/// Number of fine classes.
const CLASSES: usize = 100;
/// Largest file that is read; the official `train` has 155 MB.
const MAX_FILE: u64 = 2 << 30;

/// Reads the `cifar-100-python` folder, or its `train` or `test` file.
pub(super) fn load(path: &Path, split: Split) -> Result<Records> {
    let file = if path.is_dir() { file_of(path, split)? } else { path.to_path_buf() };
    let class_names = names_beside(&file)?;
    let classes = class_names.as_ref().map_or(CLASSES, Vec::len);
    let bytes = read(&file)?;
    let (labels, pixels) = batch(&bytes, classes).with_context(|| format!("cannot use {}", file.display()))?;
    let images = Images::Packed(Packed { height: SIDE, width: SIDE, channels: 3, pixels });
    Ok(Records { labels, class_names, images })
}

fn file_of(folder: &Path, split: Split) -> Result<PathBuf> {
    let name = match split {
        Split::Train => "train",
        Split::Test => "test",
    };
    let file = folder.join(name);
    ensure!(file.is_file(), "{} has no file {name}; pass the path of the file that is to be read", folder.display());
    Ok(file)
}

/// The class names in the file `meta` beside a batch, if there is one.
fn names_beside(file: &Path) -> Result<Option<Vec<String>>> {
    let path = file.with_file_name("meta");
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = read(&path)?;
    let what = || format!("cannot use {}", path.display());
    let pickle = Pickle::read(&bytes).with_context(what)?;
    let list = pickle.root().get("fine_label_names").context("it has no fine_label_names").with_context(what)?;
    let names = list.items().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
    let names = names.filter(|names| !names.is_empty()).context("its fine_label_names are no list of text");
    names.map(Some).with_context(what)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let length = detect::regular_file(path)?;
    ensure!(length <= MAX_FILE, "{} has {length} bytes; at most {MAX_FILE} are read", path.display());
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Labels and interleaved pixels of one file.
fn batch(bytes: &[u8], classes: usize) -> Result<(Vec<u32>, Vec<u8>)> {
    let pickle = Pickle::read(bytes)?;
    let root = pickle.root();
    ensure!(root.kind() == Kind::Dict, "it holds {root}; expected a dict with data and fine_labels");
    let planes = planes(root.get("data").context("it has no data")?).context("its data cannot be used")?;
    let labels = labels(root.get("fine_labels").context("it has no fine_labels")?, classes)?;
    let count = planes.len() / PIXELS;
    ensure!(labels.len() == count, "it has {count} images but {} fine_labels", labels.len());
    let mut pixels = reserve(planes.len())?;
    for image in planes.chunks_exact(PIXELS) {
        interleave(image, SIDE * SIDE, &mut pixels);
    }
    Ok((labels, pixels))
}

/// The planes of all images, one after the other.
fn planes<'p>(data: Value<'p>) -> Result<Cow<'p, [u8]>> {
    let (bytes, shape) = match data.as_bytes() {
        Some(bytes) => (bytes, None),
        None => {
            let array = Array::of(data)?;
            ensure!(array.dtype.ends_with("u1"), "its elements are of type {:?}; expected u1 (uint8)", array.dtype);
            (array.bytes, Some(array.shape))
        }
    };
    if let Some(shape) = shape {
        let rows = matches!(shape[..], [_, PIXELS] | [_, 3, SIDE, SIDE]);
        ensure!(rows, "its shape is {shape:?}; expected N x {PIXELS}");
    }
    ensure!(bytes.len().is_multiple_of(PIXELS), "it has {} bytes, not a multiple of {PIXELS}", bytes.len());
    Ok(bytes)
}

/// A list of integers, of NumPy integers, or an array of them.
fn labels(value: Value<'_>, classes: usize) -> Result<Vec<u32>> {
    let numbers = match value.kind() {
        Kind::List | Kind::Tuple => value.items().map(|label| label.as_i64().or_else(|| scalar(label))).collect(),
        _ => Array::of(value).context("its fine_labels cannot be used")?.integers(),
    };
    let numbers: Vec<i64> = numbers.context("its fine_labels are not all integers")?;
    let label = |(index, number): (usize, i64)| {
        let label = u32::try_from(number).ok().filter(|&label| (label as usize) < classes);
        label.with_context(|| format!("fine_labels[{index}] is {number}, but there are {classes} classes"))
    };
    numbers.into_iter().enumerate().map(label).collect()
}

/// A single NumPy integer: `scalar(dtype, bytes)`.
fn scalar(value: Value<'_>) -> Option<i64> {
    let args = value.args().filter(|_| is_numpy(value, "scalar"))?;
    integer(&args.at(1)?.as_bytes()?, dtype(args.at(0)?)?)
}

fn is_numpy(value: Value<'_>, function: &str) -> bool {
    value.class().is_some_and(|(module, name)| module.starts_with("numpy.") && name == function)
}

/// The type string of a `numpy.dtype`, such as `u1` or `i8`.
fn dtype(value: Value<'_>) -> Option<&str> {
    value.class().filter(|class| *class == ("numpy", "dtype"))?;
    let big_endian = value.state().and_then(|state| state.at(1)).and_then(Value::as_str) == Some(">");
    value.args()?.at(0)?.as_str().filter(|_| !big_endian)
}

/// A little-endian integer of a NumPy type.
fn integer(bytes: &[u8], dtype: &str) -> Option<i64> {
    let signed = dtype.trim_start_matches(['|', '<', '=']);
    let unsigned = bytes.iter().rev().try_fold(0u64, |sum, &byte| sum.checked_mul(256)?.checked_add(byte.into()))?;
    let unused = 64u32.checked_sub(8 * bytes.len() as u32)?;
    match signed {
        "i1" | "i2" | "i4" | "i8" => Some(((unsigned << (unused % 64)) as i64) >> (unused % 64)),
        "u1" | "u2" | "u4" | "u8" | "b1" => i64::try_from(unsigned).ok(),
        _ => None,
    }
}

/// A pickled NumPy array in C order.
struct Array<'p> {
    shape: Vec<usize>,
    dtype: &'p str,
    bytes: Cow<'p, [u8]>,
}

impl<'p> Array<'p> {
    /// Reads `_reconstruct` with the state `(version, shape, dtype, is_fortran, bytes)`, which protocols 0 to 4 have,
    /// or protocol 5's `_frombuffer(bytes, dtype, shape, order)`.
    fn of(value: Value<'p>) -> Result<Self> {
        let parts = if is_numpy(value, "_reconstruct") {
            let state = value.state().context("its array has no state")?;
            let fortran = state.at(3).is_none_or(|flag| flag.kind() != Kind::Bool(false));
            [state.at(1), state.at(2), state.at(4).filter(|_| !fortran)]
        } else if is_numpy(value, "_frombuffer") {
            let args = value.args().context("its array has no arguments")?;
            let order = args.at(3).and_then(Value::as_str);
            [args.at(2), args.at(1), args.at(0).filter(|_| order == Some("C"))]
        } else {
            bail!("it is {value}; expected a NumPy array");
        };
        let [shape, dtype_value, bytes] = parts;
        let shape = shape.and_then(|shape| shape.items().map(Value::as_usize).collect::<Option<Vec<_>>>());
        let shape = shape.context("its array has no shape")?;
        let dtype = dtype_value.and_then(dtype).context("its array has an unknown or big-endian element type")?;
        let bytes = bytes.and_then(Value::as_bytes).context("its array is not a plain one in C order")?;
        let size = dtype.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().ok();
        let expected = shape.iter().try_fold(size.unwrap_or(0), |bytes, &n| bytes.checked_mul(n));
        ensure!(
            expected == Some(bytes.len()),
            "its array of shape {shape:?} and type {dtype:?} has {} bytes",
            bytes.len()
        );
        Ok(Self { shape, dtype, bytes })
    }

    /// The elements of a one-dimensional array; `None` if it is none of integers.
    fn integers(&self) -> Option<Vec<i64>> {
        let &[count] = self.shape.as_slice() else { return None };
        let size = self.bytes.len().checked_div(count).unwrap_or(1).max(1);
        self.bytes.chunks_exact(size).map(|bytes| integer(bytes, self.dtype)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: &[u8] = b"](K\x03K\x63e";

    /// Two images: the planes count up, so that a wrong order shows.
    fn planes() -> Vec<u8> {
        (0..2 * PIXELS).map(|i| (i * 7 % 251) as u8).collect()
    }

    fn text(text: &str) -> Vec<u8> {
        [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// The dictionary with the opcodes of the two values.
    fn file(data: &[u8], labels: &[u8]) -> Vec<u8> {
        [b"\x80\x02}(U\x04data", data, b"U\x0bfine_labels", labels, b"u."].concat()
    }

    /// An array as protocol 2 has it; `elements` are opcodes.
    fn array(shape: &[u8], dtype: &str, elements: &[u8]) -> Vec<u8> {
        let dtype = [
            b"cnumpy\ndtype\n",
            &text(dtype)[..],
            b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        ];
        let start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01";
        [start, shape, &dtype.concat(), b"\x89", elements, b"tb"].concat()
    }

    /// Python 2's byte string.
    fn byte_string(bytes: &[u8]) -> Vec<u8> {
        [b"T", &(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
    }

    /// Python 3's bytes in protocol 2: text to be encoded.
    fn encoded(bytes: &[u8]) -> Vec<u8> {
        let latin1: String = bytes.iter().map(|&byte| char::from(byte)).collect();
        [b"c_codecs\nencode\n", &text(&latin1)[..], &text("latin1"), b"\x86R"].concat()
    }

    fn two_images() -> Vec<u8> {
        array(b"K\x02M\x00\x0c\x86", "u1", &byte_string(&planes()))
    }

    #[track_caller]
    fn assert_error(data: &[u8], labels: &[u8], parts: &[&str]) {
        let error = format!("{:#}", batch(&file(data, labels), CLASSES).expect_err("a broken file"));
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }

    #[test]
    fn every_form_of_array_gives_the_same_images() {
        let planes = planes();
        let frombuffer = [
            b"cnumpy.core.numeric\n_frombuffer\n(".to_vec(),
            [b"\x96".to_vec(), (planes.len() as u64).to_le_bytes().to_vec(), planes.clone()].concat(),
            b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x89\x88\x87RK\x02M\x00\x0c\x86X\x01\x00\x00\x00CtR".to_vec(),
        ];
        let forms = [
            two_images(),
            array(b"K\x02M\x00\x0c\x86", "|u1", &encoded(&planes)),
            array(b"(K\x02K\x03K\x20K\x20t", "u1", &byte_string(&planes)),
            frombuffer.concat(),
            byte_string(&planes),
        ];
        for (form, data) in forms.iter().enumerate() {
            let (labels, pixels) = batch(&file(data, LABELS), CLASSES).unwrap();
            assert_eq!(labels, [3, 99], "form {form}");
            assert_eq!(pixels.len(), planes.len(), "form {form}");
            for (image, pixel, channel) in [(0, 0, 0), (0, 1, 2), (1, 1023, 1)] {
                let expected = planes[image * PIXELS + channel * 1024 + pixel];
                assert_eq!(pixels[image * PIXELS + pixel * 3 + channel], expected, "form {form}");
            }
        }
    }

    #[test]
    fn labels_may_be_numpy_integers() {
        let int64 = array(b"K\x02\x85", "i8", &byte_string(&[3i64.to_le_bytes(), 99i64.to_le_bytes()].concat()));
        let uint8 = array(b"K\x02\x85", "u1", &byte_string(&[3, 99]));
        let scalar = |byte| {
            [
                b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00i2\x85RU\x02".as_slice(),
                &[byte, 0],
                b"\x86R",
            ]
            .concat()
        };
        let scalars = [b"](".to_vec(), scalar(3), scalar(99), b"e".to_vec()].concat();
        for labels in [int64, uint8, scalars] {
            assert_eq!(batch(&file(&two_images(), &labels), CLASSES).unwrap().0, [3, 99]);
        }
        assert_eq!([integer(&[0xff], "i1"), integer(&[0xfe, 0xff], "<i2")], [Some(-1), Some(-2)]);
        assert_eq!(integer(&[0xff; 8], "u8"), None);
    }

    #[test]
    fn damaged_files_are_refused() {
        let good = two_images();
        assert_error(&good, b"](K\x03e", &["2 images but 1 fine_labels"]);
        assert_error(&good, b"](K\x03K\x64e", &["fine_labels[1] is 100", "100 classes"]);
        assert_error(&good, b"](K\x03J\xff\xff\xff\xffe", &["fine_labels[1] is -1"]);
        assert_error(&good, b"](K\x03Ne", &["not all integers"]);
        assert_error(b"N", LABELS, &["data", "None", "NumPy array"]);
        assert_error(&byte_string(&[0; 100]), LABELS, &["multiple of 3072"]);
        assert_error(
            &array(b"K\x02K\x0a\x86", "u1", &byte_string(&[0; 20])),
            LABELS,
            &["shape is [2, 10]", "N x 3072"],
        );
        assert_error(&array(b"K\x02M\x00\x0c\x86", "f4", &byte_string(&[0; 8 * PIXELS])), LABELS, &["f4", "uint8"]);
        assert_error(
            &array(b"K\x03M\x00\x0c\x86", "u1", &byte_string(&planes())),
            LABELS,
            &["[3, 3072]", "6144 bytes"],
        );
        let huge = array(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fM\x00\x0c\x86", "u1", &byte_string(&[]));
        assert_error(&huge, LABELS, &["shape"]);
        for length in (0..file(&good, LABELS).len()).step_by(97) {
            assert!(batch(&file(&good, LABELS)[..length], CLASSES).is_err());
        }
        assert!(batch(b"\x80\x02](K\x01e.", CLASSES).unwrap_err().to_string().contains("expected a dict"));
    }

    #[test]
    fn the_folder_has_halves_and_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("test"), file(&two_images(), LABELS)).unwrap();
        let records = load(folder.path(), Split::Test).unwrap();
        assert_eq!((records.labels.as_slice(), records.class_names), (&[3, 99][..], None));
        let names: Vec<u8> = (0..100).flat_map(|i| text(&format!("class {i}"))).collect();
        std::fs::write(at("meta"), [b"\x80\x02}U\x10fine_label_names](", &names[..], b"es."].concat()).unwrap();
        let records = load(&at("test"), Split::Train).unwrap();
        assert_eq!(records.class_names.unwrap()[99], "class 99");
        let error = format!("{:#}", load(folder.path(), Split::Train).err().unwrap());
        assert!(error.contains("no file train"), "{error}");
        std::fs::write(at("meta"), b"\x80\x02}.").unwrap();
        let error = format!("{:#}", load(folder.path(), Split::Test).err().unwrap());
        assert!(error.contains("meta") && error.contains("fine_label_names"), "{error}");
    }
}
