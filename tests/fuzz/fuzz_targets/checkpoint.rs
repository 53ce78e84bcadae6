//! Checkpoints: the pickle reader, all three containers and the importer behind them.

#![no_main]

use std::io::{Cursor, Write};

use libfuzzer_sys::fuzz_target;
use ride_calibrate::pickle::{Pickle, Value};
use ride_compiler::{checkpoint, import};
use zip::CompressionMethod::Stored;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// For checkpoints that hold no configuration of their own.
const CONFIG: &[u8] = br#"{"arch": {"type": "ResNet32EAModel", "args": {"num_classes": 10, "num_experts": 2}}}"#;

fuzz_target!(|data: &[u8]| {
    if let Ok((pickle, length)) = Pickle::read_prefix(data) {
        assert!(length <= data.len());
        let mut steps = 1000;
        look(pickle.root(), &mut steps);
    }
    load(data);
    // The checksums of a zip archive would keep out nearly everything, so one is put around the data as well.
    load(&archive(data));
});

fn load(bytes: &[u8]) {
    let checkpoint = checkpoint::from_bytes(bytes, None).or_else(|_| checkpoint::from_bytes(bytes, Some(CONFIG)));
    if let Ok(checkpoint) = checkpoint {
        for (name, tensor) in &checkpoint.tensors {
            assert_eq!(tensor.shape.iter().product::<usize>(), tensor.data.len(), "{name}");
            assert!(tensor.data.iter().all(|value| value.is_finite()), "{name}");
        }
        let _ = import::network(&checkpoint, &import::ImportOptions::default());
    }
}

/// A PyTorch archive with `pickle` and a few storages.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(Stored);
    for (name, bytes) in [("data.pkl", pickle), ("data/0", &[0; 16]), ("data/1", &[1; 8]), ("data/2", &[])] {
        zip.start_file(format!("a/{name}"), options).expect("a short name");
        zip.write_all(bytes).expect("memory suffices");
    }
    zip.finish().expect("a small archive").into_inner()
}

/// Calls every accessor on the value and those below it.
fn look(value: Value<'_>, steps: &mut usize) {
    if *steps == 0 {
        return;
    }
    *steps -= 1;
    let _ = (value.to_string(), value.as_usize(), value.as_str(), value.as_bytes(), value.get("a"));
    let parts = [value.args(), value.state(), value.persistent_id()].into_iter().flatten();
    for part in parts.chain(value.items()).chain(value.entries().map(|(_, item)| item)) {
        look(part, steps);
    }
}
