//! Redis, NATS, RabbitMQ and Kafka.

use serde_json::json;
use tidegate_test_support::brokers::kafka::{Kafka, TOPIC};
use tidegate_test_support::brokers::nats::Nats;
use tidegate_test_support::brokers::rabbitmq::RabbitMq;
use tidegate_test_support::brokers::{PASSWORD, Stored, USER};
use tidegate_test_support::peers::NodeServer;
use tidegate_test_support::redis::{self, Config, Flavor, Fsync};

use super::*;

/// A stream of a Redis server.
struct Stream(redis::Server);

impl Server for Stream {
    async fn stored(&self) -> Vec<Stored> {
        let read = self.0.command(&["XRANGE", "hooks", "-", "+"]).await;
        let entries: Vec<(String, Vec<(String, String)>)> = ::redis::from_redis_value(read).unwrap();
        let stored = |(_, fields): (String, Vec<(String, String)>)| {
            let body = fields.iter().find(|(name, _)| name == "body").unwrap().1.clone().into_bytes();
            Stored { headers: fields, body }
        };
        entries.into_iter().map(stored).collect()
    }

    fn kill(&mut self) {
        self.0.kill();
    }

    async fn restart(&mut self) {
        self.0.restart().await;
    }

    fn pause(&self) {
        self.0.pause();
    }

    fn resume(&self) {
        self.0.resume();
    }

    fn id(stored: &Stored) -> &str {
        stored.header("id").unwrap()
    }
}

impl Stream {
    /// Tests look at it without a password; the gateway needs its user.
    async fn start(flavor: Flavor) -> Self {
        let user = format!("{USER} on >{PASSWORD} ~hooks ~text +xadd +select");
        Self(redis::Server::start(Config::new(flavor, Fsync::Always).with("user", &user)).await)
    }

    async fn kind(&self) -> Kind {
        let stream = json!({"stream": "hooks", "max_length": 10_000});
        let url = self.0.url();
        Kind::start(json!({"kind": "redis_stream", "url": url, "redis_stream": stream, "auth": user()})).await
    }
}

#[tokio::test]
async fn a_delivery_is_an_entry_of_a_redis_stream() {
    for flavor in [Flavor::Redis, Flavor::Valkey] {
        let mut server = Stream::start(flavor).await;
        let kind = server.kind().await;
        let event = kind.post(BODY).await;
        let delivery = kind.delivered(&event).await;
        let [entry] = &server.stored().await[..] else { panic!("one entry") };
        assert_eq!(entry.body, BODY.as_bytes());
        assert_eq!((entry.header("id"), entry.header("event")), (delivery["id"].as_str(), Some(&*event)));
        assert_eq!(entry.header("header.content-type"), Some("application/json"));
        assert_eq!(entry.header("header.webhook-id"), delivery["id"].as_str());
        let many: Vec<_> = entry.headers.iter().filter(|(name, _)| name == "header.x-kind").map(|(_, value)| value).collect();
        assert_eq!(many, ["first", "second"]);
        // The entry's id is what the server acknowledged.
        let acknowledged = delivery["attempts"][0]["response"].as_str().unwrap();
        let read = server.0.command(&["XRANGE", "hooks", acknowledged, acknowledged]).await;
        assert_eq!(::redis::from_redis_value::<Vec<::redis::Value>>(read).unwrap().len(), 1);
        credentials_are_told_apart(&kind).await;
        an_attempt_ends_while_it_hangs(&kind, &server).await;
        nothing_is_lost_while_it_is_down(&kind, &mut server).await;
    }
}

