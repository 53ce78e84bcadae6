//! Fronts against brute force, choices, scales.

use ride_calibrate::sampling::SplitMix64;
use ride_runtime::op::Criterion;

use super::axis::{Axis, MAX_CUTS};
use super::*;

const MEASURES: [Measure; 4] = [
    Measure::Assignment,
    Measure::Confidence(Criterion::MaxProbability),
    Measure::Confidence(Criterion::Margin),
    Measure::Confidence(Criterion::Entropy),
];

/// Classes of the made-up images; classes 0 and 1 are few-shot.
const CLASSES: usize = 5;

/// Images whose scores have ties, the ends of their range and now and then no number.
fn random(seed: u64, images: usize, experts: usize, measure: Measure) -> Observations {
    let mut random = SplitMix64::of(&[seed, images as u64]);
    let scale = Scale::new(measure, CLASSES);
    let score = |random: &mut SplitMix64| {
        let step = random.below(9) as f32 / 8.0;
        match measure {
            _ if random.below(20) == 0 => f32::NAN,
            Measure::Assignment => 6.0 * step - 3.0,
            Measure::Confidence(Criterion::MaxProbability) => step,
            Measure::Confidence(_) => 1.5 * step,
        }
    };
    let image = |random: &mut SplitMix64| {
        let label = random.below(CLASSES);
        // More experts are right more often.
        let class = |random: &mut SplitMix64, n: usize| {
            if random.below(6) < 2 + n.min(3) { label } else { random.below(CLASSES) }
        };
        Observation {
            label,
            classes: (0..experts).map(|n| class(random, n)).collect(),
            scores: (1..experts).map(|_| score(random)).collect(),
        }
    };
    Observations {
        images: (0..images).map(|_| image(&mut random)).collect(),
        scales: vec![scale; experts - 1],
        counts: Some(vec![5, 10, 50, 200, 300]),
    }
}

/// Every threshold that can make a difference: the ends of the range, all scores, and points between them.
fn candidates(observations: &Observations, router: usize) -> Vec<f32> {
    let scale = observations.scales[router];
    let mut scores: Vec<f32> =
        observations.images.iter().map(|image| image.scores[router]).filter(|score| !score.is_nan()).collect();
    scores.sort_by(f32::total_cmp);
    scores.dedup();
    let middles: Vec<f32> = scores.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
    scores.extend(middles);
    scores.extend([scale.open(), scale.closed()]);
    scores.retain(|&score| scale.has(score));
    scores
}

/// The best value for each total number of experts, over all combinations of thresholds.
fn brute(observations: &Observations, objective: Objective, min_few: Option<f64>) -> Vec<(f64, f64)> {
    let lists: Vec<Vec<f32>> = (0..observations.scales.len()).map(|router| candidates(observations, router)).collect();
    let mut best: std::collections::BTreeMap<usize, f64> = Default::default();
    let total: usize = lists.iter().map(Vec::len).product();
    for n in 0..total {
        let mut rest = n;
        let pick = |list: &Vec<f32>| {
            let threshold = list[rest % list.len()];
            rest /= list.len();
            threshold
        };
        let thresholds: Vec<f32> = lists.iter().map(pick).collect();
        let point = observations.evaluate(&thresholds, None);
        if min_few.is_none_or(|least| point.score.few.unwrap() >= least - 1e-9) {
            let used: usize = observations.images.iter().map(|i| i.used(&observations.scales, &thresholds)).sum();
            let value = best.entry(used).or_insert(f64::MIN);
            *value = value.max(objective.of(&point));
        }
    }
    let mut front: Vec<(f64, f64)> = Vec::new();
    for (used, value) in best {
        if front.last().is_none_or(|last| value > last.1 + 1e-9) {
            front.push((used as f64 / observations.images.len() as f64, value));
        }
    }
    front
}

#[track_caller]
fn assert_same(points: &[Point], expected: &[(f64, f64)], objective: Objective) {
    let found: Vec<(f64, f64)> = points.iter().map(|point| (point.experts(), objective.of(point))).collect();
    assert_eq!(found.len(), expected.len(), "{found:?} instead of {expected:?}");
    for (found, expected) in found.iter().zip(expected) {
        let near = (found.0 - expected.0).abs() < 1e-9 && (found.1 - expected.1).abs() < 1e-9;
        assert!(near, "{found:?} instead of {expected:?}");
    }
}

