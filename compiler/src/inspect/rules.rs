//! Combiner and routers in words, of networks and of artifacts.

use ride_runtime::op::{Criterion, Op, Rule};
use ride_runtime::{Model, PartId};

use crate::network::{Network, Routing};

/// How an artifact combines the logits of its experts.
pub fn combiner(model: Model<'_>) -> String {
    let experts = model.parts().filter(|part| matches!(part.id, PartId::Expert(_)));
    let divisors = experts.filter_map(|part| {
        let heads =
            part.steps().filter_map(|step| if let Op::Head(head) = step.op { Some(head.divisor) } else { None });
        heads.last()
    });
    of_divisors(&divisors.collect::<Vec<_>>())
}

/// As [`combiner`], of a network.
pub(super) fn combiner_of(network: &Network) -> String {
    of_divisors(&network.experts.iter().map(|expert| expert.head.divisor).collect::<Vec<_>>())
}

/// What the sum of logits is divided by after each expert tells how they are combined.
fn of_divisors(divisors: &[f32]) -> String {
    if divisors.iter().zip(1u16..).all(|(&divisor, n)| divisor == f32::from(n)) {
        return "mean".to_owned();
    }
    if divisors.iter().all(|&divisor| divisor == 1.0) {
        return "sum".to_owned();
    }
    let before = [0.0].iter().chain(divisors);
    // Sums of single-precision weights: what is shown of their differences is what was given.
    let weights = divisors.iter().zip(before).map(|(after, before)| format!("{:.4}", after - before));
    let weights: Vec<String> =
        weights.map(|weight| weight.trim_end_matches('0').trim_end_matches('.').to_owned()).collect();
    format!("weighted mean {}", weights.join(" : "))
}

/// When each router of an artifact lets the next expert run; none without routers.
pub fn rules(model: Model<'_>) -> Vec<String> {
    let routers = (0..).map_while(|n| model.router(n));
    let rule = |router: ride_runtime::op::Router| match router.rule {
        Rule::Assignment(_) => assignment(router.threshold),
        Rule::Confidence(criterion) => confidence(criterion, router.threshold),
    };
    routers.map(rule).collect()
}

/// As [`rules`], of a network.
pub(super) fn rules_of(network: &Network) -> Vec<String> {
    match &network.routing {
        Routing::None => Vec::new(),
        Routing::Assignment(routers) => routers.iter().map(|router| assignment(router.threshold)).collect(),
        Routing::Confidence(rules) => rules.iter().map(|rule| confidence(rule.criterion, rule.threshold)).collect(),
    }
}

fn assignment(threshold: f32) -> String {
    format!("trained score > {threshold}")
}

fn confidence(criterion: Criterion, threshold: f32) -> String {
    let relation = if criterion == Criterion::Entropy { '>' } else { '<' };
    format!("{} {relation} {threshold}", criterion.name())
}

/// The rules in one line.
pub fn rules_text(rules: &[String]) -> String {
    match rules {
        [] => "none, all experts run".to_owned(),
        [first, rest @ ..] if rest.iter().all(|rule| rule == first) => format!("next expert runs if {first}"),
        all => format!("next expert runs if {}", all.join(", then ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_tell_the_combiner() {
        assert_eq!(of_divisors(&[1.0, 2.0, 3.0]), "mean");
        assert_eq!(of_divisors(&[1.0]), "mean");
        assert_eq!(of_divisors(&[1.0, 1.0]), "sum");
        assert_eq!(of_divisors(&[0.2, 0.5, 1.0]), "weighted mean 0.2 : 0.3 : 0.5");
    }

    #[test]
    fn equal_rules_are_said_once() {
        let rule = |threshold| confidence(Criterion::Margin, threshold);
        assert_eq!(rules_text(&[rule(2.5), rule(2.5)]), "next expert runs if margin < 2.5");
        assert_eq!(rules_text(&[rule(1.0), rule(2.0)]), "next expert runs if margin < 1, then margin < 2");
        assert_eq!(rules_text(&[]), "none, all experts run");
    }
}
