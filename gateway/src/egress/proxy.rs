//! Ways through a proxy: tunnels that it is asked for by `CONNECT` (RFC 9110, section 9.3.6), for `http`, `https` and brokers alike.
//!
//! The proxy is asked for an address that the policy has checked, so that a name cannot lead elsewhere behind it, unless the operator leaves
//! names to the proxy because the gateway cannot resolve them. The operator's own proxies may be anywhere; a tenant's only where its
//! destinations may be.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Request, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::{Upgraded, on};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::client::Inner;
use super::client::exchange::Stage;
use super::connect;
use super::fault::Fault;
use super::policy::AddressPolicy;
use super::pool::Driver;
use super::target::{Speaks, Target, TargetConfig, TargetError, TlsOptions};
use crate::event::{DestinationId, Revision, TenantId};
use crate::secret::Secret;

/// Bytes of a proxy's answer.
const MAX_HEAD: usize = 8 * 1024;

/// A proxy.
#[derive(Debug)]
pub struct Proxy {
    target: Box<Target>,
    /// Whether it may be anywhere.
    is_operators: bool,
    authorization: Option<HeaderValue>,
}

/// Credentials for a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUser {
    /// The name; no colon in it.
    pub username: String,
    /// The password.
    pub password: Secret,
}

impl Proxy {
    /// A destination's own proxy. `config` has its URL: `http://proxy.example.com:3128`.
    pub fn new(config: &TargetConfig, user: Option<&ProxyUser>, policy: &AddressPolicy) -> Result<Self, TargetError> {
        let authorization = user.map(|ProxyUser { username, password }| {
            let pair = STANDARD.encode(format!("{username}:{}", password.expose()));
            sensitive(HeaderValue::try_from(format!("Basic {pair}")).expect("base64"))
        });
        Ok(Self { target: Box::new(Target::new(config, policy)?), is_operators: false, authorization })
    }

    /// The operator's proxy for a target, if `HTTPS_PROXY` and its like name one and are to be followed. Brokers have the one for HTTPS.
    pub(super) fn of_environment(inner: &Inner, target: &Target) -> Result<Option<Self>, Fault> {
        let Some(environment) = &inner.proxies else { return Ok(None) };
        let origin = match target.speaks {
            Speaks::Broker(_) => format!("https://{}", target.place()),
            Speaks::Http | Speaks::Objects(_) => target.origin(),
        };
        let uri: Uri = origin.parse().map_err(|_| failed("the destination's origin is no URI"))?;
        let Some(found) = environment.intercept(&uri) else { return Ok(None) };
        let config = TargetConfig {
            tenant: TenantId(0),
            destination: DestinationId(0),
            revision: Revision(0),
            url: format!("{}://{}", found.uri().scheme_str().unwrap_or("http"), found.uri().authority().map_or("", |a| a.as_str())),
            append_path: false,
            append_query: false,
            tls: TlsOptions { http2: false, ..TlsOptions::default() },
            speaks: Speaks::Http,
        };
        let target = Target::new(&config, &AddressPolicy::open()).map_err(|error| failed(format!("its URL: {error}")))?;
        Ok(Some(Self { target: Box::new(target), is_operators: true, authorization: found.basic_auth().cloned().map(sensitive) }))
    }

    /// A tunnel to one of the target's addresses.
    pub(super) async fn lead(&self, inner: &Inner, target: &Target, stage: &mut Stage) -> Result<TokioIo<Upgraded>, Fault> {
        // A destination that is an address has no name to be left to the proxy.
        let places: Vec<String> = if inner.names_at_proxy && self.is_operators && target.is_named() {
            vec![target.place()]
        } else {
            inner.resolver.resolve(target).await?.iter().map(ToString::to_string).collect()
        };
        let found = if self.is_operators {
            inner.resolver.resolve_by(&self.target, &AddressPolicy::open()).await
        } else {
            inner.resolver.resolve(&self.target).await
        };
        let unreachable = |fault: Fault| failed(fault.to_string());
        let addresses = found.map_err(unreachable)?;
        *stage = Stage::Connect;
        let mut fault = None;
        for place in places {
            let stream = connect::tcp(&addresses).await.map_err(unreachable)?;
            let tunnel = if self.target.is_tls() {
                let (stream, _) = inner.tls.connect(&self.target, stream).await.map_err(unreachable)?;
                self.tunnel(stream, &place).await
            } else {
                self.tunnel(stream, &place).await
            };
            match tunnel {
                Ok(tunnel) => return Ok(tunnel),
                Err(error) => fault = Some(error),
            }
        }
        Err(fault.unwrap_or_else(|| failed("the destination has no address")))
    }

    /// Asks for a tunnel to `place`, an address or name with its port, on a connection to the proxy.
    async fn tunnel<T>(&self, stream: T, place: &str) -> Result<TokioIo<Upgraded>, Fault>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: hyper::Error| failed(format!("it gave no answer: {error}"));
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends when it hands the connection over.
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a proxy ended");
            }
        });
        let _driver = Driver::new([driver.abort_handle()]);
        let mut request = Request::connect(place).header(HOST, place);
        if let Some(authorization) = &self.authorization {
            request = request.header(PROXY_AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|_| failed("the destination's origin cannot be asked for"))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        if !response.status().is_success() {
            return Err(failed(format!("it answered {}", response.status().as_u16())));
        }
        on(response).await.map(TokioIo::new).map_err(broken)
    }
}

fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

fn failed(problem: impl Into<String>) -> Fault {
    Fault::ProxyFailed(problem.into())
}
