//! What is configured, and whether it can be.

use plugin_common::{Pointer, wrong};
use regex_lite::Regex;
use serde::Deserialize;
use tidegate_plugin::Failure;

use crate::find::{Detector, Found};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) fields: Vec<Field>,
    #[serde(default)]
    patterns: Vec<PatternConfig>,
    #[serde(default)]
    pub(crate) headers: Vec<String>,
    #[serde(default)]
    pub(crate) query: Query,
    #[serde(default)]
    pub(crate) body: Body,
    #[serde(default = "redact")]
    pub(crate) secret: String,
}

fn redact() -> String {
    "redact".into()
}

/// What becomes of the query, which is not looked through.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Query {
    #[default]
    Remove,
    Keep,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Body {
    #[default]
    Json,
    Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Field {
    pointer: Option<Pointer>,
    key: Option<String>,
    #[serde(default)]
    pub(crate) action: Action,
    with: Option<String>,
    #[serde(default)]
    pub(crate) required: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    #[default]
    Replace,
    Hash,
    Remove,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternConfig {
    find: Option<Detector>,
    regex: Option<String>,
    #[serde(default)]
    action: Action,
    with: Option<String>,
}

/// What is looked for in texts, and what becomes of it.
pub(crate) struct Pattern {
    what: What,
    pub(crate) action: Action,
    pub(crate) with: String,
}

enum What {
    Known(Detector),
    Regex(Regex),
}

impl Pattern {
    /// What it finds may depend on where a text begins and ends.
    pub(crate) fn is_regex(&self) -> bool {
        matches!(self.what, What::Regex(_))
    }

    /// The first match at or after `from`.
    pub(crate) fn find(&self, text: &str, from: usize) -> Option<Found> {
        match &self.what {
            What::Known(detector) => detector.find(text, from),
            What::Regex(regex) => regex.find_at(text, from).map(|found| Found { start: found.start(), end: found.end() }),
        }
    }
}

/// What stands in place of what was found.
pub(crate) const REDACTED: &str = "[redacted]";

impl Config {
    /// The patterns, ready to be looked for.
    pub(crate) fn check(&self) -> Result<Vec<Pattern>, Failure> {
        for (index, field) in self.fields.iter().enumerate() {
            let name = format!("fields[{index}]");
            match (&field.pointer, &field.key) {
                (Some(pointer), None) if pointer.as_str().is_empty() => {
                    return Err(wrong(&format!("{name}.pointer"), "it must not be empty: it would be the whole body"));
                }
                (Some(_), None) | (None, Some(_)) => {}
                _ => return Err(wrong(&name, "give either `pointer` or `key`")),
            }
            check_with(&name, field.action, field.with.as_deref())?;
        }
        if self.body == Body::Text && !self.fields.is_empty() {
            return Err(wrong("fields", "a body that is read as text has no fields; use `patterns`, or `body` = `json`"));
        }
        if self.fields.is_empty() && self.patterns.is_empty() && self.headers.is_empty() {
            return Err(wrong("patterns", "nothing is to be redacted: give `fields`, `patterns` or `headers`"));
        }
        self.patterns.iter().enumerate().map(|(index, pattern)| pattern.check(&format!("patterns[{index}]"))).collect()
    }
}

impl PatternConfig {
    fn check(&self, name: &str) -> Result<Pattern, Failure> {
        let what = match (self.find, &self.regex) {
            (Some(detector), None) => What::Known(detector),
            (None, Some(regex)) => {
                let regex = Regex::new(regex).map_err(|error| wrong(&format!("{name}.regex"), error))?;
                if regex.is_match("") {
                    return Err(wrong(&format!("{name}.regex"), "it matches the empty text"));
                }
                What::Regex(regex)
            }
            _ => return Err(wrong(name, "give either `find` or `regex`")),
        };
        check_with(name, self.action, self.with.as_deref())?;
        Ok(Pattern { what, action: self.action, with: self.with.clone().unwrap_or_else(|| REDACTED.into()) })
    }
}

fn check_with(name: &str, action: Action, with: Option<&str>) -> Result<(), Failure> {
    if with.is_some() && action != Action::Replace {
        return Err(wrong(&format!("{name}.with"), "only `replace` puts a text in place"));
    }
    Ok(())
}

impl Field {
    /// What stands in its place.
    pub(crate) fn with(&self) -> &str {
        self.with.as_deref().unwrap_or(REDACTED)
    }

    /// What it is called in an error.
    pub(crate) fn name(&self) -> String {
        match (&self.pointer, &self.key) {
            (Some(pointer), _) => format!("pointer `{}`", pointer.as_str()),
            (_, key) => format!("key `{}`", key.as_deref().unwrap_or_default()),
        }
    }

    /// Where it is.
    pub(crate) fn place(&self) -> Place {
        match (&self.pointer, &self.key) {
            (Some(pointer), _) => Place::At(pointer.parts().collect()),
            (_, key) => Place::Anywhere(key.clone().unwrap_or_default()),
        }
    }
}

/// Where a field is.
pub(crate) enum Place {
    /// At the end of this path, where `*` is any key or index.
    At(Vec<String>),
    /// Under this key, at any depth, in upper or lower case.
    Anywhere(String),
}
