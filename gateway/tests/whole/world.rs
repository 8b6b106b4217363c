//! A gateway with the store that a test asks for, and a receiver.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_test_support::eventually;
use tidegate_test_support::gateway::{Gateway, Launch};
use tidegate_test_support::http::Receiver;
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use crate::api::Api;

/// How long something that must happen may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// The operator's key in every test.
pub(crate) const OPERATOR: &str = "tgo_00112233445566778899aabbccddeeff";
/// How long a dead gateway's shards wait for another.
pub(crate) const LEASE: Duration = Duration::from_secs(2);

const ENCRYPTION: &str = "tgek_00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Which store, in which durability mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Embedded(&'static str),
    /// Embedded with fsync, and with a reserve that fits a small disk.
    Small,
    Redis(&'static str),
}

pub(crate) const EMBEDDED: Engine = Engine::Embedded("fsync");
pub(crate) const SMALL: Engine = Engine::Small;
pub(crate) const REDIS: Engine = Engine::Redis("everysec");

/// The servers that a store stands on; none for the embedded one.
pub(crate) struct Servers {
    engine: Engine,
    pub(crate) redis: Option<Server>,
    pub(crate) replica: Option<Server>,
}

impl Servers {
    pub(crate) async fn start(engine: Engine) -> Self {
        let Engine::Redis(mode) = engine else { return Self { engine, redis: None, replica: None } };
        let fsync = match mode {
            "fsync" => Fsync::Always,
            "ephemeral" => Fsync::Off,
            _ => Fsync::EverySec,
        };
        let config = Config::new(Flavor::Redis, fsync);
        if mode != "replicated" {
            return Self { engine, redis: Some(Server::start(config).await), replica: None };
        }
        let primary = Server::start(config.clone().with("min-replicas-to-write", "1").with("repl-diskless-sync-delay", "0")).await;
        let replica = Server::start(config.replica_of(&primary)).await;
        eventually("the replica follows", SOON, async || {
            let counted = primary.info("min_slaves_good_slaves").await == "1";
            (counted && replica.info("master_link_status").await == "up").then_some(())
        })
        .await;
        Self { engine, redis: Some(primary), replica: Some(replica) }
    }

    /// A store on a server that runs already.
    pub(crate) fn of(server: Server, mode: &'static str) -> Self {
        Self { engine: Engine::Redis(mode), redis: Some(server), replica: None }
    }

    /// A gateway on this store, not started yet. `toml` is added to its configuration.
    pub(crate) fn launch(&self, toml: &str) -> Launch {
        let store = match (self.engine, &self.redis) {
            (Engine::Redis(mode), Some(server)) => {
                format!("kind = \"redis\"\ndurability = \"{mode}\"\nurls = [\"{}\"]", server.url())
            }
            (Engine::Small, _) => "durability = \"fsync\"\nreserve = \"16MiB\"".to_owned(),
            (Engine::Embedded(mode) | Engine::Redis(mode), _) => format!("durability = \"{mode}\""),
        };
        let lease = if toml.contains("dispatch.lease_ttl") {
            String::new()
        } else {
            format!("dispatch.lease_ttl = \"{}s\"\n", LEASE.as_secs())
        };
        let config = format!(
            "{toml}\n{lease}dispatch.shards = 4\n[store]\n{store}\n\
             [keys]\nencryption = \"file:encryption.key\"\noperator = \"file:operator.key\"\n"
        );
        Launch::new(env!("CARGO_BIN_EXE_tidegate"))
            .file("encryption.key", ENCRYPTION)
            .file("operator.key", OPERATOR)
            .config(&config)
    }
}

/// A running gateway with its store and a receiver.
pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) servers: Servers,
    pub(crate) receiver: Receiver,
    pub(crate) api: Api,
}

impl World {
    pub(crate) async fn start(engine: Engine) -> Self {
        Self::with(engine, |launch| launch, "").await
    }

    /// With more configuration, and changes to how it is started.
    pub(crate) async fn with(engine: Engine, change: impl FnOnce(Launch) -> Launch, toml: &str) -> Self {
        let servers = Servers::start(engine).await;
        let gateway = change(servers.launch(toml)).start().await;
        let api = Api::of(&gateway);
        Self { gateway, servers, receiver: Receiver::start().await, api }
    }

    pub(crate) fn redis(&mut self) -> &mut Server {
        self.servers.redis.as_mut().expect("the store is Redis")
    }
}

/// A plugin that is part of the repository.
pub(crate) fn prebuilt(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugins/prebuilt").join(name).with_extension("wasm");
    std::fs::read(path).expect("the prebuilt plugin is there")
}
