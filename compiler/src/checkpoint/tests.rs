use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ::zip::CompressionMethod::{Deflated, Stored};
use half::{bf16, f16};
use serde_json::json;

use super::testing::*;
use super::*;

const CONFIG: &[u8] = br#"{"arch": {"type": "ResNet32Model", "args": {}}}"#;

fn small_state() -> BTreeMap<String, Tensor> {
    let tensor = |shape: &[usize], start: f32| {
        let count: usize = shape.iter().product();
        Tensor { shape: shape.to_vec(), data: (0..count).map(|i| start + i as f32 * 0.25).collect() }
    };
    [("conv1.weight", tensor(&[2, 3, 1, 1], -1.0)), ("bn1.bias", tensor(&[4], 7.0)), ("fc.scale", tensor(&[], 0.5))]
        .map(|(name, tensor)| (name.to_string(), tensor))
        .into()
}

/// Every container with the same tensors.
fn containers(state: &BTreeMap<String, Tensor>) -> [(&'static str, Vec<u8>); 4] {
    let file = TestFile::of(state);
    [
        ("zip", file.zip(Stored)),
        ("deflated zip", file.zip(Deflated)),
        ("legacy", file.legacy(4)),
        ("safetensors", safetensors_of(state)),
    ]
}

fn error(bytes: &[u8]) -> String {
    let error = from_bytes(bytes, Some(CONFIG)).expect_err("a broken checkpoint");
    format!("{error:#}")
}

#[track_caller]
fn assert_error(bytes: &[u8], parts: &[&str]) {
    let error = error(bytes);
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn every_container_gives_the_same_tensors() {
    let state = small_state();
    for (name, bytes) in containers(&state) {
        let checkpoint = from_bytes(&bytes, Some(CONFIG)).unwrap();
        assert_eq!(checkpoint.tensors, state, "{name}");
        assert_eq!(checkpoint.config["arch"]["type"], "ResNet32Model", "{name}");
        assert!(checkpoint.notes.is_empty(), "{name}: {:?}", checkpoint.notes);
    }
    let bare = TestFile { bare: true, ..TestFile::of(&state) };
    assert_eq!(from_bytes(&bare.zip(Stored), Some(CONFIG)).unwrap().tensors, state);
}

/// A state dict by itself, where a description says what the configuration would.
#[test]
fn a_bare_state_dict_can_do_without_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let state = small_state();
    let bare = TestFile { bare: true, ..TestFile::of(&state) };
    for (name, bytes) in [("checkpoint.pth.tar", bare.zip(Stored)), ("old.pth", bare.legacy(4))] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        assert!(load(&path).is_err(), "{name}");
        let checkpoint = load_named(folder.path(), Embedded::Optional, &Names::default()).unwrap();
        assert_eq!((checkpoint.tensors, checkpoint.config), (state.clone(), serde_json::Value::Null), "{name}");
        assert_eq!(checkpoint.source.weights, path);
    }
}

#[test]
fn every_element_type_is_read() {
    let values = [1.0f32, -2.5, 0.0, 96.0];
    let whole = [1.0f32, 2.0, 0.0, 96.0];
    let cases: [(&str, Vec<u8>, [f32; 4]); 10] = [
        ("DoubleStorage", values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(), values),
        ("FloatStorage", values.iter().flat_map(|v| v.to_le_bytes()).collect(), values),
        ("HalfStorage", values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(), values),
        ("BFloat16Storage", values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(), values),
        ("LongStorage", whole.iter().flat_map(|v| (*v as i64).to_le_bytes()).collect(), whole),
        ("IntStorage", whole.iter().flat_map(|v| (*v as i32).to_le_bytes()).collect(), whole),
        ("ShortStorage", whole.iter().flat_map(|v| (*v as i16).to_le_bytes()).collect(), whole),
        ("CharStorage", vec![1, 0xff, 0, 96], [1.0, -1.0, 0.0, 96.0]),
        ("ByteStorage", vec![1, 0xff, 0, 96], [1.0, 255.0, 0.0, 96.0]),
        ("BoolStorage", vec![1, 0, 0, 1], [1.0, 0.0, 0.0, 1.0]),
    ];
    for (class, bytes, expected) in cases {
        let size = bytes.len() / 4;
        let entries = vec![contiguous("w", "7", class, &[2, 2])];
        let file = TestFile { entries, storages: [("7".to_string(), bytes)].into(), ..TestFile::default() };
        for bytes in [file.zip(Stored), file.legacy(size)] {
            let checkpoint = from_bytes(&bytes, Some(CONFIG)).unwrap();
            assert_eq!(checkpoint.tensors["w"], Tensor { shape: vec![2, 2], data: expected.to_vec() }, "{class}");
        }
    }
}

