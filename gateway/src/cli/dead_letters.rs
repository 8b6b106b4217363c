//! `tidegate dead-letters`: what was given up, and trying it again, one by one or by the thousand.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::part;
use super::common::Common;
use super::table::{rows, table, text};

/// Between two looks at a job that is waited for.
pub(super) const LOOK: Duration = Duration::from_millis(500);
const JOBS: &str = "/v1/dead-letters/retry-jobs";

/// Looks at dead letters, and tries them again.
#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List dead letters, newest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
        limit: u16,
        /// Where the page starts: the `next` of the page before
        #[arg(long)]
        cursor: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Try some again by their ids, or many by a job: those that a filter means, or all
    Retry {
        /// Ids of deliveries
        #[arg(conflicts_with = "some")]
        ids: Vec<String>,
        /// All that there are now
        #[arg(long, conflicts_with_all = ["ids", "some"])]
        all: bool,
        #[command(flatten)]
        filter: Filter,
        /// Dead letters a second, at most the plan's rate; 100 without it
        #[arg(long, conflicts_with = "ids")]
        rate: Option<u32>,
        /// Only count them
        #[arg(long, conflicts_with = "ids")]
        dry_run: bool,
        /// Wait until the job is over
        #[arg(long, conflicts_with = "ids")]
        wait: bool,
        #[command(flatten)]
        common: Common,
    },
    /// List the jobs, newest first, or show one
    Jobs {
        /// Its id
        job: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Cancel a job; what it has put back stays so
    Cancel {
        /// Its id
        job: String,
        #[command(flatten)]
        common: Common,
    },
}

/// Which dead letters are meant.
#[derive(Debug, Args)]
#[group(id = "some", multiple = true)]
struct Filter {
    /// Of this source, by id or name
    #[arg(long)]
    source: Option<String>,
    /// To this destination, by id or name
    #[arg(long)]
    destination: Option<String>,
    /// Of this connection, by id or name
    #[arg(long)]
    connection: Option<String>,
    /// Given up at this time or later: `2026-01-31T10:00:00Z`
    #[arg(long)]
    since: Option<String>,
    /// Given up before this time
    #[arg(long)]
    until: Option<String>,
    /// With this code, of the reason or of the last attempt
    #[arg(long)]
    code: Option<String>,
    /// By this one's fault
    #[arg(long, value_parser = ["gateway", "plugin", "network", "destination"])]
    party: Option<String>,
    /// With this status of the last response
    #[arg(long, value_parser = clap::value_parser!(u16).range(100..=599))]
    status: Option<u16>,
}

impl Filter {
    fn parts(&self) -> Vec<(&'static str, String)> {
        let Self { source, destination, connection, since, until, code, party, status } = self;
        let texts = [
            ("source", source),
            ("destination", destination),
            ("connection", connection),
            ("since", since),
            ("until", until),
            ("code", code),
            ("party", party),
        ];
        let texts = texts.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        texts.chain(status.map(|status| ("status", status.to_string()))).collect()
    }

    fn spec(&self) -> Value {
        let mut spec = json!({});
        for (name, value) in self.parts() {
            spec[name] = value.into();
        }
        if let Some(status) = self.status {
            spec["status"] = status.into();
        }
        spec
    }
}

