//! Exactly one HTTP request.

pub(super) mod exchange;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use hyper_util::client::proxy::matcher::Matcher;

use tokio::sync::Semaphore;

use super::auth::Credentials;
use super::broker::{self, Labels, Sessions};
use super::connect::Tls;
use super::fault::{Fault, refusal};
use super::policy::AddressPolicy;
use super::pool::{Limits, Pool};
use super::resolver::Resolver;
use super::target::{Speaks, Target};
use crate::clock::{Clock, Timestamp, monotonic};
use crate::event::{Failure, Party};
use crate::room::Room;
use exchange::{Exchange, Stage};

/// Bytes of a response's head.
pub const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// Requests at once to one destination, unless it is configured otherwise.
pub const MAX_REQUESTS: usize = 256;

/// Proofs of passwords that are worked out at once.
const PROOFS_AT_ONCE: usize = 2;
/// The same of one tenant. Its others wait behind it, and keep no other tenant waiting.
const TENANT_PROOFS_AT_ONCE: usize = 1;

/// How the gateway reaches out.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// Which addresses may be dialled.
    pub policy: AddressPolicy,
    /// Names that are not asked for in the DNS. The policy judges their addresses all the same.
    pub hosts: HashMap<String, Vec<IpAddr>>,
    /// DNS servers to ask instead of those that the machine's configuration names.
    pub name_servers: Vec<SocketAddr>,
    /// Certificates, in PEM, that are trusted besides the system's.
    pub extra_ca_pem: Vec<String>,
    /// What is kept of a response's body, in bytes.
    pub max_response: usize,
    /// The same for all responses together, until nobody holds them any more; what does not fit is cut.
    pub response_bytes: usize,
    /// Open connections altogether. Requests of one tenant use at most half of them at once, its idle connections to brokers included; more wait, and find none (`no_capacity`).
    pub max_connections: usize,
    /// Requests at once to one destination.
    pub max_requests_per_target: usize,
    /// When an idle connection is closed.
    pub idle_timeout: Duration,
    /// For resolving, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Proxies for destinations that name none.
    pub proxies: Proxies,
}

/// Which proxies are used for destinations that name none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proxies {
    /// None.
    #[default]
    None,
    /// Those that `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` name. They are asked for addresses that the policy has checked.
    Environment,
    /// The same, but they are asked for names, for machines that cannot resolve them. What the names lead to is theirs to judge.
    EnvironmentAndNames,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            policy: AddressPolicy::default(),
            hosts: HashMap::new(),
            name_servers: Vec::new(),
            extra_ca_pem: Vec::new(),
            max_response: 16 * 1024,
            response_bytes: 32 << 20,
            max_connections: 4096,
            max_requests_per_target: MAX_REQUESTS,
            idle_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(10),
            proxies: Proxies::None,
        }
    }
}

/// A configuration that reaches nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Extra certificates cannot be read.
    #[error("extra certificates: {0}")]
    Certificates(String),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(String),
}

/// A request, ready to go.
#[derive(Clone, Debug)]
pub struct OutRequest {
    /// Where to.
    pub target: Arc<Target>,
    /// The method.
    pub method: Method,
    /// Path and query, the target's own included.
    pub path_and_query: PathAndQuery,
    /// Headers but for host and length, which are set here.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// For everything together.
    pub deadline: Duration,
    /// Whether the body goes out compressed (gzip), if that makes it smaller.
    pub gzip: bool,
    /// Credentials that are made when it is sent.
    pub credentials: Option<Arc<Credentials>>,
    /// Whether the response's headers are wanted.
    pub wants_headers: bool,
    /// How many bytes of the response's body are read at least: for what its meaning depends on.
    pub reads: Option<usize>,
    /// What it is about; brokers and buckets are told.
    pub labels: Option<Labels>,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The status, if a complete head came.
    pub status: Option<u16>,
    /// The response's headers, if they were wanted and a complete head came; at most [`MAX_RESPONSE_HEAD`].
    pub answer_headers: Option<Box<HeaderMap>>,
    /// When the response asks for the next attempt.
    pub retry_after: Option<Timestamp>,
    /// The response's body up to the cap.
    pub response: Bytes,
    /// Whether the body was cut, by the cap, the deadline or the connection's end.
    pub response_cut: bool,
    /// How long all of it took.
    pub took: Duration,
    /// Whether the request went out a second time on a new connection, because a kept one turned out to be closed before anything was
    /// written, or the server said that it did nothing with it.
    pub resent: bool,
    /// Whether the destination answered 401 to a token that earlier requests had too. The next one gets a new one.
    pub token_ended: bool,
    /// What went wrong; nothing after a complete 2xx head.
    pub failure: Option<Failure>,
}

impl Sent {
    /// Whether nothing was sent, since no connection became free in time.
    pub fn found_no_connection(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.party == Party::Gateway && failure.code == Failure::NO_CAPACITY)
    }
}