#[test]
fn fronts_of_one_and_two_routers_are_those_of_brute_force() {
    for (n, measure) in MEASURES.into_iter().cycle().take(16).enumerate() {
        for (images, experts) in [(1, 2), (13, 2), (60, 2), (2, 3), (17, 3), (40, 3)] {
            let observations = random(n as u64, images, experts, measure);
            for objective in [Objective::Top1, Objective::ClassMean] {
                let points = front(&observations, objective, None, None);
                assert_same(&points, &brute(&observations, objective, None), objective);
                let reachable = points.iter().all(|point| {
                    point.thresholds.iter().zip(&observations.scales).all(|(&t, scale)| scale.has(t))
                        && observations.evaluate(&point.thresholds, None) == *point
                });
                assert!(reachable);
            }
        }
    }
}

#[test]
fn few_shot_accuracy_can_be_guarded() {
    let mut guarded = 0;
    for seed in 0..12 {
        let observations = random(seed, 50, 3, MEASURES[seed as usize % 4]);
        let limits = Limits { max_few_drop: Some(4.0), ..Limits::default() };
        let least = limits.min_few(&observations).unwrap();
        let points = front(&observations, Objective::Top1, Some(least), None);
        let expected = brute(&observations, Objective::Top1, Some(least));
        assert_same(&points, &expected, Objective::Top1);
        guarded += usize::from(expected != brute(&observations, Objective::Top1, None));
        // Alone, the limit asks for the cheapest point that keeps it.
        let all = observations.fixed(3, None);
        let chosen = limits.choose(&points, &all, Objective::Top1);
        assert_eq!(chosen, points.first());
        assert!(points.iter().all(|point| all.score.few.unwrap() - point.score.few.unwrap() <= 4.0 + 1e-9));
    }
    assert!(guarded > 3, "the limit never mattered");
}

#[test]
fn more_routers_are_never_better_than_brute_force_and_never_worse_than_a_fixed_number() {
    let (mut reached, mut all) = (0.0, 0.0);
    for seed in 0..6 {
        let observations = random(seed, 24, 4, MEASURES[seed as usize % 4]);
        let points = front(&observations, Objective::Top1, None, None);
        let expected = brute(&observations, Objective::Top1, None);
        let at = |front: &[(f64, f64)], budget: f64| {
            front.iter().take_while(|point| point.0 <= budget + 1e-9).last().map_or(0.0, |point| point.1)
        };
        let found: Vec<(f64, f64)> = points.iter().map(|point| (point.experts(), point.top1())).collect();
        assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1), "{found:?}");
        for step in 0..=30 {
            let budget = 1.0 + f64::from(step) / 10.0;
            assert!(at(&found, budget) <= at(&expected, budget) + 1e-9);
            (reached, all) = (reached + at(&found, budget), all + at(&expected, budget));
        }
        assert!(at(&found, 1.0) >= observations.evaluate(&points[0].thresholds, None).top1() - 1e-9);
    }
    assert!(reached > 0.97 * all, "{reached} of {all}");
}

