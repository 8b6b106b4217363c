//! The gateway under measurement: `tidegate serve` on a configuration of its own, set up through its API as a user would.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, StatusCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::error::BenchError;
use super::http;
use super::lab::Lab;
use super::redis_server::{RedisServer, free_port};
use crate::clock;
use crate::config::Config;
use crate::control::seal;
use crate::event::{ConnectionId, SourceId};
use crate::secret::Secret;

/// How long it may take to be ready; a debug build with many tenants is the slowest.
const START: Duration = Duration::from_secs(120);
/// How often it is asked meanwhile.
const ASK: Duration = Duration::from_millis(20);
/// How long a graceful stop may take.
const STOP: Duration = Duration::from_secs(60);
/// Where the gateway finds its keys, beside its configuration.
const OPERATOR_KEY: &str = "operator.key";
const ENCRYPTION_KEY: &str = "encryption.key";
/// Attempts at once. A closed loop outruns any small window, and what is over it is parked in the store: then the figure would be
/// of parking, at several times the cost.
pub(super) const IN_FLIGHT: u32 = 256;
/// What deliveries are signed with.
pub(super) const SECRET: &str = "whsec_dGlkZWdhdGUgYmVuY2htYXJrcyBzaWduIHRvbyE=";
/// How much of its log an error shows.
const TAIL: u64 = 2048;

/// Where a gateway keeps its events.
#[derive(Clone, Copy)]
pub(super) enum Backend<'a> {
    Embedded,
    Redis(&'a RedisServer),
    /// A Redis at this address.
    RedisAt(SocketAddr),
}

/// What its configuration says besides, in TOML: lines of these sections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tuning {
    pub(super) ingest: &'static str,
    pub(super) store: &'static str,
    pub(super) dispatch: &'static str,
    pub(super) plugins: &'static str,
}

/// A running gateway. Killed when dropped: what it holds is thrown away.
pub(super) struct Gateway {
    launch: Launch,
    child: Child,
    pid: u32,
    ingest: SocketAddr,
    admin: SocketAddr,
}

/// How it is started, and started again.
struct Launch {
    program: PathBuf,
    role: &'static str,
    config: PathBuf,
    log: PathBuf,
    threads: usize,
    key: Secret,
    /// Where to put the process as soon as it runs.
    cage: Option<PathBuf>,
}

impl Launch {
    fn spawn(&self) -> Result<(Child, u32), BenchError> {
        let failed = |source| BenchError::Start { name: "gateway", program: self.program.clone(), source };
        let output = File::options().create(true).append(true).open(&self.log).map_err(failed)?;
        let mut command = Command::new(&self.program);
        // Without an exporter, whatever the shell has set.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"OTEL_")) {
            command.env_remove(name);
        }
        let child = command
            .args(["serve", "--role", self.role, "--config"])
            .arg(&self.config)
            .env("TOKIO_WORKER_THREADS", self.threads.to_string())
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let pid = child.id().ok_or_else(|| failed(std::io::Error::other("it ended at once")))?;
        if let Some(cage) = &self.cage {
            std::fs::write(cage, pid.to_string()).map_err(BenchError::io(cage.display().to_string()))?;
        }
        Ok((child, pid))
    }
}

/// A source with its only connection, or without one.
pub(super) struct Route<C> {
    /// The path to post to.
    pub(super) path: String,
    pub(super) connection: C,
}

/// A gateway that is configured and does not run yet.
pub(super) struct Planned {
    launch: Launch,
    ingest: SocketAddr,
    admin: SocketAddr,
}

impl Planned {
    /// Writes its configuration and its keys to `room`.
    pub(super) fn new(
        lab: &Lab,
        room: &Path,
        backend: Backend<'_>,
        role: &'static str,
        tuning: Tuning,
    ) -> Result<Self, BenchError> {
        let (ingest, admin) = (loopback(free_port()?), loopback(free_port()?));
        let config = room.join("tidegate.toml");
        let (key, encryption) = (make_key()?, make_key()?);
        let files = [
            (config.clone(), settings(ingest, admin, backend, tuning)),
            (room.join(OPERATOR_KEY), key.expose().to_owned()),
            (room.join(ENCRYPTION_KEY), encryption.expose().to_owned()),
        ];
        for (path, text) in files {
            std::fs::write(&path, text).map_err(BenchError::io(path.display().to_string()))?;
        }
        let log = room.join("gateway.log");
        let launch = Launch { program: lab.program.clone(), role, config, log, threads: lab.threads, key, cage: None };
        Ok(Self { launch, ingest, admin })
    }

    /// With the keys of another one, so that both can stand on one store.
    pub(super) fn beside(mut self, other: &Self) -> Result<Self, BenchError> {
        let (own, others) = (&self.launch.config, &other.launch.config);
        for name in [OPERATOR_KEY, ENCRYPTION_KEY] {
            let (from, to) = (others.with_file_name(name), own.with_file_name(name));
            std::fs::copy(&from, &to).map_err(BenchError::io(from.display().to_string()))?;
        }
        self.launch.key = other.launch.key.clone();
        Ok(self)
    }

