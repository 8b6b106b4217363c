mod auth;
mod kind;
mod signing;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits::{CircuitBreakerSpec, check_rate};
use super::order::OrderSpec;
use super::retry::RetrySpec;
use super::{
    BatchSpec, DestinationHandshakeSpec, FORMAT, Faults, FieldError, Kind, LATER, VISITED, VisitParts, VisitSpec, check_name, yes,
};
use crate::clock::Timestamp;
use crate::config::units;
use crate::control::parts::{self, Origin};
use crate::control::snapshot::{Destination, Handshake, Order};
use crate::dispatch::rate::{Paces, Rate};
use crate::dispatch::schedule::RetryPolicy;
use crate::egress::policy::AddressPolicy;
use crate::egress::{ClientIdentity, MAX_BROKER_CONNECTIONS, Proxy, ProxyUser, Speaks, TargetConfig, TargetError, TlsOptions};
use crate::event::{DestinationId, Revision, TenantId};
use crate::plugin::Limits;
use crate::secret::Secret;
pub use auth::DestinationAuth;
pub use kind::{AmqpSpec, DestinationKind, KafkaSpec, NatsSpec, RedisStreamSpec, S3Spec};
pub use signing::{RetiringSpec, SigningSpec};

/// Static headers of a destination.
const MAX_HEADERS: usize = 32;
/// Bytes of a header's value or a token.
const MAX_TEXT: usize = 4096;

/// Destinations.
#[derive(Debug)]
pub enum Destinations {}

impl Kind for Destinations {
    type Id = DestinationId;
    type Spec = DestinationSpec;
    type Parts = DestinationParts;
    const NAME: &'static str = "destination";
    const KEY: &'static str = "dst";
    const SECRETS: &'static [&'static str] = &[
        "auth/token",
        "auth/password",
        "auth/value",
        "auth/client_secret",
        "auth/secret_access_key",
        "auth/session_token",
        "signing/secrets/*",
        "signing/retiring/*/secret",
        "signing/hmac/secret",
        "tls/client_key_pem",
        "proxy/password",
        "sign/secrets/*",
        "judge/secrets/*",
    ];
    const FORMAT: u8 = LATER;

    fn new_id(now: Timestamp, random: u128) -> DestinationId {
        DestinationId::new(now, random)
    }

    fn name(spec: &DestinationSpec) -> &str {
        &spec.name
    }

    fn format(spec: &DestinationSpec) -> u8 {
        let is_new = spec.sign.is_some() || spec.judge.is_some() || spec.handshake.is_some();
        match (spec.kind, &spec.order, &spec.batch) {
            (DestinationKind::Http, None, None) if is_new => VISITED,
            (DestinationKind::Http, None, None) => FORMAT,
            _ => LATER,
        }
    }
}

