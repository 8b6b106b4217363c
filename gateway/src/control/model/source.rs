use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{FORMAT, Faults, FieldError, Kind, SourceHandshakeSpec, VISITED, VisitParts, VisitSpec, check_name, yes};
use crate::clock::Timestamp;
use crate::config::units;
use crate::control::snapshot::{DedupBy, DedupRule, Format, Permits};
use crate::event::SourceId;
use crate::ingest::verify::{Verifier, VerifierConfig};
use crate::plugin::Limits;

/// How long a duplicate may be remembered.
const MAX_WINDOW: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Methods that a source may name.
const MAX_METHODS: usize = 16;
/// The largest body that can be asked for.
const MAX_BODY: usize = 1 << 30;

/// Sources.
#[derive(Debug)]
pub enum Sources {}

impl Kind for Sources {
    type Id = SourceId;
    type Spec = SourceSpec;
    type Parts = SourceParts;
    const NAME: &'static str = "source";
    const KEY: &'static str = "src";
    const SECRETS: &'static [&'static str] = &["auth/keys/*", "auth/users/*/password", "auth/secrets/*", "respond/secrets/*"];
    const FORMAT: u8 = VISITED;

    fn new_id(now: Timestamp, random: u128) -> SourceId {
        SourceId::new(now, random)
    }

    fn name(spec: &SourceSpec) -> &str {
        &spec.name
    }

    fn format(spec: &SourceSpec) -> u8 {
        let is_new = matches!(spec.auth, SourceAuth::Plugin(_) | SourceAuth::BuiltIn(VerifierConfig::Notices {}));
        if spec.respond.is_some() || spec.handshake.is_some() || !is_any(&spec.format) || is_new { VISITED } else { FORMAT }
    }
}

/// A source: an ingestion endpoint at `/in/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// Unique in the tenant.
    #[schema(example = "github")]
    pub name: String,
    /// A disabled source answers 404 and takes nothing. Default true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How requests are verified. Default: not at all, beyond the source's unguessable id.
    #[serde(default = "no_auth")]
    #[schema(schema_with = crate::control::schema::source_auth)]
    pub auth: SourceAuth,
    /// A plugin that is asked first, and may answer what is no event: a handshake, or a challenge. Such a request is not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub respond: Option<VisitSpec>,
    /// Answers senders that ask whether they may send (CloudEvents' webhook handshake). Without it such a request is an event like any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake: Option<SourceHandshakeSpec>,
    /// Methods that it takes; any when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["POST"]))]
    pub methods: Option<Vec<String>>,
    /// What requests must be, to be taken once they are verified. Default `any`.
    #[serde(default, skip_serializing_if = "is_any")]
    pub format: Format,
    /// What makes an event a duplicate, which is answered with the first one's id and dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<DedupSpec>,
    /// The largest body. Default 1 MiB. The gateway's own `ingest.max_body` stands above it.
    #[serde(default = "default_max_body", with = "units::size")]
    #[schema(value_type = String, example = "1MiB")]
    pub max_body: usize,
    /// Whether a `traceparent` that comes in is the parent of the event's trace; otherwise it becomes a link. Default false.
    #[serde(default)]
    pub trust_trace: bool,
}

fn is_any(format: &Format) -> bool {
    *format == Format::Any
}

fn no_auth() -> SourceAuth {
    SourceAuth::BuiltIn(VerifierConfig::None {})
}

/// How a source's requests are verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SourceAuth {
    /// By a plugin that exports `verify`.
    Plugin(VisitSpec),
    /// By the gateway.
    #[serde(untagged)]
    BuiltIn(VerifierConfig),
}

/// Every way, so that one that is not known is told all of them.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AuthType {
    None,
    Notices,
    ApiKey,
    Basic,
    Preset,
    Hmac,
    Plugin,
}

impl<'de> Deserialize<'de> for SourceAuth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(AuthVisitor)
    }
}

/// Reads the type where it stands, so that an error names its field.
struct AuthVisitor;

impl<'de> Visitor<'de> for AuthVisitor {
    type Value = SourceAuth;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a table with a `type`, like {\"type\": \"none\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SourceAuth, A::Error> {
        let (mut kind, mut fields) = (None, serde_json::Map::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == "type" {
                kind = Some(map.next_value::<AuthType>()?);
            } else {
                fields.insert(name, map.next_value()?);
            }
        }
        let kind = kind.ok_or_else(|| A::Error::missing_field("type"))?;
        if !matches!(kind, AuthType::Plugin) {
            fields.insert("type".to_owned(), serde_json::to_value(kind).map_err(A::Error::custom)?);
            return serde_json::from_value(Value::Object(fields)).map(SourceAuth::BuiltIn).map_err(A::Error::custom);
        }
        serde_json::from_value(Value::Object(fields)).map(SourceAuth::Plugin).map_err(A::Error::custom)
    }
}

