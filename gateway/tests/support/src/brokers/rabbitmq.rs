//! RabbitMQ, from Debian.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PASSWORD, Stored, USER};
use crate::http::send;
use crate::process::{self, Process, Signal};
use crate::{START_DEADLINE, eventually, ports, tools};

/// A running server with its management plugin. Ended, with its data, on drop.
#[derive(Debug)]
pub struct RabbitMq {
    directory: TempDir,
    port: u16,
    management: u16,
    distribution: [u16; 2],
    process: Process,
    /// What Erlang's nodes find each other by.
    _names: Process,
}

impl RabbitMq {
    /// Starts a server and waits until it answers. `settings` are added to its configuration.
    pub async fn start(settings: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("tidegate-rabbitmq-").tempdir().expect("a temporary directory");
        let (port, management, distribution) = (ports::free(), ports::free(), [ports::free(), ports::free()]);
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management}\n\
             default_user = {USER}\ndefault_pass = {PASSWORD}\ndisk_free_limit.absolute = 1MB\n{settings}\n"
        );
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).expect("the configuration can be written");
        };
        write("rabbitmq.conf", &config);
        write("plugins", "[rabbitmq_management].");
        let mut names = process::command(&tools::program("brokers/root/usr/bin/epmd"));
        names.args(["-address", "127.0.0.1", "-port", &distribution[0].to_string()]);
        let names = Process::spawn("epmd", names, &directory.path().join("names.log"));
        let process = spawn(directory.path(), distribution);
        let mut server = Self { directory, port, management, distribution, process, _names: names };
        server.ready().await;
        server
    }

    /// The same with a second port on 127.0.0.1 for TLS, with these PEM files: an authority's certificate, a server's, its key.
    pub async fn start_with_tls(files: [&Path; 3]) -> (Self, u16) {
        let port = ports::free();
        let [authority, certificate, key] = files.map(Path::display);
        let settings = format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {authority}\nssl_options.certfile = {certificate}\n\
             ssl_options.keyfile = {key}"
        );
        (Self::start(&settings).await, port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, on the same port and data, after [`RabbitMq::kill`].
    pub async fn restart(&mut self) {
        self.process = spawn(self.directory.path(), self.distribution);
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

    /// Has it think that it is short of memory, or that it is no more: meanwhile it reads nothing of connections that publish.
    pub fn is_short_of_memory(&self, is_short: bool) {
        let alarm = format!("{{resource_limit, memory, '{NODE}'}}");
        let (function, argument) = if is_short { ("set_alarm", format!("{{{alarm}, []}}")) } else { ("clear_alarm", alarm) };
        let asked = format!("io:format(\"~p\", [rpc:call('{NODE}', rabbit_alarm, {function}, [{argument}])]), halt().");
        let mut erlang = erlang(self.directory.path(), self.distribution[0]);
        erlang.args(["-noinput", "-hidden", "-sname", &format!("asking{}@localhost", std::process::id()), "-eval", &asked]);
        assert_eq!(tools::run(erlang, ""), "ok");
    }

    /// Makes a durable queue.
    pub async fn create_queue(&self, name: &str) {
        self.manage("PUT", &format!("/queues/%2F/{name}"), &json!({"durable": true})).await;
    }

    /// Makes a durable topic exchange, and has it route keys of this pattern to a queue.
    pub async fn create_exchange(&self, name: &str, pattern: &str, queue: &str) {
        self.manage("PUT", &format!("/exchanges/%2F/{name}"), &json!({"type": "topic", "durable": true})).await;
        self.manage("POST", &format!("/bindings/%2F/e/{name}/q/{queue}"), &json!({"routing_key": pattern})).await;
    }

    /// All messages of a queue, oldest first; they stay there. Properties stand among the headers.
    pub async fn messages(&self, queue: &str) -> Vec<Stored> {
        let want = json!({"count": 1000, "ackmode": "ack_requeue_true", "encoding": "base64"});
        let got = self.manage("POST", &format!("/queues/%2F/{queue}/get"), &want).await;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let stored = |message: &Value| {
            let body = message["payload"].as_str().unwrap_or_default();
            let body = match message["payload_encoding"].as_str() {
                Some("base64") => STANDARD.decode(body).expect("base64"),
                _ => body.as_bytes().to_vec(),
            };
            let properties = message["properties"].as_object().into_iter().flatten().filter(|(name, _)| *name != "headers");
            let headers = message["properties"]["headers"].as_object().into_iter().flatten().chain(properties);
            Stored { headers: headers.map(|(name, value)| (name.clone(), text(value))).collect(), body }
        };
        got.as_array().unwrap_or_else(|| panic!("{got}")).iter().map(stored).collect()
    }

    async fn manage(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let user = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        let headers = [("authorization", user.as_str()), ("content-type", "application/json")];
        let url = format!("http://127.0.0.1:{}/api{path}", self.management);
        let reply = send(method, &url, &headers, body.to_string()).await;
        (reply.status, serde_json::from_slice(&reply.body).unwrap_or_default())
    }

    async fn ready(&mut self) {
        eventually("RabbitMQ answers", START_DEADLINE, async || {
            assert!(self.process.exited().is_none(), "RabbitMQ does not start:\n{}", self.process.last_words());
            let open = async |port: u16| tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
            if !open(self.management).await || !open(self.port).await {
                return None;
            }
            let asked = tokio::time::timeout(Duration::from_secs(5), self.ask("GET", "/overview", &Value::Null)).await.ok()?;
            (asked.0 == 200).then_some(())
        })
        .await;
    }
}

/// The server's name among Erlang's nodes.
const NODE: &str = "test@localhost";

/// Erlang's machine, with the cookie of this directory.
fn erlang(directory: &Path, names: u16) -> Command {
    let mut command = process::command(&tools::program("brokers/root").join("usr/lib/erlang/bin/erl"));
    command.current_dir(directory).env("HOME", directory).env("LANG", "C.UTF-8").env("ERL_EPMD_PORT", names.to_string());
    command
}

/// Erlang's machine itself, as the package's scripts would start it: one process, which a test can kill.
fn spawn(directory: &Path, [names, own]: [u16; 2]) -> Process {
    let root = tools::program("brokers/root");
    let home = root.join("usr/lib/rabbitmq/lib");
    let home = std::fs::read_dir(&home).expect("RabbitMQ is unpacked").flatten().map(|entry| entry.path()).next();
    let home = home.expect("RabbitMQ is unpacked");
    let plugins = home.join("plugins");
    let mut command = erlang(directory, names);
    let own = own.to_string();
    command
        .args(["-noinput", "-s", "rabbit", "boot", "-boot", "start_sasl", "+S", "1:1", "+sbwt", "none", "+W", "w"])
        .args(["-kernel", "inet_dist_listen_min", &own, "-kernel", "inet_dist_listen_max", &own])
        .args(["-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false"])
        .env("SYS_PREFIX", "")
        .env("ERL_LIBS", &plugins)
        .env("RABBITMQ_HOME", &home)
        .env("RABBITMQ_PLUGINS_DIR", &plugins)
        .env("RABBITMQ_NODENAME", NODE)
        .env("RABBITMQ_DIST_PORT", &own)
        .env("RABBITMQ_LOGS", "-")
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
    for (name, path) in [
        ("RABBITMQ_MNESIA_BASE", "data"),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_CONFIG_FILE", "rabbitmq"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
    ] {
        command.env(name, directory.join(path));
    }
    Process::spawn("rabbitmq", command, &directory.join("server.log"))
}
