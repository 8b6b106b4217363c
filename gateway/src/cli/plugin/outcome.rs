//! What became of a case, and how that differs from what it expects.

use std::fmt;

use serde_json::Value;

use super::case::{Ask, Case, Data, Expected, GivenFailure, Like, Retry, Wanted, Whole};
use super::json::{self, Inside};
use crate::event::{PluginRun, Request};
use crate::plugin::{Call, CallError, Frame, Report, Runtime};

/// How much of a value is shown.
const SHOWN: usize = 400;

/// How a call ended.
#[derive(Debug)]
pub struct Outcome {
    /// The answer.
    pub result: Result<Answer, CallError>,
    /// What it used, and what it logged.
    pub run: PluginRun,
    /// Where it was when it was stopped, innermost first.
    pub backtrace: Vec<Frame>,
}

/// What a plugin answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A filter.
    Kept(bool),
    /// A transform.
    Outputs(Vec<Request>),
}

/// One thing that is not as it is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What: `outputs[0].body.text`.
    pub place: String,
    /// As the case says.
    pub expected: String,
    /// As it is.
    pub got: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, expected, got } = self;
        write!(f, "{place}\n  expected  {expected}\n  got       {got}")
    }
}

impl Outcome {
    /// Makes the call.
    pub async fn of(runtime: &Runtime, call: Call, ask: Ask) -> Self {
        match ask {
            Ask::Filter => {
                let Report { result, run, backtrace, .. } = runtime.filter(call).await;
                Self { result: result.map(Answer::Kept), run, backtrace }
            }
            Ask::Transform => {
                let Report { result, run, backtrace, .. } = runtime.transform(call).await;
                Self { result: result.map(Answer::Outputs), run, backtrace }
            }
        }
    }

    /// In a few words.
    fn brief(&self) -> String {
        match &self.result {
            Ok(Answer::Kept(kept)) => format!("kept: {kept}"),
            Ok(Answer::Outputs(outputs)) => match &outputs[..] {
                [] => "no outputs".into(),
                [first, ..] => format!("{} outputs, the first with the body {}", outputs.len(), shown(&first.body)),
            },
            Err(CallError::Failed { code, message, retryable }) => {
                format!("failure: {code}: {message} (retry {})", if *retryable { "later" } else { "never" })
            }
            Err(error @ CallError::Stopped(_)) => format!("stopped: {}: it {error}", error.code()),
            Err(error) => format!("error: {}: {error}", error.code()),
        }
    }
}

impl Case {
    /// All that differs from what is expected; nothing for a case that holds.
    pub fn differences(&self, outcome: &Outcome) -> Vec<Difference> {
        let mut found = Differences::default();
        found.answer(&self.expect, outcome);
        let logs = &outcome.run.logs;
        if let Some(expected) = &self.logs
            && expected != logs
        {
            found.add("logs", format!("{expected:?}"), format!("{logs:?}"));
        }
        for text in self.logs_like.iter().filter(|text| !logs.iter().any(|line| line.contains(*text))) {
            found.add("logs_like", format!("a line with {text:?}"), format!("{logs:?}"));
        }
        if let Some(max) = self.max_fuel.filter(|max| outcome.run.fuel > *max) {
            found.add("max_fuel", format!("at most {max}"), outcome.run.fuel.to_string());
        }
        found.0
    }
}

