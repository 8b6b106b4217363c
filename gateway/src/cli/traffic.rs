//! `tidegate traffic`: what each kind of work may use, who is diverted, and who changed it.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::{ApiArgs, Client, part};
use super::table::{rows, table, text};

/// Steers the gateway's traffic. For operators.
#[derive(Debug, Args)]
pub struct TrafficArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what is set, by whom and why
    Show {
        #[command(flatten)]
        common: Common,
    },
    /// Pause a lane, retries or a shard: it is kept, and not delivered
    Pause {
        #[command(flatten)]
        work: Work,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Let a lane, retries or a shard use everything again
    Resume {
        #[command(flatten)]
        work: Work,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Let a lane, retries or a shard use a part of the capacity
    Drain {
        #[command(flatten)]
        work: Work,
        /// Of `dispatch.in_flight`
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100))]
        percent: u8,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Divert a tenant or a source: what comes in is kept in the held lane, and nothing of it is delivered
    Divert {
        /// Its id; a tenant's name; or `tenant/source`, both by name
        #[arg(value_name = "TENANT_OR_SOURCE")]
        who: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// Give a tenant or a source back: what is held is delivered in order, and newcomers behind it
    Return {
        /// Its id; a tenant's name; or `tenant/source`, both by name
        #[arg(value_name = "TENANT_OR_SOURCE")]
        who: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
    /// List the last changes, newest first
    Audit {
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
        limit: u16,
        #[command(flatten)]
        common: Common,
    },
}

/// What is paused, resumed or drained: `lane low`, `retries`, `shard 2`.
#[derive(Debug, Args)]
struct Work {
    /// Which kind of work
    kind: WorkKind,
    /// A lane's name (normal, low, held), or a shard's number
    which: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WorkKind {
    Lane,
    Retries,
    Shard,
}

impl Work {
    fn path(&self) -> anyhow::Result<String> {
        match (self.kind, self.which.as_deref()) {
            (WorkKind::Lane, Some(lane)) => Ok(format!("/v1/traffic/lanes/{}", part(lane))),
            (WorkKind::Lane, None) => anyhow::bail!("say which lane: normal, low or held"),
            (WorkKind::Shard, Some(shard)) => Ok(format!("/v1/traffic/shards/{}", part(shard))),
            (WorkKind::Shard, None) => anyhow::bail!("say which shard, by its number"),
            (WorkKind::Retries, None) => Ok("/v1/traffic/retries".into()),
            (WorkKind::Retries, Some(_)) => anyhow::bail!("retries are paused and resumed on all shards: name none"),
        }
    }
}

#[derive(Debug, Args)]
struct Common {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: ApiArgs,
}

impl Common {
    fn show(&self, answer: &Value, human: impl Fn(&Value) -> String) -> anyhow::Result<()> {
        let text = if self.json { format!("{}\n", serde_json::to_string_pretty(answer)?) } else { human(answer) };
        print!("{text}");
        Ok(())
    }
}

#[derive(Debug, Args)]
struct ChangeArgs {
    /// Why, for the audit; at most 500 characters
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl ChangeArgs {
    async fn share(&self, work: &Work, percent: u8) -> anyhow::Result<()> {
        let (path, body) = (work.path()?, json!({"percent": percent, "reason": self.reason}));
        let answer = Client::new(&self.common.api)?.put(&path, &[], &body).await?;
        self.common.show(&answer, |setting| settings(std::slice::from_ref(setting)))
    }
}

/// Does what was asked for.
pub async fn run(args: TrafficArgs) -> anyhow::Result<()> {
    let diversion = |who: &str| format!("/v1/traffic/diversions/{}", part(who));
    match args.command {
        Command::Show { common } => {
            let answer = Client::new(&common.api)?.get("/v1/traffic", &[]).await?;
            common.show(&answer, show)
        }
        Command::Pause { work, change } => change.share(&work, 0).await,
        Command::Resume { work, change } => change.share(&work, 100).await,
        Command::Drain { work, percent, change } => change.share(&work, percent).await,
        Command::Divert { who, change } => {
            let body = json!({ "reason": change.reason });
            let answer = Client::new(&change.common.api)?.put(&diversion(&who), &[], &body).await?;
            change.common.show(&answer, |diversion| diversions(std::slice::from_ref(diversion)))
        }
        Command::Return { who, change } => {
            let query: Vec<_> = change.reason.as_deref().map(|reason| ("reason", reason)).into_iter().collect();
            let answer = Client::new(&change.common.api)?.delete(&diversion(&who), &query).await?;
            change.common.show(&answer, |diversion| diversions(std::slice::from_ref(diversion)))
        }
        Command::Audit { limit, common } => {
            let limit = limit.to_string();
            let answer = Client::new(&common.api)?.get("/v1/traffic/audit", &[("limit", &limit)]).await?;
            common.show(&answer, audit)
        }
    }
}

fn show(traffic: &Value) -> String {
    let mut out = settings(rows(&traffic["settings"]));
    if !rows(&traffic["diversions"]).is_empty() {
        out.push('\n');
        out.push_str(&diversions(rows(&traffic["diversions"])));
    }
    out
}

fn settings(settings: &[Value]) -> String {
    let lines: Vec<Vec<String>> = settings
        .iter()
        .map(|setting| {
            let percent = match setting["percent"].as_u64() {
                Some(0) => "paused".to_owned(),
                _ => format!("{}%", text(&setting["percent"])),
            };
            vec![text(&setting["what"]), percent, text(&setting["by"]["name"]), text(&setting["at"]), text(&setting["reason"])]
        })
        .collect();
    table(&["WORK", "SHARE", "BY", "SINCE", "REASON"], &lines)
}

fn diversions(diversions: &[Value]) -> String {
    let lines: Vec<Vec<String>> = diversions
        .iter()
        .map(|row| {
            let who = [&row["name"], &row["id"], &row["state"], &row["by"]["name"], &row["at"], &row["reason"]];
            who.map(text).to_vec()
        })
        .collect();
    table(&["DIVERTED", "ID", "STATE", "BY", "SINCE", "REASON"], &lines)
}

fn audit(answer: &Value) -> String {
    let lines: Vec<Vec<String>> = rows(&answer["items"])
        .iter()
        .map(|row| {
            let what = if row["name"].is_string() { &row["name"] } else { &row["what"] };
            [&row["at"], &row["by"]["name"], what, &row["from"], &row["to"], &row["reason"]].map(text).to_vec()
        })
        .collect();
    table(&["AT", "BY", "WHAT", "FROM", "TO", "REASON"], &lines)
}
