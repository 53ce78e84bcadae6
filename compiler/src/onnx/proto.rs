//! From a file to a [`Graph`]: the one place that knows tract's types.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use tract_onnx::pb;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Side;
use tract_onnx::pb::type_proto::Value as Type;
use tract_onnx::prelude::Framework;

use super::graph::{Attribute, Graph, InputInfo, Node, shortened};
use super::limits;
use super::tensor::{Data, Tensor};

/// Protobuf cannot hold more.
const MAX_FILE: u64 = 2 << 30;
/// The standard operators' domain, by either of its names.
const STANDARD: [&str; 2] = ["", "ai.onnx"];
/// Oldest and newest operator sets whose operators are known here.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=24;

/// Reads a file's graph. Weights in files of their own must lie beside it.
///
/// # Errors
/// Names what is wrong: no protobuf, cut off, an operator set that is not known, a tensor that does not fit its shape.
pub(super) fn read(path: &Path) -> Result<Graph> {
    let what = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(what)?;
    let length = file.metadata().with_context(what)?.len();
    ensure!(length <= MAX_FILE, "{} has {length} bytes; an ONNX file has at most 2 GiB", path.display());
    let mut bytes = Vec::new();
    file.by_ref().take(MAX_FILE).read_to_end(&mut bytes).with_context(what)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    parse(&bytes, Some(folder)).with_context(|| format!("{} is no ONNX model that can be taken", path.display()))
}

/// As [`read`], from memory; `folder` is where external weights may lie.
pub(super) fn parse(bytes: &[u8], folder: Option<&Path>) -> Result<Graph> {
    ensure!(!bytes.is_empty(), "the file is empty");
    if bytes.starts_with(b"version https://git-lfs") {
        bail!("this is a git-lfs pointer, not the model itself; fetch the file with `git lfs pull`");
    }
    limits::check(bytes)?;
    let model = tract_onnx::onnx().proto_model_for_read(&mut &bytes[..]).map_err(|e| anyhow::anyhow!("{e:#}"))?;
    let opset = opset(&model)?;
    let producer = [model.producer_name.as_str(), model.producer_version.as_str()].join(" ").trim().to_owned();
    if let Some(function) = model.functions.first() {
        bail!(
            "it defines the function {:?} of its own; export it with functions inlined (onnx.inliner.inline_local_functions)",
            shortened(function.name.as_deref().unwrap_or_default())
        );
    }
    let graph = model.graph.context("it holds no graph; is it an ONNX file?")?;
    ensure!(graph.sparse_initializer.is_empty(), "sparse weights are not supported; store them densely");
    let mut store = External { folder: folder.map(Path::to_path_buf), files: HashMap::new() };
    let mut constants = HashMap::new();
    for tensor in &graph.initializer {
        let name = tensor.name.clone();
        let value = store.tensor(tensor).with_context(|| format!("the weight {:?}", shortened(&name)))?;
        ensure!(constants.insert(name.clone(), value).is_none(), "two weights are called {:?}", shortened(&name));
    }
    let inputs = graph.input.iter().filter(|input| !constants.contains_key(&input.name)).map(input).collect();
    let nodes = graph.node.iter().map(|n| node(n, &mut store)).collect::<Result<Vec<_>>>()?;
    let outputs: Vec<String> = graph.output.iter().map(|output| output.name.clone()).collect();
    ensure!(!outputs.is_empty(), "the graph has no outputs");
    Graph { nodes, constants, inputs, outputs, opset, producer, operators: Vec::new() }.ordered()
}

fn opset(model: &pb::ModelProto) -> Result<i64> {
    let version = model.opset_import.iter().find(|import| STANDARD.contains(&import.domain.as_str()));
    let version = version.context("it names no set of standard operators; is it an ONNX file?")?.version;
    ensure!(
        OPSETS.contains(&version),
        "it uses opset {version}; {} to {} are known: export it with opset 17",
        OPSETS.start(),
        OPSETS.end()
    );
    Ok(version)
}

fn input(info: &pb::ValueInfoProto) -> InputInfo {
    let shape = info.r#type.as_ref().and_then(|t| t.value.as_ref()).and_then(|Type::TensorType(t)| t.shape.as_ref());
    let side = |dim: &pb::tensor_shape_proto::Dimension| match dim.value {
        Some(Side::DimValue(n)) => usize::try_from(n).ok().filter(|&n| n > 0),
        _ => None,
    };
    InputInfo { name: info.name.clone(), shape: shape.map_or(Vec::new(), |s| s.dim.iter().map(side).collect()) }
}

