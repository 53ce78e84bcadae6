//! `include/ride.h` is what the sources say, and compilers take it.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use support::generate;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn header_is_up_to_date() {
    let path = root().join("include/ride.h");
    let header = generate(root());
    if env::var_os("RIDE_WRITE_HEADER").is_some() {
        fs::write(&path, &header).expect("ride.h can be written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == header,
        "{} is not what the sources say; write it again with\n\n    \
         RIDE_WRITE_HEADER=1 cargo test -p ride-capi --test header\n",
        path.display()
    );
}

/// Compilers with the strictest settings that users may have.
const COMPILERS: [(&str, &[&str], &str); 4] = [
    ("cc", &["-std=c99"], "c"),
    ("cc", &["-std=c11", "-Wconversion", "-Wstrict-prototypes", "-fshort-enums"], "c"),
    ("c++", &["-std=c++98", "-Wno-long-long"], "cpp"),
    ("c++", &["-std=c++17", "-Wold-style-cast"], "cpp"),
];

#[test]
fn header_compiles_alone_and_twice() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    for (compiler, flags, extension) in COMPILERS {
        let source = folder.join(format!("includes{}.{extension}", flags[0]));
        fs::write(&source, "#include \"ride.h\"\n#include \"ride.h\"\nint main(void) { return RIDE_STATUS_OK; }\n")
            .expect("a source can be written");
        let run = Command::new(compiler)
            .args(flags)
            .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", "-I"])
            .arg(root().join("include"))
            .arg(&source)
            .output();
        match run {
            Ok(run) => assert!(
                run.status.success(),
                "{compiler} {flags:?} refuses ride.h:\n{}",
                String::from_utf8_lossy(&run.stderr)
            ),
            Err(error) => println!("skipped: {compiler} {flags:?} cannot be run ({error})"),
        }
    }
}

/// The name of every status in the header, and only of those.
#[test]
fn statuses_have_their_names() {
    let header = fs::read_to_string(root().join("include/ride.h")).expect("ride.h");
    let entries = header.lines().filter_map(|line| line.trim().strip_prefix("RIDE_STATUS_")?.split_once(" = "));
    let mut numbers = Vec::new();
    for (name, number) in entries {
        let number: i32 = number.trim_end_matches(',').parse().expect("a number");
        assert_eq!(text(ride_capi::ride_status_name(number)), format!("RIDE_STATUS_{name}"));
        assert_ne!(text(ride_capi::ride_status_text(number)), "unknown status", "{name}");
        numbers.push(number);
    }
    assert_eq!(numbers.len(), 21);
    for other in (-70..70).filter(|n| !numbers.contains(n)) {
        assert_eq!(text(ride_capi::ride_status_name(other)), "unknown status");
    }
}

fn text(pointer: *const std::ffi::c_char) -> &'static str {
    // SAFETY: names are constants that end with a zero.
    unsafe { std::ffi::CStr::from_ptr(pointer) }.to_str().expect("ASCII")
}
