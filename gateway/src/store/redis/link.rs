//! Connections: made when they are needed, given up at the first doubt, made again for ever with a bounded, jittered back-off.
//!
//! The client's own retries are off: it can't know which writes are safe to repeat, the callers here do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisError, RedisResult,
    TlsCertificates, TlsMode, Value, cmd,
};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::config::{RedisConfig, RedisUrl, Timeouts, Topology};
use super::error::{Fault, explain, odd};
use super::reach::Reach;
use super::scripts;
use crate::clock;
use crate::store::StoreError;

const FIRST_BACKOFF: Duration = Duration::from_millis(20);
/// Short enough that a server which is back is found within a second, by each of a gateway's few connections.
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// Makes connections.
pub(super) struct Connector {
    topology: Topology,
    certificates: TlsCertificates,
    timeouts: Timeouts,
    pub(super) reach: Reach,
}

/// A connection of either kind. Clones share it.
#[derive(Clone)]
pub(super) enum Wire {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// A connection that works as far as is known.
pub(super) struct Live {
    wire: Wire,
    pub(super) generation: u64,
    absences: u64,
    /// The server's id of this connection and of its own run; none on a cluster.
    pub(super) identity: Option<Identity>,
}

/// Who a connection is to its server. Ids are never used twice in one run of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    client: i64,
    run: String,
}

impl Connector {
    pub(super) fn new(config: &RedisConfig) -> Self {
        Self {
            topology: config.topology.clone(),
            certificates: config.tls.certificates(),
            timeouts: config.timeouts,
            reach: Reach::new(),
        }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.topology, Topology::Cluster(_))
    }

    fn info(&self, url: &RedisUrl) -> RedisResult<ConnectionInfo> {
        let info = url.reveal().into_connection_info()?.set_tcp_settings(tcp());
        if !speaks_tls(&info) {
            return Ok(info);
        }
        Ok(Client::build_with_tls(info, self.certificates.clone())?.get_connection_info().clone())
    }

    fn infos(&self, urls: &[RedisUrl]) -> RedisResult<Vec<ConnectionInfo>> {
        urls.iter().map(|url| self.info(url)).collect()
    }

    fn settings(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeouts.connect))
            .set_response_timeout(Some(self.timeouts.response))
    }

    /// The one server to talk to now; the sentinels are asked anew each time.
    async fn client(&self) -> RedisResult<Client> {
        match &self.topology {
            Topology::Standalone(url) => Client::open(self.info(url)?),
            Topology::Sentinel { urls, master } => self.sentinel(&self.infos(urls)?, master)?.async_get_client().await,
            Topology::Cluster(urls) => Client::open(self.info(&urls[0])?),
        }
    }

    /// The sentinels, with user, password and TLS of the first URL for them and for their master alike; the database is the master's.
    fn sentinel(&self, infos: &[ConnectionInfo], master: &str) -> RedisResult<SentinelClient> {
        let nodes: Vec<_> = infos.iter().map(|info| info.addr().clone()).collect();
        let mut builder = SentinelClientBuilder::new(nodes, master, SentinelServerType::Master)?
            .set_client_to_redis_tcp_settings(tcp())
            .set_client_to_sentinel_tcp_settings(tcp());
        let Some(first) = infos.first() else { return builder.build() };
        if speaks_tls(first) {
            builder =
                builder.set_client_to_redis_tls_mode(TlsMode::Secure).set_client_to_redis_certificates(self.certificates.clone());
        }
        let login = first.redis_settings();
        builder = builder.set_client_to_redis_db(login.db());
        if let Some(user) = login.username() {
            builder = builder.set_client_to_redis_username(user).set_client_to_sentinel_username(user);
        }
        if let Some(password) = login.password() {
            builder = builder.set_client_to_redis_password(password).set_client_to_sentinel_password(password);
        }
        builder.build()
    }

    async fn wire(&self) -> RedisResult<Wire> {
        if let Topology::Cluster(urls) = &self.topology {
            let nodes = self.infos(urls)?;
            let tls = nodes.iter().any(speaks_tls);
            let mut builder = ClusterClient::builder(nodes);
            if tls {
                builder = builder.certs(self.certificates.clone());
            }
            let client = builder
                .retries(0)
                .connection_timeout(self.timeouts.connect)
                .response_timeout(self.timeouts.response)
                .overall_response_timeout(Some(self.timeouts.response))
                .tcp_settings(tcp())
                .build()?;
            return Ok(Wire::Cluster(client.get_async_connection().await?));
        }
        let client = self.client().await?;
        Ok(Wire::One(client.get_multiplexed_async_connection_with_config(&self.settings()).await?))
    }

    async fn connect(&self, generation: u64) -> RedisResult<Live> {
        let absences = self.reach.absences();
        let mut wire = self.wire().await?;
        let mut load = Pipeline::new();
        for script in scripts::ALL {
            load.cmd("SCRIPT").arg("LOAD").arg(script.text());
        }
        let identity = match &mut wire {
            Wire::Cluster(connection) => {
                for command in load.cmd_iter() {
                    connection.req_packed_command(command).await?.extract_error()?;
                }
                None
            }
            Wire::One(connection) => {
                load.cmd("CLIENT").arg("ID").cmd("INFO").arg("server");
                let answers = connection.req_packed_commands(&load, 0, load.len()).await?;
                let mut answers = answers.into_iter().map(Value::extract_error).collect::<RedisResult<Vec<_>>>()?;
                let info: String = redis::from_redis_value(answers.pop().unwrap_or_default())?;
                let client: i64 = redis::from_redis_value(answers.pop().unwrap_or_default())?;
                let run = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().to_owned();
                Some(Identity { client, run })
            }
        };
        Ok(Live { wire, generation, absences, identity })
    }

    /// Where the master is that the sentinels name now; none where there are no sentinels, or none that knows one.
    pub(super) async fn master(&self) -> Option<(String, u16)> {
        if !matches!(self.topology, Topology::Sentinel { .. }) {
            return None;
        }
        let client = timeout(self.timeouts.connect, self.client()).await.ok()?.ok()?;
        place(client.get_connection_info())
    }

    /// A connection of its own for published wake-ups.
    pub(super) async fn subscriber(&self) -> RedisResult<PubSub> {
        let connecting = async { self.client().await?.get_async_pubsub().await };
        timeout(self.timeouts.connect, connecting).await.unwrap_or_else(|_| Err(timed_out()))
    }
}

