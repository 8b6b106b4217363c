//! The benchmark's own processes: this binary again, told by lines on its standard input, answering by lines on its output.
//!
//! A part first prints `ready` and its address (or `-`), and ends when its input does: no part outlives the run, however that ends.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::error::BenchError;

/// How long a part may take to be ready; compiling a component in a debug build is the slowest.
const READY: Duration = Duration::from_secs(60);

/// How long a part may take to end by itself.
const END: Duration = Duration::from_secs(5);

/// A running part, seen from the one that measures.
pub(super) struct Part {
    name: &'static str,
    child: Child,
    pid: u32,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    address: String,
}

impl Part {
    /// Starts `program bench NAME ARGUMENTS` and waits until it is ready.
    pub(super) async fn start(program: &Path, name: &'static str, arguments: &[String]) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Start { name, program: program.to_owned(), source };
        let mut child = Command::new(program)
            .args(["bench", name])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (Some(pid), Some(input), Some(output)) = (child.id(), child.stdin.take(), child.stdout.take()) else {
            return Err(failed(std::io::Error::other("it has no pipes")));
        };
        let output = BufReader::new(output).lines();
        let mut part = Self { name, child, pid, input, output, address: String::new() };
        let line = part.line(READY).await?;
        match line.strip_prefix("ready ") {
            Some(address) => part.address = address.to_owned(),
            None => return Err(BenchError::Answer { name, answer: line }),
        }
        Ok(part)
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Result<SocketAddr, BenchError> {
        self.address.parse().map_err(|_| BenchError::Answer { name: self.name, answer: self.address.clone() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a command, and waits at most `deadline` for the answer.
    pub(super) async fn ask<T: DeserializeOwned>(&mut self, command: &str, deadline: Duration) -> Result<T, BenchError> {
        self.input.write_all(format!("{command}\n").as_bytes()).await.map_err(BenchError::io(self.name))?;
        let line = self.line(deadline).await?;
        serde_json::from_str(&line).map_err(|_| BenchError::Answer { name: self.name, answer: line.chars().take(200).collect() })
    }

    /// Ends it.
    pub(super) async fn stop(mut self) -> Result<(), BenchError> {
        drop(self.input);
        if timeout(END, self.child.wait()).await.is_err() {
            self.child.kill().await.map_err(BenchError::io(self.name))?;
        }
        Ok(())
    }

    async fn line(&mut self, deadline: Duration) -> Result<String, BenchError> {
        let failed = |what: &str| BenchError::Part { name: self.name, what: what.into(), log: String::new() };
        match timeout(deadline, self.output.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None) | Err(_)) => Err(failed("ended")),
            Err(_) => Err(failed("did not answer in time")),
        }
    }
}

/// The other end: what the part itself says and hears.
pub(super) struct Orders(mpsc::Receiver<String>);

impl Orders {
    /// Says that the part is ready.
    pub(super) fn ready(address: Option<SocketAddr>) -> Result<Self, BenchError> {
        say(&address.map_or_else(|| "ready -".to_owned(), |address| format!("ready {address}")))?;
        let (orders, heard) = mpsc::channel(1);
        // A thread that never ends but with the input: the runtime would wait for one of its own.
        std::thread::Builder::new()
            .name("orders".into())
            .spawn(move || {
                for line in std::io::stdin().lines().map_while(Result::ok) {
                    if orders.blocking_send(line).is_err() {
                        return;
                    }
                }
            })
            .map_err(BenchError::io("a thread for orders"))?;
        Ok(Self(heard))
    }

    /// The next command; `None` when the part shall end.
    pub(super) async fn next(&mut self) -> Option<String> {
        self.0.recv().await
    }

    /// Waits until the part shall end.
    pub(super) async fn end(mut self) {
        while self.next().await.is_some() {}
    }
}

/// Answers with one line.
pub(super) fn say(line: &str) -> Result<(), BenchError> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).map_err(BenchError::io("standard output"))
}
