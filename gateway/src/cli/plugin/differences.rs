//! How what became of a case differs from what it expects.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::case::{
    AnswerLike, Case, Data, Expected, GivenFailure, GivenJudgement, Like, Retry, Wanted, WantedEntry, Whole, WholeAnswer,
};
use super::json::{self, Inside};
use super::outcome::{Answer, Difference, Outcome};
use crate::event::{Header, Request};
use crate::plugin::{CallError, Judgement, Response, Verification};

/// How much of a value is shown.
const SHOWN: usize = 400;

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
        if let Some(expected) = &self.table_after {
            found.table(expected, &outcome.table.entries);
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
            (Expected::Accepted(accepted), Ok(Answer::Verified(verdict))) => {
                if *accepted != (*verdict == Verification::Accept) {
                    self.add("accepted", accepted.to_string(), outcome.brief());
                }
            }
            (Expected::Rejected(expected), Ok(Answer::Verified(Verification::Reject(reason)))) => {
                self.compare("rejected", Some(expected), Some(reason));
            }
            (Expected::Answer(Some(expected)), Ok(Answer::Answered(Some(answer)))) => self.whole_answer(expected, answer),
            (Expected::Answer(None), Ok(Answer::Answered(None))) => {}
            (Expected::AnswerLike(expected), Ok(Answer::Answered(Some(answer)))) => self.answer_like(expected, answer),
            (Expected::Signed(expected), Ok(Answer::Signed(headers))) => self.lines("signed", expected, headers),
            (Expected::SignedLike(expected), Ok(Answer::Signed(headers))) => self.lines_like("signed", expected, headers),
            (Expected::Judged(expected), Ok(Answer::Judged(verdict))) if expected.verdict() == *verdict => {}
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
        self.lines(&format!("{place}.headers"), &expected.headers, &output.headers);
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
        self.lines_like(&format!("{place}.headers"), &expected.headers, &output.headers);
        if let Some(body) = &expected.body {
            self.body(&format!("{place}.body"), body, &output.body);
        }
    }

    fn whole_answer(&mut self, expected: &WholeAnswer, answer: &Response) {
        self.status(expected.status, answer);
        self.lines("answer.headers", &expected.headers, &answer.headers);
        self.body("answer.body", &expected.body, &answer.body);
    }

    fn answer_like(&mut self, expected: &AnswerLike, answer: &Response) {
        self.status(expected.status.unwrap_or(answer.status), answer);
        self.lines_like("answer.headers", &expected.headers, &answer.headers);
        if let Some(body) = &expected.body {
            self.body("answer.body", body, &answer.body);
        }
    }

    fn status(&mut self, expected: u16, answer: &Response) {
        if expected != answer.status {
            self.add("answer.status", expected.to_string(), answer.status.to_string());
        }
    }

    fn lines(&mut self, place: &str, expected: &[(String, Data)], headers: &[Header]) {
        let expected: Vec<_> = expected.iter().map(|(name, value)| (name.clone(), value.bytes())).collect();
        let lines: Vec<_> = headers.iter().map(|header| (header.name.clone(), header.value.to_vec())).collect();
        if expected != lines {
            self.add(place, show_lines(&expected), show_lines(&lines));
        }
    }

    fn lines_like(&mut self, place: &str, expected: &[(String, Option<Data>)], headers: &[Header]) {
        let mut seen: Vec<String> = Vec::new();
        for (name, _) in expected {
            let name = name.to_ascii_lowercase();
            if seen.contains(&name) {
                continue;
            }
            let wanted = expected.iter().filter(|(other, _)| other.eq_ignore_ascii_case(&name));
            let wanted: Vec<_> =
                wanted.filter_map(|(_, value)| value.as_ref()).map(|value| (name.clone(), value.bytes())).collect();
            let lines = headers.iter().filter(|header| header.name == name);
            let lines: Vec<_> = lines.map(|header| (name.clone(), header.value.to_vec())).collect();
            if wanted != lines {
                self.add(format!("{place}.{name}"), show_lines(&wanted), show_lines(&lines));
            }
            seen.push(name);
        }
    }

    fn table(&mut self, expected: &BTreeMap<String, WantedEntry>, entries: &BTreeMap<String, (Bytes, Option<u64>)>) {
        for (key, wanted) in expected {
            let place = format!("table_after[{key:?}]");
            let Some((value, ttl)) = entries.get(key) else {
                self.add(place, "an entry", "none");
                continue;
            };
            self.body(&place, wanted.value(), value);
            if let WantedEntry::Ending { ttl: wanted, .. } = wanted
                && wanted.map(u64::from) != *ttl
            {
                let lasts = |ttl: Option<u64>| ttl.map_or_else(|| "for good".into(), |ttl| format!("{ttl} s"));
                self.add(format!("{place}.ttl"), lasts(wanted.map(u64::from)), lasts(*ttl));
            }
        }
        for (key, (value, _)) in entries.iter().filter(|(key, _)| !expected.contains_key(*key)) {
            self.add(format!("table_after[{key:?}]"), "none", shown(value));
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

impl GivenJudgement {
    fn verdict(&self) -> Judgement {
        match self {
            Self::Default => Judgement::Default,
            Self::Delivered => Judgement::Delivered,
            Self::Retry => Judgement::Retry(None),
            Self::RetryAfterMs(after) => Judgement::Retry(Some(Duration::from_millis(*after))),
            Self::DeadLetter(reason) => Judgement::DeadLetter(reason.clone()),
        }
    }
}

fn brief(expected: &Expected) -> String {
    match expected {
        Expected::Kept(kept) => format!("kept: {kept}"),
        Expected::Outputs(outputs) => format!("{} outputs", outputs.len()),
        Expected::OutputsLike(outputs) => format!("{} outputs", outputs.len()),
        Expected::Accepted(true) => "accepted".into(),
        Expected::Accepted(false) => "rejected".into(),
        Expected::Rejected(reason) => format!("rejected: {reason:?}"),
        Expected::Answer(Some(answer)) => format!("answer: {}", answer.status),
        Expected::Answer(None) => "answer: none".into(),
        Expected::AnswerLike(_) => "an answer".into(),
        Expected::Signed(headers) => format!("signed: {} headers", headers.len()),
        Expected::SignedLike(_) => "signed".into(),
        Expected::Judged(judged) => Answer::Judged(judged.verdict()).brief(),
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
pub(super) fn shown(bytes: &[u8]) -> String {
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
