//! The harness itself: that what the other tests rely on is real.

use std::time::Duration;

use http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use redis::Value;
use tidegate_test_support::gateway::Launch;
use tidegate_test_support::http::{Answer, Receiver, send, try_send};
use tidegate_test_support::otlp::Phoenix;
use tidegate_test_support::redis::{Cluster, Config, Flavor, Fsync, Server};
use tidegate_test_support::{eventually, github, now, standard_webhooks};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_server_killed_under_fsync_comes_back_on_its_port_with_its_data() {
    for flavor in [Flavor::Redis, Flavor::Valkey] {
        let mut server = Server::start(Config::new(flavor, Fsync::Always)).await;
        let port = server.port();
        server.command(&["SET", "kept", "yes"]).await;
        server.kill();
        assert!(server.query(&["PING"]).await.is_err(), "{flavor:?} answers after kill -9");
        server.restart().await;
        assert_eq!(server.port(), port);
        assert_eq!(server.command(&["GET", "kept"]).await, Value::BulkString(b"yes".to_vec()), "{flavor:?}");
        assert_eq!(server.info("maxmemory_policy").await, "noeviction");
    }
}

#[tokio::test]
async fn a_server_without_append_only_file_comes_back_empty() {
    let mut server = Server::start(Config::new(Flavor::Redis, Fsync::Off)).await;
    server.command(&["SET", "kept", "no"]).await;
    server.stop().await;
    server.restart().await;
    assert_eq!(server.command(&["GET", "kept"]).await, Value::Nil);
}

#[tokio::test]
async fn the_flavors_are_what_they_say() {
    let redis = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let valkey = Server::start(Config::new(Flavor::Valkey, Fsync::EverySec)).await;
    assert!(redis.query(&["INFO", "server"]).await.is_ok_and(|info| !format!("{info:?}").contains("valkey_version")));
    assert!(!valkey.info("valkey_version").await.is_empty());
    assert_eq!(redis.info("aof_enabled").await, "1");
}

/// As the takeover of a cluster's only node may, which is written to the disk first.
#[tokio::test]
async fn a_command_may_take_longer_than_a_moment() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    assert_eq!(server.command(&["BLPOP", "nothing", "1"]).await, Value::Nil);
}

#[tokio::test]
async fn a_paused_server_answers_only_after_it_is_resumed() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::Off)).await;
    server.pause();
    let ping = server.query(&["PING"]);
    tokio::pin!(ping);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut ping).await.is_err(), "a frozen server answered");
    server.resume();
    assert!(ping.await.is_ok());
}

#[tokio::test]
async fn a_replica_follows_its_primary() {
    let primary = Server::start(Config::new(Flavor::Redis, Fsync::Off)).await;
    let replica = Server::start(Config::new(Flavor::Redis, Fsync::Off).replica_of(&primary)).await;
    eventually("the link is up", SOON, async || (replica.info("master_link_status").await == "up").then_some(())).await;
    assert_eq!(replica.info("role").await, "slave");
}

#[tokio::test]
async fn a_cluster_serves_each_slot_on_one_node() {
    let mut cluster = Cluster::start(Config::new(Flavor::Valkey, Fsync::Off), 3).await;
    let mut moved = 0;
    for node in cluster.nodes() {
        if let Err(error) = node.query(&["SET", "{shard}:key", "value"]).await {
            assert_eq!(error.code(), Some("MOVED"));
            moved += 1;
        }
    }
    assert_eq!(moved, 2);
}

#[tokio::test]
async fn a_server_ends_with_its_value() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::Off)).await;
    let process = format!("/proc/{}/cmdline", server.pid());
    let running = || std::fs::read_to_string(&process).is_ok_and(|line| line.contains("redis"));
    assert!(running());
    drop(server);
    assert!(!running());
}

#[tokio::test]
async fn the_receiver_keeps_requests_byte_for_byte_and_answers_in_turn() {
    let receiver = Receiver::start().await;
    receiver.answer_in_turn([Answer::status(503).header("retry-after", "7"), Answer::status(410)], Answer::status(204));
    let headers = [("webhook-id", "msg_1"), ("x-twice", "a"), ("x-twice", "b")];
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(send("POST", &receiver.url("/a/b?c=%20d"), &headers, &b"\x00\xff\n"[..]).await.status);
    }
    assert_eq!(statuses, [503, 410, 204, 204]);
    let requests = receiver.wait_for(4, SOON).await;
    let first = &requests[0];
    assert_eq!((first.method.as_str(), first.target.as_str(), first.webhook_id()), ("POST", "/a/b?c=%20d", Some("msg_1")));
    assert_eq!(first.headers.get_all("x-twice").iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(&first.body[..], b"\x00\xff\n");
    assert_eq!(requests[3].number, 3);
    assert!(first.at <= now());
}

