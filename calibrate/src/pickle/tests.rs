use std::hint::black_box;
use std::time::{Duration, Instant};

use super::*;

/// Renders a value as Python would print it; test data is small and without cycles.
fn show(value: Value<'_>) -> String {
    let join = |values: Vec<String>| values.join(", ");
    let items = || join(value.items().map(show).collect());
    match value.kind() {
        Kind::Bytes(bytes) => format!("b'{}'", bytes.escape_ascii()),
        Kind::BigInt(bytes) => format!("big {}", bytes.escape_ascii()),
        Kind::List => format!("[{}]", items()),
        Kind::Tuple => format!("({})", items()),
        Kind::Set => format!("{{{}}}", items()),
        Kind::Dict => join(value.entries().map(|(k, v)| format!("{}: {}", show(k), show(v))).collect()),
        Kind::Object => {
            let (module, name) = value.class().expect("a class");
            format!("{module}.{name}{}", show(value.args().expect("arguments")))
        }
        _ => value.to_string(),
    }
}

fn read(bytes: &[u8]) -> String {
    show(Pickle::read(bytes).expect("a readable pickle").root())
}

fn error(bytes: &[u8]) -> Error {
    Pickle::read(bytes).expect_err("a broken pickle")
}

/// One value as CPython 3.11 pickles it, protocols 0 to 5 (5 differs from 4 in its number only).
const PROTOCOLS: [&[u8]; 6] = [
    b"(dp0\nVa\np1\n(lp2\nI1\naI-2\naI300\naI70000\naF2.5\naNaI01\naI00\nasVt\np3\n(I1\n(I2\nI3\ntp4\n(ttp5\nsVb\np6\nc_codecs\nencode\np7\n(V\\u0000\xff\np8\nVlatin1\np9\ntp10\nRp11\nsVu\np12\nVh\xe9\\U0001f600\\u000a\\u005c\np13\nsVbig\np14\nL-1180591620717411303424L\nsVl\np15\nL1099511627776L\nsVs\np16\nc__builtin__\nfrozenset\np17\n((lp18\nI7\natp19\nRp20\ns.",
    b"}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00G@\x04\x00\x00\x00\x00\x00\x00NI01\nI00\neX\x01\x00\x00\x00tq\x03(K\x01(K\x02K\x03tq\x04)tq\x05X\x01\x00\x00\x00bq\x06c_codecs\nencode\nq\x07(X\x03\x00\x00\x00\x00\xc3\xbfq\x08X\x06\x00\x00\x00latin1q\x09tq\nRq\x0bX\x01\x00\x00\x00uq\x0cX\x09\x00\x00\x00h\xc3\xa9\xf0\x9f\x98\x80\n\\q\x0dX\x03\x00\x00\x00bigq\x0eL-1180591620717411303424L\nX\x01\x00\x00\x00lq\x0fL1099511627776L\nX\x01\x00\x00\x00sq\x10c__builtin__\nfrozenset\nq\x11(]q\x12K\x07atq\x13Rq\x14u.",
    b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00G@\x04\x00\x00\x00\x00\x00\x00N\x88\x89eX\x01\x00\x00\x00tq\x03K\x01K\x02K\x03\x86q\x04)\x87q\x05X\x01\x00\x00\x00bq\x06c_codecs\nencode\nq\x07X\x03\x00\x00\x00\x00\xc3\xbfq\x08X\x06\x00\x00\x00latin1q\x09\x86q\nRq\x0bX\x01\x00\x00\x00uq\x0cX\x09\x00\x00\x00h\xc3\xa9\xf0\x9f\x98\x80\n\\q\x0dX\x03\x00\x00\x00bigq\x0e\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\xc0X\x01\x00\x00\x00lq\x0f\x8a\x06\x00\x00\x00\x00\x00\x01X\x01\x00\x00\x00sq\x10c__builtin__\nfrozenset\nq\x11]q\x12K\x07a\x85q\x13Rq\x14u.",
    b"\x80\x03}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00G@\x04\x00\x00\x00\x00\x00\x00N\x88\x89eX\x01\x00\x00\x00tq\x03K\x01K\x02K\x03\x86q\x04)\x87q\x05X\x01\x00\x00\x00bq\x06C\x02\x00\xffq\x07X\x01\x00\x00\x00uq\x08X\x09\x00\x00\x00h\xc3\xa9\xf0\x9f\x98\x80\n\\q\x09X\x03\x00\x00\x00bigq\n\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\xc0X\x01\x00\x00\x00lq\x0b\x8a\x06\x00\x00\x00\x00\x00\x01X\x01\x00\x00\x00sq\x0ccbuiltins\nfrozenset\nq\x0d]q\x0eK\x07a\x85q\x0fRq\x10u.",
    b"\x80\x04\x95v\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00G@\x04\x00\x00\x00\x00\x00\x00N\x88\x89e\x8c\x01t\x94K\x01K\x02K\x03\x86\x94)\x87\x94\x8c\x01b\x94C\x02\x00\xff\x94\x8c\x01u\x94\x8c\x09h\xc3\xa9\xf0\x9f\x98\x80\n\\\x94\x8c\x03big\x94\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\xc0\x8c\x01l\x94\x8a\x06\x00\x00\x00\x00\x00\x01\x8c\x01s\x94(K\x07\x91\x94u.",
    b"\x80\x05\x95v\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01Jp\x11\x01\x00G@\x04\x00\x00\x00\x00\x00\x00N\x88\x89e\x8c\x01t\x94K\x01K\x02K\x03\x86\x94)\x87\x94\x8c\x01b\x94C\x02\x00\xff\x94\x8c\x01u\x94\x8c\x09h\xc3\xa9\xf0\x9f\x98\x80\n\\\x94\x8c\x03big\x94\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\xc0\x8c\x01l\x94\x8a\x06\x00\x00\x00\x00\x00\x01\x8c\x01s\x94(K\x07\x91\x94u.",
];

