//! Destinations that are message brokers: a delivery is one message that the broker has acknowledged.
//!
//! The gateway speaks the publishing half of each protocol itself, over connections that it has dialled by its own address policy and TLS.
//! Client libraries dial on their own, follow the addresses that a server names, and trust what it sends; a tenant's server is
//! trusted with nothing here: what may be read for one message is counted, lengths are checked before room is made for them, and nested
//! values are never decoded.
//!
//! # Connections
//! One message at a time on each, so that an answer can belong to one message only; up to [`sessions::MAX_CONNECTIONS`] for each destination. They count
//! as connections of the gateway and in their tenant's share of these, are kept for the next message, and closed when they were idle for as long as HTTP's may be. Nothing
//! reconnects in the background: the next attempt does, when the retry policy or the circuit lets it.
//!
//! # What a message holds
//! The body as it is, the request's headers by the protocol's own means, and the delivery's id as the message's id: several outputs of one
//! event are several messages, and the repeat of one is the same message.
//!
//! # What an answer means
//! Delivered is what the broker has confirmed; its words are kept as the response. All failures can pass but one: a message that is
//! larger than the broker takes is given up.

mod amqp;
mod kafka;
mod link;
mod nats;
mod redis;
mod sessions;

use std::time::Instant;

use bytes::Bytes;
use http::header::USER_AGENT;
use tokio::sync::OwnedSemaphorePermit;

use super::client::exchange::{Kept, Stage};
use super::client::{Inner, OutRequest, Sent};
use super::connect;
use super::fault::Fault;
use super::proxy::Proxy;
use super::target::{Speaks, Target};
use crate::clock::Timestamp;
use crate::event::{DeliveryId, EventId, Failure};
use crate::secret::Secret;
pub use kafka::Mechanism;
use link::{Heard, Link, Stream};
use sessions::Found;
pub use sessions::MAX_CONNECTIONS as MAX_BROKER_CONNECTIONS;
pub(super) use sessions::{Idle, Rank, Sessions};

/// A broker, and where in it messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// The protocol with its own names.
    pub protocol: Protocol,
    /// Who the gateway is there.
    pub login: Login,
}

/// How a broker is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `XADD` to a stream of Redis or Valkey; URLs `redis://` and `rediss://`.
    RedisStream {
        /// The stream's key.
        stream: String,
        /// About how many entries it keeps (`MAXLEN ~`).
        max_length: Option<u64>,
        /// The database's number.
        database: u32,
    },
    /// A publish to JetStream; URLs `nats://` and `tls://`.
    Nats {
        /// The subject.
        subject: String,
        /// The stream that has to take it.
        stream: Option<String>,
    },
    /// A mandatory publish with confirmation by AMQP 0-9-1; URLs `amqp://` and `amqps://`.
    Amqp {
        /// The virtual host.
        vhost: String,
        /// The exchange; empty is the one that routes to the queue that the key names.
        exchange: String,
        /// The routing key.
        routing_key: String,
    },
    /// A record of a Kafka topic; URLs `kafka://` and `kafka+tls://`.
    Kafka {
        /// The topic.
        topic: String,
        /// How a user logs in.
        mechanism: Mechanism,
    },
}

/// Who the gateway is at a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// Nobody in particular.
    None,
    /// A user.
    User {
        /// The name.
        name: String,
        /// The password.
        password: Secret,
    },
    /// A token or password alone.
    Token(Secret),
}

/// What a message says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The delivery, which is the message.
    pub delivery: DeliveryId,
    /// The event that it comes from.
    pub event: EventId,
    /// When the event was accepted.
    pub accepted_at: Timestamp,
}

impl Protocol {
    /// The URL schemes without and with TLS, and their ports.
    pub(super) fn schemes(&self) -> [(&'static str, u16); 2] {
        match self {
            Self::RedisStream { .. } => [("redis", 6379), ("rediss", 6379)],
            Self::Nats { .. } => [("nats", 4222), ("tls", 4222)],
            Self::Amqp { .. } => [("amqp", 5672), ("amqps", 5671)],
            Self::Kafka { .. } => [("kafka", 9092), ("kafka+tls", 9093)],
        }
    }
}

/// How the names begin of what the gateway says of a message beside its `webhook-` headers.
pub(super) const OWN: &str = "tidegate-";

/// One message on its way.
struct Message<'a> {
    broker: &'a Broker,
    delivery: DeliveryId,
    id: String,
    event: String,
    accepted_at: Timestamp,
    request: &'a OutRequest,
}

