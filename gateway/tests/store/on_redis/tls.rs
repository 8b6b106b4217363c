//! Redis over TLS: whom the engine trusts, and how it shows who it is.

use std::path::PathBuf;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tidegate::clock::Clock;
use tidegate::event::{Event, Lane, Shard};
use tidegate::store::redis::{Identity, RedisConfig, RedisStore, RedisUrl, Tls, Topology};
use tidegate::store::{Acceptance, Store, StoreError};
use tidegate_test_support::redis::{Cluster, Config, Flavor, Fsync, Server};

use crate::world::*;

/// An authority with a certificate for the server's address, as files.
pub(super) struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate with its issuer's name for the issuer's own.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { dir: tempfile::tempdir().unwrap(), issuer };
        std::fs::write(authority.file("ca.pem"), authority.issuer.pem()).unwrap();
        let server = authority.issue("127.0.0.1");
        std::fs::write(authority.file("cert.pem"), server.certificate).unwrap();
        std::fs::write(authority.file("key.pem"), server.key).unwrap();
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        Identity { certificate: certificate.pem().into_bytes(), key: key.serialize_pem().into_bytes() }
    }

    fn trusted(&self) -> Tls {
        Tls { authorities: Some(self.issuer.pem().into_bytes()), identity: None }
    }

    pub(super) fn known_as(&self, name: &str) -> Tls {
        Tls { identity: Some(self.issue(name)), ..self.trusted() }
    }

    /// A server with the authority's certificate; `clients` says whether it asks for theirs.
    pub(super) fn secure(&self, config: Config, clients: &str) -> Config {
        config.with_tls(&self.file("ca.pem"), &self.file("cert.pem"), &self.file("key.pem"), clients)
    }

    async fn server(&self, clients: &str) -> Server {
        Server::start(self.secure(Config::new(Flavor::Redis, Fsync::EverySec), clients)).await
    }
}

async fn connect(server: &Server, tls: Tls) -> Result<RedisStore, StoreError> {
    let url = server.tls_url().parse().expect("a Redis URL");
    RedisStore::connect(RedisConfig { tls, shards: 8, ..RedisConfig::standalone(url) }, Clock::system()).await
}

fn make(number: u64) -> Event {
    event(number, TENANT, Clock::system().now(), "a".into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_kept_and_handed_out_over_tls() {
    let authority = Authority::new();
    let mut server = authority.server("yes").await;
    let store = connect(&server, authority.known_as("gateway.test")).await.unwrap();
    let sent = [make(1), make(2)];
    assert_eq!(repeats(store.accept(sent.iter().map(acceptance).collect()).await.unwrap()), [None; 2]);
    let lease = store.acquire(SHARD, "a", Duration::from_secs(60)).await.unwrap().unwrap();
    let claimed = store.claim(&lease, Lane::Normal, ALL).await.unwrap();
    assert_eq!(claimed_ids(&claimed), ids(&sent));
    let signal = store.signal(SHARD);
    let woken = signal.notified();
    store.accept(vec![acceptance(&make(3))]).await.unwrap();
    woken.await;
    server.kill();
    eventually(async || store.ready().err()).await;
    server.restart().await;
    eventually(async || store.ready().ok()).await;
    store.accept(vec![acceptance(&make(4))]).await.unwrap();
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.server("no").await;
    connect(&server, authority.trusted()).await.unwrap();
    for tls in [other.trusted(), Tls::default()] {
        let error = connect(&server, tls).await.err().expect("not trusted");
        assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("certificate")), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_asks_who_connects_takes_nobody_else() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.server("yes").await;
    connect(&server, authority.known_as("gateway.test")).await.unwrap();
    let stranger = Tls { identity: Some(other.issue("gateway.test")), ..authority.trusted() };
    for tls in [authority.trusted(), stranger] {
        let error = connect(&server, tls).await.err().expect("not let in");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_spoken_to_over_tls_on_every_node() {
    let (authority, other) = (Authority::new(), Authority::new());
    let config = authority.secure(Config::new(Flavor::Redis, Fsync::EverySec), "yes");
    let cluster = Cluster::start(config, 3).await;
    let urls: Vec<RedisUrl> = cluster.tls_urls().iter().map(|url| url.parse().expect("a Redis URL")).collect();
    let connect = async |tls| {
        let topology = Topology::Cluster(vec![urls[0].clone()]);
        let config = RedisConfig { topology, tls, shards: 8, ..RedisConfig::standalone(urls[0].clone()) };
        RedisStore::connect(config, Clock::system()).await
    };
    let store = connect(authority.known_as("gateway.test")).await.unwrap();
    // Eight shards are on all three nodes.
    for shard in (0..8).map(Shard) {
        let event = make(shard.0.into());
        let lease = store.acquire(shard, "a", Duration::from_secs(60)).await.unwrap().unwrap();
        let (signal, accepted) = (store.signal(shard), Acceptance { shard, ..acceptance(&event) });
        let woken = signal.notified();
        store.accept(vec![accepted]).await.unwrap();
        woken.await;
        assert_eq!(claimed_ids(&store.claim(&lease, Lane::Normal, ALL).await.unwrap()), ids(&[event]));
    }
    for tls in [other.known_as("gateway.test"), authority.trusted(), Tls::default()] {
        assert!(connect(tls).await.is_err(), "not trusted, or not let in");
    }
}
