//! Streams of Redis and Valkey: RESP2, `XADD` and what comes before it.
//!
//! An entry has the fields `id`, `event` and `body`, and for each header's line a field `header.NAME`; a header that came several times has
//! as many fields. A cluster's redirections are not followed.

use bytes::Bytes;

use super::super::fault::Fault;
use super::link::Link;
use super::{Answer, Broker, Login, Message, Protocol};

/// Bytes of an answer: an entry's id or an error.
const MAX_REPLY: usize = 4096;

pub(super) struct Session {
    link: Link,
}

/// A command, as RESP has it.
struct Command {
    arguments: usize,
    bytes: Vec<u8>,
}

/// What a server answers.
enum Reply {
    Status,
    Error(Vec<u8>),
    Text(Bytes),
}

impl Reply {
    /// Whether a command did what it should where no more is to be known; the server's words if not.
    fn done(self) -> Result<(), Vec<u8>> {
        match self {
            Self::Status | Self::Text(_) => Ok(()),
            Self::Error(words) => Err(words),
        }
    }
}

impl Command {
    fn new(name: &str) -> Self {
        Self { arguments: 0, bytes: Vec::new() }.arg(name)
    }

    fn arg(mut self, argument: impl AsRef<[u8]>) -> Self {
        self.push(argument.as_ref());
        self
    }

    fn push(&mut self, argument: &[u8]) {
        self.arguments += 1;
        self.bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        self.bytes.extend_from_slice(argument);
        self.bytes.extend_from_slice(b"\r\n");
    }
}

impl Session {
    pub(super) async fn open(link: Link, broker: &Broker) -> Result<Self, Fault> {
        let mut session = Self { link };
        let login = match &broker.login {
            Login::None => None,
            Login::User { name, password } => Some(Command::new("AUTH").arg(name).arg(password.expose())),
            Login::Token(password) => Some(Command::new("AUTH").arg(password.expose())),
        };
        if let Some(login) = login {
            session.ask(login).await?.done().map_err(|words| broker.login_refused(&words))?;
        }
        if let Protocol::RedisStream { database, .. } = &broker.protocol
            && *database > 0
        {
            let chosen = session.ask(Command::new("SELECT").arg(database.to_string())).await?;
            chosen.done().map_err(|words| refusal(broker, &words))?;
        }
        Ok(session)
    }

    pub(super) async fn publish(&mut self, message: &Message<'_>) -> Result<Answer, Fault> {
        let Protocol::RedisStream { stream, max_length, .. } = &message.broker.protocol else {
            return Err(Fault::BadReply("it is not Redis"));
        };
        let mut command = Command::new("XADD").arg(stream);
        if let Some(length) = max_length {
            command = command.arg("MAXLEN").arg("~").arg(length.to_string());
        }
        let mut command = command.arg("*").arg("id").arg(&message.id).arg("event").arg(&message.event);
        command = command.arg("body").arg(message.body());
        for (name, value) in message.headers() {
            command.push(format!("header.{name}").as_bytes());
            command.push(value);
        }
        match self.ask(command).await? {
            Reply::Text(entry) => Ok(Ok(entry_id(&entry)?)),
            Reply::Error(words) => Ok(Err(refusal(message.broker, &words))),
            Reply::Status => Err(Fault::BadReply("it is no entry's id")),
        }
    }

    pub(super) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// One command and its answer.
    async fn ask(&mut self, command: Command) -> Result<Reply, Fault> {
        self.link.send(format!("*{}\r\n", command.arguments).as_bytes()).await?;
        let written = self.link.send(&command.bytes).await;
        let flushed = self.link.flush().await;
        // A server that refuses a long command says why before it closes.
        let reply = self.reply().await;
        if !matches!(reply, Ok(Reply::Error(_))) {
            written.and(flushed)?;
        }
        reply
    }

    async fn reply(&mut self) -> Result<Reply, Fault> {
        let mut line = self.link.line(MAX_REPLY).await?;
        if line.is_empty() {
            return Err(Fault::BadReply("it is not RESP"));
        }
        match line.remove(0) {
            b'+' => Ok(Reply::Status),
            b'-' => Ok(Reply::Error(line)),
            b'$' => {
                let length = std::str::from_utf8(&line).ok().and_then(|text| text.parse::<usize>().ok());
                let length = length.ok_or(Fault::BadReply("a length is no number"))?;
                let text = self.link.exactly(length, MAX_REPLY).await?;
                self.link.exactly(2, 2).await?;
                Ok(Reply::Text(text))
            }
            _ => Err(Fault::BadReply("it is not what the command gives")),
        }
    }
}

/// An entry's id: milliseconds and a sequence, `1526919030474-55`. Nothing else says that there is an entry.
fn entry_id(text: &[u8]) -> Result<String, Fault> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let id =
        std::str::from_utf8(text).ok().filter(|text| text.split_once('-').is_some_and(|(ms, seq)| is_number(ms) && is_number(seq)));
    id.map(str::to_owned).ok_or(Fault::BadReply("it is no entry's id"))
}

fn refusal(broker: &Broker, words: &[u8]) -> Fault {
    let code = words.split(|byte| *byte == b' ').next().unwrap_or_default();
    match code {
        b"NOAUTH" | b"WRONGPASS" => broker.login_refused(words),
        _ if words.starts_with(b"ERR Protocol error: invalid bulk length") => broker.too_large(words),
        _ => broker.refused(words),
    }
}
