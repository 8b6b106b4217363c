//! `tidegate dev`: everything on this machine, with a sample to look at. A real GitHub payload goes the whole way: signed, verified,
//! kept, filtered, reshaped by a plugin, delivered.

pub mod faults;
mod receiver;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use ring::hmac;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::serve::told_to_stop;
use crate::app::{App, Role};
use crate::config::{Config, LogFormat, SecretRef, Store};
use crate::control::apply::{ApplySpec, Mode};
use crate::control::model::Who;
use crate::control::seal;
use crate::control::service::Access;
use crate::telemetry;
use receiver::Delivered;

/// GitHub's own example; see `tests/fixtures/github/SOURCE.md`.
const PUSH: &[u8] = include_bytes!("../../tests/fixtures/github/push.json");
const PLUGIN: &[u8] = include_bytes!("../../../plugins/prebuilt/github-push-to-chat.wasm");
/// What the sample source and the sample sender share. For development only, like the whole command.
const WEBHOOK_SECRET: &str = "tidegate-dev";
const SIGNING_SECRET: &str = "whsec_dGlkZWdhdGUgZGV2ZWxvcG1lbnQgc2VjcmV0";
/// How long the sample may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);
const MAX_ANSWER: usize = 64 << 10;
/// Deliveries that may wait to be shown.
const SHOWN: usize = 256;

/// Runs a gateway for trying things out.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub struct DevArgs {
    /// Where webhooks are taken
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    ingest: SocketAddr,
    /// Where the admin API listens
    #[arg(long, default_value = "127.0.0.1:8082", value_name = "ADDRESS")]
    admin: SocketAddr,
    /// Where the built-in receiver listens
    #[arg(long, default_value = "127.0.0.1:8090", value_name = "ADDRESS")]
    receiver: SocketAddr,
    /// Keep data here [default: a temporary directory that goes at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Stop once the sample has been delivered
    #[arg(long)]
    once: bool,
}

fn help() -> String {
    format!("The receiver does wrong what the path of a destination asks for; what the gateway makes of it:\n{}", faults::list())
}

/// Runs until it is told to stop.
pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    let directory = Directory::make(args.data.clone())?;
    let mut config = Config {
        store: Store::Embedded(crate::config::Embedded { path: directory.0.join("data"), ..Default::default() }),
        ..Config::default()
    };
    config.ingest.listen = args.ingest;
    config.admin.listen = args.admin;
    config.plugins.cache = directory.0.join("artifacts");
    config.egress.allow = vec!["127.0.0.0/8".parse()?];
    config.telemetry.log = LogFormat::Pretty;
    config.telemetry.level = "warn".to_owned();
    config.telemetry.sample_ratio = 1.0;
    config.dispatch.shards = 1;
    config.shutdown.deadline = Duration::from_secs(5);
    let operator = keys(&directory.0, &mut config)?;
    telemetry::init_logs(&config.telemetry)?;

    // Before the first listener: whoever sees it ready may tell it to stop.
    let stop = told_to_stop()?;
    let listener = TcpListener::bind(args.receiver).await.with_context(|| format!("--receiver {}", args.receiver))?;
    let receiver = listener.local_addr()?;
    let (sender, deliveries) = mpsc::channel(SHOWN);
    let receiving = tokio::spawn(receiver::run(listener, sender));

    let app = App::start(config, &directory.0, Role::All).await?;
    let ingest = app.ingest_address().context("ingest is not listening")?;
    let source = set_up(&app, receiver).await?;
    let url = format!("http://{ingest}/in/{source}");
    introduce(&url, app.admin_address(), receiver);

    let show = show(&url, deliveries, args.once, Try { admin: app.admin_address(), operator, directory: &directory.0 });
    let running = app.run(async {
        tokio::select! {
            () = stop => {}
            outcome = show => if let Err(error) = outcome { say(&format!("error: {error:#}")) },
        }
    });
    let outcome = running.await;
    receiving.abort();
    Ok(outcome?)
}

/// Data's place; a temporary one is removed at the end.
struct Directory(PathBuf, bool);

impl Directory {
    fn make(asked: Option<PathBuf>) -> anyhow::Result<Self> {
        let (path, temporary) = match asked {
            Some(path) => (path, false),
            None => (std::env::temp_dir().join(format!("tidegate-dev-{:016x}", rand::random::<u64>())), true),
        };
        std::fs::create_dir_all(path.join("keys")).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path, temporary))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.1 {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Makes the keys unless they are there; returns the operator's.
fn keys(directory: &Path, config: &mut Config) -> anyhow::Result<PathBuf> {
    let (encryption, operator) = (directory.join("keys/encryption.key"), directory.join("keys/operator.key"));
    for path in [&encryption, &operator] {
        if !path.exists() {
            let key = if path == &operator { super::init::operator_key()?.text } else { seal::generate_key()? };
            super::files::write_private(path, key.expose().as_bytes()).with_context(|| format!("write {}", path.display()))?;
        }
    }
    config.keys.encryption = SecretRef::File(encryption);
    config.keys.operator = SecretRef::File(operator.clone());
    Ok(operator)
}

/// Declares the sample: a source that takes GitHub's webhooks, a plugin, the built-in receiver, and a connection between them.
async fn set_up(app: &App, receiver: SocketAddr) -> anyhow::Result<crate::event::SourceId> {
    let control = app.control();
    let version = control.keep(Bytes::from_static(PLUGIN)).await?;
    let spec: ApplySpec = serde_json::from_value(json!({"tenants": [{
        "name": "dev",
        "plugins": [{"name": "github-push-to-chat", "component": version.hash, "aliases": ["live"]}],
        "sources": [{
            "name": "github",
            "auth": {"type": "preset", "name": "github", "secrets": [WEBHOOK_SECRET]},
            "dedup": {"header": "x-github-delivery", "window": "1h"},
        }],
        "destinations": [{
            "name": "receiver",
            "url": format!("http://{receiver}/chat"),
            "signing": {"secrets": [SIGNING_SECRET]},
        }],
        "connections": [{
            "name": "pushes-to-chat",
            "source": "github",
            "destination": "receiver",
            "filter": {"headers": {"x-github-event": "push"}, "body": {"repository": {"private": {"$exist": true}}}},
            "plugins": [{"plugin": "github-push-to-chat", "version": "live", "config": {"channel": "#deploys", "format": "markdown"}}],
        }],
    }]}))?;
    control.apply(Access::Operator, &Who::Operator, &spec, Mode { dry_run: false, prune: false }).await?;
    let state = control.state();
    let source = state.find_tenant("dev").and_then(|tenant| tenant.sources.named("github").map(|source| source.id));
    source.context("the sample source is not there")
}

/// What the closing hints name.
struct Try<'a> {
    admin: SocketAddr,
    operator: PathBuf,
    directory: &'a Path,
}

