//! What Redis' errors mean to a caller, in plain words, with what to do about them.

use redis::RedisError;

use crate::store::StoreError;

/// How one exchange with the server failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// No connection: nothing was sent.
    Unsent(StoreError),
    /// The answer is lost: what was sent may have been done, or may be done yet.
    Lost(RedisError),
    /// The server's own answer: it was not done.
    Answered(RedisError),
}

impl Fault {
    pub(super) fn of(error: RedisError) -> Self {
        if codes(&error).is_empty() { Self::Lost(error) } else { Self::Answered(error) }
    }

    /// What a script of the owner answers when another has the shard.
    pub(super) fn fenced() -> Self {
        Self::Answered(redis::make_extension_error("FENCED".into(), None))
    }

    pub(super) fn into_store(self) -> StoreError {
        match self {
            Self::Unsent(error) => error,
            Self::Lost(error) | Self::Answered(error) => explain(&error),
        }
    }

    /// Whether the server said this.
    pub(super) fn is(&self, code: &str) -> bool {
        matches!(self, Self::Answered(error) if codes(error).iter().any(|have| have == code))
    }

    /// Whether it is worth to try again on a new connection.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Unsent(_) | Self::Lost(_) => true,
            Self::Answered(error) => codes(error).iter().any(|code| PASSING.contains(&code.as_str())),
        }
    }
}

const PASSING: [&str; 7] = ["READONLY", "LOADING", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "MOVED", "ASK"];

/// Error codes that the server answered with; empty if it is not an answer.
fn codes(error: &RedisError) -> Vec<String> {
    if let Some(errors) = error.clone().into_server_errors() {
        let mut codes: Vec<String> = errors.iter().map(|(_, error)| error.code().to_owned()).collect();
        codes.extend(error.code().map(str::to_owned));
        return codes;
    }
    error.code().map(str::to_owned).into_iter().collect()
}

/// What a server's error means.
pub(super) fn explain(error: &RedisError) -> StoreError {
    let unavailable = |text: &str| StoreError::Unavailable(text.to_owned());
    for code in codes(error) {
        let known = match code.as_str() {
            "OOM" => StoreError::Full("redis is at its maxmemory: raise it, or let the backlog drain".into()),
            "LOADING" => unavailable("redis is loading its data after a start; it will answer soon"),
            "READONLY" => unavailable("redis is a read-only replica: a failover is going on, or the URL leads to a replica"),
            "MISCONF" => unavailable("redis can't write to its disk and refuses writes (MISCONF): look at its log and free disk"),
            "NOREPLICAS" => unavailable("redis has fewer replicas than its min-replicas-to-write: bring a replica back"),
            "CLUSTERDOWN" => unavailable("the redis cluster is down: some of its slots have no master"),
            "TRYAGAIN" | "MOVED" | "ASK" => unavailable("the redis cluster is moving slots; trying again helps"),
            "MASTERDOWN" => unavailable("the redis replica lost its master: a failover is going on"),
            "NOAUTH" | "WRONGPASS" => {
                StoreError::Refused("redis wants other credentials: check user and password in the URL".into())
            }
            "NOPERM" => StoreError::Refused(format!("the redis user lacks a permission: {error}")),
            "BUSY" => unavailable("redis is busy running somebody's script"),
            _ => continue,
        };
        return known;
    }
    if error.is_timeout() {
        return unavailable("redis did not answer in time");
    }
    if error.is_io_error() || error.is_connection_dropped() {
        return StoreError::Unavailable(format!("the connection to redis failed: {error}"));
    }
    StoreError::Unavailable(format!("redis answered: {error}"))
}

/// An answer of another shape than the command has.
pub(super) fn odd(what: &str) -> StoreError {
    StoreError::Damaged(format!("redis answered {what} in an unexpected shape"))
}
