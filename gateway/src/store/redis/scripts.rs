//! The scripts. All are loaded on every new connection; none is ever made at run time.
//!
//! Scripts of the owner check the token of its lease first and answer `FENCED` if another has it. Those that change work also carry
//! the owner's write sequence: one that was applied before is not applied again. They are flagged `allow-oom`: finishing and
//! rescheduling must go on when Redis is full. A full Redis refuses transactions whatever is in them, even reads: what must be read at
//! one moment is read by a script, too.

use std::sync::LazyLock;

use redis::{Cmd, Script, cmd};

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)+) => {
        $($(#[$doc])* pub(super) static $name: Loaded = Loaded(LazyLock::new(|| text(include_str!(concat!("scripts/", $file)))));)+

        /// Every script.
        pub(super) static ALL: &[&Loaded] = &[$(&$name),+];
    };
}

scripts! {
    /// Keeps an event unless its dedup key is taken.
    ACCEPT_ONCE = "accept_once.lua";
    /// Takes out of shared buckets.
    SPEND = "spend.lua";
    /// Takes a shard.
    TAKE_OVER = "take_over.lua";
    /// Notes a node and counts those that are there.
    PRESENT = "present.lua";
    /// Makes missing groups.
    GROUPS = "groups.lua";
    /// Renews or releases a lease.
    KEEP = "keep.lua";
    /// Reads new entries of a lane.
    CLAIM = "claim.lua";
    /// Gives back what was read beyond a budget.
    UNREAD = "unread.lua";
    /// Stops claims that are on their way.
    TOUCH = "touch.lua";
    /// Takes over pending entries of a lane.
    RECLAIM = "reclaim.lua";
    /// Writes a batch of records.
    RECORD = "record.lua";
    /// Takes jobs from the schedule or a queue.
    TAKE = "take.lua";
    /// Takes the first jobs of lines.
    HEADS = "heads.lua";
    /// Puts first jobs of lines, and parked jobs, back to their places.
    PUT_BACK = "put_back.lua";
    /// Puts jobs that an earlier owner had taken back to their places.
    RESTORE = "restore.lua";
    /// Moves dead letters back to the schedule.
    RETRY = "retry.lua";
    /// Puts new work of an event on the schedule.
    ADD = "add.lua";
    /// Replaces a bucket of history by what is left of it.
    TRIM = "trim.lua";
    /// Removes old dead letters.
    TRIM_DEAD = "trim_dead.lua";
    /// Removes a tenant's jobs.
    PURGE = "purge.lua";
    /// Finds an unfinished event's entry.
    FIND = "find.lua";
    /// Tells how much of a tenant is queued.
    QUEUED = "queued.lua";
    /// Counts a shard's work.
    DEPTH = "depth.lua";
    /// Keeps what a node says.
    SAY = "say.lua";
    /// Tells what nodes say.
    SAID = "said.lua";
    /// Does what is asked of a plugin's table.
    TABLE = "table.lua";
    /// Reads a plugin's table.
    TABLE_READ = "table_read.lua";
    /// Lists a plugin's table.
    TABLE_PAGE = "table_page.lua";
    /// Removes plugins' tables.
    TABLE_DROP = "table_drop.lua";
    /// Removes entries of tables that have ended.
    TABLE_SWEEP = "table_sweep.lua";
    /// Keeps a bookmark.
    BOOKMARK_KEEP = "bookmark_keep.lua";
    /// Takes a bookmark away.
    BOOKMARK_DROP = "bookmark_drop.lua";
    /// Reads the configuration.
    CONFIG = "config.lua";
    /// Changes the configuration.
    CONFIGURE = "configure.lua";
}

/// A script that a connection has loaded.
pub(super) struct Loaded(LazyLock<(String, Script)>);

impl Loaded {
    /// Its text.
    pub(super) fn text(&self) -> &str {
        &self.0.0
    }

    /// A call of it, to which arguments are added.
    pub(super) fn call(&self, keys: &[&str]) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(self.0.1.get_hash()).arg(keys.len()).arg(keys);
        command
    }
}

/// Functions that several scripts share go where a script says `--#jobs` or `--#tables`.
fn text(source: &str) -> (String, Script) {
    let text = source.replace("--#jobs", include_str!("scripts/jobs.lua"));
    let text = text.replace("--#tables", include_str!("scripts/tables.lua"));
    let script = Script::new(&text);
    (text, script)
}
