//! The header of a NumPy `.npy` array.
//!
//! Format: `numpy.lib.format`, versions 1.0 to 3.0 — magic, version, length of the header, then a Python dictionary
//! `{'descr': '|u1', 'fortran_order': False, 'shape': (8, 32, 32, 3), }` padded with spaces.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

/// Longest header that is read; that of a plain array has 118 bytes.
const MAX_HEADER: usize = 64 * 1024;
/// NumPy's own limit on the number of dimensions.
const MAX_DIMENSIONS: usize = 64;

/// Element type, as in `<i8`: byte order, kind, bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dtype {
    /// Whether the most significant byte comes first.
    pub(super) big_endian: bool,
    /// `u` unsigned, `i` signed, `f` float, `b` bool, and so on.
    pub(super) kind: char,
    /// Bytes of one element.
    pub(super) size: usize,
    /// As the file spells it.
    pub(super) text: String,
}

/// What an array's header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Element type.
    pub(super) dtype: Dtype,
    /// Length of each dimension; empty for a single number.
    pub(super) shape: Vec<usize>,
}

impl Header {
    /// Reads the header; what follows in `source` are the elements in C order.
    ///
    /// # Errors
    /// If this is not an array, its header is malformed, it is in Fortran order or its elements are not plain numbers.
    pub(super) fn read(source: &mut impl Read) -> Result<Self> {
        let mut prefix = [0; 8];
        source.read_exact(&mut prefix).context("the array is cut off")?;
        ensure!(prefix.starts_with(b"\x93NUMPY"), "this is not a NumPy array");
        let length = match prefix[6] {
            1 => {
                let mut bytes = [0; 2];
                source.read_exact(&mut bytes).context("the array's header is cut off")?;
                usize::from(u16::from_le_bytes(bytes))
            }
            2 | 3 => {
                let mut bytes = [0; 4];
                source.read_exact(&mut bytes).context("the array's header is cut off")?;
                u32::from_le_bytes(bytes) as usize
            }
            version => bail!("version {version} of the NumPy format is unknown"),
        };
        ensure!(length <= MAX_HEADER, "the array's header of {length} bytes is longer than {MAX_HEADER}");
        let mut bytes = vec![0; length];
        source.read_exact(&mut bytes).context("the array's header is cut off")?;
        Self::parse(std::str::from_utf8(&bytes).context("the array's header is not text")?)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut cursor = Cursor(text);
        let (mut dtype, mut fortran, mut shape) = (None, None, None);
        cursor.expect("{")?;
        while !cursor.take("}") {
            let key = cursor.string()?;
            cursor.expect(":")?;
            match key {
                "descr" => dtype = Some(cursor.dtype()?),
                "fortran_order" => fortran = Some(cursor.boolean()?),
                "shape" => shape = Some(cursor.tuple()?),
                _ => bail!("the array's header has an unknown key {key:?}"),
            }
            if !cursor.take(",") {
                cursor.expect("}")?;
                break;
            }
        }
        let (Some(dtype), Some(fortran), Some(shape)) = (dtype, fortran, shape) else {
            bail!("the array's header lacks one of descr, fortran_order and shape: {:?}", text.trim_end());
        };
        ensure!(
            !fortran || shape.len() < 2,
            "the array is in Fortran (column-major) order; save it as np.ascontiguousarray(array)"
        );
        Ok(Self { dtype, shape })
    }

    /// Number of elements, `None` where it does not fit `usize`.
    pub(super) fn count(&self) -> Option<usize> {
        // A zero anywhere means no elements, however absurd the other lengths are.
        if self.shape.contains(&0) {
            return Some(0);
        }
        self.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))
    }
}

