//! What the server must be like, checked at start and again every few seconds.

use std::collections::{BTreeSet, HashMap};

use redis::{Value, cmd};

use super::config::{Durability, RedisConfig};
use super::error::{Fault, odd};
use super::link::Link;
use super::servers::Place;
use crate::event::Lane;
use crate::store::StoreError;

/// From this share of maxmemory on, nothing new is accepted into the low lane, and history goes before its budget is used up.
const SHORT_AT: f64 = 0.75;
/// From this share of maxmemory on, nothing new is accepted at all: what is left is for claims, retries and acks.
const FULL_AT: f64 = 0.85;

/// How many connections may break under a check before the server counts as away.
const TRIES: u32 = 3;

/// What the last check found.
#[derive(Debug)]
pub(super) struct Health {
    /// Whether its settings are as demanded.
    pub(super) settings: Result<(), StoreError>,
    /// Whether it is a replica: the master is elsewhere, and every connection must be made anew to find it.
    pub(super) elsewhere: bool,
    /// The servers that it tells of: those of a cluster, and replicas.
    pub(super) told: BTreeSet<Place>,
    /// How much room it has.
    room: Room,
    /// What history had given back in all, before the server was asked.
    given_back: u64,
}

/// How much of its memory a server uses; of several, the fullest.
#[derive(Debug, Default)]
struct Room {
    /// 1 is all; 0 where there is no limit.
    used: f64,
    /// By how many bytes it is beyond [`SHORT_AT`].
    excess: u64,
}

impl Health {
    /// Whether a server that can be reached takes something new for this lane.
    pub(super) fn may_accept(&self, lane: Lane) -> Result<(), StoreError> {
        self.settings.clone()?;
        self.room.admits(lane)
    }

    /// How many bytes history should give back, whatever its budget, if it has given back so many in all.
    pub(super) fn excess(&self, given_back: u64) -> u64 {
        self.room.excess.saturating_sub(given_back.saturating_sub(self.given_back))
    }
}

impl Room {
    fn admits(&self, lane: Lane) -> Result<(), StoreError> {
        let (limit, what) =
            if lane == Lane::Low { (SHORT_AT, "the low lane takes nothing") } else { (FULL_AT, "nothing is taken") };
        if self.used < limit {
            return Ok(());
        }
        let (used, limit) = (100.0 * self.used, 100.0 * limit);
        Err(StoreError::Full(format!(
            "redis uses {used:.0} % of its maxmemory, and from {limit:.0} % on {what}: raise it, or let the backlog drain"
        )))
    }
}

/// What one server says of itself.
#[derive(Debug, Default)]
struct Facts {
    /// `host:port` of one of several.
    name: Option<String>,
    info: HashMap<String, String>,
    /// None where `CONFIG` is denied.
    settings: Option<HashMap<String, String>>,
}

/// Asks the server what it is like; the error if it can't be asked.
pub(super) async fn check(link: &Link, config: &RedisConfig, given_back: u64) -> Result<Health, StoreError> {
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
        elsewhere: all.iter().any(Facts::is_replica),
        told: all.iter().flat_map(Facts::places).collect(),
        room: all.iter().map(Facts::room).max_by(|a, b| a.used.total_cmp(&b.used)).unwrap_or_default(),
        given_back,
    })
}

async fn facts(link: &Link) -> Result<Vec<Facts>, Fault> {
    let live = link.live().await.map_err(Fault::Unsent)?;
    let infos: Vec<(Option<String>, Value)> = match link.ask(&live, &cmd("INFO")).await? {
        // A cluster answers for each of its masters.
        Value::Map(nodes) => nodes.into_iter().map(|(node, info)| (redis::from_redis_value(node).ok(), info)).collect(),
        info => vec![(None, info)],
    };
    let mut ask = cmd("CONFIG");
    ask.arg("GET").arg(&["appendfsync", "no-appendfsync-on-rewrite", "min-replicas-to-write"]);
    let settings: Option<HashMap<String, String>> = match link.ask(&live, &ask).await {
        Ok(answer) => Some(redis::from_redis_value(answer).map_err(|_| Fault::Unsent(odd("CONFIG GET")))?),
        Err(Fault::Answered(_)) => None,
        Err(fault) => return Err(fault),
    };
    let facts = infos.into_iter().map(|(name, info)| {
        let text: String = redis::from_redis_value(info).map_err(|_| Fault::Unsent(odd("INFO")))?;
        let info = text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.into(), value.trim().into()));
        Ok(Facts { name, info: info.collect(), settings: settings.clone() })
    });
    let facts: Vec<Facts> = facts.collect::<Result<_, _>>()?;
    if facts.iter().any(Facts::is_replica) {
        link.retire(&live);
    }
    Ok(facts)
}

