//! Where requests go: a destination's URL, checked once per destination revision. Pure.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use http::uri::{Authority, InvalidUri, PathAndQuery, Scheme};
use ring::digest;
use rustls::ClientConfig;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use url::{Host, Url};

use super::policy::{AddressPolicy, Refusal};
use super::proxy::Proxy;
use crate::event::{DestinationId, Revision, TenantId};
use crate::secret::Secret;

/// What a target is made from.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// Whose destination it is. Connections are never shared between tenants.
    pub tenant: TenantId,
    /// The destination.
    pub destination: DestinationId,
    /// Its revision. Connections are never shared between revisions.
    pub revision: Revision,
    /// `http` or `https`, host, port, path and query; no user, no fragment.
    pub url: String,
    /// Whether a request's path is appended to the URL's. Without it every request goes to the URL's path.
    pub append_path: bool,
    /// Whether a request's query is appended to the URL's.
    pub append_query: bool,
    /// TLS.
    pub tls: TlsOptions,
}

/// How a destination is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// Certificates, in PEM, that are trusted for this destination besides the operator's and the system's.
    pub ca_pem: Option<String>,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
    /// How the gateway shows who it is, to destinations that ask.
    pub client: Option<ClientIdentity>,
}

/// A client's certificate (mutual TLS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate and those between it and the authority's, in PEM.
    pub certificate_pem: String,
    /// Its private key, in PEM.
    pub key_pem: Secret,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { ca_pem: None, http2: true, client: None }
    }
}

/// A URL that no requests can be sent to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not a URL.
    #[error("the URL is malformed: {0}")]
    Malformed(String),
    /// Longer than [`MAX_URL`].
    #[error("the URL is longer than {MAX_URL} bytes")]
    TooLong,
    /// Something other than `http` and `https`.
    #[error("the URL's scheme must be http or https")]
    Scheme,
    /// Credentials do not belong in a URL, which is shown and logged.
    #[error("the URL must not hold a user or password")]
    Userinfo,
    /// A fragment is never sent.
    #[error("the URL must not have a fragment")]
    Fragment,
    /// The host is an address that may not be dialled, or the port may not.
    #[error("the URL leads to {0}")]
    Refused(#[from] Refusal),
    /// Not a certificate.
    #[error("the certificates cannot be read: {0}")]
    Certificates(String),
    /// Not a certificate and its key.
    #[error("the client's certificate cannot be used: {0}")]
    Client(String),
}

/// Bytes of a destination's URL.
pub const MAX_URL: usize = 4096;
const MAX_CERTIFICATES: usize = 32;

/// A destination's URL, checked and taken apart.
#[derive(Debug)]
pub struct Target {
    pub(super) key: PoolKey,
    pub(super) scheme: Scheme,
    pub(super) host: TargetHost,
    pub(super) port: u16,
    pub(super) authority: Authority,
    pub(super) host_header: HeaderValue,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) append_path: bool,
    pub(super) append_query: bool,
    pub(super) http2: bool,
    pub(super) server_name: ServerName<'static>,
    pub(super) extra_roots: Vec<CertificateDer<'static>>,
    pub(super) client: Option<Arc<CertifiedKey>>,
    pub(super) proxy: Option<Proxy>,
    /// Made by the client at the first connection, when it has certificates of its own.
    pub(super) own_tls: OnceLock<Arc<ClientConfig>>,
}

/// Which connections may be used for a target: a hash over tenant, destination, revision, origin and TLS options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PoolKey(pub(super) u128);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TargetHost {
    Address(IpAddr),
    Name(String),
}

