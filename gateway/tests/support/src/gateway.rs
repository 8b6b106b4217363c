//! The real `tidegate` as a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{self, Process, Signal};
use crate::{START_DEADLINE, eventually, http, ports};

/// How a gateway is started: `tidegate serve --config FILE`, with listeners on free ports.
#[derive(Debug)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    directory: TempDir,
    ingest: u16,
    admin: u16,
}

impl Launch {
    /// With the program under test: `env!("CARGO_BIN_EXE_tidegate")`.
    pub fn new(program: &str) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: tempfile::Builder::new().prefix("tidegate-").tempdir().expect("a temporary directory"),
            ingest: ports::free(),
            admin: ports::free(),
        }
    }

    /// The gateway's own directory: for its data, its keys and the files that its configuration names.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where it is to take webhooks.
    pub fn ingest_address(&self) -> String {
        format!("127.0.0.1:{}", self.ingest)
    }

    /// Where it is to serve the API, health and metrics.
    pub fn admin_address(&self) -> String {
        format!("127.0.0.1:{}", self.admin)
    }

    /// Writes a file into its directory.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.directory().join(name), content).expect("the file can be written");
        self
    }

    /// Adds an argument.
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Sets a variable of its environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it and waits until it is ready; panics with its last words when it ends before.
    pub async fn start(self) -> Gateway {
        let process = self.spawn();
        let mut gateway = Gateway { launch: self, process };
        gateway.ready().await;
        gateway
    }

    /// Starts one that is to refuse: gives its exit status and what it said.
    pub async fn refuse(self) -> (ExitStatus, String) {
        let mut process = self.spawn();
        let status = process.exit_within(START_DEADLINE).await;
        (status, process.log())
    }

    fn spawn(&self) -> Process {
        let mut command = process::command(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().cloned()).current_dir(self.directory());
        Process::spawn("tidegate", command, &self.directory().join("output.log"))
    }
}

/// A running gateway. Killed, and its directory removed, on drop.
#[derive(Debug)]
pub struct Gateway {
    launch: Launch,
    process: Process,
}

impl Gateway {
    /// A URL where it takes webhooks: `gateway.ingest("/in/src_1")`.
    pub fn ingest(&self, path: &str) -> String {
        format!("http://{}{path}", self.launch.ingest_address())
    }

    /// A URL of its API: `gateway.admin("/v1/tenants")`.
    pub fn admin(&self, path: &str) -> String {
        format!("http://{}{path}", self.launch.admin_address())
    }

    /// Its own directory.
    pub fn directory(&self) -> &Path {
        self.launch.directory()
    }

    /// Its process id, as long as it runs.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    pub async fn stop(&mut self, within: Duration) -> ExitStatus {
        self.process.signal(Signal::Terminate);
        self.process.exit_within(within).await
    }

    /// Starts it again as before, with the same data, after [`Gateway::kill`] or [`Gateway::stop`].
    pub async fn restart(&mut self) {
        assert!(self.process.exited().is_some(), "the gateway still runs");
        self.process = self.launch.spawn();
        self.ready().await;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// All that it wrote to standard output and error, over all its starts.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until what it wrote satisfies `enough`, and gives it.
    pub async fn wait_for_log(&self, within: Duration, enough: impl Fn(&str) -> bool) -> String {
        eventually("the gateway's log", within, async || Some(self.log()).filter(|log| enough(log))).await
    }

    async fn ready(&mut self) {
        let url = self.admin("/readyz");
        let process = &mut self.process;
        eventually("the gateway is ready", START_DEADLINE, async || {
            if let Some(status) = process.exited() {
                panic!("the gateway ended with {status}:\n{}", process.last_words());
            }
            http::try_send("GET", &url, &[], "").await.ok().filter(|reply| reply.status == 200).map(|_| ())
        })
        .await;
    }
}
