//! OAuth 2.0 client credentials (RFC 6749, section 4.4), used as bearer tokens (RFC 6750).
//!
//! A token is asked for by the first request that needs one, and kept in memory until it is about to end or the destination answers 401.
//! One request asks at a time, the others wait for its token within their own deadlines. An authorization server that gives none is left
//! alone for [`REST`]: requests fail at once meanwhile. One that was not asked, for want of a connection, is not.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::super::client::{Inner, OutRequest, exchange::Exchange};
use super::super::fault::Fault;
use super::super::target::Target;
use crate::clock::{Clock, Timestamp};
use crate::secret::Secret;

/// How long an authorization server may take to answer.
const ASK: Duration = Duration::from_secs(10);
/// How long one that gave no token is left alone.
const REST: Duration = Duration::from_secs(5);
/// How long a token is used whose answer does not say.
const UNSTATED: Duration = Duration::from_secs(300);
/// The longest that a token is used.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// So much before its end a token is not used any more, or a quarter of its time if that is less.
const MARGIN: Duration = Duration::from_secs(60);
/// Bytes of an authorization server's answer.
const MAX_ANSWER: usize = 32 * 1024;

/// Where tokens come from.
#[derive(Debug)]
pub struct OAuthConfig {
    /// The token endpoint.
    pub endpoint: Arc<Target>,
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: Secret,
    /// What is asked for: names with spaces between them.
    pub scope: Option<String>,
    /// For whom the token is, where the server wants to know.
    pub audience: Option<String>,
    /// How the client says who it is.
    pub client_auth: ClientAuth,
}

/// How a client says who it is (RFC 6749, section 2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// HTTP basic authentication.
    Basic,
    /// In the request's body.
    Body,
}

/// The tokens of one destination.
pub struct OAuth {
    endpoint: Arc<Target>,
    headers: HeaderMap,
    body: Bytes,
    state: Mutex<State>,
    asking: tokio::sync::Mutex<()>,
    /// Whether who asks, or asked last, waits for a connection.
    lacks_connection: AtomicBool,
}

enum State {
    None,
    Some { header: HeaderValue, until: Timestamp },
    Refused { why: String, until: Timestamp },
}

/// A token for a request.
pub(in crate::egress) struct Token {
    /// `Bearer ...`.
    pub(in crate::egress) header: HeaderValue,
    /// Whether it was asked for just now.
    pub(in crate::egress) is_fresh: bool,
}

impl OAuth {
    /// Asks nobody yet.
    pub fn new(config: &OAuthConfig) -> Self {
        let OAuthConfig { endpoint, client_id, client_secret, scope, audience, client_auth } = config;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        for (name, value) in [("scope", scope), ("audience", audience)] {
            value.as_ref().map(|value| form.append_pair(name, value));
        }
        match client_auth {
            ClientAuth::Basic => {
                let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let pair = STANDARD.encode(format!("{}:{}", encoded(client_id), encoded(client_secret.expose())));
                let mut value = HeaderValue::try_from(format!("Basic {pair}")).expect("base64");
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
            }
            ClientAuth::Body => {
                form.append_pair("client_id", client_id).append_pair("client_secret", client_secret.expose());
            }
        }
        let (endpoint, body) = (Arc::clone(endpoint), form.finish().into());
        let (state, asking) = (Mutex::new(State::None), tokio::sync::Mutex::default());
        Self { endpoint, headers, body, state, asking, lacks_connection: AtomicBool::new(false) }
    }

    /// A token that can be used now.
    pub(in crate::egress) async fn token(&self, inner: &Inner, clock: &Clock) -> Result<Token, Fault> {
        if let Some(token) = self.kept(clock.now())? {
            return Ok(token);
        }
        let _asking = self.asking.lock().await;
        if let Some(token) = self.kept(clock.now())? {
            return Ok(token);
        }
        let answer = self.ask(inner, clock).await;
        let now = clock.now();
        match answer {
            Ok((header, lifetime)) => {
                let until = now.after(lifetime - MARGIN.min(lifetime / 4));
                *self.state() = State::Some { header: header.clone(), until };
                Ok(Token { header, is_fresh: true })
            }
            Err(fault) => {
                if let Fault::NoToken(why) = &fault {
                    *self.state() = State::Refused { why: why.clone(), until: now.after(REST) };
                }
                Err(fault)
            }
        }
    }

    /// Whether a token is waited for since there is no connection to ask for one.
    pub(in crate::egress) fn lacks_connection(&self) -> bool {
        self.lacks_connection.load(Ordering::Relaxed)
    }

    /// Forgets a token that the destination did not take.
    pub(in crate::egress) fn refused(&self, token: &Token) {
        let mut state = self.state();
        if matches!(&*state, State::Some { header, .. } if *header == token.header) {
            *state = State::None;
        }
    }

