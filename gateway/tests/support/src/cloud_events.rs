//! The official CloudEvents SDKs, as senders and receivers would use them.

use std::process::Command;

use http::HeaderMap;
use serde_json::{Value, json};

use crate::tools::{program, run, run_node};

/// Which SDK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sdk {
    /// npm's `cloudevents`. It takes and gives what stands in headers as it is, without percent-encoding.
    JavaScript,
    /// PyPI's `cloudevents`.
    Python,
}

impl Sdk {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::JavaScript, Self::Python];

    /// The event that a request carries, in either mode: its attributes by name, and `data`.
    pub fn read(self, headers: &HeaderMap, body: &[u8]) -> Value {
        let body = std::str::from_utf8(body).expect("a body of text");
        let headers: serde_json::Map<_, _> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().expect("a header of text").into())).collect();
        self.run("read", &json!({ "headers": headers, "body": body }))
    }

    /// The headers and the body that carry an event, in the mode `binary` or `structured`.
    pub fn make(self, mode: &str, event: &Value) -> (Vec<(String, String)>, String) {
        let made = self.run(mode, event);
        let headers = made["headers"].as_object().expect("headers by name");
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned())).collect();
        (headers, made["body"].as_str().expect("a body of text").to_owned())
    }

    fn run(self, what: &str, input: &Value) -> Value {
        let printed = match self {
            Self::JavaScript => run_node(include_str!("cloud_events/sdk.mjs"), &[what], &input.to_string()),
            Self::Python => {
                let mut python = Command::new(program("python/bin/python"));
                python.args(["-c", include_str!("cloud_events/sdk.py"), what]);
                run(python, &input.to_string())
            }
        };
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error} in what {self:?} printed: {printed}"))
    }
}
