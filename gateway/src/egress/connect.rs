//! New connections: TCP over the checked addresses, then TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::EgressError;
use super::fault::Fault;
use super::target::{Speaks, Target, certificates};

/// The next address is tried this long after the last one, if that has neither answered nor failed (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);

/// Connects to the first address that answers. The others are started a little later or as soon as one fails, and dropped when one is
/// there.
pub(super) async fn tcp(addresses: &[SocketAddr]) -> Result<TcpStream, Fault> {
    let stream = match addresses {
        [address] => TcpStream::connect(address).await?,
        _ => race(addresses).await?,
    };
    // Requests are written whole; waiting for more to send would only delay them.
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn race(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter().copied();
    let mut running = JoinSet::new();
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = waiting.next() {
            running.spawn(TcpStream::connect(address));
        }
        let ended = if waiting.len() == 0 {
            running.join_next().await
        } else {
            match tokio::time::timeout(STAGGER, running.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => last_error = error,
            Some(Err(_)) => {}
            None => return Err(last_error),
        }
    }
}

/// TLS settings that all targets share, and what those of others are made from.
pub(super) struct Tls {
    roots: RootCertStore,
    with_http2: Arc<ClientConfig>,
    without_http2: Arc<ClientConfig>,
}

impl Tls {
    /// Trusts the system's certificates and these.
    pub(super) fn new(extra_ca_pem: &[String]) -> Result<Self, EgressError> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        for error in &system.errors {
            tracing::warn!(%error, "a system certificate cannot be read");
        }
        let (added, _) = roots.add_parsable_certificates(system.certs);
        tracing::debug!(added, "system certificates loaded");
        for pem in extra_ca_pem {
            for certificate in certificates(pem).map_err(|error| EgressError::Certificates(error.to_string()))? {
                roots.add(certificate).map_err(|error| EgressError::Certificates(error.to_string()))?;
            }
        }
        Ok(Self {
            with_http2: config(roots.clone(), Protocols::Http2, None)?,
            without_http2: config(roots.clone(), Protocols::Http1, None)?,
            roots,
        })
    }

    /// Speaks TLS over a stream. Also returns whether HTTP/2 was agreed on.
    pub(super) async fn connect<T>(&self, target: &Target, stream: T) -> Result<(TlsStream<T>, bool), Fault>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config_for(target)?;
        let stream = TlsConnector::from(config).connect(target.server_name.clone(), stream).await.map_err(|error| {
            // A peer's own words may hold anything; rustls speaks of kinds only.
            let problem = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).map(ToString::to_string);
            Fault::TlsFailed(problem.unwrap_or_else(|| error.kind().to_string()))
        })?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        Ok((stream, http2))
    }

    fn config_for(&self, target: &Target) -> Result<Arc<ClientConfig>, Fault> {
        let is_http = !matches!(target.speaks, Speaks::Broker(_));
        if is_http && target.extra_roots.is_empty() && target.client.is_none() {
            return Ok(Arc::clone(if target.http2 { &self.with_http2 } else { &self.without_http2 }));
        }
        if let Some(config) = target.own_tls.get() {
            return Ok(Arc::clone(config));
        }
        // With settings of its own, and so with its own sessions: one that another certificate vouched for is never resumed.
        let made = self.own_config(target).map_err(|error| Fault::TlsFailed(error.to_string()))?;
        Ok(Arc::clone(target.own_tls.get_or_init(|| made)))
    }

    fn own_config(&self, target: &Target) -> Result<Arc<ClientConfig>, EgressError> {
        let mut roots = self.roots.clone();
        for certificate in &target.extra_roots {
            roots.add(certificate.clone()).map_err(|error| EgressError::Certificates(error.to_string()))?;
        }
        let protocols = match target.speaks {
            // Brokers agree on no protocol in TLS; some refuse those of HTTP.
            Speaks::Broker(_) => Protocols::None,
            _ if target.http2 => Protocols::Http2,
            _ => Protocols::Http1,
        };
        config(roots, protocols, target.client.clone())
    }
}

const H2: &[u8] = b"h2";

/// What is offered in the handshake to be spoken behind it.
enum Protocols {
    None,
    Http1,
    Http2,
}

fn config(roots: RootCertStore, protocols: Protocols, client: Option<Arc<CertifiedKey>>) -> Result<Arc<ClientConfig>, EgressError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| EgressError::Tls(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match client {
        Some(client) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(client))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = match protocols {
        Protocols::None => Vec::new(),
        Protocols::Http1 => vec![b"http/1.1".to_vec()],
        Protocols::Http2 => vec![H2.to_vec(), b"http/1.1".to_vec()],
    };
    Ok(Arc::new(config))
}
