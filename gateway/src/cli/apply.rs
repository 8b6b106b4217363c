//! `tidegate apply`: brings tenants to what files declare.

mod file;

use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};

use super::builtin;
use super::client::{ApiArgs, Client, Refused};
use super::table::table;
use crate::config::read_bytes;
use crate::control::apply::ApplySpec;
use crate::event::VersionHash;

/// The largest component that is read.
const MAX_COMPONENT: u64 = 256 << 20;

/// Brings tenants to what files declare: all of it, or nothing.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// A TOML or JSON file, or a directory of them
    #[arg(short, long, value_name = "FILE|DIR")]
    file: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Delete what the declared tenants have and the files don't declare
    #[arg(long)]
    prune: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// Applies.
pub async fn run(args: ApplyArgs) -> anyhow::Result<()> {
    let mut spec = file::load(&args.file)?;
    let client = Client::new(&args.api)?;
    send_components(&client, &mut spec, args.dry_run).await?;
    let flag = |on: bool| if on { "true" } else { "false" };
    let query = [("dry_run", flag(args.dry_run)), ("prune", flag(args.prune))];
    // The secrets in it leave this process over the connection to the gateway alone.
    let body = serde_json::to_value(&spec)?;
    let answer = client.post("/v1/apply", &query, Some(&body)).await.map_err(|error| match error.downcast::<Refused>() {
        Ok(refused) => anyhow::Error::new(with_names(refused, &spec)),
        Err(error) => error,
    })?;
    print!("{}", if args.json { format!("{}\n", serde_json::to_string_pretty(&answer)?) } else { report(&answer) });
    Ok(())
}

/// Replaces components' paths by their hashes, and sends what the gateway needs to see.
async fn send_components(client: &Client, spec: &mut ApplySpec, dry_run: bool) -> anyhow::Result<()> {
    for tenant in &mut spec.tenants {
        for plugin in &mut tenant.plugins {
            let name = plugin.name.clone();
            for (_, component) in plugin.components() {
                let path = PathBuf::from(&*component);
                let context = || format!("plugin `{name}`: {}", path.display());
                let bytes = read_component(&path).with_context(context)?;
                let hash = VersionHash::of(&bytes).to_string();
                if !has_version(client, &tenant.name, &name, &hash).await? {
                    let query: &[(&str, &str)] = if dry_run { &[("dry_run", "true")] } else { &[] };
                    client.upload("/v1/components", query, bytes).await.with_context(context)?;
                }
                *component = hash;
            }
        }
    }
    Ok(())
}

fn read_component(path: &Path) -> anyhow::Result<Bytes> {
    match builtin::component(path)? {
        Some(component) => Ok(component),
        None => Ok(Bytes::from(read_bytes(path, MAX_COMPONENT)?)),
    }
}

async fn has_version(client: &Client, tenant: &str, plugin: &str, hash: &str) -> anyhow::Result<bool> {
    let path = format!("/v1/plugins/{}/versions/{hash}", super::client::part(plugin));
    match client.get(&path, &[("tenant", tenant)]).await {
        Ok(_) => Ok(true),
        Err(error) if error.downcast_ref::<Refused>().is_some_and(Refused::is_missing) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts names in place of the numbers in `tenants[0].sources[2].auth`.
fn with_names(mut refused: Refused, spec: &ApplySpec) -> Refused {
    let spec = json!(spec);
    for error in refused.errors() {
        let Some(field) = error["field"].as_str() else { continue };
        let mut value = &spec;
        let mut named = String::new();
        for part in field.split('.') {
            let (list, index) = part.strip_suffix(']').and_then(|part| part.split_once('[')).unwrap_or((part, ""));
            value = &value[list];
            if !named.is_empty() {
                named.push('.');
            }
            match index.parse::<usize>() {
                Ok(number) => {
                    value = &value[number];
                    let shown = value["name"].as_str().map_or_else(|| index.to_owned(), str::to_owned);
                    named.push_str(&format!("{list}[{shown}]"));
                }
                Err(_) => named.push_str(part),
            }
        }
        error["field"] = named.into();
    }
    refused
}

fn report(answer: &Value) -> String {
    let changes = answer["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |change: &Value, name: &str| change[name].as_str().unwrap_or_default().to_owned();
    let rows: Vec<Vec<String>> =
        changes.iter().map(|change| ["action", "kind", "tenant", "name"].map(|name| text(change, name)).to_vec()).collect();
    let changed = rows.iter().filter(|row| row[0] != "unchanged").count();
    let end = match (answer["dry_run"].as_bool(), changed) {
        (_, 0) => "nothing to change".to_owned(),
        (Some(true), _) => format!("{changed} to change; nothing was written"),
        _ => format!("{changed} changed"),
    };
    format!("{}{end}\n", table(&["ACTION", "KIND", "TENANT", "NAME"], &rows))
}
