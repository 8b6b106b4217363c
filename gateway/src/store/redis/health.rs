//! What the server must be like, checked at start and again every few seconds.

use std::collections::HashMap;

use redis::{Value, cmd};

use super::config::{Durability, RedisConfig};
use super::error::{Fault, odd};
use super::link::Link;
use crate::store::StoreError;

/// From this share of maxmemory on, nothing new is accepted: what is left is for retries and acks.
const FULL_AT: f64 = 0.85;

/// How many connections may break under a check before the server counts as away.
const TRIES: u32 = 3;

/// What the last check found.
#[derive(Clone, Debug)]
pub(super) struct Health {
    /// Whether its settings are as demanded.
    pub(super) settings: Result<(), StoreError>,
    /// Whether it has room.
    pub(super) room: Result<(), StoreError>,
}

impl Health {
    /// Whether a server that can be reached takes something new.
    pub(super) fn may_accept(&self) -> Result<(), StoreError> {
        self.settings.clone()?;
        self.room.clone()
    }
}

/// What one server says of itself.
#[derive(Debug, Default)]
struct Facts {
    info: HashMap<String, String>,
    /// None where `CONFIG` is denied.
    settings: Option<HashMap<String, String>>,
}

/// Asks the server what it is like; the error if it can't be asked.
pub(super) async fn check(link: &Link, config: &RedisConfig) -> Result<Health, StoreError> {
    let mut tries = TRIES;
    let all = loop {
        tries -= 1;
        match facts(link).await {
            // Only this connection may have broken.
            Err(Fault::Lost(error)) if tries > 0 && !error.is_timeout() => {}
            answer => break answer.map_err(Fault::into_store)?,
        }
    };
    Ok(Health {
        settings: all.iter().try_for_each(|facts| facts.judge(config)).map_err(StoreError::Unavailable),
        room: all.iter().try_for_each(Facts::room),
    })
}

async fn facts(link: &Link) -> Result<Vec<Facts>, Fault> {
    let live = link.live().await.map_err(Fault::Unsent)?;
    let infos = match link.ask(&live, &cmd("INFO")).await? {
        // A cluster answers for each of its masters.
        Value::Map(nodes) => nodes.into_iter().map(|(_, info)| info).collect(),
        info => vec![info],
    };
    let mut ask = cmd("CONFIG");
    ask.arg("GET").arg(&["appendfsync", "no-appendfsync-on-rewrite", "min-replicas-to-write"]);
    let settings: Option<HashMap<String, String>> = match link.ask(&live, &ask).await {
        Ok(answer) => Some(redis::from_redis_value(answer).map_err(|_| Fault::Unsent(odd("CONFIG GET")))?),
        Err(Fault::Answered(_)) => None,
        Err(fault) => return Err(fault),
    };
    let facts = infos.into_iter().map(|info| {
        let text: String = redis::from_redis_value(info).map_err(|_| Fault::Unsent(odd("INFO")))?;
        let info = text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.into(), value.trim().into()));
        Ok(Facts { info: info.collect(), settings: settings.clone() })
    });
    facts.collect()
}

impl Facts {
    fn info(&self, key: &str) -> &str {
        self.info.get(key).map_or("", String::as_str)
    }

    /// The first thing that is not as it must be, and what to do about it.
    fn judge(&self, config: &RedisConfig) -> Result<(), String> {
        let version = self.info("redis_version");
        if version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_none_or(|major| major < 7) {
            return Err(format!("redis is version `{version}`: it must be 7.0 or later"));
        }
        if self.info("role") != "master" {
            return Err("redis is a replica: the URL must lead to the master".into());
        }
        let policy = self.info("maxmemory_policy");
        if policy != "noeviction" {
            return Err(format!(
                "redis would evict data under memory pressure: set maxmemory-policy to noeviction (it is `{policy}`)"
            ));
        }
        if config.durability == Durability::Ephemeral {
            return Ok(());
        }
        if self.info("aof_enabled") != "1" {
            return Err("redis keeps no append-only file: set appendonly to yes, or choose durability ephemeral".into());
        }
        if self.info("aof_last_write_status") != "ok" {
            return Err("redis failed to write its append-only file (aof_last_write_status): look at its log and free disk".into());
        }
        match &self.settings {
            Some(settings) => policy_of(settings, config.durability),
            None if config.vouched => Ok(()),
            None => Err("redis denies CONFIG, so its AOF policy can't be seen: check that it is as strong as the durability mode \
                         demands, and say so in the configuration (vouched)"
                .into()),
        }
    }