/// `[OrderedDict, object that contains itself, old-style object, bytearray]` from CPython 2.7, protocols 0 to 2.
const PYTHON2: [&[u8]; 3] = [
    b"(lp0\nccollections\nOrderedDict\np1\n((lp2\n(lp3\nS'k'\np4\naI1\naa(lp5\nVw\np6\naI2\naatp7\nRp8\naccopy_reg\n_reconstructor\np9\n(cparse_config\nConfig\np10\nc__builtin__\nobject\np11\nNtp12\nRp13\n(dp14\nS'own'\np15\ng13\nsS'lr'\np16\nF0.5\nsba(iparse_config\nOld\np17\n(dp18\nS'x'\np19\nS\"it's \\xff\\n\"\np20\nsbac__builtin__\nbytearray\np21\n(V\x00\xff\np22\nS'latin-1'\np23\ntp24\nRp25\na.",
    b"]q\x00(ccollections\nOrderedDict\nq\x01(]q\x02(]q\x03(U\x01kq\x04K\x01e]q\x05(X\x01\x00\x00\x00wq\x06K\x02eetq\x07Rq\x08ccopy_reg\n_reconstructor\nq\x09(cparse_config\nConfig\nq\nc__builtin__\nobject\nq\x0bNtq\x0cRq\x0d}q\x0e(U\x03ownq\x0fh\x0dU\x02lrq\x10G?\xe0\x00\x00\x00\x00\x00\x00ub(cparse_config\nOld\nq\x11oq\x12}q\x13U\x01xq\x14U\x07it's \xff\nq\x15sbc__builtin__\nbytearray\nq\x16(X\x03\x00\x00\x00\x00\xc3\xbfq\x17U\x07latin-1q\x18tq\x19Rq\x1ae.",
    b"\x80\x02]q\x00(ccollections\nOrderedDict\nq\x01]q\x02(]q\x03(U\x01kq\x04K\x01e]q\x05(X\x01\x00\x00\x00wq\x06K\x02ee\x85q\x07Rq\x08cparse_config\nConfig\nq\x09)\x81q\n}q\x0b(U\x03ownq\x0ch\nU\x02lrq\x0dG?\xe0\x00\x00\x00\x00\x00\x00ub(cparse_config\nOld\nq\x0eoq\x0f}q\x10U\x01xq\x11U\x07it's \xff\nq\x12sbc__builtin__\nbytearray\nq\x13X\x03\x00\x00\x00\x00\xc3\xbfq\x14U\x07latin-1q\x15\x86q\x16Rq\x17e.",
];

#[test]
fn every_protocol_gives_the_same_value() {
    for (protocol, bytes) in PROTOCOLS.into_iter().enumerate() {
        let pickle = Pickle::read(bytes).unwrap();
        let root = pickle.root();
        let text = |key: &str| show(root.get(key).expect("the key is there"));
        assert_eq!(text("a"), "[1, -2, 300, 70000, 2.5, None, true, false]", "protocol {protocol}");
        assert_eq!(text("t"), "(1, (2, 3), ())", "protocol {protocol}");
        assert_eq!(root.get("u").unwrap().as_str(), Some("h\u{e9}\u{1f600}\n\\"), "protocol {protocol}");
        assert_eq!(root.get("b").unwrap().as_bytes().as_deref(), Some(&[0u8, 0xff][..]), "protocol {protocol}");
        assert_eq!(root.get("l").unwrap().as_usize(), Some(1 << 40), "protocol {protocol}");
        assert!(matches!(root.get("big").unwrap().kind(), Kind::BigInt(_)), "protocol {protocol}");
        assert_eq!(root.entries().count(), 7, "protocol {protocol}");
    }
    assert_eq!(read(PROTOCOLS[4]).matches("{7}").count(), 1);
}

