//! What is refused before anything is sent: addresses that may not be reached, and fields that make no sense together.

use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use super::*;
use crate::world::{Engine, OPERATOR};

#[tokio::test]
async fn a_broker_at_a_private_address_is_refused() {
    let hosts = "egress.hosts = [{ name = \"broker.test\", addresses = [\"127.0.0.1\"] }]\negress.allow = []\n";
    for (kind, url, section) in [
        ("redis_stream", "redis://broker.test:6379", json!({"stream": "hooks"})),
        ("nats", "nats://broker.test:4222", json!({"subject": "hooks"})),
        ("amqp", "amqp://broker.test:5672", json!({"routing_key": "hooks"})),
        ("kafka", "kafka://broker.test:9092", json!({"topic": "hooks"})),
        ("s3", "http://broker.test:9000", json!({"bucket": "hooks"})),
    ] {
        let mut destination = json!({"kind": kind, "url": url});
        destination[kind] = section;
        let named = Kind::with(destination.clone(), hosts).await;
        let event = named.post("a").await;
        let attempt = named.failed(&event, "address_refused").await;
        assert_eq!(attempt["status"], Value::Null);
        // An address is refused at once, however it is spelled.
        for spelled in ["127.0.0.1", "0x7f000001", "[::ffff:127.0.0.1]"] {
            destination["url"] = url.replace("broker.test", spelled).into();
            let path = format!("/v1/destinations/out?tenant={TENANT}");
            let change = json!({"url": destination["url"]}).to_string();
            let reply = named.world.api.send("PATCH", &path, "application/json", change).await;
            assert_eq!((reply.status, &reply.json()["errors"][0]["field"]), (422, &json!("url")), "{spelled}: {:?}", reply.body);
        }
    }
}

/// Whatever `egress.allow` opens, a tenant's destination must not write into the store that all share.
#[tokio::test]
async fn the_gateway_s_own_store_is_no_destination() {
    let hosts = "egress.hosts = [{ name = \"store.test\", addresses = [\"127.0.0.1\"] }]";
    let world = World::with(Engine::Redis("replicated"), |launch| launch, hosts).await;
    let stream = json!({"stream": "hooks"});
    let ports = [world.servers.redis.as_ref().unwrap().port(), world.servers.replica.as_ref().unwrap().port()];
    let url = format!("redis://store.test:{}", ports[0]);
    let kind = Kind::of(world, json!({"kind": "redis_stream", "url": url, "redis_stream": stream})).await;
    let path = format!("/v1/destinations/out?tenant={TENANT}");
    for port in ports {
        kind.patch(json!({"url": format!("redis://store.test:{port}")})).await;
        let event = kind.post("a").await;
        let failure = kind.failed(&event, "address_refused").await["failure"].clone();
        assert!(failure["detail"].as_str().unwrap().ends_with("the gateway's own store"), "{failure}");
        for host in ["127.0.0.1", "127.0.0.2", "[::ffff:127.0.0.1]", "0x7f000001"] {
            let change = json!({"url": format!("redis://{host}:{port}")}).to_string();
            let reply = kind.world.api.send("PATCH", &path, "application/json", change).await;
            let error = &reply.json()["errors"][0];
            assert_eq!((reply.status, &error["field"]), (422, &json!("url")), "{host}: {:?}", reply.body);
            assert!(error["message"].as_str().unwrap().contains("the gateway's own store"), "{error}");
        }
    }
    let store = kind.world.servers.redis.as_ref().unwrap();
    assert_eq!(store.command(&["EXISTS", "hooks"]).await, ::redis::Value::Int(0));
    // Another server beside it is one.
    let other = Server::start(Config::new(Flavor::Redis, Fsync::Off)).await;
    kind.patch(json!({"url": other.url()})).await;
    let event = kind.post("b").await;
    kind.delivered(&event).await;
    assert_eq!(other.command(&["XLEN", "hooks"]).await, ::redis::Value::Int(1));
}

#[tokio::test]
async fn fields_of_another_kind_are_refused_by_name() {
    let world = World::start(EMBEDDED).await;
    let nats = json!({"kind": "nats", "url": "nats://nats.example.com", "nats": {"subject": "hooks"}});
    world.api.apply(json!({})).await;
    for (change, field) in [
        (json!({"url": "https://nats.example.com"}), "url"),
        (json!({"url": "nats://nats.example.com/hooks"}), "url"),
        (json!({"url": "nats://me:secret@nats.example.com"}), "url"),
        (json!({"nats": null}), "nats"),
        (json!({"nats": {"subject": "hooks.*"}}), "nats.subject"),
        (json!({"nats": {"subject": "hooks INJECTED"}}), "nats.subject"),
        (json!({"nats": {"subject": "$JS.API.STREAM.PURGE.X"}}), "nats.subject"),
        (json!({"nats": {"subject": "hooks", "stream": "a b"}}), "nats.stream"),
        (json!({"redis_stream": {"stream": "hooks"}}), "redis_stream"),
        (json!({"append_path": true}), "append_path"),
        (json!({"handshake": {"origin": "hooks.example.com"}}), "handshake"),
        (json!({"compression": "gzip"}), "compression"),
        (json!({"proxy": {"url": "http://proxy.example.com:3128"}}), "proxy"),
        (json!({"auth": {"type": "api_key", "header": "x-key", "value": "secret"}}), "auth.type"),
        (json!({"kind": "amqp", "url": "amqp://a.example.com", "nats": null, "amqp": {}}), "amqp.routing_key"),
        (json!({"kind": "kafka", "url": "kafka://k.example.com", "nats": null, "kafka": {"topic": "a b"}}), "kafka.topic"),
        (
            json!({"kind": "kafka", "url": "kafka://k.example.com", "nats": null, "kafka": {"topic": "a"}, "order": {"by": "destination"}}),
            "order",
        ),
        (json!({"kind": "s3", "url": "https://s3.example.com", "nats": null, "s3": {"key": "all"}}), "s3.key"),
        (json!({"kind": "s3", "url": "https://s3.example.com", "nats": null, "s3": {"bucket": "../x"}}), "s3.bucket"),
        (json!({"kind": "http", "url": "https://example.com"}), "nats"),
    ] {
        let mut destination = nats.clone();
        destination["name"] = "out".into();
        for (name, value) in change.as_object().unwrap() {
            if value.is_null() {
                drop(destination.as_object_mut().unwrap().remove(name))
            } else {
                destination[name] = value.clone()
            }
        }
        let path = format!("/v1/destinations?tenant={TENANT}");
        let reply = world.api.with_key(OPERATOR).send("POST", &path, "application/json", destination.to_string()).await;
        let errors = reply.json()["errors"].clone();
        let fields: Vec<_> = errors.as_array().into_iter().flatten().filter_map(|error| error["field"].as_str()).collect();
        assert!(reply.status == 422 && fields.contains(&field), "{change}: {} {fields:?}", reply.status);
    }
}