#[tokio::test]
async fn the_receiver_hangs_disconnects_drips_floods_and_delays() {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::hang());
    let url = receiver.url("/");
    let hanging = send("GET", &url, &[], "");
    tokio::pin!(hanging);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut hanging).await.is_err());
    assert_eq!(receiver.count(), 1);

    receiver.answer(Answer::disconnect());
    assert!(try_send("GET", &url, &[], "").await.is_err());

    receiver.answer(Answer::status(200).dripping(Duration::from_millis(5), "slowly"));
    assert_eq!(send("GET", &url, &[], "").await.body, "slowly");

    receiver.answer(Answer::status(200).flooding(3_000_001));
    assert_eq!(send("GET", &url, &[], "").await.body.len(), 3_000_001);

    receiver.answer(Answer::redirect("http://169.254.169.254/").after(Duration::from_millis(50)));
    let started = now();
    let reply = send("GET", &url, &[], "").await;
    assert_eq!((reply.status, reply.header("location")), (302, Some("http://169.254.169.254/")));
    assert!(now().duration_since(started).is_ok_and(|took| took >= Duration::from_millis(50)));
}

#[tokio::test]
async fn waiting_sees_what_arrives_later() {
    let receiver = Receiver::start().await;
    let url = receiver.url("/late");
    let (requests, _) =
        tokio::join!(receiver.wait_until(SOON, |all| all.iter().any(|one| one.target == "/late")), send("GET", &url, &[], ""));
    assert_eq!(requests.len(), 1);
}

#[tokio::test]
async fn a_launch_runs_the_program_beside_its_configuration() {
    let launch = Launch::new("/bin/sh").config("ingest.max_body = \"2MiB\"\n[egress]\nallow = []").environment("GIVEN", "value");
    let finished = launch.run(&["-c", "cat tidegate.toml; echo $GIVEN; exit 3"]).await;
    assert_eq!(finished.status.code(), Some(3));
    for part in [&launch.ingest_address(), &launch.admin_address(), "max_body = \"2MiB\"", "allow = []", "value"] {
        assert!(finished.output.contains(part), "{part} is not in {}", finished.output);
    }
    assert_ne!(launch.ingest_address(), launch.admin_address());
}

#[test]
fn githubs_library_signs_like_githubs_documentation_says() {
    // The values with which GitHub's documentation on validating deliveries lets a reader check an implementation.
    let signature = github::sign("It's a Secret to Everybody", b"Hello, World!");
    assert_eq!(signature, "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17");
}

#[test]
fn githubs_payloads_are_json_of_their_kind() {
    for payload in github::ALL {
        let json: serde_json::Value = serde_json::from_slice(payload.body).expect("JSON");
        let (event, action) = payload.name.trim_end_matches(".json").split_once('.').unwrap_or((payload.event, ""));
        assert_eq!(event, payload.event);
        if event != "push" {
            assert_eq!(json["action"].as_str().unwrap_or(""), action, "{}", payload.name);
        }
        assert!(json["repository"].is_object() || event == "ping", "{}", payload.name);
    }
}

/// The signature that the specification's libraries share as an example, made afresh: they refuse what is old.
fn signed(secret: &str, body: &str) -> HeaderMap {
    let seconds = i64::try_from(now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()).expect("a time");
    let signature =
        standardwebhooks::Webhook::new(secret).expect("a secret").sign("msg_1", seconds, body.as_bytes()).expect("a signature");
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", "msg_1".parse().expect("a value"));
    headers.insert("webhook-timestamp", seconds.to_string().parse().expect("a value"));
    headers.insert("webhook-signature", signature.parse().expect("a value"));
    headers
}

#[test]
fn the_official_libraries_take_a_right_signature_and_refuse_a_wrong_one() {
    let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let body = r#"{"email":"test@example.com","username":"test_user"}"#;
    let headers = signed(secret, body);
    for verify in [standard_webhooks::verify_rust, standard_webhooks::verify_python, standard_webhooks::verify_node] {
        assert_eq!(verify(secret, &headers, body.as_bytes()), Ok(()));
        assert!(verify(secret, &headers, b"{}").is_err());
        assert!(verify("whsec_AAAAsBQIhrscChlQIMV+b5sSYspob7oD", &headers, body.as_bytes()).is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn phoenix_takes_traces_by_http_and_grpc_and_gives_them_back() {
    let phoenix = Phoenix::start().await;
    assert!(phoenix.spans("00000000000000000000000000000001").await.is_empty());
    let http = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", phoenix.otlp_http()))
        .build()
        .expect("an exporter");
    let grpc = SpanExporter::builder().with_tonic().with_endpoint(phoenix.otlp_grpc()).build().expect("an exporter");
    for exporter in [http, grpc] {
        // Exports on this thread, which the runtime knows; a batch exporter's own thread would not do for the HTTP client.
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter).build();
        let tracer = provider.tracer("support");
        let trace_id = tracer.in_span("accept", |context| {
            context.span().set_attribute(KeyValue::new("tidegate.fuel", 1234));
            tracer.start("attempt").end();
            context.span().span_context().trace_id().to_string()
        });
        provider.shutdown().expect("the exporter ends");
        let spans = phoenix.wait_for_spans(&trace_id, SOON, |spans| spans.len() == 2).await;
        assert_eq!(spans[0].name, "accept");
        assert_eq!(spans[0].attributes["tidegate.fuel"], 1234);
        assert_eq!(spans[1].parent_id.as_ref(), Some(&spans[0].context.span_id));
        assert_eq!(spans[1].context.trace_id, trace_id);
    }
}
