//! The PTX that is checked in is what `device/generate.sh` makes of the device code.

use std::process::Command;

use ride_cuda::Path;

/// Needs the compiler that the script names; says so where it is missing.
#[test]
fn ptx_is_up_to_date() {
    let compiler = std::env::var("CLANG").unwrap_or_else(|_| "clang++-14".to_owned());
    if Command::new(&compiler).arg("--version").output().is_err() {
        println!("skipped: there is no {compiler} (Debian: clang-14) to compile runtime/cuda/device with");
        return;
    }
    let folder = std::env::temp_dir().join(format!("ride-ptx-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/device/generate.sh");
    let output = Command::new("bash").arg(script).arg(&folder).output().expect("bash");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let made = Path::ALL.map(|path| std::fs::read_to_string(folder.join(format!("{}.ptx", path.name()))));
    std::fs::remove_dir_all(&folder).expect("the folder can be removed");
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    for (path, text) in Path::ALL.into_iter().zip(made) {
        let same = text.expect("a file") == path.ptx();
        assert!(
            same,
            "runtime/cuda/ptx/{}.ptx is not what the device code compiles to: run runtime/cuda/device/generate.sh",
            path.name()
        );
    }
}
