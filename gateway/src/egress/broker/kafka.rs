//! Kafka (<https://kafka.apache.org/protocol>): `Produce` to one partition with `acks=all`, and what leads up to it.
//!
//! A record has the delivery's id as key, and the request's headers with `tidegate-event`. A connection asks the destination's address for the
//! topic's partitions and goes to the leader of one of them, chosen at random, with which it stays; leaders are named by the server,
//! so their addresses are judged like any other. All requests are of versions that Kafka 1.0 and later, 4 included, and what is compatible take.

mod record;
mod scram;
mod wire;

use std::collections::HashMap;

use rand::seq::IndexedRandom;

use super::super::client::Inner;
use super::super::client::exchange::Stage;
use super::super::fault::Fault;
use super::super::target::Target;
use super::link::Link;
use super::{Answer, Broker, Login, Message, Protocol, link_to};
pub use scram::Mechanism;
use scram::Scram;
use wire::{Reader, Writer};

/// Bytes of an answer: a topic's partitions are the longest.
const MAX_ANSWER: usize = 192 * 1024;
/// How long a broker may wait for its replicas, in milliseconds; the attempt's own deadline is mostly earlier.
const REPLICAS_TIMEOUT: i32 = 30_000;

/// Requests with the versions that they are made in.
const PRODUCE: (i16, i16) = (0, 3);
const METADATA: (i16, i16) = (3, 4);
const SASL_HANDSHAKE: (i16, i16) = (17, 1);
const SASL_AUTHENTICATE: (i16, i16) = (36, 0);

const UNKNOWN_TOPIC: i16 = 3;
const MESSAGE_TOO_LARGE: i16 = 10;
const RECORD_LIST_TOO_LARGE: i16 = 18;

pub(super) struct Session {
    peer: Peer,
    partition: i32,
}

/// A connection to one server.
struct Peer {
    link: Link,
    asked: i32,
}

/// Who leads a partition.
struct Leader {
    partition: i32,
    host: String,
    port: u16,
}

impl Session {
    pub(super) async fn open(inner: &Inner, target: &Target, broker: &Broker, stage: &mut Stage) -> Result<Self, Fault> {
        let Protocol::Kafka { topic, .. } = &broker.protocol else { return Err(Fault::BadReply("it is not Kafka")) };
        let mut first = Peer::open(inner, target, broker, stage).await?;
        let Some(leader) = first.leader(broker, topic).await? else {
            return Err(Fault::broker("broker_refused", "no partition of the topic has a leader now".to_owned()));
        };
        if target.is_at(&leader.host, leader.port) {
            return Ok(Self { peer: first, partition: leader.partition });
        }
        drop(first);
        inner.resolver.check_port(leader.port)?;
        let there = target.elsewhere(&leader.host, leader.port).map_err(|_| Fault::BadReply("a leader's address is malformed"))?;
        let peer = Peer::open(inner, &there, broker, stage).await?;
        Ok(Self { peer, partition: leader.partition })
    }

    pub(super) async fn publish(&mut self, message: &Message<'_>) -> Result<Answer, Fault> {
        let broker = message.broker;
        let Protocol::Kafka { topic, .. } = &broker.protocol else { return Err(Fault::BadReply("it is not Kafka")) };
        let batch = record::batch(message);
        let mut request = Writer::default();
        request.nullable_text(None);
        request.i16(-1);
        request.i32(REPLICAS_TIMEOUT);
        request.i32(1);
        request.text(topic);
        request.i32(1);
        request.i32(self.partition);
        request.bytes(&batch);
        let mut answer = self.peer.ask(PRODUCE, &request).await?;
        if answer.count()? != 1 || answer.text()? != *topic || answer.count()? != 1 || answer.i32()? != self.partition {
            return Err(Fault::BadReply("it is about another partition"));
        }
        match answer.i16()? {
            0 => {
                let offset = answer.i64()?;
                Ok(Ok(format!("{{\"partition\":{},\"offset\":{offset}}}", self.partition)))
            }
            code @ (MESSAGE_TOO_LARGE | RECORD_LIST_TOO_LARGE) => Ok(Err(broker.too_large(name(code).as_bytes()))),
            // The partition may have another leader by now, so the next message asks anew.
            code => Err(refusal(broker, topic, code)),
        }
    }

    pub(super) fn link(&mut self) -> &mut Link {
        &mut self.peer.link
    }
}

impl Peer {
    async fn open(inner: &Inner, target: &Target, broker: &Broker, stage: &mut Stage) -> Result<Self, Fault> {
        let link = link_to(inner, target, stage).await?;
        let mut peer = Self { link, asked: 0 };
        peer.log_in(inner, target, broker, stage).await?;
        Ok(peer)
    }