    /// Its configuration as it will read it, and the directory that this stands in.
    pub(super) fn config(&self) -> Result<(Config, &Path), BenchError> {
        let config = Config::load(&self.launch.config).map_err(|error| BenchError::Setup(error.to_string()))?;
        Ok((config, self.launch.config.parent().unwrap_or(Path::new("/"))))
    }

    /// Lets the process be written to this file as soon as it runs.
    pub(super) fn caged(mut self, procs: PathBuf) -> Self {
        self.launch.cage = Some(procs);
        self
    }

    /// Starts it, and waits until it is ready; with how long that took.
    pub(super) async fn start(self) -> Result<(Gateway, Duration), BenchError> {
        let started = clock::monotonic();
        let (child, pid) = self.launch.spawn()?;
        let mut gateway = Gateway { launch: self.launch, child, pid, ingest: self.ingest, admin: self.admin };
        gateway.wait_until_ready().await?;
        Ok((gateway, started.elapsed()))
    }
}

impl Gateway {
    /// Starts one in `room`.
    pub(super) async fn start(lab: &Lab, room: &Path, backend: Backend<'_>, role: &'static str) -> Result<Self, BenchError> {
        Ok(Planned::new(lab, room, backend, role, Tuning::default())?.start().await?.0)
    }

    /// Stops it as an operator would, and starts it again; gives the time from there until it was ready.
    pub(super) async fn restart(&mut self) -> Result<Duration, BenchError> {
        let pid = i32::try_from(self.pid).map_err(|_| BenchError::Setup("no process id".into()))?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(|error| BenchError::io("SIGTERM")(error.into()))?;
        match timeout(STOP, self.child.wait()).await {
            Ok(ended) => drop(ended.map_err(BenchError::io("wait"))?),
            Err(_) => {
                return Err(BenchError::Part { name: "gateway", what: "did not stop in time".into(), log: self.log() });
            }
        }
        let started = clock::monotonic();
        (self.child, self.pid) = self.launch.spawn()?;
        self.wait_until_ready().await?;
        Ok(started.elapsed())
    }

    /// Whether it still runs; an error with the end of its log if not.
    pub(super) fn alive(&mut self) -> Result<(), BenchError> {
        self.ended().map_or(Ok(()), Err)
    }

    /// The end of what it logged.
    pub(super) fn log(&self) -> String {
        tail(&self.launch.log)
    }

    /// `kill -9`, and a new start on the same data, which is not waited for.
    pub(super) async fn crash_and_start(&mut self) -> Result<(), BenchError> {
        self.child.kill().await.map_err(BenchError::io("kill"))?;
        (self.child, self.pid) = self.launch.spawn()?;
        Ok(())
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn ingest(&self) -> SocketAddr {
        self.ingest
    }

    /// Makes a tenant inside its plan at any rate, and a source: the plan's rate is for the lanes.
    pub(super) async fn source(&self) -> Result<Setup<'_>, BenchError> {
        self.tenant("bench", &wide_plan()).await
    }

    /// Makes a tenant with this plan, and a source.
    pub(super) async fn tenant(&self, name: &str, plan: &Value) -> Result<Setup<'_>, BenchError> {
        let tenant = self.create("/v1/tenants", &json!({"name": name, "plan": plan})).await?;
        let tenant = id_of(&tenant)?.to_owned();
        let source = self.create(&format!("/v1/sources?tenant={tenant}"), &json!({"name": "bench"})).await?;
        let source = id_of(&source)?.parse().map_err(|_| BenchError::Answer { name: "gateway", answer: source.to_string() })?;
        Ok(Setup { gateway: self, tenant, source, path: "/hook" })
    }

    /// Uploads a component, whether it is taken or not; gives the answer's status.
    pub(super) async fn upload(&self, tenant: &str, plugin: &str, component: Bytes) -> Result<StatusCode, BenchError> {
        let path = format!("/v1/plugins/{plugin}/versions?tenant={tenant}");
        let upload = request(Method::POST, &path, Some(self.launch.key.expose()), component);
        http::call(self.admin, upload).await.map(|(status, _)| status)
    }

    /// Changes a thing by a merge patch.
    pub(super) async fn change(&self, path: &str, patch: &Value) -> Result<(), BenchError> {
        self.send(Method::PATCH, path, patch.to_string().into()).await.map(drop)
    }

    /// Looks something up.
    pub(super) async fn get(&self, path: &str) -> Result<Value, BenchError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// The end of its log, if it ended.
    fn ended(&mut self) -> Option<BenchError> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(BenchError::Part { name: "gateway", what: format!("ended with {status}"), log: tail(&self.launch.log) })
    }

    async fn wait_until_ready(&mut self) -> Result<(), BenchError> {
        let ready = async {
            loop {
                if let Some(ended) = self.ended() {
                    return Err(ended);
                }
                if let Ok((status, _)) = http::call(self.admin, request(Method::GET, "/readyz", None, Bytes::new())).await
                    && status.is_success()
                {
                    return Ok(());
                }
                sleep(ASK).await;
            }
        };
        let late = timeout(START, ready).await;
        late.unwrap_or_else(|_| {
            Err(BenchError::Part { name: "gateway", what: "was not ready in time".into(), log: tail(&self.launch.log) })
        })
    }

    async fn create(&self, path: &str, body: &Value) -> Result<Value, BenchError> {
        self.send(Method::POST, path, body.to_string().into()).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Value, BenchError> {
        let what = format!("{method} {path}");
        let (status, answer) = http::call(self.admin, request(method, path, Some(self.launch.key.expose()), body)).await?;
        let refused = || BenchError::Api {
            request: what.clone(),
            status: status.as_u16(),
            answer: String::from_utf8_lossy(&answer).chars().take(500).collect(),
        };
        if !status.is_success() {
            return Err(refused());
        }
        serde_json::from_slice(&answer).map_err(|_| refused())
    }
}