#[test]
fn views_share_storages() {
    let numbers: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let view = |name: &str, offset, shape: &[i64], stride: &[i64]| Entry {
        elements: 12,
        offset,
        shape: shape.to_vec(),
        stride: stride.to_vec(),
        ..contiguous(name, "0", "FloatStorage", &[])
    };
    let entries = vec![
        view("transposed", 0, &[3, 4], &[1, 3]),
        view("late", 10, &[2], &[1]),
        view("expanded", 5, &[2, 3], &[0, 0]),
        view("every third", 1, &[2, 2], &[6, 3]),
        view("empty", 99, &[0, 5], &[5, 1]),
        view("scalar", 11, &[], &[]),
    ];
    let file = TestFile { entries, storages: [("0".to_string(), numbers)].into(), ..TestFile::default() };
    for bytes in [file.zip(Stored), file.legacy(4)] {
        let tensors = from_bytes(&bytes, Some(CONFIG)).unwrap().tensors;
        let data = |name: &str| tensors[name].data.clone();
        assert_eq!(data("transposed"), [0.0, 3.0, 6.0, 9.0, 1.0, 4.0, 7.0, 10.0, 2.0, 5.0, 8.0, 11.0]);
        assert_eq!(data("late"), [10.0, 11.0]);
        assert_eq!(data("expanded"), [5.0; 6]);
        assert_eq!(data("every third"), [1.0, 4.0, 7.0, 10.0]);
        assert_eq!((data("empty"), tensors["empty"].shape.as_slice()), (vec![], &[0, 5][..]));
        assert_eq!(data("scalar"), [11.0]);
    }
}

#[test]
fn prefixes_are_taken_off() {
    for name in ["module.backbone.w", "backbone.module.w", "module.module.w", "backbone.w", "w"] {
        let state: BTreeMap<_, _> = [(name.to_string(), Tensor { shape: vec![1], data: vec![3.0] })].into();
        for (container, bytes) in containers(&state) {
            let tensors = from_bytes(&bytes, Some(CONFIG)).unwrap().tensors;
            assert_eq!(tensors.keys().collect::<Vec<_>>(), ["w"], "{name} in {container}");
        }
    }
    let tensor = Tensor { shape: vec![1], data: vec![3.0] };
    let both: BTreeMap<_, _> = [("w".to_string(), tensor.clone()), ("module.w".to_string(), tensor)].into();
    assert_error(&TestFile::of(&both).zip(Stored), &["two tensors", "\"w\""]);
}

#[test]
fn the_optimizer_stays_in_the_file() {
    let mut file = TestFile::of(&small_state());
    // Were it loaded, the missing storage would be an error.
    file.optimizer.push(contiguous("momentum_buffer", "999", "FloatStorage", &[1000]));
    assert_eq!(from_bytes(&file.zip(Stored), Some(CONFIG)).unwrap().tensors, small_state());
}

#[test]
fn the_pickled_configuration_is_the_fallback() {
    let config = json!({"arch": {"type": "ResNet32EAModel", "args": {"s": 30, "lr": 0.5, "norm": true, "x": null}}, "l": ["a", 1]});
    let file = TestFile { config: Some(config.clone()), ..TestFile::of(&small_state()) };
    for bytes in [file.zip(Stored), file.legacy(4)] {
        assert_eq!(from_bytes(&bytes, None).unwrap().config, config);
        assert_eq!(from_bytes(&bytes, Some(CONFIG)).unwrap().config["arch"]["type"], "ResNet32Model");
    }
    let error = from_bytes(&TestFile::of(&small_state()).zip(Stored), None).unwrap_err();
    assert!(error.to_string().contains("no config.json"), "{error}");
}

