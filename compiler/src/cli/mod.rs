//! The command line: one verb, one file.

mod bench;
mod budget;
mod build;
mod calibrate;
mod completions;
mod devices;
mod distill;
mod exit;
mod gpu;
mod inputs;
mod inspect;
mod interrupt;
mod limits;
mod refine;
mod rules;
mod run;
mod table;
mod targets;
mod thresholds;
mod train_router;
mod ui;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use ui::Ui;

/// Compiles trained RIDE checkpoints into int8 artifacts that route every sample through as many experts as it needs.
#[derive(Parser)]
#[command(name = "ride-compile", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    output: Output,
}

/// How results are shown.
#[derive(Args)]
#[command(next_help_heading = "Output")]
struct Output {
    /// Print results and errors only: no progress, notes or warnings
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Print the result as JSON on standard output
    #[arg(long, global = true)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  ride-compile build runs/my-ride --data cifar-100-binary -o my-ride.ride
  ride-compile inspect my-ride.ride
  ride-compile run my-ride.ride photo.png
  ride-compile verify my-ride.ride --model runs/my-ride --data cifar-100-binary
  ride-compile bench my-ride.ride

Exit codes: 0 success, 1 error, 2 the result does not fit or a verification failed.
RAYON_NUM_THREADS limits the threads of build, calibrate and verify; results do not depend on it.
`ride-compile help VERB` explains a verb.";

#[derive(Subcommand)]
enum Verb {
    Build(Box<build::BuildArgs>),
    Calibrate(calibrate::CalibrateArgs),
    Inspect(inspect::InspectArgs),
    Run(run::RunArgs),
    Verify(verify::VerifyArgs),
    Thresholds(Box<thresholds::ThresholdsArgs>),
    TrainRouter(Box<train_router::TrainRouterArgs>),
    Bench(bench::BenchArgs),
    Distill(Box<distill::DistillArgs>),
    Targets(targets::TargetsArgs),
    Completions(completions::CompletionsArgs),
}

/// The command with what cannot be said by derive: verbs that share an option of which only some can do without.
fn command() -> Command {
    let with_data = |verb: Command| verb.mut_arg("data", |data| data.required(true));
    let with_artifact = |verb: Command| {
        let help = "Artifact (*.ride), or a float model: checkpoint, ONNX file or the folder that holds it";
        verb.mut_arg("model", |model| model.value_name("ARTIFACT|MODEL").help(help))
    };
    Cli::command()
        .mut_subcommand("calibrate", with_data)
        .mut_subcommand("verify", with_data)
        .mut_subcommand("train-router", with_data)
        .mut_subcommand("thresholds", with_artifact)
}

/// Runs the program.
pub(crate) fn main() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => exit::code(&dispatch(cli)),
        Err(error) => {
            // A closed pipe is no reason to complain.
            let _ = error.print();
            // clap's own code for wrong usage is 2, which means something else here.
            if error.use_stderr() { ExitCode::from(exit::ERROR) } else { ExitCode::SUCCESS }
        }
    }
}

fn dispatch(cli: Cli) -> Result<()> {
    let mut ui = Ui::new(cli.output.quiet, cli.output.json);
    interrupt::install()?;
    match cli.verb {
        Verb::Build(args) => build::run(&args, &mut ui),
        Verb::Calibrate(args) => calibrate::run(&args, &mut ui),
        Verb::Inspect(args) => inspect::run(&args, &mut ui),
        Verb::Run(args) => run::run(&args, &mut ui),
        Verb::Verify(args) => verify::run(&args, &mut ui),
        Verb::Thresholds(args) => thresholds::run(&args, &mut ui),
        Verb::TrainRouter(args) => train_router::run(&args, &mut ui),
        Verb::Bench(args) => bench::run(&args, &mut ui),
        Verb::Distill(args) => distill::run(&args, &mut ui),
        Verb::Targets(args) => targets::run(&args, &mut ui),
        Verb::Completions(args) => completions::run(&args, &mut ui),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_is_consistent() {
        super::command().debug_assert();
    }
}
