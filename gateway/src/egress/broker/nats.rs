//! NATS with JetStream: the client protocol (<https://docs.nats.io/reference/reference-protocols/nats-protocol>), as far as publishing with
//! an acknowledgement needs it.
//!
//! Headers are the request's, line by line, with `Nats-Msg-Id`, by which a stream drops repeats inside its window. Headers that begin with
//! `nats-` tell the server what to do, so senders' ones are left out. A subject that no stream takes is a failure.

use bytes::Bytes;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use serde_json::json;

use super::super::client::Inner;
use super::super::client::exchange::Stage;
use super::super::fault::Fault;
use super::super::target::Target;
use super::link::{Link, Stream};
use super::{Answer, Broker, Login, Message, Protocol, dial};

/// Bytes of a line; `INFO` names all servers of a cluster.
const MAX_LINE: usize = 64 * 1024;
/// Bytes of an acknowledgement.
const MAX_ACK: usize = 16 * 1024;
/// JetStream's number for a message that is larger than its stream takes.
const TOO_LARGE: u64 = 10054;

pub(super) struct Session {
    link: Link,
    max_payload: usize,
    /// Where acknowledgements are sent, but for the message's number.
    inbox: String,
    sent: u64,
}

/// What a server takes that does not say.
fn unlimited() -> usize {
    usize::MAX
}

/// What a server says of itself.
#[derive(Deserialize)]
struct Info {
    #[serde(default = "unlimited")]
    max_payload: usize,
    #[serde(default)]
    headers: bool,
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    tls_available: bool,
}

#[derive(Deserialize)]
struct Acknowledged {
    stream: Option<String>,
    seq: Option<u64>,
    error: Option<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// What a server said last.
enum Said {
    Info(Info),
    Pong,
    Ping,
    Error(Vec<u8>),
    Message { subject: String, head: Bytes, body: Bytes },
    Nothing,
}

impl Session {
    pub(super) async fn open(inner: &Inner, target: &Target, broker: &Broker, stage: &mut Stage) -> Result<Self, Fault> {
        let (mut stream, permit) = dial(inner, target, stage).await?;
        *stage = Stage::Response;
        let info = greeting(&mut stream).await?;
        let tls = target.is_tls() || info.tls_required;
        if target.is_tls() && !info.tls_required && !info.tls_available {
            return Err(Fault::TlsFailed("the server offers none".to_owned()));
        }
        if !info.headers {
            return Err(Fault::BadReply("the server takes no headers"));
        }
        let link = if tls {
            *stage = Stage::Tls;
            Link::new(Box::new(inner.tls.connect(target, stream).await?.0), permit)
        } else {
            Link::new(stream, permit)
        };
        *stage = Stage::Response;
        let mut session = Self { link, max_payload: info.max_payload, inbox: inbox()?, sent: 0 };
        session.log_in(broker, tls).await?;
        Ok(session)
    }

    async fn log_in(&mut self, broker: &Broker, tls: bool) -> Result<(), Fault> {
        let mut options = json!({
            "verbose": false, "pedantic": false, "echo": false, "tls_required": tls, "headers": true, "no_responders": true,
            "protocol": 1, "name": "tidegate", "lang": "rust", "version": env!("CARGO_PKG_VERSION"),
        });
        match &broker.login {
            Login::None => {}
            Login::User { name, password } => {
                options["user"] = name.as_str().into();
                options["pass"] = password.expose().into();
            }
            Login::Token(token) => options["auth_token"] = token.expose().into(),
        }
        let hello = format!("CONNECT {options}\r\nSUB {}.* 1\r\nPING\r\n", self.inbox);
        self.link.send(hello.as_bytes()).await?;
        self.link.flush().await?;
        loop {
            match self.said().await? {
                Said::Pong => return Ok(()),
                Said::Error(words) if words.to_ascii_lowercase().starts_with(b"'auth") => return Err(broker.login_refused(&words)),
                Said::Error(words) => return Err(broker.refused(&words)),
                other => self.went_on(other).await?,
            }
        }
    }

    pub(super) async fn publish(&mut self, message: &Message<'_>) -> Result<Answer, Fault> {
        let Protocol::Nats { subject, stream } = &message.broker.protocol else {
            return Err(Fault::BadReply("it is not NATS"));
        };
        let head = head(message, stream.as_deref());
        let size = head.len() + message.body().len();
        if size > self.max_payload {
            let words = format!("it has {size} bytes, and {} are the most", self.max_payload);
            return Ok(Err(message.broker.too_large(words.as_bytes())));
        }
        self.sent += 1;
        let reply = format!("{}.{}", self.inbox, self.sent);
        self.link.send(format!("HPUB {subject} {reply} {} {size}\r\n", head.len()).as_bytes()).await?;
        self.link.send(&head).await?;
        self.link.send(message.body()).await?;
        self.link.send(b"\r\n").await?;
        self.link.flush().await?;
        loop {
            match self.said().await? {
                Said::Message { subject, head, body } if subject == reply => return Ok(acknowledged(message.broker, &head, &body)),
                Said::Error(words) if words.starts_with(b"'Maximum Payload") => return Err(message.broker.too_large(&words)),
                // Which message it is about is not said, so nothing more is published on this connection.
                Said::Error(words) => return Err(message.broker.refused(&words)),
                other => self.went_on(other).await?,
            }
        }
    }