    fn kept(&self, now: Timestamp) -> Result<Option<Token>, Fault> {
        match &*self.state() {
            State::Some { header, until } if now < *until => Ok(Some(Token { header: header.clone(), is_fresh: false })),
            State::Refused { why, until } if now < *until => Err(Fault::NoToken(why.clone())),
            _ => Ok(None),
        }
    }

    async fn ask(&self, inner: &Inner, clock: &Clock) -> Result<(HeaderValue, Duration), Fault> {
        let request = OutRequest {
            target: Arc::clone(&self.endpoint),
            method: Method::POST,
            path_and_query: self.endpoint.path_and_query().map_err(|error| Fault::NoToken(error.to_string()))?,
            headers: self.headers.clone(),
            body: self.body.clone(),
            deadline: ASK,
            gzip: false,
            wants_headers: false,
            reads: None,
            credentials: None,
            labels: None,
        };
        let mut exchange = Exchange::new(inner, request, clock, MAX_ANSWER).telling(&self.lacks_connection);
        let outcome = match tokio::time::timeout(ASK, exchange.run()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(exchange.timed_out()),
        };
        outcome.map_err(|fault| match fault {
            Fault::NoCapacity => fault,
            fault => Fault::NoToken(fault.to_string()),
        })?;
        let status = exchange.head.as_ref().map_or(0, |head| head.status.as_u16());
        read(status, exchange.response.as_ref()).map_err(Fault::NoToken)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth").field("endpoint", &self.endpoint.origin()).finish_non_exhaustive()
    }
}

/// RFC 6749, section 5.1.
#[derive(Deserialize)]
struct Granted {
    access_token: Secret,
    token_type: String,
    expires_in: Option<Seconds>,
}

/// Some servers write it as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

/// RFC 6749, section 5.2.
#[derive(Deserialize)]
struct Denied {
    error: String,
}

/// The token of an answer, and how long it is good for.
fn read(status: u16, body: &[u8]) -> Result<(HeaderValue, Duration), String> {
    if status != 200 {
        // The code alone: descriptions may hold anything.
        let code = serde_json::from_slice(body).map(|Denied { error }| error).ok();
        let is_code = |text: &String| text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let code = code.filter(is_code).map(|code| format!(" ({code})")).unwrap_or_default();
        return Err(format!("it answered {status}{code}"));
    }
    let granted: Granted = serde_json::from_slice(body).map_err(|_| "its answer is not that of RFC 6749".to_owned())?;
    if !granted.token_type.eq_ignore_ascii_case("bearer") {
        return Err("its token is of another type than `Bearer`".into());
    }
    let mut header = HeaderValue::try_from(format!("Bearer {}", granted.access_token.expose()))
        .map_err(|_| "its token cannot stand in a header".to_owned())?;
    header.set_sensitive(true);
    let stated = match granted.expires_in {
        Some(Seconds::Number(seconds)) => Some(seconds),
        Some(Seconds::Text(text)) => text.trim().parse().ok().filter(|seconds: &f64| seconds.is_finite()),
        None => None,
    };
    let lifetime = stated.map_or(UNSTATED, |seconds| Duration::from_secs_f64(seconds.clamp(0.0, LONGEST.as_secs_f64())));
    Ok((header, lifetime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_with_care() {
        let lifetime = |text: &str| read(200, text.as_bytes()).map(|(_, lifetime)| lifetime.as_secs());
        let granted = |rest: &str| format!(r#"{{"access_token":"abc","token_type":"bearer"{rest}}}"#);
        assert_eq!(lifetime(&granted("")), Ok(300));
        assert_eq!(lifetime(&granted(r#","expires_in":3600"#)), Ok(3600));
        assert_eq!(lifetime(&granted(r#","expires_in":"60""#)), Ok(60));
        assert_eq!(lifetime(&granted(r#","expires_in":-1"#)), Ok(0));
        assert_eq!(lifetime(&granted(r#","expires_in":1e99"#)), Ok(24 * 60 * 60));
        let (header, _) = read(200, granted("").as_bytes()).unwrap();
        assert!(header == "Bearer abc" && header.is_sensitive());
        for (status, body, wanted) in [
            (200, "{}", "its answer is not that of RFC 6749"),
            (200, r#"{"access_token":"a","token_type":"mac"}"#, "its token is of another type than `Bearer`"),
            (200, r#"{"access_token":"a\r\nb","token_type":"Bearer"}"#, "its token cannot stand in a header"),
            (400, r#"{"error":"invalid_client"}"#, "it answered 400 (invalid_client)"),
            (400, r#"{"error":"<script>"}"#, "it answered 400"),
            (503, "busy", "it answered 503"),
        ] {
            assert_eq!(read(status, body.as_bytes()).unwrap_err(), wanted);
        }
    }
}
