//! Makes `ride.h` from this crate's sources.
//!
//! It understands what the sources use and nothing else: documented constants, `#[repr(i32)]` enumerations, `#[repr(C)]`
//! structures of public fields and `extern "C"` functions, as rustfmt lays them out. Whatever it does not understand
//! makes it panic, so that no declaration is left out or wrong unnoticed.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The sources, in the order of the header: what is used stands before its users.
const SOURCES: [&str; 9] = ["lib", "memory", "status", "model", "classes", "policy", "profile", "session", "steps"];

/// Longest line of a prototype.
const COLUMNS: usize = 110;

/// The header of the crate in folder `root`.
pub(crate) fn generate(root: &Path) -> String {
    for file in fs::read_dir(root.join("src")).expect("src can be read") {
        let name = file.expect("a file").file_name().into_string().expect("UTF-8");
        let known = SOURCES.contains(&name.trim_end_matches(".rs")) || name == "panic.rs";
        assert!(known, "src/{name} has no place in the header: add it to SOURCES");
    }
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut out = String::from("/*\n");
    for line in read("conventions.txt").lines() {
        out += format!(" * {line}").trim_end();
        out.push('\n');
    }
    out += " *\n * Generated from the sources of ride-capi; do not edit.\n */\n";
    out += "#ifndef RIDE_H\n#define RIDE_H\n\n#include <stddef.h>\n#include <stdint.h>\n\n";
    out += "#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n";
    for source in SOURCES {
        let text = read(&format!("src/{source}.rs"));
        let mut lines = Lines { rest: text.lines().collect(), docs: Vec::new() };
        while let Some(line) = lines.next() {
            item(&mut out, &mut lines, line, source);
        }
    }
    out += "#ifdef __cplusplus\n}\n#endif\n\n#endif\n";
    out
}

/// Lines of a source, and the documentation since the last item.
struct Lines<'a> {
    rest: std::collections::VecDeque<&'a str>,
    docs: Vec<&'a str>,
}

impl<'a> Lines<'a> {
    /// The next line that is no documentation.
    fn next(&mut self) -> Option<&'a str> {
        loop {
            let line = self.rest.pop_front()?;
            match line.trim_start().strip_prefix("///") {
                Some(doc) => self.docs.push(doc.strip_prefix(' ').unwrap_or(doc)),
                None => return Some(line),
            }
        }
    }

    /// The documentation collected so far, as far as it is meant for C.
    fn comment(&mut self, indent: &str) -> String {
        let docs = std::mem::take(&mut self.docs);
        let mut docs: Vec<&str> = docs.into_iter().take_while(|doc| !doc.starts_with('#')).collect();
        while docs.last().is_some_and(|doc| doc.is_empty()) {
            docs.pop();
        }
        assert!(!docs.is_empty(), "an item without documentation before {:?}", self.rest.front());
        let text = docs.join(&format!("\n{indent} * ")).replace(" \n", "\n").replace('`', "");
        assert!(!text.contains("[") && !text.contains("::"), "not for readers of C: {text}");
        if docs.len() == 1 {
            format!("{indent}/* {text} */\n")
        } else {
            format!("{indent}/*\n{indent} * {text}\n{indent} */\n")
        }
    }
}

/// Writes what begins with `line`, if it belongs into the header.
fn item(out: &mut String, lines: &mut Lines<'_>, line: &str, source: &str) {
    if let Some(rest) = line.strip_prefix("pub const ") {
        constant(out, lines, rest);
    } else if line == "#[repr(i32)]" {
        enumeration(out, lines);
    } else if line == "#[repr(C)]" {
        structure(out, lines);
    } else if line == "#[unsafe(no_mangle)]" {
        function(out, lines);
    } else if !line.starts_with("#[") {
        assert!(!line.starts_with("pub ") || line.starts_with("pub use "), "{source}.rs: not understood: {line}");
        lines.docs.clear();
    }
}

/// `NAME: TYPE = VALUE;`
fn constant(out: &mut String, lines: &mut Lines<'_>, rest: &str) {
    let (name, rest) = rest.split_once(": ").expect("a type");
    let (_, value) = rest.trim_end_matches(';').split_once(" = ").expect("a value");
    assert!(value.bytes().all(|b| b.is_ascii_digit()), "{name}: {value} is no plain number");
    let comment = lines.comment("");
    // Infallible, as all writing to strings here.
    let _ = writeln!(out, "{comment}#define RIDE_{name} {value}u\n");
}

fn enumeration(out: &mut String, lines: &mut Lines<'_>) {
    let comment = lines.comment("");
    let name = head(lines, "pub enum ");
    let _ = writeln!(out, "{comment}typedef int32_t {};\nenum {{", type_name(&name));
    while let Some(line) = lines.next().filter(|line| *line != "}") {
        let (variant, value) = line.trim().trim_end_matches(',').split_once(" = ").expect("a number for each variant");
        let comment = lines.comment("    ");
        let constant = format!("{}_{}", type_name(&name), snake(variant)).to_ascii_uppercase();
        let _ = writeln!(out, "{comment}    {constant} = {value},");
    }
    // C++98 has no comma at the end.
    out.truncate(out.trim_end_matches(",\n").len());
    *out += "\n};\n\n";
}