fn node(proto: &pb::NodeProto, store: &mut External) -> Result<Node> {
    let name = if proto.name.is_empty() { proto.output.first() } else { Some(&proto.name) };
    let name = name.cloned().unwrap_or_default();
    let standard = STANDARD.contains(&proto.domain.as_str());
    let op = if standard { proto.op_type.clone() } else { format!("{}.{}", proto.domain, proto.op_type) };
    let mut attributes = BTreeMap::new();
    for attribute in &proto.attribute {
        let value = self::attribute(attribute, store)
            .with_context(|| format!("node {:?} ({op}): attribute {}", shortened(&name), shortened(&attribute.name)))?;
        attributes.insert(attribute.name.clone(), value);
    }
    Ok(Node { name, op, inputs: proto.input.clone(), outputs: proto.output.clone(), attributes })
}

fn attribute(proto: &pb::AttributeProto, store: &mut External) -> Result<Attribute> {
    use pb::attribute_proto::AttributeType as Kind;
    Ok(match proto.r#type() {
        Kind::Int => Attribute::Int(proto.i),
        Kind::Float => Attribute::Float(proto.f),
        Kind::Ints => Attribute::Ints(proto.ints.clone()),
        Kind::Floats => Attribute::Floats(proto.floats.clone()),
        Kind::String => Attribute::Text(String::from_utf8_lossy(&proto.s).into_owned()),
        Kind::Tensor => Attribute::Tensor(store.tensor(proto.t.as_ref().context("it holds no tensor")?)?),
        _ => Attribute::Other,
    })
}

/// Files with weights beside the model.
struct External {
    folder: Option<PathBuf>,
    files: HashMap<String, File>,
}

impl External {
    fn tensor(&mut self, proto: &pb::TensorProto) -> Result<Tensor> {
        let side = |&n: &i64| usize::try_from(n).ok().with_context(|| format!("a side has the length {n}"));
        let shape: Vec<usize> = proto.dims.iter().map(side).collect::<Result<_>>()?;
        let elements = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
        let elements = elements.with_context(|| format!("its shape {shape:?} is too large"))?;
        ensure!(proto.segment.is_none(), "it is stored in segments, which is not supported");
        let kind = DataType::from_i32(proto.data_type);
        let kind = kind.with_context(|| format!("its element type {} is not known", proto.data_type))?;
        let external = proto.data_location == Some(DataLocation::External as i32);
        let read;
        let raw = if external {
            let bytes = width(kind).with_context(|| not_taken(kind))?.checked_mul(elements);
            read = self.read(proto, bytes.context("its size does not fit in memory")?)?;
            read.as_slice()
        } else {
            proto.raw_data.as_slice()
        };
        let data = if raw.is_empty() { typed(proto, kind)? } else { untyped(raw, kind)? };
        let tensor = Tensor { shape, data };
        ensure!(tensor.len() == elements, "it has {} elements, but its shape is {:?}", tensor.len(), tensor.shape);
        let finite = match &tensor.data {
            // An unused bound of a Clip may well be infinite.
            Data::Float(data) => data.len() == 1 || data.iter().all(|value| value.is_finite()),
            Data::Int(_) => true,
        };
        ensure!(finite, "it holds NaN or infinite values");
        Ok(tensor)
    }

