//! `tidegate plugin replay`: what would change for past events with another version.

use clap::Args;
use serde_json::{Map, Value, json};

use super::client::part;
use super::common::Common;
use super::table::{rows, table, text};

/// Events that are shown, unless JSON is asked for.
const SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// The plugin
    name: String,
    /// The version to judge: its hash, or an alias
    #[arg(long)]
    version: String,
    /// What it is compared with: a hash, or an alias [default: what the connection names]
    #[arg(long, value_name = "VERSION")]
    against: Option<String>,
    /// Whose source's events go through whose filter and chain
    #[arg(long)]
    connection: String,
    /// Only events accepted at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only events accepted before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// At most this many events
    #[arg(long, default_value_t = 1000)]
    limit: u64,
    #[command(flatten)]
    common: Common,
}

/// Asks page after page until enough events were compared.
pub(super) async fn run(args: ReplayArgs) -> anyhow::Result<()> {
    let ReplayArgs { name, version, against, connection, since, until, limit, common } = args;
    let (client, path) = (common.client()?, format!("/v1/plugins/{}/replay", part(&name)));
    let mut spec = json!({"version": version, "connection": connection});
    for (field, value) in [("against", against), ("since", since), ("until", until)] {
        if let Some(value) = value {
            spec[field] = value.into();
        }
    }
    let (mut totals, mut changed, mut left) = (Map::new(), Vec::new(), limit);
    let mut answer = Value::Null;
    while left > 0 {
        spec["limit"] = left.min(100).into();
        answer = client.post(&path, &common.query(), Some(&spec)).await?;
        let page = answer["totals"].as_object().cloned().unwrap_or_default();
        let count = |name: &str| page.get(name).and_then(Value::as_u64).unwrap_or_default();
        left = left.saturating_sub(count("events").saturating_sub(count("filtered") + count("gone")));
        for (name, value) in &page {
            let sum = totals.get(name).and_then(Value::as_u64).unwrap_or_default() + value.as_u64().unwrap_or_default();
            totals.insert(name.clone(), sum.into());
        }
        changed.extend(rows(&answer["changed"]).iter().cloned());
        match answer["next"].as_str() {
            Some(next) => spec["cursor"] = next.into(),
            None => break,
        }
    }
    let whole = json!({
        "against": answer["against"], "version": answer["version"], "totals": totals, "changed": changed, "next": answer["next"]
    });
    common.show(&whole, shown)
}

fn shown(answer: &Value) -> String {
    let totals: Vec<Vec<String>> =
        answer["totals"].as_object().into_iter().flatten().map(|(name, n)| vec![name.clone(), n.to_string()]).collect();
    let mut out = table(&["EVENTS", "COUNT"], &totals);
    let made = |made: &Value| match made["failure"].as_str() {
        Some(_) => text(&made["failure"]),
        None => format!("{} requests", made["outputs"]),
    };
    let changed = rows(&answer["changed"]);
    for event in changed.iter().take(SHOWN) {
        out.push_str(&format!("\n{}  {} -> {}\n", text(&event["event"]), made(&event["before"]), made(&event["after"])));
        for difference in rows(&event["differences"]) {
            let value = |value: &Value| if value.is_null() { "-".to_owned() } else { text(&Value::from(value.to_string())) };
            let (part, at) = (text(&difference["part"]), difference["at"].as_str().unwrap_or_default());
            let place = text(&Value::from(format!("{part} {at}")));
            out.push_str(&format!(
                "  output {} {place}: {} -> {}\n",
                difference["output"],
                value(&difference["from"]),
                value(&difference["to"])
            ));
        }
        if event["more"] == true {
            out.push_str("  and more\n");
        }
    }
    if changed.len() > SHOWN {
        out.push_str(&format!("\nand {} more events that would change: --json lists them\n", changed.len() - SHOWN));
    }
    if let Some(next) = answer["next"].as_str() {
        out.push_str(&format!("\nstopped at {next}: a larger --limit goes on\n"));
    }
    out
}