/// Sends the sample, then shows deliveries as they come.
async fn show(url: &str, mut deliveries: mpsc::Receiver<Delivered>, once: bool, hints: Try<'_>) -> anyhow::Result<()> {
    say("1. A push to a repository, as GitHub sends and signs it, is posted to the source:\n");
    let answer = send_sample(url).await?;
    say(&format!("   202 {answer}\n\n   Kept on disk before it was answered.\n"));
    let first = tokio::time::timeout(ARRIVAL, deliveries.recv()).await;
    let Ok(Some(first)) = first else { bail!("the sample was not delivered within {} s", ARRIVAL.as_secs()) };
    say("2. The connection's filter took it, the plugin made a chat message of it, and it was delivered:\n");
    say(&describe(&first));
    if once {
        return Ok(());
    }
    suggest(url, &hints);
    while let Some(delivered) = deliveries.recv().await {
        say(&describe(&delivered));
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "the body is limited")]
async fn send_sample(url: &str) -> anyhow::Result<String> {
    let uri: http::Uri = url.parse()?;
    let authority = uri.authority().context("the source's URL has an authority")?.to_string();
    let stream = TcpStream::connect(&authority).await?;
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post(uri.path())
        .header("host", authority)
        .header("content-type", "application/json")
        .header("user-agent", "GitHub-Hookshot/sample")
        .header("x-github-event", "push")
        .header("x-github-delivery", format!("{:032x}", rand::random::<u128>()))
        .header("x-hub-signature-256", signature(PUSH))
        .body(Full::new(Bytes::from_static(PUSH)))?;
    let response = client.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
    drop(client);
    connection.abort();
    let text = String::from_utf8_lossy(&body).into_owned();
    if status != http::StatusCode::ACCEPTED {
        bail!("the sample was answered with {status}: {text}");
    }
    Ok(text)
}

/// GitHub's `X-Hub-Signature-256`.
fn signature(body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, WEBHOOK_SECRET.as_bytes());
    format!("sha256={}", hex::encode(hmac::sign(&key, body)))
}

fn describe(delivered: &Delivered) -> String {
    let body = match serde_json::from_slice::<serde_json::Value>(&delivered.body) {
        Ok(json) => serde_json::to_string_pretty(&json).unwrap_or_default(),
        Err(_) => String::from_utf8_lossy(&delivered.body).into_owned(),
    };
    let mut text = format!("   {} {}\n", delivered.method, delivered.path);
    for name in ["content-type", "webhook-id", "webhook-timestamp", "webhook-signature", "traceparent"] {
        if let Some(value) = delivered.header(name) {
            text.push_str(&format!("   {name}: {value}\n"));
        }
    }
    text.push('\n');
    for line in body.lines() {
        text.push_str(&format!("   {line}\n"));
    }
    text
}

fn introduce(url: &str, admin: SocketAddr, receiver: SocketAddr) {
    say(&format!(
        "\ntidegate {}, for development: embedded store, one node\n\n   webhooks   {url}\n   admin API  http://{admin} (/openapi.json, /metrics)\n   receiver   http://{receiver} (/fault lists what it can do wrong)\n",
        env!("CARGO_PKG_VERSION")
    ));
}

fn suggest(url: &str, hints: &Try<'_>) {
    let Try { admin, operator, directory } = hints;
    let program = std::env::args().next().unwrap_or_else(|| "tidegate".to_owned());
    say(&format!(
        "3. Now you. Send your own (the signature is `sha256=` and the HMAC-SHA256 of the body under `{WEBHOOK_SECRET}`):\n
   body='{{\"ref\":\"refs/heads/main\",\"commits\":[{{\"id\":\"0123456789\",\"message\":\"Fix it\",\"author\":{{\"name\":\"Ada\"}}}}],\"pusher\":{{\"name\":\"ada\"}},\"repository\":{{\"full_name\":\"me/repo\",\"private\":false}}}}'
   curl {url} -H 'content-type: application/json' -H 'x-github-event: push' \\
     -H \"x-hub-signature-256: sha256=$(printf %s \"$body\" | openssl dgst -sha256 -hmac {WEBHOOK_SECRET} | sed 's/.* //')\" -d \"$body\"

   Look at what happened to them:

   {program} events list --tenant dev --url http://{admin} --key-file {}

   Data is in {}. Ctrl-C stops. Deliveries show up below as they come.\n",
        operator.display(),
        directory.display(),
    ));
}

/// Prints for the person at the terminal; one that went away doesn't matter.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