#[test]
fn files_and_folders_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |name: &str, value: f32| {
        let state: BTreeMap<_, _> = [("w".to_string(), Tensor { shape: vec![1], data: vec![value] })].into();
        let bytes = if name.ends_with("pth") { TestFile::of(&state).zip(Stored) } else { safetensors_of(&state) };
        fs::write(at(name), bytes).unwrap();
    };
    let value = |path: &Path| load(path).map(|checkpoint| checkpoint.tensors["w"].data[0]);
    let message = |path: &Path| format!("{:#}", load(path).unwrap_err());

    assert!(message(&at("nowhere.pth")).contains("nowhere.pth"));
    assert!(message(folder.path()).contains("expected a .pth or .safetensors file"));
    write("model.safetensors", 1.0);
    let error = message(folder.path());
    assert!(error.contains(&at("config.json").display().to_string()), "{error}");
    fs::write(at("config.json"), CONFIG).unwrap();
    assert_eq!(value(folder.path()).unwrap(), 1.0);
    write("checkpoint-epoch9.pth", 2.0);
    assert_eq!(value(folder.path()).unwrap(), 2.0);
    write("checkpoint-epoch10.pth", 3.0);
    let checkpoint = load(folder.path()).unwrap();
    assert_eq!(checkpoint.tensors["w"].data, [3.0]);
    assert!(checkpoint.notes[0].contains("checkpoint-epoch10.pth"), "{:?}", checkpoint.notes);
    assert_eq!(checkpoint.source.config, Some(at("config.json")));
    write("model_best.pth", 4.0);
    assert_eq!(value(folder.path()).unwrap(), 4.0);
    write("checkpoint.pth", 5.0);
    assert_eq!(value(folder.path()).unwrap(), 5.0);
    assert_eq!(value(&at("checkpoint-epoch9.pth")).unwrap(), 2.0);

    fs::write(at("config.json"), "{\"arch\": ").unwrap();
    let error = message(folder.path());
    assert!(error.contains("config.json") && error.contains("line 1"), "{error}");
    fs::write(at("config.json"), "[]").unwrap();
    assert!(message(folder.path()).contains("expected a JSON object"));
}

#[test]
fn weights_that_are_not_finite_are_named() {
    for (value, what) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinite"), (f32::NEG_INFINITY, "infinite")] {
        let mut state = small_state();
        state.get_mut("bn1.bias").unwrap().data[2] = value;
        for (_, bytes) in containers(&state) {
            assert_error(&bytes, &["\"bn1.bias\"", "element 2", what]);
        }
    }
    let entries = vec![contiguous("w", "0", "DoubleStorage", &[1])];
    let file = TestFile {
        entries,
        storages: [("0".to_string(), 1e300f64.to_le_bytes().to_vec())].into(),
        ..TestFile::default()
    };
    assert_error(&file.zip(Stored), &["\"w\"", "infinite"]);
}

