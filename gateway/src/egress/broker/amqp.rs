//! AMQP 0-9-1 as RabbitMQ has it (<https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf>): one channel in confirm mode, one message at a
//! time on it, published as mandatory and persistent.
//!
//! Properties are `content_type`, `headers` (texts; a header that came several times is joined with commas), `delivery_mode` 2,
//! `message_id`, `timestamp` and `app_id`. Headers by which extensions of RabbitMQ are steered ([`STEERING`]) are left out. What the exchange
//! routes to no queue comes back, and is a failure.
//!
//! A broker that is short of memory or disk says so (`connection.blocked`) once it is published to, and reads no further. What was published is
//! still on its way to it then: closed or not, the connection delivers it later. So the attempt fails, but the connection is kept with the
//! message that it owes; nothing else is published on it before that is settled, and the message's next attempt takes what became of it
//! rather than publish a copy ([`super::sessions`]).

mod frame;

use std::time::Instant;

use http::header::CONTENT_TYPE;

use super::super::fault::Fault;
use super::link::{Heard, Link};
use super::{Answer, Broker, Login, Message, Protocol, Settled};
use crate::clock::monotonic;
use crate::event::DeliveryId;
use frame::{Arguments, Frame, MAX_FRAME, Method, long, method, octets, read_frame, short, table, write_frame};

/// Copies, delays and the like, which are not for senders to ask for.
const STEERING: [&str; 5] = ["bcc", "cc", "x-death", "x-delay", "x-stream-filter-value"];
/// The only channel.
const CHANNEL: u16 = 1;

const START: Method = (10, 10);
const START_OK: Method = (10, 11);
const TUNE: Method = (10, 30);
const TUNE_OK: Method = (10, 31);
const OPEN: Method = (10, 40);
const OPEN_OK: Method = (10, 41);
const CLOSE: Method = (10, 50);
const BLOCKED: Method = (10, 60);
const UNBLOCKED: Method = (10, 61);
const CHANNEL_OPEN: Method = (20, 10);
const CHANNEL_OPEN_OK: Method = (20, 11);
const CHANNEL_CLOSE: Method = (20, 40);
const PUBLISH: Method = (60, 40);
const RETURN: Method = (60, 50);
const ACK: Method = (60, 80);
const NACK: Method = (60, 120);
const SELECT: Method = (85, 10);
const SELECT_OK: Method = (85, 11);

const ACCESS_REFUSED: u16 = 403;
const PRECONDITION_FAILED: u16 = 406;
const CONTENT_TOO_LARGE: u16 = 311;
/// Deprecated by RabbitMQ, still in the specification: the message was not routed.
const NO_ROUTE: u16 = 312;

pub(super) struct Session {
    link: Link,
    max_frame: usize,
    /// Why the broker takes no messages now.
    blocked: Option<String>,
    /// The message that was published last, until it is answered.
    owed: Option<Published>,
    /// Whether a frame was read in part.
    is_reading: bool,
}

/// A message that the broker has not answered yet.
pub(super) struct Published {
    pub(super) message: DeliveryId,
    pub(super) since: Instant,
    /// Of its body: a message that comes back brings them along.
    bytes: usize,
    returned: Option<Fault>,
}

impl Session {
    pub(super) async fn open(link: Link, broker: &Broker) -> Result<Self, Fault> {
        let Protocol::Amqp { vhost, .. } = &broker.protocol else { return Err(Fault::BadReply("it is not AMQP")) };
        let mut session = Self { link, max_frame: MAX_FRAME, blocked: None, owed: None, is_reading: false };
        session.link.send(b"AMQP\x00\x00\x09\x01").await?;
        session.link.flush().await?;
        session.expect(broker, START).await?;
        session.call(0, START_OK, &start_ok(broker)).await?;
        let mut tune = match session.next_method(broker).await {
            Ok((TUNE, arguments)) => arguments,
            Ok(_) => return Err(Fault::BadReply("it does not tune")),
            // Servers that keep to the first specification close without a word.
            Err(Fault::Reset) => return Err(broker.login_refused(b"the connection was closed")),
            Err(fault) => return Err(fault),
        };
        let (_channels, frame) = (tune.u16()?, usize::try_from(tune.u32()?).unwrap_or(0));
        session.max_frame = if frame == 0 { MAX_FRAME } else { frame.clamp(4096, MAX_FRAME) };
        let frame = u32::try_from(session.max_frame).unwrap_or(u32::MAX);
        // No heartbeats: an idle connection is closed long before one would be missed, and a message has a deadline.
        let tuned = [&CHANNEL.to_be_bytes()[..], &frame.to_be_bytes(), &0_u16.to_be_bytes()].concat();
        session.call(0, TUNE_OK, &tuned).await?;
        session.call(0, OPEN, &[short(vhost), short(""), vec![0]].concat()).await?;
        session.expect(broker, OPEN_OK).await?;
        session.call(CHANNEL, CHANNEL_OPEN, &short("")).await?;
        session.expect(broker, CHANNEL_OPEN_OK).await?;
        session.call(CHANNEL, SELECT, &[0]).await?;
        session.expect(broker, SELECT_OK).await?;
        Ok(session)
    }