/// The way out. Clones share connections.
#[derive(Clone)]
pub struct Egress {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) resolver: Resolver,
    pub(super) tls: Tls,
    pub(super) pool: Arc<Pool>,
    pub(super) brokers: Arc<Sessions>,
    pub(super) connect_timeout: Duration,
    pub(super) proxies: Option<Matcher>,
    /// Whether proxies of the environment are asked for names.
    pub(super) names_at_proxy: bool,
    pub(super) max_response: usize,
    pub(super) responses: Arc<Semaphore>,
    sweeping: AtomicBool,
    /// Turns to work out what proves a password to a broker: a server says how much work that is.
    pub(super) proofs: Room,
}

impl Egress {
    /// Reads certificates and the machine's resolver configuration; opens nothing yet.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        let limits = Limits {
            requests_per_key: config.max_requests_per_target.max(1),
            requests_per_tenant: (config.max_connections / 2).max(1),
            connections: config.max_connections.max(1),
            idle_timeout: config.idle_timeout,
        };
        let brokers = Arc::new(Sessions::new(config.idle_timeout));
        Ok(Self {
            inner: Arc::new(Inner {
                tls: Tls::new(&config.extra_ca_pem)?,
                resolver: Resolver::new(config.policy, config.hosts, &config.name_servers),
                pool: Arc::new(Pool::new(limits, Arc::clone(&brokers))),
                brokers,
                connect_timeout: config.connect_timeout,
                proxies: (config.proxies != Proxies::None).then(Matcher::from_env),
                names_at_proxy: config.proxies == Proxies::EnvironmentAndNames,
                max_response: config.max_response,
                responses: Arc::new(Semaphore::new(config.response_bytes.min(Semaphore::MAX_PERMITS))),
                sweeping: AtomicBool::new(false),
                proofs: Room::new(PROOFS_AT_ONCE, TENANT_PROOFS_AT_ONCE),
            }),
        })
    }

    /// What is kept of a response's body, in bytes.
    pub fn max_response(&self) -> usize {
        self.inner.max_response
    }

    /// Makes exactly one HTTP request, or publishes one message. Dropping the future closes its connection.
    pub async fn send(&self, request: OutRequest, clock: &Clock) -> Sent {
        let started = monotonic();
        self.inner.sweep_in_background();
        if matches!(request.target.speaks, Speaks::Broker(_)) {
            // On the heap: most requests are HTTP, and all would carry its room along.
            return Box::pin(broker::deliver(&self.inner, request, started)).await;
        }
        let deadline = request.deadline;
        let max_response = request.reads.unwrap_or_default().max(self.inner.max_response);
        let mut exchange = Exchange::new(&self.inner, request, clock, max_response);
        let fault = match tokio::time::timeout(deadline, exchange.run()).await {
            Ok(Ok(())) => None,
            Ok(Err(fault)) => Some(fault),
            Err(_) => Some(exchange.timed_out()),
        };
        exchange.into_sent(fault, started.elapsed())
    }
}

impl Inner {
    /// Closes idle connections for as long as anybody holds the pool.
    fn sweep_in_background(&self) {
        if self.sweeping.swap(true, Ordering::Relaxed) {
            return;
        }
        let (pool, brokers) = (Arc::downgrade(&self.pool), Arc::downgrade(&self.brokers));
        let every = (self.pool.idle_timeout() / 4).clamp(Duration::from_millis(10), Duration::from_secs(15));
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(every);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let (Some(pool), Some(brokers)) = (pool.upgrade(), brokers.upgrade()) else { return };
                pool.sweep(monotonic());
                brokers.sweep(monotonic());
            }
        });
    }
}

impl Stage {
    pub(super) fn timed_out(self) -> Fault {
        match self {
            Self::Token => Fault::TokenTimeout,
            Self::Admission => Fault::NoCapacity,
            Self::Resolve => Fault::DnsTimeout,
            Self::Connect => Fault::ConnectTimeout,
            Self::Tls => Fault::TlsTimeout,
            Self::Response => Fault::ResponseTimeout,
        }
    }
}

impl Exchange<'_> {
    fn into_sent(self, fault: Option<Fault>, took: Duration) -> Sent {
        let token_ended = self.token_ended();
        let Some(head) = self.head else {
            let failure = fault.as_ref().map(Fault::failure);
            return Sent {
                status: None,
                answer_headers: None,
                retry_after: None,
                response: Bytes::new(),
                response_cut: false,
                took,
                resent: self.resent,
                token_ended,
                failure,
            };
        };
        let wants_headers = self.request.wants_headers;
        let failure = if head.status.is_success() { None } else { Some(refusal(head.status.as_u16())) };
        Sent {
            status: Some(head.status.as_u16()),
            retry_after: super::retry_after::retry_after(&head.headers, self.clock.now()),
            answer_headers: wants_headers.then(|| Box::new(head.headers)),
            response: self.response.freeze(),
            response_cut: !self.response_complete,
            took,
            resent: self.resent,
            token_ended,
            failure,
        }
    }
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress").field("pool", &self.inner.pool).finish_non_exhaustive()
    }
}
