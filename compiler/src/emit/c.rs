//! The C header and source.

use std::fmt::Write as _;

use ride_runtime::Model;
use ride_runtime::format::ARENA_ALIGN;

use super::{literal, origin};

/// Bytes of the artifact on one line.
const COLUMNS: usize = 20;

/// The header of the artifact called `name`.
pub(super) fn header(model: Model<'_>, name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    let (height, width, channels) = model.input();
    let mut out = format!("/* {} */\n#ifndef {upper}_ARTIFACT_H\n#define {upper}_ARTIFACT_H\n\n", origin(model));
    out += "#include <stdint.h>\n\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n";
    let numbers = [
        ("BYTES", model.bytes().len(), "bytes of the artifact"),
        ("ARENA_BYTES", model.arena_len(), "bytes of the arena"),
        ("ALIGN", ARENA_ALIGN, "alignment of artifact and arena"),
        ("IMAGE_BYTES", model.input_len(), "bytes of an image: height x width x channels, raw unsigned pixels"),
        ("HEIGHT", height, "rows of an image"),
        ("WIDTH", width, "columns of an image"),
        ("CHANNELS", channels, "channels of an image"),
        ("CLASSES", model.classes(), "number of classes"),
        ("EXPERTS", model.experts(), "number of experts"),
    ];
    // Writing to a string cannot fail.
    for (what, value, words) in numbers {
        let _ = writeln!(out, "#define {upper}_{what} {value}u /* {words} */");
    }
    let _ = writeln!(out, "#define {upper}_CHECKSUM 0x{:08x}u /* of header and section table */\n", model.checksum());
    let _ = writeln!(out, "/* The artifact, at a multiple of {upper}_ALIGN. */");
    let _ = writeln!(out, "extern const uint8_t {name}_artifact[{upper}_BYTES];");
    let _ = writeln!(out, "/* Names of the classes in UTF-8; empty where unknown. */");
    let _ = writeln!(out, "extern const char *const {name}_class_names[{upper}_CLASSES];");
    out += "\n#ifdef __cplusplus\n}\n#endif\n#endif\n";
    out
}

/// The source of the artifact called `name`, whose header is the file `header`.
pub(super) fn source(model: Model<'_>, name: &str, header: &str) -> String {
    let mut out = format!("/* {} */\n#include {}\n\n", origin(model), quoted(header));
    out += "\
/* Compile with -DRIDE_ARTIFACT_SECTION='\".name\"' to put the artifact into a section, and so a memory, of its own. */
#if defined(RIDE_ARTIFACT_SECTION)
#define IN_SECTION __attribute__((section(RIDE_ARTIFACT_SECTION)))
#else
#define IN_SECTION
#endif
#if defined(_MSC_VER)
#define ALIGNED(n) __declspec(align(n))
#else
#define ALIGNED(n) __attribute__((aligned(n)))
#endif

";
    // Writing to a string cannot fail.
    let upper = name.to_ascii_uppercase();
    let _ = writeln!(out, "IN_SECTION ALIGNED({ARENA_ALIGN}) const uint8_t {name}_artifact[{upper}_BYTES] = {{");
    for row in model.bytes().chunks(COLUMNS) {
        for byte in row {
            let _ = write!(out, "{byte},");
        }
        out.push('\n');
    }
    out += "};\n\n";
    let _ = writeln!(out, "const char *const {name}_class_names[{upper}_CLASSES] = {{");
    for class in 0..model.classes() {
        let _ = writeln!(out, "    {},", quoted(model.class_name(class)));
    }
    out += "};\n";
    out
}

/// Octal escapes end after three digits, hexadecimal ones would swallow digits that follow.
fn quoted(text: &str) -> String {
    literal(text, |byte| format!("\\{byte:03o}"))
}
