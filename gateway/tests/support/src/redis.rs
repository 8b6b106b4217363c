//! Redis and Valkey servers of a test's own: on a free port, in a directory of their own.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult, Value};
use tempfile::TempDir;

use crate::process::{self, Process, Signal};
use crate::{START_DEADLINE, eventually, ports, tools};

const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
const STARTS: usize = 5;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// Debian's Redis.
    Redis,
    /// The newest Valkey.
    Valkey,
}

/// When the append-only file reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before each answer.
    Always,
    /// Once a second.
    EverySec,
    /// No append-only file at all: a restart begins empty.
    Off,
}

/// How a server is started. It never evicts and writes no snapshots, unless a setting says so.
#[derive(Clone, Debug)]
pub struct Config {
    flavor: Flavor,
    fsync: Fsync,
    settings: Vec<(String, String)>,
    whole_cluster: bool,
    tls: bool,
    watched: Option<u16>,
}

impl Config {
    /// A server of this kind with this durability.
    pub fn new(flavor: Flavor, fsync: Fsync) -> Self {
        Self { flavor, fsync, settings: Vec::new(), whole_cluster: false, tls: false, watched: None }
    }

    /// Makes it a cluster of one node, which has all slots: commands are routed, and those that cross slots refused, as in a large
    /// one.
    pub fn whole_cluster(self) -> Self {
        Self { whole_cluster: true, ..self }.with("cluster-enabled", "yes").with("cluster-port", &ports::free().to_string())
    }

    /// Adds a line of `redis.conf`; a later line for the same setting wins.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A sentinel, which calls this server and its replicas [`Config::WATCHED`] and decides alone.
    pub fn sentinel_of(primary: &Server) -> Self {
        Self { watched: Some(primary.peer_port()), ..Self::new(Flavor::Redis, Fsync::Off) }
    }

    /// The name that sentinels have for what they watch.
    pub const WATCHED: &str = "main";

    /// Lets it speak TLS as well, on a port of its own and to other servers, with these PEM files; `clients` says whether it asks for
    /// certificates.
    pub fn with_tls(self, authority: &Path, certificate: &Path, key: &Path, clients: &str) -> Self {
        let text = |path: &Path| path.display().to_string();
        Self { tls: true, ..self }
            .with("tls-replication", "yes")
            .with("tls-cluster", "yes")
            .with("tls-ca-cert-file", &text(authority))
            .with("tls-cert-file", &text(certificate))
            .with("tls-key-file", &text(key))
            .with("tls-auth-clients", clients)
    }

    /// Makes it a replica of another server.
    pub fn replica_of(self, primary: &Server) -> Self {
        self.with("replicaof", &format!("127.0.0.1 {}", primary.peer_port()))
    }

    fn file(&self, port: u16, tls_port: Option<u16>, directory: &Path) -> String {
        let mut file = format!("port {port}\nbind 127.0.0.1\ndir {}\n", directory.display());
        if let Some(tls_port) = tls_port {
            writeln!(file, "tls-port {tls_port}").expect("a string takes all");
        }
        if let Some(watched) = self.watched {
            let name = Self::WATCHED;
            write!(
                file,
                "sentinel monitor {name} 127.0.0.1 {watched} 1\nsentinel down-after-milliseconds {name} 1000\n\
                 sentinel failover-timeout {name} 5000\n"
            )
            .expect("a string takes all");
        } else {
            let (append_only, fsync) = match self.fsync {
                Fsync::Always => ("yes", "always"),
                Fsync::EverySec => ("yes", "everysec"),
                Fsync::Off => ("no", "everysec"),
            };
            write!(
                file,
                "save \"\"\nappendonly {append_only}\nappendfsync {fsync}\nmaxmemory-policy noeviction\ndaemonize no\n\
                 enable-debug-command local\n"
            )
            .expect("a string takes all");
        }
        for (name, value) in &self.settings {
            writeln!(file, "{name} {value}").expect("a string takes all");
        }
        file
    }
}

/// A running server. Ended, with its data, on drop.
#[derive(Debug)]
pub struct Server {
    config: Config,
    directory: TempDir,
    port: u16,
    tls_port: Option<u16>,
    process: Process,
}