#[test]
fn python2_objects_are_inert_data() {
    for (protocol, bytes) in PYTHON2.into_iter().enumerate() {
        let pickle = Pickle::read(bytes).unwrap();
        let [ordered, object, old, array] = [0, 1, 2, 3].map(|i| pickle.root().at(i).expect("four items"));
        assert_eq!(ordered.get("k").and_then(Value::as_i64), Some(1), "protocol {protocol}");
        assert_eq!(ordered.get("w").and_then(Value::as_i64), Some(2), "protocol {protocol}");
        assert_eq!(object.class(), Some(("parse_config", "Config")), "protocol {protocol}");
        let state = object.state().expect("a state");
        assert_eq!(state.get("lr").unwrap().kind(), Kind::Float(0.5), "protocol {protocol}");
        // The object is its own attribute: a cycle.
        assert_eq!(state.get("own").unwrap().class(), object.class(), "protocol {protocol}");
        assert_eq!(old.class(), Some(("parse_config", "Old")), "protocol {protocol}");
        assert_eq!(old.state().unwrap().get("x").unwrap().kind(), Kind::Bytes(b"it's \xff\n"), "protocol {protocol}");
        assert_eq!(array.as_bytes().as_deref(), Some(&[0u8, 0xff][..]), "protocol {protocol}");
    }
}