/// Host and port of a server that is not a socket of this machine.
pub(super) fn place(info: &ConnectionInfo) -> Option<(String, u16)> {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => Some((host.clone(), *port)),
        _ => None,
    }
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn speaks_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// One connection for one kind of work, so that a slow kind does not hold up the others.
pub(super) struct Link {
    connector: Arc<Connector>,
    live: ArcSwapOption<Live>,
    dial: Mutex<Dial>,
    generations: AtomicU64,
}

#[derive(Default)]
struct Dial {
    failures: u32,
    failed: Option<Failed>,
}

struct Failed {
    at: Instant,
    error: StoreError,
    returns: u64,
}

impl Link {
    pub(super) fn new(connector: Arc<Connector>) -> Self {
        Self { connector, live: ArcSwapOption::empty(), dial: Mutex::default(), generations: AtomicU64::new(1) }
    }

    /// The connection, made if there is none. During a back-off the last failure is answered at once.
    pub(super) async fn live(&self) -> Result<Arc<Live>, StoreError> {
        if let Some(live) = self.present() {
            return Ok(live);
        }
        let mut dial = self.dial.lock().await;
        if let Some(live) = self.present() {
            return Ok(live);
        }
        let returns = self.connector.reach.returns();
        if let Some(failed) = &dial.failed
            && failed.returns == returns
            && failed.at.elapsed() < backoff(dial.failures)
        {
            return Err(failed.error.clone());
        }
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let connecting = timeout(self.connector.timeouts.connect, self.connector.connect(generation));
        match connecting.await.unwrap_or_else(|_| Err(timed_out())) {
            Ok(live) => {
                *dial = Dial::default();
                let live = Arc::new(live);
                self.live.store(Some(live.clone()));
                Ok(live)
            }
            Err(error) => {
                self.connector.reach.doubt();
                let error = explain(&error);
                dial.failures = dial.failures.saturating_add(1);
                dial.failed = Some(Failed { at: clock::monotonic(), error: error.clone(), returns });
                Err(error)
            }
        }
    }

    /// The connection, unless it is from before the server was away.
    fn present(&self) -> Option<Arc<Live>> {
        self.live.load_full().filter(|live| live.absences == self.connector.reach.absences())
    }

    /// Gives this connection up, unless a newer one is there.
    pub(super) fn retire(&self, doubtful: &Live) {
        let current = self.live.load_full();
        if current.as_ref().is_some_and(|live| live.generation == doubtful.generation) {
            self.live.compare_and_swap(&current, None);
        }
    }

    /// One exchange: `skip` answers are dropped, `count` returned. See [`ConnectionLike::req_packed_commands`].
    pub(super) async fn exchange(&self, live: &Live, pipe: &Pipeline, skip: usize, count: usize) -> Result<Vec<Value>, Fault> {
        let answer = match live.wire.clone() {
            Wire::One(mut connection) => connection.req_packed_commands(pipe, skip, count).await,
            Wire::Cluster(mut connection) => connection.req_packed_commands(pipe, skip, count).await,
        };
        answer.map_err(|error| self.judge(live, error))
    }

    /// One command on this connection.
    pub(super) async fn ask(&self, live: &Live, command: &Cmd) -> Result<Value, Fault> {
        let answer = match live.wire.clone() {
            Wire::One(mut connection) => connection.req_packed_command(command).await,
            Wire::Cluster(mut connection) => connection.req_packed_command(command).await,
        };
        match answer.and_then(Value::extract_error) {
            Ok(value) => Ok(value),
            Err(error) => Err(self.judge(live, error)),
        }
    }