impl Message<'_> {
    /// The headers, in order and repeated as they are, but for what is about HTTP alone, and for names that the gateway's own have.
    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let all = self.request.headers.iter().filter(|(name, _)| *name != USER_AGENT && !name.as_str().starts_with(OWN));
        all.map(|(name, value)| (name.as_str(), value.as_bytes()))
    }

    fn body(&self) -> &Bytes {
        &self.request.body
    }

    /// The same headers with one line for each name, as HTTP lets them be joined.
    fn joined_headers(&self) -> Vec<(&str, Vec<u8>)> {
        let mut joined: Vec<(&str, Vec<u8>)> = Vec::new();
        // A map of headers gives the lines of one name one after the other.
        for (name, value) in self.headers() {
            match joined.last_mut() {
                Some((last, line)) if *last == name => {
                    line.extend_from_slice(b", ");
                    line.extend_from_slice(value);
                }
                _ => joined.push((name, value.to_vec())),
            }
        }
        joined
    }
}

/// What became of a message on a connection that goes on: what the broker acknowledged, or why it did not take it.
type Answer = Result<String, Fault>;

/// What a connection heard of the message that was owed on it.
#[derive(Default)]
struct Settled {
    /// What it answers to the message that is to be published, so that it is not.
    own: Option<Answer>,
    /// What the broker acknowledged of another.
    other: Option<String>,
}

/// A connection on which the gateway is logged in.
enum Session {
    Redis(redis::Session),
    Nats(nats::Session),
    Amqp(amqp::Session),
    Kafka(kafka::Session),
}

impl Session {
    async fn open(inner: &Inner, target: &Target, broker: &Broker, stage: &mut Stage) -> Result<Self, Fault> {
        match &broker.protocol {
            Protocol::RedisStream { .. } => {
                redis::Session::open(link_to(inner, target, stage).await?, broker).await.map(Self::Redis)
            }
            Protocol::Nats { .. } => nats::Session::open(inner, target, broker, stage).await.map(Self::Nats),
            Protocol::Amqp { .. } => amqp::Session::open(link_to(inner, target, stage).await?, broker).await.map(Self::Amqp),
            Protocol::Kafka { .. } => kafka::Session::open(inner, target, broker, stage).await.map(Self::Kafka),
        }
    }

    /// An error outside of the answer means that the connection is of no use any more.
    async fn publish(&mut self, message: &Message<'_>) -> Result<Answer, Fault> {
        self.link().allow(message.body().len());
        match self {
            Self::Redis(session) => session.publish(message).await,
            Self::Nats(session) => session.publish(message).await,
            Self::Amqp(session) => session.publish(message).await,
            Self::Kafka(session) => session.publish(message).await,
        }
    }

    /// Whether it can be used again, as far as one can tell without asking.
    fn is_alive(&mut self) -> bool {
        match (self.link().heard(), &self) {
            (Heard::Nothing, _) => true,
            // NATS asks whether somebody is there, RabbitMQ tells that it is short of something; the others only answer.
            (Heard::Something, Self::Nats(_) | Self::Amqp(_)) => true,
            (Heard::Something, Self::Redis(_) | Self::Kafka(_)) | (Heard::End, _) => false,
        }
    }

    /// Hears what became of the message that is owed on it.
    async fn settle(&mut self, message: &Message<'_>) -> Result<Settled, Fault> {
        if let Self::Amqp(session) = self { session.settle(message).await } else { Ok(Settled::default()) }
    }

    /// The message of which it is still to be settled on it what became of it: closed, it would be published again.
    fn owed(&self) -> Option<&amqp::Published> {
        if let Self::Amqp(session) = self { session.owed() } else { None }
    }

    /// Whether nothing was begun on it that is not at its end.
    fn is_at_rest(&self) -> bool {
        if let Self::Amqp(session) = self { session.is_at_rest() } else { true }
    }

    fn link(&mut self) -> &mut Link {
        match self {
            Self::Redis(session) => session.link(),
            Self::Nats(session) => session.link(),
            Self::Amqp(session) => session.link(),
            Self::Kafka(session) => session.link(),
        }
    }
}

/// A connection to one of the addresses that the policy allows, through the operator's proxy if there is one for it.
async fn dial(inner: &Inner, target: &Target, stage: &mut Stage) -> Result<(Box<dyn Stream>, OwnedSemaphorePermit), Fault> {
    *stage = Stage::Admission;
    let permit = inner.pool.may_open().await;
    *stage = Stage::Resolve;
    if let Some(proxy) = Proxy::of_environment(inner, target)? {
        return Ok((Box::new(proxy.lead(inner, target, stage).await?), permit));
    }
    let addresses = inner.resolver.resolve(target).await?;
    *stage = Stage::Connect;
    Ok((Box::new(connect::tcp(&addresses).await?), permit))
}