    pub(super) async fn publish(&mut self, message: &Message<'_>) -> Result<Answer, Fault> {
        let broker = message.broker;
        let Protocol::Amqp { exchange, routing_key, .. } = &broker.protocol else {
            return Err(Fault::BadReply("it is not AMQP"));
        };
        const MANDATORY: u8 = 1;
        let publish = [&[0, 0][..], &short(exchange), &short(routing_key), &[MANDATORY]].concat();
        let mut bytes = method(CHANNEL, PUBLISH, &publish);
        let head = content_head(message);
        if head.len() + 8 > self.max_frame {
            return Ok(Err(broker.too_large(b"its headers do not fit into a frame")));
        }
        write_frame(&mut bytes, frame::HEADER, CHANNEL, &head);
        self.link.send(&bytes).await?;
        for part in message.body().chunks(self.max_frame - 8) {
            let mut bytes = Vec::with_capacity(part.len() + 8);
            write_frame(&mut bytes, frame::BODY, CHANNEL, part);
            self.link.send(&bytes).await?;
        }
        self.link.flush().await?;
        let bytes = message.body().len();
        self.owed = Some(Published { message: message.delivery, since: monotonic(), bytes, returned: None });
        loop {
            if let Some(answer) = self.hear(broker).await? {
                self.owed = None;
                return Ok(answer);
            }
            if let Some(refusal) = self.refusal() {
                return Ok(Err(refusal));
            }
        }
    }

    /// The message of which it is still to be settled what became of it.
    pub(super) fn owed(&self) -> Option<&Published> {
        self.owed.as_ref()
    }

    /// Whether what comes next begins a frame.
    pub(super) fn is_at_rest(&self) -> bool {
        !self.is_reading
    }

    /// Hears what the broker has to say of an earlier message. An answer is this message's own, without its being published: an earlier attempt's, or
    /// that none is taken now.
    pub(super) async fn settle(&mut self, message: &Message<'_>) -> Result<Settled, Fault> {
        self.link.allow(message.body().len() + self.owed.as_ref().map_or(0, |owed| owed.bytes));
        loop {
            // While it takes nothing, nobody waits for it.
            let waits = self.owed.is_some() && self.blocked.is_none();
            if !waits && self.link.heard() != Heard::Something {
                return Ok(Settled { own: self.refusal().map(Err), other: None });
            }
            let Some(answer) = self.hear(message.broker).await? else { continue };
            match self.owed.take() {
                Some(owed) if owed.message == message.delivery => return Ok(Settled { own: Some(answer), other: None }),
                // What was not taken is published anew by its own next attempt.
                _ => return Ok(Settled { own: None, other: answer.ok() }),
            }
        }
    }

    fn refusal(&self) -> Option<Fault> {
        let reason = self.blocked.as_ref()?;
        Some(Fault::broker("broker_blocked", format!("the broker takes no messages: {reason}")))
    }

    /// One frame, and what it answers to the message that was published last. Nothing is lost of who gives up before a frame begins.
    async fn hear(&mut self, broker: &Broker) -> Result<Option<Answer>, Fault> {
        self.link.something().await?;
        let Some((method, mut arguments)) = self.frame(broker).await? else { return Ok(None) };
        match (method, &mut self.owed) {
            (UNBLOCKED, _) => self.blocked = None,
            (BLOCKED, _) => self.blocked = Some(broker.words(&arguments.short()?)),
            (ACK, Some(published)) => {
                let tag = arguments.u64()?;
                return Ok(Some(published.returned.take().map_or_else(|| Ok(format!("confirmed, delivery tag {tag}")), Err)));
            }
            (NACK, Some(_)) => {
                let detail = "the broker could not take care of the message".to_owned();
                return Ok(Some(Err(Fault::broker("not_acknowledged", detail))));
            }
            (RETURN, Some(published)) => {
                let (code, words) = (arguments.u16()?, arguments.short()?);
                published.returned = Some(if code == NO_ROUTE { unroutable(broker) } else { broker.refused(&words) });
            }
            _ => return Err(Fault::BadReply("it is not what a message gets")),
        }
        Ok(None)
    }

    pub(super) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    async fn call(&mut self, channel: u16, name: Method, arguments: &[u8]) -> Result<(), Fault> {
        self.link.send(&method(channel, name, arguments)).await?;
        self.link.flush().await
    }

