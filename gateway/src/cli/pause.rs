//! `tidegate pause` and `tidegate resume`: what goes over a connection or to a destination waits, and goes on.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::client::{ApiArgs, Client, TenantArgs, part};

/// What is paused or resumed.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Which kind
    kind: Kind,
    /// Its id or name
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tenant: TenantArgs,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Connection,
    Destination,
}

/// Has it wait, or go on.
pub async fn run(args: PauseArgs, paused: bool) -> anyhow::Result<()> {
    let PauseArgs { kind, name, json, tenant, api } = args;
    let (path, patch) = match kind {
        Kind::Connection => ("/v1/connections", json!({ "paused": paused })),
        Kind::Destination => ("/v1/destinations", json!({ "enabled": !paused })),
    };
    let query: Vec<_> = tenant.tenant.as_deref().map(|tenant| ("tenant", tenant)).into_iter().collect();
    let answer = Client::new(&api)?.patch(&format!("{path}/{}", part(&name)), &query, &patch).await?;
    print!("{}", shown(&answer, json, paused)?);
    Ok(())
}

fn shown(answer: &Value, json: bool, paused: bool) -> anyhow::Result<String> {
    if json {
        return Ok(format!("{}\n", serde_json::to_string_pretty(answer)?));
    }
    let done = if paused { "paused" } else { "goes on" };
    Ok(format!("{} {done}\n", super::table::text(&answer["name"])))
}
