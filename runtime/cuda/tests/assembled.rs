//! NVIDIA's assembler takes the PTX that is shipped, for every GPU that it may be loaded on.

use std::process::Command;

/// Needs `ptxas` (`device/assemble.sh` says where to get it without a toolkit); says so where it is missing.
#[test]
fn every_gpu_can_load_the_code() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/device/assemble.sh");
    let output = Command::new("bash").arg(script).output().expect("bash");
    let errors = String::from_utf8_lossy(&output.stderr);
    print!("{}{errors}", String::from_utf8_lossy(&output.stdout));
    let skipped = output.status.code() == Some(77);
    assert!(skipped == errors.contains("skipped: there is no ptxas"), "{errors}");
    assert!(skipped || output.status.success(), "{errors}");
}