    async fn expect(&mut self, broker: &Broker, name: Method) -> Result<(), Fault> {
        loop {
            match self.next_method(broker).await? {
                (came, _) if came == name => return Ok(()),
                (BLOCKED, mut arguments) => self.blocked = Some(broker.words(&arguments.short()?)),
                _ => return Err(Fault::BadReply("a step of the handshake is missing")),
            }
        }
    }

    /// The next method; content that comes back and heartbeats are passed over, and a close is a failure.
    async fn next_method(&mut self, broker: &Broker) -> Result<(Method, Arguments), Fault> {
        loop {
            if let Some(method) = self.frame(broker).await? {
                return Ok(method);
            }
        }
    }

    /// One frame, if it is a method.
    async fn frame(&mut self, broker: &Broker) -> Result<Option<(Method, Arguments)>, Fault> {
        self.is_reading = true;
        let frame = read_frame(&mut self.link, self.max_frame).await?;
        self.is_reading = false;
        let Frame::Method(name, mut arguments) = frame else { return Ok(None) };
        if name == CLOSE || name == CHANNEL_CLOSE {
            let (code, words) = (arguments.u16()?, arguments.short()?);
            return Err(closed(broker, name, code, &words));
        }
        Ok(Some((name, arguments)))
    }
}

fn unroutable(broker: &Broker) -> Fault {
    let Protocol::Amqp { exchange, routing_key, .. } = &broker.protocol else { return broker.refused(b"no route") };
    Fault::broker("unroutable", format!("exchange `{exchange}` routes `{routing_key}` to no queue"))
}

fn closed(broker: &Broker, name: Method, code: u16, words: &[u8]) -> Fault {
    let too_large = code == CONTENT_TOO_LARGE
        || code == PRECONDITION_FAILED && words.windows(SIZE.len()).any(|window| window.eq_ignore_ascii_case(SIZE));
    match code {
        _ if too_large => broker.too_large(words),
        ACCESS_REFUSED if name == CLOSE => broker.login_refused(words),
        _ => broker.refused(words),
    }
}

/// How RabbitMQ begins to say that a message is too large, which has no code of its own.
const SIZE: &[u8] = b"message size";

fn start_ok(broker: &Broker) -> Vec<u8> {
    let (name, password) = match &broker.login {
        Login::None => ("guest", "guest"),
        Login::User { name, password } => (name.as_str(), password.expose()),
        Login::Token(token) => ("", token.expose()),
    };
    let mut capabilities = Vec::new();
    for name in ["publisher_confirms", "authentication_failure_close", "connection.blocked", "basic.nack"] {
        capabilities.extend_from_slice(&[short(name), vec![b't', 1]].concat());
    }
    let text = |name: &str, value: &str| [short(name), vec![b'S'], long(value.as_bytes())].concat();
    let properties = [
        text("product", "Tidegate"),
        text("version", env!("CARGO_PKG_VERSION")),
        [short("capabilities"), vec![b'F'], table(&capabilities)].concat(),
    ];
    let response = [b"\0", name.as_bytes(), b"\0", password.as_bytes()].concat();
    [table(&properties.concat()), short("PLAIN"), long(&response), short("en_US")].concat()
}

/// The frame that says how long the body is, and what it is.
fn content_head(message: &Message<'_>) -> Vec<u8> {
    const CONTENT_TYPE_BIT: u16 = 1 << 15;
    const HEADERS: u16 = 1 << 13;
    const DELIVERY_MODE: u16 = 1 << 12;
    const MESSAGE_ID: u16 = 1 << 7;
    const TIMESTAMP: u16 = 1 << 6;
    const APP_ID: u16 = 1 << 3;
    const PERSISTENT: u8 = 2;
    let content_type = message.request.headers.get(CONTENT_TYPE).map(|value| value.as_bytes()).filter(|value| value.len() < 256);
    let mut headers = Vec::new();
    let event = ("tidegate-event", message.event.clone().into_bytes());
    for (name, value) in message.joined_headers().into_iter().chain([event]) {
        if name.len() < 256 && !STEERING.contains(&name) {
            headers.extend_from_slice(&[short(name), vec![b'S'], long(&value)].concat());
        }
    }
    let flags = HEADERS | DELIVERY_MODE | MESSAGE_ID | TIMESTAMP | APP_ID;
    let flags = if content_type.is_some() { flags | CONTENT_TYPE_BIT } else { flags };
    let mut head = [60_u16.to_be_bytes(), [0, 0]].concat();
    head.extend_from_slice(&(message.body().len() as u64).to_be_bytes());
    head.extend_from_slice(&flags.to_be_bytes());
    head.extend(content_type.map(octets).unwrap_or_default());
    head.extend(table(&headers));
    head.push(PERSISTENT);
    head.extend(short(&message.id));
    head.extend_from_slice(&message.accepted_at.as_secs().to_be_bytes());
    head.extend(short("tidegate"));
    head
}