#[tokio::test]
async fn what_redis_refuses_says_why() {
    let server = Stream::start(Flavor::Redis).await;
    let kind = server.kind().await;
    server.0.command(&["SET", "text", "no stream"]).await;
    kind.patch(json!({"redis_stream": {"stream": "text"}})).await;
    let event = kind.post("a").await;
    let failure = kind.failed(&event, "broker_refused").await["failure"].clone();
    assert!(failure["detail"].as_str().unwrap().contains("WRONGTYPE"), "{failure}");
    server.0.command(&["DEL", "text"]).await;
    kind.delivered(&event).await;
    server.0.command(&["CONFIG", "SET", "proto-max-bulk-len", "1mb"]).await;
    let large = kind.post(vec![b'a'; 3_000_000]).await;
    let large = kind.world.api.settled(&large, SOON).await;
    assert_eq!(
        (&large["state"], &large["deliveries"][0]["failure"]["code"]),
        (&json!("dead_lettered"), &json!("message_too_large"))
    );
    let small = kind.post("b").await;
    kind.delivered(&small).await;
}

/// Where the operator's proxy is the only way out, it is the way to brokers too.
#[tokio::test]
async fn brokers_are_reached_through_the_operators_proxy() {
    let (stream, nats, kafka) = (Stream::start(Flavor::Redis).await, Nats::start("").await, Kafka::start().await);
    nats.create_stream("HOOKS", "hooks.>", json!({})).await;
    let redis = json!({"kind": "redis_stream", "url": stream.0.url(), "redis_stream": {"stream": "hooks"}, "auth": user()});
    let nats_url = format!("nats://127.0.0.1:{}", nats.port());
    let of_nats = json!({"kind": "nats", "url": nats_url, "nats": {"subject": "hooks.acme"}, "auth": user()});
    let of_kafka = json!({"kind": "kafka", "url": format!("kafka://{}", kafka.address()), "kafka": {"topic": TOPIC}});
    let places = [stream.0.port().to_string(), nats.port().to_string(), kafka.address().rsplit_once(':').unwrap().1.to_owned()];
    for (destination, port) in [redis, of_nats, of_kafka].into_iter().zip(places) {
        let proxy = NodeServer::proxy("operator", "s3cr3t").await;
        let url = format!("http://operator:s3cr3t@127.0.0.1:{}", proxy.port());
        let world = World::with(EMBEDDED, |launch| launch.environment("HTTPS_PROXY", &url), "").await;
        let kind = Kind::of(world, destination.clone()).await;
        let event = kind.post(BODY).await;
        kind.delivered(&event).await;
        assert!(proxy.count(&format!("tunnel 127.0.0.1:{port}")) > 0, "the proxy was asked for {port}");
        drop(kind);

        let wrong = format!("http://operator:wrong@127.0.0.1:{}", proxy.port());
        let world = World::with(EMBEDDED, |launch| launch.environment("HTTPS_PROXY", &wrong), "").await;
        let kind = Kind::of(world, destination).await;
        let event = kind.post(BODY).await;
        kind.failed(&event, "proxy_failed").await;
    }
}

impl Server for Nats {
    async fn stored(&self) -> Vec<Stored> {
        self.messages("HOOKS").await
    }

    fn kill(&mut self) {
        self.kill();
    }

    async fn restart(&mut self) {
        self.restart().await;
    }

    fn pause(&self) {
        self.pause();
    }

    fn resume(&self) {
        self.resume();
    }

    fn id(stored: &Stored) -> &str {
        stored.header("Nats-Msg-Id").unwrap()
    }
}

async fn of_nats(server: &Nats) -> Kind {
    let url = format!("nats://127.0.0.1:{}", server.port());
    Kind::start(json!({"kind": "nats", "url": url, "nats": {"subject": "hooks.acme"}, "auth": user()})).await
}

