//! Truncated and damaged artifacts are refused; sessions refuse wrong memory, images and calls; the self-test sees changes.

use ride_compiler::memory::AlignedBytes;
use ride_runtime::format::VERSION;
use ride_runtime::format::header::{ENTRY_LEN, HEADER_LEN, Kind, field, model};
use ride_runtime::kernels::BACKENDS;
use ride_runtime::op::Op;
use ride_runtime::{Error, Model, Policy, Session};
use ride_tests::built::{self, TARGETS, tiny};
use ride_tests::exercise::{Arena, picture};
use ride_tests::forge::{EXPERT0, EXPERT1, Forge, MODEL, STEM, assert_invalid, fix_checksums};
use ride_tests::synthetic::Recipe;

#[test]
fn every_truncation_is_refused() {
    for target in TARGETS {
        let bytes = tiny(target);
        for len in 0..bytes.len() {
            match Model::parse(&bytes[..len]) {
                Err(Error::Truncated { needed, found, .. }) => assert!(found == len && needed > len),
                other => panic!("{target}: {len} of {} bytes: {other:?}", bytes.len()),
            }
        }
        assert!(Model::parse(&bytes).is_ok());
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for target in TARGETS {
        let mut bytes = tiny(target);
        let entries: Vec<_> = Model::parse(&bytes).expect("a valid artifact").sections().collect();
        for at in 0..bytes.len() {
            let section = entries.iter().find(|e| (e.at..e.at + e.len).contains(&at));
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let error = Model::parse(&bytes).expect_err("a damaged artifact");
                bytes[at] ^= 1 << bit;
                let right = match (at, section, error) {
                    (_, Some(entry), Error::Checksum { section, index }) => {
                        (section, index) == (entry.kind.name(), entry.index)
                    }
                    (0..8, None, Error::NotAnArtifact) | (8..10, None, Error::Version { .. }) => true,
                    (10..12, None, Error::Truncated { .. }) | (12..16, None, Error::Truncated { .. }) => true,
                    (_, None, Error::Checksum { section: "header", .. }) => true,
                    (_, None, Error::Invalid { reason: "bytes between sections are not zero", .. }) => true,
                    _ => false,
                };
                assert!(right, "{target}: bit {bit} of byte {at}: {error:?}");
            }
        }
    }
}

#[test]
fn bytes_behind_the_artifact_do_not_matter() {
    let bytes = tiny("portable");
    for rest in [&[0xFF; 4096][..], &[0], &bytes] {
        let partition = [&bytes[..], rest].concat();
        let partition = AlignedBytes::copy_of(&partition);
        let model = Model::parse(&partition).expect("an artifact at the start");
        assert_eq!(model.bytes(), &bytes[..]);
        let mut arena = Arena::new(model, 0);
        let mut image = vec![0; model.input_len()];
        let vectors = Session::new(model, arena.lend()).and_then(|mut s| s.self_test(&mut image));
        assert!(vectors.is_ok_and(|n| n > 0));
    }
}

#[test]
fn other_files_are_no_artifacts() {
    for bytes in [&b"PK\x03\x04"[..], &[0; 4096], b"RIDE\n\n\x1a\n and more", b"\x7fELF", b"X"] {
        assert_eq!(Model::parse(bytes).err(), Some(Error::NotAnArtifact));
    }
    for bytes in [&b""[..], b"RIDE\r\n\x1a", b"RIDE\r\n\x1a\n"] {
        assert!(matches!(Model::parse(bytes), Err(Error::Truncated { what: "header", .. })), "{bytes:?}");
    }
}

