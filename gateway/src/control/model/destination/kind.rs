//! Destinations that are no receivers of HTTP requests: brokers and buckets.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::text;
use super::{Compression, DestinationAuth, DestinationSpec, Faults};
use crate::egress::{Broker, Login, Mechanism, Objects, Protocol, Speaks};

/// Bytes of a stream's, subject's or exchange's name: what AMQP takes, and enough for the others.
const MAX_NAME: usize = 255;

/// What a destination is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DestinationKind {
    /// A receiver of HTTP requests.
    #[default]
    Http,
    /// A stream of Redis or Valkey: an entry for each delivery.
    RedisStream,
    /// A subject that a JetStream stream of NATS takes: a message for each delivery.
    Nats,
    /// An exchange of AMQP 0-9-1 (RabbitMQ): a message for each delivery.
    Amqp,
    /// A topic of Kafka: a record for each delivery.
    Kafka,
    /// A bucket of S3, or of what speaks like it: an object for each delivery.
    S3,
}

/// A stream of Redis or Valkey. An entry has the fields `id`, `event`, `body`, and `header.NAME` for each header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisStreamSpec {
    /// The stream's key.
    #[schema(example = "webhooks")]
    pub stream: String,
    /// About how many entries it keeps; the oldest go (`MAXLEN ~`). Without it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    /// The database's number. Default 0.
    #[serde(default)]
    pub database: u32,
}

/// A subject of NATS. A message has the request's headers, and the delivery's id as `Nats-Msg-Id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsSpec {
    /// The subject. A JetStream stream has to take it.
    #[schema(example = "webhooks.acme")]
    pub subject: String,
    /// The stream that has to be the one that takes it. Without it any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
}

/// An exchange of AMQP 0-9-1. A message has the request's headers, and the delivery's id as `message_id`. It is persistent and mandatory: what
/// is routed to no queue has failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AmqpSpec {
    /// The exchange. Default the one without a name, which routes to the queue that `routing_key` names.
    #[serde(default)]
    pub exchange: String,
    /// The routing key. Default empty.
    #[serde(default)]
    pub routing_key: String,
    /// The virtual host. Default `/`.
    #[serde(default = "root")]
    pub vhost: String,
}

/// A topic of Kafka. A record has the request's headers, and the delivery's id as key. All replicas in sync have to have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSpec {
    /// The topic. It is not made if it is not there.
    #[schema(example = "webhooks")]
    pub topic: String,
    /// How a user of `auth` logs in. Default `plain`.
    #[serde(default)]
    pub sasl: SaslSpec,
}

/// How a user logs in at Kafka (SASL).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaslSpec {
    /// `PLAIN`: the password is sent as it is, so only over TLS.
    #[default]
    Plain,
    /// `SCRAM-SHA-256`.
    ScramSha256,
    /// `SCRAM-SHA-512`.
    ScramSha512,
}

/// A bucket. Its store's URL is the destination's, its keys are in `auth` (`aws_sigv4` with the service `s3`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Spec {
    /// The bucket's name, which is put behind the URL's path. Without it the URL's host names the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// The objects' keys: `{id}` is the delivery's id, `{event}` the event's, `{date}` the day of its acceptance in UTC, `2026/01/31`.
    /// Default `{date}/{id}`.
    #[serde(default = "by_day")]
    pub key: String,
}

fn root() -> String {
    "/".to_owned()
}

fn by_day() -> String {
    "{date}/{id}".to_owned()
}

impl DestinationKind {
    pub(super) fn is_http(&self) -> bool {
        *self == Self::Http
    }

    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::RedisStream => "redis_stream",
            Self::Nats => "nats",
            Self::Amqp => "amqp",
            Self::Kafka => "kafka",
            Self::S3 => "s3",
        }
    }
}

impl DestinationSpec {
    /// What is behind its URL; plain HTTP, with a fault, where that can't be told.
    pub(super) fn speaks(&self, faults: &mut Faults) -> Speaks {
        let sections = [
            (DestinationKind::RedisStream, self.redis_stream.is_some()),
            (DestinationKind::Nats, self.nats.is_some()),
            (DestinationKind::Amqp, self.amqp.is_some()),
            (DestinationKind::Kafka, self.kafka.is_some()),
            (DestinationKind::S3, self.s3.is_some()),
        ];
        for (kind, is_there) in sections {
            if is_there && kind != self.kind {
                let (section, own) = (kind.name(), self.kind.name());
                faults.add(section, format!("is for the kind `{section}`, and this one's is `{own}`: set `kind` or leave it out"));
            }
            if !is_there && kind == self.kind {
                faults.add(kind.name(), format!("is needed for the kind `{}`", kind.name()));
            }
        }
        let protocol = match self.kind {
            DestinationKind::Http => None,
            DestinationKind::RedisStream => self.redis_stream.as_ref().map(|spec| spec.protocol(faults)),
            DestinationKind::Nats => self.nats.as_ref().map(|spec| spec.protocol(faults)),
            DestinationKind::Amqp => self.amqp.as_ref().map(|spec| spec.protocol(faults)),
            DestinationKind::Kafka => self.kafka.as_ref().map(|spec| spec.protocol(faults)),
            DestinationKind::S3 => return self.s3.as_ref().map_or(Speaks::Http, |spec| self.objects(spec, faults)),
        };
        let Some(protocol) = protocol else { return Speaks::Http };
        self.check_broker(faults);
        Speaks::Broker(Broker { protocol, login: self.login(faults) })
    }

