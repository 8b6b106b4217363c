//! Verifies a request; the only maker of a [`VerifiedEvent`]. Pure.
//!
//! A [`Verifier`] is built once per source revision from its [`VerifierConfig`]. Signature presets are data (`verify/presets.toml`) over one
//! kind of verifier, an HMAC over a template; any one match of several signatures and several secrets passes, so that secrets can be
//! rotated. What no preset covers, a plugin of the tenant decides: somebody else asks it, and its [`Verdict`] is handed in. Compares take the same time wherever the first difference is, and an error never tells what was expected.
//!
//! **Credentials end here.** The API key (header or query parameter), `Authorization`, `Proxy-Authorization` and `Cookie` are taken out of the
//! event, whatever the verifier is, so that they are neither stored, listed, handed to plugins nor forwarded. A signature is no credential: it
//! is stored and shown to plugins, but not forwarded ([`Verifier::signature_headers`]).

mod config;
mod credentials;
mod hmac;

use crate::clock::Timestamp;
use crate::event::{Event, Request};

pub use config::{
    Algorithm, BasicUser, ConfigError, Encoding, HmacScheme, KeyForm, TimeUnit, TimestampRule, VerifierConfig, preset_names,
};

/// An event whose request passed its source's verification.
#[derive(Debug)]
pub struct VerifiedEvent(Event);

impl VerifiedEvent {
    /// The event.
    pub fn event(&self) -> &Event {
        &self.0
    }

    /// An event made of the request of an earlier one, out of the store: that was verified when it came in, and its credentials were taken out.
    pub fn again(event: Event) -> Self {
        Self(event)
    }

    /// The event, no longer marked as verified.
    pub fn into_event(self) -> Event {
        self.0
    }
}

/// Checks requests of one source.
#[derive(Clone, Debug)]
pub struct Verifier(Kind);

#[derive(Clone, Debug)]
enum Kind {
    None,
    ApiKey(credentials::ApiKey),
    Basic(credentials::Basic),
    Hmac(hmac::Hmac),
    Plugin,
    Notices,
}

/// What a plugin of the source says of a request. Somebody else asks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the sender's.
    Accept,
    /// It is not.
    Reject,
}

/// Why a request was refused. What was expected is never part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A header that the check needs is not there.
    #[error("header `{0}` is missing")]
    MissingHeader(String),
    /// A header that the check needs comes more than once.
    #[error("header `{0}` comes more than once")]
    RepeatedHeader(String),
    /// The query parameter of the key is not there.
    #[error("query parameter `{0}` is missing")]
    MissingParameter(String),
    /// The query parameter of the key comes more than once.
    #[error("query parameter `{0}` comes more than once")]
    RepeatedParameter(String),
    /// The signature header holds none in the form that the source expects.
    #[error("header `{0}` holds no signature in a known form")]
    UnknownSignatureForm(String),
    /// More signatures than are looked at.
    #[error("header `{0}` holds more than {MAX_SIGNATURES} signatures")]
    TooManySignatures(String),
    /// No signature is right for any secret.
    #[error("the signature does not match")]
    WrongSignature,
    /// The timestamp is not a number.
    #[error("the timestamp is malformed")]
    MalformedTimestamp,
    /// Too long ago, or a replay.
    #[error("the timestamp is too old")]
    TimestampTooOld,
    /// Too far in the future.
    #[error("the timestamp is in the future")]
    TimestampTooNew,
    /// Not one of the source's API keys.
    #[error("the key is wrong")]
    WrongKey,
    /// The `Authorization` header is not basic authentication.
    #[error("the authorization is malformed")]
    MalformedAuthorization,
    /// Not one of the source's users.
    #[error("the user or password is wrong")]
    WrongPassword,
    /// The source's plugin rejects it. Why is for the operator alone.
    #[error("the source's plugin rejects it")]
    Rejected,
    /// A plugin is to say, and nobody asked it.
    #[error("the source's plugin was not asked")]
    NotAsked,
    /// The source is for the gateway's own notices.
    #[error("the source takes the gateway's own notices alone")]
    OnlyNotices,
}

/// Signatures in one header that are looked at.
pub const MAX_SIGNATURES: usize = 16;

/// Headers that carry credentials and end here, whoever checks them.
const CREDENTIAL_HEADERS: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];