    /// The addresses of a cluster's masters; one without an address where there is one server.
    pub(super) async fn masters(&self) -> Result<Vec<Option<(String, u16)>>, Fault> {
        let live = self.live().await.map_err(Fault::Unsent)?;
        let Value::Map(nodes) = self.ask(&live, &cmd("INFO")).await? else { return Ok(vec![None]) };
        let address = |node: Value| {
            let node: String = redis::from_redis_value(node).ok()?;
            let (host, port) = node.rsplit_once(':')?;
            Some((host.to_owned(), port.parse().ok()?))
        };
        let masters = nodes.into_iter().map(|(node, _)| address(node).map(Some));
        masters.collect::<Option<_>>().ok_or_else(|| Fault::Unsent(odd("the cluster's nodes")))
    }

    /// Asks one server: of a cluster the one with this address.
    pub(super) async fn ask_at(&self, master: Option<&(String, u16)>, command: &Cmd) -> Result<Value, Fault> {
        let live = self.live().await.map_err(Fault::Unsent)?;
        let (Wire::Cluster(mut connection), Some((host, port))) = (live.wire.clone(), master) else {
            return self.ask(&live, command).await;
        };
        let at = SingleNodeRoutingInfo::ByAddress { host: host.clone(), port: *port };
        let answer = connection.route_command(command.clone(), RoutingInfo::SingleNode(at)).await;
        answer.and_then(Value::extract_error).map_err(|error| self.judge(&live, error))
    }

    fn judge(&self, live: &Live, error: RedisError) -> Fault {
        let fault = Fault::of(error);
        if matches!(fault, Fault::Lost(_)) {
            self.connector.reach.doubt();
        }
        if fault.passes() && !self.connector.is_cluster() {
            self.retire(live);
        }
        fault
    }

    /// Asks once; a script that the server has lost was not run, so that is tried again with the scripts loaded.
    pub(super) async fn once(&self, command: &Cmd) -> Result<Value, Fault> {
        let live = self.live().await.map_err(Fault::Unsent)?;
        match self.ask(&live, command).await {
            Err(fault) if fault.is("NOSCRIPT") => self.retire(&live),
            answer => return answer,
        }
        let live = self.live().await.map_err(Fault::Unsent)?;
        self.ask(&live, command).await
    }

    /// Asks a command that is harmless to repeat, on new connections if need be, for as long as an operation may take.
    pub(super) async fn repeat(&self, command: &Cmd) -> Result<Value, Fault> {
        let mut patience = Patience::new(self.connector.timeouts.operation);
        loop {
            let fault = match self.live().await {
                Err(error) => Fault::Unsent(error),
                Ok(live) => match self.ask(&live, command).await {
                    Ok(value) => return Ok(value),
                    Err(fault) if fault.is("NOSCRIPT") => {
                        self.retire(&live);
                        fault
                    }
                    Err(fault) if fault.passes() => fault,
                    Err(fault) => return Err(fault),
                },
            };
            if !patience.rest().await {
                return Err(fault);
            }
        }
    }

    /// The same for several commands in one round trip.
    pub(super) async fn repeat_all(&self, pipe: &Pipeline) -> Result<Vec<Value>, Fault> {
        if pipe.is_empty() {
            return Ok(Vec::new());
        }
        let mut patience = Patience::new(self.connector.timeouts.operation);
        loop {
            let fault = match self.live().await {
                Err(error) => Fault::Unsent(error),
                Ok(live) => match self.exchange(&live, pipe, 0, pipe.len()).await {
                    Ok(values) => return values.into_iter().map(|value| value.extract_error().map_err(Fault::of)).collect(),
                    Err(fault) if fault.passes() => fault,
                    Err(fault) => return Err(fault),
                },
            };
            if !patience.rest().await {
                return Err(fault);
            }
        }
    }

    /// Makes sure that nothing which was sent on an earlier connection is executed from now on: the server drops what it has
    /// received from it and not executed. If the server runs anew, or is another one, it has nothing of it.
    pub(super) async fn silence(&self, live: &Live, earlier: Option<&Identity>) -> Result<(), Fault> {
        let (Some(earlier), Some(present)) = (earlier, &live.identity) else { return Ok(()) };
        if earlier.run != present.run || earlier.client == present.client {
            return Ok(());
        }
        match self.ask(live, cmd("CLIENT").arg("KILL").arg("ID").arg(earlier.client)).await {
            Ok(_) => Ok(()),
            Err(fault @ (Fault::Lost(_) | Fault::Unsent(_))) => Err(fault),
            Err(Fault::Answered(error)) => {
                tracing::warn!(%error, "redis denies CLIENT KILL: a stalled batch could be executed twice, under the same event ids");
                Ok(())
            }
        }
    }
}

fn backoff(failures: u32) -> Duration {
    let step = FIRST_BACKOFF.saturating_mul(1 << failures.min(7)).min(MAX_BACKOFF);
    step.mul_f64(rand::random_range(0.5..1.0))
}

/// How long to try again.
pub(super) struct Patience {
    started: Instant,
    limit: Duration,
    turns: u32,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { started: clock::monotonic(), limit, turns: 0 }
    }

    /// Waits a little; false once the time is up.
    pub(super) async fn rest(&mut self) -> bool {
        self.turns += 1;
        let pause = backoff(self.turns);
        if self.started.elapsed() + pause >= self.limit {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}
