//! `ride-compile completions`: completion scripts for shells.

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use super::ui::{Ui, print};

/// Print a completion script for a shell
#[derive(Args)]
#[command(after_help = "\
Example:
  ride-compile completions bash > ~/.local/share/bash-completion/completions/ride-compile")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, _: &mut Ui) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "ride-compile", &mut script);
    print(&script)
}
