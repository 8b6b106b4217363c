//! `tidegate plugin try`, `alias`, `canary`, `shadow`, `promote`, `rollback`: a plugin's versions on a gateway.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::part;
use super::common::Common;
use super::plugin_replay;
use super::table::{rows, table, text};
use crate::config::{read_bytes, read_text};

/// The largest file that is sent to be tried.
const MAX_FILE: u64 = 16 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a version on one event and show what it makes of it; nothing is delivered
    Try(TryArgs),
    /// Show an alias, or point it at a version
    Alias {
        #[command(flatten)]
        at: At,
        /// A version's hash, or another alias
        #[arg(long, value_name = "VERSION")]
        to: Option<String>,
    },
    /// Have a version take a share of an alias' events
    Canary {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        portion: Portion,
    },
    /// Run a version along with an alias' events and compare what they give; without --version, show what it gave
    Shadow {
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        portion: Portion,
    },
    /// Show what would change for past events with another version; nothing is delivered
    Replay(plugin_replay::ReplayArgs),
    /// Point an alias at its canary
    Promote(At),
    /// End an alias' canary; without one, point it where it pointed before
    Rollback(At),
}

#[derive(Debug, Args)]
pub(super) struct TryArgs {
    /// The plugin
    name: String,
    /// A version's hash, or an alias
    #[arg(long, default_value = "latest")]
    version: String,
    #[command(flatten)]
    input: Input,
    /// With the configuration, secrets and limits that this connection gives it
    #[arg(long, value_name = "CONNECTION", conflicts_with = "config")]
    connection: Option<String>,
    /// Its configuration, as JSON
    #[arg(long, value_name = "JSON")]
    config: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// What a version is tried on.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// A stored event's id
    #[arg(long)]
    event: Option<String>,
    /// A file with a request as JSON: method, path, query, headers, body
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// A file that is the body of a POST request
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
}

/// Which alias of which plugin.
#[derive(Debug, Args)]
pub(super) struct At {
    /// The plugin
    name: String,
    /// The alias
    #[arg(long)]
    alias: String,
    #[command(flatten)]
    common: Common,
}

/// A version with its share.
#[derive(Debug, Args)]
pub(super) struct Portion {
    /// A version's hash, or another alias
    #[arg(long, requires = "percent")]
    version: Option<String>,
    /// Of all events, in steps of 0.01
    #[arg(long, requires = "version")]
    percent: Option<f64>,
    /// End it
    #[arg(long, conflicts_with_all = ["version", "percent"])]
    end: bool,
}

impl At {
    fn path(&self) -> String {
        format!("/v1/plugins/{}/aliases/{}", part(&self.name), part(&self.alias))
    }

    async fn patch(&self, change: &Value) -> anyhow::Result<()> {
        let answer = self.common.client()?.patch(&self.path(), &self.common.query(), change).await?;
        self.common.show(&answer, alias)
    }

    async fn post(&self, what: &str) -> anyhow::Result<()> {
        let path = format!("{}/{what}", self.path());
        let answer = self.common.client()?.post(&path, &self.common.query(), None).await?;
        self.common.show(&answer, alias)
    }
}

impl Portion {
    fn is_empty(&self) -> bool {
        self.version.is_none() && !self.end
    }

    fn change(&self) -> Value {
        match (&self.version, self.percent) {
            (Some(version), Some(percent)) => json!({"version": version, "percent": percent}),
            _ => Value::Null,
        }
    }
}

/// Does what was asked for.
pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Try(args) => attempt(args).await,
        Command::Alias { at, to: Some(version) } => at.patch(&json!({ "version": version })).await,
        Command::Alias { at, to: None } => {
            let answer = at.common.client()?.get(&at.path(), &at.common.query()).await?;
            at.common.show(&answer, alias)
        }
        Command::Canary { portion, .. } if portion.is_empty() => bail!("give --version and --percent, or --end"),
        Command::Canary { at, portion } => at.patch(&json!({ "canary": portion.change() })).await,
        Command::Shadow { at, portion } if portion.is_empty() => {
            let answer = at.common.client()?.get(&format!("{}/shadow", at.path()), &at.common.query()).await?;
            at.common.show(&answer, shadow)
        }
        Command::Shadow { at, portion } => at.patch(&json!({ "shadow": portion.change() })).await,
        Command::Replay(args) => plugin_replay::run(args).await,
        Command::Promote(at) => at.post("promote").await,
        Command::Rollback(at) => at.post("rollback").await,
    }
}

