use std::path::Path;
use std::time::Duration;

use super::*;

fn faults(text: &str) -> Vec<String> {
    let faults = Config::parse(text, Path::new("/etc/tidegate")).expect_err("has faults");
    faults.iter().map(|fault| format!("{}: {fault}", fault.line.map_or("-".into(), |line| line.to_string()))).collect()
}

#[test]
fn no_file_runs_the_embedded_store_in_data() {
    let config = Config::default();
    let Store::Embedded(store) = &config.store else { panic!("{config:?}") };
    assert_eq!(store.path, Path::new("data"));
    assert!(config.admin.listen.ip().is_loopback());
}

#[test]
fn every_section_reads() {
    let config = Config::parse(
        r#"
[ingest]
listen = "127.0.0.1:0"
tls = { certificate = "tls/cert.pem", key = "tls/key.pem" }
public_url = "https://hooks.example.com"
trusted_proxies = ["10.0.0.0/8"]
max_body = "2MiB"
idle_timeout = "1m 30s"

[store]
kind = "redis"
urls = ["redis://:hunter2@127.0.0.1:6379"]
durability = "fsync"

[egress]
allow = ["127.0.0.0/8"]
hosts = [{ name = "receiver.test", addresses = ["127.0.0.1"] }]
name_servers = ["10.0.0.2:53", "[fd00::2]:5353"]

[plugins]
threads = 2

[telemetry]
log = "pretty"
sample_ratio = 1

[keys]
encryption = "env:TIDEGATE_ENCRYPTION_KEY"
"#,
        Path::new("/etc/tidegate"),
    )
    .expect("is valid");
    assert_eq!(config.ingest.max_body, 2 << 20);
    assert_eq!(config.ingest.idle_timeout, Duration::from_secs(90));
    assert_eq!(config.ingest.tls.as_ref().map(|tls| tls.key.clone()), Some("/etc/tidegate/tls/key.pem".into()));
    assert_eq!(config.egress.name_servers.iter().map(|server| server.port()).collect::<Vec<_>>(), [53, 5353]);
    let Store::Redis(redis) = &config.store else { panic!("not redis") };
    assert_eq!(redis.durability, Durability::Fsync);
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn all_faults_come_at_once_with_field_and_line() {
    let found = faults(
        r#"[ingest]
lisen = "127.0.0.1:1"
max_body = "many"
max_headers = 0

[admin]
timeout = "soon"

[dispatch]
shards = 0

[store]
kind = "redis"
urls = []
colour = "red"
path = "data"

[egress]
allow = ["10.0.0.0/8", "nonsense"]
hosts = [{ name = "a", addresses = [], colour = "red" }]

[telemetry]
sample_ratio = 2.0

[typo]
a = 1
"#,
    );
    let expected = [
        ("2: ingest.lisen: ", "unknown field `lisen`"),
        ("3: ingest.max_body: ", "not a size"),
        ("4: ingest.max_headers: ", "from 10 to 1000"),
        ("7: admin.timeout: ", "not a duration"),
        ("10: dispatch.shards: ", "from 1 to 1024"),
        ("14: store.urls: ", "at least one server"),
        ("15: store.colour: ", "unknown field"),
        ("16: store.path: ", "alone"),
        ("19: egress.allow[1]: ", "invalid IP address"),
        ("20: egress.hosts[0].addresses: ", "at least one"),
        ("20: egress.hosts[0].colour: ", "unknown field"),
        ("23: telemetry.sample_ratio: ", "from 0 to 1"),
        ("25: typo: ", "unknown field"),
    ];
    for (start, part) in expected {
        assert!(found.iter().any(|fault| fault.starts_with(start) && fault.contains(part)), "{start} {part}: {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn broken_syntax_names_the_line() {
    let found = faults("[ingest]\nlisten = \n");
    assert!(found[0].starts_with("2: "), "{found:?}");
}

#[test]
fn a_secret_in_place_of_a_reference_is_not_repeated() {
    let found = faults("[keys]\noperator = \"hunter2\"\n");
    assert!(found[0].contains("env:NAME") && !found[0].contains("hunter2"), "{found:?}");
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/tidegate.toml")).expect_err("is not there");
    assert!(error.to_string().contains("/nonexistent/tidegate.toml"), "{error}");
}

#[test]
fn paths_start_at_the_file_and_settings_of_the_other_store_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("tidegate.toml");
    std::fs::write(&file, "[store]\npath = \"here\"\ndurability = \"everysec\"\n").expect("writes");
    let config = Config::load(&file).expect("is valid");
    let Store::Embedded(store) = config.store else { panic!("not embedded") };
    assert_eq!((store.path, store.durability), (dir.path().join("here"), EmbeddedDurability::Everysec));
    let SecretRef::File(key) = config.keys.operator else { panic!("not a file") };
    assert_eq!(key, dir.path().join("keys/operator.key"));
    let found = faults("[store]\nurls = []\ndurability = \"replicated\"\n");
    assert!(found[0].contains("belongs to kind = \"redis\"") && found[1].contains("fsync"), "{found:?}");
}

#[test]
fn redis_over_tls_takes_files_beside_the_configuration() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("tidegate.toml");
    let store = "[store]\nkind = \"redis\"\nurls = [\"rediss://localhost\"]\n";
    std::fs::write(&file, format!("{store}ca_file = \"ca.pem\"\ncert_file = \"c.pem\"\nkey_file = \"/k.pem\"\n")).expect("writes");
    let Store::Redis(redis) = Config::load(&file).expect("is valid").store else { panic!("not redis") };
    assert_eq!(redis.ca_file, Some(dir.path().join("ca.pem")));
    let identity = redis.identity.expect("an identity");
    assert_eq!((identity.certificate, identity.key), (dir.path().join("c.pem"), "/k.pem".into()));
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        let found = faults(&format!("{store}{one} = \"x.pem\"\n"));
        assert!(found[0].contains(other), "{found:?}");
    }
    let found = faults("[store]\nca_file = \"ca.pem\"\n");
    assert!(found[0].contains("belongs to kind = \"redis\""), "{found:?}");
}
