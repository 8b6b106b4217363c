//! `tidegate events`: what became of events, and trying again.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{ApiArgs, Client, TenantArgs, part};
use super::table::{rows, table, text};

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
    /// Try an event's dead letters again
    Retry {
        /// Its id
        event: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tenant: TenantArgs,
    #[command(flatten)]
    api: ApiArgs,
}

impl Common {
    fn query(&self) -> Vec<(&str, &str)> {
        self.tenant.tenant.as_deref().map(|tenant| ("tenant", tenant)).into_iter().collect()
    }

    fn show(&self, answer: &Value, human: impl Fn(&Value) -> String) -> anyhow::Result<()> {
        let text = if self.json { format!("{}\n", serde_json::to_string_pretty(answer)?) } else { human(answer) };
        print!("{text}");
        Ok(())
    }
}

/// Does what was asked for.
pub async fn run(args: EventsArgs) -> anyhow::Result<()> {
    match args.command {
        Command::List { limit, cursor, common } => {
            let limit = limit.to_string();
            let mut query = common.query();
            query.push(("limit", &limit));
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let answer = Client::new(&common.api)?.get("/v1/events", &query).await?;
            common.show(&answer, list)
        }
        Command::Show { event, common } => {
            let answer = Client::new(&common.api)?.get(&format!("/v1/events/{}", part(&event)), &common.query()).await?;
            common.show(&answer, show)
        }
        Command::Retry { event, common } => {
            let path = format!("/v1/events/{}/retry", part(&event));
            let answer = Client::new(&common.api)?.post(&path, &common.query(), None).await?;
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
        out.push_str(&format!("\ndelivery  {id}  {state}  {}\n", why.join("  ")));
        out.push_str(&waiting("  ", &delivery["waiting"]));
        let attempts: Vec<Vec<String>> = rows(&delivery["attempts"])
            .iter()
            .map(|attempt| {
                let failure = text(&attempt["failure"]["code"]);
                let took = attempt["took_us"].as_u64().unwrap_or_default() as f64 / 1000.0;
                vec![
                    text(&attempt["number"]),
                    text(&attempt["started_at"]),
                    format!("{took:.1}"),
                    text(&attempt["status"]),
                    failure,
                ]
            })
            .collect();
        if !attempts.is_empty() {
            out.push_str(&table(&["ATTEMPT", "STARTED", "MS", "STATUS", "FAILURE"], &attempts));
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
    use serde_json::json;

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
