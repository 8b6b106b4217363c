//! `tidegate plugin push`: a component becomes a version of a plugin.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::source::Source;
use super::{Names, build};
use crate::cli::builtin;
use crate::cli::client::part;
use crate::cli::common::Common;

/// Pushes a component.
#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// The component, `builtin:NAME`, or a project that is built first
    #[arg(default_value = ".")]
    source: PathBuf,
    /// The plugin's name; it is made if there is none [default: the project's, or the built-in plugin's]
    #[arg(long)]
    name: Option<String>,
    /// Aliases that point to this version from now on
    #[arg(long, value_name = "ALIAS")]
    alias: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// Does it.
pub(super) async fn run(args: PushArgs) -> anyhow::Result<()> {
    let PushArgs { source, name, alias, common } = args;
    // Before anything is built: a key that is missing is told at once.
    let client = common.client()?;
    let name = match name {
        Some(name) => name,
        None => named(&source)?,
    };
    let component = build::component_at(&source, Names::AsBuilt).await?;
    let query = common.query();
    let path = format!("/v1/plugins/{}", part(&name));
    let uploaded = client.upload(&format!("{path}/versions"), &query, component).await;
    let version = uploaded.with_context(|| format!("{}: the plugin `{name}` has no new version", source.display()))?;
    let hash = shown(&version["hash"]);
    for alias in &alias {
        let moved = client.put(&format!("{path}/aliases/{}", part(alias)), &query, &json!({ "version": hash })).await;
        moved.with_context(|| format!("version {hash} is uploaded, but the alias `{alias}` was not moved to it"))?;
    }
    common.show(&version, |version| {
        let mut out = format!("{name}: version {hash} ({}, {} bytes)\n", shown(&version["kind"]), version["size"]);
        alias.iter().for_each(|alias| out.push_str(&format!("{name}: the alias `{alias}` is at this version\n")));
        out
    })
}

/// The project's name; a component's file could have any, so that one has to be said.
fn named(source: &std::path::Path) -> anyhow::Result<String> {
    if let Some(name) = builtin::name(source) {
        return Ok(name.to_owned());
    }
    match Source::at(source)? {
        Source::Wasm(file) => anyhow::bail!("{}: say the plugin's name with --name", file.display()),
        source => source.name(),
    }
}

fn shown(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