#[tokio::test]
async fn a_delivery_is_a_message_of_a_jetstream_stream() {
    let mut server = Nats::start("").await;
    server.create_stream("HOOKS", "hooks.>", json!({})).await;
    let kind = of_nats(&server).await;
    let event = kind.post(BODY).await;
    let delivery = kind.delivered(&event).await;
    let [message] = &server.stored().await[..] else { panic!("one message") };
    assert_eq!(message.body, BODY.as_bytes());
    assert_eq!((message.header("Nats-Msg-Id"), message.header("tidegate-event")), (delivery["id"].as_str(), Some(&*event)));
    assert_eq!(message.header("content-type"), Some("application/json"));
    assert_eq!(message.header("webhook-id"), delivery["id"].as_str());
    let many: Vec<_> = message.headers.iter().filter(|(name, _)| name == "x-kind").map(|(_, value)| value).collect();
    assert_eq!(many, ["first", "second"]);
    assert_eq!((message.header("nats-rollup"), message.header("nats-msg-id")), (None, None));
    let acknowledged: Value = serde_json::from_str(delivery["attempts"][0]["response"].as_str().unwrap()).unwrap();
    assert_eq!((&acknowledged["stream"], &acknowledged["seq"]), (&json!("HOOKS"), &json!(1)));
    credentials_are_told_apart(&kind).await;
    an_attempt_ends_while_it_hangs(&kind, &server).await;
    nothing_is_lost_while_it_is_down(&kind, &mut server).await;
}

#[tokio::test]
async fn what_nats_does_not_take_says_why() {
    let server = Nats::start("max_payload: 100000").await;
    let kind = of_nats(&server).await;
    let event = kind.post("nobody listens").await;
    kind.failed(&event, "stream_missing").await;
    server.create_stream("HOOKS", "hooks.>", json!({"max_msg_size": 50_000})).await;
    kind.delivered(&event).await;
    // One is over the server's limit, which it tells beforehand, one over the stream's, which its answer tells.
    for size in [150_000, 60_000] {
        let large = kind.post(vec![b'a'; size]).await;
        let large = kind.world.api.settled(&large, SOON).await;
        let reason = &large["deliveries"][0]["failure"];
        assert_eq!((&large["state"], &reason["code"]), (&json!("dead_lettered"), &json!("message_too_large")), "{reason}");
    }
    kind.patch(json!({"nats": {"subject": "hooks.acme", "stream": "OTHER"}})).await;
    let other = kind.post("to another").await;
    kind.failed(&other, "broker_refused").await;
    kind.patch(json!({"nats": {"stream": "HOOKS"}})).await;
    kind.delivered(&other).await;
}

impl Server for RabbitMq {
    async fn stored(&self) -> Vec<Stored> {
        self.messages("hooks").await
    }

    fn kill(&mut self) {
        self.kill();
    }

    async fn restart(&mut self) {
        self.restart().await;
    }

    fn pause(&self) {
        self.pause();
    }

    fn resume(&self) {
        self.resume();
    }

    fn id(stored: &Stored) -> &str {
        stored.header("message_id").unwrap()
    }
}

