//! API keys and basic authentication.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode;
use ring::digest::{SHA256, digest};
use subtle::{Choice, ConstantTimeEq};

use super::config::BasicUser;
use super::{VerifyError, only_header};
use crate::event::Request;
use crate::secret::Secret;

/// A key in a header or a query parameter.
#[derive(Clone, Debug)]
pub(super) struct ApiKey {
    place: Place,
    keys: Vec<Digest>,
}

#[derive(Clone, Debug)]
enum Place {
    Header { name: String, prefix: String },
    Query(String),
}

impl ApiKey {
    pub(super) fn in_header(name: String, prefix: &str, keys: &[Secret]) -> Self {
        Self {
            place: Place::Header { name, prefix: prefix.to_owned() },
            keys: keys.iter().map(|key| Digest::of(key.expose().as_bytes())).collect(),
        }
    }

    pub(super) fn in_query(name: &str, keys: &[Secret]) -> Self {
        Self { place: Place::Query(name.to_owned()), keys: keys.iter().map(|key| Digest::of(key.expose().as_bytes())).collect() }
    }

    /// Checks the key and takes it out of the request.
    pub(super) fn take(&self, request: &mut Request) -> Result<(), VerifyError> {
        match &self.place {
            Place::Header { name, prefix } => {
                let value = only_header(request, name)?;
                let key = value.strip_prefix(prefix.as_bytes()).ok_or(VerifyError::WrongKey)?;
                if !Digest::of(key).is_any(&self.keys) {
                    return Err(VerifyError::WrongKey);
                }
                request.headers.retain(|header| header.name != *name);
            }
            Place::Query(name) => {
                let key = take_parameter(&mut request.query, name)?;
                if !Digest::of(&key).is_any(&self.keys) {
                    return Err(VerifyError::WrongKey);
                }
            }
        }
        Ok(())
    }
}

/// Basic authentication.
#[derive(Clone, Debug)]
pub(super) struct Basic {
    users: Vec<Digest>,
}

impl Basic {
    pub(super) fn new(users: &[BasicUser]) -> Self {
        let users = users.iter().map(|user| Digest::of(format!("{}:{}", user.username, user.password.expose()).as_bytes()));
        Self { users: users.collect() }
    }

    pub(super) fn check(&self, request: &Request) -> Result<(), VerifyError> {
        let value = only_header(request, "authorization")?;
        let (scheme, credentials) = value.split_at_checked(6).ok_or(VerifyError::MalformedAuthorization)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return Err(VerifyError::MalformedAuthorization);
        }
        let pair = STANDARD.decode(credentials.trim_ascii()).map_err(|_| VerifyError::MalformedAuthorization)?;
        if Digest::of(&pair).is_any(&self.users) { Ok(()) } else { Err(VerifyError::WrongPassword) }
    }
}

/// A secret's hash: compared in its place, so that not even its length shows in the time that a compare takes.
#[derive(Clone)]
struct Digest([u8; 32]);

impl Digest {
    fn of(secret: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret).as_ref());
        Self(hash)
    }

    /// Looks at all of them, whichever matches.
    fn is_any(&self, others: &[Self]) -> bool {
        others.iter().fold(Choice::from(0), |found, other| found | self.0.ct_eq(&other.0)).into()
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Takes the one parameter of this name out of a raw query, and leaves the others as they are.
fn take_parameter(query: &mut Option<String>, name: &str) -> Result<Vec<u8>, VerifyError> {
    let missing = || VerifyError::MissingParameter(name.to_owned());
    let raw = query.as_deref().ok_or_else(missing)?;
    let is_key = |pair: &&str| form_decoded(pair.split_once('=').map_or(*pair, |(name, _)| name)) == name.as_bytes();
    let mut found = raw.split('&').filter(is_key);
    let pair = found.next().ok_or_else(missing)?;
    if found.next().is_some() {
        return Err(VerifyError::RepeatedParameter(name.to_owned()));
    }
    let key = form_decoded(pair.split_once('=').map_or("", |(_, value)| value));
    let rest: Vec<&str> = raw.split('&').filter(|pair| !is_key(pair)).collect();
    *query = if rest.is_empty() { None } else { Some(rest.join("&")) };
    Ok(key)
}

fn form_decoded(text: &str) -> Vec<u8> {
    let spaced = text.replace('+', " ");
    percent_decode(spaced.as_bytes()).collect()
}
