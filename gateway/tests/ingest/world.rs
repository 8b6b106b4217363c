//! A receive server on a free port with one source, and raw HTTP/1.1 to talk to it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate::clock::{Clock, Timestamp};
use tidegate::control::snapshot::{Format, Plan, Snapshot, Snapshots, Source, Tenant, Traffic};
use tidegate::event::{Revision, Shard, SourceId, TenantId};
use tidegate::ingest::accept::{self, Acceptor};
use tidegate::ingest::receive::{Limits, Parts, Server, Stopped};
use tidegate::ingest::verify::Verifier;
use tidegate::telemetry::metrics::Metrics;
use tidegate::telemetry::trace::Spans;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::stub::{Mode, Stub};

/// Nothing here takes this long unless it hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const NOW: Timestamp = Timestamp(1_790_000_000_000);
pub(crate) const SOURCE: SourceId = SourceId(0x0190_0000_0000_0000_0000_0000_0000_0001);
pub(crate) const TENANT: TenantId = TenantId(7);
pub(crate) const REVISION: Revision = Revision(3);

/// A plan that allows next to nothing but what is queued.
pub(crate) const PLAN: Plan = Plan {
    rate: 1.0,
    burst: 1,
    weight: 1,
    in_flight: 1,
    ceiling: 1000.0,
    queued_bytes: 1 << 30,
    table_bytes: 0,
    delivery_rate: None,
    plugin_fuel: 1 << 40,
    plugin_bytes: 1 << 30,
};

/// How a server is set up.
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) accept: accept::Limits,
    pub(crate) mode: Mode,
    pub(crate) source: Source,
    /// More sources, if there are to be some.
    pub(crate) others: Vec<Source>,
    pub(crate) traffic: Traffic,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) spans: Spans,
    pub(crate) metrics: Metrics,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            accept: accept::Limits::default(),
            mode: Mode::Keep,
            source: source(),
            others: Vec::new(),
            traffic: Traffic::default(),
            tls: None,
            spans: Spans::off(),
            metrics: Metrics::default(),
        }
    }
}

/// A source that takes everything.
pub(crate) fn source() -> Source {
    let plan = Plan { rate: 1e6, burst: 1_000_000, in_flight: 64, ceiling: 1e6, ..PLAN };
    Source {
        id: SOURCE,
        name: "orders".into(),
        tenant: Arc::new(Tenant { id: TENANT, name: "acme".into(), shards: Shard(2).into(), plan, deleting: None }),
        enabled: true,
        verifier: Arc::new(Verifier::none()),
        verify: None,
        respond: None,
        permits: None,
        format: Format::Any,
        methods: None,
        dedup: None,
        max_body: 1 << 20,
        trust_trace: false,
        connections: Vec::new(),
        is_ordered: false,
        pins: Vec::new(),
        canaries: Vec::new(),
    }
}

pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<Stub>,
    pub(crate) acceptor: Acceptor,
    pub(crate) snapshots: Snapshots,
    /// The gateway's.
    #[allow(dead_code)] // Not the bench's.
    pub(crate) clock: Clock,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<Stopped>,
}

impl World {
    pub(crate) async fn start(setup: Setup) -> Self {
        let store = Stub::new(setup.mode);
        let acceptor = Acceptor::new(store.clone(), setup.accept, Arc::default(), setup.metrics.clone());
        let sources = setup.others.into_iter().chain([setup.source]).map(|source| (source.id, Arc::new(source))).collect();
        let traffic = Arc::new(setup.traffic);
        let snapshots = Snapshots::new(Snapshot { revision: REVISION, sources, traffic, ..Snapshot::default() });
        let clock = Clock::manual(NOW);
        let parts = Parts {
            snapshots: snapshots.clone(),
            acceptor: acceptor.clone(),
            clock: clock.clone(),
            metrics: setup.metrics,
            spans: setup.spans,
            plugins: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let server = Server::new(parts, setup.limits, setup.tls);
        let server = tokio::spawn(server.run(listener, async move {
            let _ = stopped.await;
        }));
        Self { address, store, acceptor, snapshots, clock, stop: Some(stop), server }
    }

    pub(crate) async fn connect(&self) -> Raw {
        Raw { stream: TcpStream::connect(self.address).await.expect("the server listens"), buffer: Vec::new() }
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, request: &[u8]) -> Response {
        let mut connection = self.connect().await;
        connection.write(request).await;
        connection.response().await
    }

    /// Tells the server to stop.
    pub(crate) fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Waits for the server to have stopped.
    pub(crate) async fn stopped(self) -> Stopped {
        tokio::time::timeout(DEADLINE, self.server).await.expect("the server stops").expect("the server does not panic")
    }
}

/// `POST /in/{source}` with these header lines and this body.
pub(crate) fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    post_to(SOURCE, headers, body)
}

pub(crate) fn post_to(source: SourceId, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST /in/{source} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    request.extend_from_slice(body);
    request
}

/// A client that sends what it is told, byte by byte if need be.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0 == name).map(|header| header.1.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The refusal's stable name; checks that it is problem details.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        assert!(problem["title"].is_string() && problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        problem["code"].as_str().expect("a code").to_owned()
    }
}

impl Raw {
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    /// The next response; panics if the server closes instead.
    pub(crate) async fn response(&mut self) -> Response {
        self.try_response().await.expect("a response")
    }

    /// The next response, or none if the server closed.
    pub(crate) async fn try_response(&mut self) -> Option<Response> {
        loop {
            if let Some(response) = self.parse() {
                return Some(response);
            }
            let mut chunk = [0; 4096];
            let read = tokio::time::timeout(DEADLINE, self.stream.read(&mut chunk)).await.expect("an answer in time");
            match read {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Waits for the server to close; panics if it says anything.
    pub(crate) async fn closed(&mut self) {
        if let Some(response) = self.try_response().await {
            panic!("{response:?}");
        }
    }

    fn parse(&mut self) -> Option<Response> {
        let end = self.buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(self.buffer[..end].to_vec()).expect("a head of text");
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().expect("a status");
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length =
            headers.iter().find(|header| header.0 == "content-length").map_or(0, |header| header.1.parse().expect("a length"));
        if self.buffer.len() < end + length {
            return None;
        }
        let body = self.buffer[end..end + length].to_vec();
        self.buffer.drain(..end + length);
        Some(Response { status, headers, body })
    }
}