#[test]
fn sections_must_be_those_that_are_announced() {
    let bytes = tiny("portable");
    let forge = Forge::of(&bytes);
    for n in 0..forge.sections.len() {
        let (kind, index, content) = forge.sections[n].clone();
        let mut missing = forge.clone();
        missing.sections.remove(n);
        let name = kind.name();
        // Without a section, it or the one that has moved into its place is named.
        let result = Model::parse(&missing.bytes()).err();
        let named = matches!(result, Some(Error::Invalid { section, reason, .. })
            if section == name && reason.contains("missing"));
        assert!(named, "{name} {index}: {result:?}");
        let mut twice = forge.clone();
        twice.sections.insert(n, (kind, index, content));
        assert!(matches!(Model::parse(&twice.bytes()), Err(Error::Invalid { .. })), "{name} {index} twice");
        let mut swapped = forge.clone();
        swapped.sections.swap(n, (n + 1) % forge.sections.len());
        assert!(matches!(Model::parse(&swapped.bytes()), Err(Error::Invalid { .. })), "{name} {index} swapped");
    }
    let mut more = forge.clone();
    more.sections.push((Kind::Golden, 1, vec![0; 4]));
    assert_invalid("one more", &more.bytes(), "section table", "more sections");
    let three = forge.clone().put(MODEL, model::EXPERTS, &[3]);
    assert_invalid("an expert more than there are", &three.bytes(), "expert", "missing");
    let unrouted = forge.clone().put(MODEL, model::ROUTED, &[0]);
    assert_invalid("a router that nobody asks for", &unrouted.bytes(), "golden", "not in its place");
    let one = forge.put(MODEL, model::EXPERTS, &[1]);
    assert_invalid("a router behind a single expert", &one.bytes(), "model", "routing flag");
}

/// The raw table, which the writer cannot get wrong.
#[test]
fn wrong_tables_are_refused() {
    let good = tiny("portable");
    let entry = |n: usize, at: usize| HEADER_LEN + n * ENTRY_LEN + at;
    let old = |at: usize| u32::from_le_bytes([good[at], good[at + 1], good[at + 2], good[at + 3]]);
    let forged = |at: usize, value: u32| {
        let mut bytes = good.to_vec();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fix_checksums(&mut bytes);
        bytes
    };
    let table = |what: &str, at: usize, value: u32, reason: &str| {
        assert_invalid(what, &forged(at, value), "section table", reason);
    };
    table("unknown kind", entry(2, 0), 99, "unknown kind");
    table("unknown kind", entry(0, 0), 0, "unknown kind");
    table("section in the table", entry(1, 4), 64, "overlap or are out of order");
    table("section at the end of the address space", entry(3, 4), u32::MAX, "out of order");
    table("section misaligned", entry(3, 4), old(entry(3, 4)) + 4, "aligned offset");
    table("section one step too far", entry(3, 4), old(entry(3, 4)) + 64, "aligned offset");
    table("section up to the end of the address space", entry(3, 8), u32::MAX, "beyond the end");
    table("section one byte too short at the end", entry(7, 8), old(entry(7, 8)) - 1, "bytes after the last section");
    let length = forged(field::LENGTH, u32::MAX);
    assert!(matches!(Model::parse(&length), Err(Error::Truncated { what: "file", needed: 0xFFFF_FFFF, .. })));
    let short = forged(field::LENGTH, 20);
    assert!(matches!(Model::parse(&short), Err(Error::Truncated { what: "section table", .. })));
    let mut many = good.to_vec();
    many[field::SECTIONS..][..2].copy_from_slice(&u16::MAX.to_le_bytes());
    fix_checksums(&mut many);
    assert!(matches!(Model::parse(&many), Err(Error::Truncated { what: "section table", .. })));
    for version in [0u16, VERSION + 1, 0xFFFF] {
        let mut bytes = good.to_vec();
        bytes[field::VERSION..][..2].copy_from_slice(&version.to_le_bytes());
        fix_checksums(&mut bytes);
        let error = Model::parse(&bytes).expect_err("another version");
        assert_eq!(error, Error::Version { found: version, supported: VERSION });
        assert!(error.to_string().contains(&format!("version {version}")), "{error}");
    }
}

#[test]
fn sessions_want_memory_that_fits() {
    let artifact = tiny("x86-64");
    let model = Model::parse(&artifact).expect("a valid artifact");
    let needed = model.arena_len();
    let mut memory = AlignedBytes::zeroed(needed + 64);
    for found in [0, 1, needed - 1] {
        let error = Session::new(model, &mut memory[..found]).expect_err("too little memory");
        assert_eq!(error, Error::ArenaTooSmall { needed, found });
        assert!(error.to_string().contains(&needed.to_string()));
    }
    for shift in [1, 4, 32, 63] {
        assert_eq!(Session::new(model, &mut memory[shift..]).err(), Some(Error::ArenaMisaligned));
    }
    assert!(Session::new(model, &mut memory[..needed]).is_ok());
    assert!(Session::new(model, &mut memory).is_ok(), "more memory than needed");
    for backend in BACKENDS.iter().filter(|b| b.layout != model.layout()) {
        let error = Session::with_backend(model, &mut memory, backend).expect_err("another layout");
        assert_eq!(error, Error::NoKernel { layout: "k8n16" });
    }
    for backend in BACKENDS.iter().filter(|b| b.layout == model.layout()) {
        assert_eq!(Session::with_backend(model, &mut memory, backend).is_ok(), backend.isa.available());
    }
}