    fn room(&self) -> Result<(), StoreError> {
        let number = |key| self.info(key).parse::<f64>().unwrap_or(0.0);
        let (used, most) = (number("used_memory"), number("maxmemory"));
        if most > 0.0 && used >= FULL_AT * most {
            let share = 100.0 * used / most;
            return Err(StoreError::Full(format!("redis uses {share:.0} % of its maxmemory: raise it, or let the backlog drain")));
        }
        Ok(())
    }
}

fn policy_of(settings: &HashMap<String, String>, durability: Durability) -> Result<(), String> {
    let setting = |key: &str| settings.get(key).map_or("", String::as_str);
    let fsync = setting("appendfsync");
    match durability {
        Durability::Ephemeral => {}
        Durability::EverySec | Durability::Replicated => {
            if !matches!(fsync, "everysec" | "always") {
                return Err(format!("redis leaves fsync to the system: set appendfsync to everysec or always (it is `{fsync}`)"));
            }
        }
        Durability::Fsync => {
            if fsync != "always" {
                return Err(format!("durability fsync needs appendfsync always (it is `{fsync}`)"));
            }
            if setting("no-appendfsync-on-rewrite") != "no" {
                return Err("durability fsync needs no-appendfsync-on-rewrite no".into());
            }
        }
    }
    if durability == Durability::Replicated && setting("min-replicas-to-write").parse::<u32>().unwrap_or(0) == 0 {
        return Err("durability replicated needs min-replicas-to-write of at least 1".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(changes: &[(&str, &str)]) -> Facts {
        let mut facts = Facts::default();
        let good = [("redis_version", "7.0.15"), ("role", "master"), ("maxmemory_policy", "noeviction"), ("aof_enabled", "1")];
        for (key, value) in good.iter().chain(&[("aof_last_write_status", "ok")]).chain(changes) {
            facts.info.insert((*key).into(), (*value).into());
        }
        let settings = [("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no"), ("min-replicas-to-write", "1")];
        facts.settings = Some(settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect());
        facts
    }

    fn config(durability: Durability) -> RedisConfig {
        RedisConfig { durability, ..RedisConfig::standalone("redis://localhost".parse().unwrap()) }
    }

    #[test]
    fn each_bad_setting_is_refused_by_name() {
        for (key, value, named) in [
            ("redis_version", "6.2.1", "7.0"),
            ("role", "slave", "master"),
            ("maxmemory_policy", "allkeys-lru", "noeviction"),
            ("aof_enabled", "0", "appendonly"),
            ("aof_last_write_status", "err", "aof_last_write_status"),
        ] {
            let error = facts(&[(key, value)]).judge(&config(Durability::EverySec)).unwrap_err();
            assert!(error.contains(named), "{key}: {error}");
        }
        for durability in [Durability::Ephemeral, Durability::EverySec, Durability::Fsync, Durability::Replicated] {
            assert_eq!(facts(&[]).judge(&config(durability)), Ok(()));
        }
    }

    #[test]
    fn each_mode_demands_its_policy() {
        for (key, value, refusing) in [
            ("appendfsync", "no", &[Durability::EverySec, Durability::Fsync, Durability::Replicated][..]),
            ("appendfsync", "everysec", &[Durability::Fsync]),
            ("no-appendfsync-on-rewrite", "yes", &[Durability::Fsync]),
            ("min-replicas-to-write", "0", &[Durability::Replicated]),
        ] {
            let mut facts = facts(&[]);
            facts.settings.as_mut().unwrap().insert(key.into(), value.into());
            for durability in [Durability::Ephemeral, Durability::EverySec, Durability::Fsync, Durability::Replicated] {
                let judged = facts.judge(&config(durability));
                assert_eq!(judged.is_err(), refusing.contains(&durability), "{key} {value} {durability:?}: {judged:?}");
                assert!(judged.err().is_none_or(|error| error.contains(key)));
            }
        }
    }

    #[test]
    fn where_config_is_denied_somebody_must_vouch() {
        let mut facts = facts(&[]);
        facts.settings = None;
        assert!(facts.judge(&config(Durability::Fsync)).unwrap_err().contains("vouched"));
        assert_eq!(facts.judge(&RedisConfig { vouched: true, ..config(Durability::Fsync) }), Ok(()));
    }

    #[test]
    fn the_last_part_of_the_memory_is_kept_for_what_was_accepted() {
        assert!(facts(&[("used_memory", "84"), ("maxmemory", "100")]).room().is_ok());
        assert!(facts(&[("used_memory", "84"), ("maxmemory", "0")]).room().is_ok());
        assert!(matches!(facts(&[("used_memory", "85"), ("maxmemory", "100")]).room(), Err(StoreError::Full(_))));
    }
}