/// A destination: where deliveries go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DestinationSpec {
    /// Unique in the tenant.
    #[schema(example = "chat")]
    pub name: String,
    /// Deliveries for a disabled destination wait. Default true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What it is. Default `http`.
    #[serde(default, skip_serializing_if = "DestinationKind::is_http")]
    pub kind: DestinationKind,
    /// Where requests go: `http://` or `https://`, of a bucket the store's. Of a broker its address: `redis://` or `rediss://`, `nats://` or
    /// `tls://`, `amqp://` or `amqps://`, `kafka://` or `kafka+tls://`, with host and port alone; the second of each is with TLS.
    #[schema(example = "https://chat.example.com/hooks/1")]
    pub url: String,
    /// The stream, for the kind `redis_stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_stream: Option<RedisStreamSpec>,
    /// The subject, for the kind `nats`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<NatsSpec>,
    /// The exchange, for the kind `amqp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amqp: Option<AmqpSpec>,
    /// The topic, for the kind `kafka`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSpec>,
    /// The bucket, for the kind `s3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Spec>,
    /// Whether the path below the source is appended to the URL's. Default false.
    #[serde(default)]
    pub append_path: bool,
    /// Whether the query is appended to the URL's. Default false.
    #[serde(default)]
    pub append_query: bool,
    /// TLS.
    #[serde(default)]
    pub tls: TlsSpec,
    /// Credentials that are sent along.
    #[serde(default)]
    pub auth: DestinationAuth,
    /// Headers that every request gets. Shown again, so not for secrets.
    #[serde(default)]
    pub headers: Vec<HeaderSpec>,
    /// How requests are signed.
    #[serde(default)]
    pub signing: SigningSpec,
    /// Whether bodies are compressed. Signatures of Standard Webhooks and HMAC headers are of the body before that. Default `none`.
    #[serde(default, skip_serializing_if = "Compression::is_none")]
    pub compression: Compression,
    /// The proxy that requests go through. Default: the operator's, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxySpec>,
    /// Asks it whether it agrees to be sent to, before anything is (CloudEvents' webhook handshake).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake: Option<DestinationHandshakeSpec>,
    /// A plugin that signs each attempt by the receiver's own scheme, beside `signing`: its headers are made afresh and not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign: Option<VisitSpec>,
    /// A plugin that says what an answer means: delivered, to be tried again, or to be given up. Without an answer, or when it fails, the
    /// gateway judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<VisitSpec>,
    /// One attempt, from connect to the end of the response body, at most 5 minutes. Default 30 s.
    #[serde(default = "default_timeout", with = "units::duration")]
    #[schema(value_type = String, example = "30s")]
    pub timeout: Duration,
    /// Attempts at once; more deliveries wait in the store. A tenant with several shards (`plan.shards`) has its part of them in each, at
    /// least one and at most 256, whatever stands here. A broker gets at most 16 at once. Default 64.
    #[serde(default = "default_in_flight")]
    pub in_flight: usize,
    /// Attempts in a time; more deliveries wait in the store, in order. A tenant with several shards has the same part of it in each, rounded
    /// down, at least one. Without it as many as there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// What leaves in the order in which its events were accepted, one delivery at a time. Without it everything goes out as it comes, side
    /// by side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<OrderSpec>,
    /// Several deliveries in one request, of destinations of the kind `http`. Then `in_flight`, `rate` and `circuit_breaker` are about these
    /// requests. Without it each delivery is a request of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchSpec>,
    /// When failed deliveries are tried again.
    #[serde(default)]
    pub retry: RetrySpec,
    /// When nothing is attempted for a while, because attempts fail.
    #[serde(default, skip_serializing_if = "CircuitBreakerSpec::is_default")]
    pub circuit_breaker: CircuitBreakerSpec,
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_in_flight() -> usize {
    64
}

/// Whether bodies are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// They go out as they are.
    #[default]
    None,
    /// With `Content-Encoding: gzip`, from 512 bytes on, if they have none yet and become smaller.
    Gzip,
}

impl Compression {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// A proxy that is asked for tunnels (`CONNECT`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxySpec {
    /// Where it is; `http` or `https`. Like the destination's URL it must lead to where the gateway may go.
    #[schema(example = "http://proxy.example.com:3128")]
    pub url: String,
    /// The user's name, if it wants one; no colon in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::control::schema::secret)]
    pub password: Option<Secret>,
}

/// How TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSpec {
    /// Certificates, in PEM, that are trusted for this destination besides the gateway's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// Whether HTTP/2 is offered. Default true.
    pub http2: bool,
    /// The gateway's certificate for this destination, in PEM, and those between it and its authority's (mutual TLS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_pem: Option<String>,
    /// Its private key, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::control::schema::secret)]
    pub client_key_pem: Option<Secret>,
}

impl Default for TlsSpec {
    fn default() -> Self {
        Self { ca_pem: None, http2: true, client_cert_pem: None, client_key_pem: None }
    }
}

/// A header with its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderSpec {
    /// The header.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl ProxySpec {
    /// None if the gateway may not go there any more, or with a fault.
    fn prepare(&self, place: auth::Place<'_>, faults: &mut Faults) -> Option<Proxy> {
        let user = match (&self.username, &self.password) {
            (None, None) => None,
            (Some(username), Some(password)) if !username.contains(':') && username.len() <= MAX_TEXT => {
                Some(ProxyUser { username: username.clone(), password: password.clone() })
            }
            (Some(_), Some(_)) => {
                faults.add("proxy.username", "has a colon or is too long");
                None
            }
            _ => {
                faults.add("proxy.password", "username and password are given together");
                None
            }
        };
        let tls = TlsOptions { http2: false, client: None, ..place.destination.tls.clone() };
        let config = TargetConfig { url: self.url.clone(), tls, speaks: Speaks::Http, ..place.destination.clone() };
        let refused = |error: TargetError| match error {
            TargetError::Refused(refusal) if place.origin == Origin::Stored => {
                tracing::warn!(destination = %config.destination, %refusal, "destination held: its proxy is not allowed any more");
            }
            error => faults.add("proxy.url", error.to_string()),
        };
        Proxy::new(&config, user.as_ref(), place.policy).map_err(refused).ok()
    }
}

