//! `bench --device cuda` where there is no driver, or not the right one.

use std::path::Path;
use std::process::{Command, Output};

fn ride(args: &[&str], library: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ride-compile"));
    command.args(args).env("RIDE_CUDA_LIBRARY", library).output().expect("ride-compile starts")
}

fn artifact(folder: &Path) -> String {
    let out = folder.join("model.ride").to_string_lossy().into_owned();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/models/ride-resnet32-cifar100lt");
    let built = ride(&["build", model, "--target", "jetson-orin", "-o", &out], "");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    out
}

#[test]
fn a_missing_driver_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let artifact = artifact(folder.path());
    for (library, part) in [("/nowhere/libcuda.so.1", "no NVIDIA driver"), ("libc.so.6", "no cuInit")] {
        let output = ride(&["bench", &artifact, "--device", "cuda", "--seconds", "0.1"], library);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(part) && message.contains("--device cuda"), "{message}");
        assert!(output.stdout.is_empty());
    }
    let both = ride(&["bench", &artifact, "--device", "cuda", "--threads", "2"], "");
    assert!(!both.status.success(), "threads are the CPU's");
}
