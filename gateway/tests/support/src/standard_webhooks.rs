//! The official Standard Webhooks libraries, as a receiver would use them.

use std::fmt;
use std::process::Command;

use http::HeaderMap;

use crate::tools::{self, run, run_node};

/// The library's own words for refusing a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Verifies with the crate `standardwebhooks`. The secret may begin with `whsec_`. Like the others it refuses timestamps that are more
/// than five minutes off.
pub fn verify_rust(secret: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), Refused> {
    let webhook = standardwebhooks::Webhook::new(secret).unwrap_or_else(|error| panic!("{secret:?} is no secret: {error}"));
    webhook.verify(body, headers).map_err(|error| Refused(error.to_string()))
}

/// Verifies with PyPI's `standardwebhooks`; otherwise like [`verify_rust`].
pub fn verify_python(secret: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), Refused> {
    let mut command = Command::new(tools::program("python/bin/python"));
    command.args(["-c", include_str!("standard_webhooks/verify.py")]);
    verdict(&run(command, &message(secret, headers, body)))
}

/// Verifies with npm's `standardwebhooks`; otherwise like [`verify_rust`].
pub fn verify_node(secret: &str, headers: &HeaderMap, body: &[u8]) -> Result<(), Refused> {
    verdict(&run_node(include_str!("standard_webhooks/verify.mjs"), &[], &message(secret, headers, body)))
}

fn message(secret: &str, headers: &HeaderMap, body: &[u8]) -> String {
    let body = std::str::from_utf8(body).expect("the libraries take text");
    let headers: serde_json::Map<_, _> =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().expect("a header of text").into())).collect();
    serde_json::json!({ "secret": secret, "headers": headers, "body": body }).to_string()
}

fn verdict(printed: &str) -> Result<(), Refused> {
    match printed.split_once(' ') {
        None if printed == "verified" => Ok(()),
        Some(("refused", why)) => Err(Refused(why.to_owned())),
        _ => panic!("the library's script printed {printed:?}"),
    }
}
