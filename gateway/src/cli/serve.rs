//! `tidegate serve`: a gateway until it is told to stop.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{App, Role};
use crate::config::Config;
use crate::telemetry;

/// Where the configuration is looked for when none is named.
const DEFAULT_FILE: &str = "tidegate.toml";

/// Runs a gateway.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The configuration file [default: tidegate.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which wings to run
    #[arg(long, value_enum, default_value_t)]
    role: Role,
}

/// Runs until SIGTERM or SIGINT, or until the store fails for good.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let (config, base) = configuration(args.config)?;
    telemetry::init_logs(&config.telemetry)?;
    // Before the first listener: whoever sees it ready may tell it to stop.
    let stop = told_to_stop()?;
    let app = App::start(config, &base, args.role).await?;
    let ingest = app.ingest_address().map(tracing::field::display);
    tracing::info!(ingest, admin = %app.admin_address(), role = ?args.role, version = env!("CARGO_PKG_VERSION"), "tidegate is up");
    Ok(app.run(stop).await?)
}

/// The configuration, and what relative secret files in it stand under.
pub(super) fn configuration(file: Option<PathBuf>) -> anyhow::Result<(Config, PathBuf)> {
    let file = file.or_else(|| Path::new(DEFAULT_FILE).exists().then(|| DEFAULT_FILE.into()));
    let config = file.as_deref().map_or_else(|| Ok(Config::default()), Config::load)?;
    let base = file.as_deref().and_then(Path::parent).unwrap_or(Path::new("")).to_owned();
    Ok((config, base))
}

/// Resolves at the first SIGTERM or SIGINT.
pub(super) fn told_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
