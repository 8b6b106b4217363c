//! Reads a TOML document so that everything that is wrong with it is found at once, each with its field and line.
//!
//! Deserialisation stops at the first error. So the entry that it stopped at is reported, taken out, and what is left is read
//! again, until it reads.

use std::fmt;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::de::{DeArray, DeTable, DeValue};

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, as a path with dots: `store.redis.mode`; empty for the whole file.
    pub field: String,
    /// Its line, from 1.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// The most faults that one reading reports.
const MAX_FAULTS: usize = 100;

/// A TOML document whose syntax is right.
#[derive(Debug)]
pub struct Document<'i> {
    text: &'i str,
    root: toml::Spanned<DeTable<'i>>,
}

impl<'i> Document<'i> {
    /// Checks the syntax.
    pub fn parse(text: &'i str) -> Result<Self, Vec<Fault>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            return Ok(Self { text, root });
        }
        let fault = |error: &toml::de::Error| Fault {
            field: String::new(),
            line: error.span().map(|span| line_at(text, span.start)),
            message: error.message().to_owned(),
        };
        Err(errors.iter().take(MAX_FAULTS).map(fault).collect())
    }

    /// Puts the texts of secrets in the places of their references, `{ env = "NAME" }` or `{ file = "PATH" }`; `resolve` fetches one.
    /// Places are paths like `auth/keys/*`. What can't be fetched is a fault, and an empty text.
    pub fn resolve_secrets(&mut self, places: &[String], resolve: &Resolve<'_>) -> Vec<Fault> {
        let mut found = Vec::new();
        for place in places {
            resolve_table(self.root.get_mut(), place, resolve, &mut found);
        }
        found.truncate(MAX_FAULTS);
        let fault = |(span, message): (Range<usize>, String)| Fault {
            field: find(self.root.get_ref(), &span).unwrap_or_default(),
            line: Some(line_at(self.text, span.start)),
            message,
        };
        found.into_iter().map(fault).collect()
    }

    /// Reads it as a `T`. Beside faults there may still be a `T`, made of what is right, so that further checks can run.
    pub fn read<T: DeserializeOwned>(&self) -> (Option<T>, Vec<Fault>) {
        let mut root = self.root.clone();
        let mut faults = Vec::new();
        while faults.len() < MAX_FAULTS {
            let error = match T::deserialize(toml::de::Deserializer::from(root.clone())) {
                Ok(value) => return (Some(value), faults),
                Err(error) => error,
            };
            let found = error.span().and_then(|span| {
                let path = find(self.root.get_ref(), &span)?;
                remove(root.get_mut(), &span).then(|| (path, line_at(self.text, span.start)))
            });
            let message = error.message().trim_end().to_owned();
            let Some((field, line)) = found else {
                faults.push(Fault { field: String::new(), line: None, message });
                break;
            };
            faults.push(Fault { field, line: Some(line), message });
        }
        (None, faults)
    }

    /// The line of a field, or of the nearest thing around it that is in the file.
    pub fn line_of(&self, field: &str) -> Option<usize> {
        let mut line = None;
        let mut table = Some(self.root.get_ref());
        let mut array = None;
        for part in field.split(['.', '[']) {
            let next = match part.strip_suffix(']') {
                Some(index) => {
                    let list: Option<&DeArray<'_>> = array.take();
                    list.zip(index.parse::<usize>().ok())
                        .and_then(|(list, index)| list.get(index))
                        .map(|value| (value.span(), value))
                }
                None => table.take().and_then(|table| table.get_key_value(part)).map(|(key, value)| (key.span(), value)),
            };
            let Some((span, value)) = next else { break };
            line = Some(line_at(self.text, span.start));
            match value.get_ref() {
                DeValue::Table(inner) => table = Some(inner),
                DeValue::Array(inner) => array = Some(inner),
                _ => {}
            }
        }
        line
    }
}

/// Fetches a secret by a variable's name or a file's path.
pub type Resolve<'a> = dyn Fn(Option<&str>, Option<&str>) -> Result<String, String> + 'a;

fn resolve_table(table: &mut DeTable<'_>, place: &str, resolve: &Resolve<'_>, found: &mut Vec<(Range<usize>, String)>) {
    let (head, rest) = place.split_once('/').unwrap_or((place, ""));
    for (key, value) in table.iter_mut() {
        if head == "*" || key.get_ref() == head {
            resolve_value(value, rest, resolve, found);
        }
    }
}

fn resolve_value(
    value: &mut toml::Spanned<DeValue<'_>>,
    place: &str,
    resolve: &Resolve<'_>,
    found: &mut Vec<(Range<usize>, String)>,
) {
    let span = value.span();
    if place.is_empty() {
        let part =
            |name: &str| value.get_ref().as_table().and_then(|table| table.get(name)).and_then(|value| value.get_ref().as_str());
        let text = resolve(part("env"), part("file")).unwrap_or_else(|message| {
            found.push((span, message));
            String::new()
        });
        *value.get_mut() = DeValue::String(text.into());
        return;
    }
    match value.get_mut() {
        DeValue::Table(table) => resolve_table(table, place, resolve, found),
        DeValue::Array(list) => {
            if let Some(rest) = place.strip_prefix('*') {
                for item in list.iter_mut() {
                    resolve_value(item, rest.trim_start_matches('/'), resolve, found);
                }
            }
        }
        _ => {}
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|&&byte| byte == b'\n').count() + 1
}

/// The path of the innermost entry at `span`.
fn find(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref().to_string();
        match find_in(value, span) {
            Some(inner) if inner.is_empty() || inner.starts_with('[') => Some(format!("{name}{inner}")),
            Some(inner) => Some(format!("{name}.{inner}")),
            None => covers(&key.span(), span).then_some(name),
        }
    })
}

fn find_in(value: &toml::Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<String> {
    let inner = match value.get_ref() {
        DeValue::Table(table) => find(table, span),
        DeValue::Array(list) => list.iter().enumerate().find_map(|(index, item)| {
            find_in(item, span).map(|inner| if inner.is_empty() { format!("[{index}]") } else { format!("[{index}].{inner}") })
        }),
        _ => None,
    };
    inner.or_else(|| covers(&value.span(), span).then(String::new))
}

/// Takes out the innermost entry at `span`.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    let mut doomed = None;
    for (key, value) in table.iter_mut() {
        if remove_in(value, span) {
            return true;
        }
        if covers(&key.span(), span) || covers(&value.span(), span) {
            doomed = Some(key.get_ref().to_string());
        }
    }
    doomed.is_some_and(|key| table.remove(key.as_str()).is_some())
}

fn remove_in(value: &mut toml::Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => remove(table, span),
        DeValue::Array(list) => {
            if list.iter_mut().any(|item| remove_in(item, span)) {
                return true;
            }
            let before = list.len();
            let taken = std::mem::replace(list, DeArray::new());
            *list = taken.into_iter().filter(|item| !covers(&item.span(), span)).collect();
            list.len() < before
        }
        _ => false,
    }
}

fn covers(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}
