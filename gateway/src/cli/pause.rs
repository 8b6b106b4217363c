//! `tidegate pause` and `tidegate resume`: what goes over a connection or to a destination waits, and goes on.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::client::part;
use super::common::Common;

/// What is paused or resumed.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Which kind
    kind: Kind,
    /// Its id or name
    name: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Connection,
    Destination,
}

/// Has it wait, or go on.
pub async fn run(args: PauseArgs, paused: bool) -> anyhow::Result<()> {
    let PauseArgs { kind, name, common } = args;
    let (path, patch) = match kind {
        Kind::Connection => ("/v1/connections", json!({ "paused": paused })),
        Kind::Destination => ("/v1/destinations", json!({ "enabled": !paused })),
    };
    let answer = common.client()?.patch(&format!("{path}/{}", part(&name)), &common.query(), &patch).await?;
    let done = if paused { "paused" } else { "goes on" };
    common.show(&answer, |answer| format!("{} {done}\n", super::table::text(&answer["name"])))
}
