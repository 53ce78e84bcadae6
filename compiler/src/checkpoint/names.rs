//! From the names in a checkpoint to the official ones.
//!
//! A name loses `module.`, which `DataParallel` adds; then the first rule whose pattern fits changes it, and patterns to
//! ignore drop it; then it loses `backbone.`, which RIDE's model classes add.
//!
//! A pattern stands for the first components of a name. Each of its components is text, in which one `{capture}` stands
//! for any text that is not empty: `backbone.{expert}.{module}` fits `backbone.0.conv1.weight`, and with `to` being
//! `{module}s.{expert}` the name becomes `conv1s.0.weight`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::Tensor;
use crate::description::RenameTable;

/// Rules for the names of tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    rename: Vec<Rule>,
    ignore: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    from: Pattern,
    to: Pattern,
}

/// The first components of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: String,
    components: Vec<Component>,
}

/// Text around at most one capture.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Component {
    before: String,
    capture: Option<String>,
    after: String,
}

impl Names {
    /// Rules of a description.
    ///
    /// # Errors
    /// Names the table and key of a rule that makes no sense.
    pub fn new(rename: &[RenameTable], ignore: &[String]) -> Result<Self> {
        let rule = |(index, rule): (usize, &RenameTable)| {
            let what = |key: &str| format!("[model] rename, rule {}: {key}", index + 1);
            let from = Pattern::parse(&rule.from).with_context(|| what("from"))?;
            let to = Pattern::parse(&rule.to).with_context(|| what("to"))?;
            let captures = from.captures();
            for (at, name) in captures.iter().enumerate() {
                ensure!(!captures[..at].contains(name), "{} has the capture {{{name}}} twice", what("from"));
            }
            if let Some(unknown) = to.captures().into_iter().find(|name| !captures.contains(name)) {
                bail!("{} has {{{unknown}}}, which from ({}) does not have", what("to"), rule.from);
            }
            Ok(Rule { from, to })
        };
        let rename = rename.iter().enumerate().map(rule).collect::<Result<_>>()?;
        let pattern = |text: &String| Pattern::parse(text).context("[model] ignore");
        Ok(Self { rename, ignore: ignore.iter().map(pattern).collect::<Result<_>>()? })
    }

    /// The tensors under their official names, and notes about rules that fit nothing.
    ///
    /// # Errors
    /// If two tensors get the same name.
    pub(super) fn apply(&self, tensors: BTreeMap<String, Tensor>) -> Result<(BTreeMap<String, Tensor>, Vec<String>)> {
        let mut unused: Vec<&Pattern> = self.rename.iter().map(|rule| &rule.from).chain(&self.ignore).collect();
        let mut named = BTreeMap::<String, (String, Tensor)>::new();
        for (original, tensor) in tensors {
            let mut name = strip(&original, "module.").to_owned();
            if let Some((rule, renamed)) = self.rename.iter().find_map(|rule| Some((rule, rule.apply(&name)?))) {
                unused.retain(|pattern| **pattern != rule.from);
                name = renamed;
            } else if let Some(pattern) = self.ignore.iter().find(|pattern| pattern.fit(&name).is_some()) {
                unused.retain(|other| *other != pattern);
                continue;
            }
            let name = strip_both(&name).to_owned();
            if let Some((other, _)) = named.get(&name) {
                let rules = if self.rename.is_empty() { "" } else { ", and the rules of [model] rename are followed" };
                bail!(
                    "two tensors are called {name:?} once module. and backbone. are taken off{rules}: {other:?} and \
                     {original:?}"
                );
            }
            named.insert(name, (original, tensor));
        }
        let notes = unused.iter().map(|pattern| format!("the pattern {:?} in [model] fits no tensor", pattern.text));
        let notes = notes.collect();
        Ok((named.into_iter().map(|(name, (_, tensor))| (name, tensor)).collect(), notes))
    }
}

fn strip<'n>(mut name: &'n str, prefix: &str) -> &'n str {
    while let Some(rest) = name.strip_prefix(prefix) {
        name = rest;
    }
    name
}

/// Either prefix may be there, repeatedly.
fn strip_both(mut name: &str) -> &str {
    while let Some(rest) = name.strip_prefix("module.").or_else(|| name.strip_prefix("backbone.")) {
        name = rest;
    }
    name
}

impl Rule {
    /// The new name, if the rule fits.
    fn apply(&self, name: &str) -> Option<String> {
        let (captured, rest) = self.from.fit(name)?;
        let mut components: Vec<String> = Vec::new();
        for Component { before, capture, after } in &self.to.components {
            // Every capture of `to` is one of `from`.
            let value = capture.as_ref().and_then(|capture| captured.get(capture.as_str()).copied()).unwrap_or("");
            components.push(format!("{before}{value}{after}"));
        }
        components.extend(rest.map(str::to_owned));
        Some(components.join("."))
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        let components = text.split('.').map(|part| Component::parse(part).with_context(|| format!("{text:?}")));
        Ok(Self { text: text.to_owned(), components: components.collect::<Result<_>>()? })
    }