impl Server {
    /// Starts a server and waits until it answers.
    pub async fn start(config: Config) -> Self {
        let mut directory = tempfile::Builder::new().prefix("tidegate-redis-").tempdir().expect("a temporary directory");
        let mut said = String::new();
        for _ in 0..STARTS {
            let (port, tls_port) = (ports::free(), config.tls.then(ports::free));
            let process = spawn(&config, port, tls_port, directory.path());
            let mut server = Self { config: config.clone(), directory, port, tls_port, process };
            match server.ready().await {
                Ok(()) => return server,
                // Most likely somebody took the port meanwhile.
                Err(last_words) => said = last_words,
            }
            directory = server.directory;
        }
        panic!("{:?} does not start:\n{said}", config.flavor);
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `rediss://127.0.0.1:PORT`.
    pub fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.tls_port.expect("it was started with TLS"))
    }

    /// The port that other servers know it by: the one for TLS, if it has one.
    pub fn peer_port(&self) -> u16 {
        self.tls_port.unwrap_or(self.port)
    }

    /// Which server it is.
    pub fn flavor(&self) -> Flavor {
        self.config.flavor
    }

    /// The directory with its append-only file.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its process id, as long as it runs.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it in its own time (SIGTERM).
    pub async fn stop(&mut self) {
        self.process.signal(Signal::Terminate);
        self.process.exit_within(ANSWER_DEADLINE).await;
    }

    /// Starts it again, on the same port and data, after [`Server::kill`] or [`Server::stop`]; waits until it has loaded its data.
    pub async fn restart(&mut self) {
        assert!(self.process.exited().is_some(), "the server still runs");
        self.process = spawn(&self.config, self.port, self.tls_port, self.directory.path());
        if let Err(last_words) = self.ready().await {
            panic!("{:?} does not start again:\n{last_words}", self.config.flavor);
        }
    }

    /// Freezes it (SIGSTOP): connections stay open, nothing is answered.
    pub fn pause(&self) {
        self.process.signal(Signal::Stop);
    }

    /// Thaws it (SIGCONT).
    pub fn resume(&self) {
        self.process.signal(Signal::Continue);
    }

    /// Runs one command on a connection of its own: `server.command(&["CONFIG", "SET", "appendfsync", "no"])`.
    pub async fn command(&self, words: &[&str]) -> Value {
        self.query(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Like [`Server::command`], with the server's error.
    pub async fn query(&self, words: &[&str]) -> RedisResult<Value> {
        query(self.port, words).await
    }

    /// One field of `INFO`.
    pub async fn info(&self, field: &str) -> String {
        let all: String = redis::from_redis_value(self.command(&["INFO", "everything"]).await).expect("INFO is text");
        let line = all.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("INFO has no {field}")).to_owned()
    }

    /// Waits until it serves; its last words if it ends before.
    async fn ready(&mut self) -> Result<(), String> {
        let (port, process) = (self.port, &mut self.process);
        let answers = eventually("the server answers PING", START_DEADLINE, async || {
            if process.exited().is_some() {
                return Some(Err(process.last_words()));
            }
            // While it loads its data it answers with an error.
            query(port, &["PING"]).await.ok().map(|_| Ok(()))
        })
        .await;
        if answers.is_ok() && self.config.whole_cluster {
            self.command(&["CLUSTER", "FAILOVER", "TAKEOVER"]).await;
            self.command(&["CLUSTER", "FORGET", GONE_NODE]).await;
        }
        answers
    }
}

/// The ids of a whole cluster's node and of the primary that it takes over from.
const ONLY_NODE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const GONE_NODE: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// A cluster's primary serves nothing in its first two seconds, in case it was replaced while it was away. A replica has no such wait,
/// so each start begins as the replica of a primary that does not exist, and takes over from it.
fn one_node() -> String {
    format!(
        "{ONLY_NODE} 127.0.0.1:0@0 myself,slave {GONE_NODE} 0 0 0 connected\n\
         {GONE_NODE} 127.0.0.1:1@1 master - 0 0 0 connected 0-16383\n\
         vars currentEpoch 0 lastVoteEpoch 0\n"
    )
}

fn spawn(config: &Config, port: u16, tls_port: Option<u16>, directory: &Path) -> Process {
    let (name, program) = match config.flavor {
        Flavor::Redis => ("redis", "bin/redis-server"),
        Flavor::Valkey => ("valkey", "bin/valkey-server"),
    };
    let file = directory.join("server.conf");
    std::fs::write(&file, config.file(port, tls_port, directory)).expect("the configuration can be written");
    if config.whole_cluster {
        std::fs::write(directory.join("nodes.conf"), one_node()).expect("the cluster's configuration can be written");
    }
    let mut command = process::command(&tools::program(program));
    command.arg(file).current_dir(directory);
    if config.watched.is_some() {
        command.arg("--sentinel");
    }
    Process::spawn(name, command, &directory.join("server.log"))
}

async fn query(port: u16, words: &[&str]) -> RedisResult<Value> {
    let (name, arguments) = words.split_first().expect("a command has a name");
    let asking = async {
        let client = Client::open(format!("redis://127.0.0.1:{port}"))?;
        // Its own limits are half a second and one, which a server that writes to a busy disk may take.
        let unlimited = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&unlimited).await?;
        redis::cmd(name).arg(arguments).query_async(&mut connection).await
    };
    tokio::time::timeout(ANSWER_DEADLINE, asking).await.unwrap_or_else(|late| Err(RedisError::from(std::io::Error::other(late))))
}

/// A Cluster of primaries that share all slots.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Server>,
}

impl Cluster {
    /// Starts `nodes` servers, divides the slots among them and waits until each finds the cluster complete.
    pub async fn start(config: Config, nodes: u16) -> Self {
        const SLOTS: u32 = 16_384;
        let mut servers = Vec::new();
        for number in 0..u32::from(nodes) {
            let bus = ports::free().to_string();
            let config =
                config.clone().with("cluster-enabled", "yes").with("cluster-port", &bus).with("cluster-node-timeout", "5000");
            let server = Server::start(config).await;
            let first = SLOTS * number / u32::from(nodes);
            let last = SLOTS * (number + 1) / u32::from(nodes) - 1;
            server.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await;
            server.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
            servers.push((server, bus));
        }
        for (other, bus) in &servers[1..] {
            servers[0].0.command(&["CLUSTER", "MEET", "127.0.0.1", &other.peer_port().to_string(), bus]).await;
        }
        let servers: Vec<_> = servers.into_iter().map(|(server, _)| server).collect();
        let known = format!("cluster_known_nodes:{nodes}");
        for server in &servers {
            eventually("the cluster is complete", START_DEADLINE, async || {
                let info: String = redis::from_redis_value(server.command(&["CLUSTER", "INFO"]).await).ok()?;
                (info.contains("cluster_state:ok") && info.contains(&known)).then_some(())
            })
            .await;
        }
        Self { nodes: servers }
    }

    /// The servers, in the order of their slots.
    pub fn nodes(&mut self) -> &mut [Server] {
        &mut self.nodes
    }

    /// The URL of each node.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::url).collect()
    }

    /// The URL of each node, for TLS.
    pub fn tls_urls(&self) -> Vec<String> {
        self.nodes.iter().map(Server::tls_url).collect()
    }
}
