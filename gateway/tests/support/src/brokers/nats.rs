//! NATS with JetStream, from Debian.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{PASSWORD, Stored, USER};
use crate::process::{self, Process, Signal};
use crate::{START_DEADLINE, eventually, ports, tools};

const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// A running server. Ended, with its data, on drop.
#[derive(Debug)]
pub struct Nats {
    directory: TempDir,
    port: u16,
    process: Process,
}

impl Nats {
    /// Starts a server and waits until it answers. `settings` are added to its configuration.
    pub async fn start(settings: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("tidegate-nats-").tempdir().expect("a temporary directory");
        let port = ports::free();
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: \"{}\" }}\n\
             authorization {{ user: {USER}, password: \"{PASSWORD}\" }}\n{settings}\n",
            directory.path().join("data").display()
        );
        std::fs::write(directory.path().join("server.conf"), config).expect("the configuration can be written");
        let process = spawn(directory.path());
        let mut nats = Self { directory, port, process };
        nats.ready().await;
        nats
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, on the same port and data, after [`Nats::kill`].
    pub async fn restart(&mut self) {
        self.process = spawn(self.directory.path());
        self.ready().await;
    }

    /// Freezes it (SIGSTOP).
    pub fn pause(&self) {
        self.process.signal(Signal::Stop);
    }

    /// Thaws it (SIGCONT).
    pub fn resume(&self) {
        self.process.signal(Signal::Continue);
    }

    /// Makes a stream that takes these subjects. `more` is added to its configuration.
    pub async fn create_stream(&self, name: &str, subject: &str, more: Value) {
        let mut config = json!({"name": name, "subjects": [subject], "storage": "file", "duplicate_window": 120_000_000_000_u64});
        for (field, value) in more.as_object().into_iter().flatten() {
            config[field] = value.clone();
        }
        let made = self.ask(&format!("$JS.API.STREAM.CREATE.{name}"), &config).await.expect("an answer");
        assert!(made.get("error").is_none(), "{made}");
    }

    /// All messages of a stream, oldest first.
    pub async fn messages(&self, stream: &str) -> Vec<Stored> {
        let info = self.ask(&format!("$JS.API.STREAM.INFO.{stream}"), &json!({})).await.expect("an answer");
        let last = info["state"]["last_seq"].as_u64().unwrap_or_else(|| panic!("{info}"));
        let mut messages = Vec::new();
        for number in 1..=last {
            let got = self.ask(&format!("$JS.API.STREAM.MSG.GET.{stream}"), &json!({"seq": number})).await.expect("an answer");
            let part = |name: &str| STANDARD.decode(got["message"][name].as_str().unwrap_or_default()).expect("base64");
            let head = String::from_utf8(part("hdrs")).expect("headers are text");
            let headers = head.lines().filter_map(|line| line.split_once(": "));
            let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            messages.push(Stored { headers, body: part("data") });
        }
        messages
    }

    async fn ready(&mut self) {
        eventually("NATS answers", START_DEADLINE, async || {
            assert!(self.process.exited().is_none(), "NATS does not start:\n{}", self.process.last_words());
            self.ask("$JS.API.INFO", &json!({})).await
        })
        .await;
    }

    /// One request by the client protocol; none while the server does not answer it.
    async fn ask(&self, subject: &str, request: &Value) -> Option<Value> {
        let asking = async {
            let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await.ok()?);
            let mut line = String::new();
            stream.read_line(&mut line).await.ok()?;
            let login = json!({"user": USER, "pass": PASSWORD, "verbose": false, "headers": true, "no_responders": true});
            let request = request.to_string();
            let length = request.len();
            let said = format!("CONNECT {login}\r\nSUB _INBOX.test 1\r\nPUB {subject} _INBOX.test {length}\r\n{request}\r\n");
            stream.write_all(said.as_bytes()).await.ok()?;
            loop {
                line.clear();
                if stream.read_line(&mut line).await.ok()? == 0 || line.starts_with("HMSG") {
                    return None;
                }
                if line.starts_with("MSG") {
                    let length = line.split_whitespace().last()?.parse().ok()?;
                    let mut body = vec![0; length];
                    stream.read_exact(&mut body).await.ok()?;
                    return serde_json::from_slice(&body).ok();
                }
            }
        };
        tokio::time::timeout(ANSWER_DEADLINE, asking).await.ok().flatten()
    }
}

fn spawn(directory: &Path) -> Process {
    let mut command = process::command(&tools::program("bin/nats-server"));
    command.args(["-c", "server.conf"]).current_dir(directory);
    Process::spawn("nats-server", command, &directory.join("server.log"))
}
