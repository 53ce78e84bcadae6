//! Writes checkpoints for tests, the way PyTorch lays them out.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use serde_json::Value;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::Tensor;

/// Protocol-2 pickles, written opcode by opcode.
#[derive(Default)]
pub(crate) struct Pickler(pub(crate) Vec<u8>);

impl Pickler {
    pub(crate) fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    pub(crate) fn int(&mut self, value: i64) -> &mut Self {
        self.raw(b"\x8a\x08").raw(&value.to_le_bytes())
    }

    pub(crate) fn ints(&mut self, values: &[i64]) -> &mut Self {
        self.raw(b"(");
        for value in values {
            self.int(*value);
        }
        self.raw(b"t")
    }

    pub(crate) fn json(&mut self, value: &Value) -> &mut Self {
        match value {
            Value::Null => self.raw(b"N"),
            Value::Bool(flag) => self.raw(if *flag { b"\x88" } else { b"\x89" }),
            Value::Number(number) => match number.as_i64() {
                Some(number) => self.int(number),
                None => self.raw(b"G").raw(&number.as_f64().unwrap().to_be_bytes()),
            },
            Value::String(text) => self.text(text),
            Value::Array(items) => {
                self.raw(b"](");
                for item in items {
                    self.json(item);
                }
                self.raw(b"e")
            }
            Value::Object(map) => {
                self.raw(b"}(");
                for (key, item) in map {
                    self.text(key).json(item);
                }
                self.raw(b"u")
            }
        }
    }

    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.raw(b".").0.clone()
    }
}

/// A tensor as a view of a storage.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) class: &'static str,
    pub(crate) elements: i64,
    pub(crate) offset: i64,
    pub(crate) shape: Vec<i64>,
    pub(crate) stride: Vec<i64>,
}

impl Entry {
    fn write(&self, to: &mut Pickler) {
        to.text(&self.name).raw(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        to.text("storage").raw(format!("ctorch\n{}\n", self.class).as_bytes()).text(&self.key).text("cpu");
        to.int(self.elements).raw(b"tQ").int(self.offset).ints(&self.shape).ints(&self.stride);
        to.raw(b"\x89ccollections\nOrderedDict\n)RtR");
    }
}

/// A file in the making.
#[derive(Clone, Default)]
pub(crate) struct TestFile {
    /// The model's tensors.
    pub(crate) entries: Vec<Entry>,
    /// Tensors of the optimizer, which nobody is to load.
    pub(crate) optimizer: Vec<Entry>,
    pub(crate) storages: BTreeMap<String, Vec<u8>>,
    /// Goes into a pickled `ConfigParser`.
    pub(crate) config: Option<Value>,
    /// Opcodes of more keys and values beside the state dict.
    pub(crate) extra: Vec<u8>,
    /// Whether the state dict is all there is.
    pub(crate) bare: bool,
}

impl TestFile {
    /// One storage of `f32` for each tensor.
    pub(crate) fn of(state: &BTreeMap<String, Tensor>) -> Self {
        let mut file = Self::default();
        for (index, (name, tensor)) in state.iter().enumerate() {
            let key = index.to_string();
            let bytes = tensor.data.iter().flat_map(|value| value.to_le_bytes()).collect();
            file.storages.insert(key.clone(), bytes);
            file.entries.push(contiguous(name, &key, "FloatStorage", &tensor.shape));
        }
        file
    }

    pub(crate) fn pickle(&self) -> Vec<u8> {
        let mut to = Pickler::new();
        if self.bare {
            self.state(&mut to, &self.entries);
            return to.finish();
        }
        to.raw(b"}(").text("arch").text("ResNet32Model").text("epoch").int(3).text("state_dict");
        self.state(&mut to, &self.entries);
        to.text("optimizer");
        self.state(&mut to, &self.optimizer);
        if let Some(config) = &self.config {
            to.text("config").raw(b"cparse_config\nConfigParser\n)\x81}(").text("_config").json(config);
            to.text("_save_dir").raw(b"cpathlib\nPosixPath\n").text("saved").raw(b"\x85Rub");
        }
        to.raw(&self.extra).raw(b"u").finish()
    }

    fn state(&self, to: &mut Pickler, entries: &[Entry]) {
        to.raw(b"ccollections\nOrderedDict\n)R(");
        entries.iter().for_each(|entry| entry.write(to));
        to.raw(b"u");
    }

    /// The zip archive of PyTorch 1.6 and later.
    pub(crate) fn zip(&self, method: CompressionMethod) -> Vec<u8> {
        let mut parts = vec![("data.pkl".to_string(), self.pickle()), ("byteorder".to_string(), b"little".to_vec())];
        parts.extend(self.storages.iter().map(|(key, bytes)| (format!("data/{key}"), bytes.clone())));
        zip_of(parts.iter().map(|(name, bytes)| (format!("archive/{name}"), bytes.as_slice())), method)
    }

    /// The stream that PyTorch wrote before 1.6.
    pub(crate) fn legacy(&self, element_size: usize) -> Vec<u8> {
        let mut bytes = Pickler::new().raw(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19").finish();
        bytes.extend(Pickler::new().int(1001).finish());
        bytes.extend(Pickler::new().raw(b"}(").text("little_endian").raw(b"\x88u").finish());
        bytes.extend(self.pickle());
        let mut keys = Pickler::new();
        keys.raw(b"](");
        for key in self.storages.keys() {
            keys.text(key);
        }
        bytes.extend(keys.raw(b"e").finish());
        for storage in self.storages.values() {
            bytes.extend(((storage.len() / element_size) as i64).to_le_bytes());
            bytes.extend(storage);
        }
        bytes
    }
}

/// A tensor that is its whole storage.
pub(crate) fn contiguous(name: &str, key: &str, class: &'static str, shape: &[usize]) -> Entry {
    let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    let mut stride = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        stride[i - 1] = stride[i] * shape[i];
    }
    let elements = shape.iter().product();
    Entry { name: name.to_string(), key: key.to_string(), class, elements, offset: 0, shape, stride }
}

pub(crate) fn zip_of<'a>(parts: impl Iterator<Item = (String, &'a [u8])>, method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in parts {
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

pub(crate) fn safetensors_of(state: &BTreeMap<String, Tensor>) -> Vec<u8> {
    use safetensors::tensor::{Dtype, TensorView, serialize};
    let bytes: Vec<(String, &[usize], Vec<u8>)> = state
        .iter()
        .map(|(name, t)| (name.clone(), t.shape.as_slice(), t.data.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("shape and bytes agree"))
    });
    serialize(views, None).unwrap()
}