    async fn log_in(&mut self, inner: &Inner, target: &Target, broker: &Broker, stage: &mut Stage) -> Result<(), Fault> {
        let (Login::User { name: user, password }, Protocol::Kafka { mechanism, .. }) = (&broker.login, &broker.protocol) else {
            return Ok(());
        };
        let mut request = Writer::default();
        request.text(mechanism.name());
        let mut answer = self.ask(SASL_HANDSHAKE, &request).await?;
        if answer.i16()? != 0 {
            return Err(broker.login_refused(format!("it does not take {}", mechanism.name()).as_bytes()));
        }
        if *mechanism == Mechanism::Plain {
            let said = [b"\0", user.as_bytes(), b"\0", password.expose().as_bytes()].concat();
            return self.authenticate(broker, &said).await.map(drop);
        }
        let scram = Scram::new(*mechanism, user, password.clone(), scram::nonce()?);
        let challenge = self.authenticate(broker, scram.first().as_bytes()).await?;
        *stage = Stage::Admission;
        let turn = inner.proofs.take(target.key.tenant).await;
        *stage = Stage::Response;
        let working = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            scram.answer(&challenge)
        });
        let (proof, vouched) =
            working.await.map_err(|_| Fault::NotSigned("working out the password's proof failed".to_owned()))??;
        let last = self.authenticate(broker, proof.as_bytes()).await?;
        if vouched.holds(&last) { Ok(()) } else { Err(Fault::BadReply("the broker does not know the password itself")) }
    }

    async fn authenticate(&mut self, broker: &Broker, said: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut request = Writer::default();
        request.bytes(said);
        let mut answer = self.ask(SASL_AUTHENTICATE, &request).await?;
        let (code, words) = (answer.i16()?, answer.nullable_text()?);
        if code != 0 {
            let words = words.unwrap_or_else(|| name(code));
            return Err(broker.login_refused(words.as_bytes()));
        }
        answer.bytes()
    }

    /// One of the topic's partitions that have a leader.
    async fn leader(&mut self, broker: &Broker, topic: &str) -> Result<Option<Leader>, Fault> {
        const CREATE_NONE: u8 = 0;
        let mut request = Writer::default();
        request.i32(1);
        request.text(topic);
        request.u8(CREATE_NONE);
        let mut answer = self.ask(METADATA, &request).await?;
        answer.i32()?;
        let mut nodes = HashMap::new();
        for _ in 0..answer.count()? {
            let (node, host, port) = (answer.i32()?, answer.text()?, answer.i32()?);
            answer.nullable_text()?;
            if let Ok(port) = u16::try_from(port) {
                nodes.insert(node, (host, port));
            }
        }
        answer.nullable_text()?;
        answer.i32()?;
        if answer.count()? != 1 {
            return Err(Fault::BadReply("it is about another topic"));
        }
        let code = answer.i16()?;
        answer.text()?;
        answer.u8()?;
        if code != 0 {
            return Err(refusal(broker, topic, code));
        }
        let mut led = Vec::new();
        for _ in 0..answer.count()? {
            let (_code, partition, leader) = (answer.i16()?, answer.i32()?, answer.i32()?);
            for _ in 0..2 {
                let nodes = answer.count()?;
                answer.skip(nodes * 4)?;
            }
            if nodes.contains_key(&leader) {
                led.push((partition, leader));
            }
        }
        let chosen = led.choose(&mut rand::rng()).and_then(|(partition, leader)| Some((*partition, nodes.remove(leader)?)));
        Ok(chosen.map(|(partition, (host, port))| Leader { partition, host, port }))
    }

    async fn ask(&mut self, (api, version): (i16, i16), request: &Writer) -> Result<Reader, Fault> {
        self.asked = self.asked.wrapping_add(1);
        let mut head = Writer::default();
        head.i16(api);
        head.i16(version);
        head.i32(self.asked);
        head.text("tidegate");
        let length = i32::try_from(head.len() + request.len()).map_err(|_| Fault::BadReply("the message is too long for Kafka"))?;
        self.link.send(&length.to_be_bytes()).await?;
        self.link.send(head.as_ref()).await?;
        self.link.send(request.as_ref()).await?;
        self.link.flush().await?;
        let length = self.link.exactly(4, 4).await?;
        let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        let length = usize::try_from(length).map_err(|_| Fault::BadReply("a length is negative"))?;
        let mut answer = Reader::new(self.link.exactly(length, MAX_ANSWER).await?);
        if answer.i32()? == self.asked { Ok(answer) } else { Err(Fault::BadReply("it is an answer to something else")) }
    }
}

fn refusal(broker: &Broker, topic: &str, code: i16) -> Fault {
    match code {
        UNKNOWN_TOPIC => Fault::broker("topic_missing", format!("there is no topic `{topic}`, or this user may not know of it")),
        7 | 19 | 20 => Fault::broker("not_acknowledged", format!("not enough replicas have the message: {}", name(code))),
        _ => broker.refused(name(code).as_bytes()),
    }
}

/// An error's name, of those that a producer meets.
fn name(code: i16) -> String {
    let known = match code {
        -1 => "unknown server error",
        2 => "corrupt message",
        5 => "leader not available",
        6 => "not leader for the partition",
        7 => "request timed out",
        MESSAGE_TOO_LARGE => "message too large",
        17 => "invalid topic",
        RECORD_LIST_TOO_LARGE => "record list too large",
        19 => "not enough replicas",
        20 => "not enough replicas after append",
        29 => "topic authorization failed",
        31 => "cluster authorization failed",
        33 => "unsupported SASL mechanism",
        34 => "illegal SASL state",
        35 => "unsupported version",
        56 => "the log directory has failed",
        58 => "SASL authentication failed",
        87 => "invalid record",
        _ => return format!("error {code}"),
    };
    format!("{known} ({code})")
}