impl TlsSpec {
    fn client(&self, faults: &mut Faults) -> Option<ClientIdentity> {
        match (&self.client_cert_pem, &self.client_key_pem) {
            (Some(certificate_pem), Some(key_pem)) => {
                Some(ClientIdentity { certificate_pem: certificate_pem.clone(), key_pem: key_pem.clone() })
            }
            (None, None) => None,
            (Some(_), None) => {
                faults.add("tls.client_key_pem", "is needed beside tls.client_cert_pem");
                None
            }
            (None, Some(_)) => {
                faults.add("tls.client_cert_pem", "is needed beside tls.client_key_pem");
                None
            }
        }
    }
}

/// What is made of a destination.
#[derive(Debug)]
pub struct DestinationParts {
    /// Without its plugins.
    pub(in crate::control) destination: Arc<Destination>,
    pub(in crate::control) sign: Option<VisitParts>,
    pub(in crate::control) judge: Option<VisitParts>,
    pub(in crate::control) handshake: Option<Arc<Handshake>>,
    pub(in crate::control) retry: RetryPolicy,
}

impl DestinationSpec {
    /// Checks it, by what may be reached and what its plugins may use, and makes it ready for use.
    pub(in crate::control) fn prepare(
        &self,
        id: DestinationId,
        tenant: TenantId,
        with: (&AddressPolicy, &Limits),
        origin: Origin,
    ) -> Result<DestinationParts, Vec<FieldError>> {
        let (policy, gate) = with;
        let mut faults = Faults::default();
        check_name("name", &self.name, &mut faults);
        faults.time("timeout", self.timeout, Duration::from_millis(100), Duration::from_secs(300));
        faults.range("in_flight", self.in_flight, 1, 10_000);
        let retry = self.retry.prepare("retry", &mut faults);
        check_rate("rate", self.rate, &mut faults);
        let breaker = self.circuit_breaker.prepare("circuit_breaker", self.timeout, &mut faults);
        let client = self.tls.client(&mut faults);
        let order = self.order.as_ref().and_then(|order| order.prepare("order", &mut faults));
        let speaks = self.speaks(&mut faults);
        let is_broker = matches!(speaks, Speaks::Broker(_));
        if self.order.is_some() && self.kind == DestinationKind::Kafka {
            faults.add("order", "is not kept by the kind `kafka`: each connection writes to one of the topic's partitions, and only those keep an order");
        }
        let batch = self.batch.as_ref().map(|batch| batch.prepare("batch", &mut faults));
        if batch.is_some() {
            self.check_alone(&mut faults);
        }
        let config = TargetConfig { speaks, ..self.target(tenant, id, client) };
        let field = |error: &TargetError| match error {
            TargetError::Certificates(_) => "tls.ca_pem",
            TargetError::Client(_) => "tls.client_cert_pem",
            _ => "url",
        };
        let target = parts::target(&config, policy, origin).map_err(|error| faults.add(field(&error), error.to_string()));
        let signer = self.signing.prepare(&mut faults);
        let mut headers = self.prepare_headers(&mut faults);
        let place = auth::Place { destination: &config, policy, origin };
        // Brokers are told at the log-in, not with each message.
        let made = if is_broker { auth::Made::default() } else { self.auth.prepare(place, &mut faults) };
        headers.extend(made.header);
        let proxy = self.proxy.as_ref().and_then(|proxy| proxy.prepare(place, &mut faults));
        let proxy_held = self.proxy.is_some() && proxy.is_none();
        let handshake = self.handshake.as_ref().and_then(|one| one.prepare("handshake", &self.url, &mut faults));
        headers.extend(handshake.as_ref().map(|one| (HeaderName::from_static("webhook-request-origin"), one.origin.clone())));
        let mut visit = |field, visit: &Option<VisitSpec>| visit.as_ref().map(|visit| visit.prepare(field, gate, &mut faults));
        let (sign, judge) = (visit("sign", &self.sign), visit("judge", &self.judge));
        let Ok((target, held)) = target else { return Err(faults.0) };
        let destination = Destination {
            id,
            name: self.name.clone(),
            tenant,
            enabled: self.enabled && !held && !made.held && !proxy_held,
            target: Arc::new(target.with_proxy(proxy)),
            signer: signer.map(Arc::new),
            headers,
            credentials: made.credentials,
            gzip: self.compression == Compression::Gzip,
            timeout: self.timeout,
            // What has no connection waits in the store, as behind any window.
            in_flight: if is_broker { self.in_flight.min(MAX_BROKER_CONNECTIONS) } else { self.in_flight },
            rate: self.rate,
            paces: Paces::default(),
            order: order.map(Order::new),
            batch,
            breaker,
            failing_since: None,
            enabled_at: Timestamp::default(),
            awaits: None,
            sign: None,
            judge: None,
        };
        faults.or(DestinationParts { destination: Arc::new(destination), sign, judge, handshake, retry })
    }

