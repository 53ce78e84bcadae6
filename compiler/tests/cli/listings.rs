//! `targets`, `completions`, help, and readers that go away.

use std::process::Stdio;

use crate::support::{command, fails, json, lab, succeeds, text};

#[test]
fn targets_and_completions_are_printed() {
    let targets = json(&["targets", "--json"]);
    assert_eq!(targets.as_array().unwrap().iter().filter(|t| t["host"] == true).count(), 1);
    assert!(succeeds(&["targets"]).contains("portable"));
    let m4 = json(&["targets", "cortex-m4", "--json"]);
    assert_eq!((&m4["triples"][0], &m4["residual_bits"]), (&"thumbv7em-none-eabihf".into(), &8.into()));
    assert!(succeeds(&["targets", "cortex-m4"]).contains("thumbv7em-none-eabihf"));
    assert!(fails(&["targets", "toaster"], 1).contains("toaster"));
    assert!(fails(&["targets", "absent.toml"], 1).contains("absent.toml"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(succeeds(&["completions", shell]).contains("ride-compile"));
    }
    let help = succeeds(&["--help"]);
    assert!(help.contains("Examples:") && help.contains("Exit codes"), "{help}");
    for verb in ["build", "calibrate", "inspect", "run", "verify", "bench", "completions"] {
        assert!(succeeds(&[verb, "--help"]).contains("Example"), "{verb}");
    }
    for args in [&["frobnicate"][..], &["build"], &["verify", "x.ride"], &["completions", "tcsh"]] {
        fails(args, 1);
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let lab = lab();
    for args in
        [&["completions", "zsh"][..], &["inspect", text(&lab.artifact)], &["inspect", text(&lab.artifact), "--json"]]
    {
        let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