impl Verifier {
    /// A verifier of this configuration.
    pub fn new(config: &VerifierConfig) -> Result<Self, ConfigError> {
        config::build(config).map(Self)
    }

    /// Takes every request: the source's unguessable id is all that protects it.
    pub fn none() -> Self {
        Self(Kind::None)
    }

    /// Takes the requests that a plugin accepts: see [`Verifier::verify_by`].
    pub fn plugin() -> Self {
        Self(Kind::Plugin)
    }

    /// Whether the source is for the gateway's own notices, and for nothing that is sent to it.
    pub fn takes_notices(&self) -> bool {
        matches!(self.0, Kind::Notices)
    }

    /// A notice of the gateway's own, which needs no proof; none where the source is not for them.
    pub fn notice(&self, event: Event) -> Option<VerifiedEvent> {
        self.takes_notices().then_some(VerifiedEvent(event))
    }

    /// Headers, in lower case, that carry the scheme's own signature and its time. They stay in the event, where they can be looked
    /// at, and are not passed on: they sign what came in, not what goes out.
    pub fn signature_headers(&self) -> impl Iterator<Item = &str> {
        let hmac = if let Kind::Hmac(hmac) = &self.0 { Some(hmac) } else { None };
        hmac.into_iter().flat_map(hmac::Hmac::headers)
    }

    /// The same of schemes that it may have had when an event came in: of those that are presets. Where no signature is checked one is for
    /// whoever receives it.
    pub fn earlier_signature_headers(&self) -> impl Iterator<Item = &'static str> {
        let checks_signatures = matches!(self.0, Kind::Hmac(_) | Kind::Plugin);
        checks_signatures.then(config::preset_headers).into_iter().flatten()
    }

    /// Checks the event's request and takes the credentials out of it.
    pub fn verify(&self, event: Event, now: Timestamp) -> Result<VerifiedEvent, VerifyError> {
        self.verify_by(event, now, None)
    }

    /// The same with the verdict of the source's plugin, which counts where a plugin is to decide and nowhere else.
    pub fn verify_by(&self, mut event: Event, now: Timestamp, verdict: Option<Verdict>) -> Result<VerifiedEvent, VerifyError> {
        let request = &mut event.request;
        match &self.0 {
            Kind::None => {}
            Kind::ApiKey(key) => key.take(request)?,
            Kind::Basic(basic) => basic.check(request)?,
            Kind::Hmac(hmac) => hmac.check(request, now)?,
            Kind::Plugin => match verdict {
                Some(Verdict::Accept) => {}
                Some(Verdict::Reject) => return Err(VerifyError::Rejected),
                None => return Err(VerifyError::NotAsked),
            },
            Kind::Notices => return Err(VerifyError::OnlyNotices),
        }
        request.headers.retain(|header| !CREDENTIAL_HEADERS.contains(&header.name.as_str()));
        Ok(VerifiedEvent(event))
    }
}

impl VerifyError {
    /// A stable, machine-readable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingHeader(_) => "missing_header",
            Self::RepeatedHeader(_) => "repeated_header",
            Self::MissingParameter(_) => "missing_parameter",
            Self::RepeatedParameter(_) => "repeated_parameter",
            Self::UnknownSignatureForm(_) => "unknown_signature_form",
            Self::TooManySignatures(_) => "too_many_signatures",
            Self::WrongSignature => "wrong_signature",
            Self::MalformedTimestamp => "malformed_timestamp",
            Self::TimestampTooOld => "timestamp_too_old",
            Self::TimestampTooNew => "timestamp_too_new",
            Self::WrongKey => "wrong_key",
            Self::MalformedAuthorization => "malformed_authorization",
            Self::WrongPassword => "wrong_password",
            Self::Rejected => "rejected_by_plugin",
            Self::NotAsked => "plugin_not_asked",
            Self::OnlyNotices => "only_notices",
        }
    }
}

/// The one value of a header. Several would let a sender sign one and have another used.
fn only_header<'a>(request: &'a Request, name: &str) -> Result<&'a [u8], VerifyError> {
    let mut values = request.headers.iter().filter(|header| header.name == name);
    match (values.next(), values.next()) {
        (Some(header), None) => Ok(&header.value),
        (None, _) => Err(VerifyError::MissingHeader(name.to_owned())),
        (Some(_), Some(_)) => Err(VerifyError::RepeatedHeader(name.to_owned())),
    }
}

#[cfg(test)]
mod tests;