#[test]
fn limits_choose_the_best_or_the_cheapest() {
    let observations = random(3, 60, 3, Measure::Confidence(Criterion::Margin));
    let latency = [1.0, 3.0, 4.0];
    let points = front(&observations, Objective::Top1, None, Some(&latency));
    assert!(points.len() > 4, "{}", points.len());
    let all = observations.fixed(3, Some(&latency));
    assert_eq!(all.latency_ms, Some(4.0));
    let choose = |limits: Limits| limits.choose(&points, &all, Objective::Top1).cloned();
    assert_eq!(choose(Limits::default()), None);
    let budget = points[2].experts() + 1e-6;
    let limited = Limits { max_experts: Some(budget), ..Limits::default() };
    assert_eq!(choose(limited), Some(points[2].clone()));
    let best = points.last().unwrap();
    let drop = all.top1() - points[1].top1();
    let cheapest = Limits { max_drop: Some(drop.max(0.0)), ..Limits::default() };
    let chosen = choose(cheapest).unwrap();
    assert!(all.top1() - chosen.top1() <= drop.max(0.0) + 1e-9 && chosen.experts() <= best.experts());
    for point in &points {
        let ms: f64 = point.score.experts.iter().zip(latency).map(|(share, ms)| share * ms).sum();
        assert!((point.latency_ms.unwrap() - ms).abs() < 1e-12);
    }
    let slow = Limits { max_latency_ms: Some(points[1].latency_ms.unwrap()), ..Limits::default() };
    assert!(choose(slow).unwrap().latency_ms.unwrap() <= points[1].latency_ms.unwrap() + 1e-9);
    assert_eq!(choose(Limits { max_latency_ms: Some(0.5), ..Limits::default() }), None);
    let held = held_out(&observations, &limited, Objective::Top1, Some(&latency)).unwrap();
    assert!((1.0..=3.0).contains(&held.mean_experts) && (0.0..=100.0).contains(&held.top1) && held.few.is_some());
    for (limits, part) in [
        (Limits { max_experts: Some(3.5), ..Limits::default() }, "--max-experts"),
        (Limits { max_experts: Some(f64::NAN), ..Limits::default() }, "--max-experts"),
        (Limits { max_drop: Some(-1.0), ..Limits::default() }, "--max-drop"),
        (Limits { max_latency_ms: Some(2.0), ..Limits::default() }, "--latency"),
    ] {
        let error = limits.check(&observations, None).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let unknown = Observations { counts: None, ..observations };
    let few = Limits { max_few_drop: Some(1.0), ..Limits::default() };
    assert!(few.check(&unknown, None).unwrap_err().to_string().contains("--class-counts"));
}

#[test]
fn cuts_do_what_the_runtime_does() {
    for measure in MEASURES {
        let observations = random(8, 80, 2, measure);
        let axis = Axis::new(&observations, 0);
        assert!(axis.cuts.windows(2).all(|pair| pair[0].proceed < pair[1].proceed));
        for cut in &axis.cuts {
            let used = |image: &u32| observations.images[*image as usize].used(&observations.scales, &[cut.threshold]);
            assert!(axis.order[..cut.proceed].iter().all(|image| used(image) == 2), "{measure:?} {cut:?}");
            assert!(axis.order[cut.proceed..].iter().all(|image| used(image) == 1), "{measure:?} {cut:?}");
        }
    }
    // A probability of 1 is as sure as can be: no threshold in the range goes on.
    let mut sure = random(1, 10, 2, Measure::Confidence(Criterion::MaxProbability));
    sure.images.iter_mut().for_each(|image| image.scores[0] = 1.0);
    assert_eq!(front(&sure, Objective::Top1, None, None).len(), 1);
    // Neighbouring numbers have nothing between them.
    for measure in MEASURES {
        let scale = Scale::new(measure, CLASSES);
        let (low, high) = (0.5f32, 0.5f32.next_up());
        let (eager, next) = if scale.proceeds(1.0, 0.5) { (high, low) } else { (low, high) };
        let threshold = scale.between(eager, next);
        assert!(scale.proceeds(eager, threshold) && !scale.proceeds(next, threshold), "{measure:?}");
    }
}

#[test]
fn many_scores_are_thinned_out() {
    let mut observations = random(2, MAX_CUTS + 2000, 2, Measure::Assignment);
    for (n, image) in observations.images.iter_mut().enumerate() {
        image.scores[0] = n as f32;
    }
    let axis = Axis::new(&observations, 0);
    assert_eq!(axis.cuts.len(), MAX_CUTS);
    assert_eq!((axis.cuts[0].proceed, axis.cuts[MAX_CUTS - 1].proceed), (0, MAX_CUTS + 2000));
    let points = front(&observations, Objective::Top1, None, None);
    assert!(
        points.first().unwrap().experts() <= 1.5 && points.last().unwrap().top1() >= observations.fixed(2, None).top1()
    );
}