#[tokio::test]
async fn a_delivery_is_a_confirmed_message_of_rabbitmq() {
    let mut server = RabbitMq::start("max_message_size = 1000000").await;
    server.create_queue("hooks").await;
    server.create_exchange("events", "acme.#", "hooks").await;
    let url = format!("amqp://127.0.0.1:{}", server.port());
    let amqp = json!({"exchange": "events", "routing_key": "acme.in"});
    let kind = Kind::start(json!({"kind": "amqp", "url": url, "amqp": amqp, "auth": user()})).await;
    let event = kind.post(BODY).await;
    let delivery = kind.delivered(&event).await;
    let [message] = &server.stored().await[..] else { panic!("one message") };
    assert_eq!(message.body, BODY.as_bytes());
    assert_eq!((message.header("message_id"), message.header("tidegate-event")), (delivery["id"].as_str(), Some(&*event)));
    assert_eq!((message.header("content_type"), message.header("delivery_mode")), (Some("application/json"), Some("2")));
    assert_eq!((message.header("x-kind"), message.header("cc")), (Some("first, second"), None));
    assert_eq!(message.header("webhook-id"), delivery["id"].as_str());
    // More than a frame, and more than two.
    let long = "x".repeat(300_000);
    let event = kind.post(long.clone()).await;
    kind.delivered(&event).await;
    assert_eq!(server.stored().await[1].body.len(), long.len());

    kind.patch(json!({"amqp": {"routing_key": "nobody.s"}})).await;
    let lost = kind.post("to no queue").await;
    let failure = kind.failed(&lost, "unroutable").await["failure"].clone();
    assert!(failure["detail"].as_str().unwrap().contains("nobody.s"), "{failure}");
    kind.patch(json!({"amqp": {"exchange": "missing"}})).await;
    kind.failed(&lost, "broker_refused").await;
    kind.patch(json!({"amqp": {"exchange": "", "routing_key": "hooks"}})).await;
    kind.delivered(&lost).await;
    let large = kind.post(vec![b'a'; 1_500_000]).await;
    let large = kind.world.api.settled(&large, SOON).await;
    let reason = &large["deliveries"][0]["failure"];
    assert_eq!((&large["state"], &reason["code"]), (&json!("dead_lettered"), &json!("message_too_large")), "{reason}");

    credentials_are_told_apart(&kind).await;
    an_attempt_ends_while_it_hangs(&kind, &server).await;
    nothing_is_lost_while_it_is_down(&kind, &mut server).await;
}

/// What was published to it when it was short lies in its sockets, and comes to light when it is well again: once, however often it was tried.
#[tokio::test]
async fn a_rabbitmq_that_is_short_of_memory_gets_no_copies() {
    let server = RabbitMq::start("").await;
    server.create_queue("hooks").await;
    let url = format!("amqp://127.0.0.1:{}", server.port());
    let destination = json!({"kind": "amqp", "url": url, "amqp": {"routing_key": "hooks"}, "auth": user()});
    // Connections are closed soon where nothing is owed on them.
    let kind = Kind::with(destination, "egress.idle_timeout = \"1s\"").await;
    let mut events = vec![kind.post("before").await];
    kind.delivered(&events[0]).await;
    server.is_short_of_memory(true);
    let blocked = async |event: &str| {
        let shown = kind.world.api.event(event).await;
        let attempts = shown["deliveries"][0]["attempts"].as_array().cloned().unwrap_or_default();
        attempts.iter().filter(|attempt| attempt["failure"]["code"] == "broker_blocked").count()
    };
    // The first that is published finds it out; it may be taken all the same.
    events.push(kind.post("first").await);
    eventually("it says that it takes no more", SOON, async || {
        let is_delivered = kind.world.api.event(&events[1]).await["state"] == "delivered";
        (is_delivered || blocked(&events[1]).await > 0).then_some(())
    })
    .await;
    for number in 0..4 {
        events.push(kind.post(format!("{number}")).await);
    }
    eventually("the last is tried again and again", SOON, async || (blocked(&events[5]).await >= 6).then_some(())).await;
    server.is_short_of_memory(false);
    for event in &events {
        kind.delivered(event).await;
    }
    let bodies: Vec<_> = server.messages("hooks").await.into_iter().map(|message| message.body).collect();
    assert_eq!(bodies.len(), events.len(), "{bodies:?}");
}

