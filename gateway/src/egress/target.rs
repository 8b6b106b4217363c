//! Where requests go: a destination's URL, checked once per destination revision. Pure.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use http::uri::{Authority, InvalidUri, PathAndQuery, Scheme};
use ring::digest;
use rustls::ClientConfig;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use url::{Host, Url};

use super::broker::Broker;
use super::objects::Objects;
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
    /// What is behind the URL.
    pub speaks: Speaks,
}

/// What is behind a target's URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Speaks {
    /// A receiver of HTTP requests.
    #[default]
    Http,
    /// A store of objects, by HTTP.
    Objects(Objects),
    /// A message broker; its schemes stand in the URL.
    Broker(Broker),
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
    /// Something other than what its kind has.
    #[error("the URL's scheme must be {0} or {1}")]
    Scheme(&'static str, &'static str),
    /// A broker's URL is an address and nothing more.
    #[error("the URL must not have a path or query: what is behind the address has fields of its own")]
    PathOfBroker,
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
    pub(super) speaks: Speaks,
    is_tls: bool,
    /// Made by the client at the first connection, when it has certificates of its own.
    pub(super) own_tls: OnceLock<Arc<ClientConfig>>,
}

/// Which connections may be used for a target: whose it is, and a hash over tenant, destination, revision, origin and TLS options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PoolKey {
    pub(super) tenant: TenantId,
    hash: u128,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TargetHost {
    Address(IpAddr),
    Name(String),
}

impl TargetHost {
    /// What its certificate has to be for.
    fn server_name(&self) -> Option<ServerName<'static>> {
        match self {
            Self::Address(address) => Some(ServerName::IpAddress((*address).into())),
            // A name may end in the root's dot, but a certificate's never does.
            Self::Name(name) => ServerName::try_from(name.trim_end_matches('.').to_owned()).ok(),
        }
    }
}

fn host_of(url: &Url) -> Option<TargetHost> {
    Some(match url.host()? {
        Host::Domain(name) => TargetHost::Name(name.to_owned()),
        Host::Ipv4(address) => TargetHost::Address(address.into()),
        Host::Ipv6(address) => TargetHost::Address(address.into()),
    })
}

impl Target {
    /// Checks the URL. A host that is an address, in whatever spelling, is judged here; a name when it has been resolved.
    pub fn new(config: &TargetConfig, policy: &AddressPolicy) -> Result<Self, TargetError> {
        let Parsed { url, scheme, is_tls, port } = parse(&config.url, &config.speaks)?;
        policy.check_port(port)?;
        let malformed = |problem: &str| TargetError::Malformed(problem.to_owned());
        let host = host_of(&url).ok_or_else(|| malformed("it has no host"))?;
        if let TargetHost::Address(address) = host {
            policy.check_place(SocketAddr::new(address, port))?;
        }
        let text = url.host_str().unwrap_or_default();
        let shows_port = url.port().is_some() || matches!(config.speaks, Speaks::Broker(_));
        let text = if shows_port { format!("{text}:{port}") } else { text.to_owned() };
        let server_name = host.server_name().ok_or_else(|| malformed("its host is no name"))?;
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
            speaks: config.speaks.clone(),
            is_tls,
            own_tls: OnceLock::new(),
        })
    }

    /// The same on another server of the broker, which the first one has named.
    pub(super) fn elsewhere(&self, host: &str, port: u16) -> Result<Self, TargetError> {
        let malformed = || TargetError::Malformed("its host is no name".to_owned());
        let host = if host.contains(':') { format!("[{}]", host.trim_matches(['[', ']'])) } else { host.to_owned() };
        let Parsed { url, .. } = parse(&format!("{}://{host}:{port}", self.scheme), &self.speaks)?;
        let host = host_of(&url).ok_or_else(malformed)?;
        let text = format!("{}:{port}", url.host_str().unwrap_or_default());
        Ok(Self {
            key: self.key,
            authority: text.parse().map_err(|_| malformed())?,
            host_header: HeaderValue::try_from(text).map_err(|_| malformed())?,
            scheme: self.scheme.clone(),
            server_name: host.server_name().ok_or_else(malformed)?,
            host,
            port,
            path: String::new(),
            query: None,
            append_path: false,
            append_query: false,
            http2: self.http2,
            extra_roots: self.extra_roots.clone(),
            client: self.client.clone(),
            proxy: None,
            speaks: self.speaks.clone(),
            is_tls: self.is_tls,
            own_tls: self.own_tls.clone(),
        })
    }

    /// Whether it has to be resolved.
    pub(super) fn is_named(&self) -> bool {
        matches!(self.host, TargetHost::Name(_))
    }

    /// Whether this is where it leads to.
    pub(super) fn is_at(&self, host: &str, port: u16) -> bool {
        let own = match &self.host {
            TargetHost::Address(address) => address.to_string(),
            TargetHost::Name(name) => name.clone(),
        };
        self.port == port && own.eq_ignore_ascii_case(host)
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
        self.is_tls
    }
}

/// A URL, read as one of HTTP's whatever its scheme: only of those are hosts read in all spellings of an address.
struct Parsed {
    url: Url,
    scheme: Scheme,
    is_tls: bool,
    port: u16,
}

fn parse(text: &str, speaks: &Speaks) -> Result<Parsed, TargetError> {
    if text.len() > MAX_URL {
        return Err(TargetError::TooLong);
    }
    let malformed = |error: url::ParseError| TargetError::Malformed(error.to_string());
    let Speaks::Broker(broker) = speaks else {
        let url = read(text, ("http", "https"))?;
        let is_tls = url.scheme() == "https";
        let scheme = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
        let port = url.port_or_known_default().unwrap_or_default();
        return Ok(Parsed { url, scheme, is_tls, port });
    };
    let [(plain, _), (over_tls, _)] = broker.protocol.schemes();
    let given = Url::parse(text).map_err(malformed)?;
    let found = broker.protocol.schemes().into_iter().enumerate().find(|(_, (scheme, _))| given.scheme() == *scheme);
    let (index, (scheme, default_port)) = found.ok_or(TargetError::Scheme(plain, over_tls))?;
    let rest = text.trim_ascii_start().get(scheme.len()..).unwrap_or_default();
    // Each of HTTP's schemes hides its own default port.
    let url = read(&format!("http{rest}"), ("http", "https"))?;
    let twin = read(&format!("https{rest}"), ("http", "https"))?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err(TargetError::PathOfBroker);
    }
    let port = url.port().or(twin.port()).unwrap_or(default_port);
    let scheme = Scheme::try_from(scheme).map_err(|error| TargetError::Malformed(error.to_string()))?;
    Ok(Parsed { url, scheme, is_tls: index == 1, port })
}

fn read(text: &str, schemes: (&'static str, &'static str)) -> Result<Url, TargetError> {
    let url = Url::parse(text).map_err(|error| TargetError::Malformed(error.to_string()))?;
    if url.scheme() != schemes.0 && url.scheme() != schemes.1 {
        return Err(TargetError::Scheme(schemes.0, schemes.1));
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
        Self { tenant: config.tenant, hash: u128::from_be_bytes(first) }
    }
}

#[cfg(test)]
mod tests;