#[test]
fn other_files_are_told_apart() {
    assert_error(b"", &["empty"]);
    assert_error(b"<!DOCTYPE html><html>", &["no checkpoint", "<!DOCTYPE"]);
    assert_error(b"version https://git-lfs.github.com/spec/v1\n", &["git-lfs pointer"]);
    assert_error(b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", &["not a PyTorch checkpoint", "a dict of 1"]);
    let parts = |names: &[&str]| zip_of(names.iter().map(|name| (name.to_string(), &b"."[..])), Stored);
    assert_error(&parts(&["a.npy"]), &["no data.pkl", "torch.save"]);
    assert_error(&parts(&["m/data.pkl", "m/constants.pkl"]), &["TorchScript"]);
    let big = [("m/data.pkl".to_string(), &b"."[..]), ("m/byteorder".to_string(), b"big")];
    assert_error(&zip_of(big.into_iter(), Stored), &["byte order", "big"]);
    let module = Pickler::new().raw(b"cmodel.model\nNet\n)\x81}(").text("_modules").raw(b"}ub").finish();
    let whole = zip_of([("m/data.pkl".to_string(), module.as_slice())].into_iter(), Stored);
    assert_error(&whole, &["model.model.Net", "model.state_dict()"]);
    let empty = zip_of([("m/data.pkl".to_string(), &b"}."[..])].into_iter(), Stored);
    assert_error(&empty, &["no tensors", "state_dict"]);
}

#[test]
fn broken_tensors_are_named() {
    let good = contiguous("w", "0", "FloatStorage", &[2, 2]);
    let file = |entry: Entry| TestFile {
        entries: vec![entry],
        storages: [("0".to_string(), vec![0; 16])].into(),
        ..TestFile::default()
    };
    let cases: [(Entry, &str); 9] = [
        (Entry { key: "1".into(), ..good.clone() }, "data/1"),
        (Entry { elements: 5, ..good.clone() }, "has 16 bytes, expected 20"),
        (Entry { elements: i64::MAX, ..good.clone() }, "storage is too large"),
        (Entry { shape: vec![2, 3], ..good.clone() }, "needs 5 elements but the storage has 4"),
        (Entry { offset: 1, ..good.clone() }, "needs 5 elements"),
        (Entry { stride: vec![-1, 1], ..good.clone() }, "hold -1"),
        (Entry { shape: vec![1 << 40, 1 << 40], ..good.clone() }, "too large"),
        (Entry { stride: vec![1], ..good.clone() }, "do not go together"),
        (Entry { class: "ComplexFloatStorage", ..good.clone() }, "ComplexFloatStorage"),
    ];
    for (entry, part) in cases {
        assert_error(&file(entry).zip(Stored), &["\"w\"", part]);
    }
    let sparse = Pickler::new().raw(b"}").text("w").raw(b"ctorch._utils\n_rebuild_sparse_tensor\n)Rs").finish();
    let bytes = zip_of([("m/data.pkl".to_string(), sparse.as_slice())].into_iter(), Stored);
    assert_error(&bytes, &["\"w\"", "_rebuild_sparse_tensor"]);
}

#[test]
fn every_truncation_is_an_error() {
    for (name, bytes) in containers(&small_state()) {
        for length in 0..bytes.len() {
            assert!(from_bytes(&bytes[..length], Some(CONFIG)).is_err(), "{name} of {length} bytes");
        }
    }
}

#[test]
fn flipped_bits_never_panic_and_zip_data_is_checked() {
    let state = small_state();
    for (name, mut bytes) in containers(&state) {
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(checkpoint) = from_bytes(&bytes, Some(CONFIG))
                && name.contains("zip")
            {
                // A name in the central directory may change, a weight may not.
                let same = checkpoint.tensors.iter().all(|(name, tensor)| state.get(name) == Some(tensor));
                assert!(same, "{name}, bit {bit}");
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn bombs_are_refused() {
    // 256 MB of zeros in 260 KB of zip.
    let zeros = vec![0; 1 << 28];
    let entries = vec![contiguous("w", "0", "FloatStorage", &[1 << 26])];
    let file = TestFile { entries, storages: [("0".to_string(), zeros)].into(), ..TestFile::default() };
    assert_error(&file.zip(Deflated), &["\"w\"", "MB that a file of this size may expand to"]);
    // One number, expanded with strides of zero.
    let one = Entry { elements: 1, stride: vec![0, 0], ..contiguous("w", "0", "FloatStorage", &[1 << 20, 1 << 10]) };
    let file = TestFile { entries: vec![one], storages: [("0".to_string(), vec![0; 4])].into(), ..TestFile::default() };
    assert_error(&file.zip(Stored), &["\"w\"", "may expand to"]);
    // Many tensors that share a storage.
    let shared = (0..2000).map(|i| contiguous(&i.to_string(), "0", "FloatStorage", &[1 << 14])).collect();
    let file =
        TestFile { entries: shared, storages: [("0".to_string(), vec![0; 1 << 16])].into(), ..TestFile::default() };
    assert_error(&file.zip(Deflated), &["may expand to"]);
    // A pickle of 128 MB, deflated.
    let pickle = vec![b'0'; 1 << 27];
    let bytes = zip_of([("m/data.pkl".to_string(), pickle.as_slice())].into_iter(), Deflated);
    assert_error(&bytes, &["data.pkl", "at most"]);
    // The header of a safetensors file that claims more than there is.
    let mut bytes = u64::MAX.to_le_bytes().to_vec();
    bytes.extend(b"{\"w\":{}}");
    assert_error(&bytes, &["claims 18446744073709551615 bytes"]);
}

#[test]
fn a_configuration_that_never_ends_is_refused() {
    // A dict that contains itself, and a list that doubles 30 times.
    let cyclic = Pickler::default().text("config").raw(b"}q\x00(").text("arch").raw(b"h\x00u").0.clone();
    let mut doubling = Pickler::default();
    doubling.text("config").raw(b"}(").text("arch").raw(b"]q\x00").raw(&b"](h\x00h\x00eq\x00".repeat(30)).raw(b"u");
    for extra in [cyclic, doubling.0] {
        let file = TestFile { extra, ..TestFile::of(&small_state()) };
        let error = from_bytes(&file.zip(Stored), None).unwrap_err().to_string();
        assert!(error.contains("no config.json"), "{error}");
    }
}

#[test]
fn nothing_is_executed() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("it-ran");
    let command = format!("touch {}", mark.display());
    let extra = Pickler::default().text("x").raw(b"cos\nsystem\n").text(&command).raw(b"\x85R").0.clone();
    let file = TestFile { extra, ..TestFile::of(&small_state()) };
    for bytes in [file.zip(Stored), file.legacy(4)] {
        assert_eq!(from_bytes(&bytes, Some(CONFIG)).unwrap().tensors, small_state());
    }
    assert!(!mark.exists());
}