fn structure(out: &mut String, lines: &mut Lines<'_>) {
    // Private ones are not for C.
    if lines.rest.iter().find(|line| !line.starts_with("#[")).is_some_and(|line| line.starts_with("struct ")) {
        lines.docs.clear();
        return;
    }
    let comment = lines.comment("");
    let name = type_name(&head(lines, "pub struct "));
    let _ = writeln!(out, "{comment}typedef struct {name} {{");
    while let Some(line) = lines.next().filter(|line| *line != "}") {
        let field = line.trim().trim_end_matches(',').strip_prefix("pub ").expect("public fields");
        let (field, kind) = field.split_once(": ").expect("a type");
        let comment = lines.comment("    ");
        let _ = writeln!(out, "{comment}    {};", declare(kind, field));
    }
    let _ = writeln!(out, "}} {name};\n");
}

/// The name in the line `start NAME {`, which attributes may precede.
fn head(lines: &mut Lines<'_>, start: &str) -> String {
    loop {
        let line = lines.next().expect("an item");
        if let Some(rest) = line.strip_prefix(start) {
            return rest.trim_end_matches(" {").to_owned();
        }
        assert!(line.starts_with("#["), "not understood: {line}");
    }
}

fn function(out: &mut String, lines: &mut Lines<'_>) {
    let comment = lines.comment("");
    let mut text = String::new();
    while !text.ends_with('{') {
        text += lines.next().expect("a body").trim();
        text.push(' ');
        text.truncate(text.trim_end().len() + usize::from(!text.trim_end().ends_with('{')));
    }
    let (_, rest) = text.split_once("extern \"C\" fn ").expect("a C function");
    let (name, rest) = rest.split_once('(').expect("arguments");
    let (arguments, result) = rest.rsplit_once(") -> ").expect("a result");
    let arguments: Vec<String> = split(arguments).iter().map(|(name, kind)| declare(kind, name)).collect();
    let arguments = if arguments.is_empty() { vec!["void".to_owned()] } else { arguments };
    let start = declare(result.trim_end_matches('{').trim(), name);
    let line = format!("{start}({});", arguments.join(", "));
    if line.len() <= COLUMNS {
        let _ = writeln!(out, "{comment}{line}\n");
    } else {
        let _ = writeln!(out, "{comment}{start}(\n    {});\n", arguments.join(",\n    "));
    }
}

/// `a: T, b: U` as pairs.
fn split(arguments: &str) -> Vec<(&str, &str)> {
    let pieces = arguments.split(", ").map(|a| a.trim().trim_end_matches(','));
    pieces.filter(|a| !a.is_empty()).map(|a| a.split_once(": ").expect("a type for each argument")).collect()
}

/// `name` declared with a type of Rust's.
fn declare(kind: &str, name: &str) -> String {
    if let Some(to) = kind.strip_prefix("*mut ") {
        return declare(to, &format!("*{name}"));
    }
    if let Some(to) = kind.strip_prefix("*const ") {
        return format!("const {}", declare(to, &format!("*{name}")));
    }
    if let Some((element, count)) = kind.strip_prefix('[').and_then(|k| k.strip_suffix(']')?.split_once("; ")) {
        return format!("{}[RIDE_{count}]", declare(element, name));
    }
    if let Some(function) = kind.strip_prefix("Option<unsafe extern \"C\" fn(").and_then(|k| k.strip_suffix('>')) {
        let (arguments, result) = function.split_once(')').expect("arguments");
        let arguments: Vec<String> = split(arguments).iter().map(|(name, kind)| declare(kind, name)).collect();
        let result = result.strip_prefix(" -> ").unwrap_or("c_void");
        return format!("{}({})", declare(result, &format!("(*{name})")), arguments.join(", "));
    }
    format!("{} {name}", type_name(kind))
}

fn type_name(kind: &str) -> String {
    match kind.rsplit("::").next().unwrap_or(kind) {
        "c_char" => "char".into(),
        "c_void" => "void".into(),
        "usize" => "size_t".into(),
        "u8" | "u32" | "u64" | "i32" => format!("{}_t", kind.replace('u', "uint").replace("i3", "int3")),
        "f32" => "float".into(),
        camel => {
            assert!(camel.starts_with(|c: char| c.is_ascii_uppercase()), "no C type for {kind}");
            let name = snake(camel);
            if name.starts_with("ride_") { name } else { format!("ride_{name}") }
        }
    }
}

/// `SomeName` as `some_name`.
fn snake(camel: &str) -> String {
    let mut out = String::new();
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