    /// Reads exactly `length` bytes of a file beside the model.
    fn read(&mut self, proto: &pb::TensorProto, length: usize) -> Result<Vec<u8>> {
        let entry = |key: &str| proto.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| {
            let parse =
                |text: &str| text.parse::<u64>().map_err(|_| anyhow::anyhow!("its {key} {text:?} is no number"));
            entry(key).map(parse).transpose()
        };
        let location = entry("location").context("it lies in another file, which is not named")?;
        // One plain name: no folders, no way up, no absolute paths.
        let plain = Path::new(location).file_name().is_some_and(|name| name == location)
            && !location.contains(['/', '\\', ':']);
        ensure!(plain, "it lies in {:?}; only files right beside the model are read", shortened(location));
        let folder = self.folder.clone();
        let folder = folder.with_context(|| format!("it lies in the file {:?}", shortened(location)))?;
        let path = folder.join(location);
        let what = || format!("cannot read its file {}", path.display());
        if !self.files.contains_key(location) {
            let kind = std::fs::symlink_metadata(&path).with_context(what)?;
            ensure!(kind.is_file(), "{} is no plain file", path.display());
            self.files.insert(location.to_owned(), File::open(&path).with_context(what)?);
        }
        let file = self.files.get_mut(location).context("the file is not open")?;
        let (offset, size) = (number("offset")?.unwrap_or(0), file.metadata().with_context(what)?.len());
        let said = number("length")?.unwrap_or(length as u64);
        ensure!(
            said == length as u64 && offset.checked_add(said).is_some_and(|end| end <= size),
            "it should have {length} bytes at {offset} of {}, which has {size} (and {said} are announced)",
            path.display()
        );
        let mut bytes = vec![0; length];
        std::io::Seek::seek(file, std::io::SeekFrom::Start(offset)).with_context(what)?;
        file.read_exact(&mut bytes).with_context(what)?;
        Ok(bytes)
    }
}

fn not_taken(kind: DataType) -> String {
    format!("its element type {} is not supported", kind.as_str_name())
}

/// Bytes of an element.
fn width(kind: DataType) -> Option<usize> {
    Some(match kind {
        DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Double | DataType::Int64 => 8,
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 2,
        DataType::Int8 | DataType::Uint8 | DataType::Bool => 1,
        _ => return None,
    })
}

/// Little-endian bytes as numbers.
fn untyped(raw: &[u8], kind: DataType) -> Result<Data> {
    let width = width(kind).with_context(|| not_taken(kind))?;
    ensure!(raw.len().is_multiple_of(width), "its {} bytes are no whole number of elements", raw.len());
    fn each<const N: usize, T>(raw: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
        raw.as_chunks::<N>().0.iter().map(|&bytes| convert(bytes)).collect()
    }
    Ok(match kind {
        DataType::Float => Data::Float(each(raw, f32::from_le_bytes)),
        DataType::Double => Data::Float(each(raw, |b| f64::from_le_bytes(b) as f32)),
        DataType::Float16 => Data::Float(each(raw, |b| f16::from_le_bytes(b).to_f32())),
        DataType::Bfloat16 => Data::Float(each(raw, |b| bf16::from_le_bytes(b).to_f32())),
        DataType::Int64 => Data::Int(each(raw, i64::from_le_bytes)),
        DataType::Int32 => Data::Int(each(raw, |b| i64::from(i32::from_le_bytes(b)))),
        DataType::Uint32 => Data::Int(each(raw, |b| i64::from(u32::from_le_bytes(b)))),
        DataType::Int16 => Data::Int(each(raw, |b| i64::from(i16::from_le_bytes(b)))),
        DataType::Uint16 => Data::Int(each(raw, |b| i64::from(u16::from_le_bytes(b)))),
        DataType::Int8 => Data::Int(each(raw, |[b]: [u8; 1]| i64::from(b as i8))),
        DataType::Uint8 | DataType::Bool => Data::Int(each(raw, |[b]: [u8; 1]| i64::from(b))),
        _ => bail!(not_taken(kind)),
    })
}

/// Numbers from the fields for each type.
fn typed(proto: &pb::TensorProto, kind: DataType) -> Result<Data> {
    let words = &proto.int32_data;
    Ok(match kind {
        DataType::Float => Data::Float(proto.float_data.clone()),
        DataType::Double => Data::Float(proto.double_data.iter().map(|&x| x as f32).collect()),
        DataType::Float16 => Data::Float(words.iter().map(|&x| f16::from_bits(x as u16).to_f32()).collect()),
        DataType::Bfloat16 => Data::Float(words.iter().map(|&x| bf16::from_bits(x as u16).to_f32()).collect()),
        DataType::Int64 => Data::Int(proto.int64_data.clone()),
        DataType::Uint32 => Data::Int(proto.uint64_data.iter().map(|&x| x as i64).collect()),
        _ if width(kind).is_some() => Data::Int(words.iter().map(|&x| i64::from(x)).collect()),
        _ => bail!(not_taken(kind)),
    })
}
