//! `tidegate plugin table`: a plugin's table from outside.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use crate::cli::client::{ApiArgs, Client, TenantArgs, part};
use crate::cli::table::{rows, table, text};
use crate::config::read_bytes;
use crate::store::table::MAX_TABLE_VALUE;

/// Bytes, and lines, that go in one request of a load.
const CHUNK: usize = 1 << 20;
const CHUNK_LINES: usize = 10_000;

/// Works on a plugin's table.
#[derive(Debug, Args)]
pub(super) struct TableArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what an entry holds, as it is
    Get {
        /// The plugin's name or id
        plugin: String,
        /// The entry's key
        key: String,
        #[command(flatten)]
        common: Common,
    },
    /// Write an entry
    Set {
        /// The plugin's name or id
        plugin: String,
        /// The entry's key
        key: String,
        /// What it is to hold
        #[arg(required_unless_present = "file", conflicts_with = "file")]
        value: Option<String>,
        /// A file with what it is to hold
        #[arg(long)]
        file: Option<PathBuf>,
        /// How long it lives, like 1h; for good without it
        #[arg(long)]
        ttl: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Delete an entry
    Delete {
        /// The plugin's name or id
        plugin: String,
        /// The entry's key
        key: String,
        #[command(flatten)]
        common: Common,
    },
    /// List entries, in order of keys
    List {
        /// The plugin's name or id
        plugin: String,
        /// Only keys that start with this
        #[arg(long, default_value = "")]
        prefix: String,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
        limit: u16,
        /// Where the page starts: the `next` of the page before
        #[arg(long)]
        cursor: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Write many entries: each line {"key": "k", "value": "text or any JSON", "ttl": "1h"}, or base64 in place of value
    Load {
        /// The plugin's name or id
        plugin: String,
        /// A file of such lines
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    tenant: TenantArgs,
    #[command(flatten)]
    api: ApiArgs,
}

fn entry(plugin: &str, key: &str) -> String {
    format!("/v1/plugins/{}/table/{}", part(plugin), part(key))
}

/// Does what was asked for.
pub(super) async fn run(args: TableArgs) -> anyhow::Result<()> {
    match args.command {
        Command::Get { plugin, key, common } => {
            let client = Client::new(&common.api)?;
            let value = client.bytes(Method::GET, &entry(&plugin, &key), &common.tenant.query(), None).await?;
            std::io::stdout().write_all(&value)?;
        }
        Command::Set { plugin, key, value, file, ttl, common } => {
            let value = match (value, file) {
                (Some(value), _) => Bytes::from(value),
                (None, Some(file)) => read(&file, MAX_TABLE_VALUE as u64)?,
                (None, None) => bail!("a value is needed, or --file"),
            };
            let mut query = common.tenant.query();
            query.extend(ttl.as_deref().map(|ttl| ("ttl", ttl)));
            let body = Some(("application/octet-stream", value));
            Client::new(&common.api)?.bytes(Method::PUT, &entry(&plugin, &key), &query, body).await?;
        }
        Command::Delete { plugin, key, common } => {
            Client::new(&common.api)?.delete(&entry(&plugin, &key), &common.tenant.query()).await?;
        }
        Command::List { plugin, prefix, limit, cursor, json, common } => {
            let limit = limit.to_string();
            let mut query = common.tenant.query();
            query.extend([("limit", limit.as_str()), ("prefix", prefix.as_str())]);
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let answer = Client::new(&common.api)?.get(&format!("/v1/plugins/{}/table", part(&plugin)), &query).await?;
            let shown = if json { format!("{}\n", serde_json::to_string_pretty(&answer)?) } else { list(&answer) };
            print!("{shown}");
        }
        Command::Load { plugin, file, common } => load(&plugin, &file, &common).await?,
    }
    Ok(())
}

fn read(file: &Path, limit: u64) -> anyhow::Result<Bytes> {
    read_bytes(file, limit).map(Bytes::from).with_context(|| file.display().to_string())
}

/// The largest file of a load.
const MAX_LOAD: u64 = 256 << 20;

async fn load(plugin: &str, file: &Path, common: &Common) -> anyhow::Result<()> {
    let lines = read(file, MAX_LOAD)?;
    let client = Client::new(&common.api)?;
    let path = format!("/v1/plugins/{}/table", part(plugin));
    let (mut loaded, mut first) = (0, 1);
    for (chunk, count) in chunks(&lines) {
        let body = Some(("application/x-ndjson", chunk));
        let answer = client.bytes(Method::POST, &path, &common.tenant.query(), body).await;
        let answer = answer.with_context(|| format!("{loaded} entries were written, up to line {}", first - 1))?;
        let answer: Value = serde_json::from_slice(&answer)?;
        loaded += answer["loaded"].as_u64().unwrap_or_default();
        first += count;
    }
    println!("{plugin}: {loaded} entries written");
    Ok(())
}

/// Whole lines, as many as go in one request, with how many they are.
fn chunks(lines: &Bytes) -> impl Iterator<Item = (Bytes, usize)> {
    let mut rest = lines.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (mut end, mut count) = (0, 0);
        for line in rest.split_inclusive(|byte| *byte == b'\n') {
            if count == CHUNK_LINES || (count > 0 && end + line.len() > CHUNK) {
                break;
            }
            end += line.len();
            count += 1;
        }
        Some((rest.split_to(end), count))
    })
}

fn list(answer: &Value) -> String {
    let entries: Vec<Vec<String>> = rows(&answer["items"])
        .iter()
        .map(|entry| {
            let value = if entry["base64"].is_string() { "(bytes)".to_owned() } else { text(&entry["value"]) };
            let value = if value.chars().count() > 60 { value.chars().take(57).chain("...".chars()).collect() } else { value };
            vec![text(&entry["key"]), text(&entry["size"]), text(&entry["expires_at"]), value]
        })
        .collect();
    let mut out = table(&["KEY", "SIZE", "EXPIRES", "VALUE"], &entries);
    if let Some(next) = answer["next"].as_str() {
        out.push_str(&format!("more: --cursor '{next}'\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_cut_between_lines() {
        let line = format!("{}\n", "x".repeat(300_000));
        let all = Bytes::from(format!("{}last", line.repeat(7)));
        let cut: Vec<_> = chunks(&all).collect();
        assert_eq!(cut.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [3, 3, 2]);
        assert_eq!(cut.iter().flat_map(|(chunk, _)| chunk.to_vec()).collect::<Vec<u8>>(), all);
        let many = Bytes::from("\n".repeat(2 * CHUNK_LINES + 1));
        assert_eq!(chunks(&many).map(|(_, count)| count).collect::<Vec<_>>(), [CHUNK_LINES, CHUNK_LINES, 1]);
        let long = Bytes::from("x".repeat(3 * CHUNK));
        assert_eq!(chunks(&long).count(), 1, "one line is never cut");
    }
}
