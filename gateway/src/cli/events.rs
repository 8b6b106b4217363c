//! `tidegate events`: what became of events, and trying again.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::part;
use super::common::Common;
use super::dead_letters::{LOOK, jobs};
use super::table::{rows, table, text};

const REPLAYS: &str = "/v1/replay-jobs";

/// Looks at events.
#[derive(Debug, Args)]
pub struct EventsArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List events, newest first
    List {
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
        limit: u16,
        /// Where the page starts: the `next` of the page before
        #[arg(long)]
        cursor: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Show an event with its deliveries, attempts and plugin runs
    Show {
        /// Its id
        event: String,
        #[command(flatten)]
        common: Common,
    },
    /// Send past events over a connection once more, as new deliveries, by a job: to a destination that is new, say
    Replay {
        /// The connection, by id or name: its filter and plugins run as they are by then
        #[arg(long)]
        connection: String,
        /// Of this source, by id or name; of the connection's own without it
        #[arg(long)]
        source: Option<String>,
        /// Accepted at this time or later: `2026-01-31T10:00:00Z`
        #[arg(long)]
        since: Option<String>,
        /// Accepted before this time
        #[arg(long)]
        until: Option<String>,
        /// With a delivery in this state
        #[arg(long, value_parser = ["delivered", "filtered", "unmatched", "dead_lettered"])]
        state: Option<String>,
        /// Only these events
        ids: Vec<String>,
        /// Events a second, at most the plan's rate; 100 without it
        #[arg(long)]
        rate: Option<u32>,
        /// Only count them
        #[arg(long)]
        dry_run: bool,
        /// Wait until the job is over
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        common: Common,
    },
    /// List the replay jobs, newest first, or show one
    Replays {
        /// Its id
        job: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Cancel a replay job; what it has put on the schedule is delivered
    CancelReplay {
        /// Its id
        job: String,
        #[command(flatten)]
        common: Common,
    },
    /// Try an event's dead letters again
    Retry {
        /// Its id
        event: String,
        #[command(flatten)]
        common: Common,
    },
}

/// Does what was asked for.
pub async fn run(args: EventsArgs) -> anyhow::Result<()> {
    match args.command {
        Command::List { limit, cursor, common } => {
            let limit = limit.to_string();
            let mut query = common.query();
            query.push(("limit", &limit));
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let answer = common.client()?.get("/v1/events", &query).await?;
            common.show(&answer, list)
        }
        Command::Show { event, common } => {
            let answer = common.client()?.get(&format!("/v1/events/{}", part(&event)), &common.query()).await?;
            common.show(&answer, show)
        }
        Command::Replay { connection, source, since, until, state, ids, rate, dry_run, wait, common } => {
            let mut filter = json!({ "ids": ids });
            for (name, value) in [("source", source), ("since", since), ("until", until), ("state", state)] {
                if let Some(value) = value {
                    filter[name] = value.into();
                }
            }
            let mut spec = json!({ "connection": connection, "filter": filter, "dry_run": dry_run });
            if let Some(rate) = rate {
                spec["rate"] = rate.into();
            }
            let client = common.client()?;
            let mut job = client.post(REPLAYS, &common.query(), Some(&spec)).await?;
            let path = format!("{REPLAYS}/{}", part(job["id"].as_str().unwrap_or_default()));
            while wait && job["state"] == "running" {
                tokio::time::sleep(LOOK).await;
                job = client.get(&path, &common.query()).await?;
            }
            common.show(&job, |job| jobs(std::slice::from_ref(job), "replayed"))
        }
        Command::Replays { job: None, common } => {
            let answer = common.client()?.get(REPLAYS, &common.query()).await?;
            common.show(&answer, |answer| jobs(rows(&answer["items"]), "replayed"))
        }
        Command::Replays { job: Some(job), common } => {
            let answer = common.client()?.get(&format!("{REPLAYS}/{}", part(&job)), &common.query()).await?;
            common.show(&answer, |job| jobs(std::slice::from_ref(job), "replayed"))
        }
        Command::CancelReplay { job, common } => {
            let answer = common.client()?.delete(&format!("{REPLAYS}/{}", part(&job)), &common.query()).await?;
            common.show(&answer, |job| jobs(std::slice::from_ref(job), "replayed"))
        }
        Command::Retry { event, common } => {
            let path = format!("/v1/events/{}/retry", part(&event));
            let answer = common.client()?.post(&path, &common.query(), None).await?;
            common.show(&answer, |answer| format!("{} to be tried again\n", answer["retried"]))
        }
    }
}

fn list(answer: &Value) -> String {
    let events: Vec<Vec<String>> = rows(&answer["items"])
        .iter()
        .map(|event| {
            let deliveries = rows(&event["deliveries"]).len().to_string();
            vec![text(&event["id"]), text(&event["accepted_at"]), text(&event["source"]), text(&event["state"]), deliveries]
        })
        .collect();
    let mut out = table(&["EVENT", "ACCEPTED", "SOURCE", "STATE", "DELIVERIES"], &events);
    if let Some(next) = answer["next"].as_str() {
        out.push_str(&format!("more: --cursor {next}\n"));
    }
    out
}

/// Why something is not done yet; nothing for what is.
fn waiting(indent: &str, waiting: &Value) -> String {
    if !waiting.is_object() {
        return String::new();
    }
    let until = waiting["until"].as_str().map(|until| format!(" until {until}")).unwrap_or_default();
    let (reason, since, detail) = (text(&waiting["for"]), text(&waiting["since"]), text(&waiting["detail"]));
    format!("{indent}waiting   for {reason} since {since}{until}: {detail}\n")
}

fn show(event: &Value) -> String {
    let mut out = format!(
        "event     {}\nsource    {}\naccepted  {}\nstate     {}\n",
        text(&event["id"]),
        text(&event["source"]),
        text(&event["accepted_at"]),
        text(&event["state"])
    );
    if event["test"] == true {
        out.push_str("test      made of a bookmark\n");
    }
    out.push_str(&waiting("", &event["waiting"]));
    let request = &event["request"];
    if request.is_object() {
        let (method, path) = (text(&request["method"]), request["path"].as_str().unwrap_or_default());
        out.push_str(&format!("request   {method} {path} ({} bytes)\n", request["size"]));
    }
    for delivery in rows(&event["deliveries"]) {
        let why = [&delivery["reason"], &delivery["due"], &delivery["failure"]["detail"]];
        let why: Vec<String> = why.iter().filter(|value| value.is_string()).map(|value| text(value)).collect();
        let (id, state) = (text(&delivery["id"]), text(&delivery["state"]));
        let replay = if delivery["replay"] == true { "  replay" } else { "" };
        out.push_str(&format!("\ndelivery  {id}{replay}  {state}  {}\n", why.join("  ")));
        out.push_str(&waiting("  ", &delivery["waiting"]));
        let attempts: Vec<Vec<String>> = rows(&delivery["attempts"])
            .iter()
            .map(|attempt| {
                let failure = text(&attempt["failure"]["code"]);
                let took = attempt["took_us"].as_u64().unwrap_or_default() as f64 / 1000.0;
                let batch = &attempt["batch"];
                let batch = if batch.is_object() { format!("{} of {}", text(&batch["id"]), batch["size"]) } else { text(batch) };
                vec![
                    text(&attempt["number"]),
                    text(&attempt["started_at"]),
                    format!("{took:.1}"),
                    text(&attempt["status"]),
                    failure,
                    batch,
                ]
            })
            .collect();
        if !attempts.is_empty() {
            out.push_str(&table(&["ATTEMPT", "STARTED", "MS", "STATUS", "FAILURE", "BATCH"], &attempts));
        }
        let runs: Vec<Vec<String>> = rows(&delivery["plugin_runs"])
            .iter()
            .map(|run| {
                let version: String = text(&run["version"]).chars().take(12).collect();
                let failure = text(&run["failure"]["code"]);
                vec![version, purpose(&run["attempt"]), text(&run["fuel"]), text(&run["memory"]), text(&run["outputs"]), failure]
            })
            .collect();
        if !runs.is_empty() {
            out.push_str(&table(&["PLUGIN", "FOR", "FUEL", "MEMORY", "OUTPUTS", "FAILURE"], &runs));
        }
    }
    out
}

/// What a plugin's run was for: an attempt, or the connection's chain.
fn purpose(attempt: &Value) -> String {
    match (attempt["number"].as_u64(), attempt["role"].as_str()) {
        (Some(number), Some(role)) => {
            let verdict = attempt["verdict"].as_str().map_or_else(String::new, |verdict| format!(": {verdict}"));
            format!("{role} {number}{verdict}")
        }
        _ => "chain".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_says_for_what_and_steers_no_terminal() {
        let waits = json!({"for": "retry", "since": "10:00", "until": "10:05", "detail": "attempt 1 ended with `status`\u{1b}[2J"});
        let delivery = json!({"id": "dlv_1", "state": "scheduled", "attempts": [], "plugin_runs": [], "waiting": waits});
        let event = json!({"id": "evt_1", "source": "src_1", "accepted_at": "9:59", "state": "active", "waiting": waits, "deliveries": [delivery]});
        let shown = show(&event);
        let line = "waiting   for retry since 10:00 until 10:05: attempt 1 ended with `status` [2J";
        assert_eq!(shown.lines().filter(|shown| shown.trim_start() == line).count(), 2, "{shown}");
        assert!(!show(&json!({"id": "evt_1", "state": "delivered", "deliveries": []})).contains("waiting"));
    }
}