impl Target {
    /// Checks the URL. A host that is an address, in whatever spelling, is judged here; a name when it has been resolved.
    pub fn new(config: &TargetConfig, policy: &AddressPolicy) -> Result<Self, TargetError> {
        let url = parse(&config.url)?;
        let scheme = if url.scheme() == "https" { Scheme::HTTPS } else { Scheme::HTTP };
        let port = url.port_or_known_default().unwrap_or_default();
        policy.check_port(port)?;
        let malformed = |problem: &str| TargetError::Malformed(problem.to_owned());
        let host = match url.host().ok_or_else(|| malformed("it has no host"))? {
            Host::Domain(name) => TargetHost::Name(name.to_owned()),
            Host::Ipv4(address) => TargetHost::Address(address.into()),
            Host::Ipv6(address) => TargetHost::Address(address.into()),
        };
        if let TargetHost::Address(address) = host {
            policy.check(address)?;
        }
        let text = url.host_str().unwrap_or_default();
        let text = url.port().map_or_else(|| text.to_owned(), |port| format!("{text}:{port}"));
        let server_name = match &host {
            TargetHost::Address(address) => ServerName::IpAddress((*address).into()),
            // A name may end in the root's dot, but a certificate's never does.
            TargetHost::Name(name) => {
                ServerName::try_from(name.trim_end_matches('.').to_owned()).map_err(|_| malformed("its host is no name"))?
            }
        };
        Ok(Self {
            key: PoolKey::of(config, &scheme, &text),
            authority: text.parse().map_err(|_| malformed("its host or port cannot be used"))?,
            host_header: HeaderValue::try_from(text).map_err(|_| malformed("its host cannot be used"))?,
            scheme,
            host,
            port,
            path: url.path().to_owned(),
            query: url.query().filter(|query| !query.is_empty()).map(str::to_owned),
            append_path: config.append_path,
            append_query: config.append_query,
            http2: config.tls.http2,
            server_name,
            extra_roots: config.tls.ca_pem.as_deref().map_or(Ok(vec![]), certificates)?,
            client: config.tls.client.as_ref().map(certified).transpose()?,
            proxy: None,
            own_tls: OnceLock::new(),
        })
    }

    /// Reached through this proxy.
    pub fn with_proxy(self, proxy: Option<Proxy>) -> Self {
        Self { proxy, ..self }
    }

    /// `https://example.com:8443`: for spans and logs.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &str {
        self.scheme.as_str()
    }

    /// The host without its port.
    pub fn host(&self) -> &str {
        self.authority.host()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What a request of the gateway's own goes to.
    pub(super) fn path_and_query(&self) -> Result<PathAndQuery, InvalidUri> {
        let query = self.query.iter().flat_map(|query| ["?", query]);
        PathAndQuery::try_from(std::iter::once(self.path.as_str()).chain(query).collect::<String>())
    }

    /// `example.com:443`: host and port, whatever the scheme.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.authority.host(), self.port)
    }

    pub(super) fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }
}

fn parse(text: &str) -> Result<Url, TargetError> {
    if text.len() > MAX_URL {
        return Err(TargetError::TooLong);
    }
    let url = Url::parse(text).map_err(|error| TargetError::Malformed(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(TargetError::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(TargetError::Userinfo);
    }
    if url.fragment().is_some() {
        return Err(TargetError::Fragment);
    }
    Ok(url)
}

/// Reads certificates from PEM.
pub(super) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TargetError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).take(MAX_CERTIFICATES + 1).collect();
    let read = read.map_err(|error| TargetError::Certificates(error.to_string()))?;
    match read.len() {
        0 => Err(TargetError::Certificates("there are none".to_owned())),
        1..=MAX_CERTIFICATES => Ok(read),
        _ => Err(TargetError::Certificates(format!("there are more than {MAX_CERTIFICATES}"))),
    }
}

/// Reads a certificate and its key, and whether they belong together.
fn certified(identity: &ClientIdentity) -> Result<Arc<CertifiedKey>, TargetError> {
    let fault = |error: &dyn std::fmt::Display| TargetError::Client(error.to_string());
    let chain = certificates(&identity.certificate_pem).map_err(|error| fault(&error))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.expose().as_bytes())
        .map_err(|_| TargetError::Client("its key is not a private key in PEM".into()))?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map(Arc::new).map_err(|error| fault(&error))
}

impl PoolKey {
    fn of(config: &TargetConfig, scheme: &Scheme, authority: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&config.tenant.0.to_be_bytes());
        context.update(&config.destination.0.to_be_bytes());
        context.update(&config.revision.0.to_be_bytes());
        context.update(&[u8::from(config.tls.http2)]);
        for text in [scheme.as_str(), authority, config.tls.ca_pem.as_deref().unwrap_or_default()] {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        let mut first = [0; 16];
        first.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(u128::from_be_bytes(first))
    }
}

#[cfg(test)]
mod tests;
