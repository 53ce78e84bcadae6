//! The Rust module.

use std::fmt::Write as _;

use ride_runtime::Model;

use super::{literal, origin};

/// A module that includes the artifact in file `file` beside it.
pub(super) fn module(model: Model<'_>, file: &str) -> String {
    let mut out = format!("// {}\n//\n", origin(model));
    out += "// `Session::new(Model::parse(artifact())?, arena)`, where `arena` is a `static mut` of type `Arena`.\n\n";
    let (height, width, channels) = model.input();
    let constants = [
        ("ARENA_BYTES", model.arena_len(), "Bytes of the arena."),
        ("IMAGE_BYTES", model.input_len(), "Bytes of an image: `HEIGHT * WIDTH * CHANNELS` raw unsigned pixels."),
        ("HEIGHT", height, "Rows of an image."),
        ("WIDTH", width, "Columns of an image."),
        ("CHANNELS", channels, "Channels of an image."),
        ("CLASSES", model.classes(), "Number of classes."),
        ("EXPERTS", model.experts(), "Number of experts."),
    ];
    // Writing to a string cannot fail.
    for (name, value, words) in constants {
        let _ = writeln!(out, "/// {words}\n#[allow(dead_code)]\npub const {name}: usize = {value};");
    }
    let _ = writeln!(
        out,
        "/// Checksum of the artifact, as `Model::checksum` gives it.\n#[allow(dead_code)]\npub const CHECKSUM: u32 = 0x{:08x};",
        model.checksum()
    );
    out += "/// Names of the classes; empty where unknown.\n#[allow(dead_code)]\n";
    let _ = writeln!(out, "pub static CLASS_NAMES: [&str; {}] = [", model.classes());
    for class in 0..model.classes() {
        let _ = writeln!(out, "    {},", quoted(model.class_name(class)));
    }
    out += "];\n";
    let _ = write!(
        out,
        "
/// Memory at the alignment that artifacts and arenas want.
#[repr(C, align(64))]
pub struct Aligned<T: ?Sized>(pub T);

/// Memory for a session.
#[allow(dead_code)]
pub type Arena = Aligned<[u8; ARENA_BYTES]>;

// A section of its own, so that a linker script can put the artifact into a flash of its own.
#[cfg_attr(target_os = \"none\", unsafe(link_section = \".rodata.ride_artifact\"))]
static BYTES: Aligned<[u8; {}]> = Aligned(*include_bytes!({}));

/// The artifact.
pub fn artifact() -> &'static [u8] {{
    &BYTES.0
}}
",
        model.bytes().len(),
        quoted(file)
    );
    out
}

fn quoted(text: &str) -> String {
    if text.is_ascii() {
        literal(text, |byte| if byte == b'?' { "?".to_owned() } else { format!("\\x{byte:02x}") })
    } else {
        format!("\"{}\"", text.escape_default())
    }
}
