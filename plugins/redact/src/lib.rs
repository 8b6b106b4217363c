//! Takes personal data out of events: what stands in certain fields, and what looks like an e-mail address, a card number, an IBAN, a
//! phone number or anything that a regular expression says. The [README](../README.md) has the configuration.
//!
//! It fails closed: what it cannot read is an error, and never goes on. JSON is rewritten in place, so that repeated keys, escapes and
//! numbers hide nothing and everything else stays byte for byte.

mod apply;
mod config;
mod find;
mod walk;

use tidegate_plugin::{Event, Failure, Host, Output, Transform};

use apply::Redactor;
use config::{Body, Config, Query};

struct Redact;

impl Transform for Redact {
    fn run(event: Event, host: &dyn Host) -> Result<Vec<Output>, Failure> {
        let config: Config = plugin_common::config(host)?;
        let patterns = config.check()?;
        let redactor = Redactor { host, secret: &config.secret, patterns: patterns.iter().collect() };
        let mut output = Output::new();
        if config.query == Query::Remove {
            output = output.remove_query();
        }
        output = headers(output, &event, &config, &redactor)?;
        let body = match config.body {
            Body::Json => walk::json(&event.request.body, &config.fields, &redactor)?,
            Body::Text => {
                let text =
                    std::str::from_utf8(&event.request.body).map_err(|_| Failure::never("not-text", "the body is not UTF-8"))?;
                redactor.text(text)?.map(String::into_bytes)
            }
        };
        Ok(vec![match body {
            Some(body) => output.body(body),
            None => output,
        }])
    }
}

tidegate_plugin::export!(transform: Redact);

/// Removes the headers that are named, and redacts the others. One that is no text cannot be looked through: it goes.
fn headers(mut output: Output, event: &Event, config: &Config, redactor: &Redactor) -> Result<Output, Failure> {
    let named = |name: &str| config.headers.iter().any(|header| header.eq_ignore_ascii_case(name));
    let mut lines = Vec::with_capacity(event.request.headers.len());
    let mut changed = false;
    for header in &event.request.headers {
        if named(&header.name) {
            changed = true;
            continue;
        }
        let Ok(value) = std::str::from_utf8(&header.value) else {
            changed |= !redactor.patterns.is_empty();
            if redactor.patterns.is_empty() {
                lines.push((&header.name, header.value.clone()));
            }
            continue;
        };
        match redactor.text(value)? {
            Some(value) => {
                changed = true;
                lines.push((&header.name, value.into_bytes()));
            }
            None => lines.push((&header.name, header.value.clone())),
        }
    }
    if changed {
        output = output.clear_headers();
        for (name, value) in lines {
            output = output.append_header(name, value);
        }
    }
    Ok(output)
}

#[cfg(test)]
mod tests;
