//! Typed access to a section of the configuration, with errors that name the key.

use std::ops::RangeInclusive;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use super::config::Config;

/// The `args` of one section of the configuration, such as `arch`.
pub(super) struct Args<'a> {
    section: &'a str,
    /// Who gives them.
    origin: &'static str,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Args<'a> {
    pub(super) fn new(config: &'a Config, section: &'a str) -> Result<Self> {
        let args = config.value.get(section).and_then(|section| section.get("args")).filter(|args| !args.is_null());
        let map = args.map(|args| args.as_object().with_context(|| format!("{section}.args must be an object")));
        Ok(Self { section, origin: config.origin, map: map.transpose().context(config.origin)? })
    }

    /// The value of a key; JSON's null counts as absent, as Python's `None` does in the official code.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    /// A whole number within `range`.
    pub(super) fn count(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = whole(value).filter(|number| range.contains(number));
        let (low, high) = (range.start(), range.end());
        number.map(Some).with_context(|| self.expected(key, &format!("a whole number from {low} to {high}"), value))
    }

    /// A truth value; the official command line writes 0 and 1.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match (value.as_bool(), whole(value)) {
            (Some(flag), _) => Ok(flag),
            (None, Some(0)) => Ok(false),
            (None, Some(1)) => Ok(true),
            _ => bail!(self.expected(key, "true or false", value)),
        }
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number.with_context(|| self.expected(key, "a finite number", value))
    }

    /// A list of finite numbers.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = |value: &Value| value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
        let list = value.as_array().and_then(|list| list.iter().map(number).collect::<Option<Vec<_>>>());
        list.map(Some).with_context(|| self.expected(key, "a list of finite numbers", value))
    }

    /// A list of whole numbers, or a single one.
    pub(super) fn counts(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = match value.as_array() {
            Some(list) => list.iter().map(whole).collect(),
            None => whole(value).map(|number| vec![number]),
        };
        list.map(Some).with_context(|| self.expected(key, "a whole number or a list of them", value))
    }

    fn expected(&self, key: &str, what: &str, value: &Value) -> String {
        let mut shown = value.to_string();
        if shown.len() > 80 {
            shown = shown.chars().take(80).chain("...".chars()).collect();
        }
        format!("{}: {}.args.{key} must be {what}, not {shown}", self.origin, self.section)
    }
}

/// A whole number, also when it is written as a float.
fn whole(value: &Value) -> Option<usize> {
    let float = || value.as_f64().filter(|x| x.fract() == 0.0 && (0.0..=1e15).contains(x)).map(|x| x as u64);
    usize::try_from(value.as_u64().or_else(float)?).ok()
}