#[test]
fn a_call_stays_a_pair_of_names() {
    assert_eq!(read(b"cos\nsystem\n(S'touch owned'\ntR."), "os.system(b'touch owned')");
    assert_eq!(read(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R."), "os.system(\"id\")");
    assert_eq!(read(b"(S'id'\nios\nsystem\n."), "os.system(b'id')");
    assert_eq!(read(b"(cos\nsystem\nS'id'\no."), "os.system(b'id')");
    assert_eq!(read(b"\x80\x04cos\nsystem\n)}\x92."), "os.system()");
}

#[test]
fn the_last_of_equal_keys_counts() {
    let pickle = Pickle::read(b"}(U\x01aK\x01U\x01aK\x02u.").unwrap();
    assert_eq!(pickle.root().get("a").and_then(Value::as_i64), Some(2));
    assert!(pickle.root().get("b").is_none());
}

#[test]
fn integers_of_every_width() {
    assert_eq!(read(b"(\x8a\x00\x8a\x01\x80\x8a\x02\xff\x00\x8b\x01\x00\x00\x00\x7ft."), "(0, -128, 255, 127)");
    assert_eq!(read(b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80."), i64::MIN.to_string());
    assert_eq!(read(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."), "big l\\xfc\\x9cF\\xf9 j\\xa8P\\x19");
    assert_eq!(read(b"L-9223372036854775809L\n."), "big -9223372036854775809");
}

#[test]
fn protocol_0_escapes() {
    let pickle = Pickle::read(
        br"S'a\x41\101\0\\\'\t\q'
.",
    );
    assert_eq!(pickle.unwrap().root().kind(), Kind::Bytes(b"aAA\0\\'\t\\q"));
    assert_eq!(read(b"V\\ud83d\\ude00 \\ud83d \\u12\n."), "\"\u{1f600} \u{fffd} \\\\u12\"");
    for broken in [
        &b"S'a\n."[..],
        b"Sa\n.",
        b"S\n.",
        b"S'\n.",
        b"S'\\x4'\n.",
        b"S'\\\n.",
        b"I1a\n.",
        b"I\n.",
        b"Fx\n.",
        b"I--1\n.",
    ] {
        assert_eq!(error(broken).position(), 0, "{broken:?}");
    }
}

#[test]
fn a_persistent_id_is_listed() {
    let pickle = Pickle::read(b"\x80\x02(U\x07storageU\x010tQP7\n\x86.").unwrap();
    let ids: Vec<_> = pickle.persistent_ids().map(show).collect();
    assert_eq!(ids, ["(b'storage', b'0')", "b'7'"]);
    assert_eq!(pickle.root().at(0).unwrap().persistent_id().unwrap().len(), 2);
}

#[test]
fn the_prefix_reader_finds_the_end() {
    let bytes = b"\x80\x02K\x01.\x80\x02K\x02.";
    let (first, length) = Pickle::read_prefix(bytes).unwrap();
    assert_eq!((show(first.root()).as_str(), length), ("1", 5));
    let error = error(bytes);
    assert_eq!(error.position(), 5);
    assert!(error.to_string().contains("5 bytes left over"), "{error}");
}

#[test]
fn every_truncation_is_an_error_with_its_position() {
    for bytes in PROTOCOLS.into_iter().chain(PYTHON2) {
        for length in 0..bytes.len() {
            let error = error(&bytes[..length]);
            assert!(error.is_truncated(), "{length}: {error}");
            assert!(error.position() <= length, "{length}: {error}");
        }
    }
}

#[test]
fn flipped_bits_never_panic() {
    let mut readable = 0;
    for bytes in PROTOCOLS.into_iter().chain(PYTHON2) {
        let mut bytes = bytes.to_vec();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            match Pickle::read(&bytes) {
                Ok(pickle) => {
                    black_box(pickle.root().to_string());
                    readable += 1;
                }
                Err(error) => assert!(error.position() <= bytes.len() && error.to_string().contains("byte ")),
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
    assert!(readable > 0);
}

#[test]
fn stack_and_opcode_errors_say_what_and_where() {
    let cases: [(&[u8], usize, &str); 21] = [
        (b"", 0, "truncated"),
        (b".", 0, "too few values"),
        (b"N", 1, "truncated"),
        (b"N\xff.", 1, "0xff is not a pickle opcode"),
        (b"\x80\x06N.", 0, "protocol 6"),
        (b"Nt.", 1, "no mark"),
        (b"(N\x86.", 2, "too few values"),
        (b"N(N0R.", 4, "too few values"),
        (b"NNa.", 2, "no list"),
        (b"](Nu.", 3, "no value"),
        (b"](NNu.", 4, "no list"),
        (b"N}b.", 2, "no object"),
        (b"h\x05.", 0, "number 5 of the memo"),
        (b"g-1\n.", 0, "memo index"),
        (b"NN\x93.", 2, "must be text"),
        (b"(o.", 1, "without a class"),
        (b"\x82\x01.", 0, "extension codes"),
        (b"\x97.", 0, "out-of-band"),
        (b"X\xff\xff\xff\xffab.", 5, "takes 4294967295 bytes but 3 are left"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", 9, "takes 18446744073709551615 bytes but 1 are left"),
        (b"c\xff\nx\n.", 0, "no class name"),
    ];
    for (bytes, position, reason) in cases {
        let error = error(bytes);
        assert_eq!(error.position(), position, "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn nesting_a_million_deep_is_no_recursion() {
    const DEPTH: usize = 1_000_000;
    let nested = |start: &[u8], open: &[u8], close: &[u8]| {
        let (open, close) = (open.repeat(DEPTH), close.repeat(DEPTH));
        let bytes = [start, &open, &close, b"."].concat();
        drop(black_box(Pickle::read(&bytes).expect("deep but small")));
    };
    nested(b"", b"(", b"t");
    nested(b"", b"(", b"l");
    nested(b"]", b"]", b"a");
    nested(b"N", b"", b"\x85");
    // An object that is the argument of an object, and so on.
    let calls = b"q\x01h\x00h\x01\x85R".repeat(DEPTH / 4);
    nested(&[&b"cos\nsystem\nq\x00N"[..], &calls].concat(), b"", b"");
}

#[test]
fn small_containers_do_not_keep_the_stacks_capacity() {
    let mut bytes = b"(".to_vec();
    bytes.extend(vec![b'N'; 100_000]);
    bytes.extend(b"1(Nt.");
    let pickle = Pickle::read(&bytes).unwrap();
    let capacity = pickle.nodes.iter().map(|node| if let Node::Tuple(items) = node { items.capacity() } else { 0 });
    assert!(capacity.sum::<usize>() < 100);
}

#[test]
fn a_memo_bomb_stays_small() {
    // Each list holds the one before it twice: 2^30000 leaves if it were written out.
    let mut bytes = b"]q\x00".to_vec();
    bytes.extend(b"](h\x00h\x00eq\x00".repeat(30_000));
    bytes.push(b'.');
    let start = Instant::now();
    let pickle = Pickle::read(&bytes).unwrap();
    assert_eq!(pickle.root().to_string(), "a list of 2");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn values_and_references_are_limited() {
    let mut values = b"N0".repeat(MAX_VALUES + 1);
    values.push(b'.');
    assert!(error(&values).to_string().contains("values"));
    let mut references = vec![b'N'];
    references.extend(vec![b'2'; MAX_REFERENCES]);
    assert!(error(&references).to_string().contains("references"));
}