    fn target(&self, tenant: TenantId, destination: DestinationId, client: Option<ClientIdentity>) -> TargetConfig {
        // Connections are kept apart by what they were made for: another spec is another revision.
        let spec = serde_json::to_vec(self).expect("specs are plain data");
        let hash = digest(&SHA256, &spec);
        let revision = Revision(hash.as_ref().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)));
        TargetConfig {
            tenant,
            destination,
            revision,
            url: self.url.clone(),
            append_path: self.append_path,
            append_query: self.append_query,
            tls: TlsOptions { ca_pem: self.tls.ca_pem.clone(), http2: self.tls.http2, client },
            speaks: Speaks::Http,
        }
    }

    /// What can't be had together with batches.
    fn check_alone(&self, faults: &mut Faults) {
        let others = [
            (
                self.kind != DestinationKind::Http,
                "batch",
                "is for the kind `http` alone: brokers and buckets get a message or an object for each delivery",
            ),
            (
                self.order.is_some(),
                "order",
                "can't be kept together with `batch`: events of a batch end one by one, and those that failed come later",
            ),
            (self.append_path, "append_path", "can't be true with `batch`: a batch goes to one path, the URL's"),
            (self.append_query, "append_query", "can't be true with `batch`: a batch has one query, the URL's"),
            (self.sign.is_some(), "sign", "can't be used with `batch`: such a plugin signs one delivery; `signing` signs batches"),
            (
                self.judge.is_some(),
                "judge",
                "can't be used with `batch`: such a plugin judges one delivery; the answer to a batch tells outcomes itself",
            ),
        ];
        for (_, field, problem) in others.into_iter().filter(|(is_set, ..)| *is_set) {
            faults.add(field, problem);
        }
    }

    fn prepare_headers(&self, faults: &mut Faults) -> Vec<(HeaderName, HeaderValue)> {
        if self.headers.len() > MAX_HEADERS {
            faults.add("headers", format!("there may be {MAX_HEADERS}"));
            return Vec::new();
        }
        let mut headers = Vec::new();
        for (index, header) in self.headers.iter().enumerate() {
            let name = header_name(&format!("headers[{index}].name"), &header.name, faults);
            let value = header_value(&format!("headers[{index}].value"), &header.value, faults);
            headers.extend(name.zip(value));
        }
        headers
    }
}

/// Headers that make or break the request's framing or meaning, or that the gateway sets itself.
fn is_reserved(name: &HeaderName) -> bool {
    const RESERVED: [&str; 12] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "traceparent",
    ];
    RESERVED.contains(&name.as_str()) || name.as_str().starts_with("webhook-")
}

fn header_name(field: &str, text: &str, faults: &mut Faults) -> Option<HeaderName> {
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) if is_reserved(&name) => {
            faults.add(field, format!("`{name}` is set by the gateway and can't be set here"));
            None
        }
        Ok(name) => Some(name),
        Err(_) => {
            faults.add(field, "is not a header's name");
            None
        }
    }
}

fn header_value(field: &str, text: &str, faults: &mut Faults) -> Option<HeaderValue> {
    match HeaderValue::from_str(text) {
        Ok(value) if text.len() <= MAX_TEXT => Some(value),
        // The text may be a secret.
        _ => {
            faults.add(field, format!("must be printable characters, at most {MAX_TEXT} bytes"));
            None
        }
    }
}
