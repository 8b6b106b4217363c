//! `tidegate bookmarks`: events under names, and sent again as tests.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::part;
use super::common::Common;
use super::table::{rows, table, text};

const BOOKMARKS: &str = "/v1/bookmarks";

/// Keeps events under names.
#[derive(Debug, Args)]
pub struct BookmarksArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep a copy of an event's request, for longer than history does
    Add {
        /// The bookmark's name
        name: String,
        /// The event's id
        event: String,
        /// What it is for
        #[arg(long, default_value = "")]
        note: String,
        #[command(flatten)]
        common: Common,
    },
    /// List bookmarks, in order of their names
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Show a bookmark with its request
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Send its request as a new event: through its source, or over one connection
    Send {
        /// Its name
        name: String,
        /// Over this connection alone, by id or name
        #[arg(long)]
        connection: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Delete a bookmark
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        common: Common,
    },
}

/// Does what was asked for.
pub async fn run(args: BookmarksArgs) -> anyhow::Result<()> {
    match args.command {
        Command::Add { name, event, note, common } => {
            let spec = json!({ "name": name, "event": event, "note": note });
            let answer = common.client()?.post(BOOKMARKS, &common.query(), Some(&spec)).await?;
            common.show(&answer, |answer| format!("{}: {} bytes kept\n", text(&answer["name"]), answer["bytes"]))
        }
        Command::List { common } => {
            let answer = common.client()?.get(BOOKMARKS, &common.query()).await?;
            common.show(&answer, list)
        }
        Command::Show { name, common } => {
            let answer = common.client()?.get(&at(&name), &common.query()).await?;
            common.show(&answer, show)
        }
        Command::Send { name, connection, common } => {
            let spec = json!({ "connection": connection });
            let answer = common.client()?.post(&format!("{}/send", at(&name)), &common.query(), Some(&spec)).await?;
            common.show(&answer, |answer| format!("{}\n", text(&answer["id"])))
        }
        Command::Delete { name, common } => {
            common.client()?.delete(&at(&name), &common.query()).await?;
            common.show(&json!({ "deleted": name }), |answer| format!("{} deleted\n", text(&answer["deleted"])))
        }
    }
}

fn at(name: &str) -> String {
    format!("{BOOKMARKS}/{}", part(name))
}

fn list(answer: &Value) -> String {
    let line = |bookmark: &Value| ["name", "event", "accepted_at", "bytes", "note"].map(|name| text(&bookmark[name])).to_vec();
    let lines: Vec<Vec<String>> = rows(&answer["items"]).iter().map(line).collect();
    table(&["BOOKMARK", "EVENT", "ACCEPTED", "BYTES", "NOTE"], &lines)
}

fn show(bookmark: &Value) -> String {
    let mut out = String::new();
    for (title, name) in
        [("bookmark", "name"), ("note", "note"), ("event", "event"), ("source", "source"), ("accepted", "accepted_at")]
    {
        out.push_str(&format!("{title:<10}{}\n", text(&bookmark[name])));
    }
    let request = &bookmark["request"];
    let (method, path) = (text(&request["method"]), text(&request["path"]));
    out.push_str(&format!("request   {method} {path} ({} bytes)\n", request["size"]));
    for header in rows(&request["headers"]) {
        out.push_str(&format!("  {}: {}\n", text(&header["name"]), text(&header["value"])));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bookmark_steers_no_terminal() {
        let request = json!({"method": "POST", "path": "/a", "size": 2, "headers": [{"name": "x-a", "value": "\u{1b}[2J"}]});
        let shown = show(
            &json!({"name": "one", "note": "n", "event": "evt_1", "source": "src_1", "accepted_at": "10:00", "request": request}),
        );
        assert!(shown.ends_with("request   POST /a (2 bytes)\n  x-a:  [2J\n"), "{shown:?}");
    }
}
