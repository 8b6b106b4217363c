//! The real `tidegate` as a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tempfile::TempDir;
use toml::{Table, Value};

use crate::process::{self, Process, Signal};
use crate::{START_DEADLINE, eventually, http, ports};

const CONFIG: &str = "tidegate.toml";

/// How a gateway is started, with listeners on free ports and a directory of its own, which is also its working directory.
#[derive(Debug)]
pub struct Launch {
    wrapper: Vec<String>,
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
            wrapper: Vec::new(),
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

    /// Makes its keys with `tidegate init`. A configuration comes after it: this writes one to start from.
    pub async fn init(self) -> Self {
        let finished = self.run(&["init", "--dir", "."]).await;
        assert!(finished.status.success(), "tidegate init ended with {}:\n{}", finished.status, finished.output);
        self
    }

    /// The operator's key, which [`Launch::init`] made: for `Authorization: Bearer`.
    pub fn operator_key(&self) -> String {
        let key = fs::read_to_string(self.directory().join("keys/operator.key")).expect("init made the operator's key");
        key.trim_end().to_owned()
    }

    /// Writes its configuration to `tidegate.toml`, and has it run `serve --config tidegate.toml` when no other argument is set.
    ///
    /// `toml` need not name listeners: they are set to the free ports. Receivers on 127.0.0.1 are allowed unless `egress.allow` is set.
    pub fn config(self, toml: &str) -> Self {
        let mut config: Table = toml.parse().unwrap_or_else(|error| panic!("{error} in\n{toml}"));
        section(&mut config, "ingest").entry("listen").or_insert(Value::from(self.ingest_address()));
        section(&mut config, "admin").entry("listen").or_insert(Value::from(self.admin_address()));
        section(&mut config, "egress").entry("allow").or_insert(Value::from(vec!["127.0.0.0/8"]));
        let mut launch = self.file(CONFIG, config.to_string());
        if launch.arguments.is_empty() {
            launch.arguments = ["serve", "--config", CONFIG].map(str::to_owned).to_vec();
        }
        launch
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

    /// Has it started by another program, to whose arguments its own are added.
    pub fn within(self, wrapper: Vec<String>) -> Self {
        Self { wrapper, ..self }
    }

    /// Runs the program to its end with these arguments, in the same directory and environment: `launch.run(&["init"])`.
    pub async fn run(&self, arguments: &[&str]) -> Finished {
        let output = self.directory().join("command.log");
        fs::write(&output, "").expect("the log can be written");
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut process = self.spawn(&arguments, &output);
        let status = process.exit_within(START_DEADLINE).await;
        Finished { status, output: process.log() }
    }

    /// Starts it and waits until it is ready; panics with its last words when it ends before.
    pub async fn start(self) -> Gateway {
        let process = self.serve();
        let mut gateway = Gateway { launch: self, process };
        gateway.ready().await;
        gateway
    }

    fn serve(&self) -> Process {
        self.spawn(&self.arguments, &self.directory().join("output.log"))
    }

    fn spawn(&self, arguments: &[String], output: &Path) -> Process {
        let mut command = match self.wrapper.split_first() {
            None => process::command(&self.program),
            Some((wrapper, rest)) => {
                let mut command = process::command(Path::new(wrapper));
                command.args(rest).arg(&self.program);
                command
            }
        };
        for name in PROXIES {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.args(arguments).envs(self.environment.iter().cloned()).current_dir(self.directory());
        Process::spawn("tidegate", command, output)
    }
}

/// What the gateway would follow, whoever runs the tests.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

fn section<'a>(config: &'a mut Table, name: &str) -> &'a mut Table {
    let section = config.entry(name).or_insert(Value::Table(Table::new()));
    section.as_table_mut().unwrap_or_else(|| panic!("{name} is a section"))
}

/// A program that has run to its end.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output and error.
    pub output: String,
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

    /// The operator's key, for `Authorization: Bearer`.
    pub fn operator_key(&self) -> String {
        self.launch.operator_key()
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

    /// Waits for it to end by itself.
    pub async fn exit_within(&mut self, within: Duration) -> ExitStatus {
        self.process.exit_within(within).await
    }

    /// [`Launch::run`], beside it or after it.
    pub async fn run(&self, arguments: &[&str]) -> Finished {
        self.launch.run(arguments).await
    }

    /// Starts it again as before, with the same data, after [`Gateway::kill`] or [`Gateway::stop`].
    pub async fn restart(&mut self) {
        assert!(self.process.exited().is_some(), "the gateway still runs");
        self.process = self.launch.serve();
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
