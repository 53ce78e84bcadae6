//! ONNX files: limits, decoding, the search for experts and heads, and the network that comes out.
//!
//! Seeds are the small files of the importer's tests. Mutations of bytes alone mostly break lengths, so one time in two a
//! field's payload is changed in place: everything that holds it keeps its length.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use ride_compiler::import::ImportOptions;
use ride_compiler::onnx::{self, OnnxModel};
use ride_compiler::reference::Executor;
use ride_tests::synthetic::Random;

/// Groups may be nested this deep: model, graph, node, attribute, tensor and what they hold.
const MAX_DEPTH: usize = 8;

fuzz_target!(|data: &[u8]| {
    let Ok(model) = OnnxModel::from_bytes(data) else { return };
    let open = ImportOptions { input_size: Some([16, 16]), ..normalised() };
    for options in [normalised(), open] {
        let Ok(mut imported) = onnx::import(&model, &options) else { continue };
        assert!(imported.apply_rules(&[]).is_ok(), "there are no rules to break");
        let network = &imported.network;
        assert!(!network.experts.is_empty());
        // Whatever is accepted can run; only sizes are looked at here, as images may be large.
        let shapes = network.stem.shapes(network.input.shape).expect("the stem's shapes fit together");
        let stem = shapes[network.stem.output()];
        for expert in &network.experts {
            let shapes = expert.trunk.shapes(stem).expect("the expert's shapes fit together");
            assert_eq!(shapes[expert.trunk.output()].channels, expert.head.features);
        }
        assert!(Executor::new(network).is_ok());
    }
});

fn normalised() -> ImportOptions {
    ImportOptions { mean: Some(vec![0.5]), std: Some(vec![0.25]), ..ImportOptions::default() }
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = Random::new(u64::from(seed));
    if random.below(2) == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut payloads = Vec::new();
    collect(&data[..size], 0, 0, &mut payloads);
    if payloads.is_empty() {
        return fuzzer_mutate(data, size, max_size);
    }
    for _ in 0..=random.below(3) {
        let (at, len) = payloads[random.below(payloads.len())];
        let place = at + random.below(len);
        match random.below(4) {
            0 => data[place] = random.below(256) as u8,
            1 => data[place] ^= 1 << random.below(8),
            2 => data[at..at + len].rotate_left(random.below(len)),
            _ => {
                // What another field of the same length holds: a name, a number, a tensor's bytes.
                let same: Vec<usize> = payloads.iter().filter(|(_, other)| *other == len).map(|(at, _)| *at).collect();
                let from = same[random.below(same.len())];
                data.copy_within(from..from + len, at);
            }
        }
    }
    size
});

/// Places and lengths of payloads in protobuf's wire format: fields of a known length, those inside them, and numbers.
fn collect(bytes: &[u8], base: usize, depth: usize, payloads: &mut Vec<(usize, usize)>) {
    let mut at = 0;
    while at < bytes.len() {
        let Some((key, start)) = varint(bytes, at) else { return };
        let len = match key & 7 {
            0 => varint(bytes, start).map(|(_, end)| (start, end - start)),
            1 => Some((start, 8)),
            2 => varint(bytes, start).and_then(|(len, start)| Some((start, usize::try_from(len).ok()?))),
            5 => Some((start, 4)),
            _ => None,
        };
        let Some((start, len)) = len else { return };
        let Some(payload) = start.checked_add(len).and_then(|end| bytes.get(start..end)) else { return };
        if len > 0 {
            payloads.push((base + start, len));
        }
        if key & 7 == 2 && depth < MAX_DEPTH {
            collect(payload, base + start, depth + 1, payloads);
        }
        at = start + len;
    }
}

/// A number in groups of seven bits, lowest first, and where it ends.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (index, &byte) in bytes.get(at..)?.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32).unwrap_or(0);
        if byte < 0x80 {
            return Some((value, at + index + 1));
        }
    }
    None
}