#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn add(&mut self, place: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) {
        self.0.push(Difference { place: place.into(), expected: expected.into(), got: got.into() });
    }

    fn compare(&mut self, place: &str, expected: Option<&str>, got: Option<&str>) {
        if expected != got {
            let show = |text: Option<&str>| text.map_or_else(|| "none".into(), |text| format!("{text:?}"));
            self.add(place, show(expected), show(got));
        }
    }

    fn answer(&mut self, expected: &Expected, outcome: &Outcome) {
        match (expected, &outcome.result) {
            (Expected::Kept(expected), Ok(Answer::Kept(kept))) if expected != kept => {
                self.add("kept", expected.to_string(), kept.to_string());
            }
            (Expected::Kept(_), Ok(Answer::Kept(_))) => {}
            (Expected::Outputs(expected), Ok(Answer::Outputs(outputs))) => {
                self.each(expected, outputs, outcome, |found, place, expected, output| found.whole(place, expected, output));
            }
            (Expected::OutputsLike(expected), Ok(Answer::Outputs(outputs))) => {
                self.each(expected, outputs, outcome, |found, place, expected, output| found.like(place, expected, output));
            }
            (Expected::Failure(expected), Err(CallError::Failed { code, message, retryable })) => {
                self.compare("failure.code", Some(&expected.code), Some(code));
                self.compare("failure.message", Some(expected.message.as_ref().unwrap_or(message)), Some(message));
                let retry = if *retryable { Retry::Later } else { Retry::Never };
                self.compare("failure.retry", Some(expected.retry.as_str()), Some(retry.as_str()));
            }
            (Expected::Stopped(code), Err(error @ CallError::Stopped(_))) => {
                self.compare("stopped", Some(code), Some(error.code()))
            }
            (
                Expected::Error(code),
                Err(error @ (CallError::Load(_) | CallError::NotOffered(_) | CallError::Table(_) | CallError::Gateway(_))),
            ) => {
                self.compare("error", Some(code), Some(error.code()));
            }
            (expected, _) => self.add("expect", brief(expected), outcome.brief()),
        }
    }

    fn each<E>(&mut self, expected: &[E], outputs: &[Request], outcome: &Outcome, compare: impl Fn(&mut Self, &str, &E, &Request)) {
        if expected.len() != outputs.len() {
            return self.add("outputs", format!("{} of them", expected.len()), outcome.brief());
        }
        for (index, (expected, output)) in expected.iter().zip(outputs).enumerate() {
            compare(self, &format!("outputs[{index}]"), expected, output);
        }
    }

    fn whole(&mut self, place: &str, expected: &Whole, output: &Request) {
        self.compare(&format!("{place}.method"), Some(&expected.method), Some(&output.method));
        self.compare(&format!("{place}.path"), Some(&expected.path), Some(&output.path));
        self.compare(&format!("{place}.query"), expected.query.as_deref(), output.query.as_deref());
        let expected_lines: Vec<_> = expected.headers.iter().map(|(name, value)| (name.clone(), value.bytes())).collect();
        let lines: Vec<_> = output.headers.iter().map(|header| (header.name.clone(), header.value.to_vec())).collect();
        if expected_lines != lines {
            self.add(format!("{place}.headers"), show_lines(&expected_lines), show_lines(&lines));
        }
        self.body(&format!("{place}.body"), &expected.body, &output.body);
    }

    fn like(&mut self, place: &str, expected: &Like, output: &Request) {
        if let Some(method) = &expected.method {
            self.compare(&format!("{place}.method"), Some(method), Some(&output.method));
        }
        if let Some(path) = &expected.path {
            self.compare(&format!("{place}.path"), Some(path), Some(&output.path));
        }
        if let Some(query) = &expected.query {
            self.compare(&format!("{place}.query"), query.as_deref(), output.query.as_deref());
        }
        let mut seen: Vec<String> = Vec::new();
        for (name, _) in &expected.headers {
            let name = name.to_ascii_lowercase();
            if seen.contains(&name) {
                continue;
            }
            let wanted = expected.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(&name));
            let wanted: Vec<_> =
                wanted.filter_map(|(_, value)| value.as_ref()).map(|value| (name.clone(), value.bytes())).collect();
            let lines = output.headers.iter().filter(|header| header.name == name);
            let lines: Vec<_> = lines.map(|header| (name.clone(), header.value.to_vec())).collect();
            if wanted != lines {
                self.add(format!("{place}.headers.{name}"), show_lines(&wanted), show_lines(&lines));
            }
            seen.push(name);
        }
        if let Some(body) = &expected.body {
            self.body(&format!("{place}.body"), body, &output.body);
        }
    }

    fn body(&mut self, place: &str, expected: &Wanted, body: &[u8]) {
        let (expected, inside) = match expected {
            Wanted::Json { json } => (json, Inside::Whole),
            Wanted::JsonLike { json_like } => (json_like, Inside::Part),
            Wanted::Contains { contains } => {
                if !String::from_utf8_lossy(body).contains(contains) {
                    self.add(place, format!("a text with {contains:?} in it"), shown(body));
                }
                return;
            }
            Wanted::Exactly(data) => return self.bytes(place, data, body),
        };
        match serde_json::from_slice::<Value>(body) {
            Ok(got) => {
                for (path, expected, got) in json::differences(expected, &got, inside) {
                    let show = |value: Option<&Value>| value.map_or_else(|| "nothing".into(), |value| cut(&value.to_string()));
                    self.add(format!("{place}{path}"), show(expected), show(got));
                }
            }
            Err(error) => self.add(place, cut(&expected.to_string()), format!("{} (not JSON: {error})", shown(body))),
        }
    }

    fn bytes(&mut self, place: &str, expected: &Data, got: &[u8]) {
        let expected = expected.bytes();
        if expected == got {
            return;
        }
        let first = expected.iter().zip(got).take_while(|(expected, got)| expected == got).count();
        // A long one is shown from a little before it differs.
        let from = if first > SHOWN / 2 { first - 20 } else { 0 };
        let show = |bytes: &[u8]| match from {
            0 => shown(bytes),
            from => format!("{} bytes, from {from} on: {}", bytes.len(), shown(bytes.get(from..).unwrap_or_default())),
        };
        self.add(place, show(&expected), show(got));
    }
}

impl Retry {
    fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Later => "later",
        }
    }
}

fn brief(expected: &Expected) -> String {
    match expected {
        Expected::Kept(kept) => format!("kept: {kept}"),
        Expected::Outputs(outputs) => format!("{} outputs", outputs.len()),
        Expected::OutputsLike(outputs) => format!("{} outputs", outputs.len()),
        Expected::Failure(GivenFailure { code, .. }) => format!("failure: {code}"),
        Expected::Stopped(code) => format!("stopped: {code}"),
        Expected::Error(code) => format!("error: {code}"),
    }
}

fn show_lines(lines: &[(String, Vec<u8>)]) -> String {
    if lines.is_empty() {
        return "none".into();
    }
    let lines: Vec<_> = lines.iter().map(|(name, value)| format!("{name}: {}", shown(value))).collect();
    cut(&lines.join(", "))
}

/// A text in quotes; what is none in hexadecimal.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => cut(&format!("{text:?}")),
        Err(_) => cut(&format!("hex {}", hex::encode(&bytes[..bytes.len().min(SHOWN)]))),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}