    pub(super) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// What needs no more than this.
    async fn went_on(&mut self, said: Said) -> Result<(), Fault> {
        match said {
            Said::Ping => {
                self.link.send(b"PONG\r\n").await?;
                self.link.flush().await?;
            }
            Said::Info(info) => self.max_payload = info.max_payload,
            Said::Pong | Said::Error(_) | Said::Message { .. } | Said::Nothing => {}
        }
        Ok(())
    }

    async fn said(&mut self) -> Result<Said, Fault> {
        let line = self.link.line(MAX_LINE).await?;
        let line = String::from_utf8(line).map_err(|_| Fault::BadReply("it is not NATS"))?;
        let (verb, rest) = line.split_once([' ', '\t']).unwrap_or((&line, ""));
        Ok(match verb.to_ascii_uppercase().as_str() {
            "INFO" => Said::Info(info(rest.as_bytes())?),
            "PING" => Said::Ping,
            "PONG" => Said::Pong,
            "-ERR" => Said::Error(rest.as_bytes().to_vec()),
            "+OK" => Said::Nothing,
            "MSG" | "HMSG" => self.message(verb.eq_ignore_ascii_case("HMSG"), rest).await?,
            _ => return Err(Fault::BadReply("it is not NATS")),
        })
    }

    /// `subject sid [reply] [head bytes] all bytes`
    async fn message(&mut self, has_head: bool, line: &str) -> Result<Said, Fault> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |from_end: usize| words.len().checked_sub(from_end).and_then(|index| words.get(index)?.parse::<usize>().ok());
        let (all, head) = if has_head { (number(1), number(2)) } else { (number(1), Some(0)) };
        let (Some(all), Some(head), Some(subject)) = (all, head, words.first()) else {
            return Err(Fault::BadReply("a message's line is malformed"));
        };
        let mut body = self.link.exactly(all, MAX_ACK).await?;
        self.link.exactly(2, 2).await?;
        if head > body.len() {
            return Err(Fault::BadReply("a message's head is longer than all of it"));
        }
        let head = body.split_to(head);
        Ok(Said::Message { subject: (*subject).to_owned(), head, body })
    }
}

/// A server speaks first, and says no more before it has been answered.
async fn greeting(stream: &mut Box<dyn Stream>) -> Result<Info, Fault> {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
    let mut reader = BufReader::new(stream.take(MAX_LINE as u64));
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await.map_err(|_| Fault::Reset)?;
    let told = line.strip_prefix(b"INFO ").ok_or(if line.is_empty() { Fault::Reset } else { Fault::BadReply("it is not NATS") })?;
    if !reader.buffer().is_empty() {
        return Err(Fault::BadReply("it said more than a greeting"));
    }
    info(told)
}

fn info(json: &[u8]) -> Result<Info, Fault> {
    serde_json::from_slice(json.trim_ascii()).map_err(|_| Fault::BadReply("INFO is malformed"))
}

/// A subject that nobody else publishes to.
fn inbox() -> Result<String, Fault> {
    let mut random = [0; 16];
    SystemRandom::new().fill(&mut random).map_err(|_| Fault::NotSigned("there are no random numbers".to_owned()))?;
    Ok(format!("_INBOX.{}", hex::encode(random)))
}

fn head(message: &Message<'_>, stream: Option<&str>) -> Vec<u8> {
    let mut head = b"NATS/1.0\r\n".to_vec();
    let mut line = |name: &str, value: &[u8]| {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    };
    line("Nats-Msg-Id", message.id.as_bytes());
    if let Some(stream) = stream {
        line("Nats-Expected-Stream", stream.as_bytes());
    }
    line("tidegate-event", message.event.as_bytes());
    for (name, value) in message.headers().filter(|(name, _)| !name.starts_with("nats-")) {
        line(name, value);
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn acknowledged(broker: &Broker, head: &[u8], body: &[u8]) -> Answer {
    if head.starts_with(b"NATS/1.0 503") {
        let detail = "no JetStream stream takes this subject, or JetStream is off".to_owned();
        return Err(Fault::broker("stream_missing", detail));
    }
    let told: Acknowledged = serde_json::from_slice(body).map_err(|_| Fault::BadReply("the acknowledgement is malformed"))?;
    match (told.error, told.stream, told.seq) {
        (Some(problem), _, _) if problem.err_code == TOO_LARGE => Err(broker.too_large(problem.description.as_bytes())),
        (Some(problem), _, _) => Err(broker.refused(problem.description.as_bytes())),
        (None, Some(_), Some(_)) => Ok(String::from_utf8_lossy(body).into_owned()),
        _ => Err(Fault::BadReply("the acknowledgement names no stream")),
    }
}
