//! A client of the admin API, for the commands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::config::SecretRef;
use crate::secret::Secret;

/// The largest answer that is read.
const MAX_ANSWER: usize = 256 << 20;
/// From connect to the end of the answer; uploads are compiled meanwhile.
const TIMEOUT: Duration = Duration::from_secs(150);

/// Which gateway, and with which key.
#[derive(Debug, Args)]
pub(super) struct ApiArgs {
    /// The gateway's admin API
    #[arg(long, env = "TIDEGATE_URL", default_value = "http://127.0.0.1:8082", value_name = "URL")]
    url: String,
    /// The file of the API key; the variable TIDEGATE_KEY holds the key itself, and goes first
    #[arg(long, env = "TIDEGATE_KEY_FILE", default_value = "keys/operator.key", value_name = "FILE")]
    key_file: PathBuf,
}

/// Which tenant, for an operator's key.
#[derive(Debug, Args)]
pub(super) struct TenantArgs {
    /// The tenant's id or name; a tenant's key needs none
    #[arg(long, env = "TIDEGATE_TENANT", value_name = "TENANT")]
    pub(super) tenant: Option<String>,
}

impl TenantArgs {
    pub(super) fn query(&self) -> Vec<(&str, &str)> {
        self.tenant.as_deref().map(|tenant| ("tenant", tenant)).into_iter().collect()
    }
}

/// A client of one gateway.
#[derive(Debug)]
pub(super) struct Client {
    base: Uri,
    key: Secret,
}

impl Client {
    /// A client as the arguments say.
    pub(super) fn new(args: &ApiArgs) -> anyhow::Result<Self> {
        let base: Uri = args.url.parse().with_context(|| format!("`{}` is not a URL", args.url))?;
        if !matches!(base.scheme_str(), Some("http" | "https")) || base.host().is_none() {
            bail!("`{}` is not an http or https URL", args.url);
        }
        let here = PathBuf::new();
        let key = match SecretRef::Env("TIDEGATE_KEY".into()).resolve(&here) {
            Ok(key) => key,
            Err(_) => SecretRef::File(args.key_file.clone())
                .resolve(&here)
                .context("an API key is needed: set TIDEGATE_KEY, or name its file by --key-file")?,
        };
        Ok(Self { base, key })
    }

    /// GET.
    pub(super) async fn get(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.send(Method::GET, path, query, None).await
    }

    /// POST, with JSON or with nothing.
    pub(super) async fn post(&self, path: &str, query: &[(&str, &str)], body: Option<&Value>) -> anyhow::Result<Value> {
        let body = body.map(|body| ("application/json", Bytes::from(body.to_string())));
        self.send(Method::POST, path, query, body).await
    }

    /// PUT, with JSON.
    pub(super) async fn put(&self, path: &str, query: &[(&str, &str)], body: &Value) -> anyhow::Result<Value> {
        self.send(Method::PUT, path, query, Some(("application/json", Bytes::from(body.to_string())))).await
    }

    /// PATCH, with JSON.
    pub(super) async fn patch(&self, path: &str, query: &[(&str, &str)], body: &Value) -> anyhow::Result<Value> {
        self.send(Method::PATCH, path, query, Some(("application/json", Bytes::from(body.to_string())))).await
    }

    /// DELETE.
    pub(super) async fn delete(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.send(Method::DELETE, path, query, None).await
    }

    /// POST, with a component.
    pub(super) async fn upload(&self, path: &str, query: &[(&str, &str)], component: Bytes) -> anyhow::Result<Value> {
        self.send(Method::POST, path, query, Some(("application/wasm", component))).await
    }

    async fn send(&self, method: Method, path: &str, query: &[(&str, &str)], body: Option<(&str, Bytes)>) -> anyhow::Result<Value> {
        let answer = self.bytes(method, path, query, body).await?;
        if answer.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&answer)?) }
    }

    /// Any request, with a body and its type or with nothing; the answer as it is.
    pub(super) async fn bytes(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<(&str, Bytes)>,
    ) -> anyhow::Result<Bytes> {
        let target = target(&self.base, path, query);
        let authority = self.base.authority().context("the URL has no host")?;
        let mut request = Request::builder()
            .method(method)
            .uri(&target)
            .header(HOST, authority.as_str())
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, format!("Bearer {}", self.key.expose()));
        let body = body.map(|(content_type, body)| {
            request = std::mem::take(&mut request).header(CONTENT_TYPE, content_type);
            body
        });
        let request = request.body(Full::new(body.unwrap_or_default())).context("the request can't be made")?;
        let sent = tokio::time::timeout(TIMEOUT, self.exchange(request)).await;
        let (status, answer) = sent.with_context(|| format!("{} did not answer in time", self.base))??;
        if status.is_success() {
            return Ok(answer);
        }
        Err(Refused { status: status.as_u16(), problem: serde_json::from_slice(&answer).unwrap_or_default() }.into())
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(http::StatusCode, Bytes)> {
        let is_tls = self.base.scheme_str() == Some("https");
        let host = self.base.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.base.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.with_context(|| format!("no gateway answers at {}", self.base))?;
        if !is_tls {
            return talk(stream, request).await;
        }
        let name = rustls_pki_types::ServerName::try_from(host.to_owned()).context("the URL's host is not a name")?;
        let stream = TlsConnector::from(Arc::new(tls()?)).connect(name, stream).await.context("TLS")?;
        talk(stream, request).await
    }
}

/// What the API refused.
#[derive(Debug)]
pub(super) struct Refused {
    status: u16,
    problem: Value,
}

impl Refused {
    /// Whether what was asked for is not there.
    pub(super) fn is_missing(&self) -> bool {
        self.status == 404
    }

    /// Fields and what is wrong with each.
    pub(super) fn errors(&mut self) -> impl Iterator<Item = &mut Value> {
        self.problem.get_mut("errors").and_then(Value::as_array_mut).into_iter().flatten()
    }
}

impl std::error::Error for Refused {}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let errors = self.problem.get("errors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        match text(&self.problem, "detail") {
            _ if !errors.is_empty() => write!(f, "refused ({}, {})", self.status, text(&self.problem, "code"))?,
            detail if detail.is_empty() => write!(f, "refused with status {}", self.status)?,
            detail => write!(f, "{detail} ({})", self.status)?,
        }
        for error in errors {
            write!(f, "\n  {}: {}", text(error, "field"), text(error, "message"))?;
        }
        Ok(())
    }
}

fn target(base: &Uri, path: &str, query: &[(&str, &str)]) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let mut target = format!("{}{path}", base.path().trim_end_matches('/'));
    for (index, (name, value)) in query.iter().enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        target.push_str(&format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    }
    target
}

/// One part of a path.
pub(super) fn part(text: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
    utf8_percent_encode(text, PART).to_string()
}

#[allow(clippy::disallowed_methods)]
async fn talk<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<(http::StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    driver.abort();
    let body = body.map_err(|error| anyhow::anyhow!(error).context("the answer ended early or is too large"))?;
    Ok((status, body.to_bytes()))
}

fn tls() -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
