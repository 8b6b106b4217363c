//! What becomes of what was found.

use plugin_common::wrong;
use tidegate_plugin::{Algorithm, Failure, Host};

use crate::config::{Action, Pattern};

pub(crate) struct Redactor<'a> {
    pub(crate) host: &'a dyn Host,
    /// The name of the secret that hashes are made with.
    pub(crate) secret: &'a str,
    pub(crate) patterns: Vec<&'a Pattern>,
}

impl<'a> Redactor<'a> {
    /// The same with those patterns alone that may be found in a string or number of this JSON text, as long as that is written without
    /// escapes: what a detector knows stands in it as it is, and neither quotes nor what surrounds a number are a part of it.
    pub(crate) fn without_escapes(&self, json: &str) -> Self {
        let patterns = self.patterns.iter().copied().filter(|pattern| pattern.is_regex() || pattern.find(json, 0).is_some());
        Self { patterns: patterns.collect(), ..*self }
    }

    /// The text without what the patterns find; none if they find nothing. Where matches overlap, the one that begins first goes
    /// first, then the one that is configured first.
    pub(crate) fn text(&self, text: &str) -> Result<Option<String>, Failure> {
        let Some(first) = self.patterns.iter().position(|pattern| pattern.find(text, 0).is_some()) else { return Ok(None) };
        let mut next = vec![None; first];
        next.extend(self.patterns[first..].iter().map(|pattern| pattern.find(text, 0)));
        let (mut redacted, mut copied, mut from) = (String::with_capacity(text.len()), 0, 0);
        loop {
            for (pattern, found) in self.patterns.iter().zip(&mut next) {
                if found.is_some_and(|found| found.start < from) {
                    *found = pattern.find(text, from);
                }
            }
            let first =
                next.iter().enumerate().filter_map(|(index, found)| found.map(|found| (found.start, index, found.end))).min();
            let Some((start, index, end)) = first else { break };
            if end == start {
                // A regular expression may match between two characters: nothing is there to redact.
                from = start + text[start..].chars().next().map_or(1, char::len_utf8);
                if from > text.len() {
                    break;
                }
                continue;
            }
            let pattern = self.patterns[index];
            redacted.push_str(&text[copied..start]);
            match pattern.action {
                Action::Replace => redacted.push_str(&pattern.with),
                Action::Hash => redacted.push_str(&self.hash(&text[start..end])?),
                Action::Remove => {}
            }
            (copied, from) = (end, end);
        }
        redacted.push_str(&text[copied..]);
        Ok(Some(redacted))
    }

    /// HMAC-SHA-256 under the secret, in hexadecimal.
    pub(crate) fn hash(&self, text: &str) -> Result<String, Failure> {
        let tag = self.host.hmac(Algorithm::Sha256, self.secret, text.as_bytes()).ok_or_else(|| {
            wrong(
                "secret",
                format_args!("the connection hands over no secret `{}`, which `hash` needs; `sign_only` will do", self.secret),
            )
        })?;
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
        Ok(tag.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect())
    }
}