impl Facts {
    fn info(&self, key: &str) -> &str {
        self.info.get(key).map_or("", String::as_str)
    }

    /// Where it is itself, if it is one of several, its replicas, and what it is a replica of.
    fn places(&self) -> impl Iterator<Item = Place> {
        let own = self.name.as_deref().and_then(|name| name.rsplit_once(':'));
        let followed = self.info.get("master_host").map(|host| (host.as_str(), self.info("master_port")));
        let numbered = |key: &str| key.strip_prefix("slave").is_some_and(|number| number.parse::<u32>().is_ok());
        let replicas = self.info.iter().filter(move |(key, _)| numbered(key)).filter_map(|(_, told)| {
            let part = |name: &str| told.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            Some((part("ip")?, part("port")?))
        });
        let all = own.into_iter().chain(followed).chain(replicas);
        all.filter_map(|(host, port)| Some((host.to_owned(), port.parse().ok()?)))
    }

    fn is_replica(&self) -> bool {
        self.info("role") != "master"
    }

    /// The first thing that is not as it must be, and what to do about it.
    fn judge(&self, config: &RedisConfig) -> Result<(), String> {
        let version = self.info("redis_version");
        if version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_none_or(|major| major < 7) {
            return Err(format!("redis is version `{version}`: it must be 7.0 or later"));
        }
        if self.is_replica() {
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

    fn room(&self) -> Room {
        let number = |key| self.info(key).parse::<f64>().unwrap_or(0.0);
        // The server itself does not hold its buffers for replicas and the log against the limit.
        let (used, most) = (number("used_memory") - number("mem_not_counted_for_evict"), number("maxmemory"));
        if most <= 0.0 {
            return Room::default();
        }
        // A negative one becomes 0.
        Room { used: used / most, excess: (used - SHORT_AT * most) as u64 }
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
        for (used, most, low, others) in
            [(74, 100, true, true), (75, 100, false, true), (84, 100, false, true), (84, 0, true, true)]
                .into_iter()
                .chain([(85, 100, false, false), (120, 100, false, false)])
        {
            let room = facts(&[("used_memory", &used.to_string()), ("maxmemory", &most.to_string())]).room();
            for (lane, admitted) in [(Lane::Low, low), (Lane::Normal, others), (Lane::Held, others)] {
                let answer = room.admits(lane);
                assert_eq!(answer.is_ok(), admitted, "{used} of {most}: {answer:?}");
                assert!(matches!(answer, Ok(()) | Err(StoreError::Full(_))));
            }
        }
        let buffers = [("used_memory", "84"), ("mem_not_counted_for_evict", "10"), ("maxmemory", "100")];
        assert!(facts(&buffers).room().admits(Lane::Low).is_ok());
    }

    #[test]
    fn servers_that_are_told_of_are_known() {
        let replicas =
            [("slave0", "ip=10.0.0.2,port=6380,state=online,offset=1,lag=0"), ("slave1", "ip=::1,port=6381,state=online")];
        let others = [("slave_read_only", "1"), ("slaves", "2"), ("master_host", "first.test"), ("master_port", "6379")];
        let mut facts = facts(&[&replicas[..], &others].concat());
        facts.name = Some("10.0.0.1:7000".into());
        let places: BTreeSet<Place> = facts.places().collect();
        let expected = [("10.0.0.1", 7000), ("10.0.0.2", 6380), ("::1", 6381), ("first.test", 6379)];
        assert_eq!(places, expected.map(|(host, port)| (host.to_owned(), port)).into());
    }

    #[test]
    fn history_gives_back_what_is_too_much_once() {
        let room = facts(&[("used_memory", "95"), ("maxmemory", "100")]).room();
        let health = Health { settings: Ok(()), elsewhere: false, told: BTreeSet::new(), room, given_back: 1000 };
        assert_eq!([1000, 1015, 1030].map(|given_back| health.excess(given_back)), [20, 5, 0]);
        assert_eq!(facts(&[("used_memory", "50"), ("maxmemory", "100")]).room().excess, 0);
    }
}