    fn captures(&self) -> Vec<&str> {
        self.components.iter().filter_map(|component| component.capture.as_deref()).collect()
    }

    /// What the captures stand for and what follows the pattern, if it fits the beginning of `name`.
    fn fit<'p, 'n>(&'p self, name: &'n str) -> Option<(BTreeMap<&'p str, &'n str>, Option<&'n str>)> {
        let mut captured = BTreeMap::new();
        let mut rest = Some(name);
        for component in &self.components {
            let (part, after) = match rest?.split_once('.') {
                Some((part, after)) => (part, Some(after)),
                None => (rest?, None),
            };
            let value = component.fit(part)?;
            if let Some(capture) = &component.capture {
                captured.insert(capture.as_str(), value);
            }
            rest = after;
        }
        Some((captured, rest))
    }
}

impl Component {
    fn parse(text: &str) -> Result<Self> {
        ensure!(!text.is_empty(), "a component between dots is empty");
        let Some((before, rest)) = text.split_once('{') else {
            ensure!(!text.contains('}'), "a }} without {{");
            return Ok(Self { before: text.to_owned(), capture: None, after: String::new() });
        };
        let (capture, after) = rest.split_once('}').context("a { without }")?;
        ensure!(!capture.is_empty() && !capture.contains('{'), "a capture has a name, as in {{expert}}");
        ensure!(!before.contains('}') && !after.contains(['{', '}']), "a component has one capture at most");
        Ok(Self { before: before.to_owned(), capture: Some(capture.to_owned()), after: after.to_owned() })
    }

    /// What the capture stands for; empty without one.
    fn fit<'n>(&self, part: &'n str) -> Option<&'n str> {
        if self.capture.is_none() {
            return (part == self.before).then_some("");
        }
        let value = part.strip_prefix(self.before.as_str())?.strip_suffix(self.after.as_str())?;
        (!value.is_empty()).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(rename: &[(&str, &str)], ignore: &[&str]) -> Result<Names> {
        let rule = |&(from, to): &(&str, &str)| RenameTable { from: from.into(), to: to.into() };
        Names::new(
            &rename.iter().map(rule).collect::<Vec<_>>(),
            &ignore.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(),
        )
    }

    fn applied(names: &Names, originals: &[&str]) -> Result<(Vec<String>, Vec<String>)> {
        let tensors = originals.iter().map(|name| ((*name).to_owned(), Tensor::default())).collect();
        let (named, notes) = names.apply(tensors)?;
        Ok((named.into_keys().collect(), notes))
    }

    #[test]
    fn prefixes_come_off_without_rules() {
        let all = ["module.backbone.conv1.weight", "module.module.linear.bias", "backbone.bn1.weight"];
        let (named, notes) = applied(&Names::default(), &all).unwrap();
        assert_eq!(named, ["bn1.weight", "conv1.weight", "linear.bias"]);
        assert!(notes.is_empty());
        let error = applied(&Names::default(), &["module.a.w", "backbone.a.w"]).unwrap_err().to_string();
        assert!(error.contains("module.a.w") && error.contains("backbone.a.w"), "{error}");
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rules = [("backbone.{e}.{m}", "{m}s.{e}"), ("classifier.{e}", "linears.{e}"), ("classifier", "unreached")];
        let names = names(&rules, &["MOCO", "head{n}.x"]).unwrap();
        let all =
            ["module.backbone.12.layer1.0.conv1.weight", "classifier.0.bias", "MOCO.0.queue", "head7.x.y", "rest"];
        let (named, notes) = applied(&names, &all).unwrap();
        assert_eq!(named, ["layer1s.12.0.conv1.weight", "linears.0.bias", "rest"]);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("\"classifier\""), "{notes:?}");
    }

    #[test]
    fn two_tensors_of_one_name_are_refused() {
        let names = names(&[("a.{x}", "c.0")], &[]).unwrap();
        let error = applied(&names, &["a.1.w", "a.2.w"]).unwrap_err().to_string();
        assert!(error.contains("rename") && error.contains("a.1.w") && error.contains("a.2.w"), "{error}");
    }

    #[test]
    fn patterns_that_make_no_sense_are_named() {
        for (from, to, part) in [
            ("", "a", "empty"),
            ("a..b", "a", "empty"),
            ("a.{x", "a", "without }"),
            ("a.x}", "a", "without {"),
            ("a.{}", "a", "name"),
            ("a.{x}{y}", "a", "one capture"),
            ("a.{x}.{x}", "a", "twice"),
            ("a.{x}", "b.{y}", "{y}"),
        ] {
            let error = format!("{:#}", names(&[(from, to)], &[]).unwrap_err());
            assert!(error.contains(part) && error.contains("rule 1"), "{from} {to}: {error}");
        }
        let error = format!("{:#}", names(&[], &["a.{"]).unwrap_err());
        assert!(error.contains("ignore"), "{error}");
    }
}
