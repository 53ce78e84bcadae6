//! Options on combiner, routers and logit adjustment.

use clap::{Args, ValueEnum};
use ride_compiler::description::{
    AdjustmentTable, CombinerKind, CombinerTable, RouterKind, RouterTable, Rules, Values,
};
use ride_runtime::op::Criterion;

/// What can be decided after training; wins over `ride.toml`.
#[derive(Args)]
#[command(next_help_heading = "Combiner and routers (otherwise from ride.toml or the model)")]
pub(crate) struct RulesArgs {
    /// How experts' logits become one answer: mean, sum, or weights of a weighted mean as in 0.2,0.3,0.5
    #[arg(long, value_name = "mean|sum|W,W,...", value_parser = parse_combiner)]
    combiner: Option<CombinerTable>,
    /// What decides whether the next expert runs
    #[arg(long, value_name = "CRITERION")]
    router: Option<RouterName>,
    /// Threshold of the routers, in units of the criterion: one for all or one for each
    #[arg(long, value_name = "T,T,...", value_delimiter = ',', allow_hyphen_values = true)]
    router_threshold: Vec<f32>,
    /// Add -TAU * ln(class frequency in training) to the logits of experts that were trained with plain cross-entropy: one
    /// for all or one for each
    #[arg(long, value_name = "TAU,...", value_delimiter = ',', allow_hyphen_values = true)]
    logit_adjustment: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RouterName {
    /// The largest probability of the combined logits so far is below the threshold
    MaxProbability,
    /// The difference of the two largest logits is below it
    Margin,
    /// The entropy of the probabilities, in nats, is above it
    Entropy,
    /// The model's trained routers
    Assignment,
    /// Nothing: all experts run
    None,
}

/// A kind, or the weights of a weighted mean.
fn parse_combiner(text: &str) -> Result<CombinerTable, String> {
    let plain = |kind| Ok(CombinerTable { kind, weights: None });
    match text {
        "mean" => plain(CombinerKind::Mean),
        "sum" => plain(CombinerKind::Sum),
        weights => {
            let weights: Result<Vec<f32>, _> = weights.split(',').map(|weight| weight.trim().parse()).collect();
            let weights = weights.map_err(|_| "expected mean, sum, or weights as in 0.2,0.3,0.5".to_owned())?;
            Ok(CombinerTable { kind: CombinerKind::Weighted, weights: Some(weights) })
        }
    }
}

impl RulesArgs {
    /// Whether any rule is asked for.
    pub(crate) fn any(&self) -> bool {
        self.rules() != Rules::default()
    }

    /// The measure of confidence that is asked for.
    pub(crate) fn criterion(&self) -> Option<Criterion> {
        match self.router? {
            RouterName::MaxProbability => Some(Criterion::MaxProbability),
            RouterName::Margin => Some(Criterion::Margin),
            RouterName::Entropy => Some(Criterion::Entropy),
            RouterName::Assignment | RouterName::None => None,
        }
    }

    /// The rules where thresholds are yet to be chosen: one that is missing is 0, which every criterion can have.
    pub(crate) fn rules_without_threshold(&self) -> Rules {
        let mut rules = self.rules();
        let missing = self.criterion().is_some() && self.router_threshold.is_empty();
        if let Some(router) = rules.router.as_mut().filter(|_| missing) {
            router.threshold = Some(Values::One(0.0));
        }
        rules
    }

    /// Thresholds that are asked for.
    pub(crate) fn thresholds(&self) -> &[f32] {
        &self.router_threshold
    }

    /// The rules that are asked for.
    pub(crate) fn rules(&self) -> Rules {
        let criterion = self.router.map(|name| match name {
            RouterName::MaxProbability => RouterKind::MaxProbability,
            RouterName::Margin => RouterKind::Margin,
            RouterName::Entropy => RouterKind::Entropy,
            RouterName::Assignment => RouterKind::Assignment,
            RouterName::None => RouterKind::None,
        });
        let router = RouterTable { criterion, threshold: values(&self.router_threshold) };
        let adjustment = values(&self.logit_adjustment).map(|tau| AdjustmentTable { tau, counts: None });
        Rules {
            combiner: self.combiner.clone(),
            router: (router != RouterTable::default()).then_some(router),
            adjustment,
            file: None,
        }
    }
}

fn values<T: Copy>(list: &[T]) -> Option<Values<T>> {
    match list {
        [] => None,
        [one] => Some(Values::One(*one)),
        more => Some(Values::Each(more.to_vec())),
    }
}