/// What is left of the header's text.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn malformed(&self, wanted: &str) -> anyhow::Error {
        let near: String = self.0.chars().take(24).collect();
        anyhow::anyhow!("the array's header is malformed: expected {wanted} before {near:?}")
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.0.trim_start().strip_prefix(token);
        if let Some(rest) = rest {
            self.0 = rest;
        }
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.take(token) { Ok(()) } else { Err(self.malformed(&format!("{token:?}"))) }
    }

    fn string(&mut self) -> Result<&'a str> {
        let quote = if self.take("'") { '\'' } else { self.expect("\"").map(|()| '"')? };
        let (text, rest) = self.0.split_once(quote).ok_or_else(|| self.malformed("a closing quote"))?;
        self.0 = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool> {
        if self.take("True") { Ok(true) } else { self.expect("False").map(|()| false) }
    }

    fn tuple(&mut self) -> Result<Vec<usize>> {
        let mut lengths = Vec::new();
        self.expect("(")?;
        while !self.take(")") {
            let text = self.0.trim_start();
            let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let length = text[..end].parse().map_err(|_| self.malformed("the length of a dimension"))?;
            lengths.push(length);
            ensure!(lengths.len() <= MAX_DIMENSIONS, "the array has more than {MAX_DIMENSIONS} dimensions");
            self.0 = &text[end..];
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(lengths)
    }

    fn dtype(&mut self) -> Result<Dtype> {
        if self.0.trim_start().starts_with('[') {
            bail!("the array has records with named fields; save a plain array of numbers");
        }
        let text = self.string()?;
        let (order, rest) = match text.chars().next() {
            Some(order @ ('<' | '>' | '|' | '=')) => (order, &text[1..]),
            _ => ('=', text),
        };
        let kind = rest.chars().next().filter(char::is_ascii_alphabetic);
        let kind = kind.with_context(|| format!("the array has an unknown element type {text:?}"))?;
        // A pickled Python object is never loaded.
        ensure!(kind != 'O', "the array holds Python objects; save a plain array of numbers");
        let size = rest[1..].parse().ok().filter(|&n| n > 0);
        let size = size.with_context(|| format!("the array has an unknown element type {text:?}"))?;
        Ok(Dtype { big_endian: order == '>', kind, size, text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Header> {
        Header::parse(text)
    }

    #[test]
    fn reads_what_numpy_writes() {
        let header = parse("{'descr': '|u1', 'fortran_order': False, 'shape': (8, 32, 32, 3), }      \n").unwrap();
        assert_eq!(header.shape, [8, 32, 32, 3]);
        assert_eq!((header.dtype.kind, header.dtype.size), ('u', 1));
        assert_eq!(header.count(), Some(8 * 32 * 32 * 3));
        let header = parse("{'descr': '>i8', 'fortran_order': False, 'shape': (5,), }").unwrap();
        assert!(header.dtype.big_endian && header.shape == [5]);
        let scalar = parse("{\"shape\": (), \"fortran_order\": True, \"descr\": \"<f4\"}").unwrap();
        assert_eq!(scalar.count(), Some(1));
    }

    #[test]
    fn refuses_what_it_cannot_take() {
        let cases = [
            ("", "\"{\""),
            ("{'descr': '<i4'}", "lacks"),
            ("{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3)}", "ascontiguousarray"),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", "Python objects"),
            ("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (2,)}", "named fields"),
            ("{'descr': '<\u{e9}4', 'fortran_order': False, 'shape': (2,)}", "element type"),
            ("{'descr': '<i99999999999999999999', 'fortran_order': False, 'shape': (2,)}", "element type"),
            ("{'descr': '', 'fortran_order': False, 'shape': (2,)}", "element type"),
            ("{'descr': '<i4', 'fortran_order': 0, 'shape': (2,)}", "False"),
            ("{'descr': '<i4', 'fortran_order': False, 'shape': (-2,)}", "dimension"),
            ("{'descr': '<i4', 'fortran_order': False, 'shape': (99999999999999999999999,)}", "dimension"),
            ("{'descr': '<i4', 'fortran_order': False, 'shape': (2", "\")\""),
            ("{'descr': '<i4", "quote"),
            ("{'extra': 3}", "unknown key"),
        ];
        for (text, part) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let dimensions = format!("{{'shape': ({})}}", "1,".repeat(65));
        assert!(parse(&dimensions).unwrap_err().to_string().contains("dimensions"));
    }

    #[test]
    fn absurd_shapes_do_not_overflow() {
        let huge = usize::MAX;
        let header = parse(&format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({huge}, {huge})}}")).unwrap();
        assert_eq!(header.count(), None);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let text = b"{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }\n";
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
        file.extend(text);
        assert!(Header::read(&mut &file[..]).is_ok());
        for length in 0..file.len() {
            assert!(Header::read(&mut &file[..length]).is_err(), "{length} bytes");
        }
        file[6] = 9;
        assert!(Header::read(&mut &file[..]).unwrap_err().to_string().contains("version 9"));
    }
}
