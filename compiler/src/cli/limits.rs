//! Options on operating points: what may be used up and what may be lost.

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use ride_compiler::budget::{Estimate, parse_time};
use ride_compiler::thresholds::{Limits, Objective};
use ride_runtime::Model;

/// Which operating point is chosen.
#[derive(Args)]
#[command(next_help_heading = "Operating point")]
pub(crate) struct LimitArgs {
    /// Choose the most accurate thresholds that use at most X experts on average
    #[arg(long, value_name = "X")]
    max_experts: Option<f64>,
    /// Choose the most accurate thresholds with at most this expected latency, as in 20ms
    #[arg(long, value_name = "TIME", value_parser = parse_ms)]
    max_latency: Option<f64>,
    /// Lose at most X points of top-1 accuracy to running all experts; alone: choose the cheapest such thresholds
    #[arg(long, value_name = "X")]
    max_drop: Option<f64>,
    /// Lose at most X points of few-shot accuracy to running all experts; alone: choose the cheapest such thresholds
    #[arg(long, value_name = "X")]
    max_few_drop: Option<f64>,
    /// What is to be high
    #[arg(long, value_enum, default_value_t = ObjectiveName::Top1)]
    objective: ObjectiveName,
    /// Measured latency of 1, 2, ... experts, as in 12ms,19ms,26ms (`bench` has it), instead of the target's model
    #[arg(long, value_name = "TIME,...", value_delimiter = ',', value_parser = parse_ms)]
    latency: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ObjectiveName {
    /// Accuracy over all images
    Top1,
    /// Mean of the classes' accuracies, for images that are as long-tailed as training's
    ClassMean,
}

fn parse_ms(text: &str) -> Result<f64, String> {
    parse_time(text).map_err(|error| format!("{error:#}"))
}

impl LimitArgs {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_experts: self.max_experts,
            max_latency_ms: self.max_latency,
            max_drop: self.max_drop,
            max_few_drop: self.max_few_drop,
        }
    }

    pub(crate) fn objective(&self) -> Objective {
        match self.objective {
            ObjectiveName::Top1 => Objective::Top1,
            ObjectiveName::ClassMean => Objective::ClassMean,
        }
    }

    /// Latencies that were measured and passed, if any.
    pub(crate) fn measured(&self, experts: usize) -> Result<Option<Vec<f64>>> {
        ensure!(
            self.latency.is_empty() || self.latency.len() == experts,
            "--latency has {} times, but there are {experts} experts; expected one for 1, 2, ... {experts} experts",
            self.latency.len()
        );
        Ok((!self.latency.is_empty()).then(|| self.latency.clone()))
    }

    /// Milliseconds of 1, 2, ... experts, and where they come from: measured, or by the target's model. Without either there
    /// are none, which is an error if the target's are `asked` for.
    pub(crate) fn latency(
        &self,
        model: Model<'_>,
        target: Option<&str>,
        clock: Option<u64>,
        asked: bool,
    ) -> Result<Option<(Vec<f64>, String)>> {
        if let Some(measured) = self.measured(model.experts())? {
            return Ok(Some((measured, "(as passed with --latency)".to_owned())));
        }
        // An artifact may be for a target of the user's own, whose data file is not at hand.
        let found = match target {
            Some(name) => Some(ride_targets::find(name)?),
            None => ride_targets::find(model.target()).ok(),
        };
        let estimate = found.and_then(|target| Estimate::of(model, &target, clock));
        ensure!(
            estimate.is_some() || !asked,
            "the latency of {} cannot be estimated: its data file has no latency model, or no clock is known (--clock states \
             one); pass measured times with --latency",
            target.unwrap_or(model.target())
        );
        Ok(estimate.map(|estimate| (estimate.latency_ms.clone(), super::budget::basis(&estimate))))
    }
}
