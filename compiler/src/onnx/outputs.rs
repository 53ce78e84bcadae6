//! From the meaning of a graph's outputs to experts, combiner and routers.

use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};

use super::graph::shortened;
use super::value::{Logits, Score, Term, Value};

/// Relative difference up to which factors count as equal: exporters compute 1/3 in single precision.
const TOLERANCE: f64 = 1e-4;

/// What the outputs say about the program.
#[derive(Debug, Default)]
pub(super) struct Program {
    /// One term for each expert, in order.
    pub(super) experts: Vec<Term>,
    /// Weights of the experts in the combined logits; empty for the mean.
    pub(super) weights: Vec<f64>,
    /// Added to the combined logits; empty for nothing.
    pub(super) adjustment: Vec<f64>,
    /// Scores of routers, as many as were found.
    pub(super) scores: Vec<Rc<Score>>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

/// Reads the outputs.
///
/// # Errors
/// Names the output that is none of logits of an expert, combined logits and score of a router.
pub(super) fn read(outputs: &[(String, Value)]) -> Result<Program> {
    let mut program = Program::default();
    let mut combined = Vec::new();
    for (name, value) in outputs {
        let what = || format!("the output {:?}", shortened(name));
        match value {
            Value::Logits(logits) if logits.terms.len() == 1 => program.add(logits).with_context(what)?,
            Value::Logits(logits) => combined.push((name, logits)),
            Value::Stack(stack) => {
                for item in &stack.items {
                    ensure!(item.terms.len() == 1, "{} stacks sums of experts' logits, not the experts' own", what());
                    program.add(item).with_context(what)?;
                }
            }
            Value::Score(score) => program.scores.push(Rc::clone(score)),
            Value::Feature(_) => program.notes.push(format!("{} is a pooled feature and is not needed", what())),
            Value::Plane(_) => {
                bail!("{} is an activation, not logits; is it one part of a split model? Name the folder", what())
            }
            other => {
                bail!("{} is {}; expected logits of experts, their mean, or router scores", what(), other.describe())
            }
        }
    }
    let listed = !program.experts.is_empty();
    for (name, logits) in combined {
        program.combine(logits, listed).with_context(|| format!("the output {:?}", shortened(name)))?;
    }
    ensure!(!program.experts.is_empty(), "no output holds logits");
    program.order_scores()?;
    Ok(program)
}

impl Program {
    /// One expert's own logits.
    fn add(&mut self, logits: &Logits) -> Result<()> {
        let mut term = logits.terms[0].clone();
        if term.scale == 0.0 {
            bail!("its factor is 0");
        }
        // What could not be put into the bias belongs there all the same.
        term.bias.iter_mut().zip(&logits.offset).for_each(|(bias, offset)| *bias += offset / term.scale);
        match self.experts.iter().position(|known| known.same_head(&term)) {
            Some(_) => self.notes.push("an expert's logits are an output twice".to_owned()),
            None => self.experts.push(term),
        }
        Ok(())
    }

    /// Combined logits: their weights, and the experts themselves where no output lists them.
    fn combine(&mut self, logits: &Logits, listed: bool) -> Result<()> {
        let count = logits.terms.len() as f64;
        let scales: Vec<f64> = if listed {
            let own = |expert: &Term| {
                let term = logits.terms.iter().find(|term| term.same_head(expert));
                term.map(|term| term.scale / expert.scale)
            };
            let all = self.experts.iter().map(own).collect::<Option<Vec<f64>>>();
            let all = all.filter(|all| all.len() == logits.terms.len());
            all.context("it combines other experts than those whose logits are outputs")?
        } else {
            logits.terms.iter().map(|term| term.scale).collect()
        };
        let sum: f64 = scales.iter().sum();
        let close = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * b.abs();
        let equal = scales.iter().all(|&scale| close(scale, scales[0]));
        if !listed {
            self.experts.clone_from(&logits.terms);
        }
        if equal {
            // The mean, or a multiple of it: any common factor belongs to the experts.
            if !listed {
                self.experts.iter_mut().for_each(|term| term.scale *= count);
            } else {
                ensure!(
                    close(scales[0] * count, 1.0) || logits.offset.iter().all(|&x| x == 0.0),
                    "it is no mean, and an offset is added to it"
                );
            }
        } else {
            ensure!(
                scales.iter().all(|&scale| scale > 0.0),
                "the weights of the experts in it, {scales:?}, are not all positive"
            );
            ensure!(self.weights.is_empty(), "the experts are combined in two different ways");
            self.weights = scales.iter().map(|scale| scale / sum).collect();
            if !listed {
                // Which part of a factor is the expert's own does not matter: the weighted mean is the same.
                self.experts.iter_mut().for_each(|term| term.scale = sum);
            }
        }
        if logits.offset.iter().any(|&value| value != 0.0) {
            ensure!(self.adjustment.is_empty(), "the logits are adjusted in two different ways");
            self.adjustment.clone_from(&logits.offset);
        }
        Ok(())
    }

    /// The weight of an expert's logits in the answer, and what the sum of the weighted logits is divided by if it is the last
    /// one that runs.
    pub(super) fn weight(&self, expert: usize) -> (f64, f64) {
        match self.weights.get(expert) {
            Some(weight) => (*weight, self.weights[..=expert].iter().sum()),
            None => (1.0, (expert + 1) as f64),
        }
    }

    /// Brings the routers' scores into the order of the experts that they follow.
    pub(super) fn order_scores(&mut self) -> Result<()> {
        if self.scores.is_empty() {
            return Ok(());
        }
        let needed = self.experts.len() - 1;
        let mut ordered: Vec<Option<Rc<Score>>> = vec![None; needed];
        for score in &self.scores {
            let seen = &score.seen;
            let ([term], true) = (&seen.hidden.terms[..], seen.hidden.offset.iter().all(|&x| x == 0.0)) else {
                bail!("a router's hidden layer reads several features")
            };
            ensure!(
                term.layer.unit,
                "the router's hidden layer {:?} reads the feature itself; routers of RIDE's kind read the feature divided \
                 by its norm",
                shortened(&term.layer.name)
            );
            let expert = self.experts.iter().position(|expert| expert.layer.trunk == term.layer.trunk);
            let expert = expert.context("a router's hidden layer reads the feature of no expert")?;
            ensure!(expert < needed, "there is a router behind the last expert");
            self.check_mean(&seen.top.logits, expert)?;
            ensure!(ordered[expert].is_none(), "there are two routers behind expert {expert}");
            ordered[expert] = Some(Rc::clone(score));
        }
        let missing = ordered.iter().position(Option::is_none);
        ensure!(missing.is_none(), "the score of the router behind expert {} is not an output", missing.unwrap_or(0));
        self.scores = ordered.into_iter().flatten().collect();
        Ok(())
    }

    /// A router looks at the mean logits of the experts that have run.
    fn check_mean(&self, logits: &Logits, expert: usize) -> Result<()> {
        let count = expert + 1;
        let each = |known: &Term| {
            let term = logits.terms.iter().find(|term| term.same_head(known));
            term.is_some_and(|term| (term.scale / known.scale * count as f64 - 1.0).abs() <= TOLERANCE)
        };
        ensure!(
            logits.terms.len() == count
                && self.experts[..count].iter().all(each)
                && logits.offset.iter().all(|&value| value == 0.0),
            "the router behind expert {expert} does not look at the mean logits of the first {count} experts"
        );
        Ok(())
    }
}