/// Does what was asked for.
pub async fn run(args: DeadLettersArgs) -> anyhow::Result<()> {
    match args.command {
        Command::List { filter, limit, cursor, common } => {
            let (limit, filter) = (limit.to_string(), filter.parts());
            let mut query = common.query();
            query.push(("limit", &limit));
            query.extend(filter.iter().map(|(name, value)| (*name, value.as_str())));
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let answer = common.client()?.get("/v1/dead-letters", &query).await?;
            common.show(&answer, list)
        }
        Command::Retry { ids, all, filter, rate, dry_run, wait, common } => {
            let (client, filter) = (common.client()?, filter.spec());
            if !ids.is_empty() {
                let answer = client.post("/v1/dead-letters/retry", &common.query(), Some(&json!({ "ids": ids }))).await?;
                return common.show(&answer, |answer| format!("{} to be tried again\n", answer["retried"]));
            }
            if !all && filter.as_object().is_none_or(serde_json::Map::is_empty) {
                anyhow::bail!("say which: ids, a filter such as --destination, or --all");
            }
            let mut spec = json!({ "filter": filter, "dry_run": dry_run });
            if let Some(rate) = rate {
                spec["rate"] = rate.into();
            }
            let mut job = client.post(JOBS, &common.query(), Some(&spec)).await?;
            let path = format!("{JOBS}/{}", part(job["id"].as_str().unwrap_or_default()));
            while wait && job["state"] == "running" {
                tokio::time::sleep(LOOK).await;
                job = client.get(&path, &common.query()).await?;
            }
            common.show(&job, |job| jobs(std::slice::from_ref(job), "retried"))
        }
        Command::Jobs { job: None, common } => {
            let answer = common.client()?.get(JOBS, &common.query()).await?;
            common.show(&answer, |answer| jobs(rows(&answer["items"]), "retried"))
        }
        Command::Jobs { job: Some(job), common } => {
            let answer = common.client()?.get(&format!("{JOBS}/{}", part(&job)), &common.query()).await?;
            common.show(&answer, |job| jobs(std::slice::from_ref(job), "retried"))
        }
        Command::Cancel { job, common } => {
            let answer = common.client()?.delete(&format!("{JOBS}/{}", part(&job)), &common.query()).await?;
            common.show(&answer, |job| jobs(std::slice::from_ref(job), "retried"))
        }
    }
}

fn list(answer: &Value) -> String {
    let letters = rows(&answer["items"]).iter().map(|letter| {
        let (last, reason) = (&letter["last_attempt"], &letter["reason"]);
        vec![
            text(&letter["id"]),
            text(&letter["at"]),
            text(&letter["destination"]),
            text(&letter["attempts"]),
            text(&last["status"]),
            text(&reason["code"]),
            text(&reason["detail"]),
        ]
    });
    let letters: Vec<Vec<String>> = letters.collect();
    let mut out = table(&["DEAD LETTER", "GIVEN UP", "DESTINATION", "ATTEMPTS", "STATUS", "CODE", "WHY"], &letters);
    if let Some(next) = answer["next"].as_str() {
        out.push_str(&format!("more: --cursor {next}\n"));
    }
    out
}

/// Jobs, each with its counts; `done` is what they call what they did.
pub(super) fn jobs(jobs: &[Value], done: &str) -> String {
    let lines = jobs.iter().map(|job| {
        let state = match (job["cancelling"] == true, job["dry_run"] == true) {
            (true, _) => "cancelling".to_owned(),
            (false, true) => format!("{} (dry run)", text(&job["state"])),
            (false, false) => text(&job["state"]),
        };
        let why = [&job["held_up_by"], &job["failure"]].into_iter().find(|why| why.is_string());
        let counts = ["examined", "matched", done, "gone", "rate"].map(|name| text(&job[name]));
        let mut line = vec![text(&job["id"]), state];
        line.extend(counts);
        line.push(why.map(text).unwrap_or_default());
        line
    });
    table(&["JOB", "STATE", "EXAMINED", "MATCHED", &done.to_uppercase(), "GONE", "RATE", "WHY"], &lines.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: DeadLettersArgs,
    }

    #[test]
    fn a_retry_takes_ids_or_a_filter_or_all() {
        Line::command().debug_assert();
        for line in [&["dlv_1", "dlv_2"][..], &["--all"], &["--destination", "chat", "--status", "503", "--wait"], &[]] {
            let parsed = Line::try_parse_from([&["x", "retry"], line].concat());
            assert!(parsed.is_ok(), "{line:?}: {parsed:?}");
        }
        for line in [&["dlv_1", "--all"][..], &["--all", "--code", "gone"], &["dlv_1", "--source", "a"], &["dlv_1", "--rate", "1"]]
        {
            assert!(Line::try_parse_from([&["x", "retry"], line].concat()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_filter_says_what_was_given() {
        let line = ["x", "list", "--source", "a", "--status", "503", "--party", "network"];
        let Command::List { filter, .. } = Line::parse_from(line).args.command else { panic!("it is a listing") };
        assert_eq!(filter.spec(), json!({"source": "a", "party": "network", "status": 503}));
    }
}
