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
