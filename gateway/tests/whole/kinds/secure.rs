//! TLS and log-ins, against the real servers; for Kafka, OpenSSL and a library of SCRAM in front of a cluster for tests.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tidegate_test_support::brokers::kafka::{Certificate, Kafka, TOPIC};
use tidegate_test_support::brokers::nats::Nats;
use tidegate_test_support::brokers::rabbitmq::RabbitMq;
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use super::*;

/// An authority, and a server's certificate of it for 127.0.0.1.
struct Identity {
    directory: TempDir,
    authority: String,
}

impl Identity {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &authority).unwrap();
        let this = Self { directory: tempfile::tempdir().unwrap(), authority: authority.pem() };
        for (name, pem) in [("ca", &this.authority), ("cert", &certificate.pem()), ("key", &key.serialize_pem())] {
            std::fs::write(this.file(name), pem).unwrap();
        }
        this
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name).with_extension("pem")
    }

    fn shown(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// A destination of a broker with this URL.
    fn destination(&self, kind: &str, url: &str, section: Value) -> Value {
        json!({"kind": kind, "url": url, kind: section, "auth": user(), "tls": {"ca_pem": self.authority}})
    }
}

/// Delivers over TLS, and to nobody whose certificate is not known.
async fn is_spoken_to_over_tls(destination: Value) -> Kind {
    let kind = Kind::start(destination.clone()).await;
    let event = kind.post(BODY).await;
    kind.delivered(&event).await;
    kind.patch(json!({"tls": {"ca_pem": null}})).await;
    let event = kind.post(BODY).await;
    kind.failed(&event, "tls_failed").await;
    kind.patch(json!({"tls": destination["tls"]})).await;
    kind.delivered(&event).await;
    kind
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls() {
    let identity = Identity::new();
    let config = Config::new(Flavor::Redis, Fsync::Off).with("user", &format!("{USER} on >{PASSWORD} ~hooks +xadd"));
    let server = Server::start(config.with_tls(&identity.file("ca"), &identity.file("cert"), &identity.file("key"), "no")).await;
    is_spoken_to_over_tls(identity.destination("redis_stream", &server.tls_url(), json!({"stream": "hooks"}))).await;
    assert_eq!(server.command(&["XLEN", "hooks"]).await, ::redis::Value::Int(2));
}

#[tokio::test]
async fn nats_is_spoken_to_over_tls() {
    let identity = Identity::new();
    // The test itself looks at it without.
    let tls = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}\nallow_non_tls: true",
        identity.shown("cert"),
        identity.shown("key")
    );
    let server = Nats::start(&tls).await;
    server.create_stream("HOOKS", "hooks.>", json!({})).await;
    let url = format!("tls://127.0.0.1:{}", server.port());
    is_spoken_to_over_tls(identity.destination("nats", &url, json!({"subject": "hooks.acme"}))).await;
    assert_eq!(server.messages("HOOKS").await.len(), 2);
}

#[tokio::test]
async fn rabbitmq_is_spoken_to_over_tls() {
    let identity = Identity::new();
    let (server, port) = RabbitMq::start_with_tls([&identity.file("ca"), &identity.file("cert"), &identity.file("key")]).await;
    server.create_queue("hooks").await;
    let url = format!("amqps://127.0.0.1:{port}");
    is_spoken_to_over_tls(identity.destination("amqp", &url, json!({"routing_key": "hooks"}))).await;
    assert_eq!(server.messages("hooks").await.len(), 2);
}

#[tokio::test]
async fn kafka_is_spoken_to_over_tls_by_whoever_it_knows() {
    let identity = Identity::new();
    let server = Kafka::guarded(Some(Certificate { certificate: &identity.file("cert"), key: &identity.file("key") })).await;
    let url = format!("kafka+tls://{}", server.address());
    let kind = is_spoken_to_over_tls(identity.destination("kafka", &url, json!({"topic": TOPIC, "sasl": "scram_sha512"}))).await;
    for (sasl, mechanism) in [("scram_sha512", "SCRAM-SHA-512"), ("scram_sha256", "SCRAM-SHA-256"), ("plain", "PLAIN")] {
        kind.patch(json!({"kafka": {"sasl": sasl}})).await;
        credentials_are_told_apart(&kind).await;
        assert!(server.logins(mechanism) > 0, "{mechanism}");
    }
    kind.patch(json!({"auth": {"type": "none"}})).await;
    let event = kind.post("nobody").await;
    kind.failed(&event, "reset").await;
    kind.patch(json!({"auth": user()})).await;
    kind.delivered(&event).await;
    // Two over TLS, two for each mechanism, and the last: each once.
    assert_eq!(server.messages().len(), 2 + 3 + 1);
}

#[tokio::test]
async fn kafka_takes_a_password_without_tls_by_scram_alone() {
    let server = Kafka::guarded(None).await;
    let url = format!("kafka://{}", server.address());
    let kafka = json!({"topic": TOPIC, "sasl": "scram_sha256"});
    let kind = Kind::start(json!({"kind": "kafka", "url": url, "kafka": kafka, "auth": user()})).await;
    let event = kind.post(BODY).await;
    kind.delivered(&event).await;
    kind.patch(json!({"kafka": {"sasl": "plain"}})).await;
    let event = kind.post(BODY).await;
    let failure = kind.failed(&event, "login_refused").await["failure"].clone();
    assert!(failure["detail"].as_str().unwrap().contains("PLAIN"), "{failure}");
}