/// The same with TLS, if the target has it.
async fn link_to(inner: &Inner, target: &Target, stage: &mut Stage) -> Result<Link, Fault> {
    let (stream, permit) = dial(inner, target, stage).await?;
    let link = if target.is_tls() {
        *stage = Stage::Tls;
        Link::new(Box::new(inner.tls.connect(target, stream).await?.0), permit)
    } else {
        Link::new(stream, permit)
    };
    *stage = Stage::Response;
    Ok(link)
}

/// Publishes one message and waits until the broker has acknowledged it.
pub(super) async fn deliver(inner: &Inner, request: OutRequest, started: Instant) -> Sent {
    let mut stage = Stage::Admission;
    let outcome = match tokio::time::timeout(request.deadline, publish(inner, &request, &mut stage)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(stage.timed_out()),
    };
    let (response, response_cut, failure) = match outcome {
        Ok(acknowledged) => {
            let (kept, cut) = keep(inner, acknowledged.as_bytes());
            (kept, cut, None)
        }
        Err(fault) => (Bytes::new(), false, Some(fault.failure())),
    };
    Sent {
        status: None,
        answer_headers: None,
        retry_after: None,
        response,
        response_cut,
        took: started.elapsed(),
        resent: false,
        token_ended: false,
        failure,
    }
}

/// What is kept of an acknowledgement, inside the limits that are a response's, and whether that is not all of it.
fn keep(inner: &Inner, acknowledged: &[u8]) -> (Bytes, bool) {
    let mut kept = Kept::default();
    let within = &acknowledged[..acknowledged.len().min(inner.max_response)];
    let taken = kept.extend(&inner.responses, within);
    (kept.freeze(), taken < acknowledged.len())
}

async fn publish(inner: &Inner, request: &OutRequest, stage: &mut Stage) -> Answer {
    let target = &*request.target;
    let (Speaks::Broker(broker), Some(labels)) = (&target.speaks, request.labels) else {
        return Err(Fault::NotSigned("the message has no id".to_owned()));
    };
    let message = Message {
        broker,
        delivery: labels.delivery,
        id: labels.delivery.to_string(),
        event: labels.event.to_string(),
        accepted_at: labels.accepted_at,
        request,
    };
    let place = inner.brokers.admit(&inner.pool, target.key, message.delivery).await;
    let connection = match place.find() {
        Found::Idle(connection) => *connection,
        Found::Confirmed(words) => return Ok(words),
        Found::Owed => {
            return Err(Fault::broker("broker_blocked", "it has not confirmed yet what was published before".to_owned()));
        }
        Found::Nothing(place) => {
            let turn = inner.pool.turn(target.key.tenant).await;
            let opening = Session::open(inner, target, broker, stage);
            match tokio::time::timeout(inner.connect_timeout, opening).await {
                Ok(opened) => place.with(opened?, turn),
                Err(_) => return Err(stage.timed_out()),
            }
        }
    };
    *stage = Stage::Response;
    connection.publish(&message).await
}

impl Broker {
    /// A broker's own words, for people: short, printable, without the gateway's secret.
    fn words(&self, bytes: &[u8]) -> String {
        const MAX_WORDS: usize = 200;
        let text = String::from_utf8_lossy(bytes);
        let secret = match &self.login {
            Login::None => None,
            Login::User { password: secret, .. } | Login::Token(secret) => Some(secret.expose()).filter(|text| !text.is_empty()),
        };
        let text = secret.map_or_else(|| text.to_string(), |secret| text.replace(secret, "[redacted]"));
        text.chars().map(|one| if one.is_control() { ' ' } else { one }).take(MAX_WORDS).collect::<String>().trim().to_owned()
    }

    fn refused(&self, words: &[u8]) -> Fault {
        Fault::broker("broker_refused", format!("the broker refused the message: {}", self.words(words)))
    }

    fn login_refused(&self, words: &[u8]) -> Fault {
        Fault::broker("login_refused", format!("the broker refused the credentials: {}", self.words(words)))
    }

    fn too_large(&self, words: &[u8]) -> Fault {
        let detail = format!("the message is larger than the broker takes: {}", self.words(words));
        Fault::Broker { code: Failure::MESSAGE_TOO_LARGE, detail, retryable: false }
    }
}