async fn attempt(args: TryArgs) -> anyhow::Result<()> {
    let TryArgs { name, version, input, connection, config, common } = args;
    let mut spec = json!({});
    match (&input.event, &input.request, &input.body) {
        (Some(event), ..) => spec["event"] = json!(event),
        (_, Some(file), _) => spec["request"] = request(file)?,
        (.., Some(file)) => {
            let body = read_bytes(file, MAX_FILE).with_context(|| file.display().to_string())?;
            spec["request"] = json!({"body_base64": STANDARD.encode(body)});
        }
        _ => bail!("one of --event, --request and --body is needed"),
    }
    if let Some(connection) = connection {
        spec["connection"] = json!(connection);
    }
    if let Some(config) = config {
        spec["config"] = serde_json::from_str(&config).context("--config is not JSON")?;
    }
    let path = format!("/v1/plugins/{}/versions/{}/try", part(&name), part(&version));
    let answer = common.client()?.post(&path, &common.query(), Some(&spec)).await?;
    common.show(&answer, tried)?;
    if answer["outcome"] == "failed" {
        bail!("the plugin failed: {}", text(&answer["failure"]["code"]));
    }
    Ok(())
}

fn request(file: &Path) -> anyhow::Result<Value> {
    let text = read_text(file, MAX_FILE).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))
}

fn tried(answer: &Value) -> String {
    let short: String = text(&answer["version"]).chars().take(12).collect();
    let mut out = format!("version   {short} ({})\noutcome   {}\n", text(&answer["kind"]), text(&answer["outcome"]));
    let failure = &answer["failure"];
    if failure.is_object() {
        out.push_str(&format!("failure   {}: {}\n", text(&failure["code"]), text(&failure["detail"])));
    }
    for frame in rows(&answer["backtrace"]) {
        out.push_str(&format!("  at {} (offset {:#x})\n", text(&frame["function"]), frame["offset"].as_u64().unwrap_or_default()));
    }
    for (number, output) in rows(&answer["outputs"]).iter().enumerate() {
        let query = output["query"].as_str().map(|query| format!("?{query}")).unwrap_or_default();
        let path = output["path"].as_str().unwrap_or_default();
        let line = Value::from(format!("{} {path}{query}", output["method"].as_str().unwrap_or_default()));
        out.push_str(&format!("output {number}  {} ({} bytes)\n", text(&line), output["size"]));
        for header in rows(&output["headers"]) {
            out.push_str(&format!("  {}: {}\n", text(&header["name"]), text(&header["value"])));
        }
        let body = [&output["body"], &output["body_base64"]].into_iter().find(|body| body.is_string()).map(text);
        out.push_str(&format!("  {}\n", body.unwrap_or_default()));
    }
    for line in rows(&answer["logs"]) {
        out.push_str(&format!("log       {}\n", text(line)));
    }
    let took = answer["took_us"].as_u64().unwrap_or_default() as f64 / 1000.0;
    out.push_str(&format!("used      {} fuel, {} bytes of memory, {took:.1} ms\n", answer["fuel"], answer["memory"]));
    out
}

fn shadow(answer: &Value) -> String {
    let (version, since) = (text(&answer["version"]), text(&answer["since"]));
    let mut out = format!("{version}  {} % since {since}\n", answer["percent"]);
    let counts = ["runs", "same", "formatting", "different", "failed", "dropped"];
    out.push_str(&table(
        &["RUNS", "SAME", "FORMATTING", "DIFFERENT", "FAILED", "DROPPED"],
        &[counts.map(|name| text(&answer[name])).to_vec()],
    ));
    let places = |event: &Value| {
        let differences = rows(&event["differences"]).iter().map(|one| {
            let at = one["at"].as_str().map(|at| format!(" {at}")).unwrap_or_default();
            format!("{}{at}", one["part"].as_str().unwrap_or_default())
        });
        text(&Value::from(differences.collect::<Vec<_>>().join(", ")))
    };
    let last: Vec<Vec<String>> = rows(&answer["last"])
        .iter()
        .map(|event| {
            let mut row = ["event", "at", "live_failure", "shadow_failure"].map(|name| text(&event[name])).to_vec();
            row.push(places(event));
            row
        })
        .collect();
    if !last.is_empty() {
        out.push_str(&table(&["EVENT", "AT", "LIVE", "SHADOW", "DIFFERS IN"], &last));
    }
    out
}

fn alias(answer: &Value) -> String {
    let mut out = format!("{}  {}\n", text(&answer["alias"]), text(&answer["version"]));
    for part in ["canary", "shadow"] {
        let portion = &answer[part];
        if portion.is_object() {
            let (version, since) = (text(&portion["version"]), text(&portion["since"]));
            out.push_str(&format!("  {part}  {version}  {} % since {since}\n", portion["percent"]));
        }
    }
    let past: Vec<Vec<String>> =
        rows(&answer["past"]).iter().map(|past| ["version", "until", "by"].map(|name| text(&past[name])).to_vec()).collect();
    if !past.is_empty() {
        out.push_str(&table(&["BEFORE", "UNTIL", "BY"], &past));
    }
    out
}