/// A source that is being set up.
pub(super) struct Setup<'a> {
    gateway: &'a Gateway,
    tenant: String,
    source: SourceId,
    /// Where its deliveries go.
    path: &'static str,
}

impl Setup<'_> {
    /// Sends its deliveries to this path of the receiver.
    pub(super) fn to(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    /// Leaves it without a connection.
    pub(super) fn unconnected(self) -> Route<()> {
        Route { path: format!("/in/{}", self.source), connection: () }
    }

    /// Connects it with a signed destination at `receiver`, through `component` if there is one.
    pub(super) async fn connect(
        self,
        receiver: SocketAddr,
        component: Option<&'static [u8]>,
    ) -> Result<Route<ConnectionId>, BenchError> {
        self.connect_through(receiver, component.map(|component| (Bytes::from_static(component), json!({})))).await
    }

    /// The same with more fields of the component's stage.
    pub(super) async fn connect_through(
        self,
        receiver: SocketAddr,
        stage: Option<(Bytes, Value)>,
    ) -> Result<Route<ConnectionId>, BenchError> {
        let Self { gateway, tenant, source, path } = &self;
        let destination = json!({
            "name": "receiver", "url": format!("http://{receiver}{path}"), "in_flight": IN_FLIGHT, "signing": {"secrets": [SECRET]}
        });
        gateway.create(&format!("/v1/destinations?tenant={tenant}"), &destination).await?;
        let mut connection = json!({"name": "bench", "source": source.to_string(), "destination": "receiver"});
        if let Some((component, mut stage)) = stage {
            gateway.send(Method::POST, &format!("/v1/plugins/bench/versions?tenant={tenant}"), component).await?;
            stage["plugin"] = "bench".into();
            connection["plugins"] = json!([stage]);
        }
        let connection = gateway.create(&format!("/v1/connections?tenant={tenant}"), &connection).await?;
        let id = id_of(&connection)?.parse();
        let id = id.map_err(|_| BenchError::Answer { name: "gateway", answer: connection.to_string() })?;
        Ok(Route { path: self.unconnected().path, connection: id })
    }
}

fn settings(ingest: SocketAddr, admin: SocketAddr, backend: Backend<'_>, tuning: Tuning) -> String {
    let redis = |url: String| format!("kind = \"redis\"\nurls = [\"{url}\"]\ndurability = \"everysec\"");
    let store = match backend {
        Backend::Embedded => format!("kind = \"embedded\"\npath = \"data\"\n{}", tuning.store),
        Backend::Redis(server) => redis(server.url()),
        Backend::RedisAt(address) => redis(format!("redis://{address}")),
    };
    let Tuning { ingest: more_ingest, dispatch, plugins, .. } = tuning;
    format!(
        "[ingest]\nlisten = \"{ingest}\"\n{more_ingest}\n\n[admin]\nlisten = \"{admin}\"\n\n[store]\n{store}\n\n\
         [dispatch]\n{dispatch}\n\n[egress]\nallow = [\"127.0.0.1/32\"]\n\n[plugins]\ncache = \"artifacts\"\n{plugins}\n\n\
         [keys]\noperator = \"file:{OPERATOR_KEY}\"\nencryption = \"file:{ENCRYPTION_KEY}\"\n"
    )
}

/// A plan that nothing is over, however much is queued.
pub(super) fn wide_plan() -> Value {
    json!({
        "rate": 1_000_000.0, "burst": 1_000_000, "in_flight": 4096, "queued_bytes": "1TiB", "plugin_fuel": 1_000_000_000_000_u64
    })
}

fn make_key() -> Result<Secret, BenchError> {
    seal::generate_key().map_err(|error| BenchError::io("a key")(std::io::Error::other(error)))
}

fn request(method: Method, path: &str, key: Option<&str>, body: Bytes) -> Request<Full<Bytes>> {
    let kind = if body.first() == Some(&b'{') { "application/json" } else { "application/wasm" };
    let mut request = Request::builder().method(method).uri(path).header("content-type", kind);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    request.body(Full::new(body)).expect("paths are made of ids and names")
}

fn id_of(resource: &Value) -> Result<&str, BenchError> {
    resource["id"].as_str().ok_or_else(|| BenchError::Answer { name: "gateway", answer: resource.to_string() })
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// The end of a file.
pub(super) fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        #[allow(clippy::disallowed_methods, reason = "limited")]
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}