#[test]
fn wrong_calls_are_answered() {
    for recipe in [Recipe::tiny(), Recipe::unrouted()] {
        let artifact = built::synthetic(&recipe, ride_targets::host(), 16);
        let model = Model::parse(&artifact).expect("a valid artifact");
        let mut arena = Arena::new(model, 0);
        let mut session = Session::new(model, arena.lend()).expect("a session");
        let pixels = picture(model, 1);
        let needed = model.input_len();
        for found in [0, needed - 1, needed + 1, 2 * needed] {
            let image = vec![0; found];
            let wrong = Some(Error::InputLength { needed, found });
            assert_eq!(session.classify(&image, Policy::All).err(), wrong);
            assert_eq!(session.start(&image).err(), wrong);
            assert_eq!(session.step().err(), Some(Error::OutOfOrder));
            assert_eq!(session.self_test(&mut image.clone()).err(), wrong);
        }
        for requested in [0, 3, usize::MAX] {
            let error = session.classify(&pixels, Policy::Exactly(requested)).expect_err("no such number of experts");
            assert_eq!(error, Error::Experts { requested, available: 2 });
        }
        let threshold = session.classify(&pixels, Policy::Threshold(0.0)).map(|o| o.experts);
        assert_eq!(threshold.err(), (!recipe.routed).then_some(Error::NoRouter));
        session.start(&pixels).expect("a valid image");
        assert_eq!(session.outcome().err(), Some(Error::OutOfOrder));
        session.step().expect("the first expert");
        session.step().expect("the second expert");
        assert_eq!(session.step().err(), Some(Error::OutOfOrder));
        assert_eq!(session.outcome().expect("the answer stays").experts, 2);
    }
}

#[test]
fn the_self_test_sees_changed_weights_and_vectors() {
    for target in TARGETS {
        let forge = Forge::of(&built::synthetic(&Recipe::cifar(), target, 16));
        assert!(self_test(&forge.bytes()).is_ok_and(|vectors| vectors >= 4), "{target}");
        for part in [STEM, EXPERT0, EXPERT1] {
            let (mut seen, mut all) = (0, 0);
            for step in forge.clone().steps(part) {
                let weights = match step.op {
                    Op::Conv(conv) => conv.weights,
                    Op::Head(head) => head.dense.weights,
                    Op::Load(_) | Op::Shortcut(_) | Op::MaxPool(_) | Op::Pool(_) => continue,
                };
                for n in 0..4 {
                    let mut changed = forge.clone();
                    let at = (weights.at + weights.len / 8 * (2 * n + 1)) as usize;
                    let weight = &mut changed.content(part.0, part.1)[at];
                    *weight = weight.wrapping_add(64);
                    all += 1;
                    seen += usize::from(matches!(self_test(&changed.bytes()), Err(Error::SelfTest { .. })));
                }
            }
            // A weight may belong to an input that is zero in every vector, or to padding.
            assert!(4 * seen >= 3 * all, "{target} {part:?}: {seen} of {all}");
        }
        // Every field of a vector counts, whichever vector it is in.
        for (vector, byte) in [(0, 0), (0, 4), (1, 8), (2, 12)] {
            let mut changed = forge.clone();
            changed.content(Kind::Golden, 0)[4 + 16 * vector + byte] ^= 1;
            assert_eq!(self_test(&changed.bytes()), Err(Error::SelfTest { vector }), "{target} byte {byte}");
        }
    }
}

fn self_test(bytes: &[u8]) -> Result<usize, Error> {
    let model = Model::parse(bytes).expect("a valid artifact");
    let mut arena = Arena::new(model, 0);
    let mut image = vec![0; model.input_len()];
    Session::new(model, arena.lend()).and_then(|mut session| session.self_test(&mut image))
}
