//! Follows what other nodes change, and ends deletions that are done. This node's own changes are published as they are made.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::service::{Control, LoadError};

/// How often the store is asked for its revision: a change is in effect on every node within a second, with time to read it.
pub const INTERVAL: Duration = Duration::from_millis(250);

/// Every so many looks it is seen whether deletions are done.
const DELETIONS: u32 = 4;

/// What a look at the store led to; for metrics.
#[derive(Debug)]
pub enum Refreshed<'a> {
    /// Nothing was new.
    Unchanged,
    /// A new revision is in use.
    Changed,
    /// The revision in the store can't be used; the last good one stays in use.
    Failed(&'a LoadError),
}

/// Looks at the store until `stop`, and ends deletions that are done. What can't be loaded changes nothing and is said once for each new reason.
pub async fn run(control: Arc<Control>, watch: impl Fn(Refreshed<'_>) + Send, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_error = None;
    let mut looks = 0_u32;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if looks.is_multiple_of(DELETIONS)
            && let Err(error) = control.end_deletions().await
        {
            tracing::warn!(%error, "deletion of a tenant not ended, trying again");
        }
        looks = looks.wrapping_add(1);
        match control.refresh().await {
            Ok(changed) => {
                if last_error.take().is_some() {
                    tracing::info!("configuration is readable again");
                }
                watch(if changed { Refreshed::Changed } else { Refreshed::Unchanged });
            }
            Err(error) => {
                let text = error.to_string();
                if last_error.as_ref() != Some(&text) {
                    tracing::error!(error = %text, "configuration not reloaded, the last good revision stays in use");
                    last_error = Some(text);
                }
                watch(Refreshed::Failed(&error));
            }
        }
    }
}
