//! How the engine finds its server, and what it demands of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use redis::IntoConnectionInfo;

use super::tls::Tls;

/// A `redis://`, `rediss://` (TLS) or `unix://` URL. Shown without its user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

/// A text that is not such a URL. Says nothing of the text, which may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a Redis URL: it must look like redis://[user:password@]host[:port][/database], rediss:// for TLS, or unix:///path")]
pub struct RedisUrlError;

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        text.into_connection_info().map_err(|_| RedisUrlError)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("redis", &self.0));
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        let host = host.split_once('?').map_or(host, |(host, _)| host);
        write!(f, "{scheme}://{host}")
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What kind of deployment the URLs lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Standalone(RedisUrl),
    /// Sentinels, which know the present master of this name.
    Sentinel {
        /// The sentinels.
        urls: Vec<RedisUrl>,
        /// The master's name.
        master: String,
    },
    /// Nodes of a cluster.
    Cluster(Vec<RedisUrl>),
}

/// What an accepted event survives. What each mode demands of the server is checked at start and again every few seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: for tests and toys.
    Ephemeral,
    /// A crash of Redis may lose what the server's own postponed writes held (up to 2 s), a crash of the host about 1 s.
    #[default]
    EverySec,
    /// A crash or power loss of the one node: needs `appendfsync always` and `no-appendfsync-on-rewrite no`.
    Fsync,
    /// Most losses of one node: an accept waits for a replica, and needs `min-replicas-to-write` of at least 1.
    Replicated,
}

/// How long the engine waits. A store that takes longer counts as unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For one answer.
    pub response: Duration,
    /// For one operation of an owner or the API, with reconnecting and asking again what became of a write whose answer was lost.
    pub operation: Duration,
    /// For finding out, on a new connection, what became of an accept whose answer was lost. After that it is answered as
    /// unavailable, which leaves it open whether the events were taken.
    pub settle: Duration,
    /// For a replica to confirm an accept in the mode `replicated`.
    pub replica: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            response: Duration::from_secs(5),
            operation: Duration::from_secs(12),
            settle: Duration::from_secs(2),
            replica: Duration::from_secs(2),
        }
    }
}

/// All that the engine needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// Where the server is.
    pub topology: Topology,
    /// For `rediss://` URLs.
    pub tls: Tls,
    /// What an accepted event survives.
    pub durability: Durability,
    /// What every key starts with (inside its hash tag), so that gateways can share a server.
    pub namespace: String,
    /// How many shards there are: 0 up to this.
    pub shards: u16,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How often the server's settings are checked again.
    pub check_every: Duration,
    /// Where the server denies `CONFIG` (managed ones do), its AOF policy can't be seen: then this states that it is as strong
    /// as the durability mode demands.
    pub vouched: bool,
}

impl RedisConfig {
    /// One server, with the defaults for everything else.
    pub fn standalone(url: RedisUrl) -> Self {
        Self {
            topology: Topology::Standalone(url),
            tls: Tls::default(),
            durability: Durability::default(),
            namespace: "tg".to_owned(),
            shards: 4,
            timeouts: Timeouts::default(),
            check_every: Duration::from_secs(2),
            vouched: false,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.namespace.is_empty() || self.namespace.len() > 32 || !self.namespace.chars().all(plain) {
            return Err("the namespace must be 1 to 32 letters, digits, `-`, `_` or `.`".into());
        }
        if self.shards == 0 {
            return Err("there must be at least one shard".into());
        }
        let no_urls = match &self.topology {
            Topology::Standalone(_) => false,
            Topology::Sentinel { urls, .. } | Topology::Cluster(urls) => urls.is_empty(),
        };
        if no_urls { Err("no URL is given".into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_never_shows_its_password() {
        let url: RedisUrl = "redis://user:s3cret@example.com:6380/2".parse().unwrap();
        let shown = format!("{url} {url:?} {:?}", RedisConfig::standalone(url.clone()));
        assert!(!shown.contains("s3cret") && !shown.contains("user"), "{shown}");
        assert!(shown.contains("redis://example.com:6380/2"), "{shown}");
        assert!(url.reveal().contains("s3cret"));
        assert!("http://example.com".parse::<RedisUrl>().is_err());
    }
}