fn default_max_body() -> usize {
    1 << 20
}

/// What makes an event a duplicate: the same value, within the window, of exactly one of a header and a place in the JSON body. When the
/// tenant gets more shards (`plan.shards`), some of the values that are remembered then are forgotten once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DedupSpec {
    /// The header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "x-github-delivery")]
    pub header: Option<String>,
    /// A JSON pointer (RFC 6901) into the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// How long the first one is remembered, at most 7 days. Default 1 hour.
    #[serde(default = "default_window", with = "units::duration")]
    #[schema(value_type = String, example = "1h")]
    pub window: Duration,
}

fn default_window() -> Duration {
    Duration::from_secs(60 * 60)
}

/// What is made of a source.
#[derive(Debug)]
pub struct SourceParts {
    pub(in crate::control) enabled: bool,
    pub(in crate::control) verifier: Arc<Verifier>,
    pub(in crate::control) verify: Option<VisitParts>,
    pub(in crate::control) respond: Option<VisitParts>,
    pub(in crate::control) permits: Option<Arc<Permits>>,
    pub(in crate::control) methods: Option<Vec<Method>>,
    pub(in crate::control) format: Format,
    pub(in crate::control) dedup: Option<DedupRule>,
    pub(in crate::control) max_body: usize,
    pub(in crate::control) trust_trace: bool,
}

impl SourceSpec {
    /// Whether it is for the gateway's own notices.
    pub(in crate::control) fn takes_notices(&self) -> bool {
        self.auth == SourceAuth::BuiltIn(VerifierConfig::Notices {})
    }

    /// Checks it and makes it ready for use on a gateway that takes at most `max_body`, and gives its plugins at most `gate`.
    pub(in crate::control) fn prepare(&self, max_body: usize, gate: &Limits) -> Result<SourceParts, Vec<FieldError>> {
        let mut faults = Faults::default();
        check_name("name", &self.name, &mut faults);
        faults.range("max_body", self.max_body, 1, MAX_BODY);
        let (verifier, verify) = match &self.auth {
            SourceAuth::Plugin(visit) => (Ok(Verifier::plugin()), Some(visit.prepare("auth", gate, &mut faults))),
            SourceAuth::BuiltIn(config) => (Verifier::new(config).map_err(|error| faults.add("auth", error.to_string())), None),
        };
        if self.takes_notices() && self.respond.is_some() {
            faults.add("respond", "must be left out where `auth.type` is \"notices\": nobody is answered there");
        }
        let respond = self.respond.as_ref().map(|visit| visit.prepare("respond", gate, &mut faults));
        let permits = self.handshake.as_ref().map(|handshake| handshake.prepare("handshake", &mut faults));
        let methods = self.methods.as_ref().map(|methods| parse_methods(methods, &mut faults));
        let dedup = self.dedup.as_ref().and_then(|dedup| dedup.prepare(&mut faults));
        let Ok(verifier) = verifier else { return Err(faults.0) };
        faults.or(SourceParts {
            enabled: self.enabled,
            verifier: Arc::new(verifier),
            verify,
            respond,
            permits,
            methods,
            format: self.format,
            dedup,
            max_body: self.max_body.min(max_body),
            trust_trace: self.trust_trace,
        })
    }
}

fn parse_methods(methods: &[String], faults: &mut Faults) -> Vec<Method> {
    if methods.is_empty() || methods.len() > MAX_METHODS {
        faults.add("methods", format!("must name 1 to {MAX_METHODS} methods, or be left out for any"));
    }
    let mut parsed = Vec::with_capacity(methods.len().min(MAX_METHODS));
    for (index, text) in methods.iter().enumerate().take(MAX_METHODS) {
        match Method::from_bytes(text.as_bytes()) {
            Ok(method) if text.len() <= 32 => parsed.push(method),
            _ => faults.add(format!("methods[{index}]"), "is not an HTTP method, like \"POST\""),
        }
    }
    parsed
}

impl DedupSpec {
    fn prepare(&self, faults: &mut Faults) -> Option<DedupRule> {
        faults.time("dedup.window", self.window, Duration::from_secs(1), MAX_WINDOW);
        let by = match (&self.header, &self.pointer) {
            (Some(header), None) => match HeaderName::from_bytes(header.as_bytes()) {
                Ok(name) => DedupBy::Header(name),
                Err(_) => {
                    faults.add("dedup.header", "is not a header's name");
                    return None;
                }
            },
            (None, Some(pointer)) if pointer.starts_with('/') && pointer.len() <= 1024 => DedupBy::Pointer(pointer.clone()),
            (None, Some(_)) => {
                faults.add("dedup.pointer", "must be a JSON pointer like \"/data/id\", at most 1024 bytes");
                return None;
            }
            _ => {
                faults.add("dedup", "needs exactly one of `header` and `pointer`");
                return None;
            }
        };
        Some(DedupRule { by, window: self.window })
    }
}
