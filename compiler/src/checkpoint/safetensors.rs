//! The safetensors format: the header's length (`u64`), a JSON header, the tensors' bytes.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom};

use ::safetensors::tensor::{Dtype, Metadata, TensorView};
use anyhow::{Context, Result, bail, ensure};

use super::budget::Budget;
use super::storage::{Scalar, View};
use super::{Contents, Tensor};

/// Key of the header's metadata that [`encode`] writes.
const NOTE: &str = "ride";
/// Largest header, in bytes; about 150 are needed for each tensor.
const MAX_HEADER: u64 = 16 << 20;

pub(super) fn read<R: Read + Seek>(mut reader: R, length: u64) -> Result<Contents> {
    let mut size = [0; 8];
    reader.read_exact(&mut size).context("the safetensors header is cut off")?;
    let size = u64::from_le_bytes(size);
    ensure!(
        size <= MAX_HEADER.min(length - 8),
        "the safetensors header claims {size} bytes; the file has {length} and at most {MAX_HEADER} are read"
    );
    let mut header = vec![0; size as usize];
    reader.read_exact(&mut header)?;
    let header: Metadata = serde_json::from_slice(&header).context("the safetensors header is damaged")?;
    let start = 8 + size;
    ensure!(
        header.data_len() as u64 == length - start,
        "the safetensors header describes {} bytes of tensors but {} follow; the file is cut off or damaged",
        header.data_len(),
        length - start
    );
    let mut budget = Budget::of_file(length);
    let mut tensors = BTreeMap::new();
    for name in header.offset_keys() {
        let info = header.info(&name).context("the header lists every tensor")?;
        let what = || format!("cannot load tensor {name:?}");
        let view = View::contiguous(scalar(info.dtype).with_context(what)?, info.shape.clone()).with_context(what)?;
        let (begin, end) = info.data_offsets;
        let bytes = end - begin;
        budget.take(bytes as u64 + 4 * view.len()? as u64).with_context(what)?;
        let mut storage = vec![0; bytes];
        reader.seek(SeekFrom::Start(start + begin as u64))?;
        reader.read_exact(&mut storage).with_context(what)?;
        let tensor = view.gather(&storage).with_context(what)?;
        tensors.insert(name, tensor);
    }
    ensure!(!tensors.is_empty(), "the file holds no tensors");
    Ok(Contents { tensors, config: None, notes: Vec::new() })
}

/// A file of `f32` tensors with `note` in its header, which [`note`] gives back.
///
/// # Errors
/// If a tensor has not as many elements as its shape says.
pub fn encode(tensors: &BTreeMap<String, Tensor>, note: Option<&str>) -> Result<Vec<u8>> {
    let bytes: Vec<Vec<u8>> =
        tensors.values().map(|tensor| tensor.data.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let mut views = Vec::with_capacity(tensors.len());
    for ((name, tensor), bytes) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes);
        views.push((name, view.with_context(|| format!("the tensor {name}"))?));
    }
    let metadata = note.map(|note| HashMap::from([(NOTE.to_owned(), note.to_owned())]));
    ::safetensors::serialize(views, metadata).context("cannot write safetensors")
}

/// What [`encode`] was given beside the tensors; `None` if there is no such thing.
///
/// # Errors
/// If this is no safetensors file.
pub fn note(file: &[u8]) -> Result<Option<String>> {
    let (_, header) = ::safetensors::SafeTensors::read_metadata(file).context("the safetensors header is damaged")?;
    Ok(header.metadata().as_ref().and_then(|metadata| metadata.get(NOTE).cloned()))
}

fn scalar(dtype: Dtype) -> Result<Scalar> {
    Ok(match dtype {
        Dtype::F64 => Scalar::F64,
        Dtype::F32 => Scalar::F32,
        Dtype::F16 => Scalar::F16,
        Dtype::BF16 => Scalar::Bf16,
        Dtype::I64 => Scalar::I64,
        Dtype::I32 => Scalar::I32,
        Dtype::I16 => Scalar::I16,
        Dtype::I8 => Scalar::I8,
        Dtype::U8 => Scalar::U8,
        Dtype::BOOL => Scalar::Bool,
        other => bail!("its element type {other:?} is not supported"),
    })
}