    fn objects(&self, spec: &S3Spec, faults: &mut Faults) -> Speaks {
        self.check_path(faults);
        if let DestinationAuth::AwsSigV4 { service, .. } = &self.auth
            && service != "s3"
        {
            faults.add("auth.service", "must be `s3` for the kind `s3`");
        }
        if let Some(bucket) = &spec.bucket {
            let known = |one: char| one.is_ascii_alphanumeric() || matches!(one, '-' | '.' | '_');
            if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(known) || bucket.contains("..") {
                faults.add("s3.bucket", "must be 3 to 63 letters, digits, `-`, `_` and single `.`");
            }
        }
        match Objects::new(spec.bucket.clone(), &spec.key) {
            Ok(objects) => Speaks::Objects(objects),
            Err(problem) => {
                faults.add("s3.key", problem);
                Speaks::Http
            }
        }
    }

    /// What only requests have.
    fn check_broker(&self, faults: &mut Faults) {
        let kind = self.kind.name();
        self.check_path(faults);
        if self.compression != Compression::None {
            faults.add("compression", format!("is for requests; the kind `{kind}` takes bodies as they are"));
        }
        if self.proxy.is_some() {
            faults.add("proxy", format!("is for requests; the kind `{kind}` has the operator's alone, if there is one"));
        }
        if self.judge.is_some() {
            faults.add("judge", format!("is for requests; the kind `{kind}` gives no response to judge"));
        }
    }

    fn check_path(&self, faults: &mut Faults) {
        for (field, is_set) in [("append_path", self.append_path), ("append_query", self.append_query)] {
            if is_set {
                faults.add(field, format!("is for requests to a URL; leave it out for the kind `{}`", self.kind.name()));
            }
        }
        if self.handshake.is_some() {
            faults.add(
                "handshake",
                format!("is CloudEvents' for receivers of requests; leave it out for the kind `{}`", self.kind.name()),
            );
        }
    }

    fn login(&self, faults: &mut Faults) -> Login {
        let takes_token = matches!(self.kind, DestinationKind::RedisStream | DestinationKind::Nats);
        match &self.auth {
            DestinationAuth::None => Login::None,
            DestinationAuth::Basic { username, password } => {
                text("auth.username", username, faults);
                text("auth.password", password.expose(), faults);
                Login::User { name: username.clone(), password: password.clone() }
            }
            DestinationAuth::Bearer { token } if takes_token => {
                text("auth.token", token.expose(), faults);
                Login::Token(token.clone())
            }
            _ => {
                let known =
                    if takes_token { "`none`, `basic` or `bearer` (a token or password alone)" } else { "`none` or `basic`" };
                faults.add("auth.type", format!("must be {known} for the kind `{}`", self.kind.name()));
                Login::None
            }
        }
    }
}

impl RedisStreamSpec {
    fn protocol(&self, faults: &mut Faults) -> Protocol {
        text("redis_stream.stream", &self.stream, faults);
        if let Some(length) = self.max_length {
            faults.range("redis_stream.max_length", length, 1, i64::MAX as u64);
        }
        faults.range("redis_stream.database", self.database, 0, 1 << 20);
        Protocol::RedisStream { stream: self.stream.clone(), max_length: self.max_length, database: self.database }
    }
}

impl NatsSpec {
    fn protocol(&self, faults: &mut Faults) -> Protocol {
        let is_word = |word: &str| !word.is_empty() && word.chars().all(|one| one.is_ascii_graphic() && !"*>".contains(one));
        if self.subject.len() > MAX_NAME || !self.subject.split('.').all(is_word) || self.subject.starts_with('$') {
            let problem = "must be words of printable ASCII with `.` between them, without `*`, `>` and a `$` at the front";
            faults.add("nats.subject", format!("{problem}, at most {MAX_NAME} bytes"));
        }
        let is_stream = |stream: &String| stream.len() <= MAX_NAME && is_word(stream) && !stream.contains(['.', '/', '\\']);
        if self.stream.as_ref().is_some_and(|stream| !is_stream(stream)) {
            faults.add(
                "nats.stream",
                format!("must be a word of printable ASCII without `.`, `*`, `>` and slashes, at most {MAX_NAME} bytes"),
            );
        }
        Protocol::Nats { subject: self.subject.clone(), stream: self.stream.clone() }
    }
}

impl AmqpSpec {
    fn protocol(&self, faults: &mut Faults) -> Protocol {
        let Self { exchange, routing_key, vhost } = self;
        for (field, name) in [("amqp.exchange", exchange), ("amqp.routing_key", routing_key), ("amqp.vhost", vhost)] {
            if name.len() > MAX_NAME || name.chars().any(char::is_control) {
                faults.add(field, format!("must be at most {MAX_NAME} bytes without control characters"));
            }
        }
        if exchange.is_empty() && routing_key.is_empty() {
            faults.add("amqp.routing_key", "must name a queue where there is no `amqp.exchange`");
        }
        Protocol::Amqp { vhost: vhost.clone(), exchange: exchange.clone(), routing_key: routing_key.clone() }
    }
}

impl KafkaSpec {
    fn protocol(&self, faults: &mut Faults) -> Protocol {
        const MAX_TOPIC: usize = 249;
        let known = |one: char| one.is_ascii_alphanumeric() || matches!(one, '-' | '.' | '_');
        if !(1..=MAX_TOPIC).contains(&self.topic.len()) || !self.topic.chars().all(known) || matches!(&*self.topic, "." | "..") {
            faults.add("kafka.topic", format!("must be 1 to {MAX_TOPIC} letters, digits, `-`, `_` and `.`"));
        }
        let mechanism = match self.sasl {
            SaslSpec::Plain => Mechanism::Plain,
            SaslSpec::ScramSha256 => Mechanism::ScramSha256,
            SaslSpec::ScramSha512 => Mechanism::ScramSha512,
        };
        Protocol::Kafka { topic: self.topic.clone(), mechanism }
    }
}
