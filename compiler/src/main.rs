//! `ride-compile`: compiles trained RIDE checkpoints into routed int8 artifacts, and looks after them.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