/// Many are under way on several connections when it becomes short, and while it is: each is published once.
#[tokio::test]
async fn a_rabbitmq_that_is_short_of_memory_under_load_gets_no_copies() {
    const EVENTS: usize = 120;
    let server = RabbitMq::start("").await;
    server.create_queue("hooks").await;
    let url = format!("amqp://127.0.0.1:{}", server.port());
    let retry = json!({"base": "20ms", "max_delay": "1s", "jitter": "none", "max_attempts": 50});
    let destination =
        json!({"kind": "amqp", "url": url, "amqp": {"routing_key": "hooks"}, "auth": user(), "in_flight": 16, "retry": retry});
    let kind = Kind::with(destination, "egress.idle_timeout = \"1s\"").await;
    let post = async |number: usize| kind.post(number.to_string()).await;
    let mut events = futures_util::future::join_all((0..EVENTS / 2).map(post)).await;
    server.is_short_of_memory(true);
    events.extend(futures_util::future::join_all((EVENTS / 2..EVENTS).map(post)).await);
    for event in &events[EVENTS - 5..] {
        eventually("the last are tried again and again", SOON, async || {
            let shown = kind.world.api.event(event).await;
            let attempts = shown["deliveries"][0]["attempts"].as_array().map_or(0, Vec::len);
            (attempts >= 6).then_some(())
        })
        .await;
    }
    server.is_short_of_memory(false);
    for event in &events {
        kind.delivered(event).await;
    }
    let mut bodies: Vec<_> = server.messages("hooks").await.into_iter().map(|message| message.body).collect();
    bodies.sort();
    let count = bodies.len();
    bodies.dedup();
    assert_eq!((count, bodies.len()), (EVENTS, EVENTS), "copies arrived");
}

#[tokio::test]
async fn a_delivery_is_a_record_of_a_kafka_topic() {
    let mut server = Kafka::start().await;
    let url = |server: &Kafka| format!("kafka://{}", server.address());
    let kind = Kind::start(json!({"kind": "kafka", "url": url(&server), "kafka": {"topic": TOPIC}})).await;
    let event = kind.post(BODY).await;
    let delivery = kind.delivered(&event).await;
    let [record] = &server.messages()[..] else { panic!("one record") };
    assert_eq!(record.body, BODY.as_bytes());
    assert_eq!((record.header("key"), record.header("tidegate-event")), (delivery["id"].as_str(), Some(&*event)));
    assert_eq!(record.header("content-type"), Some("application/json"));
    assert_eq!(record.header("webhook-id"), delivery["id"].as_str());
    let many: Vec<_> = record.headers.iter().filter(|(name, _)| name == "x-kind").map(|(_, value)| value).collect();
    assert_eq!(many, ["first", "second"]);
    let acknowledged: Value = serde_json::from_str(delivery["attempts"][0]["response"].as_str().unwrap()).unwrap();
    assert_eq!(acknowledged["offset"], 0);

    // Many at once have connections to both servers, and each record is whole.
    let mut events = Vec::new();
    for number in 0..40 {
        events.push(kind.post("x".repeat(number * 1000)).await);
    }
    let mut ids = BTreeSet::new();
    for event in &events {
        ids.insert(text(&kind.delivered(event).await["id"]));
    }
    let stored = server.messages();
    let found: BTreeSet<String> = stored.iter().filter_map(|record| record.header("key")).map(str::to_owned).collect();
    assert!(ids.is_subset(&found), "{ids:?} and {found:?}");
    let sizes: BTreeSet<usize> = stored.iter().map(|record| record.body.len()).collect();
    assert!((0..40).all(|number| sizes.contains(&(number * 1000))), "{sizes:?}");

    kind.patch(json!({"kafka": {"topic": "missing"}})).await;
    let lost = kind.post("to no topic").await;
    kind.failed(&lost, "topic_missing").await;
    kind.patch(json!({"kafka": {"topic": TOPIC}, "timeout": "1s"})).await;
    kind.delivered(&lost).await;

    let first = kind.post("with a connection").await;
    kind.delivered(&first).await;
    server.pause();
    let event = kind.post("into the void").await;
    kind.failed(&event, "response_timeout").await;
    server.resume();
    kind.delivered(&event).await;

    // What came while there was none is in the cluster that comes then.
    server.kill();
    let waiting = kind.post("while it is away").await;
    kind.failed(&waiting, "connect_refused").await;
    let server = Kafka::start().await;
    kind.patch(json!({"url": url(&server)})).await;
    let id = text(&kind.delivered(&waiting).await["id"]);
    assert!(server.messages().iter().any(|record| record.header("key") == Some(&id)));
}
